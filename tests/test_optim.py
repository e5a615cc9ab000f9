"""Optimizers: each rule against its formula, and the arena, which nobody should notice."""

import copy
import itertools
import math
import pickle

import ml_dtypes
import numpy as np
import pytest

import gpuprop
from gpuprop import BackendMismatchError, Parameter, nn, optim
from gpuprop.backend import backend_of, get_backend
from gpuprop.optim import lr_scheduler
from gpuprop.optim.arena import ALIGNMENT, Arena
from gpuprop.testing import no_syncs

SHAPES = [(3,), (2, 2), (), (0,), (1, 70)]
random = np.random.default_rng(0)
VALUES = [random.standard_normal(s) for s in SHAPES]
GRADS = [[random.standard_normal(s) for s in SHAPES] for _ in range(6)]


def make(backend, dtype="float64", values=VALUES):
    return [Parameter(backend.asarray(v.astype(dtype))) for v in values]


def feed(params, i, skip=(), scale=1.0):
    """Backward through one product a parameter, so that its gradient is that of step i."""
    for n, p in enumerate(params):
        if n not in skip:
            g = backend_of(p.data).asarray((scale * GRADS[i][n]).astype(p.dtype))
            (p * gpuprop.Tensor(g)).sum().backward()


def steps(optimizer, params, numbers, skip=()):
    for i in numbers:
        optimizer.zero_grad()
        feed(params, i, skip)
        optimizer.step()


def host(arrays):
    return [gpuprop.asnumpy(a).astype("float64") for a in arrays]


def equal(params, values, rtol=1e-12):
    for p, v in zip(params, values, strict=True):
        np.testing.assert_allclose(gpuprop.asnumpy(p).astype("float64"), v, rtol=rtol, atol=rtol)


def arena(optimizer, group=0) -> Arena:
    (found,) = optimizer.param_groups[group].arenas
    return found


# ---- the rules, in plain NumPy, one array at a time ------------------------------------------------------------------


def sgd(p, g, s, t, lr, momentum=0, dampening=0, weight_decay=0, nesterov=False):
    g = g + weight_decay * p
    if not momentum:
        return p - lr * g
    s["v"] = g if t == 1 else momentum * s["v"] + (1 - dampening) * g
    return p - lr * (g + momentum * s["v"] if nesterov else s["v"])


def adam(p, g, s, t, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, amsgrad=False, decoupled=False):
    if decoupled:
        p = p - lr * weight_decay * p
    else:
        g = g + weight_decay * p
    s["m"] = betas[0] * s.get("m", 0) + (1 - betas[0]) * g
    s["v"] = betas[1] * s.get("v", 0) + (1 - betas[1]) * g * g
    s["top"] = np.maximum(s.get("top", 0), s["v"])
    v = s["top"] if amsgrad else s["v"]
    return p - lr * (s["m"] / (1 - betas[0] ** t)) / (np.sqrt(v / (1 - betas[1] ** t)) + eps)


def rmsprop(p, g, s, t, lr, alpha=0.99, eps=1e-8, weight_decay=0, momentum=0, centered=False):
    g = g + weight_decay * p
    s["s"] = alpha * s.get("s", 0) + (1 - alpha) * g * g
    s["mean"] = alpha * s.get("mean", 0) + (1 - alpha) * g
    step = g / (np.sqrt(s["s"] - centered * s["mean"] ** 2) + eps)
    s["v"] = momentum * s.get("v", 0) + step
    return p - lr * (s["v"] if momentum else step)


def adamw(p, g, s, t, **options):
    return adam(p, g, s, t, **{"weight_decay": 0.01, **options}, decoupled=True)


