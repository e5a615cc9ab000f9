"""A run that is interrupted, anywhere and in any way, ends as the run without the interruption.

Everything that the rest of a run depends on is compared bit for bit: weights, optimizer, schedule,
history, random numbers, data and callbacks.
"""

import contextlib
import copy
import functools
import itertools
import json
import os
import signal
import sys

import numpy as np
import pytest

import gpuprop
import gpuprop.functional as F
from gpuprop import nn, optim
from gpuprop.data import ArrayDataset, DataLoader, IterableDataset, Sampler
from gpuprop.optim import lr_scheduler
from gpuprop.random import Generator
from gpuprop.training import Callback, EarlyStopping, Trainer

EPOCHS = 3
RNG = np.random.default_rng(0)
X = RNG.standard_normal((24, 5)).astype("float32")
Y = (X @ RNG.standard_normal((5, 3))).argmax(1)


class Interruption:
    """Interrupts a run once, when a place is reached for the `number`-th time."""

    def __init__(self, place, number, way):
        self.place = place
        self.number = number
        self.way = way
        self.trainer = None

    def reach(self, place):
        if place != self.place:
            return
        self.number -= 1
        if self.number != 0:
            return
        if self.way == "stop":
            self.trainer.stop()
        elif self.way == "ctrl-C":
            os.kill(os.getpid(), signal.SIGINT)
        else:
            raise {"error": RuntimeError, "KeyboardInterrupt": KeyboardInterrupt}[self.way](
                "interrupted")


NEVER = Interruption(None, 0, None)


class Reach(Callback):
    """Reaches a place at each event, and counts them."""

    def __init__(self, interruption):
        self.interruption = interruption
        self.rng = Generator(9)
        self.drawn = []

    def state_dict(self):
        return {"drawn": list(self.drawn)}

    def load_state_dict(self, state):
        self.drawn = list(state["drawn"])

    def reach(self, place):
        self.drawn.append(int(self.rng.integers(0, 1000)))
        self.interruption.reach(place)

    def on_epoch_start(self, trainer):
        self.reach("epoch start")

    def on_step_end(self, trainer):
        self.reach("step end")

    def on_epoch_end(self, trainer):
        self.reach("epoch end")

    def on_fit_end(self, trainer):
        self.interruption.reach("fit end")


class Stream(IterableDataset):
    def __iter__(self):
        return zip(X, Y, strict=True)


class Noise:
    """A transform with a generator of its own."""

    def __init__(self, interruption=NEVER):
        self.rng = Generator(4)
        self.interruption = interruption

    def __call__(self, x, y):
        noise = self.rng.normal(x.shape)
        self.interruption.reach("data")
        return x + noise, y


class Order(Sampler):
    """A sampler as written for PyTorch, with a generator of its own."""

    def __init__(self):
        self.rng = Generator(6)

    def __len__(self):
        return len(X)

    def __iter__(self):
        return iter(self.rng.permutation(len(X)).tolist())


class Batches:
    """An iterable of batches that draws from the default generator and one of its own."""

    def __init__(self, interruption):
        self.interruption = interruption
        self.rng = Generator(5)

    def __len__(self):
        return 3

    def __iter__(self):
        order = gpuprop.random.permutation(len(X)).numpy() + 0 * int(self.rng.integers(0, 9))
        for i in range(0, len(X), 8):
            self.interruption.reach("data")
            yield X[order[i:i + 8]], Y[order[i:i + 8]]


class Samples(ArrayDataset):
    """Reaches a place for each batch that is read."""

    def __init__(self, interruption):
        super().__init__(X, Y)
        self.interruption = interruption

    def take_batch(self, indices):
        self.interruption.reach("data")
        return super().take_batch(indices)


