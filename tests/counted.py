"""Counts the device operations of a call, on hostcuda only: a GPU does not count them."""

import sys

HOSTCUDA = sys.modules.get("hostcuda")


def operations(call):
    """The result of a call, and the numbers of its device operations by name, or None on a GPU."""
    if HOSTCUDA is None:
        return call(), None
    HOSTCUDA.count()
    result = call()
    counts = HOSTCUDA.counts()
    HOSTCUDA.count(False)
    counts.pop("[malloc]", None)  # CuPy's pool allocates while it grows
    return result, counts


def settled(call):
    """The operations of the third of three calls, after all first-use initialization."""
    call()
    call()
    return operations(call)[1]
