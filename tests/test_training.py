"""The Trainer: equal to a hand-written loop, exact accumulation, and errors."""

import functools
import gc
import inspect
import itertools
import threading
import warnings

import numpy as np
import pytest

import gpuprop
import gpuprop.functional as F
from gpuprop import nn, optim
from gpuprop._core.instruments import collect_modules
from gpuprop.data import ArrayDataset, DataLoader, IterableDataset
from gpuprop.training import (
    Callback,
    Checkpoint,
    EarlyStopping,
    HistoryLogger,
    Metric,
    Trainer,
)


def data(n=40, features=5, classes=3, dtype="float32"):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((n, features)).astype(dtype)
    return x, (x @ rng.standard_normal((features, classes))).argmax(1)


def model(dropout=0.2, dtype="float32"):
    gpuprop.manual_seed(3)
    layers = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3))
    return layers.to(dtype=dtype)


def trainer(dropout=0.2, dtype="float32", loss=F.cross_entropy, lr=0.01, metrics=(),
            scheduler=None, **options):
    m = model(dropout, dtype)
    optimizer = optim.Adam(m.parameters(), lr=lr)
    return Trainer(m, loss, optimizer, metrics, scheduler and scheduler(optimizer), **options)


def split(arrays, size):
    return [tuple(a[i:i + size] for a in arrays) for i in range(0, len(arrays[-1]), size)]


def assert_equal(a, b):
    a, b = a.model.state_dict(), b.model.state_dict()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


# ---- the loop ------------------------------------------------------------------------------------


def test_fit_equals_a_hand_written_loop_bit_for_bit(backend):
    batches = split(data(), 12)
    t = trainer(clip_grad_norm=0.5)
    t.fit(batches, epochs=3)
    manual = trainer()
    losses = []
    for x, y in batches * 3:
        manual.optimizer.zero_grad()
        loss = F.cross_entropy(manual.model(gpuprop.tensor(x)), gpuprop.tensor(y))
        loss.backward()
        nn.utils.clip_grad_norm_(manual.model.parameters(), 0.5)
        manual.optimizer.step()
        losses.append(loss.item() * len(y))
    assert_equal(t, manual)
    means = [sum(losses[i:i + 4]) / 40 for i in (0, 4, 8)]
    assert t.history["loss"] == pytest.approx(means, rel=1e-6)


def test_equal_seeds_give_equal_bits(backend):
    runs = [trainer(metrics=["accuracy"]) for _ in range(2)]
    for t in runs:
        gpuprop.manual_seed(7)
        t.fit(data(), data(), epochs=3, batch_size=16)
    assert_equal(*runs)
    for column in ("loss", "accuracy", "val_loss", "val_accuracy"):
        assert runs[0].history[column] == runs[1].history[column]


def test_training_improves_loss_and_metrics(backend):
    t = trainer(metrics=["accuracy", "confusion_matrix"], lr=0.03)
    history = t.fit(data(200), data(200), epochs=15)
    assert history is t.history and len(history) == 15
    assert history["loss"][-1] < history["loss"][0] / 2 and history[-1]["val_accuracy"] > 0.9
    results = t.evaluate(data(200))
    assert results["loss"] == pytest.approx(history[-1]["val_loss"], rel=1e-5)
    assert results["accuracy"] == history[-1]["val_accuracy"]
    assert results["accuracy"] == np.trace(results["confusion_matrix"]) / 200
    assert (t.predict(data(200)[0]).numpy().argmax(1) == data(200)[1]).mean() == results["accuracy"]
    t.fit(data(200))
    assert [row["epoch"] for row in history] == list(range(1, 17))


def test_several_inputs_and_all_forms_of_data(backend):
    class TwoInputs(nn.Module):
        def __init__(self):
            self.a, self.b = nn.Linear(5, 3), nn.Linear(5, 3)

        def forward(self, x, z):
            return self.a(x) + self.b(z)

    class Rows:
        """A dataset that is not derived from Dataset."""

        def __len__(self):
            return 40

        def __getitem__(self, i):
            return x[i], -x[i], y[i]

    class Stream(IterableDataset):
        def __iter__(self):
            return zip(x, -x, y, strict=True)

    x, y = data()
    want = None
    forms = (
        lambda: split((x, -x, y), 10), lambda: DataLoader(ArrayDataset(x, -x, y), 10),
        lambda: (gpuprop.tensor(x), x.astype("float64") * -1, y.tolist()), Rows, Stream)
    for make in forms:
        gpuprop.manual_seed(0)
        m = TwoInputs()
        t = Trainer(m, nn.CrossEntropyLoss(), optim.SGD(m.parameters(), lr=0.1))
        results = t.evaluate(make(), batch_size=10)
        assert want in (None, results["loss"])
        want = results["loss"]
        t.fit(make(), batch_size=10)
        assert t.predict(make(), batch_size=10).shape == (40, 3)


