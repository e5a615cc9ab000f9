"""Schedules of the learning rate."""

import math
import pickle

import numpy as np
import pytest
from stepping import arena, make

import gpuprop
from gpuprop import optim
from gpuprop.backend import get_backend
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
    (lambda o: lr_scheduler.MultiStepLR(o, [1, 3, 3], gamma=0.5), lambda t: 0.5 ** ((t >= 1) + 2 * (t >= 3))),
    (lambda o: lr_scheduler.ExponentialLR(o, 0.9), lambda t: 0.9 ** t),
    (lambda o: lr_scheduler.LinearLR(o, 0.5, 1.0, 4), lambda t: 0.5 + 0.5 * min(t, 4) / 4),
    (lambda o: lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + t)), lambda t: 1 / (1 + t)),
    (lambda o: lr_scheduler.CosineAnnealingLR(o, 3, eta_min=0.1),
     lambda t: 0.1 + 0.9 * (1 + math.cos(math.pi * t / 3)) / 2),
    (lambda o: lr_scheduler.OneCycleLR(o, 2.0, total_steps=9, pct_start=1 / 3, anneal_strategy="linear",
                                       cycle_momentum=False),
     lambda t: 0.08 + 1.92 * t / 2 if t <= 2 else 2 + (8e-6 - 2) * (t - 2) / 6),
])
def test_schedules(schedule, formula):
    np.testing.assert_allclose(rates(schedule, 8), [formula(t) for t in range(8)], rtol=1e-12)


def test_one_cycle_turns_the_momentum_around():
    optimizer = optim.Adam(make(get_backend("numpy")))
    scheduler = lr_scheduler.OneCycleLR(optimizer, 0.1, epochs=3, steps_per_epoch=3, pct_start=1 / 3)
    betas = []
    for _ in range(9):
        betas.append(optimizer.param_groups[0]["betas"][0])
        scheduler.step()
    np.testing.assert_allclose([betas[0], betas[2], betas[8]], [0.95, 0.85, 0.95])
    np.testing.assert_allclose(float(arena(optimizer).options[1]), optimizer.param_groups[0]["betas"][0])
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
    with pytest.raises(ValueError, match="Factor"):
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
        assert resumed.get_last_lr() == scheduler.get_last_lr() and resumed.last_epoch == scheduler.last_epoch
    third = optim.SGD(make(get_backend("numpy")), lr=1.0)
    with pytest.raises(KeyError, match="initial_lr"):
        lr_scheduler.StepLR(third, 3, last_epoch=2)
    with pytest.raises(TypeError, match="not an Optimizer"):
        lr_scheduler.StepLR("sgd", 3)
