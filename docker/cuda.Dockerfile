# smile-pipe for NVIDIA GPUs: the environment of environment.yml.
#   docker build -f docker/cuda.Dockerfile -t smile-pipe:0.1.0-cuda .
FROM mambaorg/micromamba:2.5.0 AS build

# No driver is present during the build, and conda chooses CUDA builds only if it finds one.
ENV CONDA_OVERRIDE_CUDA=12.9

# The user of this image may write here.
RUN mkdir --parents /opt/conda/smile-pipe/docker
WORKDIR /opt/conda/smile-pipe
COPY --chown=$MAMBA_USER:$MAMBA_USER pyproject.toml README.md ./
COPY --chown=$MAMBA_USER:$MAMBA_USER docker/constraints.txt docker/environment.yml docker/
COPY --chown=$MAMBA_USER:$MAMBA_USER cli cli
COPY --chown=$MAMBA_USER:$MAMBA_USER model model
COPY --chown=$MAMBA_USER:$MAMBA_USER pipeline pipeline
COPY --chown=$MAMBA_USER:$MAMBA_USER shards shards
# The last line checks that pip kept the PyTorch of conda-forge.
RUN micromamba create --yes --prefix /opt/conda/envs/smile --file docker/environment.yml --strict-channel-priority \
    && micromamba clean --all --yes \
    && /opt/conda/envs/smile/bin/python -c 'import pytorch3d, torch; assert torch.version.cuda == "12.9"'

# This base image only has to support the driver.
FROM nvidia/cuda:12.9.0-base-ubuntu24.04

LABEL org.opencontainers.image.title="smile-pipe" \
      org.opencontainers.image.description="Multiview rendering, training and evaluation for 3D and 4D faces, on NVIDIA GPUs" \
      org.opencontainers.image.version="0.1.0"

# The same paths as in the build: scripts contain the path of their interpreter, and smile-pipe is installed as a link
# to its source.
COPY --from=build /opt/conda/envs/smile /opt/conda/envs/smile
COPY --from=build /opt/conda/smile-pipe /opt/conda/smile-pipe
ENV PATH=/opt/conda/envs/smile/bin:$PATH

# 1000 is also Ubuntu's default user, so files on a shared volume have the same owner in both images.
RUN install -d -o 1000 -g 1000 /data
USER 1000
WORKDIR /data
CMD ["smile-pipe", "--help"]
