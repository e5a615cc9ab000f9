"""Matrix products by direct calls of cuBLAS.

CuPy's own products fail while a stream captures, and they copy many operands.  Eager and captured
products both use this module, so that a replay has the same bits as the eager step.
"""

from __future__ import annotations

import ctypes
import functools
import math
import os
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import cupy
import numpy as np

from gpuprop_cupy import INSTALL

INT32 = 2**31 - 1  # larger sizes need the entry points named _64

# ---- the library --------------------------------------------------------------------------------

N, T = 0, 1  # CUBLAS_OP_N, CUBLAS_OP_T
ALGORITHM = -1  # CUBLAS_GEMM_DEFAULT: chosen by cuBLAS's heuristics
# CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION: a product that is split does not round its
# float32 partial sums to float16.  Without CUBLAS_TF32_TENSOR_OP_MATH float32 is not rounded
# to TF32.
MATH = 16


class Kind(NamedTuple):
    """How cuBLAS multiplies a dtype: cudaDataType, cublasComputeType_t, and its 1 and 0."""

    data: int
    compute: int
    one: Any
    zero: Any


_FLOAT = ctypes.c_float(1), ctypes.c_float(0)
_DOUBLE = ctypes.c_double(1), ctypes.c_double(0)
_KINDS = {
    "float32": Kind(0, 68, *_FLOAT),
    "float64": Kind(1, 70, *_DOUBLE),
    "float16": Kind(2, 68, *_FLOAT),
    "bfloat16": Kind(14, 68, *_FLOAT),
}


@functools.cache
def _kind(dtype: Any) -> Kind | None:
    return _KINDS.get(dtype.name)


class Library:
    """The cuBLAS that CuPy has loaded, so that the process loads only one."""

    def __init__(self) -> None:
        try:
            from cupy_backends.cuda.libs import cublas  # finds and loads the library
        except ImportError as e:
            raise ImportError("matrix products need cuBLAS, which CuPy cannot find "
                              f"({e}): {INSTALL}") from e
        if os.name == "nt":
            from cuda import pathfinder  # type: ignore[import-untyped]

            path = pathfinder.load_nvidia_dynamic_lib("cublas").abs_path
        else:
            path = cublas.__file__  # symbols are looked up in the libraries it was linked with, too
        self._dll = ctypes.CDLL(path)
        handle, size, integer = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
        self._declare("cublasCreate_v2", ctypes.POINTER(handle))
        self._declare("cublasSetMathMode", handle, integer)
        self._declare("cublasSetStream_v2", handle, handle)
        self._declare("cublasSetWorkspace_v2", handle, handle, size)

    def _declare(self, name: str, *types: Any) -> Any:
        function = getattr(self._dll, name)
        function.argtypes = types
        function.restype = ctypes.c_int
        return function

    def call(self, name: str, *args: Any) -> None:
        self.check(name, getattr(self._dll, name)(*args))

    def check(self, name: str, status: int) -> None:
        if status:
            text = self._dll.cublasGetStatusString
            text.restype = ctypes.c_char_p
            raise RuntimeError(f"{name}: {text(status).decode()}")

    @functools.cache  # noqa: B019 (there is one library)
    def gemm(self, strided: bool, int64: bool) -> Any:
        """cublasGemmEx or cublasGemmStridedBatchedEx, with sizes of 64 bits if `int64`."""
        size = ctypes.c_int64 if int64 else ctypes.c_int
        pointer, integer = ctypes.c_void_p, ctypes.c_int
        stride = (ctypes.c_longlong,) * strided
        count = (size,) * strided
        matrix = pointer, integer, size, *stride
        name = f"cublasGemm{'StridedBatched' * strided}Ex{'_64' * int64}"
        return self._declare(
            name, pointer, integer, integer, size, size, size,
            pointer, *matrix, *matrix, pointer, *matrix, *count, integer, integer)


@functools.cache
def library() -> Library:
    return Library()


# ---- handles ------------------------------------------------------------------------------------


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
        # the address of the workspace that all recordings share, while this thread records
        self.shared_workspace: int | None = None

    def follow(self, stream: int) -> None:
        """Use CuPy's current stream, with a workspace that no other stream writes to.

        All recordings share one workspace, since their replays run one after the other.

        CuPy's pool reuses memory that was allocated on a stream only for later work on it, so the
        old workspace may be dropped while it is in use.  Setting the stream makes cuBLAS forget
        the workspace, so the workspace is set second.
        """
        self.stream = None
        self.library.call("cublasSetStream_v2", self.pointer, stream)
        size = workspace_size(cupy.cuda.runtime.getDevice())
        workspace = cupy.cuda.alloc(size) if self.shared_workspace is None else None
        address = self.shared_workspace if workspace is None else workspace.ptr
        self.library.call("cublasSetWorkspace_v2", self.pointer, address, size)
        self.stream = stream
        self.workspace = workspace


@functools.cache
def workspace_size(device: int) -> int:
    """Bytes of a workspace, as cuBLAS recommends for the GPU's architecture."""
    major = int(cupy.cuda.Device(device).compute_capability[:-1])
    return (32 if major >= 9 else 4) << 20


