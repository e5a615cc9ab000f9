"""Learning rate schedules."""

import math
import pickle

import numpy as np
import pytest
from stepping import arena, make

import gpuprop
from gpuprop import Parameter, optim
from gpuprop._core.registry import get_backend
from gpuprop.optim import lr_scheduler


def rates(schedule, n, **options):
    optimizer = optim.SGD(make(get_backend("numpy")), lr=1.0, **options)
    scheduler = schedule(optimizer)
    found = []
    for _ in range(n):
        found.append(optimizer.param_groups[0]["lr"])
        assert scheduler.get_last_lr() == found[-1:]
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(("schedule", "formula"), [
    (lambda o: lr_scheduler.StepLR(o, 2, gamma=0.5), lambda t: 0.5 ** (t // 2)),
    (lambda o: lr_scheduler.MultiStepLR(o, [1, 3, 3], gamma=0.5),
     lambda t: 0.5 ** ((t >= 1) + 2 * (t >= 3))),
    (lambda o: lr_scheduler.ExponentialLR(o, 0.9), lambda t: 0.9 ** t),
    (lambda o: lr_scheduler.LinearLR(o, 0.5, 1.0, 4), lambda t: 0.5 + 0.5 * min(t, 4) / 4),
    (lambda o: lr_scheduler.ConstantLR(o, 0.1, 4), lambda t: 0.1 if t < 4 else 1),
    (lambda o: lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + t)), lambda t: 1 / (1 + t)),
    (lambda o: lr_scheduler.CosineAnnealingLR(o, 3, eta_min=0.1),
     lambda t: 0.1 + 0.9 * (1 + math.cos(math.pi * t / 3)) / 2),
    (lambda o: lr_scheduler.OneCycleLR(o, 2.0, total_steps=9, pct_start=1 / 3,
                                       anneal_strategy="linear", cycle_momentum=False),
     lambda t: 0.08 + 1.92 * t / 2 if t <= 2 else 2 + (8e-6 - 2) * (t - 2) / 6),
    (lambda o: lr_scheduler.MultiplicativeLR(o, lambda t: t / (1 + t)), lambda t: 1 / (1 + t)),
    (lambda o: lr_scheduler.PolynomialLR(o, 5, power=2), lambda t: (1 - min(t, 5) / 5) ** 2),
    (lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2, 2, eta_min=0.1),
     lambda t: 0.1 + 0.45 * (1 + math.cos(math.pi * (
         t / 2 if t < 2 else (t - 2) / 4 if t < 6 else (t - 6) / 8)))),
    (lambda o: lr_scheduler.CyclicLR(o, 0.5, 1.5, 2, mode="triangular2", cycle_momentum=False),
     lambda t: 0.5 + abs(t % 4 - 4 * (t % 4 > 2)) / 2 / 2 ** (t // 4)),
    (lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.1, 4), lr_scheduler.ExponentialLR(o, 0.9)]),
     lambda t: (0.1 if t < 4 else 1) * 0.9 ** t),
    (lambda o: lr_scheduler.SequentialLR(  # warm-up and cosine
        o, [lr_scheduler.LinearLR(o, 0.25, total_iters=3),
            lr_scheduler.CosineAnnealingLR(o, 5)], [3]),
     lambda t: 0.25 + 0.25 * t if t < 3 else (1 + math.cos(math.pi * (t - 3) / 5)) / 2),
    (lambda o: lr_scheduler.SequentialLR(o, [  # nested schedules restart, too
        lr_scheduler.SequentialLR(
            o, [lr_scheduler.ExponentialLR(o, 0.5), lr_scheduler.ExponentialLR(o, 0.9)], [2]),
        lr_scheduler.ChainedScheduler(
            [lr_scheduler.ExponentialLR(o, 0.1), lr_scheduler.StepLR(o, 1)])], [5]),
     lambda t: 0.5 ** t if t < 2 else 0.9 ** (t - 2) if t < 5 else 0.01 ** (t - 5)),
])
def test_schedules(schedule, formula):
    np.testing.assert_allclose(rates(schedule, 8), [formula(t) for t in range(8)], rtol=1e-12)


