"""Callbacks: stopping, resuming, ctrl-C, full disks, progress output and learning curves."""

import csv
import functools
import gc
import json
import logging
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from test_training import assert_equal, data, split, trainer

import gpuprop
import gpuprop.functional as F
from gpuprop import nn, optim
from gpuprop.data import ArrayDataset, DataLoader
from gpuprop.random import Generator
from gpuprop.training import Callback, Checkpoint, EarlyStopping, History, HistoryLogger, Trainer

# ---- callbacks -----------------------------------------------------------------------------------


class Recorder(Callback):
    def __init__(self, fail=None):
        self.events = []
        self.fail = fail

    def note(self, event, trainer=None):
        self.events.append(event)
        if event == self.fail:
            raise RuntimeError("from the callback")

    on_fit_start = functools.partialmethod(note, "start")
    on_epoch_start = functools.partialmethod(note, "epoch")
    on_step_end = functools.partialmethod(note, "step")
    on_epoch_end = functools.partialmethod(note, "end of epoch")
    on_fit_end = functools.partialmethod(note, "end")
    close = functools.partialmethod(note, "close")


def test_when_callbacks_are_called():
    recorder = Recorder()
    seen = []

    def note_epoch(t):
        seen.append(t.history[-1]["epoch"])

    trainer().fit(split(data(), 20), epochs=2, callbacks=[recorder, note_epoch])
    epoch = ["epoch", "step", "step", "end of epoch"]
    assert recorder.events == ["start", *epoch, *epoch, "end", "close"]
    assert seen == [1, 2]


def test_stop():
    class StopAt(Callback):
        def __init__(self, event):
            setattr(StopAt, event, lambda self, t: t.stop())

    t = trainer()
    t.fit(data(), epochs=5, callbacks=[lambda t: t.stop()])
    assert len(t.history) == 1 and not t.history.interrupted
    steps = Recorder()
    t.fit(split(data(), 10), epochs=5, callbacks=[StopAt("on_step_end"), steps])
    assert len(t.history) == 1 and steps.events == ["start", "epoch", "step", "end", "close"]


@pytest.mark.parametrize("event", ["start", "epoch", "step", "end of epoch", "end"])
def test_a_callback_that_raises(event, tmp_path):
    """The model keeps its parameters, modules their modes, and no threads or files stay open."""
    loader = DataLoader(ArrayDataset(*data()), 10, num_workers=2)
    t = trainer()
    t.model.eval()
    t.model[2].train()
    before = files_and_threads()
    recorder = Recorder(event)
    with pytest.raises(RuntimeError, match="from the callback") as error:
        t.fit(loader, data(), epochs=2, callbacks=[HistoryLogger(tmp_path / "log.csv"), recorder])
    note = error.value.__notes__[-1]
    assert note.startswith("raised by Recorder.on_")
    assert note.endswith("the model keeps its parameters")
    assert recorder.events[-1] == "close"
    assert [m.training for m in t.model] == [False, False, True, False] and not t.model.training
    assert all(np.isfinite(value).all() for value in t.model.state_dict().values())
    del error
    gc.collect()
    assert files_and_threads() == before
    t.fit(loader, epochs=1)


def files_and_threads():
    files = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    return files, sorted(t.name for t in threading.enumerate())


class Planned(Callback):
    """Writes given values into a column of the history, and keeps the weights of each epoch."""

    def __init__(self, column, values):
        self.column = column
        self.columns = [column]
        self.values = iter(values)
        self.weights = []

    def on_epoch_end(self, t):
        t.history[-1][self.column] = next(self.values)
        self.weights.append(t.model.state_dict())


@pytest.mark.parametrize("column, values, best, stopped", [
    ("val_loss", [5, 3, 4, 3, 3.5, 1], 2, 5),
    ("val_accuracy", [0.1, 0.3, 0.2, 0.3, 0.25, 1], 2, 5),
    ("val_loss", [np.nan, np.nan, np.nan, 1], None, 3),
    ("val_loss", [5, np.nan, 4, 3, 2, 1], 6, 6),
])
def test_early_stopping(column, values, best, stopped):
    t, plan = trainer(metrics=["accuracy"]), Planned(column, values)
    t.fit(data(), epochs=6, callbacks=[plan, EarlyStopping(column, patience=3)])
    assert len(t.history) == stopped
    want = plan.weights[(best or stopped) - 1]
    for name, value in t.model.state_dict().items():
        np.testing.assert_array_equal(value, want[name])