class _Handles(threading.local):
    """This thread's handles by device; when the thread ends, other threads reuse them.

    Handles are never destroyed, because that waits for the whole device.
    """

    spare: dict[int, list[Handle]] = {}

    def __init__(self) -> None:
        self.own: dict[int, Handle] = {}
        self._end = _AtEnd(self.own, self.spare)

    def get(self, device: int) -> Handle:
        handle = self.own.get(device)
        if handle is None:
            try:
                handle = self.spare[device].pop()
            except (KeyError, IndexError):
                handle = Handle()
            self.own[device] = handle
        return handle


class _AtEnd:
    """Returns a thread's handles when the thread ends."""

    def __init__(self, own: dict[int, Handle], spare: dict[int, list[Handle]]) -> None:
        self.own = own
        self.spare = spare

    def __del__(self) -> None:
        for device, handle in self.own.items():
            handle.stream = handle.workspace = handle.shared_workspace = None
            self.spare.setdefault(device, []).append(handle)


_handles = _Handles()


def set_shared_workspace(address: int | None) -> None:
    """Set the workspace of this thread's next products on this device; None is the handle's own.

    This also creates the handle, which is impossible during a capture.
    """
    try:
        handle = _handles.get(cupy.cuda.runtime.getDevice())
    except ImportError:  # a step without products needs no cuBLAS
        return
    handle.stream = handle.workspace = None
    handle.shared_workspace = address


# ---- plans --------------------------------------------------------------------------------------


