# make demo: set up, build, run the main job on a real photograph.   make test: set up, build, run every test.
PYTHON ?= python3
TORCH ?= torch==2.13.0
IMAGE ?=

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
NATIVE_FILES := $(wildcard csrc/*.* csrc/*/*.*)
NATIVE := setup.py pyproject.toml $(NATIVE_FILES)

.PHONY: demo test gate gate-record check fix gpu-check bench clean

demo: $(VENV)/installed
	$(PY) examples/boundary_detection.py --labels $(if $(IMAGE),--image "$(IMAGE)")
	@echo
	$(PY) -m benchmarks.inference_memory --size 256 512 --plot demo/memory.png

# Four sessions: the interpreter must be chosen before Triton is imported, ttsem replaces how Triton launches, and the
# gate compiles for GPUs that are not here. On two cores they take about 2, 4, 2 and 3 minutes.
test: $(VENV)/installed
	AFA_KERNELS_REQUIRE=cpu $(PY) -m pytest tests
	@if $(PY) -c "import triton"; then \
	  echo "TRITON_INTERPRET=1: the Triton kernels in Triton's interpreter" && \
	  TRITON_INTERPRET=1 $(PY) -m pytest tests --ignore tests/test_backends.py -n auto --maxprocesses 8 && \
	  echo "ttsem: the Triton kernels' IR, with every access and race checked" && \
	  $(PY) -m pytest tests/ttsem -n auto --maxprocesses 8 && \
	  echo "gate: the Triton kernels compiled for GPUs that are not here" && \
	  $(PY) -m pytest tests/gate; \
	else echo "Triton's three sessions are skipped: the package triton is not installed here"; fi

# Compiles everything again; gate-record what has changed, and rewrites the registers, shared memory and occupancy.
gate: $(VENV)/installed
	AFA_KERNELS_GATE=all $(PY) -m pytest tests/gate

gate-record: $(VENV)/installed
	$(PY) tests/gate/offline.py

check: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/clang-format --dry-run -Werror $(NATIVE_FILES)
	$(VENV)/bin/mypy

fix: $(VENV)/installed
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	$(VENV)/bin/clang-format -i $(NATIVE_FILES)

# For a machine with a GPU: everything that only it can show, and a record to commit.
gpu-check: $(VENV)/installed
	$(PY) -m benchmarks.gpu_check

bench: $(VENV)/installed
	$(PY) -m benchmarks.run --output benchmarks/results/cpu.jsonl
	$(PY) -m benchmarks.registration
	$(PY) -m benchmarks.report --write README.md --output benchmarks/results/cpu.md

clean:
	rm -rf $(VENV) build dist *.egg-info afa_kernels/_native*.so demo .cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# ttsem is one wheel of pure Python whose metadata asks for a newer Python than it needs.
$(VENV)/installed: $(VENV)/bin/python $(NATIVE)
	$(PIP) "$(TORCH)" numpy ninja "setuptools>=77"
	AFA_KERNELS_NATIVE=1 $(PIP) --no-build-isolation --editable ".[check,demo,test]"
	if $(PY) -c "import triton"; then $(PIP) --no-deps --ignore-requires-python ttsem==0.1.0; fi
	$(PY) -m afa_kernels
	touch $@
