"""Every sample of PyTorch's optim_db whose optimizer exists here.

After ten steps, values and states equal PyTorch's, and each library continues from the other's
state.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import refusals
import torch
from cases import Record, compare_samples, must_raise
from compare import Difference, assert_close, to_gpuprop, without_warnings
from torch.testing._internal.common_optimizers import OptimizerErrorEnum, OptimizerInfo, optim_db
from torch.utils._pytree import tree_map

from gpuprop import Parameter, Tensor, optim

HERE = [info for info in optim_db if hasattr(optim, info.optim_cls.__name__)]
NAMES = [info.optim_cls.__name__ for info in HERE]
SHAPES = (3, 4), (5, 2), (4,), ()
STEPS = 10
TOLERANCE = 1e-12


def samples(info: OptimizerInfo) -> Iterator[dict[str, Any]]:
    # "mps" gives the samples for the CPU, and a tensor as lr.
    for sample in info.optim_inputs_func(device="mps", dtype=torch.float64):
        yield tree_map(lambda v: v.double() if isinstance(v, torch.Tensor) else v, sample.kwargs)


@pytest.fixture(autouse=True)
def scalars_are_float64() -> Iterator[None]:
    """Scalar states of PyTorch have the default dtype, and Muon computes in bfloat16."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
        torch.set_default_dtype(torch.float64)
        yield
        torch.set_default_dtype(torch.float32)


class Problem:
    """Parameters in both libraries, with a gradient at each step; one has none in every third."""

    def __init__(self, name: str, kwargs: dict[str, Any], tolerance: float) -> None:
        self.tolerance = tolerance
        self.random = np.random.default_rng(0)
        self.is_sparse = name == "SparseAdam"
        self.has_closure = name == "LBFGS"
        shapes = [s for s in SHAPES if len(s) == 2] if name == "Muon" else SHAPES
        if self.is_sparse:
            shapes = [s for s in SHAPES if s]
        values = [self.random.standard_normal(s) for s in shapes]
        self.theirs = [torch.nn.Parameter(torch.tensor(v)) for v in values]
        self.ours = [Parameter(v.copy()) for v in values]
        self.their_optimizer = without_warnings(getattr(torch.optim, name), self.theirs, **kwargs)
        self.our_optimizer = getattr(optim, name)(self.ours, **tree_map(to_gpuprop, kwargs))

    def step(self, number: int) -> None:
        if self.has_closure:
            self.minimize(number)
            return
        for i, (t, o) in enumerate(zip(self.theirs, self.ours, strict=True)):
            g = self.random.standard_normal(t.shape)
            absent = i == 1 and number % 3 == 2
            if self.is_sparse:
                g[self.random.permutation(len(g))[:number % len(g)]] = 0
            their_g = torch.tensor(g).to_sparse(1) if self.is_sparse else torch.tensor(g)
            t.grad, o.grad = (None, None) if absent else (their_g, g)
        without_warnings(self.their_optimizer.step)
        self.our_optimizer.step()

    def minimize(self, number: int) -> None:
        """Step with closures of a function whose minimum is 0, where no rounding grows."""
        random = np.random.default_rng(0)
        terms = [np.asarray(random.uniform(0.5, 2, t.shape)) for t in self.theirs]

        def closure(optimizer: Any, params: list, to_tensor: Any) -> Any:
            optimizer.zero_grad()
            loss = 0
            for i, (p, a) in enumerate(zip(params, map(to_tensor, terms), strict=True)):
                if i != 1 or number % 3 != 2:
                    loss = loss + (a * p ** 2 + 0.1 * p ** 4).sum()
            loss.backward()
            return loss

        without_warnings(self.their_optimizer.step, partial(
            closure, self.their_optimizer, self.theirs, torch.tensor))
        self.our_optimizer.step(partial(closure, self.our_optimizer, self.ours, Tensor))
        self.check()  # at each step, because all converge to one point

    def check(self) -> None:
        for i, (t, o) in enumerate(zip(self.theirs, self.ours, strict=True)):
            assert_close(f"parameter {i}", o.data, t, self.tolerance)
        same_state(self.our_optimizer.state_dict(), self.their_optimizer.state_dict(),
                   self.tolerance)


