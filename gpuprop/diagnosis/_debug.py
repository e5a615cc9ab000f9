"""Checks that are made at once, and the search for the first NaN."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from gpuprop._core.instruments import check_at_once
from gpuprop.diagnosis._nan import detect_nan


@contextlib.contextmanager
def debug(nan: bool = False) -> Iterator[None]:
    """Make the checks of data, such as labels in range, at once inside the block: each raises where it fails.

    Elsewhere a device reports a failed check with the next value that the host reads.  With `nan`, raise
    FloatingPointError for the first NaN, naming the layer and the op, forward, backward or update, that it comes from:
    on the host at once, on a device at the end of the block.  Only this thread is watched, and no step is captured.
    """
    token = check_at_once.set(True)
    try:
        with detect_nan() if nan else contextlib.nullcontext():
            yield
    finally:
        check_at_once.reset(token)
