"""Recordings of steps on NumPy: what becomes a line, what is copied, and what is refused."""

import collections
import contextlib
import contextvars
import copy
import functools
import math
import random
import sys
import threading
import tracemalloc
import warnings
from collections import deque

import numpy as np
import pytest

import gpuprop
import gpuprop.functional as F
from gpuprop import _capture_reach, capture, nn, optim
from gpuprop._bench.library import Library
from gpuprop._bench.workloads import WORKLOADS
from gpuprop._core.backend import CaptureError
from gpuprop._core.registry import get_backend


@pytest.fixture(autouse=True)
def numpy_backend():
    with gpuprop.use("numpy") as backend:
        yield backend


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Threads of other tests may still run."""
    monkeypatch.setattr("gpuprop._capture.no_other_thread_runs", lambda: True)
    monkeypatch.setattr("gpuprop._capture_reach.no_other_thread_runs", lambda: True)


def recorded(step, *arrays):
    """(recording, results) of ``step(*arrays)``, with the recording's arrays in both."""
    recording = get_backend("numpy").record()
    with recording as lines:
        results = step(*map(lines.inner, arrays))
    return lines, [lines.outer(r) for r in results]


def assert_replayed(step, *arrays):
    """A replay with other values in the arguments gives the results and arguments of the step."""
    arrays = [np.array(a) for a in arrays]
    recording, results = recorded(step, *arrays)
    before = [a.copy() for a in arrays]
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, b)  # recording has no lasting effect
    for scale in (1, 3):
        for a, b in zip(arrays, before, strict=True):
            a[...] = b * scale
        expected_arrays = [a.copy() for a in arrays]
        expected = step(*expected_arrays)
        recording.replay()
        for got, want in zip([*results, *arrays], [*expected, *expected_arrays], strict=True):
            np.testing.assert_array_equal(got, want, strict=False)
            assert got.dtype == np.asarray(want).dtype


threads = threading.enumerate
X = np.linspace(-2, 2, 12, dtype="float32").reshape(3, 4)


def in_place(x):
    y = x.copy()
    y += x
    y[1:] *= 2
    y[0, 0] = 7
    x -= 1
    return [y]


def views(x):
    t = x.T
    x[0] = 5  # seen through the view
    return [t * 2, x[1:].reshape(-1), x.reshape(2, 6), x[:, None].swapaxes(0, 1)]


def view_of_a_result(x):
    y = x * 2
    z = y[0]
    z += 1
    first, second = np.split(y, [1])
    first -= 3
    return [y, z, second]


def parts_of_an_argument(x):
    first, second = np.split(x, [1])
    second += first
    return [second]


def scalars(x):
    total = x.sum()
    total += 1
    return [total, total / x.size, -total, abs(x.min()), x.mean(), x[0, 0] * 2, total ** 2]


def functions(x):
    out = np.empty_like(x)
    np.multiply(x, 2, out=out)
    np.add.at(out, ([0, 0],), 1)
    np.copyto(x, out)
    return [np.concatenate([x, out]), np.where(x > 0, x, 0), np.exp(x, dtype="float64"),
            np.maximum.reduce(x, axis=1), np.linalg.norm(x), np.einsum("ij->ji", x)]