def same_state(mine: dict[str, Any], theirs: dict[str, Any], tolerance: float) -> None:
    """Raise if two state dicts differ."""
    if mine["state"].keys() != theirs["state"].keys():
        raise Difference(f"states of parameters {[*mine['state']]}, not {[*theirs['state']]}")
    for i, state in theirs["state"].items():
        state = {key: value for key, value in state.items() if key != "al"}  # scratch of LBFGS
        if set(mine["state"][i]) != {k for k, v in state.items() if v is not None}:
            raise Difference(f"state {i} holds {sorted(mine['state'][i])}, not {sorted(state)}")
        for key in mine["state"][i]:
            value = np.asarray(tree_map(np.asarray, state[key]))
            own = np.asarray(mine["state"][i][key], value.dtype)
            assert_close(f"state {i}, {key}", own, value, tolerance)
    groups = zip(mine["param_groups"], theirs["param_groups"], strict=True)
    for i, (own, group) in enumerate(groups):
        missing = set(group) - set(own) - set(refusals.LEFT_OUT)
        if missing:
            raise Difference(f"group {i} lacks {sorted(missing)}")
        for key in set(group) & set(own):
            expected = np.asarray(tree_map(to_gpuprop, group[key]), object)
            if np.any(np.asarray(own[key], object) != expected):
                raise Difference(f"group {i}, {key}: {own[key]}, not {group[key]}")


def compare(name: str, kwargs: dict[str, Any], tolerance: float = TOLERANCE) -> None:
    problem = Problem(name, kwargs, tolerance)
    for number in range(STEPS):
        problem.step(number)
    problem.check()
    problem.our_optimizer = getattr(optim, name)(problem.ours, **tree_map(to_gpuprop, kwargs))
    state = tree_map(lambda v: v.numpy() if isinstance(v, torch.Tensor) else v,
                     problem.their_optimizer.state_dict())
    for t, o in zip(problem.theirs, problem.ours, strict=True):
        o.data[...] = t.detach().numpy()
    problem.our_optimizer.load_state_dict(state)  # continue from PyTorch's state and parameters
    problem.step(STEPS)
    problem.check()
    state = tree_map(lambda v: torch.tensor(v) if isinstance(v, np.ndarray) else v,
                     problem.our_optimizer.state_dict())
    problem.their_optimizer = without_warnings(
        getattr(torch.optim, name), problem.theirs, **kwargs)
    for t, o in zip(problem.theirs, problem.ours, strict=True):
        t.data.copy_(torch.from_numpy(o.data))
    problem.their_optimizer.load_state_dict(state)
    problem.step(STEPS + 1)
    problem.check()


@pytest.mark.parametrize("info", HERE, ids=NAMES)
def test_optimizer(info: OptimizerInfo, record_property: Record) -> None:
    name = info.optim_cls.__name__
    counts = compare_samples(name, samples(info), partial(compare, name), refusals.OPTIMIZERS)
    record_property("optimizers", (name, counts))


@pytest.mark.parametrize("info", HERE, ids=NAMES)
def test_errors(info: OptimizerInfo) -> None:
    """Arguments for which PyTorch's optimizer raises make ours raise, too."""
    name = info.optim_cls.__name__

    def check_raises(case: Any) -> None:
        params, kwargs, stage = case
        default = [Parameter(np.ones((2, 2)))]

        def make() -> Any:  # a complex or sparse parameter is refused at once
            given = default if params is None else tree_map(parameter, params)
            return getattr(optim, name)(given, **tree_map(to_gpuprop, kwargs))

        is_late = stage is not OptimizerErrorEnum.CONSTRUCTION_ERROR
        must_raise(lambda: make().step() if is_late else make())

    made: dict[int, Parameter] = {}

    def parameter(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return made.setdefault(id(value), Parameter(value.detach().numpy()))

    errors = [e for e in info.optim_error_inputs_func("cpu", torch.float64)
              if issubclass(e.error_type, Exception)]
    cases = [(e.optimizer_error_input.params, e.optimizer_error_input.kwargs, e.error_on)
             for e in errors]
    compare_samples(name, cases, check_raises, refusals.OPTIMIZER_ERRORS)


def test_exclusions_name_optimizers_of_both_libraries() -> None:
    """The tests above check that each excluded sample does fail."""
    assert {r.name for r in [*refusals.OPTIMIZERS, *refusals.OPTIMIZER_ERRORS]} - {*NAMES} == set()


def test_absent(record_property: Record) -> None:
    absent = [info.optim_cls.__name__ for info in optim_db if info not in HERE]
    record_property("absent optimizers", absent)
