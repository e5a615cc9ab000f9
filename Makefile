# Each target installs what it needs. A fresh clone, Python 3.11 or later (with venv) and make are enough.
# PyTorch is only in .venv-peers, so that a dependency of the library on it would fail in .venv.

PYTHON ?= python3
BIN    := .venv/bin
PEERS  := .venv-peers/bin

.PHONY: help demo test test-numpy test-cupy oracle bench examples lint types clean
.NOTPARALLEL: # two installations into one environment would collide

help: ## print these lines
	@sed -n 's/^\([a-z-]*\):.*## /make \1	/p' Makefile

demo: .venv/demo.stamp ## train on real handwritten digits, on a GPU if there is one; curves and weights go to out/
	$(BIN)/python examples/digits.py

test: test-numpy test-cupy ## the whole suite, on NumPy and on the CuPy backend

# One thread per pytest worker: threads that compete for cores take many times longer.
ONE   = OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1
SUITE = $(ONE) $(BIN)/python -m pytest -q -n auto

test-numpy: .venv/test.stamp
	$(SUITE)

# With the real CuPy, on a GPU that tests/hostcuda emulates: once eagerly, and once with two devices and all device work
# delayed until something waits for it. The kernels that the suite is known to need are compiled first, many per file.
# The delay does not affect which calls raise, the counts of operations, or CuPy's own values: NOT_LAZY runs once.
# Of the checks of ops, those of parity and of captured calls run twice: the others make the same calls on the same
# streams with other values and dtypes.
NOT_LAZY = $(addprefix --ignore=tests/,test_strict_agrees.py test_device_operations.py test_gpu_facts.py \
               hostcuda/tests/test_against_numpy.py) \
           $(addprefix --deselect=tests/test_ops.py::,test_hidden test_half_types test_integers) \
           --deselect=tests/test_half_types.py::test_autocast_takes_one_array_of_a_half_type

test-cupy: .venv/test.stamp ## the suite on the CuPy backend
	@why=$$(PYTHONPATH=tests/hostcuda $(BIN)/python -c "import hostcuda; print(hostcuda.supported())"); \
	if [ "$$why" != True ]; then echo "LEFT OUT: the suite on the CuPy backend, since $$why"; exit 0; fi; \
	export PYTHONPATH="tests/hostcuda$${PYTHONPATH:+:$$PYTHONPATH}"; set -ex; \
	$(BIN)/python -m hostcuda.kernels build tests/cupy_kernels.json.gz; \
	$(SUITE) -p hostcuda.pytest_plugin --cupy-only; \
	HOSTCUDA_LAZY=1 HOSTCUDA_DEVICES=2 $(SUITE) -p hostcuda.pytest_plugin --cupy-only $(NOT_LAZY)

oracle: .venv-peers/oracle.stamp ## PyTorch's own test cases, compared with PyTorch on the CPU
	$(ONE) CUDA_VISIBLE_DEVICES= $(PEERS)/python -m pytest -q -n auto tests/oracle

bench: .venv-peers/bench.stamp ## speed compared with PyTorch and JAX, in an hour or more: docs/performance.md
	$(PEERS)/python -m benchmarks

examples: .venv/demo.stamp ## all examples as a whole, three times: hours. Figures go to README.md, pictures to docs/gallery
	$(BIN)/python -m benchmarks.examples

lint: .venv/dev.stamp ## ruff, and the layers of the architecture (no formatter: formulas are aligned by hand)
	$(BIN)/python -m ruff check
	$(BIN)/lint-imports

types: .venv/dev.stamp ## mypy, and the types that type checkers infer for the public functions
	$(BIN)/python -m mypy
	$(BIN)/python tests/typing/check.py

clean: ## remove all files that make created
	rm -rf .venv .venv-peers build dist out *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache

# ---- set-up: a stamp file means that its extras are installed; they are installed again if pyproject.toml changes ---

# ",cuda13x" or ",cuda12x", for the CUDA version of the NVIDIA driver, if there is one with a device; else empty.
CUDA = $(shell $(PYTHON) -c "import ctypes as c; cuda, v = c.CDLL('libcuda.so.1'), c.c_int(); \
	cuda.cuDriverGetVersion(c.byref(v)); major = min(v.value // 1000, 13); \
	print(f',cuda{major}x' if cuda.cuInit(0) == 0 and major >= 12 else '')" 2>/dev/null)
, := ,

.venv/demo.stamp:         EXTRAS = examples$(CUDA)
.venv/test.stamp:         EXTRAS = test$(or $(CUDA),$(,)names)
.venv/dev.stamp:          EXTRAS = dev
.venv-peers/oracle.stamp: EXTRAS = oracle
.venv-peers/bench.stamp:  EXTRAS = bench

.venv/demo.stamp .venv/test.stamp .venv/dev.stamp .venv-peers/oracle.stamp .venv-peers/bench.stamp: pyproject.toml
	@$(PYTHON) -c "import sys; sys.version_info >= (3, 11) or sys.exit( \
		'gpuprop needs Python 3.11 or later; $(PYTHON) is %d.%d. Name another: make PYTHON=python3.12' % sys.version_info[:2])"
	@echo "Setting up $(@D) for gpuprop[$(EXTRAS)]: a minute, once"
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[$(EXTRAS)]"
	@touch $@
