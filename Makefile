# Each target does all of its own set-up from a fresh clone: Python 3.11 or later (with venv) and make are enough.
# .venv is the library's; .venv-peers also holds PyTorch, apart, so that nothing of ours can lean on it unnoticed.

PYTHON ?= python3
BIN    := .venv/bin
PEERS  := .venv-peers/bin

.PHONY: help demo test test-numpy test-cupy oracle bench lint types clean
.NOTPARALLEL: # two installations into one environment would collide

help: ## these lines
	@sed -n 's/^\([a-z-]*\):.*## /make \1	/p' Makefile

demo: .venv/demo.stamp ## train on real handwritten digits, on the GPU if one answers; curves and weights go to out/
	$(BIN)/python examples/digits.py

test: test-numpy test-cupy ## the whole suite, on NumPy and on the CuPy backend

# A worker has one core: threads that wait for cores cost many times the work.
ONE   = OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1
SUITE = $(ONE) $(BIN)/python -m pytest -q -n auto

test-numpy: .venv/test.stamp
	$(SUITE)

# On the real CuPy, for whose GPU tests/hostcuda answers: once as it is, once with all device work delayed until something
# waits for it, and on two devices. The kernels that the suite is known to need are compiled first, many in one file. When work is done changes nothing in what is refused, counted, or CuPy's own values.
NOT_LAZY = $(addprefix --ignore=tests/,test_strict_agrees.py test_device_operations.py hostcuda/tests/test_against_numpy.py)

test-cupy: .venv/test.stamp ## the suite on the CuPy backend
	@why=$$(PYTHONPATH=tests/hostcuda $(BIN)/python -c "import hostcuda; print(hostcuda.supported())"); \
	if [ "$$why" != True ]; then echo "LEFT OUT: the suite on the CuPy backend, since $$why"; exit 0; fi; \
	export PYTHONPATH="tests/hostcuda$${PYTHONPATH:+:$$PYTHONPATH}"; set -ex; \
	$(BIN)/python -m hostcuda.kernels build tests/cupy_kernels.json.gz; \
	$(SUITE) -p hostcuda.pytest_plugin --cupy-only; \
	HOSTCUDA_LAZY=1 HOSTCUDA_DEVICES=2 $(SUITE) -p hostcuda.pytest_plugin --cupy-only $(NOT_LAZY)

oracle: .venv-peers/oracle.stamp ## PyTorch's own test cases, with PyTorch on the CPU as the judge
	$(ONE) CUDA_VISIBLE_DEVICES= $(PEERS)/python -m pytest -q -n auto tests/oracle

bench: .venv-peers/bench.stamp ## speed beside other libraries
	$(PEERS)/python -m benchmarks

lint: .venv/dev.stamp ## ruff, and the layers of the architecture (layout is by hand, so that formulas line up)
	$(BIN)/python -m ruff check
	$(BIN)/lint-imports

types: .venv/dev.stamp ## mypy, and what type checkers know of the public functions
	$(BIN)/python -m mypy
	$(BIN)/python tests/typing/check.py

clean: ## all that make made
	rm -rf .venv .venv-peers build dist out *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache

# ---- set-up: a stamp says that its extras are installed; a newer pyproject.toml has them installed again ------------

# ",cuda13x" or ",cuda12x" where an NVIDIA driver with a device answers, after the CUDA that it speaks; else nothing.
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
