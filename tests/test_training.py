"""The Trainer: the bare loop's results, exact accumulation, and what happens when things go wrong."""

import functools
import gc
import itertools
import threading
import warnings

import numpy as np
import pytest

import gpuprop
import gpuprop.functional as F
from gpuprop import nn, optim
from gpuprop.data import ArrayDataset, DataLoader, IterableDataset
from gpuprop.training import Callback, Trainer


def data(n=40, features=5, classes=3, dtype="float32"):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((n, features)).astype(dtype)
    return x, (x @ rng.standard_normal((features, classes))).argmax(1)


def model(dropout=0.2, dtype="float32"):
    gpuprop.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3)).to(dtype=dtype)


def trainer(dropout=0.2, dtype="float32", loss=F.cross_entropy, lr=0.01, metrics=(), scheduler=None, **options):
    m = model(dropout, dtype)
    optimizer = optim.Adam(m.parameters(), lr=lr)
    return Trainer(m, loss, optimizer, metrics, scheduler and scheduler(optimizer), **options)


def pieces(arrays, size):
    return [tuple(a[i:i + size] for a in arrays) for i in range(0, len(arrays[-1]), size)]


def assert_equal(a, b):
    a, b = a.model.state_dict(), b.model.state_dict()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


# ---- the loop -------------------------------------------------------------------------------------------------------


def test_it_is_the_bare_loop_bit_for_bit(backend):
    batches = pieces(data(), 12)
    t = trainer(clip_grad_norm=0.5)
    t.fit(batches, epochs=3)
    bare = trainer()
    losses = []
    for x, y in batches * 3:
        bare.optimizer.zero_grad()
        loss = F.cross_entropy(bare.model(gpuprop.tensor(x)), gpuprop.tensor(y))
        loss.backward()
        nn.utils.clip_grad_norm_(bare.model.parameters(), 0.5)
        bare.optimizer.step()
        losses.append(loss.item() * len(y))
    assert_equal(t, bare)
    assert t.history["loss"] == pytest.approx([sum(losses[i:i + 4]) / 40 for i in (0, 4, 8)], rel=1e-6)


def test_the_same_seed_gives_the_same_bits_twice(backend):
    runs = [trainer(metrics=["accuracy"]) for _ in range(2)]
    for t in runs:
        gpuprop.manual_seed(7)
        t.fit(data(), data(), epochs=3, batch_size=16)
    assert_equal(*runs)
    for column in ("loss", "accuracy", "val_loss", "val_accuracy"):
        assert runs[0].history[column] == runs[1].history[column]


def test_it_learns(backend):
    t = trainer(metrics=["accuracy", "confusion_matrix"], lr=0.03)
    history = t.fit(data(200), data(200), epochs=15)
    assert history is t.history and len(history) == 15
    assert history["loss"][-1] < history["loss"][0] / 2 and history[-1]["val_accuracy"] > 0.9
    figures = t.evaluate(data(200))
    assert figures["loss"] == pytest.approx(history[-1]["val_loss"], rel=1e-5)
    assert figures["accuracy"] == history[-1]["val_accuracy"] == np.trace(figures["confusion_matrix"]) / 200
    assert (t.predict(data(200)[0]).numpy().argmax(1) == data(200)[1]).mean() == figures["accuracy"]
    t.fit(data(200))
    assert [row["epoch"] for row in history] == list(range(1, 17))


def test_several_inputs_and_several_kinds_of_data(backend):
    class Two(nn.Module):
        def __init__(self):
            self.a, self.b = nn.Linear(5, 3), nn.Linear(5, 3)

        def forward(self, x, z):
            return self.a(x) + self.b(z)

    class Rows:
        """A dataset to who looks for no more than it takes."""

        def __len__(self):
            return 40

        def __getitem__(self, i):
            return x[i], -x[i], y[i]

    class Stream(IterableDataset):
        def __iter__(self):
            return zip(x, -x, y, strict=True)

    x, y = data()
    want = None
    for kind in (lambda: pieces((x, -x, y), 10), lambda: DataLoader(ArrayDataset(x, -x, y), 10),
                 lambda: (gpuprop.tensor(x), x.astype("float64") * -1, y.tolist()), lambda: Rows(), lambda: Stream()):
        gpuprop.manual_seed(0)
        two = Two()
        t = Trainer(two, nn.CrossEntropyLoss(), optim.SGD(two.parameters(), lr=0.1))
        figures = t.evaluate(kind(), batch_size=10)
        assert want in (None, figures["loss"])
        want = figures["loss"]
        t.fit(kind(), batch_size=10)
        assert t.predict(kind(), batch_size=10).shape == (40, 3)


def test_arrays_go_where_the_model_is(backend):
    t = trainer(dtype="float64")
    with gpuprop.use("numpy"):
        t.fit(data(), data(), epochs=1)
        assert type(t.predict(data()[0]).data) is backend.array_type and t.predict(data()[0]).dtype == "float64"
    assert all(type(p.data) is backend.array_type for p in t.model.parameters())


