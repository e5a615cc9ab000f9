"""Every op, by its rows: gradients of first and second order, agreement of backends, versions and memory layouts."""

import numpy as np
import pytest
from tested_backends import BACKENDS, RECORDS

from gpuprop._core.ops import definitions
from gpuprop.testing import all_rows, check_capture, check_grad, check_parity, check_second

ROWS = all_rows()
by_row = pytest.mark.parametrize("row", ROWS, ids=[f"{i}-{r!r}" for i, r in enumerate(ROWS)])


@by_row
def test_gradient(row):
    if "gradient" not in row.reasons:
        check_grad(row)


@by_row
def test_second_order(row):
    if not {"gradient", "second"} & row.reasons.keys() and any(a.dtype.kind == "f" for a in row.arrays()):
        check_second(row)


@by_row
@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_parity(row, name, dtype):
    if "parity" not in row.reasons:
        check_parity(row, backend=name, dtype=dtype)


@by_row
@pytest.mark.parametrize("name", RECORDS)
def test_capture(row, name):
    if "capture" not in row.reasons:
        check_capture(row, backend=name)


def test_every_op_has_rows():
    missing = set(definitions) - {row.name for row in ROWS}
    assert not {name for name in missing if name.startswith("gpuprop.functional")}


NEVER_EMPTY: dict[str, str] = {}  # op -> why no row of it has an empty input
NEVER_SINGLE = {
    "gpuprop.functional:glu": "two halves need two elements",
    "gpuprop.functional:affine_grid": "a map of a plane has six",
}


def test_every_op_meets_empty_and_single_inputs():
    for name in {row.name for row in ROWS}:
        own = [[a for a in row.arrays()] for row in ROWS if row.name == name]
        empty = any(a.size == 0 for arrays in own for a in arrays)
        single = any(a.size == 1 for arrays in own for a in arrays)
        assert empty or name in NEVER_EMPTY, f"{name} has no row with an empty input"
        assert single or name in NEVER_SINGLE, f"{name} has no row with an input of one element"


def test_rows_are_of_float64_and_integers():
    """And of uint64, which rng_keys of noise are."""
    for row in ROWS:
        assert {a.dtype for a in row.arrays()} <= {np.dtype(t) for t in ("float64", "int64", "uint64", "bool")}, row
