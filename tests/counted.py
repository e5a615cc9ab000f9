"""Device operations of a call, counted by hostcuda; a GPU does not tell."""

import sys

HOSTCUDA = sys.modules.get("hostcuda")


def operations(call):
    """What a call returns, and its device operations: how many by name, or None on a GPU."""
    if HOSTCUDA is None:
        return call(), None
    HOSTCUDA.count()
    result = call()
    counts = HOSTCUDA.counts()
    HOSTCUDA.count(False)
    counts.pop("[malloc]", None)  # of CuPy's pool, while it is small
    return result, counts


def settled(call):
    """The operations of a call that was made before: what is made at first use is there."""
    call()
    call()
    return operations(call)[1]
