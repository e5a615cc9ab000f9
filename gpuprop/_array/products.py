"""Products of arrays, all of them by ``xp.matmul``, which every backend owns."""

from __future__ import annotations

import functools
import math
from typing import Any

from gpuprop._array.arithmetic import multiply
from gpuprop._array.indexing import diagonal
from gpuprop._array.reduction import sum
from gpuprop._array.scatter import axis_of
from gpuprop._array.shape import astype, reshape, transpose
from gpuprop._core.dtypes import widened
from gpuprop._core.ops import op
from gpuprop._core.placement import on_device_of_arguments
from gpuprop._core.signature import Array

__all__ = [
    "bmm", "dot", "einsum", "inner", "matmul", "outer", "tensordot",
]


@op(precision="low", promote=True)
def matmul(xp, x1: Array, x2: Array, dtype=None):
    """The matrix product over the last two axes, by NumPy's rules: stacks broadcast, 1-D operands are vectors.

    `dtype` is the result's: float32 keeps what a product of half types would round.
    """
    vector1, vector2, one_matrix = x1.ndim == 1, x2.ndim == 1, x2.ndim <= 2
    a, b = x1[None, :] if vector1 else x1, x2[:, None] if vector2 else x2

    def whole(d):
        d = d[..., None] if vector2 else d
        return d[..., None, :] if vector1 else d

    def by_x1(d):
        da = xp.matmul(whole(d), b.swapaxes(-1, -2))
        return da[..., 0, :] if vector1 else da

    def by_x2(d):
        d = whole(d)
        db = xp.matmul(_rows(a).T, _rows(d)) if one_matrix else xp.matmul(a.swapaxes(-1, -2), d)
        return db[..., 0] if vector2 else db

    return xp.matmul(x1, x2, dtype=dtype), (by_x1, by_x2)


def _rows(a):
    """A stack of matrices as one."""
    return a.reshape(math.prod(a.shape[:-1]), a.shape[-1])


def bmm(x1: Any, x2: Any) -> Any:
    """The products of two stacks of as many matrices: (B, N, K), (B, K, M) -> (B, N, M)."""
    if x1.ndim != 3 or x2.ndim != 3 or x1.shape[0] != x2.shape[0]:
        raise ValueError(f"bmm takes (B, N, K) and (B, K, M), not {x1.shape} and {x2.shape}; matmul broadcasts")
    return matmul(x1, x2)


def outer(a: Any, b: Any) -> Any:
    """Every element of one with every element of the other: (N,), (M,) -> (N, M)."""
    return multiply(reshape(a, (-1, 1)), reshape(b, (1, -1)))


def inner(a: Any, b: Any) -> Any:
    """The sum of products over the last axis of both."""
    return tensordot(a, b, ((-1,), (-1,))) if a.ndim and b.ndim else multiply(a, b)


def dot(a: Any, b: Any) -> Any:
    """The sum of products over the last axis of one and the last but one (or only one) of the other."""
    return tensordot(a, b, ((-1,), (-min(b.ndim, 2),))) if a.ndim and b.ndim else multiply(a, b)


@on_device_of_arguments
def tensordot(a: Any, b: Any, axes: Any = 2) -> Any:
    """The sum of products over axes: over the last of one with the first of the other, so many, or over those named.

    `axes` is a number or a pair (axes of one, axes of the other).
    """
    if isinstance(axes, int):
        axes = range(a.ndim - axes, a.ndim), range(axes)
    pair = [[axis_of(x, i) for i in ([named] if isinstance(named, int) else named)]
            for named, x in zip(axes, (a, b), strict=True)]
    in_a, in_b = list(range(a.ndim)), list(range(a.ndim, a.ndim + b.ndim))
    for i, j in zip(*pair, strict=True):
        if a.shape[i] != b.shape[j]:
            raise ValueError(f"tensordot: axis {i} of {a.shape} and axis {j} of {b.shape} have different sizes")
        in_b[j] = in_a[i]
    return _contract([a, b], [in_a, in_b], [i for i in in_a + in_b if (i in in_a) != (i in in_b)])


# ---- Einstein's sums ------------------------------------------------------------------------------------------------


@on_device_of_arguments
def einsum(subscripts: str, *operands: Any) -> Any:
    """Sums of products of `operands`, said by labels of their axes: ``einsum("...ij,jk->...ik", a, b)``.

    Operands are taken two by two, from left to right, each pair by one matrix product.
    """
    labels, output = _parse(subscripts, tuple(x.ndim for x in operands))
    return _contract(list(operands), labels, output)