LOADERS = {
    "arrays": lambda i: (X, Y),
    "dataset": Samples,
    "default rng": lambda i: DataLoader(Samples(i), 8, shuffle=True),
    "own rng": lambda i: DataLoader(Samples(i), 8, shuffle=True, rng=Generator(7)),
    "workers": lambda i: DataLoader(Samples(i), 8, shuffle=True, rng=Generator(7), num_workers=2),
    "transform": lambda i: DataLoader(ArrayDataset(X, Y), 8, shuffle=True, transform=Noise(i)),
    "sampler": lambda i: DataLoader(Samples(i), 8, sampler=Order(), drop_last=True),
    "stream": lambda i: DataLoader(Stream(), 8, rng=Generator(7)),
    "list": lambda i: [(X[k:k + 8], Y[k:k + 8]) for k in range(0, 24, 8)],
    "batches": Batches,
}
SCHEDULES = {
    "none": (None, "epoch"),
    "epoch": (lambda o: lr_scheduler.ExponentialLR(o, 0.8), "epoch"),
    "step": (lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=9), "step"),
    "plateau": (lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0), "epoch"),
}
RULES = {"adam": optim.Adam, "sgd": functools.partial(optim.SGD, momentum=0.9),
         "schedule free": optim.AdamWScheduleFree}
NORMAL = {"data": "own rng", "schedule": "step", "accumulate": 1, "own": True, "autocast": False,
          "capture": False, "rule": "adam", "stopping": True, "norm": True}
CONFIGURATIONS = [
    *({"data": name} for name in LOADERS),
    *({"schedule": name} for name in SCHEDULES),
    {"accumulate": 3}, {"accumulate": 3, "data": "workers"}, {"own": False}, {"autocast": True},
    {"rule": "sgd"}, {"rule": "schedule free"},
    {"rule": "schedule free", "capture": True}, {"stopping": False}, {"capture": True},
    {"data": "arrays", "own": False, "accumulate": 2, "schedule": "epoch", "capture": True},
]


class Run:
    """A trainer, data and callbacks, constructed as in a new process."""

    def __init__(self, configuration, interruption=NEVER):
        c = {**NORMAL, **configuration}
        gpuprop.manual_seed(3)
        dropout = nn.Dropout(0.3, rng=Generator(8) if c["own"] else None)
        norm = nn.BatchNorm1d(8) if c["norm"] and not c["autocast"] else nn.Identity()
        self.model = nn.Sequential(nn.Linear(5, 8), norm, nn.ReLU(), dropout, nn.Linear(8, 3))
        optimizer = RULES[c["rule"]](self.model.parameters(), lr=0.05)
        scheduler, schedule = SCHEDULES[c["schedule"]]
        self.interruption = interruption
        self.trainer = Trainer(
            self.model, self.loss, optimizer, ["accuracy", "f1", "auroc"],
            scheduler and scheduler(optimizer), schedule=schedule, accumulate=c["accumulate"],
            clip_grad_norm=1.0, capture=c["capture"])
        interruption.trainer = self.trainer
        self.data = LOADERS[c["data"]](interruption)
        self.callbacks = [Reach(interruption)]
        if c["stopping"]:
            self.callbacks += [EarlyStopping(patience=9)]
        self.mode = gpuprop.autocast("bfloat16") if c["autocast"] else contextlib.nullcontext()

    def loss(self, output, target):
        self.interruption.reach("loss" if self.model.training else "validation")
        return F.cross_entropy(output, target)

    def fit(self):
        """Train for the epochs that are left."""
        epochs = EPOCHS - len(self.trainer.history)
        with self.mode:
            self.trainer.fit(self.data, (X, Y), epochs=epochs, batch_size=8,
                             callbacks=self.callbacks, progress=False)

    def state(self):
        state = self.trainer.state_dict()
        for row in state["history"]:
            del row["seconds"]
        return state


def assert_same(found, want, path=""):
    """Nested dicts and lists are equal bit for bit."""
    if isinstance(want, dict):
        assert found.keys() == want.keys(), path
        for name in want:
            assert_same(found[name], want[name], f"{path}.{name}")
    elif isinstance(want, list | tuple):
        assert len(found) == len(want), path
        for i, (a, b) in enumerate(zip(found, want, strict=True)):
            assert_same(a, b, f"{path}[{i}]")
    else:
        np.testing.assert_array_equal(found, want, err_msg=path)


@functools.cache
def uninterrupted(configuration):
    run = Run(json.loads(configuration))
    run.fit()
    return run.state()


