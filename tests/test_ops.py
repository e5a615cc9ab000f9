"""Every op, by its rows: gradients of both orders, and agreement of backends, dtypes and layouts.

``pytest tests/test_ops.py --op relu`` tests one op.
"""

import numpy as np
import pytest
from tested_backends import BACKENDS, RECORDS
from together import together

import gpuprop.functional as F
from gpuprop._core.ops import definitions
from gpuprop.testing import (
    all_rows,
    check_capture,
    check_grad,
    check_half,
    check_hidden,
    check_integers,
    check_parity,
    check_second,
    distinct,
)

ROWS = all_rows()
NAMES = {row: f"{i}-{row!r}" for i, row in enumerate(ROWS)}
DISTINCT = set(distinct(ROWS))
# one row of each op, for checks that take long
FIRST = {*{row.name: row for row in ROWS[::-1] if row in DISTINCT
           and not {"half", "parity"} & row.skipped.keys()}.values()}


def each_row(*checks, backends=BACKENDS, only=lambda row, backend: True):
    """Run a test with the rows that skip none of `checks`, on each backend.

    ``only(row, backend)`` selects rows for a check that takes long.
    """
    def decorate(test):
        test.cases = [(row, backend) for row in ROWS if not {*checks} & row.skipped.keys()
                      for backend in backends if only(row, backend)]
        return test

    return decorate


def pytest_generate_tests(metafunc):
    """Parametrize tests with a `row` by their cases, or by those of the ops in ``--op``."""
    if "row" not in metafunc.fixturenames:
        return
    ops = metafunc.config.getoption("op")
    unknown = set(ops) - {row.name.partition(":")[2] for row in ROWS}
    if unknown:
        raise pytest.UsageError(f"--op: no rows for {', '.join(sorted(unknown))}")
    metafunc.parametrize(("row", "backend_name"), [
        pytest.param(row, backend, id=f"{NAMES[row]}-{backend}")
        for row, backend in metafunc.function.cases
        if not ops or row.name.partition(":")[2] in ops])


def in_each_dtype(check, row, backend, dtypes):
    """Run a check in several dtypes, and raise the errors of all together."""
    with together(f"{check.__name__}, {row} on {backend!r}") as case:
        for dtype in dtypes:
            with case(dtype):
                check(row, backend=backend, dtype=dtype)


@each_row("gradient", backends=["numpy"])
def test_gradient(row, backend_name):
    check_grad(row)


@each_row("gradient", "second", backends=["numpy"],
          only=lambda row, backend: any(a.dtype.kind == "f" for a in row.arrays()))
def test_second_order(row, backend_name):
    check_second(row)


@each_row("hidden")
def test_hidden(row, backend_name):
    check_hidden(row, backend=backend_name)


@each_row("parity")
def test_parity(row, backend_name):
    in_each_dtype(check_parity, row, backend_name, ["float64", "float32", "float16", "bfloat16"])


@each_row("half", "parity", only=lambda row, backend:
          row in FIRST or (row in DISTINCT and backend == "numpy"))
def test_half_types(row, backend_name):
    dtypes = ["bfloat16", "float16"] if row in FIRST else ["bfloat16"]
    in_each_dtype(check_half, row, backend_name, dtypes)


@each_row("integers", "parity", only=lambda row, backend:
          row in FIRST or (row in DISTINCT and backend == "numpy"))
def test_integers(row, backend_name):
    check_integers(row, backend=backend_name)


@each_row("capture", backends=RECORDS)
def test_capture(row, backend_name):
    check_capture(row, backend=backend_name)


def test_errors_in_several_dtypes_are_raised_together():
    def check(row, *, backend, dtype):
        assert dtype == "float32"

    with pytest.raises(ExceptionGroup, match=r"^check, exp.* on 'numpy': float64; float16") as e:
        in_each_dtype(check, "exp(float64[2])", "numpy", ["float64", "float32", "float16"])
    assert len(e.value.exceptions) == 2


# kernels that draw numbers: test_distributions compares their bits on all backends
SAMPLERS = "bernoulli", "binomial", "categorical", "poisson", "standard_noise"


def test_every_op_has_rows():
    packages = ("gpuprop._array.", "gpuprop.functional.", "gpuprop.distributions.")
    ops = {name for name, body in definitions.items() if body.__module__.startswith(packages)}
    assert ops - {row.name for row in ROWS} == {
        f"gpuprop.distributions:{name}" for name in SAMPLERS}


def test_every_function_has_rows():
    names = {row.name.partition(":")[2] for row in ROWS}
    assert {*F.__all__} - names == {"alibi_slopes", "anchor_boxes"}, "without arguments that vary"


NEVER_EMPTY = {  # op -> why no row of it has an empty input
    "gpuprop.functional:lovasz_softmax_loss": "the mean over no present class is NaN",
}
NEVER_SINGLE = {  # op -> why no row of it has an input of one element
    "gpuprop.functional:glu": "two halves need two elements",
    "gpuprop.functional:affine_grid": "an affine map of the plane has six",
    **{f"gpuprop.functional:{name}": "a box has four" for name in (
        "box_area", "box_convert", "box_iou", "clip_boxes_to_image", "generalized_box_iou")},
}


def test_every_op_has_empty_and_single_inputs():
    sizes = {}
    for row in ROWS:
        sizes.setdefault(row.name, set()).update(a.size for a in row.arrays())
    for name, own in sizes.items():
        assert 0 in own or name in NEVER_EMPTY, f"{name} has no row with an empty input"
        assert 1 in own or name in NEVER_SINGLE, f"{name} has no row with an input of one element"


def test_dtypes_of_rows():
    """Rows have float64, int64 and bool arrays, and uint64 for rng_keys."""
    allowed = {np.dtype(t) for t in ("float64", "int64", "uint64", "bool")}
    for row in ROWS:
        assert {a.dtype for a in row.arrays()} <= allowed, row
