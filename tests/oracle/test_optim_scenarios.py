"""Steps equal PyTorch's, whatever a user does to parameters, gradients and options."""

import copy
import inspect

import ml_dtypes
import numpy as np
import pytest
import torch

import gpuprop
import gpuprop.testing  # registers the strict backend
from gpuprop import Parameter, Tensor, nn, optim
from gpuprop._core.registry import get_backend
from gpuprop.optim import lr_scheduler

RULES = {
    "sgd": ("SGD", {"lr": 0.1}),
    "sgd decayed": ("SGD", {"lr": 0.1, "weight_decay": 0.02, "maximize": True}),
    "momentum": ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    "nesterov": ("SGD", {"lr": 0.1, "momentum": 0.8, "nesterov": True}),
    "adam": ("Adam", {"lr": 0.1}),
    "adam decayed": ("Adam", {"lr": 0.1, "weight_decay": 0.1, "betas": (0.0, 0.99),
                              "maximize": True}),
    "amsgrad": ("Adam", {"lr": 0.1, "amsgrad": True, "betas": (0.5, 0.7)}),
    "adamw": ("AdamW", {"lr": 0.1, "weight_decay": 0.1, "eps": 1e-3}),
    "adamw amsgrad": ("AdamW", {"lr": 0.1, "amsgrad": True, "maximize": True}),
    "rmsprop": ("RMSprop", {"lr": 0.01}),
    "rmsprop centered": ("RMSprop", {"lr": 0.01, "alpha": 0.9, "centered": True, "momentum": 0.5,
                                     "weight_decay": 0.1}),
    "rmsprop momentum": ("RMSprop", {"lr": 0.01, "momentum": 0.5, "maximize": True}),
    "adadelta": ("Adadelta", {"lr": 0.5, "weight_decay": 0.1, "maximize": True}),
    "adafactor": ("Adafactor", {"lr": 0.1, "weight_decay": 0.1, "d": 1.5}),
    "adagrad": ("Adagrad", {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.1}),
    "adamax": ("Adamax", {"lr": 0.1, "weight_decay": 0.1}),
    "asgd": ("ASGD", {"lr": 0.1, "lambd": 0.1, "alpha": 0.5, "t0": 2}),
    "nadam": ("NAdam", {"lr": 0.1, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    "radam": ("RAdam", {"lr": 0.1, "betas": (0.5, 0.9), "weight_decay": 0.1}),
    "rprop": ("Rprop", {"lr": 0.1}),
}
SHAPES = [(3,), (2, 2), (5,), (), (1, 70)]
rng = np.random.default_rng(0)
VALUES = [rng.standard_normal(s) for s in SHAPES]
GRADS = [[rng.standard_normal(s) for s in SHAPES] for _ in range(9)]
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def to_torch(a, dtype):
    return torch.tensor(np.asarray(a, np.float64)).to(getattr(torch, dtype))


def to_host(a):
    if isinstance(a, torch.Tensor):
        return a.detach().double().numpy()
    return a.numpy().astype(np.float64)


class Both:
    """The same parameters and the same steps in both libraries."""

    def __init__(self, rule, backend, dtype="float64", split=lambda ps: ps):
        name, options = RULES[rule]
        self.backend = backend
        self.rule = rule
        self.dtypes = [dtype] * len(SHAPES) if isinstance(dtype, str) else dtype
        self.p = [Parameter(self.array(v, d)) for v, d in zip(VALUES, self.dtypes, strict=True)]
        self.q = [torch.nn.Parameter(to_torch(v, d))
                  for v, d in zip(VALUES, self.dtypes, strict=True)]
        self.a = getattr(optim, name)(split(self.p), **options)
        self.b = getattr(torch.optim, name)(split(self.q), **options)

    def array(self, value, dtype):
        dtype = BFLOAT16 if dtype == "bfloat16" else dtype
        return self.backend.asarray(np.asarray(value).astype(dtype))

    def both(self, change):
        change(self.a, self.p)
        change(self.b, self.q)

    def backward(self, i, skip=()):
        for n, (p, q, d) in enumerate(zip(self.p, self.q, self.dtypes, strict=True)):
            if n not in skip and p.requires_grad:
                (p * Tensor(self.array(GRADS[i][n], d))).sum().backward()
                (q * to_torch(GRADS[i][n], d)).sum().backward()

    def step(self, i, skip=()):
        self.both(lambda optimizer, _: optimizer.zero_grad())
        self.backward(i, skip)
        self.both(lambda optimizer, _: optimizer.step())

    def check(self, rtol=1e-12):
        for p, q in zip(self.p, self.q, strict=True):
            np.testing.assert_allclose(to_host(p), to_host(q), rtol=rtol, atol=rtol)
        for arena in self.a._arenas():
            padding = arena.backend.to_numpy(arena._padding[0])
            for flat in (arena.data, arena.grad):
                host = arena.backend.to_numpy(flat).astype(np.float64)
                assert not host[padding].any()

    def check_state(self, rtol=1e-12):
        ours, theirs = self.a.state_dict(), self.b.state_dict()
        assert ours["param_groups"] == theirs["param_groups"]
        # PyTorch's Adagrad has states before the first step
        entries = {n: e for n, e in theirs["state"].items() if e and e.get("step") != 0}
        assert ours["state"].keys() == entries.keys()
        for n, entry in entries.items():
            assert ours["state"][n].keys() == entry.keys()
            for name, value in entry.items():
                mine = np.asarray(ours["state"][n][name], np.float64)
                np.testing.assert_allclose(mine, to_host(value), rtol=rtol, atol=rtol)


@pytest.fixture(params=["numpy", "strict"])
def both(request):
    torch.set_default_dtype(torch.float64)  # that of PyTorch's scalar states
    with gpuprop.use(request.param):
        yield lambda *args, **kwargs: Both(args[0], get_backend(request.param), *args[1:], **kwargs)
    torch.set_default_dtype(torch.float32)


every_rule = pytest.mark.parametrize("rule", RULES)


@every_rule
@pytest.mark.parametrize(("dtype", "rtol"), [
    ("float64", 1e-12), ("float32", 2e-6), ("float16", 0.01), ("bfloat16", 0.05)])
def test_plain_steps(both, rule, dtype, rtol):
    t = both(rule, dtype)
    for i in range(6 if rtol < 1e-3 else 3):
        t.step(i)
    t.check(rtol)
    t.check_state(rtol)


@every_rule
def test_parameters_without_a_gradient_do_not_change(both, rule):
    t = both(rule)
    for i, skip in enumerate([(1, 2), (), (0,), (3, 0), (), (0, 1, 2, 3, 4), (4,)]):
        t.step(i, skip)
    t.check()
    t.check_state()


@every_rule
def test_groups_late_groups_and_options_that_change(both, rule):
    own = {"maximize": True} if rule == "rprop" else {"weight_decay": 0.3}
    t = both(rule, split=lambda ps: [{"params": ps[:2], "lr": 0.01}, {"params": ps[2], **own}])
    t.step(0, (3, 4))
    t.both(lambda o, ps: o.add_param_group({"params": iter(ps[3:]), "lr": 0.5}))
    t.step(1)

    def change(optimizer, _):
        optimizer.param_groups[0]["lr"] = 0.3
        for group in optimizer.param_groups:
            group["weight_decay"] = 0.2
            group.update({"momentum": 0.3} if "momentum" in group else {"betas": (0.4, 0.6)})

    if rule != "rmsprop":  # PyTorch makes its momentum buffer at the first step or never
        t.both(change)
    for i in range(2, 5):
        t.step(i)
    t.check()
    t.check_state()


def test_momentum_switched_on_and_off(both):
    t = both("sgd")
    for i, momentum in enumerate([0, 0.9, 0.9, 0, 0.5]):
        options = {"momentum": momentum, "dampening": 0.5}
        t.both(lambda o, _, options=options: o.param_groups[0].update(options))
        t.step(i)
    t.check()
    t.check_state()


@every_rule
def test_assigned_data_and_gradients(both, rule):
    t = both(rule)
    t.step(0)
    t.p[0].data, t.q[0].data = t.array(np.ones(3), "float64"), torch.ones(3).double()
    t.step(1)
    t.p[1].grad = t.array(np.full((2, 2), 0.5), "float64")
    t.q[1].grad = torch.full((2, 2), 0.5).double()
    t.p[2].grad = t.q[2].grad = None
    t.both(lambda o, _: o.step())
    t.p[1].data, t.q[1].data = t.p[1].data.T, t.q[1].data.T  # a view of itself
    t.step(2)
    t.check()


@every_rule
def test_a_model_cast_during_training(both, rule):
    t = both(rule, "float32")
    t.step(0, (2,))
    t.step(1)
    for p in t.p[:4]:
        p.data, p.grad, p.grad_buffer = p.data.astype("float64"), None, None
    for q in t.q[:4]:
        q.data, q.grad = q.data.double(), None
        for name, value in t.b.state[q].items():
            if name != "step" and value is not None:
                t.b.state[q][name] = value.double()
    t.dtypes = [*["float64"] * 4, "float32"]
    for i in range(2, 5):
        t.step(i)
    t.check(2e-6)
    t.check_state(2e-6)


@every_rule
def test_several_dtypes_together(both, rule):
    t = both(rule, ["float64", "float32", "float16", "float32", "bfloat16"])
    for i in range(3):
        t.step(i)
    assert len(t.a.param_groups[0].arenas) == 4
    t.check(0.05)


@every_rule
def test_frozen_and_unfrozen(both, rule):
    t = both(rule)
    train = lambda value: t.both(lambda _, ps: [ps[i].requires_grad_(value) for i in (1, 2)])
    train(False)
    t.step(0)
    t.check_state()
    train(True)
    t.step(1)
    train(False)
    t.step(2)
    train(True)
    t.step(3, (0,))
    t.check()
    t.check_state()


def test_frozen_parameters_take_no_memory():
    frozen = Parameter(np.ones(1000, "float32"), requires_grad=False)
    trained = Parameter(np.ones(3, "float32"))
    optimizer = optim.Adam([frozen, trained])
    assert [arena.params for arena in optimizer._arenas()] == [[trained]]


@every_rule
def test_gradients_accumulate(both, rule):
    t = both(rule)
    t.step(0)
    t.both(lambda o, _: o.zero_grad(set_to_none=False))
    t.backward(1)
    t.backward(2, (0,))
    t.both(lambda o, _: o.step())
    t.both(lambda o, _: o.step())  # the same gradient once more
    t.check()


@every_rule
def test_two_optimizers_share_parameters(both, rule):
    t = both(rule)
    other = optim.SGD(t.p[:3], lr=0.2, momentum=0.5)
    theirs = torch.optim.SGD(t.q[:3], lr=0.2, momentum=0.5)
    for i in range(4):
        t.step(i)
        other.step()
        theirs.step()
    t.check()


@every_rule
def test_state_dicts_of_either_library_load_in_the_other(both, rule):
    t, u = both(rule), both(rule)
    for i in range(3):
        t.step(i, (1,) if i == 1 else (2,))
    theirs = copy.deepcopy(t.b.state_dict())  # PyTorch's shares memory with the optimizer
    as_numpy = {
        n: {name: to_host(v) if isinstance(v, torch.Tensor) else v for name, v in entry.items()}
        for n, entry in theirs["state"].items()}
    for saved in (t.a.state_dict(), {"state": as_numpy, "param_groups": theirs["param_groups"]}):
        u.a.load_state_dict(saved)
        for p, q in zip(u.p, t.q, strict=True):
            p.data[...] = u.array(to_host(q), "float64")
        t.b.load_state_dict(copy.deepcopy(theirs))
        values = [q.detach().clone() for q in t.q]
        u.q, u.b = t.q, t.b
        for i in range(3, 6):
            u.step(i)
        u.check()
        u.check_state()
        for q, value in zip(t.q, values, strict=True):
            q.data.copy_(value)
    ours = t.a.state_dict()
    as_torch = {n: {name: torch.as_tensor(v) for name, v in entry.items()}
                for n, entry in ours["state"].items()}
    t.b.load_state_dict({"state": as_torch, "param_groups": ours["param_groups"]})
    for i in range(6, 8):
        t.step(i)
    t.check()


def test_a_tensor_as_learning_rate(both):
    t = both("adamw")
    mine = gpuprop.tensor(0.1, dtype="float64")
    theirs = torch.tensor(0.1, dtype=torch.float64)
    t.a.param_groups[0]["lr"] = mine
    t.b.param_groups[0]["lr"] = theirs
    schedules = [lr_scheduler.ExponentialLR(t.a, 0.5),
                 torch.optim.lr_scheduler.ExponentialLR(t.b, 0.5)]
    t.step(0)
    mine.data[...] = 0.5
    theirs.fill_(0.5)
    t.step(1)
    for schedule in schedules:
        schedule.step()
    t.step(2)
    t.check()
    assert t.a.param_groups[0]["lr"] is mine and mine.item() == 0.25
    assert t.a.state_dict()["param_groups"][0]["lr"] == 0.25


@pytest.mark.parametrize("norm_type", [2.0, 1, 3, float("inf"), float("-inf"), -1])
@pytest.mark.parametrize("max_norm", [0.5, 100.0])
def test_clipping_by_norm(both, norm_type, max_norm):
    t = both("momentum")
    for i, skip in enumerate([(), (1, 2), (0,)]):
        t.both(lambda o, _: o.zero_grad())
        t.backward(i, skip)
        norm = nn.utils.clip_grad_norm_(iter(t.p), max_norm, norm_type)
        expected = torch.nn.utils.clip_grad_norm_(iter(t.q), max_norm, norm_type)
        np.testing.assert_allclose(norm.numpy(), expected.numpy(), rtol=1e-12)
        t.both(lambda o, _: o.step())
    t.check()


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_clipping_infinite_and_nan_gradients(both, value):
    """The same elements become NaN as in PyTorch, and the next step is finite again."""
    t = both("sgd")
    for i in range(2):
        t.both(lambda o, _: o.zero_grad())
        t.backward(i)
        if i == 0:
            for ps in (t.p, t.q):
                ps[1].grad[0, 0] = value
        with np.errstate(invalid="ignore"):
            nn.utils.clip_grad_norm_(t.p, 1.0)
        torch.nn.utils.clip_grad_norm_(t.q, 1.0)
        for p, q in zip(t.p, t.q, strict=True):
            np.testing.assert_allclose(t.backend.to_numpy(p.grad), q.grad.numpy(), rtol=1e-12)
    for ps, clip in ((t.p, nn.utils.clip_grad_norm_), (t.q, torch.nn.utils.clip_grad_norm_)):
        ps[0].grad[...] = value
        with pytest.raises(RuntimeError, match="non-finite"):
            clip(ps, 1.0, error_if_nonfinite=True)


def test_clipping_by_value(both):
    t = both("adam")
    for i in range(3):
        t.both(lambda o, _: o.zero_grad())
        t.backward(i)
        nn.utils.clip_grad_value_(t.p, 0.3)
        torch.nn.utils.clip_grad_value_(t.q, 0.3)
        t.both(lambda o, _: o.step())
    t.check()


SCHEDULES = {
    "step": lambda s, o: s.StepLR(o, 3, gamma=0.5),
    "multistep": lambda s, o: s.MultiStepLR(o, [2, 5, 5], gamma=0.3),
    "exponential": lambda s, o: s.ExponentialLR(o, 0.9),
    "linear": lambda s, o: s.LinearLR(o, start_factor=0.25, end_factor=0.9, total_iters=6),
    "lambda": lambda s, o: s.LambdaLR(o, [lambda epoch: 0.9 ** epoch,
                                          lambda epoch: 1 / (1 + epoch)]),
    "cosine": lambda s, o: s.CosineAnnealingLR(o, 4, eta_min=0.001),
    "one cycle": lambda s, o: s.OneCycleLR(o, [0.1, 0.2], total_steps=12),
    "one cycle, three phases": lambda s, o: s.OneCycleLR(
        o, 0.3, epochs=4, steps_per_epoch=3, three_phase=True, pct_start=0.4,
        anneal_strategy="linear", base_momentum=0.7),
    "one cycle, plain": lambda s, o: s.OneCycleLR(o, 0.3, total_steps=12, cycle_momentum=False,
                                                  div_factor=10.0),
}


def two_groups(params):
    return [{"params": params[:2]}, {"params": params[2:], "lr": 0.02}]


def options_of(optimizer):
    return [{name: value for name, value in group.items() if name != "params"}
            for group in optimizer.param_groups]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("rule", ["momentum", "adam"])
def test_schedules(rule, schedule):
    t = Both(rule, get_backend("numpy"), split=two_groups)
    mine = SCHEDULES[schedule](lr_scheduler, t.a)
    theirs = SCHEDULES[schedule](torch.optim.lr_scheduler, t.b)
    for i in range(12):
        assert mine.get_last_lr() == theirs.get_last_lr()
        assert mine.last_epoch == theirs.last_epoch
        assert options_of(t.a) == options_of(t.b)
        t.step(i % 9)
        if i == 5:  # resume from state dicts
            resumed = SCHEDULES[schedule](lr_scheduler, t.a)
            saved = t.a.state_dict()
            resumed.load_state_dict(mine.state_dict())
            groups = t.b.state_dict()["param_groups"]
            t.a.load_state_dict({**saved, "param_groups": groups})
            mine = resumed
        mine.step()
        theirs.step()
    t.check()


@pytest.mark.parametrize("options", [
    {}, {"mode": "max", "threshold_mode": "abs", "threshold": 0.1},
    {"cooldown": 2, "min_lr": [0.05, 0.001]}, {"threshold_mode": "abs"}, {"mode": "max"}])
def test_plateaus(options):
    t = Both("sgd", get_backend("numpy"), split=two_groups)
    mine = lr_scheduler.ReduceLROnPlateau(t.a, patience=1, factor=0.5, **options)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(t.b, patience=1, factor=0.5, **options)
    for metric in [1.0, 1.1, 0.9, 0.95, 1.2, 0.89999, 0.9, 1.0, float("nan"),
                   0.5, 0.5, 0.5, 0.5, 0.4, 0.6]:
        mine.step(metric)
        theirs.step(metric)
        assert mine.get_last_lr() == theirs.get_last_lr()
        assert [g["lr"] for g in t.a.param_groups] == [g["lr"] for g in t.b.param_groups]
        for name in ("best", "num_bad_epochs", "cooldown_counter"):
            assert getattr(mine, name) == getattr(theirs, name)


@pytest.mark.parametrize("kwargs", [
    {"lr": -1.0}, {"weight_decay": -0.1}, {"eps": -1.0}, {"betas": (1.0, 0.9)},
    {"betas": (0.9, -0.1)}])
def test_adam_rejects_the_same_options(kwargs):
    with pytest.raises(ValueError):
        torch.optim.Adam([torch.nn.Parameter(torch.ones(1))], **kwargs)
    with pytest.raises(ValueError, match=f"Adam: {next(iter(kwargs))}"):
        optim.Adam([Parameter(np.ones(1))], **kwargs)


@pytest.mark.parametrize(("name", "kwargs"), [
    ("SGD", {"lr": -1.0}), ("SGD", {"momentum": -1.0}), ("SGD", {"weight_decay": -1.0}),
    ("SGD", {"nesterov": True}), ("SGD", {"nesterov": True, "momentum": 0.9, "dampening": 0.1}),
    ("RMSprop", {"alpha": -0.1}), ("RMSprop", {"momentum": -0.1})])
def test_others_reject_the_same_options(name, kwargs):
    with pytest.raises(ValueError):
        getattr(torch.optim, name)([torch.nn.Parameter(torch.ones(1))], **kwargs)
    with pytest.raises(ValueError, match=f"(?i){name}: {next(iter(kwargs))}"):
        getattr(optim, name)([Parameter(np.ones(1))], **kwargs)


def test_signatures_equal_pytorchs():
    for name in ("SGD", "Adam", "AdamW", "RMSprop"):
        ours = inspect.signature(getattr(optim, name))
        theirs = inspect.signature(getattr(torch.optim, name))
        assert [(p.name, p.default, p.kind) for p in ours.parameters.values()] == \
            [(p.name, p.default, p.kind) for p in theirs.parameters.values()], name
