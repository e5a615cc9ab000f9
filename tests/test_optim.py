"""Optimizers: each rule against its formula, steps, state, rules of users."""

import copy
import itertools
import math
import pickle

import ml_dtypes
import numpy as np
import pytest
from optimizer_rules import CASES, RULES
from stepping import GRADS, VALUES, arena, equal, feed, frozen, host, make, steps

import gpuprop
from gpuprop import Parameter, nn, optim
from gpuprop._core.instruments import optimizer_stepped
from gpuprop.testing import no_syncs

every_rule = pytest.mark.parametrize(("name", "options"), CASES, ids=[f"{n} {o}" for n, o in CASES])


@pytest.mark.parametrize(
    ("name", "options", "maximize"),
    [(name, options, maximize) for name, options in CASES for maximize in (False, True)
     if not (maximize and name == "Muon")])  # Muon has no such option
def test_rules(backend, name, options, maximize):
    rule = RULES[name][0]
    params = make(backend, rule=name)
    sign = {"maximize": True} if maximize else {}
    optimizer = getattr(optim, name)(params, lr=0.1, **sign, **options)
    values = host(params)
    states = [{} for _ in VALUES]
    counts = [0] * len(VALUES)
    for i, skip in enumerate([(), (0,), (1, 2), (), (0, 1, 2, 3, 4), ()]):
        optimizer.zero_grad()
        for n in set(range(len(VALUES))) - set(skip):
            g = GRADS[i][n].reshape(params[n].shape)
            if name == "SparseAdam" and i % 2:  # a row without gradient
                g = np.concatenate([0 * g[:1], g[1:]]) if g.ndim else 0 * g
            params[n].grad = backend.asarray(g)
            counts[n] += 1
            values[n] = rule(values[n], -g if maximize else g, states[n], counts[n], lr=0.1,
                             **options)
        optimizer.step()
    equal(params, values)
    memory = arena(optimizer)
    for flat in (memory.data, memory.grad):
        assert not gpuprop.asnumpy(flat[memory._padding[0]]).any()


@every_rule
@pytest.mark.parametrize(
    ("dtype", "rtol"), [("float32", 3e-6), ("float16", 1e-2), (ml_dtypes.bfloat16, 8e-2)])
def test_lower_precision(backend, name, options, dtype, rtol):
    """State has the parameters' dtype, as in PyTorch.

    Half types are computed in float32 and rounded once per update.
    """
    low, high = make(backend, dtype, rule=name), make(backend, rule=name)
    for params in (low, high):
        steps(getattr(optim, name)(params, lr=0.05, **options), params, range(3))
    equal(low, host(high), rtol)
    assert {p.dtype for p in low} == {np.dtype(dtype)}