def test_the_device_is_waited_for_once_an_epoch(backend):
    waits, syncs = [], getattr(backend, "syncs", [])
    for n in (4, 24):
        t = trainer(metrics=["accuracy", "top2", "f1", "auroc"], clip_grad_norm=1.0)
        batches = [tuple(map(gpuprop.tensor, b)) for b in pieces(data(4 * n), 4)]
        before = len(syncs)
        t.fit(batches, epochs=2)
        waits.append(len(syncs) - before)
    assert waits[0] == waits[1] <= 2 * 10


@pytest.mark.parametrize("accumulate", [1, 3])
def test_captured_steps_are_the_same(backend, accumulate):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runs = [trainer(metrics=["accuracy"], accumulate=accumulate, clip_grad_norm=0.3, capture=capture)
                for capture in (False, True)]
        for t in runs:
            gpuprop.manual_seed(5)
            t.fit(pieces(data(), 6), epochs=4)
    assert_equal(*runs)
    assert runs[0].history["loss"] == pytest.approx(runs[1].history["loss"], rel=1e-12)


# ---- accumulation ---------------------------------------------------------------------------------------------------

WEIGHTS = np.array([0.5, 2.0, 1.25])
Y = data(classes=3)[1]
LABELS = np.where(np.arange(40) % 3 == 1, -100, Y)
LABELS[14:21] = -100  # one whole micro-batch
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
}


def own_sum(output, target):
    return F.cross_entropy(output, target, reduction="sum"), (target != -100).sum()


@pytest.mark.parametrize("name", LOSSES)
def test_accumulation_equals_the_big_batch(backend, name):
    """Ragged batches, ignored labels and weights: to 1e-12 in float64, and equal to the loss's own mean."""
    loss, target = LOSSES[name]
    loss = loss() if type(loss) is type(lambda: 0) and loss.__name__ == "<lambda>" else loss
    arrays = data(dtype="float64")[0], target
    runs = []
    for size, accumulate in ((40, 1), (7, 6), (7, 100), (40, 3)):
        t = trainer(0, "float64", loss, accumulate=accumulate, clip_grad_norm=10.0)
        t.fit(pieces(arrays, size), epochs=3)
        runs.append(t)
    bare = trainer(0, "float64")
    for _ in range(3):
        bare.optimizer.zero_grad()
        x, y = map(gpuprop.tensor, arrays)
        value = loss(bare.model(x), y)
        value = value[0] / value[1] if isinstance(value, tuple) else value
        value.backward()
        bare.optimizer.step()
    for t in runs:
        for key, want in bare.model.state_dict().items():
            np.testing.assert_allclose(t.model.state_dict()[key], want, rtol=0, atol=1e-12, err_msg=key)
        assert t.history[-1]["loss"] == pytest.approx(value.item(), rel=1e-12)


def test_steps_of_a_ragged_epoch():
    steps = []

    class Count(Callback):
        def on_step_end(self, t):
            steps.append(t.running_loss())

    t = trainer(accumulate=3)
    t.fit(data(40), batch_size=6, epochs=1, callbacks=[Count()])
    assert len(steps) == t.steps_per_epoch == 3


def test_nothing_counts():
    """A batch without a label that counts leaves the gradient at zero, and the loss is not a number."""
    t = trainer(lr=0.1)
    before = t.model.state_dict()
    t.fit((data()[0], np.full(40, -100)))
    assert np.isnan(t.history[-1]["loss"])
    for name, value in t.model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_weights_of_places():
    """Their sum divides the mean of mse_loss and l1_loss."""
    x, weight = data(dtype="float64")[0], np.random.default_rng(3).uniform(0, 2, (40, 3))
    loss = functools.partial(F.l1_loss, weight=gpuprop.tensor(weight))
    t = trainer(0, "float64", loss)
    t.fit([(x, SOFT)])
    bare = trainer(0, "float64")
    loss(bare.model(gpuprop.tensor(x)), gpuprop.tensor(SOFT)).backward()
    bare.optimizer.step()
    for name, want in bare.model.state_dict().items():
        np.testing.assert_allclose(t.model.state_dict()[name], want, rtol=0, atol=1e-14)


def test_losses_that_are_no_mean():
    for loss in (nn.MSELoss(reduction="sum"), functools.partial(F.mse_loss, reduction="none")):
        with pytest.raises(ValueError, match=r"a loss to train by is a mean, and this one has reduction='(sum|none)'"):
            trainer(loss=loss)
    with pytest.raises(ValueError, match=r"a loss is one number, .*, not of shape \(32,\): reduce it by .mean\(\)"):
        trainer(loss=lambda output, target: F.cross_entropy(output, target, reduction="none")).fit(data())


# ---- schedules ------------------------------------------------------------------------------------------------------


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
    plateau = functools.partial(optim.lr_scheduler.ReduceLROnPlateau, patience=0, factor=0.1, threshold=0.9999)
    t = trainer(lr=1e-3, scheduler=plateau)
    t.fit(data(), data() if column == "val_loss" else None, epochs=3)
    assert t.history["lr"] == pytest.approx([1e-3, 1e-3, 1e-4])
    assert t.scheduler.best == t.history[column][0]


