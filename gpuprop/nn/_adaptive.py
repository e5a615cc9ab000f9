"""Adaptive softmax: classes that are rare share a class of the others, and are told apart with fewer features."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import gpuprop.functional as F
from gpuprop._array.arithmetic import where
from gpuprop._array.reduction import argmax
from gpuprop._array.shape import concatenate
from gpuprop._core.graph import raw
from gpuprop._core.namespace import namespace
from gpuprop.nn._container import ModuleList, Sequential
from gpuprop.nn._linear import Linear
from gpuprop.nn._module import Module
from gpuprop.random import Generator

ELSEWHERE = -100  # the label of a sample in a cluster that it is not of


class AdaptiveOutput(NamedTuple):
    """The log-probability of each sample's label, and the mean of them, negated."""

    output: Any
    loss: Any


class AdaptiveLogSoftmaxWithLoss(Module):
    """The loss of (N, in_features) and labels (N,), or one sample, with classes sorted from the most frequent on.

    The classes below the first of `cutoffs`, and one for each cluster that the cutoffs begin, are the `head`'s; cluster
    i is told apart by ``tail[i]``, from in_features / div_value**(i + 1) features.  Shapes do not depend on the labels,
    so a step with it can be captured: every cluster sees all samples, though never all of its logits at once.
    E. Grave et al., ICML 2017.
    """

    def __init__(self, in_features: int, n_classes: int, cutoffs: Sequence[int], div_value: float = 4.0,
                 head_bias: bool = False, device: str | None = None, dtype: Any = None,
                 rng: Generator | None = None) -> None:
        edges = [0, *cutoffs, n_classes]
        if len(edges) < 3 or any(int(b) != b or a >= b for a, b in itertools.pairwise(edges)):
            raise ValueError(f"AdaptiveLogSoftmaxWithLoss: cutoffs are integers, ascending, from 1 to n_classes - 1, "
                             f"{n_classes - 1}, at most, and at least one; not {[*cutoffs]}")
        self.in_features, self.n_classes, self.cutoffs = in_features, n_classes, edges[1:]
        self.div_value, self.head_bias = div_value, head_bias
        self.shortlist_size, self.n_clusters = edges[1], len(edges) - 2
        self.head_size = self.shortlist_size + self.n_clusters
        self.head = Linear(in_features, self.head_size, head_bias, device, dtype, rng)
        self.tail = ModuleList()
        for i, (first, end) in enumerate(self.clusters()):
            features = int(in_features // div_value ** (i + 1))
            self.tail.append(Sequential(Linear(in_features, features, False, device, dtype, rng),
                                        Linear(features, end - first, False, device, dtype, rng)))

    def clusters(self) -> list[tuple[int, int]]:
        """The first class of each cluster, and that of the next."""
        return [*itertools.pairwise(self.cutoffs)]

    def reset_parameters(self, rng: Generator | None = None) -> None:
        """Draw the parameters anew."""
        for layer in (self.head, *itertools.chain(*self.tail)):
            layer.reset_parameters(rng)

    def forward(self, input_: Any, target_: Any) -> AdaptiveOutput:
        if (input_.ndim, target_.ndim) not in ((2, 1), (1, 0)) or input_.shape[:-1] != target_.shape:
            raise ValueError(f"AdaptiveLogSoftmaxWithLoss: input is (N, {self.in_features}) with target (N,), or one "
                             f"sample, ({self.in_features},) with (), not {input_.shape} with {target_.shape}")
        label = raw(target_)
        namespace(label).check((label >= 0) & (label < self.n_classes), (
            f"AdaptiveLogSoftmaxWithLoss: labels are 0 to {self.n_classes - 1}: another was found"))
        in_head, in_tail = label, []
        for i, (first, end) in enumerate(self.clusters()):
            here = (label >= first) & (label < end)
            in_head = where(here, self.shortlist_size + i, in_head)
            in_tail.append(where(here, label - first, ELSEWHERE))
        losses = self.losses(input_, self.head, in_head)
        for (reduce, classes), own in zip(self.tail, in_tail, strict=True):
            losses = losses + self.losses(reduce(input_), classes, own)
        return AdaptiveOutput(-losses, losses.mean())

    def losses(self, input: Any, layer: Linear, label: Any) -> Any:
        """-log of the probability of each label, by a layer's logits."""
        return F.linear_cross_entropy(input, layer.weight, label, linear_bias=layer.bias, reduction="none",
                                      ignore_index=ELSEWHERE)

    def log_prob(self, input: Any) -> Any:
        """The log-probabilities of all classes: (..., in_features) -> (..., n_classes)."""
        head = F.log_softmax(self.head(input), -1)
        parts = [head[..., :self.shortlist_size]]
        for i, cluster in enumerate(self.tail, self.shortlist_size):
            parts.append(F.log_softmax(cluster(input), -1) + head[..., i:i + 1])
        return concatenate(parts, -1)

    def predict(self, input: Any) -> Any:
        """The class with the highest probability: (..., in_features) -> (...)."""
        return argmax(self.log_prob(input), -1)