def test_arrays_are_moved_to_the_device_of_the_model(backend):
    t = trainer(dtype="float64")
    with gpuprop.use("numpy"):
        t.fit(data(), data(), epochs=1)
        output = t.predict(data()[0])
        assert type(output.data) is backend.array_type and output.dtype == "float64"
    assert all(type(p.data) is backend.array_type for p in t.model.parameters())


def test_fit_waits_for_the_device_once_an_epoch(backend):
    waits, syncs = [], getattr(backend, "syncs", [])
    for n in (4, 24):
        t = trainer(metrics=["accuracy", "top2", "f1", "auroc"], clip_grad_norm=1.0)
        batches = [tuple(map(gpuprop.tensor, b)) for b in split(data(4 * n), 4)]
        before = len(syncs)
        t.fit(batches, epochs=2)
        waits.append(len(syncs) - before)
    assert waits[0] == waits[1] <= 2 * 10


@pytest.mark.parametrize("accumulate", [1, 3])
def test_captured_steps_are_equal(backend, accumulate):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        options = {"metrics": ["accuracy"], "accumulate": accumulate, "clip_grad_norm": 0.3}
        runs = [trainer(**options, capture=capture) for capture in (False, True)]
        for t in runs:
            gpuprop.manual_seed(5)
            t.fit(split(data(), 6), epochs=4)
    assert_equal(*runs)
    assert runs[0].history["loss"] == pytest.approx(runs[1].history["loss"], rel=1e-12)


# ---- accumulation --------------------------------------------------------------------------------

WEIGHTS = np.array([0.5, 2.0, 1.25])
Y = data(classes=3)[1]
LABELS = np.where(np.arange(40) % 3 == 1, -100, Y)
LABELS[14:21] = -100  # a whole batch of 7
SOFT = np.random.default_rng(2).dirichlet(np.ones(3), 40)
LOSSES = {
    "cross_entropy": (F.cross_entropy, Y),
    "ignored": (F.cross_entropy, LABELS),
    "ignored 0": (nn.CrossEntropyLoss(ignore_index=0), Y),
    "weighted": (lambda: nn.CrossEntropyLoss(gpuprop.tensor(WEIGHTS), label_smoothing=0.1), LABELS),
    "partial": (lambda: functools.partial(F.cross_entropy, weight=gpuprop.tensor(WEIGHTS)), LABELS),
    "probabilities": (nn.CrossEntropyLoss(), SOFT),
    "mse": (F.mse_loss, SOFT),
    "huber": (nn.HuberLoss(delta=0.3), SOFT),
    "bce": (nn.BCEWithLogitsLoss(), SOFT),
    "kl": (nn.KLDivLoss(), SOFT),
    "kl batchmean": (functools.partial(F.kl_div, reduction="batchmean"), SOFT),
    "own mean": (lambda: lambda output, target: ((output - target) ** 2).sum(axis=1).mean(), SOFT),
    "own sum": (lambda: own_sum, LABELS),
    "own method": (lambda: OwnMethod(), LABELS),
    "own class": (lambda: Doubled(), Y),
}


def own_sum(output, target):
    return F.cross_entropy(output, target, reduction="sum"), (target != -100).sum()


class OwnMethod:
    def __call__(self, output, target):
        total, count = self.sum_and_count(output, target)
        return total / count

    def sum_and_count(self, output, target):
        return own_sum(output, target)


class Doubled(nn.CrossEntropyLoss):
    """Its forward is not that of the base class, so the sum and the count are not either."""

    def forward(self, output, target):
        return 2 * super().forward(output, target)


@pytest.mark.parametrize("name", LOSSES)
def test_accumulation_equals_the_big_batch(backend, name):
    """With ragged batches, ignored labels and weights: parameters and loss to 1e-12 in float64."""
    loss, target = LOSSES[name]
    if getattr(loss, "__name__", "") == "<lambda>":  # constructed here, on the backend under test
        loss = loss()
    arrays = data(dtype="float64")[0], target
    runs = []
    for size, accumulate in ((40, 1), (7, 6), (7, 100), (40, 3)):
        t = trainer(0, "float64", loss, accumulate=accumulate, clip_grad_norm=10.0)
        t.fit(split(arrays, size), epochs=3)
        runs.append(t)
    manual = trainer(0, "float64")
    for _ in range(3):
        manual.optimizer.zero_grad()
        x, y = map(gpuprop.tensor, arrays)
        value = loss(manual.model(x), y)
        value = value[0] / value[1] if isinstance(value, tuple) else value
        value.backward()
        manual.optimizer.step()
    for t in runs:
        for key, want in manual.model.state_dict().items():
            found = t.model.state_dict()[key]
            np.testing.assert_allclose(found, want, rtol=0, atol=1e-12, err_msg=key)
        assert t.history[-1]["loss"] == pytest.approx(value.item(), rel=1e-12)


