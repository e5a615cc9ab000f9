"""The number of threads of the CPU."""

from gpuprop._core.checks import as_integer
from gpuprop_numpy import threads

__all__ = ["get_num_threads", "set_num_threads"]


def set_num_threads(n: int) -> None:
    """Let one operation on the CPU use `n` threads: of gpuprop, and of NumPy's matrix products.

    The results have the same bits with every number, except where BLAS itself adds in another
    order.  The default is the number of processors that the process may use, at most 8:
    OMP_NUM_THREADS, the affinity and the control group limit it.  Raises ValueError if `n` is not
    positive, or no 32-bit integer, as BLAS takes.

    >>> import gpuprop
    >>> n = gpuprop.get_num_threads()
    >>> gpuprop.set_num_threads(1)
    >>> gpuprop.get_num_threads()
    1
    >>> gpuprop.set_num_threads(n)
    """
    n = as_integer("set_num_threads: n", n, 1)
    if n >= 2**31:
        raise ValueError(f"set_num_threads: n must be below 2**31, got {n}")
    threads.set_num_threads(n)


def get_num_threads() -> int:
    """The number of threads that one operation on the CPU may use."""
    return threads.get_num_threads()
