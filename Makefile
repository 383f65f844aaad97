# make demo: the whole way on procedural streets. make test: the tests; make test-slow: those that are left out there. All install into .venv on
# first use, at the versions of requirements/lock.txt. make lock: newer versions into the lock. make test-oldest, test-latest: the core of the
# tests at the ends of the ranges.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# tensorrt-rtx is x86-64 only; everything else installs everywhere. Other extras take the lock's versions, unhashed.
EXTRAS ?= train,teachers,data,weights,cpu,rtx,openvino,report,dev

# A process for each core, up to four; the tests of a file stay together.
SIDE_BY_SIDE := -n logical --maxprocesses 4 --dist loadfile

.PHONY: install lock demo test test-slow test-avx2 test-oldest test-latest lint format clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml requirements/lock.txt requirements/install.py
	@test -x $(BIN)/python || { echo "environment $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python requirements/install.py $(EXTRAS)
	@touch $@

lock:
	$(PYTHON) requirements/lock.py

demo: install
	$(BIN)/python -m rdd_deploy.demo

test: install
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m 'not slow and not gpu' tests

# More of the same kind, at full length: every shipped student's engine, other encoders, memory over hundreds of images, the wheel, the demo.
test-slow: install
	$(BIN)/python -m pytest -m 'slow and not gpu' tests

# What depends on the CPU: no bf16 and no VNNI here, whatever the machine has.
test-avx2: install
	ONEDNN_MAX_CPU_ISA=AVX2 $(BIN)/python requirements/core.py cpu $(SIDE_BY_SIDE)

# In environments of their own, .venv-oldest and .venv-latest.
test-oldest test-latest: test-%: install
	$(BIN)/python requirements/ends.py $*

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .venv-oldest .venv-latest build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
