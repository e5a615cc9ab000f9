"""Adaptive softmax: rare classes are grouped into clusters that use fewer features."""

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
from gpuprop._core.options import checks_options
from gpuprop.nn._container import ModuleList, Sequential
from gpuprop.nn._linear import Linear
from gpuprop.nn._module import Module
from gpuprop.random import Generator

IGNORED = -100  # the label, for one cluster, of samples whose class is in another


class AdaptiveOutput(NamedTuple):
    """`output`: the log-probability of each sample's label; `loss`: the negative mean of these."""

    output: Any
    loss: Any


class AdaptiveLogSoftmaxWithLoss(Module):
    """Cross entropy loss over many classes, sorted from the most to the least frequent.

    Input (N, in_features) and target (N,), or one sample (in_features,) and ().  The result is a
    named tuple (output, loss): the log-probabilities of the labels, and their negative mean.

    ``cutoffs[i]`` is the first class of cluster i.  The layer `head` computes logits of the classes
    below ``cutoffs[0]`` and one logit for each cluster.  ``tail[i]`` projects the input to
    ``in_features // div_value**(i + 1)`` features, and computes logits of the classes in cluster i.

    Unlike in PyTorch, every cluster processes all samples, so that shapes do not depend on the
    labels and a training step can be captured.  The logits of a cluster are never all in memory at
    the same time.

    E. Grave et al., ICML 2017.
    """

    @checks_options
    def __init__(self, in_features: int, n_classes: int, cutoffs: Sequence[int],
                 div_value: float = 4.0, head_bias: bool = False, device: str | None = None,
                 dtype: Any = None, rng: Generator | None = None) -> None:
        edges = [0, *cutoffs, n_classes]
        ascending = all(int(b) == b and a < b for a, b in itertools.pairwise(edges))
        if len(edges) < 3 or not ascending:
            raise ValueError(f"AdaptiveLogSoftmaxWithLoss: cutoffs must be one or more ascending "
                             f"integers from 1 to n_classes - 1 = {n_classes - 1}, "
                             f"got {[*cutoffs]}")
        self.in_features = in_features
        self.n_classes = n_classes
        self.cutoffs = edges[1:]
        self.div_value = div_value
        self.head_bias = head_bias
        self.shortlist_size = edges[1]
        self.n_clusters = len(edges) - 2
        self.head_size = self.shortlist_size + self.n_clusters
        self.head = Linear(in_features, self.head_size, head_bias, device, dtype, rng)
        self.tail = ModuleList()
        for i, (first, end) in enumerate(self._clusters()):
            features = int(in_features // div_value ** (i + 1))
            projection = Linear(in_features, features, False, device, dtype, rng)
            classes = Linear(features, end - first, False, device, dtype, rng)
            self.tail.append(Sequential(projection, classes))

    def _clusters(self) -> list[tuple[int, int]]:
        """(first class, last class + 1) of each cluster."""
        return [*itertools.pairwise(self.cutoffs)]

    def reset_parameters(self, rng: Generator | None = None) -> None:
        """Initialize the parameters again, with new random numbers."""
        for layer in (self.head, *itertools.chain(*self.tail)):
            layer.reset_parameters(rng)

    def forward(self, input_: Any, target_: Any) -> AdaptiveOutput:
        if input_.ndim not in (1, 2) or input_.shape[:-1] != target_.shape:
            raise ValueError(
                f"AdaptiveLogSoftmaxWithLoss: expected input (N, {self.in_features}) and target "
                f"(N,), or ({self.in_features},) and (), got {input_.shape} and {target_.shape}")
        label = raw(target_)
        if label.dtype.kind not in "iu":
            raise TypeError(f"AdaptiveLogSoftmaxWithLoss: target must hold integer labels, got "
                            f"{label.dtype}")
        namespace(label).check(
            (label >= 0) & (label < self.n_classes),
            f"AdaptiveLogSoftmaxWithLoss: label out of range: expected 0 <= label < "
            f"{self.n_classes}", label)
        label = label.astype("int64")  # IGNORED is negative
        head_label = label
        cluster_labels = []
        for i, (first, end) in enumerate(self._clusters()):
            inside = (label >= first) & (label < end)
            head_label = where(inside, self.shortlist_size + i, head_label)
            cluster_labels.append(where(inside, label - first, IGNORED))
        losses = self._losses(input_, self.head, head_label)
        for (projection, classes), label in zip(self.tail, cluster_labels, strict=True):
            losses = losses + self._losses(projection(input_), classes, label)
        return AdaptiveOutput(-losses, losses.mean())

    def _losses(self, input: Any, layer: Linear, label: Any) -> Any:
        """The cross entropy of each sample; 0 for IGNORED labels."""
        return F.linear_cross_entropy(input, layer.weight, label, linear_bias=layer.bias,
                                      reduction="none", ignore_index=IGNORED)

    def log_prob(self, input: Any) -> Any:
        """The log-probabilities of all classes: (..., in_features) -> (..., n_classes)."""
        head = F.log_softmax(self.head(input), -1)
        parts = [head[..., :self.shortlist_size]]
        for i, cluster in enumerate(self.tail, self.shortlist_size):
            parts.append(F.log_softmax(cluster(input), -1) + head[..., i:i + 1])
        return concatenate(parts, -1)

    def predict(self, input: Any) -> Any:
        """The most probable class: (..., in_features) -> (...)."""
        return argmax(self.log_prob(input), -1)