def test_early_stopping_without_restore_best():
    t, plan = trainer(), Planned("val_loss", [1, 2, 2.5])
    t.fit(data(), epochs=9, callbacks=[plan, EarlyStopping(patience=2, restore_best=False)])
    np.testing.assert_array_equal(t.model[0].weight.numpy(), plan.weights[2]["0.weight"])


def test_min_delta_and_a_second_fit():
    stopping = EarlyStopping("loss", patience=2, min_delta=0.5)
    t = trainer()
    t.fit(data(), epochs=9, callbacks=[Planned("loss", [4.0, 3.8, 3.6, 3.4]), stopping])
    assert len(t.history) == 3
    t.fit(data(), epochs=9, callbacks=[Planned("loss", [3.4, 3.3, 3.2, 3.1]), stopping])
    assert len(t.history) == 6  # 3.4 was better by more than 0.5, nothing after it


def test_early_stopping_over_several_fits(tmp_path):
    """The best weights of the whole run are restored; further fits go on from the last ones."""
    values = [4, 1, 3, 2, 5, 6]
    straight, straight_plan = trainer(), Planned("val_loss", values)
    straight.fit(data(), epochs=6, callbacks=[straight_plan, EarlyStopping()])
    t, plan, stopping = trainer(), Planned("val_loss", values), EarlyStopping()
    gpuprop.manual_seed(3)
    trainer()  # the same draws as before
    for epochs in (3, 1, 2):
        t.fit(data(), epochs=epochs, callbacks=[plan, stopping])
        assert stopping.best == 2
        assert_same_weights(t.model.state_dict(), plan.weights[1])
        state = t.state_dict()
    other = trainer()
    other.load_state_dict(state)
    other.fit(data(), epochs=1, callbacks=[Planned("val_loss", [0.5]), again := EarlyStopping()])
    assert again.best == 7
    new = trainer()
    new.fit(data(), epochs=1, callbacks=[Planned("val_loss", [9]), again])
    assert again.best == 1  # of another run
    fine_tuned = trainer()
    fine_tuned.load_state_dict(state)
    fine_tuned.model[0].weight.data[...] = 0
    fine_tuned.fit(data(), epochs=0, callbacks=[Planned("val_loss", []), EarlyStopping()])


def assert_same_weights(found, want):
    for name, value in want.items():
        np.testing.assert_array_equal(found[name], value)


def test_early_stopping_without_validation():
    with pytest.raises(KeyError, match=r"cannot monitor 'val_loss': .*validation="):
        trainer().fit(data(), callbacks=[EarlyStopping()])


def test_early_stopping_logs_its_decisions(caplog):
    with caplog.at_level(logging.INFO, logger="gpuprop"):
        plan = Planned("val_loss", [1, 2])
        trainer().fit(data(), epochs=9, callbacks=[plan, EarlyStopping(patience=1)])
    messages = [record.getMessage() for record in caplog.records if record.name == "gpuprop"]
    assert any("stopped after epoch 2" in message for message in messages)
    assert any("weights of epoch 1" in message for message in messages)


# ---- files ---------------------------------------------------------------------------------------


def fit(t, epochs, *callbacks):
    t.fit(data(), data(), epochs=epochs, batch_size=16, callbacks=callbacks)


def test_a_resumed_run_equals_an_uninterrupted_one(backend, tmp_path):
    """Weights, optimizer, schedule, shuffling and dropout are restored bit for bit."""
    cosine = functools.partial(optim.lr_scheduler.CosineAnnealingLR, T_max=5)
    options = {"metrics": ["accuracy"], "scheduler": cosine}
    straight, first, second = (trainer(**options) for _ in range(3))
    gpuprop.manual_seed(11)
    fit(straight, 5)
    gpuprop.manual_seed(11)
    fit(first, 2, Checkpoint(tmp_path / "run" / "last.npz"))
    gpuprop.manual_seed(99)
    second.load_state_dict(gpuprop.load(tmp_path / "run" / "last.npz"))
    fit(second, 3)
    assert_equal(straight, second)
    for column in ("epoch", "lr", "loss", "val_accuracy"):
        assert straight.history[column] == second.history[column]
    assert os.listdir(tmp_path / "run") == ["last.npz"]