def test_warm_restarts_go_to_an_epoch():
    optimizer = optim.SGD(make(get_backend("numpy")), lr=1.0)
    scheduler = lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 2, 2)
    for epoch, (t, period) in {0.5: (0.5, 2), 5: (3, 4), 6.5: (0.5, 8), 1: (1, 2)}.items():
        scheduler.step(epoch)
        expected = (1 + math.cos(math.pi * t / period)) / 2
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected, rel=1e-12)
        assert scheduler.last_epoch == int(epoch)
    for wrong in (-1, "1", math.nan, True):
        with pytest.raises((TypeError, ValueError), match="epoch must be a number"):
            scheduler.step(wrong)


@pytest.mark.parametrize("make_optimizer", [
    lambda ps: optim.SGD(ps, momentum=0.5), lambda ps: optim.Adam(ps, betas=(0.5, 0.75))])
def test_cyclic_cycles_the_momentum_inversely(make_optimizer):
    optimizer = make_optimizer(make(get_backend("numpy")))
    scheduler = lr_scheduler.CyclicLR(optimizer, 0.25, 1.25, 2, 4)
    group = optimizer.param_groups[0]
    for lr in (0.25, 0.75, 1.25, 1.0, 0.75, 0.5, 0.25, 0.75):
        momentum = group["betas"][0] if "betas" in group else group["momentum"]
        assert (group["lr"], momentum) == pytest.approx((lr, 0.9 - 0.1 * (lr - 0.25)), rel=1e-12)
        scheduler.step()
    with pytest.raises(ValueError, match="set cycle_momentum=False"):
        lr_scheduler.CyclicLR(optim.Adagrad(make(get_backend("numpy"))), 0.1, 0.2)


def test_one_cycle_cycles_the_momentum_inversely():
    optimizer = optim.Adam(make(get_backend("numpy")))
    scheduler = lr_scheduler.OneCycleLR(optimizer, 0.1, epochs=3, steps_per_epoch=3,
                                        pct_start=1 / 3)
    betas = []
    for _ in range(9):
        betas.append(optimizer.param_groups[0]["betas"][0])
        scheduler.step()
    np.testing.assert_allclose([betas[0], betas[2], betas[8]], [0.95, 0.85, 0.95])
    beta1 = optimizer.param_groups[0]["betas"][0]
    np.testing.assert_allclose(float(arena(optimizer).scalars[1]), beta1)
    with pytest.raises(ValueError, match="Tried to step 10 times"):
        scheduler.step()


def test_plateau():
    optimizer = optim.SGD(make(get_backend("numpy")), lr=1.0)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1, cooldown=1)
    found = []
    for loss in [1.0, 1.0, 1.0, 1.0, 1.0, 0.5, gpuprop.tensor(0.49)]:
        scheduler.step(loss)
        found.append(optimizer.param_groups[0]["lr"])
    assert found == [1, 1, 0.5, 0.5, 0.5, 0.5, 0.5]
    with pytest.raises(ValueError, match=r"factor must be .*\[0, 1\)"):
        lr_scheduler.ReduceLROnPlateau(optimizer, factor=1.0)


def test_schedules_resume():
    optimizer = optim.SGD(make(get_backend("numpy")), lr=1.0)
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, 5)
    for _ in range(3):
        scheduler.step()
    saved = pickle.loads(pickle.dumps((optimizer.state_dict(), scheduler.state_dict())))
    other = optim.SGD(make(get_backend("numpy")), lr=1.0)
    resumed = lr_scheduler.CosineAnnealingLR(other, 5)
    other.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    for _ in range(4):
        scheduler.step()
        resumed.step()
        assert resumed.get_last_lr() == scheduler.get_last_lr()
        assert resumed.last_epoch == scheduler.last_epoch
    third = optim.SGD(make(get_backend("numpy")), lr=1.0)
    with pytest.raises(KeyError, match="initial_lr"):
        lr_scheduler.StepLR(third, 3, last_epoch=2)
    with pytest.raises(TypeError, match="must be an Optimizer"):
        lr_scheduler.StepLR("sgd", 3)