def test_the_number_of_steps_of_a_ragged_epoch():
    steps = []

    class Count(Callback):
        def on_step_end(self, t):
            steps.append(t.running_loss())

    t = trainer(accumulate=3)
    t.fit(data(40), batch_size=6, epochs=1, callbacks=[Count()])
    assert len(steps) == t.steps_per_epoch == 3


def test_running_loss():
    t = trainer()
    with pytest.raises(RuntimeError, match="no epoch has started"):
        t.running_loss()
    losses = []
    t.fit(data(40), batch_size=10, epochs=2, callbacks=[lambda t: losses.append(t.running_loss())])
    assert losses == t.history["loss"]


@pytest.mark.parametrize("capture", [False, True])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_on_step_end_sees_the_loss_and_metrics_of_the_step(backend, accumulate, capture):
    batches = split(data(40), 8)
    updated = []  # the number of targets of each batch that was added to the metrics
    seen = []

    class CountTargets(Metric):
        name = "targets"

        def batch_sums(self, xp, output, target):
            updated.append(len(target))
            return (len(target),)

        def from_sums(self, n):
            return n

    class ReadRunning(Callback):
        def on_step_end(self, t):
            seen.append((t.running_loss(), sum(updated)))

    # without dropout and with lr=0, so that the loss of a batch does not depend on the step
    t = trainer(0, lr=0.0, metrics=[CountTargets()], accumulate=accumulate, capture=capture)
    losses = [t.evaluate([batch])["loss"] for batch in batches]
    ends = [*range(accumulate, len(batches), accumulate), len(batches)]
    expected = [(pytest.approx(np.mean(losses[:end]), rel=1e-5), 8 * end) for end in ends]
    updated.clear()
    t.fit(batches, callbacks=[ReadRunning()])
    assert seen == expected
    assert t.history[-1]["loss"] == seen[-1][0]


N, C = 6, 4
RNG = np.random.default_rng(5)
SCORES, OTHER = RNG.standard_normal((2, N, C))
PROBABILITIES = RNG.uniform(0.1, 0.9, (N, C))
CLASSES = RNG.integers(0, C, N)
SIGNS = np.sign(RNG.standard_normal((N, C)))
SETS = np.array([[1, 2, -1, 0]] * N)
CLASS_WEIGHTS = RNG.uniform(0.1, 2, C)
LIBRARY_LOSSES = {
    "l1": (nn.L1Loss, {}, SCORES, OTHER),
    "mse": (nn.MSELoss, {}, SCORES, OTHER),
    "smooth l1": (nn.SmoothL1Loss, {}, SCORES, OTHER),
    "huber": (nn.HuberLoss, {}, SCORES, OTHER),
    "cross entropy": (nn.CrossEntropyLoss, {"label_smoothing": 0.1}, SCORES, CLASSES),
    "cross entropy, weights": (
        nn.CrossEntropyLoss, {"weight": CLASS_WEIGHTS, "ignore_index": 1}, SCORES, CLASSES),
    "cross entropy, probabilities": (
        nn.CrossEntropyLoss, {"weight": CLASS_WEIGHTS}, SCORES, PROBABILITIES),
    "cross entropy, one sample": (nn.CrossEntropyLoss, {}, SCORES[0], CLASSES[0]),
    "nll": (nn.NLLLoss, {"weight": CLASS_WEIGHTS}, SCORES, CLASSES),
    "bce": (nn.BCELoss, {"weight": CLASS_WEIGHTS}, PROBABILITIES, PROBABILITIES),
    "bce with logits": (
        nn.BCEWithLogitsLoss, {"pos_weight": CLASS_WEIGHTS}, SCORES, PROBABILITIES),
    "kl div": (nn.KLDivLoss, {}, SCORES, PROBABILITIES),
    "kl div, batchmean": (nn.KLDivLoss, {"reduction": "batchmean"}, SCORES, PROBABILITIES),
    "soft margin": (nn.SoftMarginLoss, {}, SCORES, SIGNS),
    "poisson": (nn.PoissonNLLLoss, {}, SCORES, PROBABILITIES),
    "gaussian": (nn.GaussianNLLLoss, {}, SCORES, OTHER, PROBABILITIES),
    "hinge embedding": (nn.HingeEmbeddingLoss, {}, SCORES, SIGNS),
    "cosine embedding": (nn.CosineEmbeddingLoss, {}, SCORES, OTHER, SIGNS[:, 0]),
    "margin ranking": (nn.MarginRankingLoss, {}, SCORES, OTHER, SIGNS),
    "multi margin": (nn.MultiMarginLoss, {"weight": CLASS_WEIGHTS}, SCORES, CLASSES),
    "multilabel margin": (nn.MultiLabelMarginLoss, {}, SCORES, SETS),
    "multilabel soft margin": (
        nn.MultiLabelSoftMarginLoss, {"weight": CLASS_WEIGHTS}, SCORES, PROBABILITIES),
    "triplet margin": (nn.TripletMarginLoss, {}, SCORES, OTHER, PROBABILITIES),
    "focal": (nn.FocalLoss, {"gamma": 1.5}, SCORES, PROBABILITIES),
    "dice": (nn.DiceLoss, {}, PROBABILITIES, PROBABILITIES[::-1]),
    "tversky": (nn.TverskyLoss, {"alpha": 0.3}, PROBABILITIES, PROBABILITIES[::-1]),
    "lovasz hinge": (nn.LovaszHingeLoss, {}, SCORES, (SIGNS > 0) * 1.0),
    "linear": (lambda **options: nn.LinearCrossEntropyLoss(C, C, dtype="float64", **options),
               {"weight": CLASS_WEIGHTS, "ignore_index": 1}, SCORES, CLASSES),
}
OF_THE_WHOLE_BATCH = {  # each sample is compared with all others
    "info nce": (nn.InfoNCELoss, {}, SCORES, OTHER),
    "nt xent": (nn.NTXentLoss, {"temperature": 0.2}, SCORES, OTHER),
}
LIBRARY_LOSSES |= OF_THE_WHOLE_BATCH


