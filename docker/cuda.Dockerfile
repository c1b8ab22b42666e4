# smile-pipe for NVIDIA GPUs: the pytorch3d renderer and CUDA training.
#   docker build -f docker/cuda.Dockerfile -t smile-pipe:0.1.0-cuda .
#
# PyPI has no wheel of PyTorch3D for a current Python and PyTorch. conda-forge builds it with its own PyTorch, so both
# come from there, with their CUDA libraries; the base image only has to support the driver.
FROM mambaorg/micromamba:2.5.0 AS build

# No driver is present during the build, and conda chooses CUDA builds only if it finds one.
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
# ray[default] contains the job server for `ray job submit` and KubeRay. The last line checks that pip kept the
# PyTorch of conda-forge.
RUN /opt/conda/envs/smile/bin/pip install --no-cache-dir --constraint constraints.txt '.[s3]' 'ray[default]' \
    && /opt/conda/envs/smile/bin/python -c 'import pytorch3d, torch; assert torch.version.cuda == "12.9"'

FROM nvidia/cuda:12.9.0-base-ubuntu24.04

# The same path as in the build, because scripts in it contain the path of their interpreter.
COPY --from=build /opt/conda/envs/smile /opt/conda/envs/smile
ENV PATH=/opt/conda/envs/smile/bin:$PATH

# 1000 is also Ubuntu's default user, so files on a shared volume have the same owner in both images.
RUN install -d -o 1000 -g 1000 /data
USER 1000
WORKDIR /data
CMD ["smile-pipe", "--help"]
