"""Captured steps: replays equal the step bit for bit, and warnings name what cannot be captured."""

import contextlib
import gc
import itertools
import re
import sys
import threading
import time
import warnings
import weakref
from collections import OrderedDict, deque, namedtuple

import numpy as np
import pytest
from tested_backends import BACKENDS

import gpuprop
import gpuprop.functional as F
from gpuprop import asnumpy, capture, nn, no_sync, optim, use
from gpuprop._core.instruments import collect_modules, leaf_reached, module_call, optimizer_stepped
from gpuprop._core.registry import default_backend, get_backend
from gpuprop.testing import CaptureError

RECORDING = [name for name in BACKENDS if get_backend(name).records]


@pytest.fixture(autouse=True, params=RECORDING)
def recording(request):
    """Every test runs on every available backend that records."""
    with use(request.param) as backend:
        yield backend


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Threads of other tests may still run."""
    monkeypatch.setattr("gpuprop._capture.no_other_thread_runs", lambda: True)
    monkeypatch.setattr("gpuprop._capture_reach.no_other_thread_runs", lambda: True)


def batches(n, rows=8):
    rng = np.random.default_rng(0)
    pairs = [(rng.standard_normal((rows, 5)).astype("float32"), rng.integers(0, 3, rows))
             for _ in range(n)]
    return [(gpuprop.tensor(x), gpuprop.tensor(y)) for x, y in pairs]


def training(captured, zero_inside=True):
    gpuprop.manual_seed(3)
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Dropout(0.5), nn.Linear(7, 3))
    optimizer = optim.Adam(model.parameters(), lr=0.01)

    def step(x, y):
        if zero_inside:
            optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        return loss

    return model, optimizer, capture(step) if captured else step


@pytest.mark.parametrize("zero_inside", [True, False])
def test_a_replayed_training_step_equals_the_step(zero_inside):
    """With dropout, clipping and Adam; without waiting for the device."""
    results = []
    for captured in (False, True):
        model, optimizer, step = training(captured, zero_inside)
        losses = []
        for x, y in batches(6):
            if not zero_inside:
                optimizer.zero_grad()
            with no_sync():
                losses.append(step(x, y))
        losses = [loss.item() for loss in losses]
        results.append((losses, model.state_dict(), optimizer.state_dict()))
    (losses, weights, state), (losses_, weights_, state_) = results
    assert losses == losses_ and len(set(losses)) == 6
    for name in weights:
        np.testing.assert_array_equal(weights_[name], weights[name])
    for n in state["state"]:
        for name in state["state"][n]:
            np.testing.assert_array_equal(state_["state"][n][name], state["state"][n][name])


def test_python_runs_only_while_recording():
    calls = []

    @capture
    def step(x):
        calls.append(1)
        return x * 2

    x = gpuprop.ones(3)
    for i in range(5):
        assert step(x + i).tolist() == [2 * (1 + i)] * 3
    assert len(calls) == 4  # as usual, recorded twice, and compared with the first replay


def test_results_are_copies():
    step = capture(lambda x: {"a": x * 2, "b": (x.data + 1,)})
    outs = [step(gpuprop.ones(2) * i) for i in range(4)]
    assert [o["a"].tolist() for o in outs] == [[0, 0], [2, 2], [4, 4], [6, 6]]
    assert asnumpy(outs[3]["b"][0]).tolist() == [4, 4]


def test_another_signature_is_recorded_again():
    step = capture(lambda x, n: x * n)
    for _ in range(3):
        assert step(gpuprop.ones(2), 2).tolist() == [2, 2]
        assert step(gpuprop.ones(3), 2).tolist() == [2, 2, 2]
        assert step(gpuprop.ones(2), 5).tolist() == [5, 5]


def test_train_and_eval():
    layer = nn.Dropout(0.5)
    step = capture(lambda x: layer(x))
    x = gpuprop.ones(1000)
    for _ in range(3):
        layer.train()
        assert 0 < (step(x).numpy() == 0).mean() < 1
        layer.eval()
        assert (step(x).numpy() == 1).all()


def test_replays_use_the_current_learning_rate():
    for captured in (False, True):
        model, optimizer, step = training(captured)
        data = batches(6)
        for i, (x, y) in enumerate(data):
            optimizer.param_groups[0]["lr"] = 0.1 / (i + 1)
            step(x, y)
        if not captured:
            want = model.state_dict()
    for name in want:
        np.testing.assert_array_equal(model.state_dict()[name], want[name])


def test_a_changing_number_is_named():
    numbers = iter(range(100))
    step = capture(lambda x: x * next(numbers))
    x = gpuprop.ones(2)
    step(x)
    with pytest.warns(UserWarning, match=r"not captured.*: multiply .*1(\.0)?, .*2.*0-d array"):
        assert step(x).tolist() == [3, 3]
    assert step(x).tolist() == [4, 4]


def test_reading_a_value(recording):
    """It waits for a device, and CaptureError says where; on NumPy the step runs as usual."""
    step = capture(lambda x: x * x.sum().item())
    step(gpuprop.ones(2))
    if recording.recorder is None:
        with pytest.raises(CaptureError, match=r"waits for the device"):
            step(gpuprop.ones(2))
    else:
        with pytest.warns(UserWarning, match=r"test_capture.py:\d+\) reads a value"):
            assert step(gpuprop.ones(2)).tolist() == [2, 2]
        assert step(gpuprop.ones(2) * 3).tolist() == [18, 18]


def test_parameters_assigned_between_steps():
    """The assigned values are used: the step runs as usual once, and is recorded again."""
    weights = []
    for captured in (False, True):
        model, _, step = training(captured)
        for i, (x, y) in enumerate(batches(6)):
            if i == 4:
                model[0].weight.data = gpuprop.zeros((7, 5)).data
            step(x, y)
        weights.append(model.state_dict())
    for name in weights[0]:
        np.testing.assert_array_equal(weights[1][name], weights[0][name])


@pytest.mark.parametrize(("width", "trains", "runs"), [(8, True, 4), (800, True, 6),
                                                       (800, False, 4)])
def test_steps_with_many_weights_run_as_usual_on_numpy(width, trains, runs):
    """Inference is replayed, whatever the number of weights."""
    calls = []
    with use("numpy"):
        model = nn.Linear(width, width)
        optimizer = optim.SGD(model.parameters(), lr=0.1)

        def step(x):
            calls.append(1)
            y = model(x).sum()
            if trains:
                y.backward()
                optimizer.step()
            return y

        step, x = capture(step), gpuprop.ones((2, width))
        with contextlib.nullcontext() if trains else gpuprop.no_grad():
            for _ in range(6):
                step(x)
    assert len(calls) == runs


def same_captured(run):
    """`run(wrap)` gives the same results for the step and for the captured step."""
    expected = run(lambda step: step)
    assert run(capture) == expected


def small():
    gpuprop.manual_seed(3)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1))
    return model, optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def inputs(n):
    return [x for x, _ in batches(n)]


def weights(model):
    return {name: value.tolist() for name, value in model.state_dict().items()}


def test_layers_frozen_between_steps():
    def run(wrap):
        model, optimizer = small()

        def step(x):
            optimizer.zero_grad()
            loss = (model(x) ** 2).mean()
            loss.backward()
            optimizer.step()
            return loss

        step = wrap(step)
        for i, x in enumerate(inputs(8)):
            if i == 4:
                model[0].requires_grad_(False)
            step(x)
        return weights(model)

    same_captured(run)


@pytest.mark.parametrize("every", [1, 3])
def test_a_step_without_the_update(every):
    """Forward and backward are captured and gradients accumulate; the optimizer steps outside."""
    def run(wrap):
        model, optimizer = small()

        def step(x):
            loss = (model(x) ** 2).mean()
            loss.backward()
            return loss

        step = wrap(step)
        for i, x in enumerate(inputs(12)):
            step(x)
            if i % every == every - 1:
                optimizer.step()
                optimizer.zero_grad()
        return weights(model)

    same_captured(run)


def test_parameters_without_optimizer_or_module():
    calls = []

    def run(wrap):
        p = gpuprop.Parameter(gpuprop.ones((5, 1)))

        def step(x):
            calls.append(1)
            (x @ p).sum().backward()

        step, found = wrap(step), []
        for i, x in enumerate(inputs(20)):
            if i % 3 == 0:
                p.grad = None
            step(x)
            found.append(asnumpy(p.grad).tolist())
        return found

    same_captured(run)
    assert len(calls) < 20 + 10


def test_weights_assigned_for_inference():
    def run(wrap):
        model, _ = small()
        step, found = wrap(lambda x: model(x).sum()), []
        for i, x in enumerate(inputs(8)):
            if i == 4:
                model[0].weight.data = gpuprop.zeros((4, 5)).data
            found.append(step(x).item())
        return found

    same_captured(run)


def test_a_module_first_called_in_training():
    def run(wrap):
        dropout, layer = nn.Dropout(0.5), nn.Linear(5, 5)

        def step(x):
            return (dropout(layer(x)) if layer.training else layer(x)).sum()

        step, found = wrap(step), []
        layer.eval()
        for i, x in enumerate(inputs(9)):
            if i == 3:
                layer.train()
            if i == 6:
                dropout.eval()
            found.append(step(x).item())
        return found

    gpuprop.manual_seed(0)
    expected = run(lambda step: step)
    gpuprop.manual_seed(0)
    assert run(capture) == expected


def test_backward_through_a_replayed_update_raises():
    model, _, step = training(captured=True)
    (x, y), *rest = batches(5)
    for batch in rest:
        step(*batch)
    loss = (model(x) ** 2).sum()
    step(x, y)
    with pytest.raises(RuntimeError, match="changed by a step or a load"):
        loss.backward()


def test_an_error_while_recording_changes_nothing():
    model, optimizer = small()
    fail = []

    def step(x):
        if len(fail) == 2:  # on NumPy, the step has run as usual after the error
            raise CaptureError
        optimizer.zero_grad()
        loss = (model(x) ** 2).mean()
        loss.backward()
        optimizer.step()
        if fail:
            fail.append(2)
            return loss.item()
        return loss

    gradients = lambda: [asnumpy(p.grad).tolist() for p in model.parameters()]
    captured, (x, *_) = capture(step), inputs(1)
    captured(x)
    before = weights(model), gradients()
    fail.append(1)
    with pytest.raises(CaptureError):
        captured(x)
    assert (weights(model), gradients()) == before


def test_results_have_no_history_on_any_backend():
    for name in ("numpy", default_backend().name):
        with use(name):
            layer = nn.Linear(5, 2)
            step = capture(lambda x, layer=layer: (layer(x), layer.weight))
            for x in (gpuprop.ones((3, 5)),) * 4:
                y, weight = step(x)
                assert not y.requires_grad
                assert weight is not layer.weight and type(weight) is gpuprop.Tensor


def test_inside_grad_the_step_runs_as_usual():
    cube = capture(lambda x: (x**3).sum())
    for _ in range(4):
        assert gpuprop.grad(lambda x: cube(x))(gpuprop.ones(2)).tolist() == [3, 3]


def test_arguments_that_require_a_gradient():
    layer = nn.Linear(5, 1)
    step = capture(lambda x: layer(x).sum().backward())
    for x in inputs(4):
        x.requires_grad_()
        step(x)
        assert x.grad is not None


def test_structures_and_constants(recording):
    point = namedtuple("point", "a b")
    step = capture(lambda p, k: point(p.a * k, p.b))
    for k in (np.float32(2), 3.0, np.float32(2), np.float32(2), np.float32(2)):
        out = step(point(gpuprop.ones(2), None), k)
        assert isinstance(out, point) and out.a.tolist() == [k, k] and out.b is None
    with pytest.raises(TypeError, match="hashable constants"):
        step(point(gpuprop.ones(2), None), {1})
    with use("strict" if recording.name == "numpy" else "numpy"):
        b = gpuprop.ones(2)
    with pytest.raises(gpuprop.BackendMismatchError, match="move them to one backend"):
        step(point(gpuprop.ones(2), b), 1)


def test_results_other_than_arrays_are_compared():
    counter = itertools.count()
    step = capture(lambda x: (x * 2, next(counter)))
    x = gpuprop.ones(2)
    step(x)
    with pytest.warns(UserWarning, match="results other than arrays"):
        step(x)
    assert step(x)[1] + 1 == step(x)[1]


def test_optimizer_state_loaded_between_replays():
    """Step counts that differ after a load are used, in captured steps, too."""
    weights = []
    for captured in (False, True):
        model, optimizer, step = training(captured)
        for i, (x, y) in enumerate(batches(7)):
            if i == 4:
                state = optimizer.state_dict()
                state["state"][0]["step"] = 1
                optimizer.load_state_dict(state)
            step(x, y)
        weights.append(model.state_dict())
    for name in weights[0]:
        np.testing.assert_array_equal(weights[1][name], weights[0][name])


# ---- the first replay, compared with the step ---------------------------------------------------


def changing(*numbers):
    """A number for each run of a step: as usual, recorded twice, compared with the first replay."""
    numbers = iter(numbers)
    return lambda: next(numbers)


def test_a_number_that_changes_after_recording_is_found():
    number = changing(1, 2, 2, 3, 4)
    step = capture(lambda x: {"a": x + 1, "b": x * number()})
    x = gpuprop.ones(2)
    step(x)
    with pytest.warns(UserWarning, match="first replay and a run.* differ in result 1$"):
        assert step(x)["b"].tolist() == [3, 3]
    assert step(x)["b"].tolist() == [4, 4]


def test_results_are_those_of_the_step_if_the_replay_differs():
    model, optimizer = small()
    number, (x, *_) = changing(1, 2, 2, 3, 4), inputs(1)

    def step(x):
        optimizer.zero_grad()
        ((model(x) ** 2).mean() * number()).backward()
        optimizer.step()

    step = capture(step)
    step(x)
    with pytest.warns(UserWarning, match="differ in 0.weight$"):
        step(x)
    step(x)
    found = weights(model)

    model, optimizer = small()
    for factor in (1, 3, 4):
        optimizer.zero_grad()
        ((model(x) ** 2).mean() * factor).backward()
        optimizer.step()
    assert found == weights(model)


def test_a_gradient_that_differs_is_named():
    model, _ = small()
    number, (x, *_) = changing(1, 2, 2, 3), inputs(1)

    def step(x):
        model.zero_grad()
        (model(x).sum() * number()).backward()

    step = capture(step)
    step(x)
    with pytest.warns(UserWarning, match="differ in the gradient of 0.weight$"):
        step(x)


def test_a_gradient_outside_of_arenas_is_that_of_the_step_if_the_replay_differs():
    number, (x, *_) = changing(1, 2, 2, 3, 4), inputs(1)
    t = gpuprop.ones((8, 5)).requires_grad_()

    def step(x):
        t.grad = None
        (x * t * number()).sum().backward()

    step = capture(step)
    step(x)
    with pytest.warns(UserWarning, match=r"gradient of a tensor of shape \(8, 5\)$"):
        step(x)
    assert asnumpy(t.grad).tolist() == (x * 3).tolist()


def test_arrays_of_no_tensor_are_updated_once_per_step():
    """The comparison runs the step and a replay, but changes arrays like one run."""
    total, seen = gpuprop.zeros(2).data, gpuprop.zeros((4, 2)).data
    count = gpuprop.zeros((), dtype="int64").data

    def step(x):
        total[...] += x.data
        seen[:-1, :] = seen[1:, :] * 2
        seen[-1] = x.data
        count[...] += 1
        return x + gpuprop.Tensor(total)

    step = capture(step)
    for i in range(1, 6):
        assert step(gpuprop.ones(2) * i).tolist() == [i + i * (i + 1) / 2] * 2
        assert asnumpy(count) == i
    assert asnumpy(total).tolist() == [15, 15]
    assert asnumpy(seen)[:, 0].tolist() == [16, 12, 8, 5]


def test_arrays_of_no_tensor_if_the_replay_differs():
    total, number = gpuprop.zeros(2).data, changing(1, 2, 2, 3, 4)

    def step(x):
        total[...] += x.data * number()

    step = capture(step)
    x = gpuprop.ones(2)
    step(x)
    with pytest.warns(UserWarning, match="differ in an array of .* bytes.* no tensor$"):
        step(x)
    step(x)
    assert asnumpy(total).tolist() == [8, 8]


def test_each_replay_draws_new_noise():
    def run(wrap):
        gpuprop.manual_seed(5)
        own = gpuprop.random.Generator(7)
        layers = nn.Dropout(0.5), nn.Dropout(0.3, rng=own)
        step = wrap(lambda x: [layer(x) for layer in layers])
        return [[y.tolist() for y in step(gpuprop.ones(64))] for _ in range(6)], own.get_state()

    found, state = run(capture)
    assert (found, state) == run(lambda step: step)
    assert len({str(y) for ys in found for y in ys}) == 12


def test_the_comparison_does_not_write_to_arguments():
    def step(x):
        x.data[...] = x.data * 2
        return x + 0

    step, xs = capture(step), [gpuprop.ones(2) for _ in range(4)]
    assert [step(x).tolist() for x in xs] == [[2, 2]] * 4
    assert [x.tolist() for x in xs[1:]] == [[1, 1]] * 3


def test_out_of_memory_for_a_comparison(recording, monkeypatch):
    table, copy = gpuprop.ones((1000, 10)), recording.xp.copy
    seen = gpuprop.zeros((1000, 10)).data

    def scarce(a):
        if a.nbytes >= table.data.nbytes:
            raise MemoryError
        return copy(a)

    monkeypatch.setattr(recording.xp, "copy", scarce)

    def step(i):
        seen[...] += 1
        return table[i].sum() + i

    step = capture(step)
    i = gpuprop.tensor(np.arange(3))
    step(i)
    with pytest.warns(UserWarning, match=r"out of memory for copies of the \d{5} bytes"):
        assert step(i).tolist() == [30, 31, 32]
    assert step(i + 1).tolist() == [31, 32, 33]


def test_out_of_memory_for_a_recording(recording, monkeypatch):
    def scarce(tensors):
        raise MemoryError

    monkeypatch.setattr(recording, "record", scarce, raising=False)
    step, x = capture(lambda x: x * 2), gpuprop.ones(2)
    step(x)
    with pytest.warns(UserWarning, match="out of memory for a recording"):
        assert step(x).tolist() == [2, 2]
    assert step(x + 1).tolist() == [4, 4]


def test_an_error_of_the_step_discards_the_recording():
    """The next call records the step and compares it again."""
    errors = [None, None, None, ValueError("its own error")]
    calls = []

    def step(x):
        calls.append(1)
        if len(calls) <= len(errors) and errors[len(calls) - 1]:
            raise errors[len(calls) - 1]
        return x * 2

    step, x = capture(step), gpuprop.ones(2)
    step(x)
    with pytest.raises(ValueError, match="its own error"):
        step(x)
    for _ in range(3):
        assert step(x).tolist() == [2, 2]
    assert len(calls) == 4 + 3


def test_a_step_is_captured_on_the_device_of_its_arguments(recording):
    last = recording.device_count() - 1
    with use(recording.name, last):
        model, optimizer = small()
        step, x = capture(lambda x: train(model, optimizer, x)), inputs(1)[0]
        for _ in range(3):
            step(x)
    found = [step(x) for _ in range(2)]  # from another device, if there is one

    with use(recording.name, last):
        model, optimizer = small()
        expected = [train(model, optimizer, x).item() for _ in range(5)]
    assert [y.item() for y in found] == expected[3:]
    assert {recording.device_of(y.data) for y in found} == {last}


def train(model, optimizer, x):
    optimizer.zero_grad()
    loss = (model(x) ** 2).mean()
    loss.backward()
    optimizer.step()
    return loss


# ---- arrays that a step keeps -------------------------------------------------------------------


class Running(nn.Module):
    """Assigns a new array to a buffer, as is usual in PyTorch."""

    def __init__(self):
        self.linear = nn.Linear(5, 1)
        self.register_buffer("mean", gpuprop.zeros(5))

    def forward(self, x):
        self.mean = (self.mean * 0.5 + x.mean(axis=0)).detach()
        return self.linear(x - self.mean)


def keeping_steps():
    """Steps that keep an array they made, by name: (where they keep it, the step)."""
    def rebound_buffer():
        model = Running()
        return model, lambda x: model(x).sum()

    def hidden_state():
        cell, state = nn.Linear(9, 4), {"h": gpuprop.zeros((8, 4))}

        def step(x):
            state["h"] = F.tanh(cell(gpuprop.concatenate([x, state["h"]], axis=1))).detach()
            return state["h"].sum()

        return state, step

    def returned_state():
        state = [gpuprop.zeros(5)]

        def step(x):
            state[0] = state[0] + x.sum(axis=0)
            return state[0]

        return state, step

    def outer_variable():
        total = gpuprop.zeros(())

        def step(x):
            nonlocal total
            total = total + x.sum()
            return x + 1

        return (lambda: total), step

    def growing_list():
        seen = []

        def step(x):
            seen.append(x * 2)
            return sum(seen[1:], seen[0]).sum()

        return seen, step

    def rebound_data():
        layer = nn.Linear(5, 5)

        def step(x):
            y = layer(x).sum()
            layer.weight.data = layer.weight.data * 0.5
            return y

        return layer, step

    def swapped():
        pair = {"a": gpuprop.ones(5), "b": gpuprop.ones(5) * 2, "c": gpuprop.ones(5) * 3}

        def step(x):
            pair["a"], pair["b"], pair["c"] = pair["b"], pair["c"], pair["a"]
            return (x * pair["a"]).sum()

        return pair, step

    return {f.__name__: f for f in (rebound_buffer, hidden_state, returned_state, outer_variable,
                                    growing_list, rebound_data, swapped)}


def values(kept):
    if callable(kept) and not isinstance(kept, nn.Module):
        kept = kept()
    kept = weights(kept) if isinstance(kept, nn.Module) else kept
    parts = kept.values() if isinstance(kept, dict) else kept if isinstance(kept, list) else [kept]
    return [asnumpy(v).tolist() for v in parts]


@pytest.mark.parametrize("name", keeping_steps())
def test_a_step_that_keeps_an_array_it_made(name):
    found, messages = [], []
    for wrap in (lambda step: step, capture):
        gpuprop.manual_seed(1)
        kept, step = keeping_steps()[name]()
        step, results = wrap(step), []
        for x in inputs(5):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                results.append((step(x).tolist(), values(kept)))
            messages += [str(w.message) for w in caught]
            assert all(w.filename == __file__ for w in caught)  # the line that called the step
        found.append(results)
    assert found[1] == found[0]
    (message,) = messages
    assert re.search("not captured.*(keeps an array|assigns a different array).* in place", message)


@pytest.mark.parametrize("error", [ValueError, CaptureError])
def test_an_error_while_recording_restores_variables(error):
    model, state, calls = Running(), {"h": gpuprop.zeros(5)}, []

    def step(x):
        calls.append(1)
        if len(calls) == 3:  # on NumPy, the step has run as usual after the error
            raise error("its own error")
        y = model(x).sum()
        state["h"] = state["h"] + x.sum(axis=0)
        if len(calls) == 2:
            raise error("its own error")
        return y

    model.forward = lambda x: model.linear(x - model.mean)  # at first
    step, (x, *_) = capture(step), inputs(1)
    step(x)
    del model.forward
    before, mean = state["h"].tolist(), model.mean.tolist()
    with pytest.raises(error):
        step(x)
    assert state["h"].tolist() == before and model.mean.tolist() == mean


def test_signed_zeros_and_nan_as_arguments():
    step = capture(lambda x, k: x * k)
    x = gpuprop.ones(2)
    zeros = (0.0, 0.0, 0.0, -0.0, -0.0, -0.0, 0.0)
    signs = [np.signbit(asnumpy(step(x, k))).tolist() for k in zeros]
    assert signs == [[False] * 2] * 3 + [[True] * 2] * 3 + [[False] * 2]
    calls = []
    step = capture(lambda x, k: calls.append(1) or x * 2)
    for _ in range(6):
        step(x, float("nan"))
    assert len(calls) == 4


def test_results_of_other_types():
    class Result:
        def __init__(self, y):
            self.y = y

    step = capture(lambda x: Result(x * 2))
    with pytest.warns(UserWarning, match="returns a Result, .*returns Tensors"):
        results = [step(gpuprop.ones(2) * i) for i in range(4)]
    assert [r.y.tolist() for r in results] == [[2.0 * i] * 2 for i in range(4)]
    step = capture(lambda x: OrderedDict(a=x * 2))
    assert [type(step(gpuprop.ones(2))) for _ in range(4)] == [OrderedDict] * 4


def test_a_step_that_steps_a_schedule():
    def run(wrap):
        model, optimizer = small()
        schedule = optim.lr_scheduler.StepLR(optimizer, 3, 0.1)

        def step(x):
            loss = train(model, optimizer, x)
            schedule.step()
            return loss

        step = wrap(step)
        return [step(x).item() for x in inputs(8)]

    expected = run(lambda step: step)
    with pytest.warns(UserWarning, match="it steps StepLR"):
        assert run(capture) == expected


# ---- changes of the model -----------------------------------------------------------------------


def replace_layer(model, optimizer):
    gpuprop.manual_seed(9)
    model[2] = nn.Linear(4, 1)


def replace_parameter(model, optimizer):
    model[2].weight = gpuprop.Parameter(gpuprop.ones((1, 4)))


def append_layer(model, optimizer):
    model.append(nn.Tanh())


def hook_parameter(model, optimizer):
    model[0].weight.register_hook(lambda g: g * 0)


def hook_layer(model, optimizer):
    model[0].register_forward_hook(lambda m, args, y: y * 2)


def another_optimizer(model, optimizer):
    optimizer[0] = optim.Adam(model.parameters(), lr=0.01)


@pytest.mark.parametrize("edit", [replace_layer, replace_parameter, append_layer, hook_parameter,
                                  hook_layer, another_optimizer])
def test_changes_of_the_model_are_used(edit):
    def run(wrap):
        model, optimizer = small()
        box = [optimizer]

        def step(x):
            model.zero_grad()
            loss = (model(x) ** 2).mean()
            loss.backward()
            box[0].step()
            return loss

        step, losses = wrap(step), []
        for i, x in enumerate(inputs(10)):
            if i == 5:
                edit(model, box)
            losses.append(step(x).item())
        return losses, weights(model)

    same_captured(run)


@pytest.mark.parametrize("make", [
    lambda: gpuprop.Parameter(gpuprop.ones((1, 5)), requires_grad=False),
    lambda: gpuprop.ones((1, 5))])
def test_assigning_data_to_tensors_of_no_module(make):
    def run(wrap):
        w = make()
        step, found = wrap(lambda x: F.linear(x, w).sum()), []
        for i, x in enumerate(inputs(8)):
            if i == 5:
                w.data = (gpuprop.ones((1, 5)) * 3).data
            found.append(step(x).item())
        return found

    same_captured(run)


def test_another_generator_of_a_dropout():
    def run(wrap):
        layer = nn.Dropout(0.5, rng=gpuprop.random.Generator(5))
        step, found = wrap(lambda x: layer(x)), []
        for i in range(8):
            if i == 5:
                layer.rng = gpuprop.random.Generator(99)
            found.append(step(gpuprop.ones(32)).tolist())
        return found

    same_captured(run)


def test_modes_that_the_step_sets():
    def run(wrap):
        model, optimizer = small()

        def training(x):
            model.train()
            model[0].requires_grad_(True)
            return train(model, optimizer, x)

        def testing(x):
            model.eval()
            model[0].requires_grad_(False)
            return model(x).sum()

        training, testing, found = wrap(training), wrap(testing), []
        for x in inputs(10):
            for step in (training, testing):
                loss = step(x).item()
                found.append((loss, model.training, model[0].weight.requires_grad))
        return found

    same_captured(run)


# ---- nested captured steps ----------------------------------------------------------------------


@pytest.mark.parametrize("warm", [0, 5])
def test_a_captured_step_inside_another(warm):
    """The outer step must see what the inner one uses, also if the inner one has recordings."""
    def run(wrap):
        model, optimizer = small()
        inner = wrap(lambda x: train(model, optimizer, x))
        outer = wrap(lambda x: inner(x) * 2)
        found = []
        for i, x in enumerate(inputs(16)):
            if i == 11:
                model[0].weight.data = model[0].weight.data * 3
            if i == 13:
                model.eval()
            found.append((inner if i < warm else outer)(x).item())
        return found, weights(model)

    same_captured(run)


def test_an_outer_listener_gets_the_events_of_a_captured_step():
    model, optimizer = small()
    step, (x, *_) = capture(lambda x: train(model, optimizer, x)), inputs(1)
    with optimizer_stepped.collect() as stepped:
        step(x)
    assert list(stepped.values()) == [optimizer]


# ---- threads ------------------------------------------------------------------------------------


def in_threads(*targets):
    found = [None] * len(targets)

    def run(i, name):
        try:
            with use(name):
                found[i] = targets[i]()
        except BaseException as e:
            found[i] = e

    name = default_backend().name
    threads = [threading.Thread(target=run, args=(i, name)) for i in range(len(targets))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for result in found:
        if isinstance(result, BaseException):
            raise result
    return found


def test_instruments_are_local_to_a_thread():
    """One thread collects events while another one trains: neither sees the other's."""
    inside, done = threading.Event(), threading.Event()
    model, optimizer = small()
    other_model, other_optimizer = small()
    (x, *_) = inputs(1)

    def collecting():
        with (collect_modules() as called, optimizer_stepped.collect() as stepped,
              leaf_reached.collect() as reached):
            inside.set()
            assert done.wait(60)
            train(model, optimizer, x)
        return list(called), list(stepped.values()), len(reached)

    def training():
        assert inside.wait(60)
        train(other_model, other_optimizer, x)
        done.set()

    (called, stepped, reached), _ = in_threads(collecting, training)
    assert called == [model, *model]
    assert stepped == [optimizer] and reached == 4
    assert not optimizer_stepped.is_watched and not leaf_reached.is_watched


