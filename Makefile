SHELL := /bin/bash
PY := .venv/bin/python
PY_CURRENT := .venv-current/bin/python
PYTEST_ARGS ?=
DOCS_PYTHON ?= $(or $(PYTHON),$(shell command -v python3.11 || echo python3))
# Material for MkDocs announces its successor at every start.
MKDOCS := NO_MKDOCS_2_WARNING=1 .venv-docs/bin/python -m mkdocs

.DEFAULT_GOAL := help
.PHONY: help env demo test env-current demo-current test-current test-slurm docs docs-serve lint format clean

stage = @printf '\n=== %s ===\n' '$(strip $(1))'

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "PYTHON=/path/to/python3.11 make env   picks the Python; more in tools/dev/setup_env.sh"

env: ## Make .venv, the pinned reference environment (once; about 8 GB)
	@bash tools/dev/setup_env.sh

demo: env ## A complete distillation in minutes, on the CPU
	@$(PY) tools/demo.py

test: lint ## Everything that a change has to pass; PYTEST_ARGS="-m 'not slow'" for a quick one
	$(call stage, mypy)
	@$(PY) -m mypy mtkdrl_mm
	$(call stage, pytest)
	@$(PY) -m pytest tests -n auto --maxprocesses 4 --dist loadgroup $(PYTEST_ARGS)

env-current: ## Make .venv-current: Python 3.12, torch 2.14, numpy 2, the maintained forks (once; about 8 GB)
	@bash tools/dev/setup_env.sh current

demo-current: env-current ## The demo in .venv-current
	@$(PY_CURRENT) tools/demo.py

test-current: env-current ## All tests in .venv-current; PYTEST_ARGS as of make test
	$(call stage, pytest with a current torch)
	@$(PY_CURRENT) -m pytest tests -n auto --maxprocesses 4 --dist loadgroup $(PYTEST_ARGS)

test-slurm: env ## The Slurm scripts on a real one-node Slurm (root, Debian or Ubuntu; 20 minutes)
	@bash tools/dev/test_slurm.sh

docs: .venv-docs/.complete ## The documentation site, into site/; warnings and dead links are errors
	@$(MKDOCS) build --strict

docs-serve: .venv-docs/.complete ## The same at http://127.0.0.1:8000, rebuilt at every change
	@$(MKDOCS) serve

# Needs no torch and no OpenMMLab package: the sources are read, not imported.
.venv-docs/.complete: requirements/docs.txt
	@rm -rf .venv-docs
	@$(DOCS_PYTHON) -m venv .venv-docs
	@.venv-docs/bin/python -m pip install -q --disable-pip-version-check -r requirements/docs.txt
	@touch $@

lint: env ## ruff: rules and formatting
	$(call stage, ruff check)
	@$(PY) -m ruff check .
	$(call stage, ruff format --check)
	@$(PY) -m ruff format --check .

format: env ## Let ruff rewrite the files
	@$(PY) -m ruff check --fix-only .
	@$(PY) -m ruff format .

clean: ## Remove caches and build products; not the environments, not work_dirs
	@rm -rf build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache .coverage htmlcov
	@find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