RULES = {
    "SGD": (sgd, [{}, {"weight_decay": 0.1}, {"momentum": 0.9}, {"momentum": 0.5, "nesterov": True},
                  {"momentum": 0.9, "dampening": 0.4, "weight_decay": 0.1}]),
    "Adam": (adam, [{}, {"weight_decay": 0.1}, {"amsgrad": True, "betas": (0.5, 0.6)},
                    {"betas": (0.0, 0.9), "eps": 0.1}]),
    "AdamW": (adamw, [{}, {"weight_decay": 0.3, "amsgrad": True}, {"weight_decay": 0}]),
    "RMSprop": (rmsprop, [{}, {"alpha": 0.5, "momentum": 0.9}, {"centered": True, "weight_decay": 0.1},
                          {"centered": True, "momentum": 0.3}]),
}
CASES = [(name, options) for name, (_, cases) in RULES.items() for options in cases]
every_rule = pytest.mark.parametrize(("name", "options"), CASES, ids=[f"{n} {o}" for n, o in CASES])


@every_rule
@pytest.mark.parametrize("maximize", [False, True])
def test_rules(backend, name, options, maximize):
    params, rule = make(backend), RULES[name][0]
    optimizer = getattr(optim, name)(params, lr=0.1, maximize=maximize, **options)
    values, states, counts = list(VALUES), [{} for _ in VALUES], [0] * len(VALUES)
    for i, skip in enumerate([(), (0,), (1, 2), (), (0, 1, 2, 3, 4), ()]):
        steps(optimizer, params, [i], skip)
        for n in set(range(len(VALUES))) - set(skip):
            counts[n] += 1
            sign = -1 if maximize else 1
            values[n] = rule(values[n], sign * GRADS[i][n], states[n], counts[n], lr=0.1, **options)
    equal(params, values)
    home = arena(optimizer)
    for flat in (home.data, home.grad, *home.states.values()):
        assert not gpuprop.asnumpy(flat[home._padding[0]]).any()


@every_rule
@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 3e-6), ("float16", 1e-2), (ml_dtypes.bfloat16, 8e-2)])
def test_lower_precision(backend, name, options, dtype, rtol):
    """State has the parameters' type, as PyTorch's; half types are computed in float32 and rounded once an update."""
    low, high = make(backend, dtype), make(backend)
    for params in (low, high):
        steps(getattr(optim, name)(params, lr=0.05, **options), params, range(3))
    equal(low, host(high), rtol)
    assert {p.dtype for p in low} == {np.dtype(dtype)}


def test_bias_correction_keeps_its_digits():
    """At the first step Adam moves by lr, whatever beta2: 1 - beta**t in float32 would lose four digits."""
    for beta in (0.999, 0.9999999):
        p = Parameter(np.zeros(3, "float32"))
        optimizer = optim.Adam([p], lr=1.0, betas=(0.9, beta))
        p.grad = np.full(3, 2.0, "float32")
        optimizer.step()
        np.testing.assert_allclose(p.numpy(), -1, rtol=1e-6)


