# smile-pipe for machines without a GPU: the zbuffer renderer and training on CPUs.
#   docker build -f docker/cpu.Dockerfile -t smile-pipe:0.1.0-cpu .
FROM python:3.11.12-slim-bookworm

# torch.compile compiles C++ when it runs.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++=4:12.2.0-3 \
    && rm -rf /var/lib/apt/lists/*

# The wheels of PyPI bring 4 GB of CUDA libraries; those of this index bring none.
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu torch==2.15.0 torchvision==0.29.2

# ray[default] contains the job server for `ray job submit` and KubeRay.
WORKDIR /src
COPY pyproject.toml README.md docker/constraints.txt ./
COPY cli cli
COPY model model
COPY pipeline pipeline
COPY shards shards
RUN pip install --no-cache-dir --constraint constraints.txt '.[s3]' 'ray[default]'

RUN useradd --uid 1000 --create-home smile && install -d -o 1000 -g 1000 /data
USER 1000
WORKDIR /data
CMD ["smile-pipe", "--help"]
