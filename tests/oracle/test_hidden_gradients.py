"""Where PyTorch's gradient is 0 although the gradient of an output is infinite, gpuprop's is 0 too.

The gradient of one element of an output is infinite and that of the others 0.  An op that hides an
input from this element chooses the gradient 0; one that multiplied by 0 would return NaN.
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
from torch.utils._pytree import tree_leaves

SAMPLES = 40  # of each function
ELEMENTS = 5  # of each output

has_zeros = lambda sample: bool((sample.args[0] == 0).any())
NAN = [
    *refusals.exclude("a product with elements that are 0", "prod", "cumprod", when=has_zeros),
    *refusals.exclude("a product with a matrix that has zeros", "nn.functional.interpolate"),
]


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
    outputs = tree_leaves(sample.ours(*args, **kwargs))
    for theirs, ours in zip(expected, outputs, strict=True):
        if requires_grad(theirs) and ours.requires_grad:
            n = theirs.numel()
            for element in np.linspace(0, n - 1, min(ELEMENTS, n)).astype(int):
                compare_zeros_for_element(theirs, ours, element, inputs)


def compare_zeros_for_element(theirs: torch.Tensor, ours: Any, element: int,
                              inputs: Inputs) -> None:
    gradient = torch.zeros(theirs.numel(), dtype=theirs.dtype)
    gradient[element] = torch.inf
    gradient = gradient.reshape(theirs.shape)
    grads = torch_grad([theirs], inputs.theirs, [gradient], retain_graph=True)
    for leaf in inputs.ours:
        leaf.grad = None
    with np.errstate(invalid="ignore"):
        ours.backward(gradient.numpy(), retain_graph=True)
    for i, (leaf, grad) in enumerate(zip(inputs.ours, grads, strict=True)):
        if leaf.grad is not None:
            wrong = np.argwhere((grad.numpy(force=True) == 0) & (leaf.grad != 0))
            if len(wrong):
                first = tuple(map(int, wrong[0]))
                raise Difference(f"gradient of input {i} for element {element} of the output: "
                                 f"{leaf.grad[first]} at {first}, PyTorch's is 0")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_hidden_gradients(name: str, record_property: Record) -> None:
    chosen = list(islice(differentiable_samples(name), SAMPLES))
    count = compare_samples(name, chosen, compare_zeros, NAN)
    record_property("infinite gradients", (name, count))
