"""Products of arrays.  All of them use ``xp.matmul``, which every backend implements."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpuprop._array.arithmetic import multiply
from gpuprop._array.indexing import diagonal
from gpuprop._array.reduction import sum
from gpuprop._array.scatter import normalize_axis
from gpuprop._array.shape import astype, reshape, transpose
from gpuprop._core.arguments import promoted
from gpuprop._core.composed import checks_arguments
from gpuprop._core.dtypes import as_dtype, widened
from gpuprop._core.failures import no_array_error
from gpuprop._core.ops import op
from gpuprop._core.placement import on_device_of_arguments
from gpuprop._core.signature import Array

__all__ = ["bmm", "dot", "einsum", "inner", "matmul", "outer", "tensordot"]


@op(precision="low", promote=True)
def matmul(xp, x1: Array, x2: Array, dtype: Any = None):
    """The matrix product over the last two axes, by NumPy's rules.

    Leading axes broadcast; a 1-D operand is a vector.  `dtype` is the dtype of the result: with
    float32, a product of half types is not rounded.
    """
    x1_is_vector = x1.ndim == 1
    x2_is_vector = x2.ndim == 1
    x2_is_one_matrix = x2.ndim <= 2
    a = x1[None, :] if x1_is_vector else x1
    b = x2[:, None] if x2_is_vector else x2

    def as_matrices(d):
        d = d[..., None] if x2_is_vector else d
        return d[..., None, :] if x1_is_vector else d

    def x1_grad(d):
        da = xp.matmul(as_matrices(d), b.swapaxes(-1, -2))
        return da[..., 0, :] if x1_is_vector else da

    def x2_grad(d):
        d = as_matrices(d)
        if x2_is_one_matrix:
            db = xp.matmul(as_matrix(a).T, as_matrix(d))
        else:
            db = xp.matmul(a.swapaxes(-1, -2), d)
        return db[..., 0] if x2_is_vector else db

    dtype = dtype if dtype is None else as_dtype(dtype)
    return xp.matmul(x1, x2, dtype=dtype), (x1_grad, x2_grad)


def as_matrix(a):
    """All rows of a stack of matrices as one matrix: (..., n) -> (rows, n)."""
    return a.reshape(math.prod(a.shape[:-1]), a.shape[-1])


@checks_arguments
def bmm(x1: Array, x2: Array) -> Any:
    """Matrix products of two stacks, without broadcasting: (B, N, K), (B, K, M) -> (B, N, M)."""
    if x1.ndim != 3 or x2.ndim != 3 or x1.shape[0] != x2.shape[0]:
        raise ValueError(f"bmm: expected shapes (B, N, K) and (B, K, M), got {x1.shape} and "
                         f"{x2.shape}; matmul broadcasts")
    return matmul(x1, x2)


@checks_arguments
def outer(a: Array, b: Array) -> Any:
    """The outer product of flattened arrays, ``y[i, j] = a[i] * b[j]``: (N,), (M,) -> (N, M)."""
    return multiply(reshape(a, (-1, 1)), reshape(b, (1, -1)))


@checks_arguments
def inner(a: Array, b: Array) -> Any:
    """The sum of products over the last axes of `a` and `b`."""
    return tensordot(a, b, ((-1,), (-1,))) if a.ndim and b.ndim else multiply(a, b)


@checks_arguments
def dot(a: Array, b: Array) -> Any:
    """The sum of products over the last axis of `a` and the last but one of `b`.

    A 1-D `b` is summed over its only axis.
    """
    return tensordot(a, b, ((-1,), (-min(b.ndim, 2),))) if a.ndim and b.ndim else multiply(a, b)


@checks_arguments
@on_device_of_arguments
def tensordot(a: Array, b: Array, axes: int | Sequence[int | Sequence[int]] = 2) -> Any:
    """The sum of products over pairs of axes.

    `axes` is a pair (axes of `a`, axes of `b`), or an int n, which pairs the last n axes of `a`
    with the first n of `b`.

    >>> import gpuprop
    >>> gpuprop.tensordot(gpuprop.ones((2, 3, 4)), gpuprop.ones((4, 3)), ([2, 1], [0, 1])).tolist()
    [12.0, 12.0]
    """
    if isinstance(axes, int | np.integer):
        if not 0 <= axes <= min(a.ndim, b.ndim):
            raise ValueError(f"tensordot: axes={axes} must not exceed the number of axes of a "
                             f"{a.shape} or of b {b.shape}")
        axes = range(a.ndim - axes, a.ndim), range(axes)
    elif not isinstance(axes, Sequence) or len(axes) != 2:
        raise TypeError(f"tensordot: axes must be an integer or a pair, the axes of a and those of "
                        f"b, got {axes!r}")
    a_axes = _axis_list(a, axes[0])
    b_axes = _axis_list(b, axes[1])
    if len(a_axes) != len(b_axes):
        raise ValueError(f"tensordot: axes must pair as many axes of a as of b, got {axes}")
    a_labels = list(range(a.ndim))
    b_labels = list(range(a.ndim, a.ndim + b.ndim))
    for i, j in zip(a_axes, b_axes, strict=True):
        if a.shape[i] != b.shape[j]:
            raise ValueError(f"tensordot: axis {i} of {a.shape} and axis {j} of {b.shape} have "
                             f"different sizes")
        b_labels[j] = a_labels[i]
    output = [i for i in a_labels + b_labels if (i in a_labels) != (i in b_labels)]
    return _contract([a, b], [a_labels, b_labels], output, [(0, 1)])


def _axis_list(x, axes):
    several = [axes] if isinstance(axes, int | np.integer) else axes
    return [normalize_axis(x, axis) for axis in several]


# ---- Einstein summation ------------------------------------------------------------------------


@checks_arguments
@on_device_of_arguments
def einsum(subscripts: str, *operands: Any) -> Any:
    """Sums of products of `operands` over labelled axes (Einstein's summation convention).

    Operands are contracted in pairs, each pair by one matrix product.  `numpy.einsum_path` finds
    the order of three or more operands, once for each tuple of shapes: the one with the fewest
    operations for up to five operands, and a greedy one for more.  A list of the operands is taken
    too.

    >>> import gpuprop
    >>> a, b = gpuprop.ones((5, 2, 3)), gpuprop.ones((3, 4))
    >>> gpuprop.einsum("...ij,jk->...ik", a, b).shape
    (5, 2, 4)
    >>> gpuprop.einsum("ii", gpuprop.eye(3)).item()
    3.0
    """
    if len(operands) == 1 and isinstance(operands[0], list | tuple):  # PyTorch takes a list too
        operands = tuple(operands[0])
    for i, x in enumerate(operands):
        if not hasattr(x, "ndim"):
            raise no_array_error("einsum()", f"operands[{i}]", x)
    labels, output = _parse_subscripts(subscripts, tuple(x.ndim for x in operands))
    if len(operands) <= 2:
        order = [(0, 1)] * (len(operands) - 1)
    else:
        order = _best_order(subscripts, tuple(x.shape for x in operands))
    return _contract(list(operands), labels, output, order)


@functools.lru_cache(maxsize=1024)
def _parse_subscripts(subscripts, ndims):
    """The labels of the axes of each operand, and those of the output.

    A label is a letter, or for an axis of an ellipsis its negative index among these axes.
    """
    inputs, arrow, output = subscripts.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if len(terms) != len(ndims):
        raise ValueError(f"einsum: {subscripts!r} has {len(terms)} operands, got {len(ndims)}")
    labels = [_labels(term, ndim, subscripts) for term, ndim in zip(terms, ndims, strict=True)]
    all_labels = [label for term in labels for label in term]
    ellipsis = sorted({label for label in all_labels if isinstance(label, int)})
    if arrow:
        ndim = len(output.replace("...", "")) + len(ellipsis) * ("..." in output)
        output_labels = _labels(output, ndim, subscripts)
    else:
        letters = {label for label in all_labels if isinstance(label, str)}
        output_labels = ellipsis + sorted(a for a in letters if all_labels.count(a) == 1)
    if len(set(output_labels)) < len(output_labels):
        raise ValueError(f"einsum: repeated label in the output of {subscripts!r}")
    if not set(output_labels) <= set(all_labels):
        raise ValueError(f"einsum: the output of {subscripts!r} has a label that no operand has")
    return labels, output_labels


def _labels(term, ndim, subscripts):
    """The label of each axis of an array that `term` describes."""
    before, ellipsis, after = term.partition("...")
    n = ndim - len(before) - len(after)
    if not all(map(str.isalpha, before + after)):
        raise ValueError(f"einsum: labels must be letters, got {term!r} in {subscripts!r}")
    if n < 0 or (n and not ellipsis):
        raise ValueError(f"einsum: {term!r} in {subscripts!r} does not match an array with {ndim} "
                         f"axes")
    return [*before, *range(-n, 0), *after]


MAX_LABELS = 52  # a limit of `numpy.einsum_path`
MAX_OPTIMAL = 5  # operands: finding the optimal order takes factorial time
MEMORY_LIMIT = 2**62  # unlimited: with a limit einsum_path contracts several operands at once


@functools.lru_cache(maxsize=1024)
def _best_order(subscripts, shapes):
    """The pairs (i, j) of operands to contract, i < j; the result of a pair replaces operand i."""
    labels, output = _parse_subscripts(subscripts, tuple(map(len, shapes)))
    _check_sizes(labels, shapes)
    all_labels = dict.fromkeys(label for term in labels for label in term)
    number = {label: i for i, label in enumerate(all_labels)}
    operands = list(range(len(shapes)))
    if len(number) > MAX_LABELS:
        return [(0, j) for j in operands[1:]]
    arguments = []
    for shape, term in zip(shapes, labels, strict=True):
        dummy = np.broadcast_to(np.empty(()), [max(n, 1) for n in shape])  # uses no memory
        arguments += [dummy, [number[label] for label in term]]
    arguments.append([number[label] for label in output])
    method = "optimal" if len(shapes) <= MAX_OPTIMAL else "greedy"
    path, _ = np.einsum_path(*arguments, optimize=(method, MEMORY_LIMIT))
    order = []
    for positions in path[1:]:  # two, or all that are left if their order does not matter
        i, *others = sorted(operands[k] for k in positions)
        operands = [operand for k, operand in enumerate(operands) if k not in positions] + [i]
        order += [(i, j) for j in others]
    return order


def _check_sizes(labels, shapes):
    sizes = {}
    for term, shape in zip(labels, shapes, strict=True):
        for label, n in zip(term, shape, strict=True):
            if n != 1 and sizes.setdefault(label, n) != n:
                raise _size_mismatch(label, sizes[label], n)


def _size_mismatch(label, n, other):
    return ValueError(f"einsum: label {label!r} has axes of different sizes {n} and {other}")


def _contract(operands, labels, output, order):
    """Contract labelled operands in pairs, in the order of `_best_order`, to the output labels."""
    terms = dict(enumerate(zip(promoted(operands), labels, strict=True)))
    for i, j in order:
        x, x_labels = terms.pop(i)
        y, y_labels = terms.pop(j)
        needed = {label for _, rest in terms.values() for label in rest}.union(output)
        x, x_labels = _reduce(x, x_labels, needed.union(y_labels))
        y, y_labels = _reduce(y, y_labels, needed.union(x_labels))
        terms[i] = _contract_pair(x, x_labels, y, y_labels, needed)
    x, labels = _reduce(*terms[0], set(output))
    return _transposed(x, [labels.index(label) for label in output])


def _reduce(x, labels, needed):
    """Take the diagonal for a label that occurs twice, and sum over labels that are not needed."""
    labels = list(labels)
    while len(set(labels)) < len(labels):
        repeated = next(label for label in labels if labels.count(label) > 1)
        i, j = [k for k, label in enumerate(labels) if label == repeated][:2]
        if x.shape[i] != x.shape[j]:
            raise _size_mismatch(repeated, x.shape[i], x.shape[j])
        x = diagonal(x, 0, i, j)
        labels = [label for k, label in enumerate(labels) if k not in (i, j)] + [repeated]
    summed = tuple(k for k, label in enumerate(labels) if label not in needed)
    if not summed:
        return x, labels
    return sum(x, summed), [label for label in labels if label in needed]


def _contract_pair(x, x_labels, y, y_labels, needed):
    """Multiply two operands and sum over their common labels that are not needed."""
    x, x_labels = _drop_broadcast_axes(x, x_labels, y, y_labels)
    y, y_labels = _drop_broadcast_axes(y, y_labels, x, x_labels)
    common = [label for label in x_labels if label in y_labels]
    sizes = dict(zip(x_labels, x.shape, strict=True))
    for label, n in zip(y_labels, y.shape, strict=True):
        if sizes.setdefault(label, n) != n:
            raise _size_mismatch(label, sizes[label], n)
    batch = [label for label in common if label in needed]
    summed = [label for label in common if label not in needed]
    free_x = [label for label in x_labels if label not in common]
    free_y = [label for label in y_labels if label not in common]

    def grouped(z, labels, *groups):
        """`z` with the batch axes first and then one axis for each group of labels."""
        order = [labels.index(label) for group in (batch, *groups) for label in group]
        shape = [sizes[label] for label in batch]
        shape += [math.prod(sizes[label] for label in group) for group in groups]
        return _transposed(z, order, tuple(shape))

    if summed and (free_x or free_y):
        z = matmul(grouped(x, x_labels, free_x, summed), grouped(y, y_labels, summed, free_y))
    elif summed:  # products of rows with rows, which need no matrix product
        x_rows = widened(grouped(x, x_labels, summed))
        y_rows = widened(grouped(y, y_labels, summed))
        products = multiply(x_rows, y_rows)
        z = astype(sum(products, -1), x.dtype if x.dtype == y.dtype else products.dtype)
    else:
        z = multiply(grouped(x, x_labels, free_x, []), grouped(y, y_labels, [], free_y))
    labels = batch + free_x + free_y
    return _transposed(z, range(z.ndim), tuple(sizes[label] for label in labels)), labels


def _transposed(x, order, shape=None):
    """`x` transposed to `order` and then reshaped to `shape`, if that changes anything."""
    if list(order) != list(range(x.ndim)):
        x = transpose(x, order)
    return x if shape in (None, x.shape) else reshape(x, shape)


def _drop_broadcast_axes(x, x_labels, y, y_labels):
    """`x` without axes of size 1 that broadcast against an axis of `y`."""
    dropped = [k for k, label in enumerate(x_labels)
               if x.shape[k] == 1 and label in y_labels and y.shape[y_labels.index(label)] != 1]
    if not dropped:
        return x, x_labels
    kept = [k for k in range(len(x_labels)) if k not in dropped]
    return reshape(x, tuple(x.shape[k] for k in kept)), [x_labels[k] for k in kept]
