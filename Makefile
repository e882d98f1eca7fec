# Everything a developer or a new user does here, each in one word. `make` alone lists the words.
#
#   TORCH_INDEX   where pip looks for torch first; give it the URL of the CPU-only builds from PyTorch's own
#                 installation page to spare the download of the CUDA libraries:  make demo TORCH_INDEX=<URL>
#   PYTHON        the Python (3.11 or later) that the virtual environment is made with
#   VENV          where the virtual environment lies

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test check docs fix bench bench-demo lint clean

help:   ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(VENV)/train   ## train a GPT at small and large batches on text that every Python has, and show whether quality held
	$(BIN)/anybatch demo

test: $(VENV)/dev   ## every test that a CPU can run
	$(BIN)/python -m pytest -n 2

check: lint   ## format, lint, types and the quick tests: about a minute
	$(BIN)/python -m pytest -n 2 -q -m "not slow"

lint: $(VENV)/dev   ## format, lint and types only
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy

docs: $(VENV)/dev   ## build the documentation into build/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "open build/site/index.html, or serve it: $(BIN)/python -m mkdocs serve"

fix: $(VENV)/dev   ## format, and mend what the linter can mend
	$(BIN)/ruff format --quiet .
	$(BIN)/ruff check --fix --quiet .

bench: $(VENV)/dev   ## measure: the optimizer step, for docs/performance.md (about 20 minutes, on a quiet machine)
	$(BIN)/python benchmarks/optimizer_step.py

bench-demo: $(VENV)/dev   ## measure: what the demo's page claims, over three seeds (about 20 minutes)
	$(BIN)/python benchmarks/demo_seeds.py

clean:   ## remove the virtual environment and what the tools left; runs stay
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/python: constraints.txt
	@echo "making $(VENV) and installing PyTorch (a download of some hundred megabytes or more)"
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"anybatch needs Python 3.11 or later; $$(command -v $(PYTHON)) is {sys.version.split()[0]}; try: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	@touch $@

$(VENV)/train: $(VENV)/python pyproject.toml setup.py src/anybatch/optim/kernels/cpu.c
	$(PIP) --editable '.[train]'
	@touch $@

# timm wants torchvision, which the tests do not: they load its optimizers' files alone. Triton, which a CUDA build of
# torch brings along, is interpreted in the tests; where there is none for the platform, they leave it out.
$(VENV)/dev: $(VENV)/train
	$(PIP) --editable '.[train,parquet,tensorboard,study,docs,dev]'
	$(PIP) --no-deps timm
	-$(PIP) --no-deps triton
	@touch $@