@every_rule
def test_captured_steps(backend, name, options):
    """Bit for bit those of a plain run, with other learning rates and gradients in each step."""
    runs = []
    for wrap in (gpuprop.capture, lambda step: step):
        params = make(backend, "float32", rule=name)
        optimizer = getattr(optim, name)(params, lr=0.05, **options)

        @wrap
        def step(*gradients, params=params, optimizer=optimizer):
            optimizer.zero_grad()
            for p, g in zip(params, gradients, strict=True):
                (p * g).sum().backward()
            optimizer.step()

        for i, gradients in enumerate(GRADS):
            optimizer.param_groups[0]["lr"] = 0.05 / (i + 1)
            step(*[gpuprop.tensor(g.reshape(p.shape).astype("float32"))
                   for g, p in zip(gradients, params, strict=True)])
        runs.append(frozen([host(params), optimizer.state_dict()]))
    assert runs[0] == runs[1]


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_schedule_free_averages(backend, dtype):
    """`eval` gives the averages x, `train` the values y; a parameter without steps stays."""
    options = {"betas": (0.75, 0.9), "warmup_steps": 2}
    params = make(backend, dtype)
    optimizer = optim.AdamWScheduleFree(params, lr=0.1, **options)
    optimizer.eval()
    optimizer.train()
    values, states = host(params), [{} for _ in params]
    for t in (1, 2, 3):
        steps(optimizer, params, [t], (1,))
        for n in (0, 2, 3, 4):
            values[n] = RULES["AdamWScheduleFree"][0](values[n], GRADS[t][n], states[n], t, 0.1,
                                                      **options)
    rtol = 1e-12 if dtype == "float64" else 1e-2
    averages = [state.get("x", v) for state, v in zip(states, values, strict=True)]
    with pytest.raises(RuntimeError, match="changed by a step"):
        loss = (params[0] * params[0]).sum()
        optimizer.eval()
        loss.backward()
    equal(params, averages, rtol)
    optimizer.eval()
    equal(params, averages, rtol)
    saved = optimizer.state_dict()
    with pytest.raises(RuntimeError, match=r"call optimizer\.train\(\)"):
        optimizer.step()
    other = optim.AdamWScheduleFree(params, lr=0.1, **options)
    other.load_state_dict(saved)
    other.train()
    equal(params, values, rtol)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_schedule_free_modes_do_not_change_the_run(backend, dtype):
    """`train` after `eval` gives y back bit for bit, also from a saved state; changes are kept."""
    runs = []
    for has_modes in (False, True):
        params = make(backend, dtype)
        optimizer = optim.AdamWScheduleFree(params, lr=0.1, betas=(0.7, 0.9))
        for t in (1, 2, 3):
            steps(optimizer, params, [t], (1,))
            if has_modes:
                assert "y" not in optimizer.state_dict()["state"][0]
                optimizer.eval()
                averages, saved = host(params), optimizer.state_dict()
                for p in params:
                    p.data[...] = 0
                optimizer = optim.AdamWScheduleFree(params, lr=0.1, betas=(0.7, 0.9))
                optimizer.load_state_dict(saved)
                for p, x in zip(params, averages, strict=True):
                    p.data[...] = gpuprop.tensor(x).data.astype(dtype)
                optimizer.train()
        runs.append(frozen([host(params), optimizer.state_dict()]))
    assert runs[0] == runs[1]
    optimizer.eval()
    first, y, z = host(params)[0], optimizer.state[params[0]]["y"], optimizer.state[params[0]]["z"]
    params[0].data[0] = 2
    y, z = gpuprop.asnumpy(y), gpuprop.asnumpy(z)
    optimizer.train()
    expected = y.astype("float64")
    expected[0] = 2 + (1 - 0.7) * (z[0].astype("float64") - 2)
    assert first.shape == expected.shape
    np.testing.assert_allclose(host(params)[0].astype("float64"), expected,
                               rtol=1e-3 if dtype == "float16" else 1e-6)


def test_bias_correction_is_accurate():
    """Adam's first step has size lr for every beta2.  1 - beta**t in float32 loses four digits."""
    for beta in (0.999, 0.9999999):
        p = Parameter(np.zeros(3, "float32"))
        optimizer = optim.Adam([p], lr=1.0, betas=(0.9, beta))
        p.grad = np.full(3, 2.0, "float32")
        optimizer.step()
        np.testing.assert_allclose(p.numpy(), -1, rtol=1e-6)


@pytest.mark.parametrize("name", [name for name in RULES if name not in (
    "SGD", "Rprop", "ASGD", "Lion", "Adafactor", "Muon", "SparseAdam")])  # those have no eps of 0
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_elements_without_gradient_are_not_updated(backend, name, dtype):
    """eps=0, or an eps that float16 cannot represent, does not give 0 / 0 = NaN, nor in padding."""
    for eps in (0.0, 1e-8):
        p = Parameter(backend.asarray(np.ones(3, dtype)))
        optimizer = getattr(optim, name)([p], lr=0.5, eps=eps, weight_decay=0)
        p.grad = backend.asarray(np.array([1, 0, -1], dtype))
        optimizer.step()
        (_, middle, _) = p.numpy()
        assert middle == 1 and not gpuprop.asnumpy(arena(optimizer).data[3:]).any()


# ---- stepping -----------------------------------------------------------------------------------


def test_backward_through_a_stepped_parameter_raises(backend):
    params = make(backend)
    optimizer = optim.SGD(params, lr=1.0)
    loss = (params[0] * params[0]).sum()
    unaffected = (params[1] * params[1]).sum()
    feed(params, 0, (1,))
    optimizer.step()
    with pytest.raises(RuntimeError, match="changed by a step or a load"):
        loss.backward()
    unaffected.backward()  # its parameter had no gradient and was not stepped
    loss = (params[0] * params[0]).sum()
    nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(params), params)
    with pytest.raises(RuntimeError, match="changed by a step or a load"):
        loss.backward()


def test_a_step_does_not_wait_for_the_device(backend):
    params = make(backend, "float32")
    optimizer = optim.AdamW(params, amsgrad=True)
    with no_syncs(backend, "a step"):
        for i in range(2):
            steps(optimizer, params, [i], (1,) if i else ())
            nn.utils.clip_grad_norm_(params, 1.0)
            nn.utils.clip_grad_value_(params, 1.0)
            optimizer.param_groups[0]["lr"] = 0.1


