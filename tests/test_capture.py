"""A captured step: replayed without the host, equal to the step itself bit for bit, and honest about what it cannot follow."""

import numpy as np
import pytest

import gpuprop
import gpuprop.functional as F
from gpuprop import capture, nn, optim, use
from gpuprop.backend import get_backend
from gpuprop.testing import CaptureError, no_syncs

STRICT = get_backend("strict")


@pytest.fixture(autouse=True)
def _on_strict():
    with use("strict"):
        yield


def batches(n, rows=8):
    rng = np.random.default_rng(0)
    return [(gpuprop.tensor(rng.standard_normal((rows, 5)).astype("float32")), gpuprop.tensor(rng.integers(0, 3, rows))) for _ in range(n)]


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
def test_a_training_step_is_the_same_replayed(zero_inside):
    """Dropout, clipping and Adam: no host synchronisation, and equal bits."""
    results = []
    for captured in (False, True):
        model, optimizer, step = training(captured, zero_inside)
        losses = []
        for x, y in batches(6):
            if not zero_inside:
                optimizer.zero_grad()
            with no_syncs(STRICT, f"captured={captured}"):
                losses.append(step(x, y))
        results.append(([loss.item() for loss in losses], model.state_dict(), optimizer.state_dict()))
    (losses, weights, state), (losses_, weights_, state_) = results
    assert losses == losses_ and len(set(losses)) == 6
    for name in weights:
        np.testing.assert_array_equal(weights_[name], weights[name])
    for n in state["state"]:
        for name in state["state"][n]:
            np.testing.assert_array_equal(state_["state"][n][name], state["state"][n][name])


def test_python_runs_while_recorded_only():
    calls = []

    @capture
    def step(x):
        calls.append(1)
        return x * 2

    x = gpuprop.ones(3)
    for i in range(5):
        assert step(x + i).tolist() == [2 * (1 + i)] * 3
    assert len(calls) == 3  # as it is, and recorded twice


def test_results_are_copies():
    step = capture(lambda x: {"a": x * 2, "b": (x.data + 1,)})
    outs = [step(gpuprop.ones(2) * i) for i in range(4)]
    assert [o["a"].tolist() for o in outs] == [[0, 0], [2, 2], [4, 4], [6, 6]]
    assert STRICT.to_numpy(outs[3]["b"][0]).tolist() == [4, 4]


def test_another_signature_is_recorded_anew():
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


def test_learning_rate_is_followed():
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
    with pytest.warns(UserWarning, match=r"run as it is, not captured: multiply.*was 1, then 2.*0-d array"):
        assert step(x).tolist() == [3, 3]
    assert step(x).tolist() == [4, 4]


def test_reading_a_value_is_refused_by_name():
    step = capture(lambda x: x * x.sum().item())
    step(gpuprop.ones(2))
    with pytest.raises(CaptureError, match="waits for the device"):
        step(gpuprop.ones(2))


def test_parameters_that_left_home():
    """What a user assigns between steps is not lost: the step is looked at again."""
    weights = []
    for captured in (False, True):
        model, optimizer, step = training(captured)
        for i, (x, y) in enumerate(batches(6)):
            if i == 4:
                model[0].weight.data = gpuprop.zeros((7, 5)).data
            step(x, y)
        weights.append(model.state_dict())
    for name in weights[0]:
        np.testing.assert_array_equal(weights[1][name], weights[0][name])


def test_numpy_runs_the_step_itself():
    calls = []
    with use("numpy"):
        step = capture(lambda x: calls.append(1) or x * 2)
        for _ in range(3):
            step(gpuprop.ones(2))
    assert len(calls) == 3
