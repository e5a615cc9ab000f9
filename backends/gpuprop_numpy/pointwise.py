"""Elementwise bodies block by block: their temporaries stay in cache instead of passing through memory."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import itertools
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpuprop.backend import half_type, is_half, several

BLOCK = 1 << 17  # elements; with smaller ones threads lose more by handing the interpreter on than they win
SMALL = 2 * BLOCK  # up to here a body runs as it is
PARALLEL = 8 * BLOCK  # from here on in threads
THREADS = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


@functools.cache
def _pool() -> Any:
    from concurrent.futures import ThreadPoolExecutor  # with logging, which few programs need at once

    return ThreadPoolExecutor(THREADS, "gpuprop")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork, and their pool would wait


def blockwise(fn: Callable) -> Callable:
    """The elementwise body ``fn(xp, *arrays, **constants)``, with the same results, large arrays in blocks and threads.

    Half types (float16, bfloat16) are computed in float32; what is returned or updated is rounded once.
    """

    @functools.wraps(fn)
    def run(xp: Any, *arrays: Any, **constants: Any) -> Any:
        for a in arrays:
            if isinstance(a, np.ndarray) and (a.size > SMALL or a.itemsize == 2):
                return _run(functools.partial(fn, xp, **constants), arrays)
        return fn(xp, *arrays, **constants)

    return run


def _run(body: Callable, arrays: Sequence) -> Any:
    shape = np.broadcast_shapes(*map(np.shape, arrays))
    half = half_type(arrays)
    if half is None and math.prod(shape) <= SMALL:  # an integer of two bytes
        return body(*arrays)
    sample = body(*map(_empty, arrays))
    same = list(map(id, arrays))
    ins, axes, flat = _in_memory_order(arrays, shape)
    extent = [shape[i] for i in axes]
    outs = [np.empty(extent, half if is_half(r.dtype) else r.dtype) for r in several(sample)]
    parts = [out.reshape(-1) for out in outs] if flat else outs
    compute = body if half is None else functools.partial(_in_float32, body)

    def work(blocks: Sequence) -> None:
        for index in blocks:
            given = {k: _part(a, index) for k, a in zip(same, ins, strict=True)}  # one part of what is given twice
            results = compute(*(given[k] for k in same))
            for out, result in zip(parts, several(results), strict=True):
                out[index] = result

    with contextlib.nullcontext() if half is None else np.errstate(over="ignore"):  # loss scaling looks for infinities
        _share(work, _blocks([math.prod(shape)] if flat else extent))
    outs = [out.transpose(np.argsort(axes)) for out in outs]
    return tuple(outs) if type(sample) is tuple else outs[0] if outs else None


# ---- where -----------------------------------------------------------------------------------------------------------


def _in_memory_order(arrays: Sequence, shape: Sequence[int]) -> tuple[list, list[int], bool]:
    """The arrays with `shape`'s axes in the order in which they lie in memory, that order, and whether all are flat.

    An array of one element becomes 0-d, so that what depends on those only is computed for those only.
    """
    whole = [a for a in arrays if isinstance(a, np.ndarray) and a.shape == shape]
    axes = sorted(range(len(shape)), key=lambda i: -sum(abs(a.strides[i]) for a in whole))

    def view(a: Any) -> Any:
        if not isinstance(a, np.ndarray):
            return a
        return a.reshape(()) if a.size == 1 else a.reshape((1,) * (len(shape) - a.ndim) + a.shape).transpose(axes)

    ins = [view(a) for a in arrays]
    large = [a for a in ins if np.ndim(a)]
    flat = all(a.size == math.prod(shape) and a.flags.c_contiguous for a in large)
    return [a.reshape(-1) if np.ndim(a) else a for a in ins] if flat else ins, axes, flat


def _blocks(shape: Sequence[int]) -> list[tuple[slice, ...]]:
    """Index tuples that cut the leading axes of `shape` into pieces of about BLOCK elements."""
    if not math.prod(shape):
        return []
    axis = next(i for i in range(len(shape)) if math.prod(shape[i + 1:]) <= BLOCK)  # the last one that is cut
    n, pieces = shape[axis], math.ceil(math.prod(shape[axis:]) / BLOCK)
    step = math.ceil(n / pieces)
    single = [[slice(i, i + 1) for i in range(m)] for m in shape[:axis]]
    return list(itertools.product(*single, [slice(i, i + step) for i in range(0, n, step)]))


def _part(a: Any, index: tuple[slice, ...]) -> Any:
    if not np.ndim(a):
        return a
    return a[tuple(i if n > 1 else slice(None) for i, n in zip(index, a.shape, strict=False))]


def _share(work: Callable, blocks: Sequence) -> None:
    """Do the work in threads if there is enough of it; they see the caller's context, NumPy's errstate among it."""
    if THREADS == 1 or len(blocks) < PARALLEL // BLOCK:
        return work(blocks)
    ends = [len(blocks) * k // THREADS for k in range(THREADS + 1)]
    jobs = [_pool().submit(contextvars.copy_context().run, work, blocks[i:j]) for i, j in itertools.pairwise(ends)]
    for job in jobs:
        job.result()


# ---- in which types --------------------------------------------------------------------------------------------------


def _empty(a: Any) -> Any:
    """A stand-in without elements, to ask a body what it returns; float16 for bfloat16 too, which NumPy would widen."""
    return np.empty(0, np.float16 if is_half(a.dtype) else a.dtype) if isinstance(a, np.ndarray) else a


def _in_float32(body: Callable, *arrays: Any) -> Any:
    halves = {id(a): a for a in arrays if isinstance(a, np.ndarray) and is_half(a.dtype)}
    wide = {k: a.astype(np.float32) for k, a in halves.items()}
    results = body(*(wide.get(id(a), a) for a in arrays))
    for k, a in halves.items():
        if not np.array_equal(a, wide[k], equal_nan=True):  # the body updated it
            a[...] = wide[k]
    return results
