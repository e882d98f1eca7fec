# anybatch with its command line.
#
#   CPU    docker build --build-arg TORCH_INDEX=<URL of the CPU builds, from PyTorch's installation page> -t anybatch .
#   CUDA   docker build -t anybatch .      PyTorch's default build for Linux; run it with --gpus all
#
#   docker run --rm anybatch doctor
#   docker run --rm -v "$PWD:/work" anybatch train digits-lenet --run runs/digits
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc git libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY . /source
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels /source

FROM python:${PYTHON}-slim
# Triton and torch.compile compile what starts their kernels.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc g++ libc6-dev \
    && rm -rf /var/lib/apt/lists/*
ARG TORCH_INDEX=""
COPY constraints.txt /tmp/
RUN pip install --no-cache-dir --constraint /tmp/constraints.txt ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} torch
COPY --from=build /wheels /wheels
RUN wheel=$(ls /wheels/*.whl) \
    && pip install --no-cache-dir --constraint /tmp/constraints.txt "${wheel}[train,study,parquet,tensorboard]" \
    && rm -r /wheels \
    && useradd --create-home anybatch \
    && mkdir /work && chown anybatch /work
USER anybatch
WORKDIR /work
ENTRYPOINT ["anybatch"]
CMD ["--help"]
