"""Matrix products by cuBLAS, called directly: CuPy refuses them while a stream captures, and copies many operands.

Eager and captured products take this one path, so that a replay has the bits of the eager step.
"""

from __future__ import annotations

import ctypes
import functools
import math
import os
import threading
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import cupy
import numpy as np

from gpuprop_cupy import INSTALL

INT32 = 2**31 - 1  # beyond it, only the entry points named _64 take a size

# ---- the library ----------------------------------------------------------------------------------------------------

N, T = 0, 1  # CUBLAS_OP_N, CUBLAS_OP_T
ALGORITHM = -1  # CUBLAS_GEMM_DEFAULT: its heuristics
# Sums in float32 are not rounded to float16 where a product is split: CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION.
# Without CUBLAS_TF32_TENSOR_OP_MATH float32 is multiplied as float32.
MATH = 16


class Kind(NamedTuple):
    """How cuBLAS multiplies a dtype: cudaDataType, cublasComputeType_t, and the scalars of the type it computes in."""

    data: int
    compute: int
    one: Any
    zero: Any


_FLOAT, _DOUBLE = (ctypes.c_float(1), ctypes.c_float(0)), (ctypes.c_double(1), ctypes.c_double(0))
_KINDS = {"float32": Kind(0, 68, *_FLOAT), "float64": Kind(1, 70, *_DOUBLE), "float16": Kind(2, 68, *_FLOAT),
          "bfloat16": Kind(14, 68, *_FLOAT)}


@functools.cache
def _kind(dtype: Any) -> Kind | None:
    return _KINDS.get(dtype.name)


class Library:
    """The cuBLAS that CuPy has loaded, so that there is one in the process."""

    def __init__(self) -> None:
        try:
            from cupy_backends.cuda.libs import cublas  # CuPy's search for the library, and its loading
        except ImportError as e:
            raise ImportError(f"matrix products need cuBLAS, which CuPy does not find ({e}): {INSTALL}") from e
        if os.name == "nt":
            from cuda import pathfinder  # type: ignore[import-untyped]

            path = pathfinder.load_nvidia_dynamic_lib("cublas").abs_path
        else:
            path = cublas.__file__  # a symbol is looked for in what a library was linked with, too
        self._dll = ctypes.CDLL(path)
        handle, size, integer = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
        self._declare("cublasCreate_v2", ctypes.POINTER(handle))
        self._declare("cublasSetMathMode", handle, integer)
        self._declare("cublasSetStream_v2", handle, handle)
        self._declare("cublasSetWorkspace_v2", handle, handle, size)

    def _declare(self, name: str, *types: Any) -> Any:
        function = getattr(self._dll, name)
        function.argtypes, function.restype = types, ctypes.c_int
        return function

    def call(self, name: str, *args: Any) -> None:
        self.check(name, getattr(self._dll, name)(*args))

    def check(self, name: str, status: int) -> None:
        if status:
            text = self._dll.cublasGetStatusString
            text.restype = ctypes.c_char_p
            raise RuntimeError(f"{name}: {text(status).decode()}")

    @functools.cache  # noqa: B019 (there is one library)
    def gemm(self, strided: bool, wide: bool) -> Any:
        """cublasGemmEx or cublasGemmStridedBatchedEx; sizes of 64 bits if `wide`."""
        size = ctypes.c_int64 if wide else ctypes.c_int
        pointer, integer, stride = ctypes.c_void_p, ctypes.c_int, (ctypes.c_longlong,) * strided
        matrix = pointer, integer, size, *stride
        name = f"cublasGemm{'StridedBatched' * strided}Ex{'_64' * wide}"
        return self._declare(name, pointer, integer, integer, size, size, size, pointer, *matrix, *matrix, pointer,
                             *matrix, *(size,) * strided, integer, integer)


@functools.cache
def library() -> Library:
    return Library()


# ---- handles --------------------------------------------------------------------------------------------------------


class Handle:
    """A cuBLAS handle, for one device and one thread at a time."""

    def __init__(self) -> None:
        self.library = library()
        pointer = ctypes.c_void_p()
        self.library.call("cublasCreate_v2", ctypes.byref(pointer))
        self.pointer = pointer.value
        self.library.call("cublasSetMathMode", self.pointer, MATH)
        self.stream: int | None = None
        self.workspace: Any = None
        self.lent: int | None = None  # the address of the workspace of recordings, while this thread records

    def follow(self, stream: int) -> None:
        """Have the next calls go to CuPy's current stream, with a workspace that no other stream writes to.

        Recordings have one workspace together, for their replays are run one after the other.

        CuPy's pool hands out what was allocated on a stream only to later work on it, so the workspace before may be
        dropped while it is in use.  Setting the stream makes cuBLAS forget the workspace, so this is the order.
        """
        self.stream = None
        self.library.call("cublasSetStream_v2", self.pointer, stream)
        size = workspace_size(cupy.cuda.runtime.getDevice())
        workspace = cupy.cuda.alloc(size) if self.lent is None else None
        address = self.lent if workspace is None else workspace.ptr
        self.library.call("cublasSetWorkspace_v2", self.pointer, address, size)
        self.stream, self.workspace = stream, workspace