@pytest.mark.parametrize("name", ["Adam", "AdamW", "RMSprop"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_no_gradient_ever_is_no_update(backend, name, dtype):
    """eps=0, or an eps that float16 cannot hold, makes no NaN of 0 / 0, in padding or elsewhere."""
    for eps in (0.0, 1e-8):
        p = Parameter(backend.asarray(np.ones(3, dtype)))
        optimizer = getattr(optim, name)([p], lr=0.5, eps=eps, weight_decay=0)
        p.grad = backend.asarray(np.array([1, 0, -1], dtype))
        optimizer.step()
        (_, middle, _) = p.numpy()
        assert middle == 1 and not gpuprop.asnumpy(arena(optimizer).data[3:]).any()


# ---- the arena -------------------------------------------------------------------------------------------------------


def test_parameters_start_at_256_bytes_and_views_share_memory():
    params = make(get_backend("numpy"), "float32")
    optimizer = optim.SGD(params, lr=0.1, momentum=0.9)
    steps(optimizer, params, [0])
    home = arena(optimizer)
    for p in params:
        assert p.data.ctypes.data % ALIGNMENT == 0 == p.grad.ctypes.data % ALIGNMENT
        if p.size:
            assert np.shares_memory(p.data, home.data) and np.shares_memory(p.grad, home.grad)
    assert all(flat.ctypes.data % ALIGNMENT == 0 for flat in home.states.values())
    assert home.data.size == 64 * 5  # of five parameters one is empty and one takes two units


def test_memory_stays_put_and_zero_grad_touches_none(backend):
    params = make(backend)
    optimizer = optim.AdamW(params)
    home = arena(optimizer)
    places = [(id(p.data), id(p.home)) for p in params]
    for i in range(3):
        steps(optimizer, params, [i])
        assert all(p.grad is p.home for p in params)
        before = host([home.grad])
        optimizer.zero_grad()
        assert all(p.grad is None for p in params)
        np.testing.assert_array_equal(host([home.grad]), before)
    assert places == [(id(p.data), id(p.home)) for p in params] and arena(optimizer) is home


def test_gradients_accumulate_at_home(backend):
    params = make(backend)
    optimizer = optim.SGD(params, lr=1.0)
    feed(params, 0)
    feed(params, 1)
    assert all(p.grad is p.home for p in params)
    optimizer.zero_grad(set_to_none=False)
    feed(params, 2)
    optimizer.step()
    equal(params, [v - g for v, g in zip(VALUES, GRADS[2], strict=True)])


def test_what_a_user_assigns_comes_home(backend):
    params = make(backend)
    p, q = params[:2]
    optimizer = optim.SGD(params, lr=1.0)
    p.data = backend.asarray(np.array([1.0, 2.0, 3.0], "float32"))  # of another dtype, too: the arena follows
    q.grad = backend.asarray(np.full((2, 2), 0.5))
    p.grad = gpuprop.Tensor(backend.asarray(np.ones(3)))
    optimizer.step()
    equal(params, [[0, 1, 2], VALUES[1] - 0.5, *VALUES[2:]])
    assert p.dtype == "float32" and p.grad is p.home and q.grad is q.home


def test_values_and_gradients_may_be_swapped_and_views_of_themselves(backend):
    params = make(backend, values=[np.arange(4.0).reshape(2, 2), np.arange(4.0, 8.0).reshape(2, 2)])
    p, q = params
    optimizer = optim.SGD([{"params": [p]}, {"params": [q]}], lr=1.0)
    p.grad, q.grad = backend.asarray(np.ones((2, 2))), backend.asarray(np.full((2, 2), 2.0))
    optimizer.step()
    equal(params, [np.arange(4.0).reshape(2, 2) - 1, np.arange(4.0, 8.0).reshape(2, 2) - 2])
    p.data, q.data = q.data, p.data.T
    p.grad, q.grad = q.grad, p.grad
    optimizer.step()
    equal(params, [np.arange(4.0, 8.0).reshape(2, 2) - 4, np.arange(4.0).reshape(2, 2).T - 2])


def test_a_0d_parameter_may_become_a_numpy_scalar():
    p = Parameter(np.array(2.0))
    optimizer = optim.SGD([p], lr=1.0)
    p.data, p.grad = p.data * 2, np.array(1.0) * 3
    optimizer.step()
    assert p.item() == 1 and type(p.data) is np.ndarray


def test_a_model_moves_and_its_state_with_it():
    """Cast, then to another backend, then back, with steps between: as if it had stayed."""
    import gpuprop.testing  # noqa: F401 (registers strict)

    stay, move = make(get_backend("numpy")), make(get_backend("numpy"))
    one, other = optim.Adam(stay, lr=0.1, amsgrad=True), optim.Adam(move, lr=0.1, amsgrad=True)
    places = [("numpy", "float64"), ("numpy", "float32"), ("strict", "float32"), ("strict", "float64"),
              ("numpy", "float64")]
    for i, (where, dtype) in enumerate(places):
        for p in move:
            p.data = get_backend(where).asarray(p.numpy().astype(dtype))
            p.grad = p.home = None
        for optimizer, params in ((one, stay), (other, move)):
            steps(optimizer, params, [i], (1,) if i == 2 else ())
        assert backend_of(arena(other).data).name == where and arena(other).dtype == dtype
    equal(move, host(stay), 1e-5)
    assert [e["step"] for e in other.state_dict()["state"].values()] == [5, 4, 5, 5, 5]


def test_gradients_move_with_the_model(backend):
    params = make(backend)
    optimizer = optim.SGD(params, lr=1.0)
    feed(params, 0)
    for p in params:
        p.data, p.grad, p.home = p.data.astype("float32"), p.grad.astype("float32"), None
    optimizer.step()
    equal(params, [v - g for v, g in zip(VALUES, GRADS[0], strict=True)], 1e-6)
    optim.SGD(params, lr=0.0).step()  # gradients from before an optimizer was made are stepped with, too
    assert all(p.grad is p.home for p in params)


def test_dtypes_have_arenas_of_their_own(backend):
    dtypes = ["float64", "float32", "float16", ml_dtypes.bfloat16, "float32"]
    params = [Parameter(backend.asarray(np.ones(3, d))) for d in dtypes]
    optimizer = optim.SGD(params, lr=0.5, momentum=0.9)
    for _ in range(2):
        for p in params:
            p.grad = backend.xp.ones_like(p.data)
        optimizer.step()
    assert [len(a.params) for a in optimizer.param_groups[0].arenas] == [1, 2, 1, 1]
    equal(params, [np.full(3, 1 - 0.5 - 0.5 * 1.9)] * 5, 1e-2)


def test_a_changed_shape_is_an_error_with_both_shapes(backend):
    params = make(backend)
    optimizer = optim.SGD([(f"p{i}", p) for i, p in enumerate(params)], lr=1.0)
    feed(params, 0)
    params[0].data = backend.asarray(np.ones(3))
    params[1].data = backend.asarray(np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"p1 .*\(2, 2\).*\(2, 3\)"):
        optimizer.step()
    equal([params[0], params[4]], [np.ones(3), VALUES[4]])  # nothing was stepped


def test_gradients_that_do_not_fit(backend):
    params = make(backend)
    optimizer = optim.SGD(params, lr=1.0)
    params[1].grad = backend.asarray(np.ones(2))  # it would broadcast
    with pytest.raises(ValueError, match=r"parameter 1 .*\(2, 2\).*\(2,\)"):
        optimizer.step()
    if backend.name != "numpy":
        params[1].grad = np.ones((2, 2))
        with pytest.raises(BackendMismatchError, match=r"parameter 1 .*asarray"):
            optimizer.step()


def test_two_optimizers_on_one_parameter(backend):
    params = make(backend)
    one, other = optim.SGD(params, lr=1.0), optim.SGD(params[1:], lr=10.0)
    for i in range(2):
        one.zero_grad()
        feed(params, i)
        one.step()
        other.step()
    total = [a + b for a, b in zip(*GRADS[:2], strict=True)]
    equal(params, [v - g * (11 if n else 1) for n, (v, g) in enumerate(zip(VALUES, total, strict=True))])


def test_ties(backend):
    p, q = make(backend)[:2]
    with pytest.raises(ValueError, match="one Parameter in both places"):
        optim.SGD([p, q, p])
    with pytest.raises(ValueError, match="twice"):
        optim.SGD([{"params": [p]}, {"params": [q, p]}])
    with pytest.raises(ValueError, match="one Parameter in both places"):
        optim.SGD([p, Parameter(gpuprop.Tensor(p.data))])
    r = make(backend)[0]
    optimizer = optim.SGD([p, q, r])
    r.data = p.data
    with pytest.raises(ValueError, match="one Parameter in both places"):
        optimizer.step()
    tied = nn.Linear(3, 3)
    tied.again = tied.weight
    assert len(list(tied.parameters())) == 2


def test_frozen_parameters_cost_nothing_and_may_thaw(backend):
    params = make(backend)
    for p in params[:2]:
        p.requires_grad_(False)
    integers = Parameter(backend.asarray(np.arange(3)), requires_grad=False)
    optimizer = optim.Adam([*params, integers], lr=0.1)
    assert arena(optimizer).params == params[2:]
    thawed = make(backend)
    other = optim.Adam(thawed, lr=0.1)
    steps(optimizer, params, [0], (0, 1))
    steps(other, thawed, [0], (0, 1))
    params[1].requires_grad_(True)
    steps(optimizer, params, [1], (0,))
    steps(other, thawed, [1], (0,))
    equal(params, host(thawed))
    assert arena(optimizer).params == params[1:] and integers.tolist() == [0, 1, 2]
    assert optimizer.state_dict()["state"].keys() == {1, 2, 3, 4}
    fresh = optim.Adam([*make(backend), integers], lr=0.1)
    fresh.param_groups[0]["params"][0].requires_grad_(False)
    fresh.load_state_dict(optimizer.state_dict())
    assert fresh.state_dict()["state"].keys() == {1, 2, 3, 4}


def test_histories_make_few_stretches(backend):
    params = make(backend)
    optimizer = optim.Adam(params)
    count = lambda: len(arena(optimizer).stretches(optimizer.param_groups[0].states))
    steps(optimizer, params, [0])
    assert count() == 1
    steps(optimizer, params, [1], (0, 1))
    assert count() == 1  # the other three
    steps(optimizer, params, [2, 3])
    assert count() == 2  # their counts differ for good
    plain = optim.SGD(params)
    steps(plain, params, [0], (0, 1))
    steps(plain, params, [1])
    assert len(arena(plain).stretches(())) == 1  # without state there is no history


# ---- stepping --------------------------------------------------------------------------------------------------------


def test_backward_through_a_stepped_parameter_raises(backend):
    params = make(backend)
    optimizer = optim.SGD(params, lr=1.0)
    loss, spared = (params[0] * params[0]).sum(), (params[1] * params[1]).sum()
    feed(params, 0, (1,))
    optimizer.step()
    with pytest.raises(RuntimeError, match="stepped or loaded"):
        loss.backward()
    spared.backward()  # its parameter had no gradient and was not stepped
    loss = (params[0] * params[0]).sum()
    nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(params), params)
    with pytest.raises(RuntimeError, match="stepped or loaded"):
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
    group, options = optimizer.param_groups[0], arena(optimizer).options
    before = list(map(id, options))
    group["lr"] = 0.2
    group.update(betas=(0.5, 0.6))
    group |= {"weight_decay": 1}
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.2, (0.5, 0.6), 1)
    assert before == list(map(id, options))
    assert [gpuprop.asnumpy(o).item() for o in options] == [0.2, 0.5, 0.6, 1e-8, 1]
    assert {o.dtype for o in options} == {np.dtype("float64")}
    with pytest.raises((TypeError, ValueError)):
        group["lr"] = "fast"
    assert group["lr"] == 0.2


