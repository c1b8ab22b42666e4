# smile-pipe for machines without a GPU: the zbuffer renderer and training on CPUs.
#   docker build -f docker/cpu.Dockerfile -t smile-pipe:0.1.0-cpu .
FROM python:3.11.12-slim-bookworm

# torch.compile compiles C++ when it runs.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++=4:12.2.0-3 \
    && rm -rf /var/lib/apt/lists/*

# The wheels of PyPI bring 4 GB of CUDA libraries; those of this index bring none.
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu torch==2.15.0 torchvision==0.29.2

LABEL org.opencontainers.image.title="smile-pipe" \
      org.opencontainers.image.description="Multiview rendering, training and evaluation for 3D and 4D faces, on CPUs" \
      org.opencontainers.image.version="0.1.0"

# Dependencies come first: a change of the code keeps this layer. ray[default] contains the job server for
# `ray job submit` and KubeRay.
WORKDIR /src
COPY pyproject.toml README.md docker/constraints.txt ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; e = p['optional-dependencies']; print(*p['dependencies'], *e['app'], *e['s3'], sep='\n')" > requirements.txt \
    && pip install --no-cache-dir --constraint constraints.txt --requirement requirements.txt 'ray[default]'
COPY cli cli
COPY model model
COPY pipeline pipeline
COPY shards shards
RUN pip install --no-cache-dir --no-deps .

RUN useradd --uid 1000 --create-home smile && install -d -o 1000 -g 1000 /data
USER 1000
WORKDIR /data
CMD ["smile-pipe", "--help"]