def reflected(x):
    return [2 - x, 1 / (x + 3), 2 ** x, X @ x.T, x.T @ X, X + x, np.float32(2) * x, x % 2, x // 2]


def comparisons(x):
    return [x < 1, x != 0, ~(x >= 0) | (x == 2), (x > 0).any(), x.argmax(1)]


def changed_constants(x):
    x.fill(3)
    y = np.zeros(4)
    y[1] = 2
    return [x * y]


@pytest.mark.parametrize("step", [
    in_place, views, view_of_a_result, parts_of_an_argument, scalars, functions, reflected,
    comparisons, changed_constants], ids=lambda f: f.__name__)
def test_a_replay_repeats_what_a_step_did(step):
    assert_replayed(step, X)


def test_metadata_is_that_of_the_array():
    def step(x):
        assert (x.shape, x.ndim, x.size, x.dtype, x.nbytes) == (
            (3, 4), 2, 12, np.dtype("float32"), 48)
        assert len(x) == 3 and x.itemsize == 4 and x.strides == X.strides
        assert np.shape(x) == (3, 4) and np.result_type(x, 1.0) == "float32"
        return [row * 2 for row in x]

    assert_replayed(step, X)


READS = {
    "bool": lambda x: bool(x.sum()),
    "int": lambda x: int(x.sum()),
    "float": lambda x: float(x.sum()),
    "index": lambda x: [1, 2][x.argmax()],
    "if": lambda x: 1 if x[0, 0] > 0 else 2,
    "in": lambda x: 1 in x.ravel(),
    "item": lambda x: x[0, 0].item(),
    "tolist": lambda x: x.tolist(),
    "asarray": lambda x: np.asarray(x),
    "array_equal": lambda x: np.array_equal(x, x),
    "flat": lambda x: x.flat[0],
    "text": lambda x: np.array2string(x),
    "deepcopy": lambda x: copy.deepcopy(x),
    "nonzero": lambda x: np.nonzero(x),
    "mask": lambda x: x[x > 0],
    "where": lambda x: np.where(x),
    "unique": lambda x: np.unique(x),
    "repeat": lambda x: np.repeat(x, (x[0] > 0), axis=1),
    "slice": lambda x: x[:x.argmax()],
    "write elsewhere": lambda x: np.zeros((3, 4)).__setitem__(..., x),
}


@pytest.mark.parametrize("name", READS)
def test_a_value_that_is_read_is_refused(name):
    """A replay would use the value of the recording; the message names this file."""
    with pytest.raises(CaptureError, match=r"in .*\.py:\d+\) reads a value, .* after the step"):
        recorded(READS[name], X.copy())


def test_a_read_that_the_step_catches_is_not_replayed():
    def step(x):
        try:
            float(x[0])
        except CaptureError:
            return [x * 2]

    recording, _ = recorded(step, np.ones(3))
    with pytest.raises(CaptureError, match="cannot be replayed: float"):
        recording.replay()


def test_only_memory_that_may_change_is_copied():
    """A recorded inference copies no weights."""
    w, b = np.ones((4, 4)), np.ones(4)

    def step(x):
        y = np.maximum(x @ w.T + b, 0).sum(axis=0)
        x[0] = 1
        return [y]

    x = np.ones((2, 4))
    recording, _ = recorded(step, x)
    assert [a is x for a in recording.outside()] == [True]
    assert all(map(recording.uses, (x, w, b)))
    assert not recording.uses(np.ones(4))


def test_variables_are_freed_after_their_last_use():
    """The replay needs as much memory as the step."""
    def step(x):
        for _ in range(20):
            x = x + 1
        return [x.sum()]

    n = 10**6
    recording, (total,) = recorded(step, np.ones(n))
    recording.replay()
    tracemalloc.start()
    recording.replay()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == 21 * n and peak < 3 * 8 * n


def test_other_threads_compute_while_a_step_is_recorded():
    """Their calls with recorded arrays return NumPy's arrays, and are not replayed."""
    seen = []

    def step(x):
        thread = threading.Thread(target=lambda: seen.extend([x * 2, float(x.sum()), x @ x.T]))
        thread.start()
        thread.join()
        return [x + 1]

    recording, _ = recorded(step, X.copy())
    assert [type(a) for a in seen] == [np.ndarray, float, np.ndarray]
    assert len(recording._lines) == 1
    assert F.relu(gpuprop.Tensor(X)).shape == (3, 4)


@pytest.mark.parametrize("name", [n for n, w in WORKLOADS.items() if w.model is not None])
def test_workloads_give_the_bits_of_the_step(name):
    """All steps, of small sizes, as they are and captured; every one is replayed."""
    workload = WORKLOADS[name]
    s = workload.sizes_of(quick=True)
    losses = []
    for captured in (False, True):
        library = Library()
        if not captured:
            library.capture = lambda step: step
        step = workload.step(library, s, workload.initial_weights(s), {})
        losses.append([np.asarray(step()).tolist() for _ in range(6)])
    assert losses[0] == losses[1]


class Everything(nn.Module):
    """Layers with overrides, state, noise and several outputs."""

    def __init__(self):
        self.embedding = nn.Embedding(11, 8)
        self.lstm = nn.LSTM(8, 6, batch_first=True)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.norm = nn.LayerNorm(6)
        self.convolution = nn.Conv1d(6, 5, 3, padding=1)
        self.batch_norm = nn.BatchNorm1d(5)
        self.dropout = nn.Dropout(0.3)
        self.out = nn.utils.parametrizations.weight_norm(nn.Linear(5, 3))

    def forward(self, x):
        h, _ = self.lstm(self.embedding(x))
        h = self.norm(h + self.attention(h, h, h)[0])
        h = F.gelu(self.batch_norm(self.convolution(h.swapaxes(1, 2))))
        return self.out(self.dropout(h.mean(axis=2)))


def test_a_model_of_all_kinds_of_layers():
    def run(wrap):
        gpuprop.manual_seed(0)
        model = Everything()
        optimizer = optim.AdamW(model.parameters(), lr=0.01)
        rng = np.random.default_rng(0)

        def step(x, y):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y, label_smoothing=0.1)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            return loss, norm

        step = wrap(step)
        values = [step(gpuprop.tensor(rng.integers(0, 11, (4, 7))),
                       gpuprop.tensor(rng.integers(0, 3, 4))) for _ in range(7)]
        return ([(a.item(), b.item()) for a, b in values],
                {name: value.tolist() for name, value in model.state_dict().items()})

    assert run(capture) == run(lambda step: step)