def test_a_tensor_as_learning_rate_is_read_at_each_step(backend):
    p, lr = make(backend)[0], gpuprop.tensor(0.5)
    optimizer = optim.SGD([p], lr=lr)
    steps(optimizer, [p], [0])
    lr.data[...] = 2.0
    steps(optimizer, [p], [1])
    equal([p], [VALUES[0] - 0.5 * GRADS[0][0] - 2 * GRADS[1][0]])
    assert optimizer.param_groups[0]["lr"] is lr and optimizer.state_dict()["param_groups"][0]["lr"] == 2.0
    with pytest.raises(ValueError, match="1-element"):
        optim.SGD([p], lr=gpuprop.tensor([0.5, 0.5]))


def test_groups_have_their_own_options(backend):
    params = make(backend)
    optimizer = optim.SGD([{"params": params[0], "lr": 1.0}, {"params": iter(params[1:3])}], lr=2.0)
    steps(optimizer, params, [0])
    optimizer.add_param_group({"params": params[3:], "lr": 4.0})
    steps(optimizer, params, [1])
    rates = [(1, 1), (2, 2), (2, 2), (0, 4), (0, 4)]
    equal(params, [v - a * g - b * h for v, g, h, (a, b) in zip(VALUES, *GRADS[:2], rates, strict=True)])


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
    for wrong, error, words in [
        ([], ValueError, "empty"), (p, TypeError, r"write \[p\]"), ([{"params": {p}}], TypeError, "give a list"),
        ([p.data], TypeError, "Parameters"), ([gpuprop.Tensor(p.data)], TypeError, r"gpuprop\.Parameter"),
    ]:
        with pytest.raises(error, match=words):
            optim.SGD(wrong)
    with pytest.raises(NotImplementedError, match="differentiable"):
        optim.Adam([p], differentiable=True)
    for options in ({"lr": -1}, {"momentum": -1}, {"weight_decay": -1}, {"nesterov": True}):
        with pytest.raises(ValueError):
            optim.SGD([p], **options)
    optimizer = optim.Adam([p], foreach=True, fused=False, capturable=True)  # hints, which change nothing
    with pytest.raises(TypeError, match="dict"):
        optimizer.add_param_group([q])
    for options in ({"betas": (1.0, 0.9)}, {"eps": -1}, {"lr": math.nan}):
        with pytest.raises(ValueError, match="Invalid"):
            optim.AdamW([p], **options)
    assert "Parameter Group 0" in repr(optimizer) and "lr: 0.001" in repr(optimizer)


