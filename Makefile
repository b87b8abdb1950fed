# Everything a developer runs. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TORCH := $(shell grep '^torch==' constraints.txt)

.PHONY: help install check format test test-slow demo clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(STAMP) ## make .venv with everything in it, .venv/bin/expertpool too

# torch first and by itself: what it brings is then already there when the rest is resolved.
$(STAMP): pyproject.toml constraints.txt $(wildcard serve_app/engine/device/native/c/*.[ch])
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(TORCH)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

check: install ## lint, format, types, import law
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install ## rewrite what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: install ## the tests, without the slow ones
	$(BIN)/python -m pytest

test-slow: install ## every test that this machine can run, slow ones too
	$(BIN)/python -m pytest -m 'not gpu'

demo: install ## the main job on a small family made on the spot; ONCE=1 ends after the table
	$(BIN)/expertpool demo $(if $(filter 1,$(ONCE)),--once)

clean: ## forget .venv and caches of tools
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