@functools.lru_cache(maxsize=1024)
def _parse(subscripts, ndims):
    """The labels of each operand's axes and of the output's; an ellipsis stands for numbers, counted from the right."""
    inputs, arrow, output = subscripts.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if len(terms) != len(ndims):
        raise ValueError(f"einsum: {subscripts!r} speaks of {len(terms)} operands, and {len(ndims)} are given")
    labels = [_labels(term, ndim, subscripts) for term, ndim in zip(terms, ndims, strict=True)]
    every = [a for term in labels for a in term]
    dots = sorted({a for a in every if isinstance(a, int)})
    if not arrow:
        named = dots + sorted(a for a in set(every) if isinstance(a, str) and every.count(a) == 1)
    else:
        named = _labels(output, len(output.replace("...", "")) + len(dots) * ("..." in output), subscripts)
    if len(set(named)) < len(named) or not set(named) <= set(every):
        raise ValueError(f"einsum: the output of {subscripts!r} names an axis twice, or one that no operand has")
    return labels, named


def _labels(term, ndim, subscripts):
    before, dots, after = term.partition("...")
    n = ndim - len(before) - len(after)
    if n < 0 or (n and not dots) or not all(map(str.isalpha, before + after)):
        raise ValueError(f"einsum: {term!r} in {subscripts!r} does not fit an array of {ndim} axes")
    return [*before, *range(-n, 0), *after]


def _contract(operands, labels, output):
    """Operands by labels of their axes, two by two, down to `output`."""
    x, named = operands[0], labels[0]
    for i, (y, other) in enumerate(zip(operands[1:], labels[1:], strict=True)):
        later = {a for term in labels[i + 2:] for a in term} | set(output)
        x, named = _pair(*_reduced(x, named, later | set(other)), *_reduced(y, other, later | set(named)), later)
    x, named = _reduced(x, named, set(output))
    return _arranged(x, [named.index(a) for a in output])


def _reduced(x, labels, wanted):
    """The diagonal for a label that comes twice, the sum over one that nobody wants."""
    labels = list(labels)
    while len(set(labels)) < len(labels):
        twice = next(a for a in labels if labels.count(a) > 1)
        i, j = [k for k, a in enumerate(labels) if a == twice][:2]
        if x.shape[i] != x.shape[j]:
            raise ValueError(f"einsum: {twice!r} names axes of sizes {x.shape[i]} and {x.shape[j]}")
        x, labels = diagonal(x, 0, i, j), [a for k, a in enumerate(labels) if k not in (i, j)] + [twice]
    alone = tuple(k for k, a in enumerate(labels) if a not in wanted)
    return (sum(x, alone), [a for a in labels if a in wanted]) if alone else (x, labels)


def _pair(x, in_x, y, in_y, wanted):
    """Two operands as one: stacked over labels that both have and that are wanted, summed over those that are not."""
    x, in_x = _without_ones(x, in_x, y, in_y)
    y, in_y = _without_ones(y, in_y, x, in_x)
    both = [a for a in in_x if a in in_y]
    for a in both:
        if x.shape[in_x.index(a)] != y.shape[in_y.index(a)]:
            raise ValueError(f"einsum: {a!r} names axes of sizes {x.shape[in_x.index(a)]} and {y.shape[in_y.index(a)]}")
    stacked, summed = [a for a in both if a in wanted], [a for a in both if a not in wanted]
    free_x, free_y = [a for a in in_x if a not in both], [a for a in in_y if a not in both]
    sizes = dict(zip([*in_x, *in_y], [*x.shape, *y.shape], strict=True))
    grouped = lambda z, labels, *groups: _arranged(
        z, [labels.index(a) for g in groups for a in g],
        (*(sizes[a] for a in stacked), *(math.prod(sizes[a] for a in g) for g in groups[1:])))
    if summed and (free_x or free_y):
        z = matmul(grouped(x, in_x, stacked, free_x, summed), grouped(y, in_y, stacked, summed, free_y))
    elif summed:  # a product of rows with rows: no matrix
        rows = [widened(grouped(z, labels, stacked, summed)) for z, labels in ((x, in_x), (y, in_y))]
        z = astype(sum(multiply(*rows), -1), x.dtype)
    else:
        z = multiply(grouped(x, in_x, stacked, free_x, []), grouped(y, in_y, stacked, [], free_y))
    named = stacked + free_x + free_y
    return _arranged(z, range(z.ndim), tuple(sizes[a] for a in named)), named


def _arranged(x, order, shape=None):
    """`x` with its axes in an order, then in a shape, as far as it is not so already."""
    x = x if list(order) == list(range(x.ndim)) else transpose(x, order)
    return x if shape in (None, x.shape) else reshape(x, shape)


def _without_ones(x, in_x, y, in_y):
    """`x` without the axes of size 1 that broadcast to those of `y`."""
    ones = [k for k, a in enumerate(in_x) if x.shape[k] == 1 and a in in_y and y.shape[in_y.index(a)] != 1]
    if not ones:
        return x, in_x
    left = [k for k in range(len(in_x)) if k not in ones]
    return reshape(x, tuple(x.shape[k] for k in left)), [in_x[k] for k in left]
