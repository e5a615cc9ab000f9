"""GradScaler: the scale, skipped steps, captured steps and states; the warning without it."""

import copy
import inspect
import pickle
import subprocess
import sys

import numpy as np
import pytest

import gpuprop
from gpuprop import asnumpy, capture, nn, no_sync, optim
from gpuprop import functional as F
from gpuprop.amp import GradScaler, autocast

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in")  # the infinities are meant


class Scaled(optim.Optimizer):
    """A user's rule with a state, in which each update depends on the step."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr})

    @staticmethod
    def state_names(group):
        return ("total",)

    @staticmethod
    def kernel_coefficients(xp, step, lr):
        return (lr / step,)

    @staticmethod
    @gpuprop.pointwise
    def update_kernel(xp, p, g, lr, total):
        total += g * g
        p -= lr * g / (1 + total)


class WholeSegment(Scaled):
    """A rule that overrides the update of a segment."""

    def update_segment(self, segment, coefficients, constants):
        (total,) = segment.states
        total[...] = total + segment.grad
        segment.data[...] = segment.data - segment.grad * coefficients[0]


class OwnStep(optim.SGD):
    """A rule with a step of its own, which replaces the arrays of its parameters."""

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.data = p.data - 0.5 * p.grad


RULES = {name: getattr(optim, name) for name in optim.__all__
         if inspect.isclass(getattr(optim, name)) and name not in ("LBFGS", "Optimizer")}
RULES |= {"SGD with momentum": lambda ps: optim.SGD(ps, momentum=0.9, dampening=0.5),
          "Adam with amsgrad": lambda ps: optim.Adam(ps, amsgrad=True, weight_decay=0.1),
          "Scaled": Scaled, "WholeSegment": WholeSegment, "OwnStep": OwnStep}


def flat(state):
    """The leaves of a state dict as bytes, by their path."""
    if isinstance(state, dict):
        return {(k, *path): v for k, inner in state.items() for path, v in flat(inner).items()}
    if isinstance(state, list | tuple):
        return flat(dict(enumerate(state)))
    return {(): np.asarray(state).tobytes() if hasattr(state, "shape") else repr(state)}


class Run:
    """A model, its optimizers and a scaler; some steps have gradients that overflow."""

    def __init__(self, rule, scaler, frozen=True):
        rng = np.random.default_rng(0)
        shapes = [(3, 1), (2, 70), (1, 1)] if rule is optim.Muon else [(3,), (2, 70), ()]
        self.params = [nn.Parameter(gpuprop.tensor(rng.standard_normal(s).astype("float32")))
                       for s in shapes]
        self.optimizer = rule(self.params)
        self.scaler = scaler

    def gradients(self, factor):
        self.optimizer.zero_grad()
        loss = sum((p * p * (n + 1)).sum() for n, p in enumerate(self.params)) * factor
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def step(self, factor=1.0, clip=False):
        self.gradients(factor)
        if self.scaler is None:
            if clip:
                nn.utils.clip_grad_norm_(self.params, 0.5)
            self.optimizer.step()
            return
        with no_sync():
            if clip:
                self.scaler.unscale_(self.optimizer)
                nn.utils.clip_grad_norm_(self.params, 0.5)
            assert self.scaler.step(self.optimizer) is None
            self.scaler.update()

    def state(self):
        values = [asnumpy(p).tobytes() for p in self.params]
        return values, flat(self.optimizer.state_dict())


INF = float("inf")


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_skipped_step_is_as_if_it_had_not_been(backend, rule, clip):
    """Bit for bit, and the host does not wait; a scale of a power of 2 rounds nothing."""
    plain, scaled = Run(rule, None), Run(rule, GradScaler(init_scale=2.0**10))
    for factor in (INF, 1.0, 1.0, float("nan"), INF, -1.0, 1.0):
        scaled.step(factor, clip)
        if np.isfinite(factor):
            plain.step(factor, clip)
        assert scaled.state() == plain.state()
    assert scaled.scaler.get_scale() == 2.0**7


def test_parameters_that_join_later_and_parameters_without_gradients(backend):
    runs = []
    for scaler in (None, GradScaler(8.0)):
        p, q = (nn.Parameter(gpuprop.ones(3)) for _ in range(2))
        optimizer = optim.Adam([p, q], lr=0.1)
        for factor, both in ((1.0, False), (INF, True), (1.0, True), (INF, False), (1.0, False)):
            if scaler is None and factor == INF:
                continue
            optimizer.zero_grad()
            loss = (p * factor).sum() + (q * q).sum() if both else (p * factor).sum()
            if scaler is None:
                loss.backward()
                optimizer.step()
            else:
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
        runs.append(([asnumpy(p).tobytes(), asnumpy(q).tobytes()], flat(optimizer.state_dict())))
    assert runs[0] == runs[1]


def test_the_scale_grows_and_backs_off(backend):
    run = Run(optim.SGD, GradScaler(4.0, growth_factor=3.0, backoff_factor=0.25, growth_interval=2))
    scales = []
    for factor in (0.0, 0.0, 0.0, INF, 0.0, 0.0, INF, INF):
        run.step(factor)
        scales.append(run.scaler.get_scale())
    assert scales == [4, 12, 12, 3, 3, 9, 2.25, 0.5625]
    run.scaler.set_growth_factor(2)
    run.scaler.set_growth_interval(1)
    run.scaler.set_backoff_factor(0.5)
    run.step(0.0)
    assert run.scaler.get_scale() == 1.125
    run.step(INF)
    assert run.scaler.get_scale() == 0.5625
    assert (run.scaler.get_growth_factor(), run.scaler.get_backoff_factor(),
            run.scaler.get_growth_interval()) == (2, 0.5, 1)
    run.gradients(0.0)
    run.scaler.update(new_scale=16.0)
    assert run.scaler.get_scale() == 16
    run.scaler.scale(gpuprop.ones(()))
    run.scaler.update(new_scale=gpuprop.full((1,), 2.0))
    assert run.scaler.get_scale() == 2


def test_the_scale_stays_finite_and_padding_stays_zero(backend):
    run = Run(optim.Adam, GradScaler(2.0**127, growth_interval=1))
    for _ in range(3):
        run.step(0.0)
    assert run.scaler.get_scale() == 2.0**127
    run.scaler.update(new_scale=2.0**-149)
    for _ in range(3):
        run.step(INF)
    assert run.scaler.get_scale() == 0
    run.step(1.0)
    assert all(np.isfinite(asnumpy(p)).all() for p in run.params)
    for arena in run.optimizer._arenas():
        assert np.isfinite(asnumpy(arena.grad)).all() and np.isfinite(asnumpy(arena.data)).all()


def test_several_losses_and_optimizers(backend):
    p, q = (nn.Parameter(gpuprop.ones(2)) for _ in range(2))
    first, second = optim.SGD([p], lr=1.0), optim.SGD([q], lr=1.0)
    scaler = GradScaler(8.0)
    losses = scaler.scale([(p * 2).sum(), ((q * INF).sum(), p.sum())])
    assert type(losses) is list and type(losses[1]) is tuple
    for loss in (losses[0], *losses[1]):
        loss.backward()
    scaler.step(first)
    scaler.step(second)
    scaler.update()
    assert asnumpy(p).tolist() == [-2, -2] and asnumpy(q).tolist() == [1, 1]
    assert scaler.get_scale() == 4


def test_backward_of_a_loss_with_an_earlier_scale_raises(backend):
    p = nn.Parameter(gpuprop.ones(2))
    optimizer = optim.SGD([p])
    scaler = GradScaler(4.0)
    early = scaler.scale((gpuprop.ones(2) * 3 * p).sum())
    scaler.scale(p.sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    with pytest.raises(RuntimeError, match="changed"):
        early.backward()


def model_and_data(rows=16):
    gpuprop.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))
    rng = np.random.default_rng(0)
    x = gpuprop.tensor(rng.standard_normal((rows, 6)).astype("float32"))
    return model, x, gpuprop.tensor(rng.integers(0, 3, rows))


def test_small_gradients_are_kept_in_float16(backend):
    def gradient(scale):
        model, x, y = model_and_data()
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        scaler = GradScaler(scale)
        with autocast("float16"):
            loss = F.cross_entropy(model(x), y) * 1e-7
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        return asnumpy(next(model.parameters()).grad)

    assert (gradient(1.0) == 0).all()
    assert (gradient(2.0**16) != 0).any() and abs(gradient(2.0**16)).max() < 1e-7


def test_a_captured_step_follows_the_scale_without_another_recording(recorder):
    with gpuprop.use(recorder):
        results = []
        for wrap in (lambda f: f, capture):
            model, x, y = model_and_data()
            optimizer = optim.Adam(model.parameters(), lr=0.01)
            scaler = GradScaler(2.0**10, growth_interval=3)
            calls = []

            def step(x, y, factor, model=model, optimizer=optimizer, scaler=scaler, calls=calls):
                calls.append(1)
                optimizer.zero_grad()
                with autocast("float16"):
                    loss = F.cross_entropy(model(x), y)
                scaler.scale(loss * factor).backward()
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                scaler.step(optimizer)
                scaler.update()
                return loss

            run = wrap(step)
            trace = []
            for i in range(14):
                factor = INF if i in (6, 9) else 1.0
                if i == 10:
                    scaler.set_growth_factor(8.0)
                trace.append((run(x, y, gpuprop.full((), factor)).item(), scaler.get_scale()))
            results.append((trace, [v.tobytes() for v in model.state_dict().values()],
                            flat(optimizer.state_dict()), scaler.state_dict()))
        assert results[0] == results[1]
        assert len(calls) < 14 and len({scale for _, scale in results[0][0]}) == 4


def test_calls_in_a_wrong_order(backend):
    run = Run(optim.SGD, GradScaler())
    for call in (run.scaler.unscale_, run.scaler.step):
        with pytest.raises(AssertionError, match="scale is None"):
            call(run.optimizer)
    with pytest.raises(AssertionError, match="scale is None"):
        run.scaler.update()
    run.gradients(1.0)
    with pytest.raises(AssertionError, match="No inf checks were recorded prior"):
        run.scaler.update()
    run.scaler.unscale_(run.optimizer)
    with pytest.raises(RuntimeError, match="already been called"):
        run.scaler.unscale_(run.optimizer)
    with pytest.raises(AssertionError, match="pickled"):
        pickle.dumps(run.scaler)
    with pytest.raises(RuntimeError, match="closure"):
        run.scaler.step(run.optimizer, closure=lambda: None)
    run.scaler.step(run.optimizer)
    with pytest.raises(RuntimeError, match=r"step\(\) has already been called"):
        run.scaler.step(run.optimizer)
    with pytest.raises(RuntimeError, match=r"after step\(\)"):
        run.scaler.unscale_(run.optimizer)
    run.scaler.update()
    run.optimizer.zero_grad()
    with pytest.raises(AssertionError, match="No inf checks were recorded for this"):
        run.scaler.step(run.optimizer)


def test_arguments_that_are_refused():
    for options in ({"growth_factor": 1.0}, {"backoff_factor": 1.0}, {"init_scale": -1},
                    {"init_scale": float("nan")}, {"growth_interval": 0}):
        with pytest.raises(ValueError, match=next(iter(options)).removeprefix("init_")):
            GradScaler(**options)
    for options in ({"init_scale": "cuda"}, {"growth_interval": 1.5}, {"enabled": 1}):
        with pytest.raises(TypeError, match=next(iter(options)).removeprefix("init_")):
            GradScaler(**options)
    scaler = GradScaler()
    for outputs in (1.0, None, np.ones(2), [gpuprop.ones(()), "a"]):
        with pytest.raises(TypeError, match="outputs"):
            scaler.scale(outputs)
    scaler.scale(gpuprop.ones(()))
    for other in (None, nn.Linear(1, 1)):
        with pytest.raises(TypeError, match="optimizer"):
            scaler.step(other)
    for value in (-1.0, 0, float("nan"), gpuprop.ones(2)):
        with pytest.raises(ValueError, match="new_scale"):
            scaler.update(value)
    for name in ("growth_factor", "backoff_factor", "growth_interval"):
        before = scaler.state_dict()
        with pytest.raises(ValueError, match=name):
            getattr(scaler, f"set_{name}")(-1)
        assert scaler.state_dict() == before
    half = nn.Linear(2, 1).half()
    optimizer = optim.SGD(half.parameters())
    scaler.scale(half(gpuprop.ones((1, 2), dtype="float16")).sum()).backward()
    with pytest.raises(ValueError, match="FP16"):
        scaler.unscale_(optimizer)


def test_a_state_is_loaded_whole_or_not_at_all(backend):
    run = Run(optim.SGD, GradScaler(32.0, growth_interval=5))
    for factor in (1.0, INF, 1.0, 1.0):
        run.step(factor)
    state = run.scaler.state_dict()
    assert state == {"scale": 16.0, "growth_factor": 2.0, "backoff_factor": 0.5,
                     "growth_interval": 5, "_growth_tracker": 2}
    for other in (GradScaler(), Run(optim.SGD, GradScaler(2.0)).scaler,
                  pickle.loads(pickle.dumps(run.scaler)), copy.deepcopy(run.scaler)):
        other.load_state_dict(state)
        assert other.state_dict() == state
        other.scale(gpuprop.ones(()))
        assert other.state_dict() == state
        for name in state:
            for wrong in (None, "a", -1, float("nan"), [1]):
                with pytest.raises((TypeError, ValueError), match=name):
                    other.load_state_dict({**state, "scale": 3.0, name: wrong})
            with pytest.raises(ValueError, match=name):
                other.load_state_dict({k: v for k, v in state.items() if k != name})
        with pytest.raises(ValueError, match="foreign"):
            other.load_state_dict({**state, "foreign": 1})
        with pytest.raises(RuntimeError, match="disabled"):
            other.load_state_dict({})
        assert other.state_dict() == state


def test_a_disabled_scaler_does_nothing(backend):
    run, plain = Run(optim.SGD, GradScaler(enabled=False)), Run(optim.SGD, None)
    loss = gpuprop.ones(())
    assert run.scaler.scale(loss) is loss and not run.scaler.is_enabled()
    run.step()
    plain.step()
    assert run.state() == plain.state()
    assert run.scaler.get_scale() == 1 and run.scaler.state_dict() == {}
    run.scaler.load_state_dict({"anything": 1})


# ---- the warning --------------------------------------------------------------------------------

WARNING = """
import warnings
import gpuprop
from gpuprop import nn, optim
from gpuprop.amp import GradScaler

def train(dtype="float16", scaler=None, losses=1, grad=True):
    model = nn.Linear(3, 2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with gpuprop.autocast(dtype):
            loss = sum(model(gpuprop.ones(4, 3)).sum() for _ in range(losses))
        if scaler:
            loss = scaler.scale(loss) / 2
        if grad:
            loss.backward()
    return [(w.filename, str(w.message)) for w in caught]

for options in ({"dtype": "bfloat16"}, {"grad": False}, {"scaler": GradScaler(16.0)}):
    assert train(**options) == [], train(**options)
with gpuprop.no_grad():
    assert train(grad=False) == []
x = gpuprop.Parameter(gpuprop.ones(2))
(x * x).sum().backward()
(found,) = train()
assert found[0] == "<string>" and "GradScaler" in found[1] and "bfloat16" in found[1], found
assert train() == []
"""


def test_float16_without_a_scaler_warns_once():
    done = subprocess.run([sys.executable, "-c", WARNING], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