@pytest.mark.parametrize("scheduler", [
    functools.partial(optim.lr_scheduler.MultiStepLR, milestones=[1, 3, 3]),
    optim.lr_scheduler.ReduceLROnPlateau,
    functools.partial(optim.lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=50),
    functools.partial(optim.lr_scheduler.LambdaLR, lr_lambda=lambda epoch: 1 / (epoch + 1)),
    lambda optimizer: optim.lr_scheduler.SequentialLR(
        optimizer,
        [optim.lr_scheduler.LinearLR(optimizer, total_iters=3),
         optim.lr_scheduler.ExponentialLR(optimizer, 0.5)],
        [3]),
])
def test_schedules_are_resumed(scheduler, tmp_path):
    straight, first, second = (trainer(scheduler=scheduler) for _ in range(3))
    straight.fit(data(), epochs=5)
    first.fit(data(), epochs=2)
    gpuprop.save(tmp_path / "c.npz", first.state_dict())
    second.load_state_dict(gpuprop.load(tmp_path / "c.npz"))
    second.fit(data(), epochs=3)
    assert second.history["lr"] == straight.history["lr"]


@pytest.mark.parametrize("scheduler", [
    functools.partial(optim.lr_scheduler.OneCycleLR, max_lr=0.1, epochs=3, steps_per_epoch=5),
    functools.partial(optim.lr_scheduler.ExponentialLR, gamma=0.9),
])
def test_an_interrupted_epoch_is_continued(scheduler, tmp_path):
    """Nothing is rewound: the next `fit` does the steps that are left, with their learning rates.

    `test_continuing.py` compares all of the state.
    """
    straight, first, second = (trainer(scheduler=scheduler, schedule="step") for _ in range(3))

    def fit(t, epochs, *callbacks):
        t.fit(data(), epochs=epochs, batch_size=8, callbacks=callbacks)

    fit(straight, 3)

    class Stop(Callback):
        steps = 0

        def on_step_end(self, t):
            self.steps += 1
            if self.steps == 7:
                t.stop()

    fit(first, 3, Stop(), Checkpoint(tmp_path / "c.npz"))
    second.load_state_dict(gpuprop.load(tmp_path / "c.npz"))
    for t in first, second:
        assert len(t.history) == 1 and t.is_within_epoch and t.steps_done == 2
        fit(t, 2)
        assert t.history["lr"] == straight.history["lr"]
        assert t.optimizer.state_dict()["state"][0]["step"] == 15


def test_other_data_do_not_continue_an_epoch():
    """They are refused before any work; `reset_data` gives the epoch up."""
    class Stop(Callback):
        def on_step_end(self, t):
            t.stop()

    t = trainer()
    own = DataLoader(ArrayDataset(*data()), 8, shuffle=True, rng=Generator(7))
    t.fit(own, callbacks=[Stop()])
    state = t.state_dict()
    fresh = trainer()
    fresh.load_state_dict(state)
    others = {
        "batch_size is 8 in the state, but 10": DataLoader(ArrayDataset(*data()), 10,
                                                           rng=Generator(7)),
        "batches is 5 in the state, but 2": DataLoader(ArrayDataset(*data(16)), 8,
                                                       rng=Generator(7)),
        r"pass rng=Generator": DataLoader(ArrayDataset(*data()), 8, shuffle=True),
        "data lacks 'start'": split(data(), 8),
    }
    for each in t, fresh:
        for message, other in others.items():
            with pytest.raises(ValueError, match=rf"do not continue.*{message}.*reset_data\(\)"):
                each.fit(other, batch_size=8)
        assert each.steps_done == 1
    t.reset_data()
    assert not t.is_within_epoch
    t.fit(split(data(), 8))
    assert len(t.history) == 1
    fresh.fit(own)
    assert fresh.optimizer.state_dict()["state"][0]["step"] == 5


