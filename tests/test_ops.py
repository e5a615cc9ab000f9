"""Every op, by its rows: gradients of both orders, and agreement of backends, dtypes and layouts.

``pytest tests/test_ops.py --op relu`` tests one op.
"""

import numpy as np
import pytest
from tested_backends import BACKENDS, RECORDS

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

DTYPES = ["float64", "float32", "float16", "bfloat16"]
ROWS = all_rows()
DISTINCT = distinct(ROWS)
# one row of each op, for checks that take long
FIRST = {row.name: row for row in DISTINCT[::-1] if not {"half", "parity"} & row.skipped.keys()}


def pytest_generate_tests(metafunc):
    """Parametrize tests with a `row` by all rows, or by those of the ops in ``--op``.

    Slow tests have a `distinct_row`.
    """
    name = next((n for n in ("row", "distinct_row") if n in metafunc.fixturenames), None)
    if name is None:
        return
    ops = metafunc.config.getoption("op")
    function_names = {row.name.partition(":")[2] for row in ROWS}
    unknown = set(ops) - function_names
    if unknown:
        raise pytest.UsageError(f"--op: no rows for {', '.join(sorted(unknown))}")
    rows = ROWS if name == "row" else DISTINCT
    selected = [pytest.param(row, id=f"{i}-{row!r}") for i, row in enumerate(rows)
                if not ops or row.name.partition(":")[2] in ops]
    metafunc.parametrize(name, selected)


def test_gradient(row):
    if "gradient" not in row.skipped:
        check_grad(row)


def test_second_order(row):
    skipped = {"gradient", "second"} & row.skipped.keys()
    if not skipped and any(a.dtype.kind == "f" for a in row.arrays()):
        check_second(row)


@pytest.mark.parametrize("name", BACKENDS)
def test_hidden(row, name):
    if "hidden" not in row.skipped:
        check_hidden(row, backend=name)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_parity(row, name, dtype):
    if "parity" not in row.skipped:
        check_parity(row, backend=name, dtype=dtype)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_types(distinct_row, name, dtype):
    is_slow = dtype == "float16" or name != "numpy"
    if not {"half", "parity"} & distinct_row.skipped.keys() and (
            not is_slow or distinct_row is FIRST[distinct_row.name]):
        check_half(distinct_row, backend=name, dtype=dtype)


@pytest.mark.parametrize("name", BACKENDS)
def test_integers(distinct_row, name):
    if not {"integers", "parity"} & distinct_row.skipped.keys() and (
            name == "numpy" or distinct_row is FIRST.get(distinct_row.name)):
        check_integers(distinct_row, backend=name)


@pytest.mark.parametrize("name", RECORDS)
def test_capture(row, name):
    if "capture" not in row.skipped:
        check_capture(row, backend=name)


def test_every_op_has_rows():
    packages = ("gpuprop._array.", "gpuprop.functional.")
    ops = {name for name, body in definitions.items() if body.__module__.startswith(packages)}
    assert ops - {row.name for row in ROWS} == set()


NEVER_EMPTY: dict[str, str] = {}  # op -> why no row of it has an empty input
NEVER_SINGLE = {  # op -> why no row of it has an input of one element
    "gpuprop.functional:glu": "two halves need two elements",
    "gpuprop.functional:affine_grid": "an affine map of the plane has six",
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
