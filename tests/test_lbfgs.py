"""LBFGS: its steps against a plain implementation, its state, and closures that fail."""

import copy
import pickle

import numpy as np
import pytest
from stepping import frozen, host
from test_load_state import check_all, optimizer_state

import gpuprop
from gpuprop import Parameter, optim
from gpuprop._core.registry import get_backend

MATRIX = np.random.default_rng(0).standard_normal((6, 4))
TARGET = np.random.default_rng(1).standard_normal(6)
OPTIONS = [{}, {"line_search_fn": "strong_wolfe"}, {"lr": 0.5, "history_size": 2},
           {"line_search_fn": "strong_wolfe", "max_iter": 3}]


class Problem:
    """A quartic function of two parameters; `calls` counts the evaluations."""

    def __init__(self, backend, dtype="float64", **options):
        values = np.random.default_rng(2).standard_normal(4).astype(dtype)
        self.params = [Parameter(backend.asarray(values[:3].reshape(3, 1))),
                       Parameter(backend.asarray(values[3]))]
        self.optimizer = optim.LBFGS(self.params, **options)
        self.matrix = gpuprop.tensor(backend.asarray(MATRIX.astype(dtype)))
        self.target = gpuprop.tensor(backend.asarray(TARGET.astype(dtype)))
        self.calls = 0

    def closure(self):
        self.calls += 1
        self.optimizer.zero_grad()
        p, q = self.params
        error = (self.matrix[:, :3] @ p)[:, 0] + self.matrix[:, 3] * q - self.target
        loss = (error * error).sum() + 0.1 * (error ** 4).sum()
        loss.backward()
        return loss

    def step(self, n=1):
        return [self.optimizer.step(self.closure).item() for _ in range(n)]


def newton_minimum():
    """The smallest loss."""
    problem = Problem(get_backend("numpy"), line_search_fn="strong_wolfe", max_iter=200)
    problem.step(3)
    return problem.closure().item()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-7), ("float32", 1e-3)])
def test_it_reaches_the_minimum(backend, options, dtype, rtol):
    problem = Problem(backend, dtype, **options)
    losses = problem.step(12)
    assert losses[-1] < losses[0]
    np.testing.assert_allclose(losses[-1], newton_minimum(), rtol=rtol)


def test_half_parameters(backend):
    problem = Problem(backend, "float16", line_search_fn="strong_wolfe", max_iter=5)
    assert problem.step(4)[-1] < 1.1 * newton_minimum()
    assert all(p.dtype == "float16" for p in problem.params)


def test_the_numbers_of_evaluations(backend):
    problem = Problem(backend, max_iter=7)
    problem.step()
    state = problem.optimizer.state[problem.params[0]]
    assert state["func_evals"] == problem.calls == 7 and state["n_iter"] == 7
    problem = Problem(backend, line_search_fn="strong_wolfe", max_eval=4)
    problem.step()
    assert 4 <= problem.calls <= 5


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_state_resumes(backend, options):
    one = Problem(backend, **options)
    one.step(2)
    saved = pickle.loads(pickle.dumps(one.optimizer.state_dict()))
    other = Problem(backend, **options)
    for p, q in zip(other.params, one.params, strict=True):
        p.data[...] = q.data
    other.optimizer.load_state_dict(saved)
    assert frozen(other.step(2)) == frozen(one.step(2))
    assert frozen(host(other.params)) == frozen(host(one.params))


def test_a_saved_state_loads(tmp_path):
    problem = Problem(get_backend("numpy"))
    problem.step()
    state = problem.optimizer.state_dict()
    gpuprop.save(tmp_path / "state.npz", state)
    other = Problem(get_backend("numpy"))
    other.optimizer.load_state_dict(gpuprop.load(tmp_path / "state.npz"))
    assert frozen(other.optimizer.state_dict()) == frozen(state)
    assert frozen(copy.deepcopy(problem.optimizer).state_dict()) == frozen(state)


def test_every_wrong_entry_changes_nothing():
    def make_optimizer():
        problem = Problem(get_backend("numpy"))
        problem.step()
        return problem.optimizer

    snapshot = lambda optimizer: (optimizer.state_dict(), host(optimizer._params()))
    check_all(make_optimizer, snapshot, optimizer_state)


@pytest.mark.parametrize("options", OPTIONS[:2], ids=str)
def test_a_closure_that_raises_changes_nothing(backend, options):
    problem = Problem(backend, max_iter=4, **options)
    problem.step()
    before = frozen([host(problem.params), problem.optimizer.state_dict()])
    end = problem.calls + 2

    def closure():
        if problem.calls == end:
            raise KeyError("mine")
        return problem.closure()

    with pytest.raises(KeyError, match="mine"):
        problem.optimizer.step(closure)
    assert frozen([host(problem.params), problem.optimizer.state_dict()]) == before


def test_parameters_without_gradient_stay(backend):
    problem = Problem(backend)
    other = Parameter(backend.asarray(np.ones(2)))
    frozen_one = Parameter(backend.asarray(np.ones(2)), requires_grad=False)
    problem.optimizer = optim.LBFGS([*problem.params, other, frozen_one])
    problem.step(2)
    assert (other.numpy() == 1).all() and (frozen_one.numpy() == 1).all()


def test_a_model_that_is_cast_goes_on(backend):
    problem = Problem(backend, line_search_fn="strong_wolfe", max_iter=2)
    problem.step()
    for p in problem.params:
        p.data = p.data.astype("float32")
    problem.matrix, problem.target = problem.matrix.float(), problem.target.float()
    losses = problem.step(20)
    np.testing.assert_allclose(losses[-1], newton_minimum(), rtol=1e-3)


def test_a_captured_step_runs_as_usual(backend):
    problem = Problem(backend, max_iter=2)
    step = gpuprop.capture(lambda: problem.optimizer.step(problem.closure))
    if backend.records:
        with pytest.warns(UserWarning, match="a step of LBFGS waits for the device"):
            step()
    losses = [step().item() for _ in range(3)]
    assert losses[-1] < losses[0]


def test_errors(backend):
    p, q = (Parameter(backend.asarray(np.ones(2, dtype))) for dtype in ("float32", "float64"))
    with pytest.raises(ValueError, match="one parameter group"):
        optim.LBFGS([{"params": [p]}, {"params": [q]}])
    optimizer = optim.LBFGS([p])
    with pytest.raises(ValueError, match="one parameter group"):
        optimizer.add_param_group({"params": [q]})
    with pytest.raises(TypeError, match="closure must be a function"):
        optimizer.step()
    with pytest.raises(ValueError, match="one dtype and device"):
        optim.LBFGS([p, q]).step(lambda: (p.sum() + q.sum()))
    with pytest.raises(ValueError, match="line_search_fn must be None or 'strong_wolfe'"):
        optim.LBFGS([p], line_search_fn="wolfe")


@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
def test_a_closure_that_changes_the_parameters(backend, line_search):
    """A step starts where the closure left them, as in style transfer, which clips an image."""
    p = Parameter(backend.asarray(np.array([0.5, 3.0, -4.0])))
    optimizer = optim.LBFGS([p], lr=0.1, max_iter=1, line_search_fn=line_search)

    def closure():
        p.array[...] = p.array.clip(-1, 1)
        optimizer.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    x, start = host(p), np.array([0.5, 1.0, -1.0])
    np.testing.assert_allclose(x, start * x[0] / start[0], rtol=1e-12)  # along the gradient
    assert 0 < x[1] < 1