# ---- state -----------------------------------------------------------------------------------------------------------


@every_rule
def test_state_is_plain_and_resumes(backend, name, options):
    params, fresh = make(backend), make(backend)
    optimizer = getattr(optim, name)(params, lr=0.1, **options)
    steps(optimizer, params, [0, 1], (1,))
    steps(optimizer, params, [2])
    saved = pickle.loads(pickle.dumps(optimizer.state_dict()))
    for entry in saved["state"].values():
        assert all(type(v) in (int, np.ndarray) for v in entry.values())
    other = getattr(optim, name)(fresh, lr=0.7)
    for p, q in zip(fresh, params, strict=True):
        p.data[...] = q.data
    other.load_state_dict(saved)
    for o, ps in ((optimizer, params), (other, fresh)):
        steps(o, ps, [3, 4])
    equal(fresh, host(params))
    assert other.param_groups[0]["lr"] == 0.1


def test_state_layout(backend):
    params = make(backend)
    optimizer = optim.Adam(params, amsgrad=True)
    steps(optimizer, params, [0], (1,))
    saved = optimizer.state_dict()
    assert saved["state"].keys() == {0, 2, 3, 4} and saved["param_groups"][0]["params"] == [0, 1, 2, 3, 4]
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
    misshapen = r"exp_avg .*\(70, 1\).*\(1, 70\)"
    for saved, words in ((wrong, misshapen), (fewer, "2 parameters"), (none, "0 parameter groups")):
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
    assert adamw.param_groups[0]["decoupled_weight_decay"] and adamw.param_groups[0]["weight_decay"] == 0


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


