"""The backend "numpy": arrays in host memory, computed on the CPU."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from gpuprop.backend import Backend, Namespace, is_half
from gpuprop_numpy import (
    activation,
    attention,
    convolution,
    linear,
    losses,
    normalization,
    pooling,
    recurrent,
    scatter,
    special,
)
from gpuprop_numpy.memory import keep_freed_memory
from gpuprop_numpy.pointwise import blockwise
from gpuprop_numpy.products import matmul
from gpuprop_numpy.recorder import RecordingBackend
from gpuprop_numpy.recording import CpuRecording
from gpuprop_numpy.threads import let_blas_threads_sleep

__all__ = ["NumpyBackend"]

INTEGERS: dict[Any, np.dtype] = {
    np.dtype(f"float{bits}"): np.dtype(f"int{bits}") for bits in (16, 32, 64)}
NUMBERS = int, float
BOOL = np.dtype(bool)
MAX_RECORDED = 1 << 21  # bytes of the arrays of a captured step
MIN_WHERE = 1024  # elements; np.where is as fast below


def where(condition: Any, *choices: Any) -> Any:
    """``np.where``, but faster for an array and a Python number.

    np.where branches on every element, which takes ten times as long if the condition is random.
    Here the bits in which the array and the number differ are multiplied by 0 or 1, which gives the
    same result, NaN and infinity included.
    """
    array, number = choices or (None, None)
    if type(number) is np.ndarray:
        array, number = number, array
    if type(number) is int and number and type(array) is np.ndarray and array.dtype.kind in "iu":
        number = array.dtype.type(number)  # raises OverflowError, where np.where would wrap
    if type(array) is not np.ndarray or array.size < MIN_WHERE or type(number) not in NUMBERS:
        return _plain_where(condition, *choices)
    integer = INTEGERS.get(array.dtype)
    if integer is None or type(condition) is not np.ndarray or condition.dtype is not BOOL:
        return _plain_where(condition, *choices)
    chosen = condition if array is choices[0] else ~condition
    if condition.size < array.size:  # to cast it is cheap, and products of one dtype are faster
        chosen = chosen.astype(integer)
    if number == 0 and type(number) is int:  # not -0.0
        return (array.view(integer) * chosen).view(array.dtype)
    bits = np.asarray(number, array.dtype).view(integer)
    result = (array.view(integer) ^ bits) * chosen
    result ^= bits
    return result.view(array.dtype)


def _plain_where(condition: Any, *choices: Any) -> Any:
    """``np.where``, but NumPy 2.0 damages memory for bfloat16 beside a Python integer."""
    halves = [c.dtype for c in choices if hasattr(c, "dtype") and is_half(c.dtype)]
    return np.where(condition, *[halves[0].type(c) if halves and type(c) is int else c
                                 for c in choices])


if np.lib.NumpyVersion(np.__version__) >= "2.1.0":
    _plain_where = np.where  # type: ignore[assignment]


def check(condition: Any, message: str, values: Any = None) -> None:
    """Raise IndexError(message) unless every element of `condition` is true.

    `values` has the shape of `condition`.  The first wrong element is appended to the message.
    """
    if condition.all():
        return
    if values is not None:
        index = np.unravel_index(np.argmin(condition), np.shape(condition))
        message += f", got {values[index]} at index {tuple(map(int, index))}"
    raise IndexError(message)


xp = Namespace(
    np,
    check=check,
    digamma=special.digamma,
    erf=special.erf,
    erfc=special.erfc,
    erfinv=special.erfinv,
    index_add=scatter.index_add,
    lgamma=special.lgamma,
    matmul=matmul,
    polygamma=special.polygamma,
    sigmoid=special.sigmoid,
    where=where,
)


class NumpyBackend(Backend):
    """NumPy, with elementwise bodies in blocks and threads, and reuse of freed memory.

    NumPy's warnings follow the user's np.errstate, and point to the line that computes a NaN.
    Loops of Numba do not warn.
    """

    name = "numpy"
    aliases = ("cpu",)
    priority = 0
    xp = xp
    array_type = np.ndarray
    records = True
    array_modules = ("numpy",)
    dlpack_devices = (1, 3)  # DLPack's kDLCPU and kDLCUDAHost, pinned memory
    kernels = {
        "gpuprop.functional:attention": attention.attention,
        "gpuprop.functional:conv": convolution.conv,
        "gpuprop.functional:conv_transpose": convolution.conv_transpose,
        "gpuprop.functional:cross_entropy_from_indices": losses.cross_entropy,
        "gpuprop.functional:embedding_lookup": scatter.embedding,
        "gpuprop.functional:gelu": activation.gelu,
        "gpuprop.functional:linear": linear.linear,
        "gpuprop.functional:max_pool": pooling.max_pool,
        "gpuprop.functional:scan": recurrent.scan,
        "gpuprop.functional:standardize": normalization.standardize,
    }

    def __init__(self) -> None:
        self.recorder: RecordingBackend = RecordingBackend(self)
        keep_freed_memory()
        let_blas_threads_sleep()

    def record(self, tensors: Iterable[Any] = ()) -> AbstractContextManager[CpuRecording]:
        return CpuRecording(self.recorder).of(tensors)

    def pays_to_record(self, arrays: Iterable[Any]) -> bool:
        """Calls with large arrays take more time than Python between them, and copies memory."""
        return sum(a.nbytes for a in arrays) <= MAX_RECORDED

    def conditions(self) -> Any:
        """Overrides run other loops if NumPy must warn or raise."""
        return tuple(np.geterr().values())

    def asarray(self, value: Any, dtype: Any = None) -> np.ndarray:
        subclass = isinstance(value, np.ndarray) and type(value) is not np.ndarray
        if subclass and isinstance(value, np.ma.MaskedArray):  # np.ma is slow to import
            raise TypeError(
                "the mask of a masked array would be lost: fill the array first, with "
                ".filled(...)")
        return np.asarray(value, dtype)

    def _to_numpy(self, array: np.ndarray) -> np.ndarray:
        return np.array(array)

    def own(self, out: Any) -> np.ndarray:
        return out if type(out) is np.ndarray else np.asarray(out)

    def _pointwise(self, fn: Callable) -> Callable:
        return blockwise(fn)

    def check(self, condition: Any, message: str, values: Any = None) -> None:
        check(condition, message, values)

    def memory(self) -> dict[str, int]:
        """Bytes ``used`` by this process, and ``free`` and ``total`` ones of the machine.

        The result is empty if the operating system does not report them.
        """
        try:
            with open("/proc/self/statm") as f:
                used = int(f.read().split()[1])
            pages = {
                "used": used,
                "free": os.sysconf("SC_AVPHYS_PAGES"),
                "total": os.sysconf("SC_PHYS_PAGES"),
            }
            return {key: n * os.sysconf("SC_PAGE_SIZE") for key, n in pages.items()}
        except (AttributeError, OSError, ValueError):
            return {}
