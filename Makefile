# make demo: the whole way on procedural streets. make test: all tests. Both install into .venv on first use.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# tensorrt-rtx is x86-64 only; everything else installs everywhere.
EXTRAS ?= train,weights,cpu,rtx,openvino,dev

.PHONY: install demo test lint format clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[$(EXTRAS)]'
	touch $@

demo: install
	$(BIN)/python -m rdd_deploy.demo

test: install
	$(BIN)/python -m pytest -m 'not slow and not gpu' tests

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
