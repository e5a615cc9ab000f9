"""`debug`: immediate checks of data, and NaN detection."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from gpuprop._core.instruments import check_at_once
from gpuprop.diagnosis._nan import detect_nan


@contextlib.contextmanager
def debug(nan: bool = False) -> Iterator[None]:
    """Inside the block, checks of data, such as labels in range, raise where they fail.

    Outside of it a device reports a failed check when the host next reads a value.

    With `nan`, raise FloatingPointError for the first NaN.  The message names the layer and the op,
    and whether the NaN is from the forward pass, the backward pass or an update.  The host raises
    immediately, a device at the end of the block.

    Only the current thread is affected.  Captured steps run uncaptured.

    >>> with gpuprop.debug(nan=True):
    ...     gpuprop.log(gpuprop.tensor([1.0, -1.0]))
    Traceback (most recent call last):
    FloatingPointError: first NaN in the forward pass of log, computed from finite inputs
    """
    token = check_at_once.set(True)
    try:
        with detect_nan() if nan else contextlib.nullcontext():
            yield
    finally:
        check_at_once.reset(token)