def test_batches_that_are_missing_when_they_are_read_again():
    class Shrinking:
        batches = split(data(), 8)

        def __iter__(self):
            return iter(self.batches)

    class Stop(Callback):
        def on_step_end(self, t):
            if t.steps_done == 2:
                t.stop()

    t = trainer()
    shrinking = Shrinking()
    t.fit(shrinking, callbacks=[Stop()])
    shrinking.batches = split(data(), 40)
    with pytest.raises(ValueError, match=r"after batch 2, but .* only 1.*reset_data"):
        t.fit(shrinking)
    with pytest.raises(ValueError, match=r"batches is None in the state, but there are 5 now"):
        t.fit(split(data(), 8))


def test_an_iterator_is_read_further():
    class Stop(Callback):
        def on_step_end(self, t):
            t.stop()

    t, straight = trainer(), trainer()
    gpuprop.manual_seed(1)
    batches = iter(split(data(), 8))
    t.fit(batches, callbacks=[Stop()])
    t.fit(batches)
    gpuprop.manual_seed(1)
    straight.fit(split(data(), 8))
    assert_equal(t, straight)
    assert t.history["loss"] == straight.history["loss"]


def test_a_fit_in_a_fit():
    """It would end with callbacks and data of its own."""
    with pytest.raises(RuntimeError, match="a fit of this Trainer is running"):
        trainer().fit(data(), callbacks=[lambda t: t.fit(data())])


def test_a_callback_that_finds_generators_during_a_fit():
    """Such as those of the model, which its fresh copy does not hold."""
    class Watch(Callback):
        def on_fit_start(self, t):
            self.model = t.model

    def make():
        t = trainer()
        t.model[2].rng = Generator(5)
        return t

    t, again = make(), make()
    t.fit(data(), callbacks=[Watch()])
    again.load_state_dict(t.state_dict())
    again.fit(data(), callbacks=[Watch()])
    assert len(again.history) == 2


def test_data_that_failed_in_the_first_step_may_be_replaced():
    t = trainer()
    wrong = data()[0], np.full(40, 7)
    with pytest.raises(IndexError):
        t.fit(wrong)
    t.fit(data(24), batch_size=8)
    assert t.optimizer.state_dict()["state"][0]["step"] == 3


def test_best_checkpoint(tmp_path):
    t, plan = trainer(), Planned("val_loss", [3, 1, 2])
    t.fit(data(), epochs=3, callbacks=[plan, Checkpoint(tmp_path / "best.npz", "val_loss")])
    t.load_state_dict(gpuprop.load(tmp_path / "best.npz"))
    np.testing.assert_array_equal(t.model[0].weight.numpy(), plan.weights[1]["0.weight"])
    assert len(t.history) == 2


def test_a_diverged_run_does_not_replace_a_checkpoint(tmp_path):
    """Neither at the end of an epoch nor within one; one warning says so."""
    t = trainer()
    path = tmp_path / "c.npz"
    t.fit(data(), callbacks=[checkpoint := Checkpoint(path)])
    good = path.read_bytes()

    class Diverge(Callback):
        def on_step_end(self, t):
            t.model[3].weight.data[0, 0] = np.nan
            if t.history.rows[1:]:
                t.stop()

    message = r"c\.npz' is not written.*diverged.*3\.weight.*NaN"
    with pytest.warns(UserWarning, match=message) as found:
        t.fit(data(), epochs=5, batch_size=40, callbacks=[checkpoint, Diverge()])
    assert len(found) == 1 and len(t.history) == 2 and t.is_within_epoch
    assert path.read_bytes() == good
    with pytest.warns(UserWarning, match="its loss is nan"):
        trainer().fit((data()[0], np.full(40, -100)), callbacks=[Checkpoint(path)])
    assert path.read_bytes() == good


