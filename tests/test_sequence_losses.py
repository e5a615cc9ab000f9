"""ctc_loss, linear_cross_entropy and adaptive softmax: values, gradients, memory and errors."""

import itertools
import math
import tracemalloc
from importlib import import_module

import numpy as np
import pytest

import gpuprop as gp
import gpuprop.functional as F
from gpuprop import nn, optim
from gpuprop.testing import check_grad, check_second, check_training

RNG = np.random.default_rng(0)
CHUNKED = import_module("gpuprop.functional._linear_cross_entropy")


def labels(*values):
    return gp.tensor(np.array(values, "int64"))


REDUCTIONS = "none", "mean", "sum"


def log_probs(*shape):
    return F.log_softmax(RNG.standard_normal(shape), -1)


def collapse(path, blank):
    """The labels of an alignment: repeats are merged, then blanks removed."""
    return [label for label, _ in itertools.groupby(path) if label != blank]


class TestCTC:
    @pytest.mark.parametrize("target", [
        [], [1], [1, 2], [2, 2], [1, 2, 1], [1, 1, 1], [2, 1, 2, 1]])
    @pytest.mark.parametrize("blank", [0, 3])
    def test_sums_over_all_alignments(self, backend, target, blank):
        p = log_probs(5, 4)
        paths = [path for path in itertools.product(range(4), repeat=5)
                 if collapse(path, blank) == target]
        total = sum(np.exp(sum(p[t, c] for t, c in enumerate(path))) for path in paths)
        loss = F.ctc_loss(gp.tensor(p), labels(*target), (5,), (len(target),), blank, "none")
        np.testing.assert_allclose(loss.numpy(), -np.log(total), rtol=1e-12)

    def test_a_batch_in_any_form(self, backend):
        """Targets padded or concatenated, lengths on the host or the device: as for one sample."""
        p = log_probs(6, 4, 4)
        rows = [[1], [], [2, 2], [3, 1, 3]]
        steps = [6, 2, 5, 6]
        sizes = [len(row) for row in rows]
        each = [F.ctc_loss(p[:t, i], np.array(rows[i], "int64"), (t,), (sizes[i],), reduction="sum")
                for i, t in enumerate(steps)]
        padded = labels(*([*row, -9, -9, -9][:3] for row in rows))
        concatenated = labels(*itertools.chain(*rows))
        for targets in padded, concatenated:
            for lengths in ((steps, sizes), (tuple(steps), tuple(sizes)),
                            (labels(*steps), labels(*sizes))):
                loss = {r: F.ctc_loss(gp.tensor(p), targets, *lengths, reduction=r).numpy()
                        for r in REDUCTIONS}
                np.testing.assert_allclose(loss["none"], each, rtol=1e-12)
                np.testing.assert_allclose(loss["sum"], sum(each), rtol=1e-12)
                mean = np.mean(np.array(each) / [1, 1, 2, 3])
                np.testing.assert_allclose(loss["mean"], mean, rtol=1e-12)

    @pytest.mark.parametrize("lengths", [((4,), (2,)), (4, 2), (np.array(4), np.array([2]))])
    def test_one_sample(self, lengths):
        p = log_probs(5, 4)
        loss = F.ctc_loss(p, np.array([1, 1, 3]), *lengths, reduction="none")
        assert loss.shape == ()
        assert loss == F.ctc_loss(p[:, None], np.array([[1, 1, 3]]), (4,), (2,), reduction="sum")

    def test_gradients_with_respect_to_logits(self):
        targets = np.array([[1, 1, 3], [2, 3, 1]])
        loss = lambda x: F.ctc_loss(
            F.log_softmax(x, -1), targets, (6, 5), (3, 2), reduction="none")
        x = RNG.standard_normal((6, 2, 4))
        check_grad(loss, x)
        check_second(loss, x)

    def test_infeasible_targets(self, backend):
        p = gp.tensor(log_probs(3, 2, 4), requires_grad=True)
        arguments = labels([1, 1], [1, 2]), (2, 3), (2, 2), 0, "none"
        assert np.isinf(F.ctc_loss(p, *arguments).numpy()).tolist() == [True, False]
        loss = F.ctc_loss(p, *arguments, zero_infinity=True)
        loss.sum().backward()
        g = gp.asnumpy(p.grad)
        assert loss.numpy()[0] == 0 and not g[:, 0].any() and g[:, 1].all()

    def test_steps_after_the_input_length_have_no_gradient(self, backend):
        p = gp.tensor(log_probs(4, 2, 3), requires_grad=True)
        F.ctc_loss(p, labels([1], [2]), labels(2, 4), labels(1, 0)).backward()
        g = gp.asnumpy(p.grad)
        assert not g[2:, 0].any() and g[:2, 0].all() and g[:, 1].all()

    def test_elements_after_the_lengths_have_no_effect(self, backend):
        p, targets = log_probs(5, 2, 4), np.array([[1, 2, 3], [2, 1, 1]])
        other_p, other_targets = p.copy(), targets.copy()
        other_p[3:, 1] = np.nan
        other_targets[1, 1:] = -9, 77
        loss = F.ctc_loss(gp.tensor(p), gp.tensor(targets), (5, 3), (3, 1))
        other = F.ctc_loss(gp.tensor(other_p), gp.tensor(other_targets), (5, 3), (3, 1))
        np.testing.assert_array_equal(loss.numpy(), other.numpy())

    def test_long_sequences_are_accurate_in_float32(self):
        """The probabilities themselves underflow."""
        p, targets = log_probs(400, 1, 30), RNG.integers(1, 30, (1, 90))
        single, double = (
            F.ctc_loss(p.astype(d), targets, (400,), (90,)) for d in ("float32", "float64"))
        np.testing.assert_allclose(single, double, rtol=1e-5)

    def test_the_number_of_alignments_of_a_long_sequence(self):
        p = np.full((2000, 1, 50), -math.log(50))
        loss = F.ctc_loss(p, np.ones((1, 4), "int64"), (2000,), (4,), reduction="sum")
        # four runs of 1, three runs of blanks between them, and any blanks before and after
        paths = math.comb(2001, 8)
        np.testing.assert_allclose(loss, 2000 * math.log(50) - math.log(paths), rtol=1e-12)