# ---- wrong data -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong, message", [
    ((np.zeros((0, 5), "float32"), np.zeros(0, int)), "there is no data: the dataset is empty"),
    ([], "there is no data: the list makes no batch"),
    (iter([]), "the data ended without a batch"),
    (DataLoader(ArrayDataset(*data(10)), 32, drop_last=True), r"makes no batch of 10 samples: is drop_last set"),
    ((data(10)[0], data(9)[1]), r"the arrays differ in their first length: \(10, 5\), \(9,\)"),
])
def test_no_data(wrong, message):
    for use in ("fit", "evaluate", "predict"):
        if use == "predict" and "ended" in message:
            message = "there is no data"
        with pytest.raises(ValueError, match=message):
            getattr(trainer(), use)(wrong)


def test_an_iterator_that_is_used_up():
    t = trainer()
    with pytest.raises(ValueError, match="is it an iterator, which can be gone through once"):
        t.fit(iter(pieces(data(), 10)), epochs=2)
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
        with pytest.raises(ValueError, match="the target has NaN in 3 of 120 places"):
            t.fit(wrong)
        with pytest.raises(ValueError, match="the target has NaN"):
            t.fit((x, np.ones_like(y)), wrong)
    np.testing.assert_array_equal(t.model.state_dict()["0.weight"], before["0.weight"])
    assert t.predict((x, y)).shape == (40, 3)


def test_batches_that_are_none():
    for wrong, got in (([data()[0]], "Tensor|ndarray"), ([(data()[0],)], "tuple of 1"), ([{"x": 1}], "dict")):
        with pytest.raises(TypeError, match=rf"a batch is a tuple \(\*inputs, target\), not ({got})"):
            trainer().fit(wrong)
    with pytest.raises(TypeError, match=r"data is a tuple of arrays, a DataLoader .*, not int"):
        trainer().fit(3)


def test_labels_out_of_range(backend):
    t = trainer()
    with pytest.raises(IndexError, match="labels of 3 classes"):
        t.fit((data()[0], data()[1] + 2))
    assert t.model.training


def test_arguments_that_make_no_sense():
    m = model()
    with pytest.raises(ValueError, match="the optimizer steps none of the model's parameters"):
        Trainer(m, F.cross_entropy, optim.SGD(model().parameters()))
    with pytest.raises(ValueError, match="accumulate is a number of batches, at least 1, not 0"):
        trainer(accumulate=0)
    with pytest.raises(ValueError, match="schedule is 'epoch' or 'step'"):
        trainer(schedule="batch")
    with pytest.raises(ValueError, match="unknown metric 'acc'"):
        trainer(metrics="acc")


# ---- in use ---------------------------------------------------------------------------------------------------------


def test_modes_come_back():
    t = trainer(dropout=0.5)
    t.model.eval()
    t.model[2].train()  # dropout stays on in use, says the user
    modes = [m.training for m in t.model.modules()]
    a, b = t.predict(data()[0]).numpy(), t.predict(data()[0]).numpy()
    np.testing.assert_array_equal(a, b)
    t.evaluate(data())
    t.fit(data(), data())
    assert [m.training for m in t.model.modules()] == modes


def test_prediction_records_nothing_and_keeps_the_order(backend):
    t = trainer()
    x, y = data()
    whole = t.predict(x)
    assert not whole.requires_grad and whole.node is None
    for given in ((x, y), pieces((x, y), 7), [x[:30], x[30:]], DataLoader(ArrayDataset(x), 9)):
        np.testing.assert_allclose(t.predict(given).numpy(), whole.numpy(), rtol=1e-6, atol=1e-6)


def test_evaluating_amid_an_epoch_changes_nothing():
    class Look(Callback):
        def on_step_end(self, t):
            t.evaluate(data())
            t.predict(data()[0])

    runs = [trainer(metrics=["accuracy"]) for _ in range(2)]
    for t, callbacks in zip(runs, ([], [Look()]), strict=True):
        gpuprop.manual_seed(1)
        t.fit(data(), epochs=2, callbacks=callbacks)
    assert_equal(*runs)
    assert runs[0].history["accuracy"] == runs[1].history["accuracy"]


def test_not_in_the_main_thread():
    t = trainer()
    thread = threading.Thread(target=lambda: t.fit(data(), data(), epochs=2))
    thread.start()
    thread.join()
    assert len(t.history) == 2


def test_memory_does_not_grow():
    t = trainer(metrics=["accuracy"])
    batches = pieces(data(), 8)
    t.fit(batches)
    gc.collect()
    counts = []
    for _ in range(2):
        t.fit(itertools.islice(itertools.cycle(batches), 400))
        gc.collect()
        counts.append(len(gc.get_objects()))
    assert counts[1] - counts[0] < 40