def test_labels_that_do_not_count_in_a_replay():
    """The override of cross entropy chooses another version for them than in the recording."""
    def losses(wrap):
        gpuprop.manual_seed(0)
        model = nn.Linear(4, 3)
        optimizer = optim.SGD(model.parameters(), lr=0.1)

        def step(x, y):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            return loss

        step = wrap(step)
        labels = [[0, 1, 2]] * 5 + [[0, -100, 2], [-100, -100, 1], [2, 1, 0]]
        return [step(gpuprop.tensor(X), gpuprop.tensor(y)).item() for y in labels]

    assert losses(capture) == losses(lambda step: step)


def test_a_label_out_of_range_in_a_replay():
    model = nn.Linear(4, 3)
    step = capture(lambda x, y: F.cross_entropy(model(x), y))
    for _ in range(4):
        step(gpuprop.tensor(X), gpuprop.tensor([0, 1, 2]))
    with pytest.raises(IndexError, match="3"):
        step(gpuprop.tensor(X), gpuprop.tensor([0, 1, 3]))
    assert math.isfinite(step(gpuprop.tensor(X), gpuprop.tensor([0, 1, 2])).item())


def test_gradients_of_tensors_that_no_optimizer_owns():
    """The gradient of a Tensor is no memory of an arena; an optimizer steps beside it."""
    def run(wrap):
        gpuprop.manual_seed(0)
        model = nn.Linear(4, 1)
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        x = gpuprop.tensor(X, requires_grad=True)
        seen = []

        def step():
            optimizer.zero_grad()
            x.grad = None
            (model(x) ** 2).sum().backward()
            optimizer.step()
            return gpuprop.Tensor(x.grad).sum()

        step = wrap(step)
        for _ in range(6):
            seen.append((step().item(), x.grad.tolist(), model.weight.tolist()))
        return seen

    assert run(capture) == run(lambda step: step)


def test_errstate_is_a_condition_of_a_recording():
    """Inside of np.errstate the step is recorded anew, since overrides then run other loops."""
    runs = []

    def step(x):
        runs.append(1)
        return (x * 3).sum()

    step, x = capture(step), gpuprop.ones(4)
    for _ in range(6):
        step(x)
    assert len(runs) == 4
    with np.errstate(all="raise"):
        step(x)
    assert len(runs) == 5


def test_an_optimizer_with_changed_options_between_replays():
    def run(wrap):
        gpuprop.manual_seed(0)
        model = nn.Linear(4, 2)
        optimizer = optim.Adam(model.parameters(), lr=0.1)

        def step(x):
            optimizer.zero_grad()
            loss = (model(x) ** 2).mean()
            loss.backward()
            optimizer.step()
            return loss

        step = wrap(step)
        losses = []
        for i in range(8):
            optimizer.param_groups[0]["lr"] = 0.1 / (i + 1)
            losses.append(step(gpuprop.tensor(X)).item())
        return losses

    assert run(capture) == run(lambda step: step)