@pytest.mark.parametrize(("make_schedule", "error", "message"), [
    (lambda o, other: lr_scheduler.SequentialLR(o, [], []), ValueError, "at least one scheduler"),
    (lambda o, other: lr_scheduler.ChainedScheduler([]), ValueError, "at least one scheduler"),
    (lambda o, other: lr_scheduler.SequentialLR(o, [lr_scheduler.StepLR(o, 3)], [2]), ValueError,
     "one more than .* but got 1 and 1"),
    (lambda o, other: lr_scheduler.SequentialLR(o, [lr_scheduler.StepLR(other, 3)], []), ValueError,
     "same optimizer.*StepLR at index 0"),
    (lambda o, other: lr_scheduler.ChainedScheduler(
        [lr_scheduler.StepLR(o, 3), lr_scheduler.ReduceLROnPlateau(o)]),
     ValueError, "`ReduceLROnPlateau`.* metric.* index 1"),
    (lambda o, other: lr_scheduler.SequentialLR(o, [0.1], []), TypeError,
     "index 0 must be an LRScheduler.* float"),
    (lambda o, other: lr_scheduler.ConstantLR(o, 1.5), ValueError, r"factor .*\[0, 1\]"),
    (lambda o, other: lr_scheduler.StepLR(o, 0), ValueError, "step_size .*at least 1, got 0"),
    (lambda o, other: lr_scheduler.CosineAnnealingLR(o, 0), ValueError, "T_max .*least 1, got 0"),
])
def test_arguments_that_schedules_reject(make_schedule, error, message):
    optimizers = [optim.SGD(make(get_backend("numpy")), lr=1.0) for _ in range(2)]
    with pytest.raises(error, match=message):
        make_schedule(*optimizers)


@pytest.mark.parametrize(("make_schedule", "expected"), [
    (lambda o: lr_scheduler.ConstantLR(o, factor=0, total_iters=2), [0, 0, 1, 1, 1]),
    (lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0, 9), lr_scheduler.ConstantLR(o, 0, 1)], [2]),
     [0, 0, 0, 1, 1]),
    (lambda o: lr_scheduler.OneCycleLR(
        o, 1, 4, pct_start=1.0, anneal_strategy="linear", cycle_momentum=False, div_factor=4),
     [0.25, 0.5, 0.75, 1, 1 / 4e4]),
])
def test_schedules_without_division_by_zero(make_schedule, expected):
    optimizer = optim.SGD(make(get_backend("numpy")), lr=1.0)
    scheduler = make_schedule(optimizer)
    found = []
    for _ in expected:
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        if len(found) < len(expected):
            scheduler.step()
    assert found == pytest.approx(expected)


def test_combined_schedules_resume_from_files(tmp_path):
    def made():
        optimizer = optim.SGD(make(get_backend("numpy")), lr=1.0)
        parts = [lr_scheduler.LinearLR(optimizer), lr_scheduler.MultiStepLR(optimizer, [2, 3])]
        return optimizer, lr_scheduler.SequentialLR(optimizer, parts, [3])

    (optimizer, scheduler), (other, resumed) = made(), made()
    for _ in range(4):
        scheduler.step()
    state = {"optimizer": optimizer.state_dict(), "schedule": scheduler.state_dict()}
    gpuprop.save(tmp_path / "state.npz", state)
    saved = gpuprop.load(tmp_path / "state.npz")
    other.load_state_dict(saved["optimizer"])
    resumed.load_state_dict(saved["schedule"])
    for _ in range(4):
        scheduler.step()
        resumed.step()
        assert resumed.get_last_lr() == scheduler.get_last_lr()
        assert resumed.last_epoch == scheduler.last_epoch


def test_a_linear_schedule_to_0_ends_at_0():
    """Rounding must not make the last learning rate negative."""
    for total in range(1, 60):
        for start in (1.0, 0.7, 1 / 3):
            optimizer = optim.SGD([Parameter([1.0])], lr=0.1)
            schedule = lr_scheduler.LinearLR(optimizer, start, 0.0, total)
            for _ in range(total + 2):
                schedule.step()
            assert 0 <= optimizer.param_groups[0]["lr"] < 1e-15