@pytest.mark.parametrize("name", LIBRARY_LOSSES)
def test_sum_and_count_of_the_losses(backend, name):
    """The sum divided by the count is the mean, and both add up over batches."""
    make, options, *arrays = LIBRARY_LOSSES[name]
    loss = make(**{n: gpuprop.tensor(v) if isinstance(v, np.ndarray) else v
                   for n, v in options.items()})
    total, count = loss.sum_and_count(*map(gpuprop.tensor, arrays))
    mean = loss(*map(gpuprop.tensor, arrays)).item()
    assert total.item() / float(count) == pytest.approx(mean, rel=1e-12)
    if arrays[0].ndim == 2 and name not in OF_THE_WHOLE_BATCH:
        halves = [[a[:2] for a in arrays], [a[2:] for a in arrays]]
        parts = [loss.sum_and_count(*map(gpuprop.tensor, half)) for half in halves]
        assert sum(part.item() for part, _ in parts) == pytest.approx(total.item(), rel=1e-12)
        assert sum(float(n) for _, n in parts) == pytest.approx(float(count), rel=1e-12)


def test_a_batch_in_which_all_labels_are_ignored():
    """The gradient is zero and the loss is NaN."""
    t = trainer(lr=0.1)
    before = t.model.state_dict()
    t.fit((data()[0], np.full(40, -100)))
    assert np.isnan(t.history[-1]["loss"])
    for name, value in t.model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_element_weights():
    """The mean of mse_loss and l1_loss divides by the sum of the weights."""
    x, weight = data(dtype="float64")[0], np.random.default_rng(3).uniform(0, 2, (40, 3))
    loss = functools.partial(F.l1_loss, weight=gpuprop.tensor(weight))
    t = trainer(0, "float64", loss)
    t.fit([(x, SOFT)])
    manual = trainer(0, "float64")
    loss(manual.model(gpuprop.tensor(x)), gpuprop.tensor(SOFT)).backward()
    manual.optimizer.step()
    for name, want in manual.model.state_dict().items():
        np.testing.assert_allclose(t.model.state_dict()[name], want, rtol=0, atol=1e-14)


def test_losses_that_are_not_means():
    for loss in (nn.MSELoss(reduction="sum"), functools.partial(F.mse_loss, reduction="none")):
        with pytest.raises(ValueError, match=r"must be a mean.*reduction='(sum|none)'"):
            trainer(loss=loss)
    t = trainer(loss=lambda output, target: F.cross_entropy(output, target, reduction="none"))
    with pytest.raises(ValueError, match=r"one number, .* shape \(32,\): .*\.mean\(\)"):
        t.fit(data())


def test_hooks_of_a_loss():
    """They are called, also if they are registered after the Trainer is constructed."""
    loss = nn.CrossEntropyLoss()
    t = trainer(0, loss=loss)
    seen = []
    loss.register_forward_pre_hook(lambda module, args: seen.append(len(args)))
    remove = loss.register_forward_hook(lambda module, args, output: 2 * output)
    doubled = t.evaluate(data(), batch_size=20)["loss"]
    assert seen == [2, 2]
    remove()
    assert t.evaluate(data())["loss"] == pytest.approx(doubled / 2)