def with_own_parameter():
    """A trainer with momentum, whose model has a mask and whose optimizer a parameter of its own.
    """
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    model.register_buffer("mask", gpuprop.tensor([-np.inf, 0.0]))
    own = gpuprop.Parameter([1.0])

    class Own(nn.Module):
        def __init__(self):
            self.scale = gpuprop.Parameter([1.0])

        def forward(self, output, target):
            return ((output - target) ** 2).mean() * (own * self.scale).sum()

    loss = Own()
    params = [*model.parameters(), *loss.parameters(), own]
    t = Trainer(model, loss, optim.SGD(params, lr=0.01, momentum=0.9))
    t.fit((np.ones((4, 3)), np.zeros((4, 2))), progress=False)
    return t


def saved_arrays():
    """The paths of all floating-point arrays of model, loss and optimizer in a state."""
    state = with_own_parameter().state_dict()
    for part in ("model", "loss", "parameters"):
        yield from ((part, name) for name, a in state[part].items() if a.dtype.kind == "f")
    yield from (("state", i, name) for i, entry in state["optimizer"]["state"].items()
                for name in entry)


@pytest.mark.parametrize("path", [*saved_arrays()])
def test_nan_anywhere_in_a_state_keeps_a_checkpoint(tmp_path, path):
    t = with_own_parameter()
    checkpoint = Checkpoint(tmp_path / "c.npz")
    checkpoint._save(t)
    good = checkpoint.path.read_bytes()
    if path[0] == "state":
        p = [*t.optimizer._params()][path[1]]
        array = t.optimizer.state[p][path[2]]
    else:
        module = t._modules()[path[0]]
        found = dict([*module.named_parameters(), *module.named_buffers()])
        array = found[path[1]].data
    array.reshape(-1)[0] = np.nan
    with pytest.warns(UserWarning, match=f"diverged, {path[-1]} of"):
        checkpoint._save(t)
    assert checkpoint.path.read_bytes() == good


def test_what_users_add_to_a_state(tmp_path):
    """It works with arrays of any library, and is refused before the first step otherwise."""
    class Own(Callback):
        value = None

        def state_dict(self):
            return {"value": self.value, "list": [self.value, 1, "text", None]}

        def load_state_dict(self, state):
            self.value = state["value"]

    def with_value(value, t=None):
        t, callback = t or with_own_parameter(), Own()
        callback.value = value
        return t, callback

    arrays = np.ones((4, 3)), np.zeros((4, 2))
    for value in (gpuprop.ones(2), np.ones(2, "float32"), 1.5, "text"):
        t, callback = with_value(value)
        t.optimizer.param_groups[0]["mine"] = value
        t.fit(arrays, progress=False, callbacks=[callback])
        gpuprop.save(tmp_path / "c.npz", t.state_dict())
        other, resumed = with_value(None)
        other.load_state_dict(gpuprop.load(tmp_path / "c.npz"))
        other.fit(arrays, progress=False, callbacks=[resumed])
        for restored in (resumed.value, other.optimizer.param_groups[0]["mine"]):
            np.testing.assert_array_equal(restored, gpuprop.asnumpy(value))
    for value in (object(), {1, 2}, b"text", np.array([None]), 1j):
        t, callback = with_value(value)
        before = t.model.state_dict()
        with pytest.raises(TypeError, match="Trainer: the state of Own"):
            t.fit(arrays, progress=False, callbacks=[callback])
        t.optimizer.param_groups[0]["mine"] = value
        with pytest.raises(TypeError, match=r"Trainer: the options .*param_groups\[0\]"):
            t.fit(arrays, progress=False)
        assert repr(t.model.state_dict()) == repr(before)


def test_states_that_do_not_fit():
    t, before = trainer(), trainer()
    for each in (t, before):
        gpuprop.manual_seed(0)
        fit(each, 1)
    with pytest.raises(ValueError, match=r"lacks 'model', .* unknown '0.weight'"):
        t.load_state_dict(t.model.state_dict())
    other = nn.Linear(5, 3)
    wrong = Trainer(other, F.cross_entropy, optim.Adam(other.parameters())).state_dict()
    for part in ("model", "optimizer"):
        with pytest.raises(ValueError):
            t.load_state_dict({**before.state_dict(), part: wrong[part], "history": []})
        assert_equal(t, before)
        assert t.optimizer.state_dict()["state"][0]["step"] == 3 and len(t.history) == 1


