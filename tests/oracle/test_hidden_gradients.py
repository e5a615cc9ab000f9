"""Where PyTorch has finite gradients although one of an output is infinite or NaN, gpuprop has too.

The gradient of one element of an output is infinite or NaN, and that of the others 0.  An op that
hides an input from this element chooses the gradient 0; one that multiplied by 0 would return NaN.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
import refusals
import torch
from cases import Record, compare_samples
from compare import Difference, Inputs, requires_grad, torch_grad, without_warnings
from test_ops import FUNCTIONS, Sample, samples
from torch.utils._pytree import tree_leaves, tree_map_only

SAMPLES = 40  # of each function
ELEMENTS = 5  # of each output

along_an_axis = lambda sample: len(sample.args) > 1 or "dim" in sample.kwargs
# docs/architecture.md names this exception
LINEAR = refusals.exclude("the matrix products of interpolation spread NaN along an axis",
                          "nn.functional.upsample_bilinear")
EXCLUDED = {
    "random": LINEAR,
    "special": [
        *LINEAR,
        *refusals.exclude("equal extremes share the gradient", "max", "min", when=along_an_axis),
        *refusals.exclude("PyTorch does not define the order of equal elements", "sort", "topk"),
        *refusals.exclude("0 / 0 in the quotient that is rounded", "div",
                          when=lambda sample: sample.kwargs.get("rounding_mode") == "trunc"),
        *refusals.exclude("a negative target, whose loss is NaN", "nn.functional.kl_div",
                          when=lambda sample: not sample.kwargs.get("log_target")),
        *refusals.exclude("polygamma at a pole is infinite, in PyTorch a large number", "digamma"),
    ],
}


def differentiable_samples(name: str) -> Iterator[Sample]:
    refused = [e.when for e in refusals.OPS if e.name == name]
    for sample in samples(name):
        is_leaf = any(map(requires_grad, tree_leaves((sample.args, sample.kwargs))))
        if is_leaf and not any(when(sample) for when in refused):
            yield sample


def compare_zeros(sample: Sample) -> None:
    expected = tree_leaves(without_warnings(sample.theirs, *sample.args, **sample.kwargs))
    inputs = Inputs(sample.args, sample.kwargs)
    args, kwargs = inputs.with_leaves(inputs.ours)
    with np.errstate(all="ignore"):
        outputs = tree_leaves(sample.ours(*args, **kwargs))
    for theirs, ours in zip(expected, outputs, strict=True):
        if requires_grad(theirs) and ours.requires_grad:
            n = theirs.numel()
            for element in np.linspace(0, n - 1, min(ELEMENTS, n)).astype(int):
                compare_zeros_for_element(theirs, ours, element, inputs)


def compare_zeros_for_element(theirs: torch.Tensor, ours: Any, element: int,
                              inputs: Inputs) -> None:
    for value in (torch.inf, torch.nan):
        compare_zeros_for_value(theirs, ours, element, value, inputs)


def compare_zeros_for_value(theirs: torch.Tensor, ours: Any, element: int, value: float,
                            inputs: Inputs) -> None:
    gradient = torch.zeros(theirs.numel(), dtype=theirs.dtype)
    gradient[element] = value
    gradient = gradient.reshape(theirs.shape)
    grads = torch_grad([theirs], inputs.theirs, [gradient], retain_graph=True)
    for leaf in inputs.ours:
        leaf.grad = None
    with np.errstate(all="ignore"):
        ours.backward(gradient.numpy(), retain_graph=True)
    for i, (leaf, grad) in enumerate(zip(inputs.ours, grads, strict=True)):
        if leaf.grad is not None:
            want = grad.numpy(force=True)
            wrong = np.argwhere(((want == 0) & (leaf.grad != 0))
                                | (np.isnan(leaf.grad) & np.isfinite(want)))
            if len(wrong):
                first = tuple(map(int, wrong[0]))
                raise Difference(f"gradient of input {i} if that of element {element} of the "
                                 f"output is {value}: {leaf.grad[first]} at {first}, PyTorch's is "
                                 f"{want[first]}")


SPECIAL = [0.0, -0.0, 1.0, -1.0, 1.0, 0.0, 2.0, 0.5, -0.5, 3.0]  # zeros, ties, ends of intervals


def at_special_points(sample: Sample) -> Sample:
    """The call with `SPECIAL` in place of the numbers of its floating tensors."""
    def special(t: torch.Tensor) -> torch.Tensor:
        if not t.is_floating_point():
            return t
        values = torch.tensor(SPECIAL, dtype=t.dtype).repeat(-(-t.numel() // len(SPECIAL)))
        return values[:t.numel()].reshape(t.shape).requires_grad_(t.requires_grad)

    args, kwargs = tree_map_only(torch.Tensor, special, (sample.args, sample.kwargs))
    return sample._replace(args=args, kwargs=kwargs)


def is_accepted(sample: Sample) -> bool:
    """False if PyTorch refuses the call: some losses check the range of their arguments."""
    try:
        without_warnings(sample.theirs, *sample.args, **sample.kwargs)
    except (RuntimeError, ValueError):
        return False
    return True


@pytest.mark.parametrize("points", ["random", "special"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_hidden_gradients(name: str, points: str, record_property: Record) -> None:
    chosen = list(islice(differentiable_samples(name), SAMPLES))
    if points == "special":
        chosen = list(filter(is_accepted, map(at_special_points, chosen)))
    count = compare_samples(name, chosen, compare_zeros, EXCLUDED[points])
    record_property("infinite gradients", (name, count))
