"""All checks of ops, for a backend package."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gpuprop._core.dtypes import HALF, as_dtype
from gpuprop.testing._checks import TOLERANCE, check_hidden, check_parity
from gpuprop.testing._types import check_half, check_integers, distinct
from gpuprop.testing.rows import Row, all_rows


def conformance(backend: str, rows: Iterable[Row] | None = None) -> Callable:
    """A pytest function that checks a backend with every row, in every floating dtype.

    A backend package tests itself with one line::

        test_backend = gpuprop.testing.conformance("mine")
    """
    import pytest  # needed by tests only

    table = list(all_rows() if rows is None else rows)
    few = {id(row) for row in distinct(table)}

    @pytest.mark.parametrize("row", table, ids=repr)
    @pytest.mark.parametrize("dtype", list(TOLERANCE))
    def test_conformance(row: Row, dtype: str) -> None:
        if "hidden" not in row.skipped and dtype == "float64":
            check_hidden(row, backend=backend)
        if "parity" in row.skipped:
            return
        check_parity(row, backend=backend, dtype=dtype)
        if id(row) in few and dtype == "float32" and "integers" not in row.skipped:
            check_integers(row, backend=backend)
        if id(row) in few and as_dtype(dtype).char in HALF and "half" not in row.skipped:
            check_half(row, backend=backend, dtype=dtype)

    return test_conformance
