"""Cases of sequence losses and of losses of large vocabularies that PyTorch's tables leave out."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from compare import Inputs, assert_close, compare_functions, compare_gradients, to_gpuprop

import gpuprop.functional as F
from gpuprop import nn

RNG = np.random.default_rng(0)


def floats(*shape: int) -> torch.Tensor:
    return torch.tensor(RNG.standard_normal(shape), requires_grad=True)


class TestCTC:
    """Random lengths, which include 0 and infeasible ones, and repeated labels."""

    @pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
    @pytest.mark.parametrize("zero_infinity", [False, True])
    @pytest.mark.parametrize("form", ["padded", "concatenated"])
    def test_lengths(self, reduction: str, zero_infinity: bool, form: str) -> None:
        for blank in (0, 2):
            steps, n, classes, size = 8, 12, 4, 5
            inputs = RNG.integers(0, steps + 1, n)
            sizes = RNG.integers(0, size + 1, n)
            if not zero_infinity:
                inputs[sizes > 2] = steps
            labels = [RNG.choice([c for c in range(classes) if c != blank], k) for k in sizes]
            if form == "concatenated":
                targets = np.concatenate(labels)
            else:
                targets = np.full((n, size), -7)
                for row, given in zip(targets, labels, strict=True):
                    row[:len(given)] = given
            log_probs = floats(steps, n, classes).log_softmax(2).detach().requires_grad_()
            for kind in tuple, torch.tensor:
                lengths = kind(inputs.tolist()), kind(sizes.tolist())
                self.same(log_probs, torch.tensor(targets), *lengths, blank, reduction,
                          zero_infinity)

    @pytest.mark.parametrize("reduction", ["none", "mean"])
    def test_one_sample(self, reduction: str) -> None:
        for lengths in (((6,), (2,)), (torch.tensor(5), torch.tensor(2)),
                        (torch.tensor([4]), torch.tensor([2]))):
            self.same(floats(6, 4), torch.tensor([3, 3]), *lengths, 0, reduction)

    def test_scores_that_are_not_normalized(self) -> None:
        """The gradient still is the one with respect to logits, as if log_softmax were applied."""
        self.same(floats(6, 2, 4), torch.tensor([[1, 1], [2, 1]]), (6, 4), (2, 1), 3, "sum")

    def test_classes_of_probability_0(self) -> None:
        log_probs = floats(5, 1, 4).detach()
        log_probs[:, :, 3] = -np.inf
        log_probs = log_probs.log_softmax(2)
        lengths = (5,), (2,)
        mine = F.ctc_loss(log_probs.numpy(), np.array([[1, 2]]), *lengths, reduction="none")
        theirs = torch.nn.functional.ctc_loss(
            log_probs, torch.tensor([[1, 2]]), *lengths, reduction="none")
        np.testing.assert_allclose(mine, theirs, rtol=1e-12)

    def same(self, *args: Any) -> None:
        compare_functions(torch.nn.functional.ctc_loss, F.ctc_loss, args, {})


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("rest", [(), (2, 3)])
@pytest.mark.parametrize("weighted", [False, True])
def test_linear_cross_entropy(reduction: str, rest: tuple[int, ...], weighted: bool,
                              monkeypatch: pytest.MonkeyPatch) -> None:
    """With more classes than fit into one chunk."""
    chunked = import_module("gpuprop.functional._linear_cross_entropy")
    monkeypatch.setattr(chunked, "MIN_CLASSES", 3)
    n, features, classes = 5, 2, 11
    labels = torch.tensor(RNG.integers(0, classes, (n, *rest)))
    weight = floats(classes).detach().abs() if weighted else None
    for smoothing in 0.0, 0.3:
        for ignored in None, int(labels.reshape(-1)[0]), -1, classes:
            target = labels.clone()
            if ignored in (-1, classes):
                target[1] = ignored
            options = {"linear_bias": floats(classes, *rest), "weight": weight,
                       "reduction": reduction, "ignore_index": ignored,
                       "label_smoothing": smoothing}
            arguments = floats(n, features), floats(classes, *rest, features), target
            compare_functions(torch.nn.functional.linear_cross_entropy, F.linear_cross_entropy,
                              arguments, options, True)


class TestAdaptive:
    """With PyTorch's weights."""

    @pytest.mark.parametrize("head_bias", [False, True])
    @pytest.mark.parametrize("batch", [(), (1,), (7,)])
    def test_loss(self, head_bias: bool, batch: tuple[int, ...]) -> None:
        theirs, mine = self.make(head_bias)
        inputs = Inputs((floats(*batch, 9), torch.tensor(RNG.integers(0, 20, batch))), {})
        args, _ = inputs.with_leaves(inputs.ours)
        parameters = dict(mine.named_parameters())
        assert [*parameters] == [k for k, _ in theirs.named_parameters()]
        leaves = [("input", inputs.theirs[0], inputs.ours[0])]
        leaves += [(k, p, parameters[k]) for k, p in theirs.named_parameters()]
        expected = [*theirs(inputs.theirs[0], torch.tensor(args[1].numpy()))]
        compare_gradients(expected, lambda: [*mine(*args)], leaves)

    def test_all_classes(self) -> None:
        theirs, mine = self.make(True)
        x = floats(6, 9)
        assert_close("log_prob", mine.log_prob(to_gpuprop(x)), theirs.log_prob(x))
        assert_close("predict", mine.predict(to_gpuprop(x)), theirs.predict(x))

    def make(self, head_bias: bool) -> tuple[Any, Any]:
        theirs = torch.nn.AdaptiveLogSoftmaxWithLoss(9, 20, [4, 10, 15], 2.0, head_bias).double()
        mine = nn.AdaptiveLogSoftmaxWithLoss(9, 20, [4, 10, 15], 2.0, head_bias).double()
        mine.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
        return theirs, mine