@functools.cache
def workspace_size(device: int) -> int:
    """Bytes, as cuBLAS recommends for the architecture."""
    major = int(cupy.cuda.Device(device).compute_capability[:-1])
    return (32 if major >= 9 else 4) << 20


class _Handles(threading.local):
    """This thread's handles by device; another thread goes on with them when it has ended.

    None is destroyed, for that waits for the whole device.
    """

    spare: defaultdict[int, list[Handle]] = defaultdict(list)

    def __init__(self) -> None:
        self.own: dict[int, Handle] = {}
        self._end = _AtEnd(self.own, self.spare)

    def get(self, device: int) -> Handle:
        handle = self.own.get(device)
        if handle is None:
            try:
                handle = self.spare[device].pop()
            except IndexError:
                handle = Handle()
            self.own[device] = handle
        return handle


class _AtEnd:
    """Gives a thread's handles back when the thread ends."""

    def __init__(self, own: dict[int, Handle], spare: defaultdict[int, list[Handle]]) -> None:
        self.own, self.spare = own, spare

    def __del__(self) -> None:
        for device, handle in self.own.items():
            handle.stream = handle.workspace = handle.lent = None
            self.spare[device].append(handle)


_handles = _Handles()


def lend_workspace(address: int | None) -> None:
    """Have this thread's next products on this device use a workspace that lies there, or again, for None, their own.

    The handle is made now, which a captured step cannot do.
    """
    try:
        handle = _handles.get(cupy.cuda.runtime.getDevice())
    except ImportError:  # a step without products needs no cuBLAS
        return
    handle.stream = handle.workspace = None
    handle.lent = address


# ---- plans ----------------------------------------------------------------------------------------------------------


class Operand(NamedTuple):
    """A matrix, or a batch of them, in row-major words: lengths and strides are counted in elements."""

    rows: int
    columns: int
    row: int  # from row to row
    column: int
    batch: Sequence[int] = ()  # from matrix to matrix, over each axis of the batch
    copied: tuple[int, ...] = ()  # the shape of the copy to be made first, if any

    def layout(self) -> tuple[int, int] | None:
        """How cuBLAS reads it: N where rows are contiguous, T where columns are, and the leading dimension.

        cuBLAS is column-major, so a row-major matrix is to it the transpose.  None if neither fits: the leading
        dimension must not be less than what it skips.
        """
        if self.column == 1 or self.columns == 1:
            if self.rows == 1:
                return N, self.columns
            if self.row >= self.columns:
                return N, self.row
        if (self.row == 1 or self.rows == 1) and self.column >= self.rows:
            return T, self.column
        return None


class Plan(NamedTuple):
    """What to do for operands of some shapes and strides: copies, and one call of cuBLAS."""

    shape: tuple[int, ...]  # the result's
    dtype: Any
    a_copied: tuple[int, ...]
    b_copied: tuple[int, ...]
    gemm: Any = None  # None where nothing is to be added up
    before_b: tuple = ()  # the arguments between the pointers
    before_a: tuple = ()
    before_out: tuple = ()
    last: tuple = ()


Array = tuple[Any, tuple[int, ...], tuple[int, ...]]  # dtype, shape and strides


