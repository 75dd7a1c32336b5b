# Everything a developer does here; `make` alone lists it. Every target sets up what it needs, so any of them may be the
# first command in a clean clone. Installing needs Python 3.11+ and its pip, nothing else; everything lives in .venv.
#
#   EXTRAS=local-lm     with `setup` or `demo`: also install the small real language model (otel: traces)
#   PYTHON=python3.12   which Python to build .venv with
#   TESTS=tests/store   with `test-only`: which tests; ARGS='-k journal -x' is handed to pytest

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
EXTRAS ?=
WORKERS ?= 2
TESTS ?= tests
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
SOURCES := experiments learning monitoring server tests $(wildcard benchmarks deploy)
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq install --no-deps
BENCHMARKS := $(patsubst benchmarks/%.py,bench-%,$(filter-out benchmarks/_%,$(wildcard benchmarks/*.py)))

# Neither DSPy nor LiteLLM may fetch its price list from the network; see docs/decisions/0005.
export LITELLM_LOCAL_MODEL_COST_MAP := True

##@ Using it
.PHONY: demo run setup
demo: $(VENV)/.runtime $(EXTRAS:%=$(VENV)/.%)  ## run the whole loop live on simulated traffic, no key needed
	@$(BIN)/ratchet demo $(ARGS)

run: $(VENV)/.runtime $(EXTRAS:%=$(VENV)/.%)  ## start the embedded server (ratchet up)
	@$(BIN)/ratchet up $(ARGS)

setup: $(VENV)/.runtime $(EXTRAS:%=$(VENV)/.%)  ## only set up: afterwards .venv/bin/ratchet works
	@echo "Ready: $(BIN)/ratchet"

##@ Changing it
.PHONY: test test-only check lint types contracts format generate format-check
test: check  ## everything that must pass before a change lands
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

test-only: $(VENV)/.dev  ## just the tests, one process: make test-only TESTS=tests/store ARGS=-x
	@$(BIN)/python -m pytest $(TESTS) $(ARGS)

check: format-check lint types contracts  ## format, lint, types and import contracts, without the tests

lint: $(VENV)/.dev  ## ruff's rules
	@echo "» lint"; $(BIN)/ruff check --quiet .

types: $(VENV)/.dev  ## mypy --strict
	@echo "» types"; $(BIN)/mypy $(SOURCES)

contracts: $(VENV)/.dev  ## which room and floor may import which
	@echo "» import contracts"; $(BIN)/lint-imports --no-logo

format: $(VENV)/.dev  ## rewrite files in the house format, imports sorted
	@$(BIN)/ruff check --quiet --select I --fix . ; $(BIN)/ruff format .

generate: $(VENV)/.dev  ## rewrite what is made from code: dashboards, the page of metrics
	@$(BIN)/python -m tests.generated

format-check: $(VENV)/.dev
	@echo "» format"; $(BIN)/ruff format --check --quiet . || { echo "Run 'make format'."; exit 1; }

##@ Measuring it
.PHONY: bench $(BENCHMARKS)
bench: $(BENCHMARKS)  ## every benchmark, one JSON object per line; one alone: make bench-NAME

$(BENCHMARKS): bench-%: $(VENV)/.dev
	@$(BIN)/python -m benchmarks.$* $(ARGS)

bench-statistics: .venv-gbstats/.installed
bench-drift: .venv-river/.installed

# Peers that nothing of ours imports, in environments of their own: gbstats needs numpy<2. A benchmark says so where its
# peer is missing: gbstats' formula is then compared but not verified, and river not compared at all.
.venv-%/.installed: requirements-%.lock | $(BIN)/python
	@echo "» installing $* beside us, in .venv-$*"
	@$(PYTHON) -m venv .venv-$* && .venv-$*/bin/python -m pip --disable-pip-version-check -qq install \
		--no-deps --require-hashes --only-binary :all: -r $< && touch $@ || \
		echo "» $* could NOT be installed here: the benchmark goes without it" >&2

##@ Keeping it
.PHONY: lock clean help
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--custom-compile-command 'make lock' $(if $(UPGRADE),--upgrade)
lock: $(VENV)/.dev  ## pin what pyproject.toml asks for, with hashes; UPGRADE=1 also takes newer releases
	@# The fullest set comes first and binds the others, so that adding an extra never changes a version.
	@$(LOCK) --no-config --exclude-newer '7 days' --extra litellm pyproject.toml -o requirements-litellm.lock
	@$(LOCK) -c requirements-litellm.lock pyproject.toml -o requirements.lock
	@$(LOCK) -c requirements-litellm.lock --extra local-lm pyproject.toml -o requirements-local-lm.lock
	@$(LOCK) -c requirements-litellm.lock --extra otel pyproject.toml -o requirements-otel.lock
	@$(LOCK) -c requirements-litellm.lock -c requirements-otel.lock --extra local-lm --extra otel --group dev \
		pyproject.toml -o requirements-dev.lock
	@$(LOCK) -c requirements-dev.lock --group build -o requirements-build.lock
	@git --no-pager diff --stat -- 'requirements*.lock'

clean:  ## remove .venv and every cache; ratchet-data/ stays
	@rm -rf $(VENV) .venv-* build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## this list
	@awk 'BEGIN { FS = ":.*##" } /^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*##/ { printf "  \033[1m%-14s\033[0m%s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@[ -z "$(BENCHMARKS)" ] || printf '\nBenchmarks: $(BENCHMARKS)\n'

# A stamp says that a lock has been installed; it is written last, so an interrupted installation is done again.
$(BIN)/python:
	@[ -n "$(PYTHON)" ] && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Ratchet needs Python 3.11 or later. Install one, or say where: make PYTHON=/path/to/python3"; exit 1; }
	@echo "» making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: requirements.lock requirements-build.lock pyproject.toml | $(BIN)/python
	@echo "» installing what the server needs (under a minute)"
	@$(PIP) --require-hashes -r requirements.lock
	@$(PIP) --require-hashes -r requirements-build.lock
	@$(PIP) --no-build-isolation --editable .
	@touch $@

$(VENV)/.%: requirements-%.lock $(VENV)/.runtime
	@echo "» installing what $* needs (under a minute)"
	@$(PIP) --require-hashes -r $<
	@touch $@