def test_forward_of_a_loss():
    """Whatever a call of the loss computes is what the Trainer computes."""
    class Halved(nn.MSELoss):
        def __call__(self, output, target):
            return super().__call__(output, target) / 2

    class OtherFunction(nn.MSELoss):
        function = staticmethod(lambda input, target, reduction="mean": F.l1_loss(input, target))

    class Linear(nn.LinearCrossEntropyLoss):
        def forward(self, output, target):
            return 3 * super().forward(output, target)

    class Wrapped:
        def __init__(self, loss):
            self.loss = loss

        def __getattr__(self, name):
            return getattr(self.loss, name)

        def __call__(self, output, target):
            return 2 * self.loss(output, target)

    own = nn.MSELoss()
    own.forward = lambda output, target: 5 * F.mse_loss(output, target)
    losses = [(loss, SOFT) for loss in (Halved(), OtherFunction(), own, Wrapped(nn.MSELoss()))]
    losses.append((Linear(3, 3, dtype="float64"), Y))
    for loss, target in losses:
        t = trainer(0, "float64", loss)
        x = data(dtype="float64")[0]
        want = loss(t.model(gpuprop.tensor(x)), gpuprop.tensor(target)).item()
        assert t.evaluate((x, target))["loss"] == pytest.approx(want)


def test_a_loss_is_watched_like_a_call():
    """Errors name the layer, and instruments see the call."""
    t = trainer(loss=nn.MSELoss())
    with pytest.raises(ValueError, match="mse_loss") as caught:
        t.fit(data())
    assert any("in MSELoss: MSELoss(reduction" in note for note in caught.value.__notes__)
    loss = nn.CrossEntropyLoss()
    with collect_modules() as called:
        trainer(loss=loss).evaluate(data())
    assert loss in called


def test_a_loss_without_super_init():
    class Own(nn.CrossEntropyLoss):
        def __init__(self):
            self.scale = 2

        def forward(self, output, target):
            return self.scale * F.cross_entropy(output, target)

    class OwnLinear(nn.LinearCrossEntropyLoss):
        def __init__(self):
            pass

        def forward(self, output, target):
            return 2 * F.cross_entropy(output, target)

    want = trainer(0).evaluate(data())["loss"]
    for loss in Own(), OwnLinear():
        assert trainer(0, loss=loss).evaluate(data())["loss"] == pytest.approx(2 * want)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_one_element_losses(backend, accumulate):
    """A mean, a sum or a count may have any shape with one element."""
    def mean(shape):
        return lambda output, target: F.cross_entropy(output, target).reshape(shape)

    def pair(count):
        def loss(output, target):
            total = F.cross_entropy(output, target, reduction="sum")
            return total.reshape(1, 1), count(len(target))
        return loss

    counts = [int, np.float64, lambda n: gpuprop.tensor([float(n)]), lambda n: np.array([[n]])]
    losses = [mean((1,)), mean((1, 1)), *map(pair, counts)]
    want = trainer(0)
    want.fit(data(), batch_size=10)
    for loss in losses:
        t = trainer(0, loss=loss, accumulate=accumulate)
        history = t.fit(data(), batch_size=10 // accumulate)
        assert history["loss"] == pytest.approx(want.history["loss"], rel=1e-4)


@pytest.mark.parametrize("result, error, message", [
    (lambda y: (y, 3), ValueError, r"sum, got shape \(32, 3\).*\.sum\(\)"),
    (lambda y: (y.sum(), y[0]), ValueError, r"count .*shape \(3,\)"),
    (lambda y: (y.sum(), None), TypeError, "count.*NoneType"),
    (lambda y: (1.0, 3), TypeError, r"pair \(sum, count\) whose sum is a float"),
    (lambda y: y.sum().item(), TypeError, r"must return a Tensor.*got a float.*\.item"),
    (lambda y: y.sum().detach().numpy(), TypeError, "must return a Tensor.*got a ndarray"),
    (lambda y: None, TypeError, "must return a Tensor.*got None"),
    (lambda y: [], TypeError, "got a list of length 0"),
    (lambda y: (y.sum(), 1, 2), TypeError, "got a tuple of length 3"),
])
def test_invalid_results_of_a_loss(result, error, message):
    """They raise for the first batch."""
    calls = []

    def loss(output, target):
        calls.append(1)
        return result(output)

    for use in ("fit", "evaluate"):
        calls.clear()
        with pytest.raises(error, match=message):
            getattr(trainer(loss=loss), use)(data(), batch_size=32)
        assert len(calls) == 1


@pytest.mark.parametrize("loss, message", [
    (nn.CrossEntropyLoss, r"class.*CrossEntropyLoss\(\)"),
    (None, "function or a module.*None"),
    ("mse", "function or a module.*'mse'"),
])
def test_losses_that_cannot_be_called(loss, message):
    with pytest.raises(TypeError, match=message):
        trainer(loss=loss)


def test_a_model_without_return():
    class Model(nn.Module):
        def __init__(self):
            self.layer = nn.Linear(5, 3)

        def forward(self, x):
            self.layer(x)

    m = Model()
    for loss in F.cross_entropy, nn.CrossEntropyLoss():
        with pytest.raises(TypeError, match=r"model returned None.*forward must return"):
            Trainer(m, loss, optim.SGD(m.parameters(), lr=0.1)).fit(data())


# ---- schedules -----------------------------------------------------------------------------------


def test_schedules():
    step = functools.partial(optim.lr_scheduler.ExponentialLR, gamma=0.5)
    t = trainer(lr=0.8, scheduler=step)
    t.fit(data(40), batch_size=10, epochs=3)
    assert t.history["lr"] == [0.8, 0.4, 0.2]
    t = trainer(lr=0.8, scheduler=step, schedule="step", accumulate=2)
    t.fit(data(40), batch_size=10, epochs=3)
    assert t.history["lr"] == [0.2, 0.05, 0.0125]


@pytest.mark.parametrize("column", ["loss", "val_loss"])
def test_plateau(column):
    plateau = functools.partial(
        optim.lr_scheduler.ReduceLROnPlateau, patience=0, factor=0.1, threshold=0.9999)
    t = trainer(lr=1e-3, scheduler=plateau)
    t.fit(data(), data() if column == "val_loss" else None, epochs=3)
    assert t.history["lr"] == pytest.approx([1e-3, 1e-3, 1e-4])
    assert t.scheduler.best == t.history[column][0]


# ---- invalid data --------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong, message", [
    ((np.zeros((0, 5), "float32"), np.zeros(0, int)), "no data: the dataset is empty"),
    ([], "no data: the list has no batches"),
    (iter([]), "no data: the iterable has no batches"),
    (DataLoader(ArrayDataset(*data(10)), 32, drop_last=True), "no batches of 10 .*drop_last"),
    ((data(10)[0], data(9)[1]), r"same length, .* \(10, 5\), \(9,\)"),
])
def test_no_data(wrong, message):
    for use in ("fit", "evaluate", "predict"):
        with pytest.raises(ValueError, match=message):
            getattr(trainer(), use)(wrong)