# ---- gradients as a whole --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm_type", [2, 1, 3.5, math.inf, -math.inf, -1])
@pytest.mark.parametrize("homes", ["one arena", "two arenas", "none", "some"])
def test_clipping_by_norm(backend, norm_type, homes):
    params = make(backend)
    if homes == "two arenas":
        optim.SGD([{"params": params[:2]}, {"params": params[2:]}])
    elif homes != "none":
        optim.SGD(params if homes == "one arena" else params[1:4])
    feed(params, 0, (3,))
    whole = np.concatenate([np.ravel(g) for n, g in enumerate(GRADS[0]) if n != 3])
    expected = np.linalg.norm(whole, norm_type)
    for max_norm in (2 * expected, expected / 2):
        norm = nn.utils.clip_grad_norm_(iter(params), max_norm, norm_type)
        np.testing.assert_allclose(norm.item(), expected, rtol=1e-12)
    share = min(expected / 2 / (expected + 1e-6), 1)
    for n, p in enumerate(params):
        if n != 3:
            np.testing.assert_allclose(gpuprop.asnumpy(p.grad), GRADS[0][n] * share, rtol=1e-12)


def test_clipping_low_precision_and_nothing(backend):
    p = Parameter(backend.asarray(np.ones(3, "float16")))
    assert nn.utils.clip_grad_norm_(p, 1.0).item() == 0
    p.grad = backend.asarray(np.full(3, 40000, "float16"))  # whose squares float16 cannot hold
    np.testing.assert_allclose(nn.utils.clip_grad_norm_(p, 1.0).item(), 40000 * 3 ** 0.5, rtol=1e-3)
    np.testing.assert_allclose(gpuprop.asnumpy(p.grad), 3 ** -0.5, rtol=1e-3)
    with pytest.raises(ValueError):
        nn.utils.clip_grad_norm_(p, 1.0, norm_type=0)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_clipping_what_is_not_finite_leaves_no_trace(backend, value):
    params = make(backend)
    optimizer = optim.SGD(params, lr=1.0)
    feed(params, 0)
    params[0].grad[...] = value
    with pytest.raises(RuntimeError, match="non-finite"):
        nn.utils.clip_grad_norm_(params, 1.0, error_if_nonfinite=True)
    with np.errstate(invalid="ignore"):
        nn.utils.clip_grad_norm_(params, 1.0)
    assert np.isnan(gpuprop.asnumpy(params[0].grad)).all()
    optimizer.zero_grad()
    feed(params, 1)
    assert math.isfinite(nn.utils.clip_grad_norm_(params, 1.0).item())  # the padding, too, is clean


