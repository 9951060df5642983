PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-all lint docs clean

# Five searches on data for which the truth of every cell is known; then what they found is trained and tested.
demo: $(READY)
	$(BIN)/python -m experiments.black_box --seeds 5 --workdir runs/demo

# The long tests are left out; tests/conftest.py lists those that CI runs later, and the slowest.
test: $(READY)
	$(BIN)/python -m pytest

test-all: $(READY)
	$(BIN)/python -m pytest --all

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site; warnings are errors. The tutorials are executed where they have changed; EXECUTE=off leaves that out.
EXECUTE ?= cache
docs: $(VENV)/.ready-docs
	rm -rf docs/reference/generated
	$(BIN)/python -m sphinx -W --keep-going -n -q -D nb_execution_mode=$(EXECUTE) docs build/docs
	@echo "open build/docs/index.html"

$(VENV)/.ready-docs: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	touch $@

$(READY): pyproject.toml setup.py
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else f"jaxnas needs Python 3.11 or newer, and $(PYTHON) is {sys.version.split()[0]}: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,lint]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
