# make compare    run the main job, the paper's gradient against the exact one, and write its page
# make test       run the tests
# make lint       ruff and mypy
# make clean      remove what the others made

PYTHON ?= python3
BIN = .venv/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: compare test lint clean
.NOTPARALLEL:
.DELETE_ON_ERROR:

compare: .venv/installed
	@$(BIN)/caffe-margin compare models/sphereface_model.prototxt --report build/compare

test: .venv/installed-dev
	@$(BIN)/python -m pytest

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(PIP) install --editable '.[report]'
	@touch $@

.venv/installed-dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) install --editable '.[dev]' --constraint constraints.txt
	@touch .venv/installed $@

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
