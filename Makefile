# Two commands do everything, and one more the oldest, on a machine that has nothing but Python 3.11 or later and a package registry:
#
#     make quickstart      install the pinned environment into .venv, then fine-tune a small model that comes with hftl
#     make test            install, lint, types, tests
#     make test-oldest     the fast tests with the oldest libraries that are allowed, in .venv-oldest
#
# A third one measures what README.md and the recipes say (benchmarks/claims.py; hours, but for ONLY=... or SKIP=...):  make claims
# Another Python:  make quickstart PYTHON=python3.12
# Nothing here needs a Hub. Where pip finds packages is the machine's own setting.

PYTHON ?= python3
VENV := .venv
CONSTRAINTS := constraints.txt
EXTRA := dev
BIN = $(VENV)/bin
SHELL := /bin/sh

# A stamp says what a VENV was installed from; any difference installs again. Contents count, not times, so that a checkout that
# touches files does not; the folder counts, because a copied .venv would go on importing hftl from where it came from.
STAMP = $(VENV)/.installed
WANTED = $(shell cat pyproject.toml $(CONSTRAINTS) | cksum) $(CURDIR)

STEP := $(if $(filter quickstart test,$(MAKECMDGOALS)),[1/4] )

export HF_HUB_OFFLINE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help install quickstart claims test test-oldest lint check-lint format clean

help:
	@sed -n '3,9s/^# \{0,1\}//p' $(MAKEFILE_LIST)
	@echo "Also: make claims | lint | format | clean"

install:
	@if [ "$$(cat $(STAMP) 2>/dev/null)" = "$(WANTED)" ]; then \
		printf '%-51sok   0 s\n' '$(STEP)the pinned environment is installed'; \
		exit 0; \
	fi; \
	rm -f $(STAMP); \
	start=$$(date +%s); \
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		if ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "hftl needs Python 3.11 or later; $(PYTHON) is: $$($(PYTHON) --version 2>&1)" >&2; \
			echo "Name another one:  make $(or $(firstword $(MAKECMDGOALS)),install) PYTHON=python3.12" >&2; \
			exit 1; \
		fi; \
		$(PYTHON) -m venv --clear $(VENV) || exit 1; \
	fi; \
	printf '%-51s' '$(STEP)installing the pinned environment'; \
	if ! $(BIN)/python -m pip install -qq -c $(CONSTRAINTS) -e '.[$(EXTRA)]'; then \
		printf '\nNot installed: see above. The environment takes about 7 GB; this disk has %s left.\n' \
			"$$(df -Ph . | awk 'NR == 2 {print $$4}')" >&2; \
		exit 1; \
	fi; \
	echo "$(WANTED)" >$(STAMP); \
	seconds=$$(($$(date +%s) - start)); \
	if [ $$seconds -lt 60 ]; then echo "ok   $$seconds s"; else echo "ok   $$((seconds / 60)) min $$((seconds % 60)) s"; fi

quickstart: install
	@$(BIN)/python recipes/quickstart.py

# ONLY= (empty) writes the numbers of the JSON files into place and measures nothing.
claims: install
	@$(BIN)/python benchmarks/claims.py $(if $(filter undefined,$(origin ONLY)),,--only=$(ONLY)) --skip=$(SKIP)

test: install
	@echo "[2/4] lint"
	@$(MAKE) --no-print-directory check-lint
	@echo "[3/4] types"
	@$(BIN)/python -m mypy
	@echo "[4/4] tests"
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# Old libraries warn of what will change in libraries that are newer than they; nothing of hftl's can be done about it.
test-oldest: VENV := .venv-oldest
test-oldest: CONSTRAINTS := constraints-oldest.txt
test-oldest: EXTRA := test
test-oldest: install
	@$(BIN)/python -m pytest -m "not slow" --numprocesses 2 --dist loadfile --no-loadscope-reorder \
		-W ignore::DeprecationWarning -W ignore::FutureWarning

lint: install
	@$(MAKE) --no-print-directory check-lint
	@$(BIN)/python -m mypy

check-lint:
	@$(BIN)/python -m ruff check
	@$(BIN)/python -m ruff format --check

format: install
	@$(BIN)/python -m ruff check --fix
	@$(BIN)/python -m ruff format

clean:
	rm -rf .venv .venv-oldest build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find hftl recipes tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
