"""`debug`: immediate checks of data, and NaN detection."""

from __future__ import annotations

import contextlib
from typing import Any

from gpuprop._core.checks import as_instance
from gpuprop._core.instruments import checking_at_once
from gpuprop._core.mode import Block, pop_block, push_block
from gpuprop.diagnosis._nan import detect_nan


def debug(nan: bool = False) -> Block:
    """Inside the block, checks of data, such as labels in range, raise where they fail.

    Outside the block, a failed check on a device raises only when the host next reads a value.

    With `nan`, raise FloatingPointError for the first NaN.  The message names the layer and the op,
    and whether the NaN is from the forward pass, the backward pass or an update.  On the host the
    error is raised immediately, on a device at the latest at the end of the block.

    Only the current thread is affected.  Captured steps run uncaptured.

    >>> with gpuprop.debug(nan=True):
    ...     gpuprop.log(gpuprop.tensor([1.0, -1.0]))
    Traceback (most recent call last):
    FloatingPointError: first NaN in the forward pass of log, computed from finite inputs
    """
    as_instance("debug: nan", nan, bool, "True or False")
    return Debug() if nan else checking_at_once()


class Debug(Block):
    """``debug(nan=True)``: each entry of the block has a detector of its own."""

    def __init__(self) -> None:
        self._open: list[contextlib.ExitStack] = []

    def __enter__(self) -> None:
        stack = contextlib.ExitStack()
        stack.enter_context(checking_at_once())
        stack.enter_context(detect_nan())
        push_block(self, stack)
        self._open.append(stack)

    def __exit__(self, *error: Any) -> None:
        stack, = pop_block(self) or self._open[-1:]  # the latter if another context ends the block
        self._open.remove(stack)
        stack.__exit__(*error)