def test_clipping_by_value(backend):
    params = make(backend)
    optim.SGD(params[1:])
    feed(params, 0)
    nn.utils.clip_grad_value_(params, 0.3)
    for p, g in zip(params, GRADS[0], strict=True):
        np.testing.assert_allclose(gpuprop.asnumpy(p.grad), np.clip(g, -0.3, 0.3))
    with pytest.raises(ValueError):
        nn.utils.clip_grad_value_(params, -1)


def test_parameters_as_a_vector(backend):
    params = make(backend)
    optimizer = optim.SGD(params, lr=1.0)
    vector = nn.utils.parameters_to_vector(params)
    np.testing.assert_array_equal(vector.numpy(), np.concatenate(list(map(np.ravel, VALUES))))
    (vector * vector).sum().backward()
    optimizer.step()
    equal(params, [-v for v in VALUES])
    homes = [id(p.data) for p in params]
    nn.utils.vector_to_parameters(vector.detach() * 0 + 1, params)
    equal(params, list(map(np.ones_like, VALUES)))
    assert homes == [id(p.data) for p in params]
    with pytest.raises(ValueError, match="elements"):
        nn.utils.vector_to_parameters(vector[1:], params)
    with pytest.raises(TypeError):
        nn.utils.vector_to_parameters(VALUES[0], params)


# ---- captured steps --------------------------------------------------------------------------------------------------


def test_the_key_of_a_captured_step(backend):
    params = make(backend)
    optimizer = optim.SGD(params, lr=1.0, momentum=0.9)
    feed(params, 0)
    key = optimizer.capture_key()
    assert key == optimizer.capture_key() and hash(key) == hash(optimizer.capture_key())
    optimizer.param_groups[0]["lr"] = 3.0
    params[0].data = backend.asarray(np.ones(3))
    assert optimizer.capture_key() == key and params[0].data is arena(optimizer).places[0][1]  # it was brought home
    keys = {key}
    group = optimizer.param_groups[0]
    for change in (lambda: setattr(params[0], "grad", None), lambda: setattr(params[1], "data", params[1].data.copy()),
                   lambda: group.update(nesterov=True), lambda: group.update(nesterov=False, momentum=0),
                   lambda: group.update(weight_decay=0.1),
                   lambda: setattr(params[1], "data", params[1].data.astype("float32"))):
        change()
        keys.add(optimizer.capture_key())
    assert len(keys) == 6


def test_watch_notes_who_steps(backend):
    one, other = (optim.SGD(make(backend)) for _ in range(2))
    with optim.optimizer.watch() as stepped:
        other.step()
    one.step()
    assert list(stepped) == [other]


# ---- schedules -------------------------------------------------------------------------------------------------------


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


def test_every_optimizer_descends():
    """The same two problems for all: a parabola, and Rosenbrock's valley."""
    parabola = lambda x: ((x - 1) * (x - 1)).sum()
    rosenbrock = lambda x: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
    rules = [("SGD", {"lr": 0.001, "momentum": 0.9}), ("Adam", {"lr": 0.1}), ("AdamW", {"lr": 0.1}),
             ("RMSprop", {"lr": 0.005})]
    for (name, options), problem in itertools.product(rules, (parabola, rosenbrock)):
        x = Parameter(np.array([-0.5, 0.7]))
        optimizer = getattr(optim, name)([x], **options)
        before = problem(x).item()
        for _ in range(600):
            optimizer.zero_grad()
            problem(x).backward()
            optimizer.step()
        assert problem(x).item() < 0.02 * before, (name, x)