def test_an_exhausted_iterator():
    t = trainer()
    with pytest.raises(ValueError, match="iterator can be used only once"):
        t.fit(iter(split(data(), 10)), epochs=2)
    assert len(t.history) == 1


def test_a_batch_larger_than_the_data():
    t = trainer()
    t.fit(data(10), batch_size=1000)
    assert t.steps_per_epoch == 1


def test_nan_labels():
    x = data(40)[0]
    y = np.where(np.arange(40) == 3, np.nan, 0.5)[:, None].repeat(3, 1)
    t = trainer(loss=F.mse_loss)
    before = t.model.state_dict()
    for wrong in ((x, y), ArrayDataset(x, y), DataLoader(ArrayDataset(x, y), 8)):
        with pytest.raises(ValueError, match="target has 3 NaN among its 120 values"):
            t.fit(wrong)
        with pytest.raises(ValueError, match="target has 3 NaN"):
            t.fit((x, np.ones_like(y)), wrong)
    np.testing.assert_array_equal(t.model.state_dict()["0.weight"], before["0.weight"])
    assert t.predict((x, y)).shape == (40, 3)


def test_invalid_batches():
    x = data()[0]
    wrong_batches = {"Tensor|ndarray": [x], "a tuple of length 1": [(x,)], "dict": [{"x": 1}]}
    for found, wrong in wrong_batches.items():
        with pytest.raises(TypeError, match=rf"tuple \(\*inputs, target\), got ({found})"):
            trainer().fit(wrong)
    with pytest.raises(TypeError, match=r"data must be .*, got 3"):
        trainer().fit(3)


def test_labels_out_of_range(backend):
    t = trainer()
    with pytest.raises(IndexError, match=r"label.* < 3"):
        t.fit((data()[0], data()[1] + 2))
    assert t.model.training


def test_invalid_arguments():
    m = model()
    with pytest.raises(ValueError, match="none of the model's parameters"):
        Trainer(m, F.cross_entropy, optim.SGD(model().parameters()))
    with pytest.raises(ValueError, match="unknown metric 'acc'"):
        trainer(metrics="acc")
    with pytest.raises(ValueError, match="different names"):
        trainer(metrics=["accuracy", "accuracy"])
    other = optim.SGD(model().parameters())
    with pytest.raises(ValueError, match="scheduler has another optimizer"):
        trainer(scheduler=lambda optimizer: optim.lr_scheduler.ExponentialLR(other, 0.9))
    for callback, message in [(5, "callbacks.0. .*got 5"), (Callback, r"construct .*Callback\(")]:
        with pytest.raises(TypeError, match=message):
            trainer().fit(data(), callbacks=[callback])


@pytest.mark.parametrize("batch", [[1.0, 2.0], [5, 1], ["text", 1], [None, 1], (1.0, 2.0)])
def test_batches_of_numbers(batch):
    t = trainer()
    for call in (t.fit, t.evaluate, t.predict):
        with pytest.raises(TypeError, match=r"a batch must hold arrays, got .*np.asarray"):
            call([batch])


# the values that each parameter accepts besides its type; all others of `BAD` must be refused
BAD = {"none": None, "text": "abc", "object": object(), "negative": -1, "zero": 0, "number": 1.5,
       "nan": float("nan"), "bool": True, "class": nn.MSELoss, "integer": 3}
