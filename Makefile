# make demo: the main job, small.  make test: everything that CI runs.  Both make their own environment first.
# Tiers of tests: test-fast (seconds each), test-slow (servers, clusters), test-nightly (lost hosts, long soaks).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

# Tests start processes of their own, which share the cores. A group of tests that share a server is never split.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --dist loadgroup --no-loadscope-reorder
JOBS ?= 2

.PHONY: demo demo-stop test test-fast test-slow test-nightly check chart lock clean

demo: $(VENV)/ready
	$(BIN)/facscale demo

demo-stop: $(VENV)/ready
	$(BIN)/facscale demo --stop

test: check test-fast test-slow

test-fast: $(VENV)/ready
	$(PYTEST) -m "not slow and not nightly"

test-slow: $(VENV)/ready
	$(PYTEST) -m "slow and not nightly"

test-nightly: $(VENV)/ready
	$(PYTEST) -m nightly

check: $(VENV)/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/ready: pyproject.toml requirements.lock
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed; say where it is: make PYTHON=/path/to/python3.11"; exit 1; }
	@command -v g++ >/dev/null || { echo "g++ is needed (DeepSpeed compiles an operator): apt-get install g++"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --progress-bar off --disable-pip-version-check --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --progress-bar off --disable-pip-version-check --no-deps -e .
	touch $@

chart: $(VENV)/ready # after a change under helm/facscale: its README and golden renderings; review the difference
	$(BIN)/python helm/chart.py

lock: # after a change of dependencies in pyproject.toml
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet --upgrade pip && build/lock/bin/pip install --quiet -e '.[test]'
	build/lock/bin/pip freeze --exclude-editable | sed 's/+cpu//' > requirements.lock

clean:
	rm -rf $(VENV) build demo .mypy_cache .ruff_cache .pytest_cache