def test_logs(tmp_path):
    t = trainer(metrics=["accuracy", "confusion_matrix"])
    fit(t, 2, HistoryLogger(tmp_path / "log.csv"), HistoryLogger(tmp_path / "log.jsonl"))
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[1]["val_accuracy"]) == t.history[-1]["val_accuracy"]
    assert "confusion_matrix" not in rows[0]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines == t.history.rows and len(lines[0]["confusion_matrix"]) == 3
    t.history.to_json(tmp_path / "log.json")
    written = json.loads((tmp_path / "log.json").read_text())
    assert written == {"interrupted": False, "rows": t.history.rows}
    t.history[-1]["loss"] = np.nan
    t.history[-1]["confusion_matrix"] = [[1.0, -np.inf]]
    for name in ("log.json", "log.jsonl"):
        getattr(t.history, f"to_{name[4:]}")(tmp_path / name)
        text = (tmp_path / name).read_text()
        last = json.loads(text)["rows"][-1] if name == "log.json" else json.loads(
            text.splitlines()[-1])
        assert last["loss"] is None and last["confusion_matrix"] == [[1.0, None]]
    with pytest.raises(ValueError, match=r"\.csv or \.jsonl.*'log.txt'"):
        HistoryLogger("log.txt")


@pytest.mark.parametrize("callback, name", [
    (HistoryLogger, "log.csv"), (HistoryLogger, "log.jsonl"), (Checkpoint, "last.npz")])
def test_a_full_disk(callback, name, tmp_path):
    """The error names the file; the last version of the file and the model are kept."""
    resource = pytest.importorskip("resource")
    t = trainer()
    path = tmp_path / name
    fit(t, 1, callback(path))
    good = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_disk(t):
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))

    with pytest.raises(OSError) as error:
        try:
            fit(t, 3, fill_disk, callback(path))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    notes = error.value.__notes__
    assert any(f"while writing {path}: nothing was written" in note for note in notes)
    assert path.read_bytes() == good and os.listdir(tmp_path) == [name]
    assert len(t.history) == 2 and np.isfinite(t.evaluate(data())["loss"])


# ---- ctrl-C --------------------------------------------------------------------------------------


INTERRUPTED = """
import os, signal, sys
sys.path[:0] = sys.argv[1:3]
import numpy as np
from test_callbacks import *

def press(t):
    if len(t.history) == 2:
        os.kill(os.getpid(), signal.SIGINT)

class Press(Callback):
    on_step_end = lambda self, t: press(t)

t, recorder = trainer(), Recorder()
history = t.fit(data(), data(), epochs=9, callbacks=[Press(), recorder, Checkpoint(sys.argv[3])])
assert history.interrupted and len(history) == 2
assert recorder.events[-3:] == ["step", "end", "close"]
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler and t.model.training
saved = trainer()
saved.load_state_dict(gpuprop.load(sys.argv[3]))
assert_equal(t, saved)
t.fit(data(), epochs=1)
assert not history.interrupted and len(history) == 3

class Twice(Callback):
    def on_step_end(self, t):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
try:
    t.fit(data(), callbacks=[Twice()])
except KeyboardInterrupt:
    print("raised")
assert all(np.isfinite(v).all() for v in t.model.state_dict().values())
"""


