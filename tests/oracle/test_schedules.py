"""Every learning rate schedule of PyTorch: two hundred epochs, resumed after a hundred."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from cases import Record
from compare import without_warnings

from gpuprop import Parameter, optim
from gpuprop.optim import lr_scheduler

EPOCHS = 200
SWALR = {torch.optim.lr_scheduler: torch.optim.swa_utils.SWALR,
         lr_scheduler: optim.swa_utils.SWALR}
SAMPLES: dict[str, list[Any]] = {  # options, or a function that makes the schedule
    "ChainedScheduler": [lambda s, o: s.ChainedScheduler([s.ConstantLR(o, 0.1, 9),
                                                          s.ExponentialLR(o, 0.9)]),
                         lambda s, o: s.ChainedScheduler([s.StepLR(o, 7), s.LinearLR(o)], o)],
    "ConstantLR": [{}, {"factor": 0.1, "total_iters": 12}, {"factor": 1.0, "total_iters": 0}],
    "CosineAnnealingLR": [{"T_max": 10}, {"T_max": 7, "eta_min": 0.01}],
    "CosineAnnealingWarmRestarts": [{"T_0": 7}, {"T_0": 3, "T_mult": 2, "eta_min": 0.01}],
    "CyclicLR": [{"base_lr": 0.01, "max_lr": 0.5, "step_size_up": 7},
                 {"base_lr": [0.01, 0.02], "max_lr": [0.5, 0.6], "step_size_up": 4,
                  "step_size_down": 9, "mode": "triangular2", "base_momentum": [0.5, 0.6]},
                 {"base_lr": 0.01, "max_lr": 0.5, "step_size_up": 11, "mode": "exp_range",
                  "gamma": 0.97, "cycle_momentum": False},
                 {"base_lr": 0.01, "max_lr": 0.5, "step_size_up": 5, "scale_mode": "iterations",
                  "scale_fn": lambda x: 1 / (1 + x)}],
    "ExponentialLR": [{"gamma": 0.9}],
    "LambdaLR": [{"lr_lambda": lambda t: 1 / (1 + t)},
                 {"lr_lambda": [lambda t: 2**-t, lambda t: 0.9**t]}],
    "LinearLR": [{}, {"start_factor": 0.2, "end_factor": 0.7, "total_iters": 11}],
    "MultiplicativeLR": [{"lr_lambda": lambda t: 1 - 1 / (9 + t)},
                         {"lr_lambda": [lambda t: 0.99, lambda t: 1.0]}],
    "MultiStepLR": [{"milestones": [3, 8, 8, 30]}, {"milestones": [0, 5], "gamma": 0.5}],
    "OneCycleLR": [{"max_lr": 1.0, "total_steps": EPOCHS + 1},
                   {"max_lr": [1.0, 2.0], "epochs": 25, "steps_per_epoch": 9,
                    "anneal_strategy": "linear"},
                   {"max_lr": 1.0, "total_steps": 260, "three_phase": True, "pct_start": 0.2,
                    "cycle_momentum": False}],
    "PolynomialLR": [{}, {"total_iters": 90, "power": 2.5}],
    "ReduceLROnPlateau": [{}, {"mode": "max", "factor": 0.5, "patience": 2, "cooldown": 3,
                               "min_lr": 0.01},
                          {"patience": 0, "threshold": 0.2, "threshold_mode": "abs", "eps": 0.01}],
    "SequentialLR": [
        lambda s, o: s.SequentialLR(o, [s.LinearLR(o, 0.1, total_iters=6),
                                        s.CosineAnnealingLR(o, 34)], [6]),
        lambda s, o: s.SequentialLR(o, [s.ConstantLR(o, 0.1, 30), s.MultiStepLR(o, [0, 4]),
                                        s.StepLR(o, 5), s.ExponentialLR(o, 0.9),
                                        s.LambdaLR(o, lambda t: 2**-t)], [1, 8, 25, 33]),
        lambda s, o: s.SequentialLR(o, [s.ChainedScheduler([s.LinearLR(o), s.ConstantLR(o, 0.9)]),
                                        s.OneCycleLR(o, 1.0, total_steps=200)], [11])],
    "SWALR": [lambda s, o: SWALR[s](o, 0.05), lambda s, o: SWALR[s](o, [0.05, 0.5], 150, "linear"),
              lambda s, o: SWALR[s](o, 0.05, 0)],
    "StepLR": [{"step_size": 4}, {"step_size": 1, "gamma": 0.99}],
}
BOTH = sorted(n for n, v in vars(lr_scheduler).items() if isinstance(v, type) and n[0] != "_"
              and issubclass(v, lr_scheduler.LRScheduler) and hasattr(torch.optim.lr_scheduler, n))
BOTH.remove("LRScheduler")
BOTH.insert(BOTH.index("SequentialLR"), "SWALR")


def groups(parameter: Any) -> list[dict[str, Any]]:
    return [{"params": [parameter()]}, {"params": [parameter()], "lr": 0.3, "momentum": 0.8}]


def course(library: Any, schedulers: Any, parameter: Any, name: str,
           options: Any) -> list[list[float]]:
    """Learning rates and momenta per epoch; half way a new schedule loads the old one's state."""

    def make_schedule(optimizer: Any) -> Any:
        if callable(options):
            return options(schedulers, optimizer)
        return getattr(schedulers, name)(optimizer, **options)

    make_optimizer = lambda: library.SGD(groups(parameter), lr=0.1, momentum=0.9)
    optimizer = make_optimizer()
    scheduler = make_schedule(optimizer)
    loss = np.random.default_rng(0).random(EPOCHS)
    found = []
    for epoch in range(EPOCHS):
        optimizer.step()
        scheduler.step(*[loss[epoch]] * (name == "ReduceLROnPlateau"))
        found.append([group[option] for group in optimizer.param_groups
                      for option in ("lr", "momentum")])
        assert scheduler.get_last_lr() == [group["lr"] for group in optimizer.param_groups]
        if epoch == EPOCHS // 2:
            states = optimizer.state_dict(), scheduler.state_dict()
            optimizer = make_optimizer()
            scheduler = make_schedule(optimizer)
            optimizer.load_state_dict(states[0])
            scheduler.load_state_dict(states[1])
    return found


