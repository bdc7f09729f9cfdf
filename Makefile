# Everything runs in .venv, which `make setup` (and any other target, when it is missing or stale) creates.
# Some environments forbid .pyc files; without them every `import torch` takes twice as long.
export PYTHONDONTWRITEBYTECODE =
export OMP_NUM_THREADS ?= 2

PYTHON ?= python3
BIN := .venv/bin
EXTRAS := data,vision,timm,track,onnx,openvino,dev

.PHONY: setup test test-all demo bench verify lint types imports pytest clean

setup: .venv/.installed

.venv/.installed: pyproject.toml runtime/pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q uv
	UV_FIND_LINKS="$(PIP_FIND_LINKS)" $(BIN)/uv pip install -q --python $(BIN)/python -e ./runtime -e '.[$(EXTRAS)]' -c constraints.txt
	touch $@

test: lint types imports pytest

lint: setup
	$(BIN)/ruff check src runtime/src tests benchmarks
	$(BIN)/ruff format --check src runtime/src tests benchmarks

types: setup
	$(BIN)/mypy

imports: setup
	$(BIN)/lint-imports

pytest: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m "not slow" --cov --cov-report=term --cov-fail-under=90

test-all: test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m slow

demo: setup
	$(BIN)/offramp demo --out runs/demo

DATA_ROOT ?= ../shared/data

# What figures.py promises and more, on whatever machine this is; takes long, with the compiled runtime and the trainings.
bench: setup
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/batches.py --data-root $(DATA_ROOT)
	$(BIN)/python benchmarks/deadlines.py --data-root $(DATA_ROOT) --work runs/deadlines
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/stages.py
	$(BIN)/python benchmarks/recompute.py
	$(BIN)/python benchmarks/networks.py
	$(BIN)/python benchmarks/conversion.py
	$(BIN)/python benchmarks/bounds.py
	$(BIN)/python benchmarks/kept_memory.py
	$(BIN)/python benchmarks/alignment.py
	$(BIN)/python benchmarks/compiled.py
	$(BIN)/python benchmarks/families.py --data-root $(DATA_ROOT)
	$(BIN)/python benchmarks/budgets.py --data-root $(DATA_ROOT)
	$(BIN)/python benchmarks/cifar10.py --data-root $(DATA_ROOT)

# Every network of the catalog in every runtime and precision; goes on where an earlier run stopped.
verify: setup
	$(BIN)/python benchmarks/verify.py --data-root $(DATA_ROOT)

clean:
	rm -rf .venv dist build runs/demo