def test_ctrl_c(tmp_path):
    here = os.path.dirname(__file__)
    arguments = [os.path.dirname(here), here, str(tmp_path / "last.npz")]
    command = [sys.executable, "-c", INTERRUPTED, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout == "raised\n", done.stderr


# ---- progress and history ------------------------------------------------------------------------


def shown(monkeypatch, capsys, terminal=True, data=data(), callbacks=(), **modules):  # noqa: B008
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    for name, value in modules.items():
        monkeypatch.setitem(sys.modules, name, value)
    capsys.readouterr()
    trainer(metrics=["accuracy"]).fit(data, data, epochs=2, callbacks=callbacks)
    out, err = capsys.readouterr()
    assert out == ""
    return err


def test_no_progress_outside_of_terminals(monkeypatch, capsys):
    assert shown(monkeypatch, capsys, terminal=False) == ""


def test_a_progress_bar_in_a_terminal(monkeypatch, capsys):
    last = shown(monkeypatch, capsys).rstrip("\n").split("\r")[-1]
    assert last.startswith("epoch 2/2: 100%") and "val_accuracy=0." in last


def test_progress_lines_without_tqdm(monkeypatch, capsys):
    err = shown(monkeypatch, capsys, **{"tqdm": None, "tqdm.auto": None}).splitlines()
    assert len(err) == 2 and err[1].startswith("epoch 2/2: loss 1.") and "val_accuracy 0." in err[1]


@pytest.mark.parametrize("missing", [{}, {"tqdm": None, "tqdm.auto": None}])
def test_data_without_a_length(monkeypatch, capsys, missing):
    class Endless(Callback):
        def on_step_end(self, t):
            t.history.interrupted = True
            t.stop()

    class Unknown:
        def __iter__(self):
            return iter(split(data(), 20))

    err = shown(monkeypatch, capsys, **missing, data=Unknown(), callbacks=[Endless()])
    assert "stopped by ctrl-C: the model keeps its parameters\n" in err
    assert "loss" in shown(monkeypatch, capsys, **missing, data=Unknown())


def test_progress_in_a_notebook(monkeypatch, capsys):
    class FakeIPython:
        @staticmethod
        def get_ipython():
            return type("Shell", (), {"config": {"IPKernelApp": {}}})

    class FakeTqdm:
        class tqdm:
            def __init__(self, **options):
                print("a widget", file=sys.stderr)

            def __getattr__(self, name):
                return lambda *args, **kwargs: None

            n = 0

    modules = {"IPython": FakeIPython, "tqdm.auto": FakeTqdm}
    assert shown(monkeypatch, capsys, terminal=False, **modules) == "a widget\n"


def test_history(tmp_path, monkeypatch):
    history = History()
    assert repr(history) == "History(no epochs yet)"
    with pytest.raises(ValueError, match="nothing to plot"):
        history.plot()
    for i in (1, 2):
        history.rows.append({"epoch": i, "seconds": 0.1, "lr": 0.1,
                             "loss": 1 / i, "val_loss": 2 / i, "f1": i / 9})
    assert history["val_loss"] == [2, 1] and next(iter(history))["f1"] == 1 / 9
    assert repr(history) == "History(2 epochs; loss 0.5, val_loss 1, f1 0.2222)"
    with pytest.raises(KeyError, match=r"no column 'acc': .* epoch, seconds, lr, loss"):
        history["acc"]
    signatures = {"curves.png": b"\x89PNG", "curves.svg": b"<?xml", "curves": b"\x89PNG"}
    for name, start in signatures.items():
        figure = history.plot(tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)
    assert [a.get_title() for a in figure.axes] == ["loss", "f1"]
    assert [[line.get_label() for line in a.lines] for a in figure.axes] == [
        ["train, last 0.5", "validation, last 1"], ["train, last 0.222"]]
    history.rows.append({"epoch": 3, "seconds": 0.1, "lr": 0.1, "loss": 1 / 4})  # no validation
    assert [[line.get_label() for line in a.lines] for a in history.plot().axes] == [
        ["train, last 0.25", "validation, last 1"], ["train, last 0.222"]]
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"matplotlib: .*gpuprop\[train\]"):
        history.plot()


def test_a_history_with_arrays_is_saved_and_continued(tmp_path):
    def trainer():
        model = nn.Linear(2, 1)
        return Trainer(model, nn.MSELoss(), optim.SGD(model.parameters(), lr=0.1))

    def add(t):
        t.history[-1].update(norm=gpuprop.tensor(3.0), number=np.float32(2), rows=np.ones(2))

    first = trainer()
    first.fit((np.ones((4, 2)), np.ones((4, 1))), callbacks=[add], progress=False)
    first.history.to_json(tmp_path / "history.json")
    gpuprop.save(tmp_path / "state.npz", first.state_dict())
    second = trainer()
    second.load_state_dict(gpuprop.load(tmp_path / "state.npz"))
    found = {name: second.history[-1][name] for name in ("norm", "number", "rows")}
    assert found == {"norm": 3, "number": 2, "rows": [1, 1]}
