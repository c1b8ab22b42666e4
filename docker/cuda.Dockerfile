# smile-pipe for NVIDIA GPUs: the pytorch3d renderer and CUDA training.
#   docker build -f docker/cuda.Dockerfile -t smile-pipe:0.1.0-cuda .
#
# PyPI has no wheel of PyTorch3D for a current Python and PyTorch. conda-forge builds it against its own PyTorch, so
# both come from there, with the CUDA libraries they were built with; the base only has to let the driver in.
FROM mambaorg/micromamba:2.5.0 AS build

# There is no driver while an image is built, and without one CUDA builds are not chosen.
ENV CONDA_OVERRIDE_CUDA=12.9
RUN micromamba create --yes --prefix /opt/conda/envs/smile --channel conda-forge --strict-channel-priority \
        python=3.11 pip=25.3 cuda-version=12.9 'pytorch=2.12.*=cuda129*' 'pytorch3d=0.7.9=cuda129*' \
    && micromamba clean --all --yes

RUN mkdir /tmp/src
WORKDIR /tmp/src
COPY --chown=$MAMBA_USER:$MAMBA_USER pyproject.toml README.md docker/constraints.txt ./
COPY --chown=$MAMBA_USER:$MAMBA_USER cli cli
COPY --chown=$MAMBA_USER:$MAMBA_USER model model
COPY --chown=$MAMBA_USER:$MAMBA_USER pipeline pipeline
COPY --chown=$MAMBA_USER:$MAMBA_USER shards shards
# ray[default] has the job server that `ray job submit` and KubeRay talk to. The last line makes sure that pip was
# content with conda-forge's PyTorch.
RUN /opt/conda/envs/smile/bin/pip install --no-cache-dir --constraint constraints.txt '.[s3]' 'ray[default]' \
    && /opt/conda/envs/smile/bin/python -c 'import pytorch3d, torch; assert torch.version.cuda == "12.9"'

FROM nvidia/cuda:12.9.0-base-ubuntu24.04

# Scripts in it name their interpreter by this path.
COPY --from=build /opt/conda/envs/smile /opt/conda/envs/smile
ENV PATH=/opt/conda/envs/smile/bin:$PATH

# Ubuntu's own user has this number, too: files on a shared volume belong to the same user in both images.
RUN install -d -o 1000 -g 1000 /data
USER 1000
WORKDIR /data
CMD ["smile-pipe", "--help"]