class Counter:
    """State in NumPy's arrays, which a recording sees only in variables of the step."""

    def __init__(self):
        self.n = np.zeros(1)


class Agent:
    def __init__(self):
        self.counter = Counter()


def in_an_object_of_an_object():
    agent = Agent()

    def step(x):
        agent.counter.n[...] += 1
        return x / gpuprop.Tensor(agent.counter.n)

    return step


def in_a_tuple():
    state = (np.zeros(1),)

    def step(x):
        n = state[0]
        n += 1
        return x * gpuprop.Tensor(n)

    return step


def in_a_default(n=np.zeros(1)):  # noqa: B008
    n[...] = 0

    def step(x, n=n):
        n += 1
        n *= 2
        return x * gpuprop.Tensor(n)

    return step


def in_a_class():
    class Global:
        n = np.zeros(1)

    def step(x):
        np.add(Global.n, 1, Global.n)
        return x + gpuprop.Tensor(Global.n)

    return step


def in_a_partial():
    return functools.partial(lambda n, x: (n.__iadd__(1), x * gpuprop.Tensor(n))[1], np.zeros(1))


def learning_rates():
    layer = nn.Linear(4, 1)
    layer.weight.data[...] = 1
    optimizer = optim.SGD(layer.parameters(), lr=0.1)

    def step(x):
        optimizer.param_groups[0]["lr"] *= 0.5
        optimizer.zero_grad()
        loss = layer(x).sum()
        loss.backward()
        optimizer.step()
        return loss

    return step


@pytest.mark.parametrize("make", [
    in_an_object_of_an_object, in_a_tuple, in_a_default, in_a_class, in_a_partial, learning_rates],
    ids=lambda f: f.__name__)
def test_arrays_that_a_recording_does_not_see(make):
    """The step is not captured, and counts as often as it is called."""
    x = gpuprop.tensor(X)
    gpuprop.manual_seed(0)
    plain = make()
    expected = [plain(x).tolist() for _ in range(6)]
    gpuprop.manual_seed(0)
    step = capture(make())
    found = [step(x).tolist()]
    with pytest.warns(UserWarning, match=r"not captured .* (array of|changes )"):
        found.append(step(x).tolist())
    found += [step(x).tolist() for _ in range(4)]
    assert found == expected


def test_a_hook_that_counts():
    layer, seen = nn.Linear(4, 2), {"n": [np.zeros(1)]}
    layer.register_forward_hook(lambda module, args, y: seen["n"][0].__iadd__(1) and None)
    step = capture(lambda x: layer(x).sum())
    with pytest.warns(UserWarning, match="not captured"):
        for _ in range(5):
            step(gpuprop.tensor(X))
    assert seen["n"][0].tolist() == [5]


def test_shared_weights_stay_arrays_for_other_threads():
    """While one thread records, others see NumPy's arrays in the model."""
    layer = nn.Linear(4, 2)
    optimizer = optim.SGD(layer.parameters(), lr=0.01)
    kinds, recording = set(), threading.Event()

    def step(x):
        recording.set()
        optimizer.zero_grad()
        loss = layer(x).sum()
        loss.backward()
        look = threading.Thread(target=lambda: kinds.update(
            type(a) for p in layer.parameters() for a in (p.array, p.data, p.detach().array)))
        look.start()
        look.join()
        optimizer.step()
        return loss

    step = capture(step)
    for _ in range(6):
        step(gpuprop.tensor(X))
    assert kinds == {np.ndarray}


def test_nothing_recorded_stays_behind():
    """Objects in which a step keeps arrays have NumPy's arrays after the warning."""
    kept, last, memo = [], {}, deque()

    def step(x):
        y = x * 2
        kept.append(y)
        memo.append(y.data)
        last["nested"] = {"y": y.data}
        return y

    step = capture(step)
    with pytest.warns(UserWarning, match="keeps an array"):
        for _ in range(5):
            step(gpuprop.tensor(X))
    arrays = [*(t.array for t in kept), *memo, last["nested"]["y"]]
    assert {type(a) for a in arrays} == {np.ndarray}
    for a in arrays:
        np.testing.assert_array_equal(a, X * 2)