def test_closure(backend):
    p = make(backend)[0]
    optimizer = optim.SGD([p], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    with gpuprop.no_grad():
        loss = optimizer.step(closure)
    np.testing.assert_allclose(loss.item(), (VALUES[0] ** 2).sum())
    equal([p], [VALUES[0] * 0.8])
    assert optim.SGD([p]).step() is None


def test_options_are_written_in_place_and_read_as_numbers(backend):
    params = make(backend)
    optimizer = optim.Adam(params, lr=0.1)
    group = optimizer.param_groups[0]
    scalars = arena(optimizer).scalars
    before = list(map(id, scalars))
    group["lr"] = 0.2
    group.update(betas=(0.5, 0.6))
    group |= {"weight_decay": 1}
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.2, (0.5, 0.6), 1)
    assert before == list(map(id, scalars))
    assert [gpuprop.asnumpy(s).item() for s in scalars] == [0.2, 0.5, 0.6, 1e-8, 1]
    assert {s.dtype for s in scalars} == {np.dtype("float64")}
    with pytest.raises((TypeError, ValueError)):
        group["lr"] = "fast"
    assert group["lr"] == 0.2


def test_a_tensor_as_learning_rate_is_read_at_each_step(backend):
    p = make(backend)[0]
    lr = gpuprop.tensor(0.5)
    optimizer = optim.SGD([p], lr=lr)
    steps(optimizer, [p], [0])
    lr.data[...] = 2.0
    steps(optimizer, [p], [1])
    equal([p], [VALUES[0] - 0.5 * GRADS[0][0] - 2 * GRADS[1][0]])
    assert optimizer.param_groups[0]["lr"] is lr
    assert optimizer.state_dict()["param_groups"][0]["lr"] == 2.0
    with pytest.raises(ValueError, match="1-element"):
        optim.SGD([p], lr=gpuprop.tensor([0.5, 0.5]))


def test_groups_have_their_own_options(backend):
    params = make(backend)
    groups = [{"params": params[0], "lr": 1.0}, {"params": iter(params[1:3])}]
    optimizer = optim.SGD(groups, lr=2.0)
    steps(optimizer, params, [0])
    optimizer.add_param_group({"params": params[3:], "lr": 4.0})
    steps(optimizer, params, [1])
    rates = [(1, 1), (2, 2), (2, 2), (0, 4), (0, 4)]
    equal(params, [v - a * g - b * h
                   for v, g, h, (a, b) in zip(VALUES, *GRADS[:2], rates, strict=True)])


def test_names(backend):
    params = make(backend)
    optimizer = optim.SGD([("a", params[0]), ("b", params[1])])
    for groups in (optimizer.param_groups, optimizer.state_dict()["param_groups"]):
        assert groups[0]["param_names"] == ["a", "b"]
    with pytest.raises(ValueError, match="with/without names"):
        optimizer.add_param_group({"params": params[2]})
    with pytest.raises(ValueError, match="with/without names"):
        optim.SGD([("a", params[0]), params[1]])


def test_errors(backend):
    p, q = make(backend)[:2]
    for params, error, words in [
        ([], ValueError, "empty"),
        (p, TypeError, r"write \[p\]"),
        ([{"params": {p}}], TypeError, "give a list"),
        ([p.data], TypeError, "Parameters"),
        ([p * 2], TypeError, r"gpuprop\.Parameter"),
    ]:
        with pytest.raises(error, match=words):
            optim.SGD(params)
    with pytest.raises(NotImplementedError, match="differentiable"):
        optim.Adam([p], differentiable=True)
    for options in ({"lr": -1}, {"momentum": -1}, {"weight_decay": -1}, {"nesterov": True}):
        with pytest.raises(ValueError):
            optim.SGD([p], **options)
    optimizer = optim.Adam([p], foreach=True, fused=False, capturable=True)  # ignored
    with pytest.raises(TypeError, match="dict"):
        optimizer.add_param_group([q])
    for options in ({"betas": (1.0, 0.9)}, {"eps": -1}, {"lr": math.nan}):
        with pytest.raises(ValueError, match=f"AdamW: {next(iter(options))}.* must be a number in"):
            optim.AdamW([p], **options)


def test_repr(backend):
    text = repr(optim.Adam(make(backend)))
    assert "Parameter Group 0" in text and "lr: 0.001" in text


# ---- rules of users -----------------------------------------------------------------------------


