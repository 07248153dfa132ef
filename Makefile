# Two commands matter to a stranger: `make demo` and `make test`. `make help` lists the rest.
# Every target creates .venv itself; wheels only, so no compiler is needed.

PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3.14 python3 python,\
	$(shell command -v $(name) 2>/dev/null | head -n 1)))
VENV := .venv
ORACLES := .venv-oracles
BIN := $(VENV)/bin
INSTALL := -m pip --disable-pip-version-check install --quiet --only-binary=:all: -c constraints.txt
PIP := $(BIN)/python $(INSTALL)
SOURCES := adaptzip benchmarks checks examples fixtures formats tests
STYLED = $(wildcard $(SOURCES))

.DEFAULT_GOAL := help
.PHONY: help demo test oracles lint types imports docs site wheels format fixtures ci clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | awk -F '\t' '{printf "  make %-9s %s\n", $$1, $$2}'

demo: $(VENV)/.demo  ## compress the fixture adapter, bring it back, merge it, and compare accuracies
	$(BIN)/python -m examples.demo

test: $(VENV)/.test  ## run the test suite (PYTEST_ARGS="-m slow" for the long part)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal $(PYTEST_ARGS)

oracles: $(ORACLES)/.ready  ## ask mlx-lm, llama.cpp and others what they make of exported adapters
	OMP_NUM_THREADS=1 $(ORACLES)/bin/python -m pytest tests/oracles -m oracle $(PYTEST_ARGS)

lint: $(VENV)/.dev  ## check style and formatting
	$(BIN)/ruff check $(STYLED)
	$(BIN)/ruff format --check $(STYLED)

types: $(VENV)/.dev  ## check types strictly
	$(BIN)/mypy

imports: $(VENV)/.dev  ## check who may import whom
	$(BIN)/lint-imports --no-cache

docs: $(VENV)/.dev  ## check links, commands and generated pages of the documentation
	$(BIN)/python -m checks.docs

# The variable leaves out an advertisement that mkdocs-material prints.
site: $(VENV)/.dev  ## build the documentation's site in site/, with every link checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

wheels: $(VENV)/.wheels  ## build sdist and wheel into dist/, check both, and use the wheel in clean environments
	OMP_NUM_THREADS=1 $(BIN)/python -m checks.wheels

format: $(VENV)/.dev  ## rewrite the code in the project's style
	$(BIN)/ruff check --fix $(STYLED)
	$(BIN)/ruff format $(STYLED)

fixtures: $(VENV)/.demo  ## train the fixture adapters again (half an hour or more on two cores)
	$(BIN)/python -m fixtures.train langid
	$(BIN)/python -m fixtures.train lists

ci:  ## run everything that has to pass before a change goes in
	.ci/run

clean:  ## remove the virtual environment and everything generated
	rm -rf $(VENV) $(ORACLES) build dist site demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.created $(ORACLES)/.created:
	@test -n "$(PYTHON)" || { echo "error: no Python found; adaptzip needs Python 3.11 or newer" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1); adaptzip needs Python 3.11 or newer" >&2; \
		echo "hint: name another one with  make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 2; }
	$(PYTHON) -m venv $(@D)
	@touch $@

$(VENV)/.demo: $(VENV)/.created pyproject.toml constraints.txt
	$(PIP) -e '.[demo]'
	@touch $@

$(VENV)/.test: $(VENV)/.created pyproject.toml constraints.txt
	$(PIP) -e '.[test,demo,docs]'
	@touch $@ $(VENV)/.demo

$(VENV)/.dev: $(VENV)/.test
	$(PIP) -e '.[test,demo,dev,docs]'
	@touch $@

$(VENV)/.wheels: $(VENV)/.dev
	$(PIP) -e '.[test,demo,dev,docs,wheels]'
	@touch $@

$(ORACLES)/.ready: $(ORACLES)/.created pyproject.toml constraints.txt constraints-oracles.txt
	$(ORACLES)/bin/python $(INSTALL) -c constraints-oracles.txt -e '.[oracles]'
	@touch $@