def test_random_numbers_of_a_step_that_is_not_captured():
    """The recordings draw from the generators of the host, which are set back."""
    def run(wrap):
        gpuprop.manual_seed(0)
        np.random.seed(0)
        random.seed(0)

        def step(x):
            noise = gpuprop.random.normal((3, 4)) + np.random.rand() + random.random()
            return x + noise

        step = wrap(step)
        return [step(gpuprop.tensor(X)).tolist() for _ in range(5)]

    expected = run(lambda step: step)
    with pytest.warns(UserWarning, match="not captured"):
        assert run(capture) == expected


def test_memory_order_is_a_part_of_the_signature():
    def run(wrap):
        step = wrap(lambda x: x.sum())
        rng = np.random.default_rng(0)
        values = [rng.standard_normal((300, 70)).astype("float32") for _ in range(8)]
        orders = "CCCCFFFF"
        return [step(gpuprop.Tensor(np.asarray(v, order=o))).item()
                for v, o in zip(values, orders, strict=True)]

    assert run(capture) == run(lambda step: step)


def test_a_pullback_of_several_gradients_runs_once_per_replay():
    lstm = nn.LSTM(4, 5)
    optimizer = optim.SGD(lstm.parameters(), lr=0.1)

    def step(x):
        optimizer.zero_grad()
        loss = lstm(x)[0].sum()
        loss.backward()
        optimizer.step()
        return loss

    captured = capture(step)
    x = gpuprop.tensor(X[:, None])
    for _ in range(5):
        captured(x)
    calls = collections.Counter()
    profile = lambda frame, event, arg: calls.update(
        [frame.f_code.co_qualname] if event == "call" else [])
    sys.setprofile(profile)
    try:
        captured(x)
    finally:
        sys.setprofile(None)
    backward = {name: n for name, n in calls.items() if "backward" in name and "scan" in name}
    assert set(backward.values()) <= {1}, backward