@pytest.mark.parametrize("name", BOTH)
def test_schedule(name: str, record_property: Record) -> None:
    for options in SAMPLES[name]:
        theirs = without_warnings(course, torch.optim, torch.optim.lr_scheduler,
                                  lambda: torch.nn.Parameter(torch.zeros(2)), name, options)
        mine = course(optim, lr_scheduler, lambda: Parameter(np.zeros(2)), name, options)
        np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=0)
    record_property("schedules", (name, len(SAMPLES[name])))


@pytest.mark.parametrize("name", BOTH)
def test_pytorchs_state_loads(name: str) -> None:
    """A schedule that loads PyTorch's state continues as PyTorch's."""
    for options in SAMPLES[name]:
        runs = []
        for library, parameter in ((torch.optim, lambda: torch.nn.Parameter(torch.zeros(2))),
                                   (optim, lambda: Parameter(np.zeros(2)))):
            optimizer = library.SGD(groups(parameter), lr=0.1, momentum=0.9)
            schedulers = library.lr_scheduler
            runs.append((optimizer, without_warnings(options, schedulers, optimizer)
                         if callable(options)
                         else without_warnings(getattr(schedulers, name), optimizer, **options)))
        (theirs, their_schedule), (ours, our_schedule) = runs
        step = lambda schedule: without_warnings(
            schedule.step, *[1.0] * (name == "ReduceLROnPlateau"))
        for _ in range(12):
            step(their_schedule)
        ours.load_state_dict(theirs.state_dict())
        our_schedule.load_state_dict(their_schedule.state_dict())
        for _ in range(12):
            step(their_schedule)
            step(our_schedule)
            np.testing.assert_allclose(our_schedule.get_last_lr(), their_schedule.get_last_lr(),
                                       rtol=1e-12)


def test_every_schedule_has_samples() -> None:
    assert sorted(SAMPLES) == BOTH
