"""Memory of arrays: freed memory that is used again, and places for results."""

from __future__ import annotations

import ctypes
import functools
import os
from typing import Any

import numpy as np

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h
NEVER = -1


@functools.cache
def keep_freed_memory() -> bool:
    """Make glibc keep the memory of freed arrays below 1 GiB; return whether it does.

    The temporaries of array expressions then cause no page faults.  In exchange, the process keeps
    its peak size.  Takes effect once per process.  Other C libraries have no such setting, and
    GPUPROP_MALLOC=0 turns it off.
    """
    if os.environ.get("GPUPROP_MALLOC") == "0":
        return False
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version()
        mallopt = libc.mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    largest = (1 << 30, 1 << 25)  # older versions of glibc accept 32 MiB at most
    return any(mallopt(M_MMAP_THRESHOLD, size) for size in largest) \
        and bool(mallopt(M_TRIM_THRESHOLD, NEVER))


def is_place(out: Any, shape: tuple[int, ...], dtype: np.dtype, *operands: np.ndarray) -> bool:
    """Whether a result may be written to `out` while the operands are read; `out` may be None."""
    return (out is not None and out.shape == shape and out.dtype == dtype and out.flags.carray
            and not any(np.may_share_memory(out, a) for a in operands))
