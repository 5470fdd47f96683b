# make demo: set up, build, run the main jobs on real pictures.   make test: set up, build, run every test.
PYTHON ?= python3
TORCH ?= torch==2.13.0
IMAGE ?=

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
NATIVE_FILES := $(wildcard csrc/*.* csrc/*/*.*)
NATIVE := setup.py pyproject.toml $(NATIVE_FILES)

.PHONY: demo demo-train test test-cpu test-triton gate gate-record check fix gpu bench package clean

demo: $(VENV)/installed
	$(PY) -m examples.boundary_detection.demo --labels $(if $(IMAGE),--image "$(IMAGE)")
	@echo
	$(PY) -m examples.segmentation.demo
	@echo
	$(PY) -m benchmarks.memory inference --size 256 512 --plot demo/memory.png

# Trains on what a package index has, the left half of one picture, and scores the right half, before and after; it goes
# on where it was killed. demo/segmentation has its checkpoints.
demo-train: $(VENV)/installed
	$(PY) -m examples.segmentation.train --data stardist --steps 300 --output demo/segmentation

# Four sessions: the interpreter must be chosen before Triton is imported, ttsem replaces how Triton launches, and the
# gate compiles for GPUs that are not here. On two cores they take about 2, 4, 2 and 3 minutes.
test: test-cpu test-triton

test-cpu: $(VENV)/installed
	AFA_KERNELS_REQUIRE=cpu $(PY) -m pytest tests

test-triton: $(VENV)/installed
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
	PYTHONPATH=tests $(PY) tests/gate/offline.py

check: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/clang-format --dry-run -Werror $(NATIVE_FILES)
	$(VENV)/bin/mypy

fix: $(VENV)/installed
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	$(VENV)/bin/clang-format -i $(NATIVE_FILES)

# For a machine with a GPU: everything that only it can show, into a record to commit. It installs nothing; PYTHON needs
# torch, Triton and pytest.
gpu:
	$(PYTHON) -m benchmarks.gpu all

bench: $(VENV)/installed
	$(PY) -m benchmarks.run --output benchmarks/results/cpu.jsonl
	$(PY) -m benchmarks.registration
	$(PY) -m pytest benchmarks/test_micro.py --benchmark-only
	$(PY) -m benchmarks.report --write README.md docs/benchmarks.md docs/verification.md --output benchmarks/results/cpu.md

# The source distribution and both wheels, made of it; each wheel is installed alone and must choose the backend it has.
package: $(VENV)/installed
	$(PIP) build
	rm -rf dist
	$(PY) -m build
	AFA_KERNELS_NATIVE=1 $(PY) -m pip wheel --quiet --no-build-isolation --no-deps --wheel-dir dist dist/*.tar.gz
	set -e; for each in none-any:reference abi3-*:cpu; do \
	  $(PY) -m venv --clear $(VENV)-package; \
	  $(VENV)-package/bin/python -m pip install --quiet "$(TORCH)" dist/*-$${each%:*}.whl; \
	  (cd dist && ../$(VENV)-package/bin/python -c "import afa_kernels as a; i = a.backend_info(); print(i); assert i.chosen['cpu'] == '$${each#*:}'"); \
	done
	rm -rf $(VENV)-package

clean:
	rm -rf $(VENV) $(VENV)-package build dist *.egg-info afa_kernels/_native*.so demo .cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# ttsem is one wheel of pure Python whose metadata asks for a newer Python than it needs.
$(VENV)/installed: $(VENV)/bin/python $(NATIVE)
	$(PIP) "$(TORCH)" numpy ninja "setuptools>=77"
	AFA_KERNELS_NATIVE=1 $(PIP) --no-build-isolation --editable ".[check,demo,test]"
	if $(PY) -c "import triton"; then $(PIP) --no-deps --ignore-requires-python ttsem==0.1.0; fi
	$(PY) -m afa_kernels
	touch $@
