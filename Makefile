# Every target sets itself up: Python 3.11, make and git are enough. NAME=value on make's command line becomes the
# command's own option, which the command checks; `make help` and `make help FOR=finetune` list them.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

COMMANDS := cohort import refresh volumes encoders data-check qc reports attributes pretrain pretrain-image pretrain-text \
  pretrain-alignment pretrain-report finetune probe radiomics curve sweep compare report results evaluate-text masked-loss \
  zeroshot retrieval maps embed assess serve export generate score-reports review resume submit ui doctor gpu-check licences \
  figure benchmarks

# A variable of make itself, where the command line gives it; what the environment happens to hold is not read.
given = $(if $(filter command,$(word 1,$(origin $(1)))),$($(1)),$(2))
LAUNCHER := $(call given,LAUNCH)#      what starts the processes of a training command: srun, or torchrun with its flags
TEST_FLAGS := $(call given,PYTEST)#    further flags of pytest
CHAOS_FLAGS := $(call given,ARGS)#     flags of `make chaos`: --hostile=280 --faults=72 --kills=50 --seed=0 --patience=1
TESTERS := $(call given,TESTERS,2)#    processes that run tests side by side, each with one thread

# conda's environment when environment.yml was activated, else a virtual environment of our own
CONDA := $(filter renal-suite,$(CONDA_DEFAULT_ENV))
BIN := $(if $(CONDA),$(CONDA_PREFIX)/bin,.venv/bin)
READY := $(if $(CONDA),$(CONDA_PREFIX)/.renal-suite-ready,.venv/.ready)
PYTHON := $(call given,BASE_PYTHON,$(shell command -v python3.11 || command -v python3))
PY := $(BIN)/python
# torchrun starts Python itself; anything else is put before it.
START = $(if $(filter torchrun,$(firstword $(LAUNCHER))),$(BIN)/$(LAUNCHER),$(LAUNCHER) $(PY))
export MAKE_TARGETS := $(MAKECMDGOALS)

.PHONY: help setup test test-all chaos lint docs release clean $(COMMANDS)

help: # needs no environment
	@$(PYTHON) -m experiments help --from_make

setup: $(READY)
$(READY): pyproject.toml constraints.txt
	@test -d "$(BIN)" || { \
	  "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null \
	    || { echo "Python 3.11 was not found (python3.11 or python3); install it, or use conda with environment.yml."; exit 2; }; \
	  "$(PYTHON)" -m venv .venv; }
	$(PY) -m pip install --quiet --disable-pip-version-check "pip>=25.1"
	$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev,radiomics]"
	$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps --group no-deps --group radiomics-no-deps
	@touch $@

$(COMMANDS): $(READY)
	@$(START) -m experiments $@ --from_make

test test-all: $(READY) # the fast ones; all
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(TESTERS) --dist loadfile $(if $(filter test,$@),-m "not slow") $(TEST_FLAGS)

chaos: $(READY)
	OMP_NUM_THREADS=1 $(PY) -m tests.chaos $(CHAOS_FLAGS)
lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

build/%/ready: pyproject.toml # the tools of docs and release, in environments of their own
	$(PYTHON) -m venv build/$*
	build/$*/bin/python -m pip install --quiet --disable-pip-version-check "pip>=25.1"
	build/$*/bin/python -m pip install --quiet --disable-pip-version-check --group $*
	@touch $@

docs: build/docs/ready # the pages and the Python API as a site in build/site; a link that leads nowhere fails
	NO_MKDOCS_2_WARNING=1 build/docs/bin/mkdocs build --quiet

release: build/release/ready # spelling, then wheel and source distribution in dist/, checked as PyPI does
	build/release/bin/typos
	rm -rf dist
	build/release/bin/python -m build --outdir dist
	build/release/bin/twine check --strict dist/*

clean: # caches; cohorts, runs and the environment stay
	rm -rf .pytest_cache .mypy_cache .ruff_cache build *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

.DEFAULT:
	@$(PYTHON) -m experiments $@