def head(n=4, features=3, classes=5, **kwargs):
    x = RNG.standard_normal((n, features))
    weight = RNG.standard_normal((classes, features))
    target = RNG.integers(0, classes, n)
    return [gp.tensor(a, **kwargs) for a in (x, weight, target)]


class TestLinearCrossEntropy:
    def test_not_all_logits_are_in_memory(self):
        n, features, classes = 2000, 16, 20_000
        x, w, y = head(n, features, classes, dtype="float32")
        y = y.astype("int64")
        x.requires_grad_()
        w.requires_grad_()
        tracemalloc.start()
        try:
            F.linear_cross_entropy(x, w, y, label_smoothing=0.1).backward()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < n * classes * 4 / 4

    @pytest.mark.parametrize("smoothing", [0.0, 0.2])
    def test_in_chunks_or_at_once(self, backend, monkeypatch, smoothing):
        x, w, y = head(6, 3, 11)
        x.requires_grad_()
        w.requires_grad_()
        found = []
        for least in 2, 100:
            monkeypatch.setattr(CHUNKED, "MIN_CLASSES", least)
            x.grad = w.grad = None
            loss = F.linear_cross_entropy(x, w, y, ignore_index=3, label_smoothing=smoothing)
            loss.backward()
            found.append([loss.numpy(), gp.asnumpy(x.grad), gp.asnumpy(w.grad)])
        for chunked, whole in zip(*found, strict=True):
            np.testing.assert_allclose(chunked, whole, rtol=1e-12, atol=1e-15)

    def test_infinite_logits(self, backend, monkeypatch):
        """A whole chunk of -inf, and large logits in another."""
        monkeypatch.setattr(CHUNKED, "MIN_CLASSES", 3)
        x, w, y = head(4, 3, 9)
        bias = np.where(np.arange(9) // 3 == 1, 700.0, -np.inf)
        y = gp.tensor(np.array([3, 4, 5, 3]))
        loss = F.linear_cross_entropy(x, w, y, linear_bias=gp.tensor(bias))
        expected = F.cross_entropy(F.linear(x, w) + gp.tensor(bias), y)
        np.testing.assert_allclose(loss.numpy(), expected.numpy(), rtol=1e-12)

    def test_frozen_weights_and_plain_arrays(self):
        x, w, y = head()
        assert type(F.linear_cross_entropy(x.data, w.data, y.data)) is np.ndarray
        x.requires_grad_()
        F.linear_cross_entropy(x, w, y).backward()
        assert w.grad is None and x.grad.shape == x.shape

    def test_all_labels_ignored(self, backend):
        x, w, _ = head()
        x.requires_grad_()
        with np.errstate(all="ignore"):
            loss = F.linear_cross_entropy(x, w, labels(7, 7, 7, 7), ignore_index=7)
        loss.backward()
        assert np.isnan(loss.numpy()) and not gp.asnumpy(x.grad).any()

    def test_layer(self):
        layer = nn.LinearCrossEntropyLoss(3, 5, out_features=(2,), bias=True, weight=gp.ones((5,)))
        assert sorted(layer.state_dict()) == ["linear.bias", "linear.weight", "weight"]
        assert layer.linear.weight.shape == (10, 3)
        assert layer(gp.ones((4, 3)), labels(*[[0, 4]] * 4)).shape == ()
        assert "num_classes=5, out_features=(2,)" in repr(layer)

    def test_large_logits_and_empty_batches(self, backend):
        x = gp.tensor(np.array([[1.0], [-1.0]]), requires_grad=True)
        w = gp.tensor(np.array([[1000.0], [-1000.0]]))
        loss = F.linear_cross_entropy(x, w, labels(0, 0), reduction="none")
        loss.sum().backward()
        assert loss.tolist() == [0, 2000] and gp.asnumpy(x.grad).tolist() == [[0], [-2000]]
        assert F.linear_cross_entropy(x[:0], w, labels(), reduction="sum").item() == 0


class TestAdaptive:
    def test_forward_agrees_with_log_prob_and_predict(self, backend):
        layer = nn.AdaptiveLogSoftmaxWithLoss(8, 12, [3, 6], 2.0)
        x = gp.tensor(RNG.standard_normal((12, 8)).astype("float32"))
        log_prob = layer.log_prob(x).numpy()
        np.testing.assert_allclose(np.exp(log_prob).sum(axis=1), 1, rtol=1e-5)
        output, loss = layer(x, labels(*range(12)))
        np.testing.assert_allclose(output.numpy(), np.diag(log_prob), rtol=1e-4)
        np.testing.assert_allclose(loss.numpy(), -np.diag(log_prob).mean(), rtol=1e-5)
        np.testing.assert_array_equal(layer.predict(x).numpy(), log_prob.argmax(axis=1))

    def test_state_dict_and_attributes(self):
        layer = nn.AdaptiveLogSoftmaxWithLoss(16, 20, [5, 10], head_bias=True)
        assert {k: v.shape for k, v in layer.state_dict().items()} == {
            "head.weight": (7, 16), "head.bias": (7,),
            "tail.0.0.weight": (4, 16), "tail.0.1.weight": (5, 4),
            "tail.1.0.weight": (1, 16), "tail.1.1.weight": (10, 1)}
        assert layer.cutoffs == [5, 10, 20]
        assert layer(gp.ones((1, 16)), labels(3))._fields == ("output", "loss")

    def test_reset_parameters(self):
        make = lambda: nn.AdaptiveLogSoftmaxWithLoss(16, 20, [5, 10], rng=gp.random.Generator(5))
        layer, same = make(), make().state_dict()
        before = layer.state_dict()
        layer.reset_parameters()
        for key, value in layer.state_dict().items():
            np.testing.assert_array_equal(before[key], same[key])
            assert (value != before[key]).any()

    def test_one_sample(self, backend):
        layer = nn.AdaptiveLogSoftmaxWithLoss(4, 6, [2])
        x = gp.tensor(RNG.standard_normal((1, 4)).astype("float32"))
        one, batch = layer(x[0], gp.tensor(5)), layer(x, labels(5))
        assert one.output.shape == one.loss.shape == ()
        np.testing.assert_allclose(one.output.numpy(), batch.output.numpy()[0], rtol=1e-6)
        assert layer.log_prob(x[0]).shape == (6,) and layer.predict(x[0]).shape == ()

    def test_a_cluster_without_labels_has_no_gradient(self, backend):
        layer = nn.AdaptiveLogSoftmaxWithLoss(4, 9, [2, 5])
        layer(gp.ones((3, 4)), labels(0, 1, 3)).loss.backward()
        trained = {k for k, p in layer.named_parameters() if gp.asnumpy(p.grad).any()}
        assert trained == {"head.weight", "tail.0.0.weight", "tail.0.1.weight"}

    def test_a_cluster_with_no_features_is_uniform(self, backend):
        layer, x = nn.AdaptiveLogSoftmaxWithLoss(3, 9, [2, 5]), gp.ones((9, 3))
        output = layer(x, labels(*range(9))).output.numpy()
        np.testing.assert_allclose(output, layer.log_prob(x).numpy()[0], rtol=1e-5)
        np.testing.assert_array_equal(output[5:], output[5])


def ctc_model():
    model = nn.Linear(3, 4)
    batch = lambda: (RNG.standard_normal((6, 2, 3)), RNG.integers(1, 4, (2, 3)),
                     RNG.integers(5, 7, 2), RNG.integers(0, 3, 2))
    return model, lambda x, *rest: F.ctc_loss(F.log_softmax(model(x), -1), *rest), batch


def linear_cross_entropy_model():
    model = nn.LinearCrossEntropyLoss(3, 1500, bias=True)
    return model, model, lambda: (RNG.standard_normal((30, 3)), RNG.integers(0, 1500, 30))


def adaptive_model():
    model = nn.AdaptiveLogSoftmaxWithLoss(4, 9, [2, 5])
    batch = lambda: (RNG.standard_normal((30, 4)), RNG.integers(0, 9, 30))
    return model, lambda *batch: model(*batch).loss, batch


@pytest.mark.parametrize("build", [ctc_model, linear_cross_entropy_model, adaptive_model])
def test_training_is_the_same_in_all_modes(build, recorder):
    def make():
        model, loss, _ = build()
        opt = optim.Adam(model.parameters(), lr=0.05)

        def step(*batch):
            opt.zero_grad()
            value = loss(*batch)
            value.backward()
            opt.step()
            return value

        return model, opt, step

    draw = build()[2]
    in_float32 = lambda a: a.astype("float32") if a.dtype.kind == "f" else a
    batches = [[in_float32(a) for a in draw()] for _ in range(4)]
    check_training(make, batches, backend=recorder)


@pytest.mark.parametrize("build", [ctc_model, linear_cross_entropy_model, adaptive_model])
def test_autocast_computes_losses_in_float32(backend, build):
    model, loss, draw = build()
    x, *rest = (gp.tensor(a.astype("float32") if a.dtype.kind == "f" else a) for a in draw())
    before = nn.Linear(x.shape[-1], x.shape[-1])
    value = loss(before(x), *rest)
    with gp.autocast("float16"):
        half = loss(before(x), *rest)
    half.backward()
    assert half.dtype == "float32"
    assert {p.grad.dtype.name for p in model.parameters()} == {"float32"}
    np.testing.assert_allclose(half.numpy(), value.numpy(), rtol=2e-3)


def ctc(p=(4, 2, 3), targets=((1, 2), (1, 2)), inputs=(4, 4), sizes=(2, 2), *rest):
    targets = labels(*targets) if isinstance(targets, tuple) else targets
    return F.ctc_loss(gp.ones(p), targets, inputs, sizes, *rest)


def linear_loss(x=(4, 3), w=(5, 3), target=(4,), **kwargs):
    kwargs = {k: gp.ones(v) if isinstance(v, tuple) else v for k, v in kwargs.items()}
    target = gp.tensor(np.zeros(target, "int64"))
    return F.linear_cross_entropy(gp.ones(x), gp.ones(w), target, **kwargs)


adaptive = lambda *cutoffs: nn.AdaptiveLogSoftmaxWithLoss(4, 10, cutoffs)
ERRORS = [
    (lambda: ctc((3,)), ValueError, r"log_probs .*\(T, N, C\) or \(T, C\).*\(3,\)"),
    (lambda: ctc(targets=gp.ones((2, 2))), TypeError, "targets .*integer labels.*float32"),
    (lambda: ctc(targets=((1,), (1,), (1,))), ValueError,
     r"targets .*\(2, S\) for 2 samples, or 1-D.*\(3, 1\)"),
    (lambda: ctc(targets=(1, 2, 1)), ValueError, "target_lengths .*4.* 3 targets"),
    (lambda: ctc(inputs=(4,)), ValueError, r"input_lengths .*2 integers, one per sample.*\(1,\)"),
    (lambda: ctc(sizes=gp.ones((2,))), ValueError, "target_lengths .*integers.*float32"),
    (lambda: ctc(sizes=(1.5, 2.0)), ValueError, "target_lengths .*integers.*float64"),
    (lambda: ctc(targets=(1, 2), sizes=(3, -1)), IndexError, "target_lengths out of range.* 3"),
    (lambda: ctc(inputs=(5, 4)), IndexError, "input_lengths out of range.* 4"),
    (lambda: ctc(sizes=(2, -1)), IndexError, "target_lengths out of range.* 2"),
    (lambda: ctc(targets=((1, 3), (1, 2))), IndexError, "ctc_loss: label out of range.* < 3"),
    (lambda: ctc((4, 2, 3), ((1, 2), (1, 2)), (4, 4), (2, 2), 3), ValueError,
     "blank out of range.* < 3, got 3"),
    (lambda: nn.CTCLoss(reduction="max")(gp.ones((4, 3)), labels(1), (4,), (1,)), ValueError,
     "reduction.*'max'"),
    (lambda: linear_loss((4, 2)), ValueError,
     r"linear_weight \(C, F\) or .*\(4, 2\) and \(5, 3\)"),
    (lambda: linear_loss((3,), (5, 2, 3)), ValueError,
     r"input .*\(N, F\) with linear_weight \(5, 2, 3\).*\(3,\)"),
    (lambda: linear_loss(linear_bias=(4,)), ValueError, r"linear_bias .*\(5,\).*\(4,\)"),
    (lambda: linear_loss(target=(3,)), ValueError,
     r"target .*\(4,\).*one label per sample.*\(3,\)"),
    (lambda: linear_loss(weight=(4,)), ValueError, r"weight .*\(5,\), one per class.*\(4,\)"),
    (lambda: linear_loss(label_smoothing=1.5), ValueError,
     r"label_smoothing .*\[0, 1\].*1.5"),
    (lambda: linear_loss(reduction="max"), ValueError, "reduction.*'max'"),
    (lambda: linear_loss(target=(4, 5)), TypeError, "probabilities.*int64"),
    (lambda: linear_loss(target=(4, 5), ignore_index=1), ValueError,
     "probabilities.*ignore_index=1"),
    (lambda: F.linear_cross_entropy(gp.ones((1, 2)), gp.ones((3, 2)), labels(3)), IndexError,
     "linear_cross_entropy: label out of range.* < 3"),
    (lambda: F.linear_cross_entropy(gp.ones((1, 2), "float64"), gp.ones((3, 2)), labels(0)),
     TypeError, "linear_cross_entropy: input is float64.*weight is float32"),
    (lambda: nn.LinearCrossEntropyLoss(2, 3, weight=gp.ones((2,))), ValueError, r"weight .*\(3,\)"),
    (lambda: nn.LinearCrossEntropyLoss(2, 3, label_smoothing=-1.0), ValueError,
     "label_smoothing.*-1.0"),
    *((lambda cutoffs=cutoffs: adaptive(*cutoffs), ValueError, "cutoffs .*n_classes")
      for cutoffs in ((), (0, 5), (5, 5), (5, 3), (10,))),
    (lambda: adaptive(5)(gp.ones((2, 4)), labels(1)), ValueError, r"\(2, 4\) .*\(1,\)"),
    (lambda: adaptive(5)(gp.ones((1, 4)), gp.ones((1,))), TypeError, "target .*labels.*float32"),
    (lambda: adaptive(5)(gp.ones((1, 4)), labels(10)), IndexError, "AdaptiveLogSoftmax.*label"),
]


@pytest.mark.parametrize(("call", "error", "message"), ERRORS, ids=range(len(ERRORS)))
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(("call", "message"), [
    (lambda: ctc(inputs=(5, 4)), "ctc_loss: input_lengths"),
    (lambda: F.linear_cross_entropy(gp.ones((1, 2)), gp.ones((3, 2)), labels(3)),
     "linear_cross_entropy: label"),
    (lambda: adaptive(5)(gp.ones((1, 4)), labels(-100)).loss, "AdaptiveLogSoftmax.*label"),
], ids=["ctc_loss", "linear_cross_entropy", "adaptive"])
def test_a_device_raises_index_errors_when_a_value_is_read(backend, call, message):
    with pytest.raises(IndexError, match=message):
        call().numpy()