def test_a_rule_with_state_constants_and_coefficients(backend):
    class Averaging(optim.Optimizer):
        scalar_options = ("lr", "decays")

        def __init__(self, params, lr, decays):
            super().__init__(params, {"lr": lr, "decays": decays, "maximize": False})

        @staticmethod
        def kernel_coefficients(xp, step, lr, decay, unused):
            return lr / xp.sqrt(step), xp.exp(xp.log(decay)), 1 - decay, xp.sinh(unused)

        @staticmethod
        def state_names(group):
            return ("average",)

        @staticmethod
        def kernel_constants(group):
            return {"maximize": group["maximize"]}

        @staticmethod
        @gpuprop.pointwise
        def update_kernel(xp, p, g, lr, decay, one_minus_decay, zero, average, *, maximize):
            average *= decay
            average += one_minus_decay * (-g if maximize else g)
            p -= lr * average + zero

    params = make(backend)
    optimizer = Averaging(params, 0.1, (0.75, 0.0))
    values, averages = list(VALUES), [0] * len(VALUES)
    for i in range(3):
        if i == 2:
            optimizer.param_groups[0].update(maximize=True, lr=0.2)
        steps(optimizer, params, [i])
        for n, g in enumerate(GRADS[i]):
            averages[n] = 0.75 * averages[n] + 0.25 * (-g if i == 2 else g)
            values[n] = values[n] - (0.2 if i == 2 else 0.1) / math.sqrt(i + 1) * averages[n]
    equal(params, values)
    assert optimizer.state_dict()["state"][0].keys() == {"step", "average"}


NAMES = ["run", "update", "live", "states", "check", "keep", "options", "kernel", "coefficients",
         "constants", "capture_key", "params", "arenas", "group", "build", "scale", "settle"]


def clash(*args, **kwargs):
    raise AssertionError("a user's method was called")


@pytest.mark.parametrize("base", [optim.SGD, optim.Adam, optim.RMSprop])
def test_a_subclass_may_define_methods_of_any_other_name(backend, base):
    cls = type("Mine", (base,), dict.fromkeys(NAMES, clash))
    params, expected = make(backend), make(backend)
    optimizer = cls(params, lr=0.1)
    reference = base(expected, lr=0.1)
    for i in range(2):
        steps(optimizer, params, [i])
        steps(reference, expected, [i])
    equal(params, host(expected))
    other = cls(make(backend), lr=0.3)
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["lr"] == 0.1
    copy.deepcopy(optimizer).step()


def test_a_schedule_may_define_methods_of_any_other_name(backend):
    def get_lr(self):
        return [1 / (1 + self.last_epoch)]

    base = optim.lr_scheduler.LRScheduler
    cls = type("Mine", (base,), {**dict.fromkeys(NAMES, clash), "get_lr": get_lr})
    optimizer = optim.SGD(make(backend), lr=1.0)
    scheduler = cls(optimizer)
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.5 == scheduler.get_last_lr()[0]


# ---- state --------------------------------------------------------------------------------------


@every_rule
def test_state_is_plain_and_resumes(backend, name, options):
    params, restored = make(backend, rule=name), make(backend, rule=name)
    optimizer = getattr(optim, name)(params, lr=0.1, **options)
    steps(optimizer, params, [0, 1], (1,))
    steps(optimizer, params, [2])
    saved = pickle.loads(pickle.dumps(optimizer.state_dict()))
    for entry in saved["state"].values():
        assert all(type(v) in (int, float, np.ndarray) for v in entry.values())
    other = getattr(optim, name)(restored, lr=0.7)
    for p, q in zip(restored, params, strict=True):
        p.data[...] = q.data
    other.load_state_dict(saved)
    for o, ps in ((optimizer, params), (other, restored)):
        steps(o, ps, [3, 4])
    equal(restored, host(params))
    assert other.param_groups[0]["lr"] == 0.1


def test_state_layout(backend):
    params = make(backend)
    optimizer = optim.Adam(params, amsgrad=True)
    steps(optimizer, params, [0], (1,))
    saved = optimizer.state_dict()
    assert saved["state"].keys() == {0, 2, 3, 4}
    assert saved["param_groups"][0]["params"] == [0, 1, 2, 3, 4]
    assert saved["state"][4].keys() == {"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"}
    assert saved["state"][4]["step"] == 1
    assert saved["state"][4]["exp_avg"].shape == (1, 70)
    state = optimizer.state
    assert list(state) == [params[i] for i in (0, 2, 3, 4)]
    state[params[0]]["exp_avg"][...] = 7  # views
    assert (optimizer.state_dict()["state"][0]["exp_avg"] == 7).all()
    plain = optim.SGD(params)
    steps(plain, params, [0])
    assert plain.state_dict()["state"] == {}