def check(configuration, place, number, way, is_fresh, tmp_path):
    want = uninterrupted(json.dumps(configuration))
    interruption = Interruption(place, number, way)
    run = Run(configuration, interruption)
    caught = False
    try:
        run.fit()
    except (RuntimeError, KeyboardInterrupt):
        caught = True
    assert interruption.number <= 0, "the place was not reached"
    assert caught == (way in ("error", "KeyboardInterrupt"))
    if is_fresh:
        gpuprop.save(tmp_path / "run.npz", run.trainer.state_dict())
        run = Run(configuration)
        run.trainer.load_state_dict(gpuprop.load(tmp_path / "run.npz"))
        saved = gpuprop.load(tmp_path / "run.npz")
        assert_same(run.trainer.state_dict(), saved)
    run.fit()
    assert_same(run.state(), want)
    assert not run.trainer.is_within_epoch


# (place, how many times it is reached): each batch of the second epoch, and every other place
PLACES = [*(("loss", k) for k in range(4, 7)), *(("step end", k) for k in range(3, 7)),
          *(("data", k) for k in range(4, 7)), ("loss", 1), ("data", 1), ("validation", 2),
          ("validation", 5), ("epoch start", 1), ("epoch start", 2), ("epoch end", 1),
          ("epoch end", 2), ("fit end", 1)]
WAYS = ["error", "KeyboardInterrupt", "stop", "ctrl-C"]
TURNS = [{}, {"schedule": "epoch", "own": False}, {"schedule": "plateau"},
         {"data": "default rng", "own": False}, {"data": "dataset", "rule": "sgd"},
         {"rule": "schedule free"},
         {"accumulate": 2, "stopping": False}, {"autocast": True, "data": "transform"}]
