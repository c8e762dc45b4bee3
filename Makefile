# make demo: the main job, small.  make test: everything that CI runs.  Both make their own environment first.
# Tiers of tests: test-fast (seconds each), test-slow (servers, clusters), test-nightly (lost hosts, several clusters, long sweeps).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
VENV := .venv
BIN := $(VENV)/bin
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
ifndef PYTHON # the first that runs: pyenv puts names on the path that do not
PYTHON := $(shell for name in python3.11 python3.12 python3.13 python3; do \
  $$name -c '$(FITS)' 2>/dev/null && { echo $$name; break; }; done)
endif

# make TORCH=2.14.1+cpu: that CPU build of torch, from wherever your pip finds one, and nothing of CUDA's (4 GB). torchvision
# would have to be a CPU build too, and is left out: no method of ours needs it. nvidia-ml-py is pure Python, and stays. The
# stamp of .venv remembers the choice. The lock has hashes of PyPI's files alone, so that this build is installed without one.
TORCH ?= $(shell cat $(VENV)/ready 2>/dev/null)
LOCKED = $(shell sed -n "s/^torch==\([^ ]*\).*/\1/p" requirements.lock)
CUDA := ^(cuda-|nvidia-[^m]|torch==|torchvision==|triton==)

PIP := $(BIN)/python -m pip install --progress-bar off --disable-pip-version-check
# One line that changes in a terminal, a line for each fortieth package in a log.
SHOW := while read -r word name rest; do case $$word in \
  Collecting) count=$$((count + 1)); if [ -t 1 ]; then printf '\r\033[K  %d of %d: %s' $$count $$all "$$name"; \
    elif ((count % 40 == 0)); then echo "  $$count of $$all: $$name"; fi;; \
  Ignoring) all=$$((all - 1));; \
  Installing) if [ -t 1 ]; then printf '\r\033[K'; fi; echo "  all are here; unpacking them";; esac; done

# Tests start processes of their own, which share the cores. A file's tests share servers, so that it is never split.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder
JOBS ?= 2

.PHONY: demo demo-stop docs version benchmarks fuzz soak growth test test-fast test-slow test-nightly check chart lock \
  clean

demo: $(VENV)/ready
	$(BIN)/facscale demo

demo-stop: $(VENV)/ready
	$(BIN)/facscale demo --stop

test: check docs test-fast test-slow fuzz

test-fast: $(VENV)/ready
	$(PYTEST) -m "not slow and not nightly" tests/unit tests/security

test-slow: $(VENV)/ready
	$(PYTEST) -m "slow and not nightly" tests/e2e tests/install tests/integration tests/security

test-nightly: $(VENV)/ready
	$(PYTEST) -m nightly tests/e2e tests/integration

SECONDS_OF_FUZZING = $(or $(SECONDS),60)
fuzz: $(VENV)/ready # damaged and forged files for every reader; an hour: make fuzz SECONDS=3600
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/fuzz.py --seconds $(SECONDS_OF_FUZZING)

ROUNDS = 20
soak: $(VENV)/ready # a job that is killed at random moments and must come out the same; about a minute for each of the ROUNDS
	OMP_NUM_THREADS=1 $(BIN)/python tests/soak/soak.py --rounds $(ROUNDS)

JOBS_OF_GROWTH = $(if $(filter command line,$(origin JOBS)),$(JOBS),50)
growth: $(VENV)/ready # small jobs on one cluster: what grows from job to job; half a minute for each of the JOBS
	OMP_NUM_THREADS=1 $(BIN)/python tests/soak/growth.py --jobs $(JOBS_OF_GROWTH)

benchmarks: $(VENV)/ready # all ratios, into docs/results/data, on a quiet machine
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/all.py

check: $(VENV)/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/ready # the site of the documentation, in build/docs; a broken link or a missing reference is an error
	$(BIN)/mkdocs build --quiet

$(VENV)/ready: pyproject.toml requirements.lock $(if $(filter-out $(file <$(VENV)/ready),$(TORCH)),another-torch)
	@"$(PYTHON)" -c '$(FITS)' 2>/dev/null || \
	  { echo "error: Python 3.11, 3.12 or 3.13 is needed; say where one is: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@command -v g++ >/dev/null || { echo "error: g++ is needed (DeepSpeed compiles an operator): apt-get install g++" >&2; exit 1; }
	@[[ "$(TORCH)" =~ ^([0-9.]+\+cpu)?$$ ]] || { echo "error: TORCH=$(TORCH) is no CPU build; name one: make TORCH=$(LOCKED)+cpu" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	@$(PIP) --quiet --require-hashes -r helm/images/build.lock # those that are published as source alone are built with these
	@if [ "$(TORCH)" ]; then awk '/==/ {skip = /$(CUDA)/} !skip' requirements.lock; else cat requirements.lock; fi > $(VENV)/requirements.txt
	@echo "$(BIN)/python -m pip install --require-hashes --no-deps -r requirements.lock # $(if $(TORCH),3.5,8) GB on the disk: minutes, by your network"
	@$(PIP) --require-hashes --no-deps --no-build-isolation -r $(VENV)/requirements.txt | { all=$$(grep -c == $(VENV)/requirements.txt); count=0; $(SHOW); }
	$(if $(TORCH),$(PIP) --no-deps torch==$(TORCH) # no hash is known of this build: it is what your index serves)
	$(PIP) --quiet --no-deps --no-build-isolation -e .
	@echo "DeepSpeed compiles an operator, unless there is a GPU: about a minute"
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -W ignore -m facscale.compat.deepspeed
	@echo '$(TORCH)' > $@

.PHONY: another-torch
another-torch:

chart: $(VENV)/ready # after a change under helm/facscale: its README and golden renderings; review the difference
	$(BIN)/python helm/chart.py

version: $(VENV)/ready # make version VERSION=0.2.0: wherever it stands (docs/project/release.md)
	@[[ "$(VERSION)" =~ ^[0-9]+\.[0-9]+\.[0-9]+$$ ]] || { echo "error: which version? make version VERSION=0.2.0" >&2; exit 1; }
	sed -i 's/^__version__ = .*/__version__ = "$(VERSION)"/' platform/facscale/__init__.py
	sed -i 's/^version: .*/version: $(VERSION)/' CITATION.cff helm/facscale/Chart.yaml
	sed -i 's/^appVersion: [^ ]*/appVersion: $(VERSION)/' helm/facscale/Chart.yaml
	$(BIN)/python helm/chart.py

# Versions and the hashes of all files that PyPI has of them. The image's packages are a part of all packages.
COMPILE = build/lock/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --quiet
lock: # after a change of dependencies in pyproject.toml; make lock UPGRADE=--upgrade renews the other versions as well
	"$(PYTHON)" -m venv build/lock && build/lock/bin/pip install --quiet --upgrade uv
	$(COMPILE) $(UPGRADE) --all-extras pyproject.toml --output-file requirements.lock
	$(COMPILE) $(UPGRADE) --extra server --extra serve --constraint requirements.lock pyproject.toml --output-file helm/images/image.lock
	printf '%s\n' pip setuptools wheel | $(COMPILE) $(UPGRADE) --constraint requirements.lock - --output-file helm/images/build.lock

clean:
	rm -rf $(VENV) build demo .mypy_cache .ruff_cache .pytest_cache
