# `make train` and `make test` do everything on a fresh machine with Python 3.10 or newer.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: install train test lint format slow faults processors reference

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile torch==2.13.0 # of the build for this machine, CPU or CUDA
	$(BIN)/python -m pip install --quiet --no-compile --require-hashes --no-deps --requirement constraints.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -c "import diffsweep.runs.training, sklearn, wandb" # keeps their bytecode
	touch $@

train: install
	$(BIN)/python src/train.py

test: install lint
	$(BIN)/python -m pytest -n 2 --dist worksteal --nbmake --durations 10 tests notebooks

slow: install
	$(BIN)/python -m pytest -m slow -n 2 --dist worksteal tests

# Every fault and bad input that the tests inject, slow ones too, and a table of them.
faults: install
	$(BIN)/python -m pytest -m "faults and not gpu and not network" -n 2 --dist worksteal tests

# What other processors would compute: older instructions, and two threads, which round sums and products otherwise.
PROCESSORS := "ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_CBWR=COMPATIBLE" \
	"ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_CBWR=AVX2 DIFFSWEEP_TEST_THREADS=2" "DIFFSWEEP_TEST_THREADS=2"

processors: install
	for limits in $(PROCESSORS); do \
		echo "$$limits" && env OMP_WAIT_POLICY=passive $$limits $(BIN)/python -m pytest -q tests --ignore tests/runs --ignore tests/tasks || exit 1; \
	done

lint: install
	$(BIN)/ruff check src tests
	$(BIN)/ruff format --check src tests
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix src tests
	$(BIN)/ruff format src tests

# conf/README.md, from the comments of conf/
reference: install
	$(BIN)/python -m diffsweep.configuration.reference
