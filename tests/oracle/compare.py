"""PyTorch's values as ours, and whether both libraries make the same of them: outputs, gradients of two orders."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

import gpuprop
import gpuprop.functional as F

torch.set_num_threads(1)

FIRST, SECOND = 1e-9, 1e-7  # of the largest magnitude, or of 1 where that is smaller


class Difference(AssertionError):
    """Ours is not PyTorch's."""


def ours(value: Any) -> Any:
    """A value of PyTorch's as ours.  Tensors share its memory, read-only: an op that writes to its input raises."""
    if isinstance(value, torch.Tensor):
        array = value.detach().numpy()
        array.flags.writeable = False
        return gpuprop.Tensor(array, requires_grad=value.requires_grad)
    if isinstance(value, torch.nn.PairwiseDistance):
        return functools.partial(F.pairwise_distance, p=value.norm, eps=value.eps, keepdim=value.keepdim)
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else value


class Inputs:
    """The arguments of a call, PyTorch's and ours, and those among them that want a gradient."""

    def __init__(self, args: Sequence, kwargs: dict[str, Any]) -> None:
        flat, self.tree = tree_flatten((tuple(args), kwargs))
        converted = {id(v): ours(v) for v in flat}  # a tensor given twice is one tensor
        self.flat = [converted[id(v)] for v in flat]
        leaves = {id(v): v for v in flat if isinstance(v, torch.Tensor) and v.requires_grad}
        self.theirs = list(leaves.values())
        self.ours = [converted[i] for i in leaves]

    def filled(self, leaves: Iterable) -> tuple[tuple, dict[str, Any]]:
        """Our arguments, with these in place of the ones that want a gradient."""
        new = dict(zip(map(id, self.ours), leaves, strict=True))
        return tree_unflatten([new.get(id(v), v) for v in self.flat], self.tree)


def same_function(theirs: Callable, our: Callable, args: Sequence, kwargs: dict[str, Any], second: bool = False,
                  tolerance: float = FIRST) -> None:
    """Compare what two functions make of the same arguments, and the gradients of every input that wants one."""
    inputs = Inputs(args, kwargs)
    call = lambda leaves: (lambda a, k: our(*a, **k))(*inputs.filled(leaves))
    expected = tree_leaves(quietly(theirs, *args, **kwargs))
    names = [f"input {i}" for i in range(len(inputs.ours))]
    same_gradients(expected, lambda: call(inputs.ours), zip(names, inputs.theirs, inputs.ours, strict=True), tolerance)
    if second and inputs.theirs and any(map(wants, expected)):
        same_curvature(tree_leaves(quietly(theirs, *args, **kwargs)), call, inputs.theirs)


def same_gradients(expected: list, compute: Callable, leaves: Iterable[tuple[str, torch.Tensor, Any]],
                   tolerance: float = FIRST) -> None:
    """Compare the outputs of `compute()` with `expected`, and, for a random cotangent, the gradients of the leaves.

    A leaf is (its name, PyTorch's, ours).
    """
    outs, leaves = [o for o in expected if wants(o)], list(leaves)
    cotangents = draw(outs)
    grads = derivative(outs, [t for _, t, _ in leaves], cotangents) if outs and leaves else []
    with noticing((*expected, *grads)):
        results = tree_leaves(compute())
        if len(results) != len(expected):
            raise Difference(f"{len(results)} outputs, not {len(expected)}")
        for i, (result, out) in enumerate(zip(results, expected, strict=True)):
            close(f"output {i}", result, out, tolerance)
        loss = total([r for r, o in zip(results, expected, strict=True) if wants(o)], map(ours, cotangents))
        if getattr(loss, "requires_grad", False):
            loss.backward()
    for (name, _, leaf), grad in zip(leaves if grads else (), grads, strict=True):
        own = np.zeros(leaf.shape, leaf.dtype) if leaf.grad is None else leaf.grad
        close(f"gradient of {name}", own, grad, tolerance)


def same_curvature(expected: list, call: Callable, leaves: list[torch.Tensor]) -> None:
    """Compare the product of a random direction with the Hessian of the outputs, weighed by a random cotangent."""
    outs, directions = [o for o in expected if wants(o)], draw(leaves)
    cotangents = draw(outs)
    grads = derivative(outs, leaves, cotangents, create_graph=True)
    slope = total(grads, directions)
    products = derivative([slope], leaves) if slope.requires_grad else [torch.zeros_like(v) for v in leaves]
    numbers = tuple(range(len(leaves)))

    def loss(*xs: Any) -> Any:
        results = zip(tree_leaves(call(xs)), expected, strict=True)
        return total([r for r, o in results if wants(o)], map(ours, cotangents))

    def along(*xs: Any) -> Any:
        return total(gpuprop.grad(loss, numbers)(*xs), map(ours, directions))

    with noticing((*expected, *products)):
        results = gpuprop.grad(along, numbers)(*(ours(v).data for v in leaves))
    for i, (result, product) in enumerate(zip(results, products, strict=True)):
        close(f"Hessian-vector product of input {i}", result, product, SECOND)


def wants(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad


def derivative(outs: list, leaves: list, cotangents: Any = None, **options: Any) -> list[torch.Tensor]:
    options |= {"allow_unused": True, "materialize_grads": True}
    return list(quietly(torch.autograd.grad, outs, leaves, cotangents, **options))


def total(values: Iterable, weights: Iterable) -> Any:
    """One number of several tensors."""
    return sum((v * w).sum() for v, w in zip(values, weights, strict=True))


def draw(like: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Random tensors of these shapes, the same at every call."""
    generator = np.random.default_rng(0)
    return [torch.as_tensor(generator.standard_normal(tuple(t.shape)), dtype=t.dtype) for t in like]


def quietly(f: Callable, *args: Any, **kwargs: Any) -> Any:
    """``f(...)``, whatever PyTorch wants to say of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return f(*args, **kwargs)


def noticing(values: Iterable) -> np.errstate:
    """NumPy may complain of arithmetic only where PyTorch's values are not all finite."""
    finite = all(v.isfinite().all() for v in values if isinstance(v, torch.Tensor))
    return np.errstate(all=None if finite else "ignore")


def close(what: str, result: Any, expected: Any, tolerance: float = FIRST) -> None:
    """Same shape, same dtype, and equal to within `tolerance` of the scale, NaN and infinity included."""
    a, b = gpuprop.asnumpy(result), expected
    if isinstance(expected, torch.Tensor):
        b = expected.detach().numpy(force=True)  # PyTorch's zeros may have no memory
        if a.dtype != b.dtype:
            raise Difference(f"{what}: dtype {a.dtype}, not {b.dtype}")
    b = np.asarray(b)
    if a.shape != b.shape:
        raise Difference(f"{what}: shape {a.shape}, not {b.shape}")
    same = a == b
    if b.dtype.kind == "f":
        scale = max(1.0, np.abs(b[np.isfinite(b)]).max(initial=0))
        with np.errstate(all="ignore"):
            same |= (np.abs(a - b) <= tolerance * scale) | (np.isnan(a) & np.isnan(b))
    if not np.all(same):
        place = tuple(int(i) for i in np.argwhere(~same)[0])
        raise Difference(f"{what}: {np.sum(~same)} of {same.size} differ, first at {place}: {a[place]!r}, "
                         f"not {b[place]!r}")