def test_state_that_does_not_fit_changes_nothing(backend):
    params = make(backend)
    optimizer = optim.Adam(params, lr=0.1)
    steps(optimizer, params, [0])
    before = optimizer.state_dict()
    wrong = copy.deepcopy(before)
    wrong["param_groups"][0]["lr"] = 5.0
    wrong["state"][4]["exp_avg"] = np.ones((70, 1))
    fewer = {**before, "param_groups": [{**before["param_groups"][0], "params": [0, 1]}]}
    none = {**before, "param_groups": []}
    shapes = r"exp_avg.* .*\(70, 1\).*\(1, 70\)"
    for saved, words in ((wrong, shapes), (fewer, "2 parameters"), (none, "0 parameter groups")):
        with pytest.raises(ValueError, match=words):
            optimizer.load_state_dict(saved)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    np.testing.assert_array_equal(after["state"][4]["exp_avg"], before["state"][4]["exp_avg"])


def test_adam_state_in_adamw(backend):
    params = make(backend)
    adam, adamw = optim.Adam(params), optim.AdamW(make(backend))
    steps(adam, params, [0])
    adamw.load_state_dict(adam.state_dict())
    group = adamw.param_groups[0]
    assert group["decoupled_weight_decay"] and group["weight_decay"] == 0


def test_model_and_optimizer_are_copied_together(backend):
    params = make(backend)
    optimizer = optim.Adam(params, lr=0.1)
    steps(optimizer, params, [0])
    ps, other = copy.deepcopy((params, optimizer))
    assert all(p is q for p, q in zip(ps, other.param_groups[0]["params"], strict=True))
    steps(optimizer, params, [1])
    steps(other, ps, [1])
    equal(ps, host(params))
    steps(other, ps, [2])
    assert not np.allclose(*host([ps[0], params[0]]))


# ---- captured steps -----------------------------------------------------------------------------


def test_the_key_of_a_captured_step(backend):
    params = make(backend)
    optimizer = optim.SGD(params, lr=1.0, momentum=0.9)
    feed(params, 0)
    key = optimizer._capture_key()
    assert key == optimizer._capture_key() and hash(key) == hash(optimizer._capture_key())
    group = optimizer.param_groups[0]
    group["lr"] = 3.0
    params[0].data = backend.asarray(np.ones(3))
    assert optimizer._capture_key() == key
    assert params[0].data is arena(optimizer).views[0][1]  # copied into the arena
    keys = {key}
    for change in (
        lambda: setattr(params[0], "grad", None),
        lambda: setattr(params[1], "data", params[1].data.copy()),
        lambda: group.update(nesterov=True),
        lambda: group.update(nesterov=False, momentum=0),
        lambda: group.update(weight_decay=0.1),
        lambda: setattr(params[1], "data", params[1].data.astype("float32")),
    ):
        change()
        keys.add(optimizer._capture_key())
    assert len(keys) == 6


def test_optimizer_stepped_reports_the_optimizer(backend):
    one, other = (optim.SGD(make(backend)) for _ in range(2))
    with optimizer_stepped.collect() as stepped:
        other.step()
    one.step()
    assert list(stepped.values()) == [other]


def test_every_optimizer_descends():
    """A parabola and Rosenbrock's function."""
    parabola = lambda x: ((x - 1) * (x - 1)).sum()
    rosenbrock = lambda x: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
    rules = [("SGD", {"lr": 0.001, "momentum": 0.9}), ("Adam", {"lr": 0.1}),
             ("AdamW", {"lr": 0.1}), ("RMSprop", {"lr": 0.005}),
             ("Adafactor", {"lr": 0.1}), ("Adagrad", {"lr": 0.5}), ("Adamax", {"lr": 0.1}),
             ("AdamWScheduleFree", {"lr": 0.1}), ("ASGD", {"lr": 0.002}), ("LAMB", {"lr": 0.05}),
             ("Lion", {"lr": 0.005}), ("NAdam", {"lr": 0.1}),
             ("Rprop", {}), ("SparseAdam", {"lr": 0.1})]
    for (name, options), problem in itertools.product(rules, (parabola, rosenbrock)):
        x = Parameter(np.array([-0.5, 0.7]))
        optimizer = getattr(optim, name)([x], **options)
        before = problem(x).item()
        for _ in range(600):
            optimizer.zero_grad()
            problem(x).backward()
            optimizer.step()
        assert problem(x).item() < 0.02 * before, (name, x)
