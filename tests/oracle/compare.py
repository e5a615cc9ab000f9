"""Compare functions of PyTorch and gpuprop: outputs, gradients and Hessian-vector products."""

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

# Tolerances, relative to the largest magnitude or to 1, whichever is larger.
FIRST_ORDER, SECOND_ORDER = 1e-9, 1e-7


class Difference(AssertionError):
    """The results of gpuprop and PyTorch differ."""


def to_gpuprop(value: Any) -> Any:
    """Convert an argument of PyTorch.

    Tensors share memory, which is made read-only: an op that writes to its input raises.
    """
    if isinstance(value, torch.Tensor):
        array = value.detach().numpy()
        array.flags.writeable = False
        return gpuprop.Tensor(array, requires_grad=value.requires_grad)
    if isinstance(value, torch.nn.PairwiseDistance):
        return functools.partial(F.pairwise_distance, p=value.norm, eps=value.eps,
                                 keepdim=value.keepdim)
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else value


class Inputs:
    """The arguments of a call for gpuprop, and the leaves that require gradients.

    `theirs` are PyTorch's leaves, `ours` the corresponding Tensors of gpuprop.
    """

    def __init__(self, args: Sequence, kwargs: dict[str, Any],
                 convert: Callable = to_gpuprop) -> None:
        flat, self.tree = tree_flatten((tuple(args), kwargs))
        converted = {id(v): convert(v) for v in flat}  # one result if a tensor is given twice
        self.flat = [converted[id(v)] for v in flat]
        leaves = {id(v): v for v in flat if requires_grad(v)}
        self.theirs = list(leaves.values())
        self.ours = [converted[i] for i in leaves]

    def with_leaves(self, leaves: Iterable) -> tuple[tuple, dict[str, Any]]:
        """The arguments, with `leaves` in place of those that require gradients."""
        new = dict(zip(map(id, self.ours), leaves, strict=True))
        return tree_unflatten([new.get(id(v), v) for v in self.flat], self.tree)


def compare_functions(theirs: Callable, ours: Callable, args: Sequence, kwargs: dict[str, Any],
                      second: bool = False, tolerance: float = FIRST_ORDER,
                      convert: Callable = to_gpuprop) -> None:
    """Compare the outputs of two functions and the gradients in all inputs.

    With `second`, compare a Hessian-vector product too.  `convert` makes the arguments of `ours`.
    """
    inputs = Inputs(args, kwargs, convert)

    def call(leaves: Iterable) -> Any:
        own_args, own_kwargs = inputs.with_leaves(leaves)
        return ours(*own_args, **own_kwargs)

    expected = tree_leaves(without_warnings(theirs, *args, **kwargs))
    names = [f"input {i}" for i in range(len(inputs.ours))]
    leaves = zip(names, inputs.theirs, inputs.ours, strict=True)
    compare_gradients(expected, lambda: call(inputs.ours), leaves, tolerance)
    if second and inputs.theirs and any(map(requires_grad, expected)):
        expected = tree_leaves(without_warnings(theirs, *args, **kwargs))
        compare_hessians(expected, call, inputs.theirs)


def compare_gradients(expected: list, compute: Callable,
                      leaves: Iterable[tuple[str, torch.Tensor, Any]],
                      tolerance: float = FIRST_ORDER) -> None:
    """Compare the outputs of `compute()` with `expected`, and the gradients of the leaves.

    The gradient of the outputs is random.  A leaf is (name, PyTorch's tensor, gpuprop's Tensor).
    """
    leaves = list(leaves)
    differentiable = [out for out in expected if requires_grad(out)]
    output_grads = random_like(differentiable)
    grads = []
    if differentiable and leaves:
        grads = torch_grad(differentiable, [theirs for _, theirs, _ in leaves], output_grads)
    with numpy_warnings((*expected, *grads)):
        results = tree_leaves(compute())
        if len(results) != len(expected):
            raise Difference(f"{len(results)} outputs, not {len(expected)}")
        for i, (result, out) in enumerate(zip(results, expected, strict=True)):
            assert_close(f"output {i}", result, out, tolerance)
        chosen = [r for r, out in zip(results, expected, strict=True) if requires_grad(out)]
        loss = weighted_sum(chosen, map(to_gpuprop, output_grads))
        if getattr(loss, "requires_grad", False):
            loss.backward()
    for (name, _, leaf), grad in zip(leaves if grads else (), grads, strict=True):
        own = np.zeros(leaf.shape, leaf.dtype) if leaf.grad is None else leaf.grad
        assert_close(f"gradient of {name}", own, grad, tolerance)