CASES = [(place, number, way, (i + j) % len(TURNS), bool((i + j) % 2))
         for i, (place, number) in enumerate(PLACES) for j, way in enumerate(WAYS)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_place_and_way(case, tmp_path):
    """With configurations that take turns."""
    place, number, way, turn, is_fresh = case
    configuration = TURNS[turn]
    if configuration.get("accumulate") and place == "step end":
        number = (number + 1) // 2
    check(configuration, place, number, way, is_fresh, tmp_path)


@pytest.mark.parametrize("n", range(len(CONFIGURATIONS)))
def test_every_configuration(n, tmp_path):
    """At places that take turns."""
    configuration = CONFIGURATIONS[n]
    number = 2 if configuration.get("accumulate", 1) > 1 else 4
    check(configuration, "step end", number, "stop", n % 2 == 0, tmp_path)
    # a captured step does not call the loss again
    place = "validation" if "capture" in configuration else "loss"
    check(configuration, place, 5, "error", n % 2 == 1, tmp_path)


@pytest.mark.parametrize("configuration", [{}, {"capture": True, "own": False}], ids=str)
def test_every_backend(backend, configuration, tmp_path):
    """On a device, an error in a step leaves what it added to running statistics."""
    uninterrupted.cache_clear()
    check(configuration, "step end", 4, "stop", True, tmp_path)
    check({**configuration, "norm": False}, "loss", 1, "error", False, tmp_path)
    check(configuration, "validation", 5, "error", True, tmp_path)
    uninterrupted.cache_clear()


@pytest.mark.parametrize("data", ["own rng", "transform", "batches"])
def test_an_interruption_after_every_step(data, tmp_path):
    """A run that is stopped after each of its steps, and resumed from a file each time."""
    configuration = {"data": data}
    want = uninterrupted(json.dumps(configuration))
    run = Run(configuration, Interruption("step end", 1, "stop"))
    for _ in range(EPOCHS * 3):
        run.fit()
        gpuprop.save(tmp_path / "run.npz", run.trainer.state_dict())
        run = Run(configuration, Interruption("step end", 1, "stop"))
        run.trainer.load_state_dict(gpuprop.load(tmp_path / "run.npz"))
    run.fit()
    assert_same(run.state(), want)


@pytest.mark.parametrize("part", range(12))
def test_two_ctrl_c_at_any_line(part, tmp_path):
    """They may come anywhere in the code of the Trainer; nothing is torn."""
    configuration = {"rule": "schedule free"} if part % 3 == 0 else {}
    want = uninterrupted(json.dumps(configuration))
    lines = itertools.count(1)
    due = 40 + 107 * part  # the first epoch has about 1,300 lines, the construction 100

    def trace(frame, event, argument):
        if "gpuprop/training" in frame.f_code.co_filename.replace(os.sep, "/"):
            if event == "line" and next(lines) == due:
                for _ in range(2):
                    os.kill(os.getpid(), signal.SIGINT)
            return trace
        return None

    run = Run(configuration)
    with pytest.raises(KeyboardInterrupt):
        sys.settrace(trace)
        try:
            run.fit()
        finally:
            sys.settrace(None)
    run.fit()
    assert_same(run.state(), want)


def test_parameters_outside_of_the_model():
    """Those of the loss and of the optimizer alone are trained, and part of the state."""
    def make():
        gpuprop.manual_seed(3)
        loss = nn.LinearCrossEntropyLoss(5, 3)
        scale = nn.Parameter(np.ones(5, "float32"))
        model = nn.Linear(5, 5)
        model.register_forward_hook(lambda module, args, output: output * scale)
        optimizer = optim.Adam([*model.parameters(), scale, *loss.parameters()], lr=0.1)
        return Trainer(model, loss, optimizer)

    straight, first, second = make(), make(), make()
    data = [(X, Y)]
    straight.fit(data, epochs=4)
    first.fit(data, epochs=2)
    state = first.state_dict()
    assert state["parameters"].keys() == {"2"} and "linear.weight" in state["loss"]
    second.load_state_dict(state)
    second.fit(data, epochs=2)
    for name in ("model", "loss", "parameters", "optimizer"):
        assert_same(second.state_dict()[name], straight.state_dict()[name])
    for name, wrong in [("loss", {"linear.weight": np.zeros((1, 2))}), ("parameters", {})]:
        with pytest.raises(ValueError, match=f"Trainer: {name}: "):
            first.load_state_dict({**state, name: wrong})


# ---- wrong states --------------------------------------------------------------------------------


def entries(state, path=()):
    """The paths of all entries of nested dicts and lists, the containers included."""
    for key, value in state.items() if isinstance(state, dict) else enumerate(state):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from entries(value, (*path, key))


def replaced(state, path, value):
    """A copy of a state with another value at a path; without the entry for MISSING."""
    state = copy.copy(state)
    if len(path) > 1:
        state[path[0]] = replaced(state[path[0]], path[1:], value)
    elif value is MISSING:
        del state[path[0]]
    else:
        state[path[0]] = value
    return state


MISSING = object()
WRONG = [MISSING, None, "abc", float("nan"), -1, object(), np.zeros((7, 2)), [], {}, True]


@pytest.mark.parametrize("part", [
    "model", "optimizer", "scheduler", "generator", "generators", "history", "epoch", "event",
    "data", "validation", "callbacks"])
def test_wrong_entries_of_a_state(part):
    """Each entry is refused by name, and nothing changes, or it is loaded as it is written.

    The tests of optimizers and schedules do the same with the entries of their states.
    """
    class Raise(Callback):
        def on_step_end(self, trainer):
            if len(trainer.history) == 1:
                raise RuntimeError

    interrupted = Run({})
    interrupted.callbacks[:0] = [Raise()]
    with pytest.raises(RuntimeError):
        interrupted.fit()
    state = interrupted.trainer.state_dict()
    assert set(state) >= {part} and state[part]
    trainer = Run({"data": "own rng"}).trainer
    before = trainer.state_dict()
    refused = 0
    paths = [(part, *rest) for rest in entries(state[part])]
    for path in [(part,), *(paths if part not in ("optimizer", "scheduler") else [])]:
        for value in WRONG:
            wrong = replaced(state, path, value)
            try:
                trainer.load_state_dict(wrong)
            except (TypeError, ValueError) as error:
                refused += 1
                assert part in str(error), path
                assert_same(trainer.state_dict(), before)
            else:
                found = trainer.state_dict()
                assert_same(found[part], wrong.get(part))
                trainer.load_state_dict(before)
    assert refused > 4
