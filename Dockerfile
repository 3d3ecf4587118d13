# Never built: no Docker daemon was at hand. What it runs was run without it (tests/test_installed.py).
#   docker build --tag a2tgpo .
#   docker run --rm --volume "$PWD/logs:/work/logs" a2tgpo experiment=a2tgpo
# With a GPU: --build-arg TORCH_INDEX=https://pypi.org/simple, and docker run --gpus all … trainer=gpu
FROM python:3.11-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /project
COPY constraints.txt ./
RUN pip install --no-cache-dir --constraint constraints.txt --index-url $TORCH_INDEX torch
COPY pyproject.toml setup.py README.md LICENSE ./
COPY src src
COPY configs configs
RUN pip install --no-cache-dir --constraint constraints.txt .
WORKDIR /work
ENTRYPOINT ["a2tgpo-train"]
