# Set-up is a side effect of every target: a fresh machine needs Python >= 3.11, make and git, nothing else.
PYTHON ?= python3
GAME ?= KungFuMaster
PRESET ?= cpu
# Enough to see it learn within an hour; the whole preset is 60.
EPOCHS ?= $(if $(filter cpu,$(PRESET)),45)
SEED ?= 0
DEVICE ?= two-cores
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

KERNELS := $(wildcard tokendream/kernels/cpu/*.cpp tokendream/kernels/cpu/*.h)
TORTURES := $(addprefix tests/test_,exact_resume.py faults.py hostile_files.py agent_file.py mutated_files.py any_config.py long_runs.py slurm.py)
TRAIN_FLAGS := $(PRESET) --env $(GAME) --seed $(SEED) $(if $(EPOCHS),--epochs $(EPOCHS)) $(ARGS)

.PHONY: help train demo test test-fast wheel torture lint format bench speed gpu-bench evidence presets controls clean distclean

help:  ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

train: $(READY)  ## Train a real Atari game, evaluate it, write its report (GAME= PRESET= EPOCHS= SEED= ARGS=)
	$(BIN)/tokendream train $(TRAIN_FLAGS)

demo: $(READY)  ## Play with a trained agent in a browser: its game and its dream side by side (ARGS=)
	$(BIN)/tokendream play --demo $(ARGS)

test: $(READY)  ## Run the whole test suite
	$(BIN)/python -m pytest -n 3 --dist worksteal --durations 25

test-fast: $(READY)  ## Run the tests that take seconds
	$(BIN)/python -m pytest -n 2 -m "not slow"

lint: $(READY)  ## Style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(KERNELS)
	$(BIN)/mypy

wheel: $(READY)  ## Build the wheel, install it by itself, train and play with it outside the clone
	scripts/check_wheel.sh $(BIN)/python

torture: $(READY)  ## Break runs on purpose, in full, and write the table of docs/trust.md (longer where there is SLURM)
	TORTURE=1 $(BIN)/python -m pytest -n 2 --dist worksteal $(TORTURES)

format: $(READY)  ## Rewrite the code in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(KERNELS)

bench: $(READY)  ## Time every phase as a run on this machine would do it (ARGS=)
	$(BIN)/tokendream bench $(ARGS)

speed: $(READY)  ## Time every phase and how cost grows, and write the figures of docs/speed.md (ARGS=)
	$(BIN)/python -m benchmarks speed --out docs/speed-KIND.json --page docs/speed.md $(ARGS)
	$(BIN)/python -m benchmarks sweeps --out docs/speed-sweeps-KIND.json --page docs/speed.md $(ARGS)

# Where Python has what is needed and nothing can be installed: make gpu-bench GPU_PYTHON=python3
GPU_PYTHON ?= $(BIN)/python
gpu-bench: $(if $(filter $(BIN)/python,$(GPU_PYTHON)),$(READY))  ## Tests, phases and one epoch on a GPU, in at most 8 minutes (ARGS= GPU_PYTHON=)
	$(GPU_PYTHON) -m benchmarks gpu $(ARGS)

evidence: $(READY)  ## Train, evaluate and diagnose one cell of the evidence, into results/ (GAME= SEED= PRESET= EPOCHS= DEVICE=)
	$(BIN)/python scripts/evidence.py cell $(PRESET) $(GAME) $(SEED) $(DEVICE) $(if $(filter-out file,$(origin EPOCHS)),--epochs $(EPOCHS))

presets: $(READY)  ## Time every preset on this machine, which must be idle, and write docs/presets.md
	$(BIN)/python scripts/presets_page.py

controls: $(READY)  ## Train Catch with one link cut, every link and three seeds (DEVICE=)
	$(BIN)/python scripts/evidence.py controls $(DEVICE)

clean:  ## Remove caches and build leftovers; runs stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean  ## Also remove the virtual environment
	rm -rf $(VENV)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python >= 3.11 is needed (PYTHON=...)"; exit 1; }
	@echo "Setting up $(VENV) (about a minute, once)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@