def compare_hessians(expected: list, call: Callable, leaves: list[torch.Tensor]) -> None:
    """Compare the product of the Hessian and a random direction.

    The Hessian is that of the sum of the outputs, weighted by random numbers.
    """
    differentiable = [out for out in expected if requires_grad(out)]
    directions = random_like(leaves)
    weights = random_like(differentiable)
    grads = torch_grad(differentiable, leaves, weights, create_graph=True)
    slope = weighted_sum(grads, directions)
    if slope.requires_grad:
        products = torch_grad([slope], leaves)
    else:
        products = [torch.zeros_like(v) for v in leaves]
    argnums = tuple(range(len(leaves)))

    def loss(*xs: Any) -> Any:
        results = zip(tree_leaves(call(xs)), expected, strict=True)
        chosen = [result for result, out in results if requires_grad(out)]
        return weighted_sum(chosen, map(to_gpuprop, weights))

    def directional_derivative(*xs: Any) -> Any:
        return weighted_sum(gpuprop.grad(loss, argnums)(*xs), map(to_gpuprop, directions))

    with numpy_warnings((*expected, *products)):
        arrays = [to_gpuprop(v).data for v in leaves]
        results = gpuprop.grad(directional_derivative, argnums)(*arrays)
    for i, (result, product) in enumerate(zip(results, products, strict=True)):
        assert_close(f"Hessian-vector product of input {i}", result, product, SECOND_ORDER)


def requires_grad(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad


def torch_grad(outs: list, leaves: list, output_grads: Any = None,
               **options: Any) -> list[torch.Tensor]:
    """PyTorch's gradients; those of unused leaves are zeros."""
    options |= {"allow_unused": True, "materialize_grads": True}
    return list(without_warnings(torch.autograd.grad, outs, leaves, output_grads, **options))


def weighted_sum(values: Iterable, weights: Iterable) -> Any:
    """The sum of the elements of all `values`, each multiplied by its weight."""
    return sum((v * w).sum() for v, w in zip(values, weights, strict=True))


def random_like(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Normal random tensors of the same shapes and dtypes, the same at every call."""
    rng = np.random.default_rng(0)
    return [torch.as_tensor(rng.standard_normal(tuple(t.shape)), dtype=t.dtype) for t in tensors]


def without_warnings(f: Callable, *args: Any, **kwargs: Any) -> Any:
    """Call ``f(*args, **kwargs)`` and ignore warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return f(*args, **kwargs)


def numpy_warnings(values: Iterable) -> np.errstate:
    """Allow NumPy's arithmetic warnings only if some of PyTorch's `values` are not finite."""
    finite = all(v.isfinite().all() for v in values if isinstance(v, torch.Tensor))
    return np.errstate(all=None if finite else "ignore")


def assert_close(name: str, result: Any, expected: Any, tolerance: float = FIRST_ORDER) -> None:
    """Check for the same shape, dtype and values, NaN and infinity included.

    Values may differ by `tolerance` times the largest magnitude in `expected`, or times 1 if that
    is larger.
    """
    a = gpuprop.asnumpy(result)
    b = expected
    if isinstance(expected, torch.Tensor):
        b = expected.detach().numpy(force=True)  # force: PyTorch's zero tensors may lack memory
        if a.dtype != b.dtype:
            raise Difference(f"{name}: dtype {a.dtype}, not {b.dtype}")
    b = np.asarray(b)
    if a.shape != b.shape:
        raise Difference(f"{name}: shape {a.shape}, not {b.shape}")
    same = a == b
    if b.dtype.kind == "f":
        scale = max(1.0, np.abs(b[np.isfinite(b)]).max(initial=0))
        with np.errstate(all="ignore"):
            same |= (np.abs(a - b) <= tolerance * scale) | (np.isnan(a) & np.isnan(b))
    if not np.all(same):
        first = tuple(int(i) for i in np.argwhere(~same)[0])
        raise Difference(f"{name}: {np.sum(~same)} of {same.size} elements differ, the first at "
                         f"{first}: {a[first]!r}, not {b[first]!r}")
