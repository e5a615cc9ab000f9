"""Averaged models, the statistics of their batch norms, and the schedule of SWA."""

import numpy as np
import pytest
from stepping import frozen

import gpuprop
from gpuprop import nn, optim
from gpuprop._core.registry import backend_of
from gpuprop.optim import swa_utils
from gpuprop.testing import no_syncs

RATES = {"swa": lambda n: 1 / (n + 1), "ema": lambda n: 1 if n == 0 else 0.25}
WAYS = {
    ("default", "swa"): {},
    ("avg_fn", "swa"): {"avg_fn": swa_utils.get_swa_avg_fn()},
    ("avg_fn", "ema"): {"avg_fn": swa_utils.get_ema_avg_fn(0.75)},
    ("multi_avg_fn", "swa"): {"multi_avg_fn": swa_utils.get_swa_multi_avg_fn()},
    ("multi_avg_fn", "ema"): {"multi_avg_fn": swa_utils.get_ema_multi_avg_fn(0.75)},
    ("users", "ema"): {"avg_fn": lambda averaged, current, n: 0.75 * averaged + 0.25 * current},
    ("users in place", "swa"): {"multi_avg_fn": lambda averaged, current, n: [
        a.data.__setitem__(..., (a + (c - a) / (n + 1)).data)
        for a, c in zip(averaged, current, strict=True)]},
}


def make_model(dtype="float64"):
    gpuprop.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).to(dtype=dtype)


def change(model, i):
    """Other values in all parameters and buffers."""
    for p in (*model.parameters(), *model.buffers()):
        value = p.numpy() + i + 1
        p.data[...] = backend_of(p.data).asarray(value.astype(p.dtype))


@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize(("way", "kind"), WAYS)
def test_averages(backend, way, kind, use_buffers):
    model = make_model()
    averaged = swa_utils.AveragedModel(model, use_buffers=use_buffers, **WAYS[way, kind])
    expected: dict = {}
    for n in range(4):
        change(model, n)
        averaged.update_parameters(model)
        for name, value in model.state_dict().items():
            is_averaged = use_buffers or name in dict(model.named_parameters())
            rate = RATES[kind](n) if is_averaged else 1
            old = expected.get(name, 0)
            new = (1 - rate) * old + rate * value
            expected[name] = new.astype(value.dtype)  # integers are truncated
    state = averaged.state_dict()
    assert state.pop("n_averaged") == 4
    for name, value in expected.items():
        np.testing.assert_allclose(state[f"module.{name}"], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_updates_do_not_wait_and_are_captured(backend, dtype):
    runs = []
    for wrap in (gpuprop.capture, lambda step: step):
        model = make_model(dtype)
        averaged = swa_utils.AveragedModel(
            model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9))
        optimizer = optim.SGD(model.parameters(), lr=0.1)

        @wrap
        def step(x, model=model, averaged=averaged, optimizer=optimizer):
            optimizer.zero_grad()
            (model(x) ** 2).sum().backward()
            optimizer.step()
            averaged.update_parameters(model)

        for i in range(6):
            step(gpuprop.tensor(np.random.default_rng(i).standard_normal((4, 3)).astype(dtype)))
        with no_syncs(backend, "an update"):
            averaged.update_parameters(model)
        runs.append(frozen(averaged.state_dict()))
    assert runs[0] == runs[1]


def test_the_state_resumes(backend):
    model = make_model()
    one, other = (swa_utils.AveragedModel(model) for _ in range(2))
    for i in range(3):
        change(model, i)
        one.update_parameters(model)
    other.load_state_dict(one.state_dict())
    for averaged in (one, other):
        averaged.update_parameters(model)
    assert frozen(one.state_dict()) == frozen(other.state_dict())
    x = gpuprop.ones(4, 3, dtype="float64")
    np.testing.assert_array_equal(one.eval()(x).numpy(), one.module(x).numpy())


