"""Warnings and messages that point to the caller's code."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable
from types import FrameType

PACKAGE = os.path.dirname(os.path.dirname(__file__)) + os.sep


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Issue a warning that points to the innermost frame outside of the gpuprop package.

    It does what `skip_file_prefixes` of `warnings.warn` does in Python 3.12.
    """
    level = 1
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame = frame.f_back
        level += 1
    warnings.warn(message, category, stacklevel=level)


_issued: set[str] = set()  # the messages of `warn_once`


def warn_once(message: str, category: type[Warning] = UserWarning) -> None:
    """Issue a warning, as `warn` does, once in a process."""
    if message not in _issued:
        _issued.add(message)
        warn(message, category)


def was_issued(message: str) -> bool:
    """True if `warn_once` has issued this warning."""
    return message in _issued


SKIPPED_MODULES = ("gpuprop._core.", "numpy", "contextlib")


def calling_line(frames: Iterable[tuple[FrameType, int]],
                 skip: tuple[str, ...] = ()) -> tuple[str, str]:
    """The innermost frame whose code is not in gpuprop's core, NumPy or the modules `skip`.

    `frames` are pairs (frame, line number), innermost first, as `traceback.walk_stack` yields them.
    `skip` are prefixes of module names.  Returns the frame's code, as in
    ``"adam_update (_adam.py:31)"``, and the name of the function that it called, or ``""``.
    """
    skipped = SKIPPED_MODULES + skip
    called = ""
    for frame, line in frames:
        code = frame.f_code
        if not frame.f_globals.get("__name__", "").startswith(skipped):
            return f"{code.co_qualname} ({os.path.basename(code.co_filename)}:{line})", called
        called = code.co_qualname
    return "this step", called
