# The verbs to work with. Each may be run at any time, also first.
.DEFAULT_GOAL := help
.PHONY: help setup lab test nightly check bench docs lock clean
BIN := .venv/bin
ARGS ?=
# Nodes whose sessions can move need root; JupyterLab then runs as root too.
SUDO := $(shell [ "$$(id -u)" = 0 ] || command -v sudo)
export PATH := $(CURDIR)/build/uv/bin:$(PATH)

help:  ## Show these verbs
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

setup:  ## Make the environment and install the system parts (runc, CRIU, podman, pasta)
	@scripts/setup.sh

lab: setup  ## Start two nodes on this machine and open JupyterLab; ARGS="--no-browser --port 8890"
	$(SUDO) $(BIN)/sojourn up examples/moving.ipynb $(ARGS)

.venv/sojourn-setup: requirements.lock pyproject.toml scripts/setup.sh
	@scripts/setup.sh
	@touch $@

test: setup  ## Run every test, the suites of Jupyter's own projects included
	$(BIN)/python -m pytest $(ARGS)
	$(BIN)/python scripts/upstream.py

nightly: setup  ## Kill parts under sleeping sessions a thousand times, and try the model a hundred thousand times
	SOJOURN_STEPS=1000 $(BIN)/python -m pytest tests/acceptance/test_sleep_faults.py $(ARGS)
	SOJOURN_MODEL_EXAMPLES=100000 $(BIN)/python -m pytest --timeout 14400 tests/unit/test_sleep_model.py $(ARGS)

check: .venv/sojourn-setup  ## Format, lint, types, floors, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell src tests bench scripts docs/*.md *.md Makefile

bench: setup  ## Measure a move against podman's and runc's own; ARGS="--heap-gb 1 --moves 10"
	$(BIN)/python -m bench move --peers --json $(ARGS)

docs: .venv/sojourn-setup  ## Build the documentation into docs/_build/html
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

lock:  ## Resolve the dependencies anew into requirements.lock
	uv pip compile pyproject.toml --all-extras --group dev --group docs --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-header --no-annotate --quiet --upgrade -o requirements.lock

clean:  ## Remove what the other verbs made here (not the system parts)
	rm -rf .venv build dist docs/_build .upstream .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