ACCEPTED = {
    (Trainer, "model"): "", (Trainer, "loss"): "", (Trainer, "optimizer"): "",
    (Trainer, "metrics"): "", (Trainer, "scheduler"): "none", (Trainer, "schedule"): "",
    (Trainer, "accumulate"): "integer",
    (Trainer, "clip_grad_norm"): "none zero integer number", (Trainer, "capture"): "bool zero",
    (Trainer, "autocast"): "none",
    ("fit", "train"): "", ("fit", "validation"): "none", ("fit", "epochs"): "zero integer",
    ("fit", "batch_size"): "integer", ("fit", "callbacks"): "", ("fit", "progress"): "bool zero",
    ("evaluate", "data"): "", ("evaluate", "batch_size"): "integer",
    ("predict", "data"): "", ("predict", "batch_size"): "integer",
    (EarlyStopping, "monitor"): "text", (EarlyStopping, "patience"): "integer",
    (EarlyStopping, "min_delta"): "zero integer number",
    (EarlyStopping, "restore_best"): "bool zero",
    (Checkpoint, "path"): "", (Checkpoint, "monitor"): "none text", (HistoryLogger, "path"): "",
}


@pytest.mark.parametrize("call, name", [
    (call, name) for call in (Trainer, "fit", "evaluate", "predict", EarlyStopping, Checkpoint,
                              HistoryLogger)
    for name in inspect.signature(getattr(Trainer, call) if isinstance(call, str) else call)
    .parameters if name != "self"])
def test_wrong_values_of_every_parameter(call, name):
    """They are refused at once, by name, before the model or the generators change."""
    m = model()
    valid = {Trainer: {"model": m, "loss": nn.CrossEntropyLoss(),
                       "optimizer": optim.SGD(m.parameters())},
             Checkpoint: {"path": "run.npz"}, EarlyStopping: {}, HistoryLogger: {},
             "fit": {"train": data()}, "evaluate": {"data": data()}, "predict": {"data": data()[0]}}
    t = Trainer(**valid[Trainer])
    before = t.state_dict()
    f = getattr(t, call) if isinstance(call, str) else call
    for kind, value in BAD.items():
        arguments = {**valid[call], name: value}
        if kind in ACCEPTED[call, name].split():
            f(**arguments)
            before = t.state_dict()
            continue
        words = {"train": "data", "validation": "data", "metrics": "metric"}
        with pytest.raises((TypeError, ValueError), match=words.get(name, name)):
            f(**arguments)
        assert repr(t.state_dict()) == repr(before)


@pytest.mark.parametrize("loss, error, message", [
    (lambda output, target: None, TypeError, "got None"),
    (lambda output, target: output, ValueError, "one number"),
    (lambda output, target: F.cross_entropy(output.detach(), target), ValueError, "no gradient"),
    (lambda output, target: gpuprop.tensor(1.0), ValueError, "no gradient"),
    (lambda output, target: (gpuprop.tensor(1.0), 3), ValueError, "no gradient"),
])
def test_losses_without_a_gradient(backend, loss, error, message):
    """They are named at the first call, and the model stays as it was."""
    t, same = trainer(loss=loss), trainer()
    with pytest.raises(error, match=message):
        t.fit(data())
    assert_equal(t, same)


# ---- modes, prediction and resources -------------------------------------------------------------


def test_modules_return_to_their_modes():
    t = trainer(dropout=0.5)
    t.model.eval()
    t.model[2].train()  # as for Monte Carlo dropout
    modes = [m.training for m in t.model.modules()]
    a, b = t.predict(data()[0]).numpy(), t.predict(data()[0]).numpy()
    np.testing.assert_array_equal(a, b)
    t.evaluate(data())
    t.fit(data(), data())
    assert [m.training for m in t.model.modules()] == modes


def test_predictions_are_not_recorded_and_keep_the_order(backend):
    t = trainer()
    x, y = data()
    whole = t.predict(x)
    assert not whole.requires_grad and whole.node is None
    for form in ((x, y), split((x, y), 7), [x[:30], x[30:]], DataLoader(ArrayDataset(x), 9)):
        np.testing.assert_allclose(t.predict(form).numpy(), whole.numpy(), rtol=1e-6, atol=1e-6)


def test_evaluating_within_an_epoch_changes_nothing():
    class Evaluate(Callback):
        def on_step_end(self, t):
            t.evaluate(data())
            t.predict(data()[0])

    runs = [trainer(metrics=["accuracy"]) for _ in range(2)]
    for t, callbacks in zip(runs, ([], [Evaluate()]), strict=True):
        gpuprop.manual_seed(1)
        t.fit(data(), epochs=2, callbacks=callbacks)
    assert_equal(*runs)
    assert runs[0].history["accuracy"] == runs[1].history["accuracy"]