def test_the_copy_may_be_on_another_backend(backend):
    model = make_model()
    averaged = swa_utils.AveragedModel(model, device="numpy")
    for i in range(2):
        change(model, i)
        averaged.update_parameters(model)
    assert all(type(p.data) is np.ndarray for p in averaged.parameters())
    np.testing.assert_allclose(averaged.module[0].weight.numpy(),
                               model[0].weight.numpy() - 1, rtol=1e-12)


def test_backward_after_an_update_raises(backend):
    model = make_model()
    averaged = swa_utils.AveragedModel(model)
    loss = (averaged(gpuprop.ones(4, 3, dtype="float64")) ** 2).sum()
    averaged.update_parameters(model)
    with pytest.raises(RuntimeError, match="changed"):
        loss.backward()


def test_update_bn(backend):
    model = make_model()
    model.eval()
    model[1].momentum = 0.3
    batches = [np.random.default_rng(i).standard_normal((5, 3)) for i in range(3)]
    loader = [[gpuprop.tensor(b), "label"] for b in batches]
    swa_utils.update_bn(loader, model)
    outputs = [model[0](gpuprop.tensor(b)).numpy() for b in batches]
    np.testing.assert_allclose(model[1].running_mean.numpy(),
                               np.mean([y.mean(0) for y in outputs], 0), rtol=1e-6)
    np.testing.assert_allclose(model[1].running_var.numpy(),
                               np.mean([y.var(0, ddof=1) for y in outputs], 0), rtol=1e-6)
    assert model[1].momentum == 0.3 and not model.training and not model[1].training

    def broken():
        yield gpuprop.tensor(batches[0])
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        swa_utils.update_bn(broken(), model)
    assert model[1].momentum == 0.3 and not model.training
    swa_utils.update_bn(broken(), nn.Linear(3, 2))  # no batch norm: nothing is read


def test_errors(backend):
    model = make_model()
    for make in (swa_utils.get_ema_avg_fn, swa_utils.get_ema_multi_avg_fn):
        for decay in (-0.1, 1.1, float("nan"), "0.9", None):
            with pytest.raises((TypeError, ValueError), match="decay must be a number"):
                make(decay)
    with pytest.raises(ValueError, match="only one of avg_fn and multi_avg_fn"):
        swa_utils.AveragedModel(model, avg_fn=len, multi_avg_fn=len)
    for options in ({"avg_fn": 5}, {"multi_avg_fn": 5}, {"use_buffers": "yes"}, {"device": "gpu9"}):
        with pytest.raises((TypeError, ValueError), match=f"{next(iter(options))}|backend|gpu9"):
            swa_utils.AveragedModel(model, **options)
    with pytest.raises(TypeError, match="model must be a Module"):
        swa_utils.AveragedModel(model.parameters())
    averaged = swa_utils.AveragedModel(model)
    before = frozen(averaged.state_dict())
    for other in (nn.Linear(3, 2), nn.Sequential(nn.Linear(3, 1), nn.BatchNorm1d(1))):
        with pytest.raises(ValueError, match="are not those of the model that was copied"):
            averaged.update_parameters(other)
    for wrong in (None, 5):
        with pytest.raises(TypeError, match="model must be a Module"):
            averaged.update_parameters(wrong)
        with pytest.raises(TypeError, match="loader must be an iterable"):
            swa_utils.update_bn(wrong, model)
        with pytest.raises(TypeError, match="model must be a Module"):
            swa_utils.update_bn([], wrong)
    assert frozen(averaged.state_dict()) == before


def test_the_schedule_anneals_and_stays(backend):
    optimizer = optim.SGD([{"params": [nn.Parameter(np.ones(2))]},
                           {"params": [nn.Parameter(np.ones(2))], "lr": 0.5}], lr=1.0)
    schedule = swa_utils.SWALR(optimizer, [0.2, 0.1], 4, "linear")
    found = []
    for _ in range(7):
        found.append([group["lr"] for group in optimizer.param_groups])
        schedule.step()
    expected = [[1 - 0.8 * t, 0.5 - 0.4 * t] for t in (0, 0.25, 0.5, 0.75, 1, 1, 1)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
