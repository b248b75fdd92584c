# `make demo` and `make test` are all that a newcomer needs; both want Python 3.11 or newer and make their own environment.
#
#   make demo    see it work on a home made for the purpose
#   make test    all tests but the minutes-long ones
#   make lint    ruff, mypy strict, the floors
#   make soak    the minutes-long tests
#   make bench   every benchmark, under a quarter of an hour; bench-quick under a minute, bench-check compares ratios with the committed
#   make ci      what CI runs
#   make clean   remove the environment and the caches
#
# PYTHON=python3.13 picks an interpreter, VENV=.venv-3.13 keeps its environment beside the first.
# pip takes its settings from your own configuration and environment.

VENV ?= .venv
JOBS ?= 2

IS_USABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
ifeq ($(origin PYTHON),undefined)
PYTHON := $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c "$(IS_USABLE)" >/dev/null 2>&1 && echo $$p && break; done)
endif

BIN := $(VENV)/bin
USE := $(VENV)/.installed-to-use
DEV := $(VENV)/.installed-to-develop

.DEFAULT_GOAL := help
.PHONY: help demo test lint format soak bench bench-quick bench-check ci clean

help:
	@sed -n 's/^#   //p' Makefile

demo: $(USE)
	@$(BIN)/rolloutdb demo

# Hundreds of children import the engine: without its bytecode each compiles all of it anew.
test soak: export PYTHONDONTWRITEBYTECODE :=

test: $(DEV)
	$(BIN)/python -m pytest -n $(JOBS) -m "not soak" $(ARGS)

soak: $(DEV)
	$(BIN)/python -m pytest -m soak -o faulthandler_timeout=0 $(ARGS)

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(DEV)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(DEV)
	$(BIN)/python benchmarks/run.py $(BENCH) $(ARGS)

bench-quick: $(DEV)
	$(BIN)/python benchmarks/run.py --quick $(BENCH) $(ARGS)

bench-check: $(DEV)
	$(BIN)/python benchmarks/run.py --quick --check $(BENCH) $(ARGS)

ci:
	@./.ci/run

clean:
	rm -rf $(VENV) .venv-peers dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks .import_linter_cache

# A stamp is older than pyproject.toml when dependencies may have changed: then pip looks again.
$(USE): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(DEV): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(USE)

$(BIN)/python:
	@$(or $(PYTHON),false) -c "$(IS_USABLE)" >/dev/null 2>&1 || { \
		echo "rolloutdb needs Python 3.11 or newer with its venv module; found: $(or $(PYTHON),none) ($$($(or $(PYTHON),false) --version 2>&1))."; \
		echo "Install one (on Debian and Ubuntu also python3-venv), or name one: make PYTHON=/path/to/python3.13"; \
		exit 1; } >&2
	$(PYTHON) -m venv $(VENV)