def test_errors_of_numpy_are_those_of_the_step():
    def step(x):
        with np.errstate(divide="ignore"):
            y = 1 / x.data
        return gpuprop.Tensor(y)

    step, zeros = capture(step), gpuprop.zeros(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(6):
            assert step(zeros).tolist() == [math.inf] * 3


def test_interrupts_leave_no_recording_behind():
    """KeyboardInterrupt at the calls of a recording: the next steps are as usual."""
    layer = nn.Linear(4, 2)
    step = capture(lambda x: layer(x).sum())
    x = gpuprop.tensor(X)
    expected = step(x).item()

    class Interrupt:
        def __init__(self, after):
            self.left = after

        def __call__(self, frame, event, arg):
            self.left -= 1
            if not self.left:
                sys.setprofile(None)
                raise KeyboardInterrupt

    for after in range(1, 2000, 97):
        fresh = capture(lambda x: layer(x).sum())
        fresh(x)
        sys.setprofile(Interrupt(after))
        try:
            fresh(x)
        except KeyboardInterrupt:
            pass
        finally:
            sys.setprofile(None)
        assert type(layer.weight.array) is np.ndarray
        assert layer(x).sum().item() == expected == fresh(x).item()


def test_nothing_is_recorded_while_other_threads_run(monkeypatch):
    """They may change what a recording sets back; the step is captured after their end."""
    monkeypatch.undo()
    runs, end = [], threading.Event()

    def step(x):
        runs.append(1)
        return x * 2

    before = {t for t in threading.enumerate() if t.name != "gpuprop"}
    if len(before) > 1:  # of other tests
        monkeypatch.setattr(_capture_reach.threading, "enumerate", lambda: [
            t for t in threads() if t not in before or t is threading.current_thread()])
    with gpuprop.use("numpy"):
        step, x = capture(step), gpuprop.ones(2)
        other = threading.Thread(target=end.wait)
        other.start()
        for _ in range(6):
            step(x)
        assert len(runs) == 6
        end.set()
        other.join()
        for _ in range(6):
            step(x)
        assert len(runs) == 9


def test_a_read_that_the_step_catches_is_a_reason_not_to_capture():
    values = []

    def step(x):
        with contextlib.suppress(Exception):
            values.append(float(x.data.sum()))
        return x * 2

    step = capture(step)
    with pytest.warns(UserWarning, match="reads a value"):
        for i in range(5):
            assert step(gpuprop.ones(2) * i).tolist() == [2 * i] * 2
    assert values == [0, 2, 4, 6, 8]


def test_a_copied_context_outlives_the_recording():
    contexts, layer = [], nn.Linear(4, 2)
    other = nn.Linear(4, 2)
    optimizer = optim.SGD(other.parameters(), lr=0.1)

    def train():
        other(gpuprop.tensor(X)).sum().backward()
        norm = nn.utils.clip_grad_norm_(other.parameters(), 1.0)
        optimizer.step()
        return norm

    def step(x):
        contexts.append(contextvars.copy_context())
        return layer(x).sum()

    step = capture(step)
    for _ in range(6):
        expected = step(gpuprop.tensor(X)).item()
    for context in contexts:
        made = context.run(lambda: nn.Linear(4, 2))
        assert type(made.weight.array) is np.ndarray
        assert context.run(lambda: layer(gpuprop.tensor(X)).sum().item()) == expected
        assert context.run(lambda: float(layer.weight.data.sum())) == layer.weight.data.sum()
        assert type(context.run(train).array) is np.ndarray
        assert type(other.weight.grad) is np.ndarray
    assert step(gpuprop.tensor(X)).item() == expected


def test_arrays_of_objects_are_not_recorded():
    objects = np.array([1, "a"], dtype=object)
    step = capture(lambda x: (objects.__setitem__(0, len(objects)), x * 2)[1])
    for _ in range(6):
        assert step(gpuprop.ones(2)).tolist() == [2, 2]


def test_branches_by_generators_of_the_step():
    def run(wrap, make):
        generator = make(3)
        step = wrap(lambda x: x * 2 if generator.random() > 0.3 else x)
        return [step(gpuprop.ones(1)).item() for _ in range(12)]

    for make in random.Random, np.random.default_rng:
        expected = run(lambda step: step, make)
        with pytest.warns(UserWarning, match="random numbers"):
            assert run(capture, make) == expected


def test_lengths_by_values_are_refused():
    count = np.array(2)

    def step(x):
        n = gpuprop.get_array_module(x).arange(count)
        count[...] += 1
        return x, gpuprop.Tensor(n)

    step = capture(step)
    with pytest.warns(UserWarning, match="arange by an array"):
        assert [len(step(gpuprop.ones(1))[1]) for _ in range(5)] == [2, 3, 4, 5, 6]


def test_tensors_in_tuples():
    held = (gpuprop.zeros(1),)

    def step(x):
        held[0].data[...] = 0
        held[0].data += 3
        return x * held[0]

    step = capture(step)
    for _ in range(6):
        assert step(gpuprop.ones(1)).item() == 3
    assert type(held[0].array) is np.ndarray


def changing_norm(x, layer, numbers):
    layer(x).sum().backward()
    return nn.utils.clip_grad_norm_(layer.parameters(), next(numbers))


REASONS = {
    "number in one call": (changing_norm, r"_clip_norm in .*: an argument was 3, then 4: a number"),
    "function": (lambda x, *_: gpuprop.Tensor(np.apply_along_axis(lambda a: a + 1, 0, x.data)),
                 "apply_along_axis in .*: an argument was one function, then another one: make it"),
    "array": (lambda x, *_: x + np.ones(4), r"array of shape \(4,\), .*: make constants outside"),
}


@pytest.mark.parametrize("name", REASONS)
def test_the_warning_says_what_changed(name):
    body, message = REASONS[name]
    layer, numbers = nn.Linear(4, 2), iter(range(2, 100))
    step = capture(lambda x: body(x, layer, numbers))
    step(gpuprop.tensor(X))
    with pytest.warns(UserWarning, match=message):
        step(gpuprop.tensor(X))
