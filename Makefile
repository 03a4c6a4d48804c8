# Thin wrappers around what a user could type. `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
RUN ?= results/run-default
WORKERS ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)

.DEFAULT_GOAL := help
.PHONY: help install bench plots idea regress test faults lint

help:  ## show this list
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

install: $(READY)  ## create .venv with everything that is needed

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

bench: $(READY)  ## run the default sweep (or go on with it) and draw its plots
	$(BIN)/profl sweep --preset default --output $(RUN) --workers $(WORKERS)

plots: $(READY)  ## draw the plots of the last sweep again
	$(BIN)/profl report $(RUN)

idea: $(READY)  ## draw the picture of the idea in docs/ again
	$(BIN)/python docs/idea.py

regress: $(READY)  ## compare every measured footprint with results/reference
	$(BIN)/profl check

# Benchmarks compare times, so nothing runs beside them, and no coverage: it slows Python down, and nothing else.
test: $(READY)  ## run all tests: the benchmarks alone, then the others side by side, with line coverage
	$(BIN)/python -m pytest tests/benchmarks
	$(BIN)/python -m pytest --ignore tests/benchmarks --numprocesses $(WORKERS) --dist loadfile \
		--cov --cov-report=term --cov-fail-under=90

faults: $(READY)  ## kill sweeps, damage their files, fill their disks (minutes), and tell what came of it
	$(BIN)/python -m tests.faults

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