def test_overlapping_instruments_of_two_threads():
    first, second = threading.Event(), threading.Event()

    def one():
        with leaf_reached.collect(), collect_modules():
            first.set()
            assert second.wait(60)
        return leaf_reached.is_watched, module_call()

    def two():
        assert first.wait(60)
        with leaf_reached.collect(), collect_modules():
            second.set()
            time.sleep(0.05)  # the other one's ends first, most likely
        return leaf_reached.is_watched, module_call()

    assert in_threads(one, two) == [(False, None)] * 2
    assert not leaf_reached.is_watched and module_call() is None


def test_several_threads_call_one_captured_step():
    model, _ = small()
    predict = capture(lambda x: model(x))
    rows = [gpuprop.tensor(np.full((8, 5), i, "float32")) for i in range(12)]
    expected = [model(x).tolist() for x in rows]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        found = in_threads(*[lambda: [predict(x).tolist() for x in rows * 3]] * 3)
    finally:
        sys.setswitchinterval(before)
    assert found == [expected * 3] * 3


# ---- memory -------------------------------------------------------------------------------------


def test_recordings_are_bounded():
    calls = []
    step, x = capture(lambda x, k: calls.append(k) or x * k), gpuprop.ones(2)
    for k in range(40):
        for _ in range(3):
            step(x, k)
    calls.clear()
    step(x, 39)
    assert not calls
    step(x, 0)
    assert calls == [0]


