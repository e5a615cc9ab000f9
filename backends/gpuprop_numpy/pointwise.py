"""Elementwise bodies, computed block by block so that temporaries stay in the CPU's cache.

If Numba is installed, it compiles bodies of arithmetic to loops without temporaries.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from gpuprop.backend import half_type, is_half, several
from gpuprop_numpy.compiled import MIN_SIZE, may_be_silent
from gpuprop_numpy.threads import get_num_threads, in_threads_if_long
from gpuprop_numpy.traced import loop_of

SMALL = 1 << 18  # arrays with up to so many elements are computed in one piece, and one thread
BLOCK = 3 << 16  # elements at most; threads disturb each other between the operations of a block
FIRST = 1 << 15  # elements of the block whose time decides on threads
UNIT = 64  # elements: blocks are multiples of it, so that they begin with a cache line
EVENLY = 4  # the number of large blocks is a multiple of it, for 2 or 4 threads


def blockwise(fn: Callable) -> Callable:
    """Run the elementwise body ``fn(xp, *arrays, **constants)`` in blocks and threads.

    The results are those of `fn`.  Half types (float16, bfloat16) are computed in float32; results
    and updated arguments are rounded once.
    """

    loops: dict[tuple, Any] = {}

    @functools.wraps(fn)
    def run(xp: Any, *arrays: Any, **constants: Any) -> Any:
        size, has_narrow = _size(arrays)
        if size >= MIN_SIZE and not has_narrow and (flat := _flattened(arrays)) is not None:
            loop, sample = _loop_for(fn, xp, flat, constants, loops)
            if loop is not None:
                return _in_loop(loop, sample, arrays, flat)
        if size > SMALL or has_narrow:
            return _run(fn, xp, arrays, constants, loops)
        return fn(xp, *arrays, **constants)

    return run


def runs_as_it_is(arrays: Iterable) -> bool:
    """Whether `blockwise` calls a body with these arrays themselves."""
    size, has_narrow = _size(arrays)
    return size < MIN_SIZE and size <= SMALL and not has_narrow


def _size(arrays: Iterable) -> tuple[int, bool]:
    """The size of the largest array, and whether one has a half type or another of two bytes."""
    size, has_narrow = 0, False
    for a in arrays:
        if isinstance(a, np.ndarray):
            size = max(size, a.size)
            has_narrow = has_narrow or a.itemsize == 2
    return size, has_narrow


def _flattened(arrays: Sequence) -> list | None:
    """Contiguous arrays of one shape with one axis, and those of one number with none.

    None if there are others.  An array that is given twice is one array in the result, too: the
    body sees its own updates.
    """
    shape: tuple[int, ...] = ()
    flat: dict[int, np.ndarray] = {}  # by id
    for a in arrays:
        if isinstance(a, np.ndarray) and a.ndim:
            shape = shape or a.shape
            if a.shape != shape:
                return None
            if a.flags.c_contiguous:
                flat[id(a)] = a.reshape(-1)
            elif _is_one_number(a):
                flat[id(a)] = _element(a)
            else:
                return None
    return [flat.get(id(a), a) for a in arrays]


def _in_loop(loop: Callable, sample: Any, arrays: Sequence, flat: list) -> Any:
    """The results of a compiled loop for arrays, which are given flattened, too."""
    shape = next(a.shape for a in arrays if isinstance(a, np.ndarray) and a.ndim)
    outs = [np.empty(shape, r.dtype) for r in several(sample)]
    arguments = [*flat, *[out.reshape(-1) for out in outs]]
    size = math.prod(shape)
    if size <= SMALL or get_num_threads() == 1:  # a loop has no temporaries
        loop(*arguments)
    else:
        def work(block: tuple[slice]) -> None:
            loop(*[a[block] if np.ndim(a) else a for a in arguments])

        in_threads_if_long(work, _flat_blocks(size), FIRST / size, (slice(FIRST, size),))
    return _like(sample, outs)


def _run(fn: Callable, xp: Any, arrays: Sequence, constants: dict[str, Any],
         loops: dict[tuple, Any]) -> Any:
    body = functools.partial(fn, xp, **constants)
    shape = np.broadcast_shapes(*map(np.shape, arrays))
    half = half_type(arrays)
    if half is None and math.prod(shape) <= SMALL:  # a small array of 2-byte integers
        return body(*arrays)
    ids = [id(a) for a in arrays]
    inputs, axes, flat = _in_memory_order(arrays, shape)
    # by id, so that an array given twice has one block, in which the body sees its own updates
    by_id = dict(zip(ids, inputs, strict=True))
    loop = None
    if flat and half is None:
        loop, sample = _loop_for(fn, xp, [by_id[i] for i in ids], constants, loops)
    else:
        sample = body(*map(_empty, arrays))
    extent = [shape[i] for i in axes]
    outs = [np.empty(extent, half if is_half(r.dtype) else r.dtype) for r in several(sample)]
    targets = [out.reshape(-1) for out in outs] if flat else outs
    compute = body if half is None else functools.partial(_in_float32, body)
    whole = {i: a for i, a in by_id.items() if not np.ndim(a)}
    if loop is None:  # functions of 0-d arrays return NumPy's scalars, which are not updated
        whole = {i: a.reshape(1) if isinstance(a, np.ndarray) else a for i, a in whole.items()}
    cut = [(i, a) for i, a in by_id.items() if np.ndim(a)]

    def work(index: tuple[slice, ...]) -> None:
        block_of = whole | {i: _block(a, index) for i, a in cut}
        blocks = [block_of[i] for i in ids]
        if loop is not None:
            loop(*blocks, *[target[index] for target in targets])
            return
        for target, result in zip(targets, several(compute(*blocks)), strict=True):
            target[index] = result

    # float16 may overflow without a warning: loss scaling detects the infinities
    quiet = contextlib.nullcontext() if half is None else np.errstate(over="ignore")
    with quiet:
        if flat:
            size = math.prod(shape)
            rest = None if loop is None else (slice(FIRST, size),)
            in_threads_if_long(work, _flat_blocks(size), FIRST / max(FIRST, size), rest)
        else:
            blocks = _block_indices(extent)
            in_threads_if_long(work, blocks, 1 / max(1, len(blocks)))
    return _like(sample, [out.transpose(np.argsort(axes)) for out in outs])


def _like(sample: Any, outs: list) -> Any:
    """The results as a body returns them: as a tuple, as one array, or None."""
    if type(sample) is tuple:
        return tuple(outs)
    return outs[0] if outs else None


def _loop_for(fn: Callable, xp: Any, arrays: Sequence, constants: dict[str, Any],
              loops: dict[tuple, Any]) -> tuple[Callable | None, Any]:
    """The loop for flat arrays, 0-d arrays and numbers, or None, and what the body returns.

    The latter has no elements.
    """
    ids = [id(a) for a in arrays]
    given_twice = () if len({*ids}) == len(ids) else tuple(map(ids.index, ids))
    key = (*map(_kind, arrays), given_twice, repr(constants) if constants else "")
    if key not in loops:
        sample = fn(xp, *map(_empty, arrays), **constants)
        loops[key] = loop_of(fn, arrays, constants, [r.dtype for r in several(sample)]), sample
    loop, sample = loops[key]
    return (loop if may_be_silent() else None), sample


def _kind(a: Any) -> tuple:
    """What the code of a loop depends on."""
    return (a.dtype, a.ndim, a.flags.writeable) if isinstance(a, np.ndarray) else (type(a),)


# ---- blocks --------------------------------------------------------------------------------------


def _in_memory_order(arrays: Sequence, shape: Sequence[int]) -> tuple[list, list[int], bool]:
    """The arrays with their axes in memory order, that order, and whether all are flattened.

    Arrays of one number become 0-d.
    """
    full = [a for a in arrays if isinstance(a, np.ndarray) and a.shape == shape]
    axes = sorted(range(len(shape)), key=lambda i: -sum(abs(a.strides[i]) for a in full))

    def view(a: Any) -> Any:
        if not isinstance(a, np.ndarray):
            return a
        if _is_one_number(a):
            return _element(a)
        return a.reshape((1,) * (len(shape) - a.ndim) + a.shape).transpose(axes)

    views = [view(a) for a in arrays]
    large = [a for a in views if np.ndim(a)]
    flat = all(a.size == math.prod(shape) and a.flags.c_contiguous for a in large)
    if flat:
        views = [a.reshape(-1) if np.ndim(a) else a for a in views]
    return views, axes, flat


def _is_one_number(a: np.ndarray) -> bool:
    """True for one element, also if it is broadcast, as the gradient of a mean is."""
    return a.size == 1 or (a.size > 0 and not any(a.strides))


def _element(a: np.ndarray) -> np.ndarray:
    """The first element, as a 0-d view."""
    return a[(0,) * a.ndim + (...,)]


def _flat_blocks(size: int) -> list[tuple[slice]]:
    """Index tuples that cut a flat array into a small block, the first, and equal large ones."""
    rest = max(0, size - FIRST)
    pieces = math.ceil(rest / (BLOCK * EVENLY)) * EVENLY
    step = math.ceil(rest / (pieces * UNIT)) * UNIT if rest else 1
    starts = range(FIRST, size, step)
    return [(slice(0, FIRST),), *[(slice(i, i + step),) for i in starts]]


def _block_indices(shape: Sequence[int]) -> list[tuple[slice, ...]]:
    """Index tuples that cut the leading axes of `shape` into blocks of about BLOCK elements."""
    if not math.prod(shape):
        return []
    # the last axis that is cut
    axis = next(i for i in range(len(shape)) if math.prod(shape[i + 1:]) <= BLOCK)
    n = shape[axis]
    pieces = math.ceil(math.prod(shape[axis:]) / (BLOCK * EVENLY)) * EVENLY
    step = math.ceil(n / pieces)
    single = [[slice(i, i + 1) for i in range(m)] for m in shape[:axis]]
    return list(itertools.product(*single, [slice(i, i + step) for i in range(0, n, step)]))


def _block(a: np.ndarray, index: tuple[slice, ...]) -> np.ndarray:
    """The block of `a`; axes of length 1 are broadcast and stay whole."""
    return a[tuple(i if n > 1 else slice(None) for i, n in zip(index, a.shape, strict=False))]


# ---- dtypes --------------------------------------------------------------------------------------


def _empty(a: Any) -> Any:
    """An empty array of the dtype of `a`, to find out the dtypes that a body returns.

    float16 replaces bfloat16, which NumPy would promote together with a Python number.
    """
    if not isinstance(a, np.ndarray):
        return a
    return np.empty(0, np.float16 if is_half(a.dtype) else a.dtype)


def _in_float32(body: Callable, *arrays: Any) -> Any:
    """``body(*arrays)`` with float32 copies of half types; updates are copied back."""
    halves = {id(a): a for a in arrays if isinstance(a, np.ndarray) and is_half(a.dtype)}
    wide = {i: a.astype(np.float32) for i, a in halves.items()}
    results = body(*(wide.get(id(a), a) for a in arrays))
    for i, a in halves.items():
        if not np.array_equal(a, wide[i], equal_nan=True):  # the body updated it
            a[...] = wide[i]
    return results
