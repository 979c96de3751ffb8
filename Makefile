# Every target sets up what it needs in $(VENV), once: a stamp file says that it is there, and a change of
# pyproject.toml or constraints.txt makes it stale. Nothing has to be installed by hand beyond Python 3.11 to 3.14.
#
#   make demo                  train, compress and judge a small network (under 3 minutes, most of it installation)
#   make test                  the whole test suite
#   make PYTHON=python3.13 test    with this interpreter (remove .venv first to change it)

VENV    ?= .venv
PYTHON  ?= python3 python3.14 python3.13 python3.12 python3.11 python
WORKERS ?= 2
PYTEST_ARGS ?=
DEMO_OUTPUT ?= demo-output

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq --constraint constraints.txt
INPUTS := $(VENV)/.created pyproject.toml constraints.txt

# One BLAS thread for each test worker: more would only compete for the same cores.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test test-core lint format types bench docs dev clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.demo ## compress a small network; prints a table, saves the plot in demo-output/
	$(BIN)/factorq demo --output $(DEMO_OUTPUT)

test: $(VENV)/.test ## run every test (PYTEST_ARGS='-k name' for some of them)
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

test-core: $(VENV)/.test-core ## the same without torch, JAX and Dask: their tests skip themselves
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

lint: $(VENV)/.lint ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.lint ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.lint ## mypy --strict on the package
	$(BIN)/mypy

bench: $(VENV)/.bench ## run every benchmark beside its peers; JSON in benchmarks/results/
	@set -e; for file in $(filter-out $(addprefix benchmarks/,accuracy_%.py common.py cp_cost.py cp_peers.py layers.py peers.py processes.py xor_%.py),$(wildcard benchmarks/*.py)); do echo "== $$file"; $(ONE_THREAD) NUMBA_NUM_THREADS=1 $(BIN)/python $$file; done

docs: $(VENV)/.docs ## build the documentation in docs/_build/html (warnings are errors)
	$(BIN)/python docs/tables.py
	$(BIN)/python -m sphinx -E -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

dev: $(VENV)/.test $(VENV)/.dev ## everything for working on factorq, and the pre-commit hooks
	$(BIN)/pre-commit install

clean: ## remove the environment and everything that was built
	rm -rf $(VENV) build dist docs/_build docs/auto_examples docs/generated docs/sg_execution_times.rst $(DEMO_OUTPUT)
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
	find factorq tests benchmarks examples docs -name __pycache__ -type d -prune -exec rm -rf {} +

# The first interpreter that is 3.11 to 3.14 and can make an environment (Debian keeps ensurepip in a package of its own).
$(VENV)/.created:
	@for python in $(PYTHON); do \
	  $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null || continue; \
	  found=$$python; \
	  $$python -c 'import ensurepip, venv' 2>/dev/null || continue; \
	  echo "$$($$python --version) -> $(VENV)"; \
	  $$python -m venv $(VENV) && touch $@ && exit 0; \
	  exit 1; \
	done; \
	if [ -n "$$found" ]; then \
	  echo "make: $$found cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; \
	else \
	  echo "make: no Python 3.11 to 3.14 among: $(PYTHON); install one, or name it: make PYTHON=/path/to/python" >&2; \
	fi; exit 1

# $(call install,NAME,EXTRAS): the stamp $(VENV)/.NAME and how to make it.
define install
$(VENV)/.$(1): $(INPUTS)
	@echo "installing $(2) into $(VENV) (once; this can take a few minutes)"
	@$(PIP) --editable '.[$(2)]'
	@touch $$@
endef
comma := ,
$(eval $(call install,demo,demo))
$(eval $(call install,test-core,test$(comma)demo))
$(eval $(call install,test,test$(comma)demo$(comma)distributed$(comma)torch$(comma)jax))
$(eval $(call install,bench,bench))
$(eval $(call install,docs,docs))
$(eval $(call install,dev,dev))

# The linters read the package without importing it, but mypy needs the annotations of what it depends on.
$(eval $(call install,lint,lint$(comma)types))
