# Never built: no Docker daemon was at hand. What it runs was run without it (tests/test_installed.py).
#   docker build --tag a2tgpo .
#   docker run --rm --volume "$PWD/logs:/runs/logs" a2tgpo experiment=a2tgpo
# With a GPU: docker run --gpus all … trainer=gpu. For the CPU alone: --build-arg TORCH_INDEX=…, an index of CPU wheels.
FROM python:3.11-slim
ARG TORCH_INDEX=
WORKDIR /project
COPY constraints.txt ./
RUN pip install --no-cache-dir --constraint constraints.txt ${TORCH_INDEX:+--index-url $TORCH_INDEX} torch
COPY pyproject.toml setup.py README.md LICENSE ./
COPY src src
COPY configs configs
RUN pip install --no-cache-dir --constraint constraints.txt .
WORKDIR /runs
ENTRYPOINT ["a2tgpo-train"]
