#!/usr/bin/env bash
# Serve a model folder or hub id for data/engine=vllm: scripts/serve_policy.sh MODEL [further options of vLLM …]
# VLLM_PYTHON names the Python that has vLLM; the one of scripts/setup_vllm.sh otherwise.
set -euo pipefail

model=${1:?usage: scripts/serve_policy.sh MODEL [options of vLLM …]}
shift
python=${VLLM_PYTHON:-"$(dirname "$0")/../.venv-vllm/bin/python"}

# New weights come over HTTP: whoever reaches the port can load some, so it listens on loopback unless told otherwise.
export VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 VLLM_SERVER_DEV_MODE=1
exec "$python" -m vllm.entrypoints.openai.api_server --host 127.0.0.1 --port 8001 \
  --model "$model" --served-model-name policy --enable-lora --max-loras 2 --max-lora-rank 64 \
  --logprobs-mode processed_logprobs "$@"  # log-probs of the distribution that is drawn from