def test_out_of_memory_for_the_step_after_recording():
    failing, model, optimizer = [], *small()

    def step(x):
        if len(failing) == 3:
            optimizer.zero_grad()
            (model(x) ** 2).mean().backward()
            failing.append(0)
            raise MemoryError
        failing.append(0)
        return train(model, optimizer, x)

    xs = inputs(4)
    captured = capture(step)
    captured(xs[0])
    with pytest.warns(UserWarning, match="out of memory for a run"):
        captured(xs[1])
    for x in xs[2:]:
        captured(x)
    found = weights(model)
    model, optimizer = small()
    for x in xs:
        train(model, optimizer, x)
    assert found == weights(model)


@pytest.mark.parametrize("place", [dict, deque])
def test_out_of_memory_while_recording_a_step_that_keeps_an_array(place):
    """A dict is restored, and the step runs as usual; a deque is not searched for arrays."""
    state, calls = place(), []

    def step(x):
        calls.append(1)
        y = x * 2
        state.update(y=y) if place is dict else state.append(y)
        if len(calls) == 2:
            raise MemoryError
        return y + 1

    captured, x = capture(step), gpuprop.ones(2)
    captured(x)
    if place is dict:
        with pytest.warns(UserWarning, match="out of memory for a recording"):
            assert captured(x).tolist() == [3, 3]
        assert state["y"].tolist() == [2, 2]
    else:
        with pytest.raises(CaptureError, match=r"keeps an array .*no values"):
            captured(x)


def test_recordings_of_a_step_that_is_not_captured_are_freed(recording):
    made, alive, record, numbers = [], [], recording.record, itertools.count()

    @contextlib.contextmanager
    def recorded(tensors):
        with record(tensors) as found:
            made.append(weakref.ref(found))
            yield found

    def step(x):
        gc.collect()
        alive.append(sum(r() is not None for r in made))
        return x * next(numbers)

    step, (x, *_) = capture(step), inputs(1)
    recording.record = recorded
    try:
        step(x)
        with pytest.warns(UserWarning, match="0-d array"):
            step(x)
    finally:
        del recording.record
    assert alive == [0, 1, 2, 0]  # as usual, recorded twice, and as usual again


def test_two_devices_raise():
    with use("strict", 1):
        b, z = nn.Linear(6, 1), gpuprop.ones((1, 6))
    with use("strict", 0):
        a, x = nn.Linear(5, 6), inputs(1)[0]
        step = capture(lambda x: (a(x), b(z))[0])
        step(x)
        with pytest.raises(CaptureError, match=r"on cuda:0 and .* on cuda:1"):
            step(x)