def test_fit_outside_of_the_main_thread():
    t = trainer()
    thread = threading.Thread(target=lambda: t.fit(data(), data(), epochs=2))
    thread.start()
    thread.join()
    assert len(t.history) == 2


def test_memory_does_not_grow():
    t = trainer(metrics=["accuracy"])
    batches = split(data(), 8)
    t.fit(batches)
    gc.collect()
    counts = []
    for _ in range(2):
        t.fit(itertools.islice(itertools.cycle(batches), 400))
        gc.collect()
        counts.append(len(gc.get_objects()))
    assert counts[1] - counts[0] < 40


def test_a_loss_that_reduces_for_itself():
    class Focal(nn.CrossEntropyLoss):
        def __init__(self):
            super().__init__(reduction="none")

        def forward(self, input, target):
            loss = super().forward(input, target)
            return ((1 - gpuprop.exp(-loss)) ** 2 * loss).mean()

    hooked = nn.CrossEntropyLoss(reduction="none")
    hooked.register_forward_hook(lambda module, args, output: output.mean())
    x, y = np.ones((4, 3), "float32"), np.zeros(4, "int64")
    for loss in (Focal(), hooked):
        model = nn.Linear(3, 2)
        Trainer(model, loss, optim.SGD(model.parameters())).fit((x, y), epochs=1, batch_size=2)
    with pytest.raises(ValueError, match="must be a mean"):
        Trainer(model, nn.CrossEntropyLoss(reduction="none"), optim.SGD(model.parameters()))


# ---- optimizers with a train and an eval mode ----------------------------------------------------


def schedule_free(m):
    return optim.AdamWScheduleFree(m.parameters(), lr=0.05, betas=(0.8, 0.99))


def test_a_schedule_free_optimizer(backend, tmp_path):
    """Evaluation, checkpoints and the trained model have the averages, steps the values y."""
    arrays = data()
    batches = split(arrays, 20)
    ours, reference = model(dropout=0.0), model(dropout=0.0)
    t = Trainer(ours, nn.CrossEntropyLoss(), schedule_free(ours), ["accuracy"])
    optimizer, loss = schedule_free(reference), nn.CrossEntropyLoss()
    values = []
    for _ in range(2):
        for x, y in batches:
            optimizer.zero_grad()
            loss(reference(gpuprop.tensor(x)), gpuprop.tensor(y)).backward()
            optimizer.step()
        optimizer.eval()
        values.append(loss(reference(gpuprop.tensor(arrays[0])), gpuprop.tensor(arrays[1])).item())
        averages = reference.state_dict()
        optimizer.train()
    seen = []
    history = t.fit(batches, [arrays], epochs=2, callbacks=[
        Checkpoint(tmp_path / "run.npz"), lambda t: seen.append(t.model.state_dict())])
    np.testing.assert_allclose(history["val_loss"], values, rtol=1e-5)
    saved = gpuprop.load(tmp_path / "run.npz")["model"]
    for name, want in averages.items():
        for found in (ours.state_dict(), seen[-1], saved):
            np.testing.assert_array_equal(found[name], want, err_msg=name)
    assert t.evaluate(arrays)["loss"] == pytest.approx(values[-1], rel=1e-5)
    assert t.predict(arrays[0]).tolist() == ours(gpuprop.tensor(arrays[0])).tolist()
    with pytest.raises(RuntimeError, match=r"optimizer\.train\(\)"):
        t.optimizer.step()


def test_when_the_mode_of_an_optimizer_changes():
    events = []

    class WithModes(optim.SGD):
        def train(self):
            events.append("train")

        def eval(self):
            events.append("eval")

    class Tell(Callback):
        def on_fit_start(self, trainer):
            events.append("fit start")

        def on_epoch_start(self, trainer):
            events.append("epoch start")

        def on_step_end(self, trainer):
            events.append("step end")

        def on_epoch_end(self, trainer):
            events.append("epoch end")

        def on_fit_end(self, trainer):
            events.append("fit end")

    m = model()
    t = Trainer(m, nn.CrossEntropyLoss(), WithModes(m.parameters(), lr=0.1))
    t.fit(data(), data(), batch_size=20, callbacks=[Tell()], progress=False)
    assert [e for e, _ in itertools.groupby(events)] == [
        "fit start", "epoch start", "train", "step end", "eval", "epoch end", "fit end"]
    events.clear()
    t.evaluate(data())
    assert {*events} == {"eval"}


def test_early_stopping_restores_averages():
    """The weights whose validation loss was measured."""
    arrays = data()
    m = model(dropout=0.0)
    t = Trainer(m, nn.CrossEntropyLoss(), schedule_free(m))
    history = t.fit(arrays, arrays, epochs=4, callbacks=[EarlyStopping(patience=3)], batch_size=20)
    best = min(history["val_loss"])
    assert t.evaluate(arrays, batch_size=20)["loss"] == pytest.approx(best, rel=1e-6)