class Operand(NamedTuple):
    """A row-major matrix or a batch of them; sizes and strides are counted in elements."""

    rows: int
    columns: int
    row: int  # the stride from row to row
    column: int
    batch: Sequence[int] = ()  # the strides from matrix to matrix, along each batch axis
    copied: tuple[int, ...] = ()  # the shape of the copy that is multiplied instead, if any

    def layout(self) -> tuple[int, int] | None:
        """The transposition for cuBLAS and the leading dimension, or None if it needs a copy.

        N if rows are contiguous, T if columns are.  cuBLAS is column-major, so it reads a
        row-major matrix as the transpose.  The leading dimension must be at least the length of
        a contiguous row or column.
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
    """The copies and the one cuBLAS call for operands of given dtypes, shapes and strides."""

    shape: tuple[int, ...]  # of the result
    dtype: Any
    a_copied: tuple[int, ...]
    b_copied: tuple[int, ...]
    gemm: Any = None  # None if the result is empty or all zeros
    before_b: tuple = ()  # the arguments between the pointers
    before_a: tuple = ()
    before_out: tuple = ()
    last: tuple = ()


Array = tuple[Any, tuple[int, ...], tuple[int, ...]]  # dtype, shape and strides


@functools.lru_cache(maxsize=4096)
def _plan(a: Array, b: Array, dtype: Any) -> Plan | Any:
    """A Plan, or the dtype to which both operands must first be cast, or None: CuPy multiplies."""
    a_dtype, a_shape, a_strides = a
    b_dtype, b_shape, b_strides = b
    common = a_dtype if a_dtype == b_dtype else cupy.result_type(a_dtype, b_dtype)
    out = common if dtype is None else np.dtype(dtype)
    if out != common and not (out == "float32" and common.itemsize == 2 and _kind(common)):
        common = out
    if not a_dtype == b_dtype == common:
        return common
    if _kind(common) is None or not (a_shape and b_shape):
        return None
    x_shape, x_strides = a_shape, [n // common.itemsize for n in a_strides]
    y_shape, y_strides = b_shape, [n // common.itemsize for n in b_strides]
    if len(a_shape) == 1:
        x_shape, x_strides = (1, *x_shape), [0, *x_strides]
    if len(b_shape) == 1:
        y_shape, y_strides = (*y_shape, 1), [*y_strides, 0]
    if x_shape[-1] != y_shape[-2]:
        raise ValueError(
            f"matmul: the last axis of the first array has length {x_shape[-1]}, but the second "
            f"array takes {y_shape[-2]}: got shapes {a_shape} and {b_shape}")
    batch = np.broadcast_shapes(x_shape[:-2], y_shape[:-2])
    shape = (*batch, *a_shape[-2:-1], *(b_shape[-1:] if len(b_shape) > 1 else ()))
    if not (math.prod(shape) and x_shape[-1]):
        return Plan(shape, out, (), ())
    x = None
    if batch and math.prod(y_shape[:-2]) == 1:  # all matrices are multiplied with one
        x = _as_one_matrix(x_shape, x_strides)
    if x is not None:
        batch = ()
        y = _operand(y_shape[-2:], y_strides[-2:], batch)
    else:
        x = _operand(x_shape, x_strides, batch)
        y = _operand(y_shape, y_strides, batch)
    return _with_call(Plan(shape, out, x.copied, y.copied), x, y, batch, _kind(common))


def _with_call(plan: Plan, x: Operand, y: Operand, batch: tuple[int, ...], kind: Any) -> Plan:
    """The plan with the arguments of its call.

    Column-major cuBLAS computes the transpose of the result: that of `y` times that of `x`.
    """
    axes = _merged_axes(batch, x.batch, y.batch)
    count, x_batch, y_batch = axes[0] if axes else (1, 0, 0)
    x_op, x_ld = x.layout()  # type: ignore[misc]
    y_op, y_ld = y.layout()  # type: ignore[misc]
    sizes = y.columns, x.rows, x.columns
    strided = count > 1
    int64 = max(*sizes, x_ld, y_ld, count) > INT32
    if_strided = lambda n: (n,) * strided
    result: Any = _kind(plan.dtype)
    return plan._replace(
        gemm=library().gemm(strided, int64),
        before_b=(y_op, x_op, *sizes, ctypes.byref(kind.one)),
        before_a=(kind.data, y_ld, *if_strided(y_batch)),
        before_out=(kind.data, x_ld, *if_strided(x_batch), ctypes.byref(kind.zero)),
        last=(result.data, y.columns, *if_strided(x.rows * y.columns), *if_strided(count),
              kind.compute, ALGORITHM))


def _merged_axes(shape: Sequence[int], *strides: Sequence[int]) -> list[tuple[int, ...]]:
    """(length, stride in each array) per axis; adjacent axes are merged if all strides allow it."""
    axes: list[tuple[int, ...]] = []
    for n, *inner in zip(shape, *strides, strict=True):
        if n == 1:
            continue
        if axes and all(outer == n * s for outer, s in zip(axes[-1][1:], inner, strict=True)):
            axes[-1] = axes[-1][0] * n, *inner
        else:
            axes.append((n, *inner))
    return axes


def _as_one_matrix(shape: tuple[int, ...], strides: Sequence[int]) -> Operand | None:
    """A batch of matrices as one matrix with all their rows, if their strides allow it."""
    axes = _merged_axes(shape[:-1], strides[:-1])
    if len(axes) > 1:
        return None
    n, row = axes[0] if axes else (1, 0)
    matrix = Operand(n, shape[-1], row, strides[-1])
    return matrix if matrix.layout() else None


def _operand(shape: tuple[int, ...], strides: Sequence[int], batch: tuple[int, ...]) -> Operand:
    """The matrices in place, or in a copy if cuBLAS cannot read their strides."""
    along_batch = [0 if n == 1 else s for n, s in zip(shape[:-2], strides, strict=False)]
    along_batch = [0] * (len(batch) - len(along_batch)) + along_batch
    operand = Operand(shape[-2], shape[-1], strides[-2], strides[-1], along_batch)
    if len(_merged_axes(batch, along_batch)) > 1 or min(along_batch, default=0) < 0:
        shape = (*batch, *shape[-2:])
    elif operand.layout():
        return operand
    contiguous = [math.prod(shape[i + 1:]) for i in range(len(shape))]
    return _operand(shape, contiguous, batch)._replace(copied=shape)


# ---- products -----------------------------------------------------------------------------------


def matmul(a: Any, b: Any, dtype: Any = None) -> Any:
    """The product of two arrays as in NumPy's `matmul`, by one call of cuBLAS.

    Half types are multiplied and summed in float32 and rounded once; ``dtype="float32"`` returns
    the sums unrounded.  An operand is copied if neither its rows nor its columns are contiguous,
    or if one stride does not lead from each matrix of a batch to the next.  CuPy multiplies
    integers, booleans and complex numbers.
    """
    plan = _plan((a.dtype, a.shape, a.strides), (b.dtype, b.shape, b.strides), dtype)
    if type(plan) is not Plan:
        if plan is None:
            return cupy.matmul(a, b)  # raises for 0-d arrays
        return matmul(a.astype(plan, copy=False), b.astype(plan, copy=False), dtype)
    if plan.gemm is None:
        return cupy.zeros(plan.shape, plan.dtype)
    device = cupy.cuda.runtime.getDevice()
    x = _prepared(a, plan.a_copied, device)
    y = _prepared(b, plan.b_copied, device)
    out = cupy.ndarray(plan.shape, plan.dtype)
    handle = _handles.get(device)
    stream = cupy.cuda.get_current_stream().ptr
    if handle.stream != stream:
        handle.follow(stream)
    status = plan.gemm(
        handle.pointer, *plan.before_b, y.data.ptr, *plan.before_a, x.data.ptr,
        *plan.before_out, out.data.ptr, *plan.last)
    if status:
        handle.library.check(plan.gemm.__name__, status)
    return out


def _prepared(a: Any, copied: tuple[int, ...], device: int) -> Any:
    """The operand, or a contiguous copy of shape `copied` unless that is ()."""
    if a.data.device_id != device:
        raise ValueError(
            f"The device where the array resides ({a.data.device_id}) is different from the "
            f"current device ({device}): make its device current with "
            f"gpuprop.use('cuda:{a.data.device_id}')")
    if not copied:
        return a
    if a.size == math.prod(copied):  # the shapes differ in axes of length 1 only
        return cupy.ascontiguousarray(a.reshape(copied))
    return cupy.ascontiguousarray(cupy.broadcast_to(a, copied))
