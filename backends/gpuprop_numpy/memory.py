"""Freed memory is kept for the next array, instead of being given back to the system and faulted in again."""

from __future__ import annotations

import ctypes
import functools
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h
NEVER = -1


@functools.cache
def keep_freed_memory() -> bool:
    """Have the C library keep what arrays below 1 GiB free, once for the process; tells whether it does.

    The temporaries that every array expression makes then cost no page faults; in exchange the process stays as large
    as it once was.  Only glibc can be told so; GPUPROP_MALLOC=0 leaves it alone.
    """
    if os.environ.get("GPUPROP_MALLOC") == "0":
        return False
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version()
        mallopt = libc.mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    largest = (1 << 30, 1 << 25)  # older versions refuse more than 32 MiB
    return any(mallopt(M_MMAP_THRESHOLD, size) for size in largest) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))
