# `make train` and `make test` need only python3 (>= 3.11) with venv, and make; `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TIMEOUT := timeout -k 10

.DEFAULT_GOAL := help
.PHONY: help train test test-unit test-mpi lint type format docs ci clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# The machine's own MPI if mpi4py can load it and there is an mpirun for it, else the one from PyPI.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	@$(BIN)/python -m launch run -n 1 --dry-run >/dev/null 2>&1 \
	  || { echo "no usable MPI on this machine: installing MPICH from PyPI"; \
	       $(BIN)/python -m pip install --quiet --editable '.[mpi]'; }
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@

train: $(VENV)/installed ## set up, then train the digit recogniser on 2 ranks
	$(BIN)/python -m launch run -n 2 -- $(ARGS)

test: lint type test-unit test-mpi ## set up, then run every check and test

test-unit: $(VENV)/installed-test ## tests of one process, and those that start their own mpirun
	$(BIN)/python -m pytest tests --ignore tests/mpi

test-mpi: $(VENV)/installed-test ## tests inside mpirun, at 1, 2, 3 and 4 ranks
	for ranks in 1 2 3 4; do \
	  $(TIMEOUT) 300 $(BIN)/python -m tests.mpi $$ranks || exit 1; \
	done

lint: $(VENV)/installed-test ## style, and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

type: $(VENV)/installed-test ## mypy --strict on ddp and launch
	$(BIN)/mypy

format: $(VENV)/installed-test ## rewrite the sources in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