@functools.lru_cache(maxsize=4096)
def _plan(a: Array, b: Array, dtype: Any) -> Plan | Any:
    """A Plan; the dtype that the operands are to be cast to; or None for what CuPy multiplies."""
    common = a[0] if a[0] == b[0] else cupy.result_type(a[0], b[0])
    out = common if dtype is None else np.dtype(dtype)
    if out != common and not (out == "float32" and common.itemsize == 2 and _kind(common)):
        common = out
    if not a[0] == b[0] == common:
        return common
    if _kind(common) is None or not (a[1] and b[1]):
        return None
    itemsize = common.itemsize
    (a_shape, a_strides), (b_shape, b_strides) = ((s, [n // itemsize for n in t]) for _, s, t in (a, b))
    x_shape, x_strides = ((1, *a_shape), [0, *a_strides]) if len(a_shape) == 1 else (a_shape, a_strides)
    y_shape, y_strides = ((*b_shape, 1), [*b_strides, 0]) if len(b_shape) == 1 else (b_shape, b_strides)
    if x_shape[-1] != y_shape[-2]:
        raise ValueError(f"matmul: the last axis of the first array has length {x_shape[-1]}, and that of the second "
                         f"it is multiplied with {y_shape[-2]}: shapes {a_shape} and {b_shape}")
    batch = np.broadcast_shapes(x_shape[:-2], y_shape[:-2])
    shape = (*batch, *a_shape[-2:-1], *(b_shape[-1:] if len(b_shape) > 1 else ()))
    if not (math.prod(shape) and x_shape[-1]):
        return Plan(shape, out, (), ())
    x = _tall(x_shape, x_strides) if batch and math.prod(y_shape[:-2]) == 1 else None
    if x:  # one matrix for all
        y, batch = _operand(y_shape[-2:], y_strides[-2:], ()), ()
    else:
        x, y = _operand(x_shape, x_strides, batch), _operand(y_shape, y_strides, batch)
    return _call(x, y, batch, Plan(shape, out, x.copied, y.copied), _kind(common))


def _call(x: Operand, y: Operand, batch: tuple[int, ...], plan: Plan, kind: Any) -> Plan:
    """The plan with its call: to column-major cuBLAS, the result's transpose is that of `y` times that of `x`."""
    axes = _collapsed(batch, x.batch, y.batch)
    count, x_batch, y_batch = axes[0] if axes else (1, 0, 0)
    (x_op, x_ld), (y_op, y_ld) = x.layout(), y.layout()  # type: ignore[misc]
    sizes = y.columns, x.rows, x.columns
    strided, wide = count > 1, max(*sizes, x_ld, y_ld, count) > INT32
    stride = lambda n: (n,) * strided
    result: Any = _kind(plan.dtype)
    return plan._replace(
        gemm=library().gemm(strided, wide), before_b=(y_op, x_op, *sizes, ctypes.byref(kind.one)),
        before_a=(kind.data, y_ld, *stride(y_batch)),
        before_out=(kind.data, x_ld, *stride(x_batch), ctypes.byref(kind.zero)),
        last=(result.data, y.columns, *stride(x.rows * y.columns), *stride(count), kind.compute, ALGORITHM))


def _collapsed(shape: Sequence[int], *strides: Sequence[int]) -> list[tuple[int, ...]]:
    """Axes as (length, stride in each array), neighbours that all arrays pass through evenly made one."""
    axes: list[tuple[int, ...]] = []
    for n, *inner in zip(shape, *strides, strict=True):
        if n == 1:
            continue
        if axes and all(outer == n * s for outer, s in zip(axes[-1][1:], inner, strict=True)):
            axes[-1] = axes[-1][0] * n, *inner
        else:
            axes.append((n, *inner))
    return axes


def _tall(shape: tuple[int, ...], strides: Sequence[int]) -> Operand | None:
    """All rows of a batch of matrices as those of one, if they lie evenly."""
    axes = _collapsed(shape[:-1], strides[:-1])
    if len(axes) > 1:
        return None
    n, row = axes[0] if axes else (1, 0)
    tall = Operand(n, shape[-1], row, strides[-1])
    return tall if tall.layout() else None


def _operand(shape: tuple[int, ...], strides: Sequence[int], batch: tuple[int, ...]) -> Operand:
    """Matrices as they lie, or as those of a copy where cuBLAS cannot read them so."""
    over = [0 if n == 1 else s for n, s in zip(shape[:-2], strides, strict=False)]
    over = [0] * (len(batch) - len(over)) + over
    found = Operand(shape[-2], shape[-1], strides[-2], strides[-1], over)
    if len(_collapsed(batch, over)) > 1 or min(over, default=0) < 0:
        shape = (*batch, *shape[-2:])
    elif found.layout():
        return found
    contiguous = [math.prod(shape[i + 1:]) for i in range(len(shape))]
    return _operand(shape, contiguous, batch)._replace(copied=shape)


# ---- products -------------------------------------------------------------------------------------------------------


def matmul(a: Any, b: Any, dtype: Any = None) -> Any:
    """The product of two arrays as NumPy's, computed in float32 for half types and rounded once, or not at all where
    `dtype`, the result's, is float32.

    It is one call of cuBLAS.  Operands are copied where neither their rows nor their columns are contiguous, or where
    the matrices of a batch do not lie evenly.  Integers, bool and complex numbers are CuPy's.
    """
    plan = _plan((a.dtype, a.shape, a.strides), (b.dtype, b.shape, b.strides), dtype)
    if type(plan) is not Plan:
        if plan is None:
            return cupy.matmul(a, b)  # with its error for what has no axes
        return matmul(a.astype(plan, copy=False), b.astype(plan, copy=False), dtype)
    if plan.gemm is None:
        return cupy.zeros(plan.shape, plan.dtype)
    device = cupy.cuda.runtime.getDevice()
    x, y = _memory(a, plan.a_copied, device), _memory(b, plan.b_copied, device)
    out = cupy.ndarray(plan.shape, plan.dtype)
    handle, stream = _handles.get(device), cupy.cuda.get_current_stream().ptr
    if handle.stream != stream:
        handle.follow(stream)
    status = plan.gemm(handle.pointer, *plan.before_b, y.data.ptr, *plan.before_a, x.data.ptr, *plan.before_out,
                       out.data.ptr, *plan.last)
    if status:
        handle.library.check(plan.gemm.__name__, status)
    return out


def _memory(a: Any, copied: tuple[int, ...], device: int) -> Any:
    if a.data.device_id != device:
        raise ValueError(f"The device where the array resides ({a.data.device_id}) is different from the current "
                         f"device ({device}): make it current with gpuprop.use('cuda:...')")
    if not copied:
        return a
    same = a.size == math.prod(copied)  # but for axes of length 1
    return cupy.ascontiguousarray(a.reshape(copied) if same else cupy.broadcast_to(a, copied))
