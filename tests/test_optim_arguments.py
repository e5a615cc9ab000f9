"""What a user gives to an optimizer or a schedule is checked when it is given.

What a user changes later is followed or refused, and never ignored.
"""

import copy
import inspect
import pickle

import numpy as np
import pytest
from stepping import VALUES, arena, equal, feed, frozen, host, make, steps
from test_load_state import OPTIMIZERS, SCHEDULES

import gpuprop
from gpuprop import Parameter, nn, optim
from gpuprop.optim import lr_scheduler

PAIR = np.array([0.1, 0.2])
WRONG = [None, "0.1", object(), float("nan"), float("inf"), -float("inf"), -1, -0.5, True, 1j,
         [], [0.1], (), {}, PAIR, gpuprop.tensor([0.1, 0.2]), np.float64("nan")]
RULES = sorted(name for name, value in vars(optim).items()
               if isinstance(value, type) and value is not optim.Optimizer)
REQUIRED = {  # the arguments without a default, besides `optimizer`
    "LambdaLR": {"lr_lambda": lambda epoch: 1.0}, "StepLR": {"step_size": 2},
    "MultiStepLR": {"milestones": [1, 2]}, "ExponentialLR": {"gamma": 0.9},
    "CosineAnnealingLR": {"T_max": 5}, "MultiplicativeLR": {"lr_lambda": lambda epoch: 1.0},
    "CosineAnnealingWarmRestarts": {"T_0": 5}, "CyclicLR": {"base_lr": 0.1, "max_lr": 0.5},
    "OneCycleLR": {"max_lr": 0.5, "total_steps": 9},
}
CLASSES = [name for name in SCHEDULES if name not in ("ChainedScheduler", "SequentialLR")]
# Of WRONG, those that are right: by parameter.
FLAG, NEGATIVE = [None, True], [-1, -0.5]
ACCEPTED = {
    "nesterov": FLAG, "amsgrad": FLAG, "centered": FLAG, "maximize": FLAG, "foreach": FLAG,
    "capturable": FLAG, "fused": FLAG, "decoupled_weight_decay": FLAG, "differentiable": [None],
    "betas": [PAIR], "step_sizes": [PAIR], "Adafactor.eps": [PAIR], "adjust_lr_fn": [None],
    "line_search_fn": [None], "max_eval": [None],
    "beta2_decay": NEGATIVE, "dampening": NEGATIVE, "last_epoch": [-1],
    "milestones": [[], (), {}],
    "cycle_momentum": [True], "three_phase": [True],
    "epochs": WRONG, "steps_per_epoch": WRONG,  # total_steps is given
    "scale_fn": [None], "step_size_down": [None],
    **{key: [[0.1]] for key in ("base_lr", "max_lr", "min_lr", "max_momentum", "base_momentum")},
}


def is_accepted(name, value, rule=""):
    accepted = [*ACCEPTED.get(name, []), *ACCEPTED.get(f"{rule}.{name}", [])]
    return any(value is v or (type(value) is type(v) and not hasattr(v, "shape") and value == v)
               for v in accepted)


def arguments(cls, *skipped):
    return [name for name in inspect.signature(cls).parameters if name not in skipped]


@pytest.mark.parametrize("rule", RULES)
def test_every_option_of_a_constructor(backend, rule):
    cls = getattr(optim, rule)
    params = make(backend, rule=rule)
    before = [p.data for p in params]
    for name in arguments(cls, "params"):
        for value in [*WRONG, 10**400]:
            if is_accepted(name, value, rule):
                continue
            for make_optimizer in (
                    lambda: cls(params, **{name: value}),  # noqa: B023
                    lambda: cls([{"params": params[:2]},
                                 {"params": params[2:], name: value}])):  # noqa: B023
                with pytest.raises((TypeError, ValueError, NotImplementedError), match=name):
                    make_optimizer()
                assert all(p.data is a for p, a in zip(params, before, strict=True))


@pytest.mark.parametrize("rule", RULES)
def test_every_option_that_is_assigned(backend, rule):
    params = make(backend, rule=rule)
    optimizer = getattr(optim, rule)(params)
    group = optimizer.param_groups[0]
    snapshot = lambda: frozen([{**group, "params": 0}, host(arena(optimizer).scalars)])
    before = snapshot()
    for name in [*arguments(type(optimizer), "params"), "initial_lr", "max_lr", "max_momentum"]:
        for value in WRONG:
            if is_accepted(name, value, rule):
                continue
            for assign in (lambda: group.__setitem__(name, value),  # noqa: B023
                           lambda: group.update({"lr": 0.5, name: value}),  # noqa: B023
                           lambda: group.__ior__({name: value}),  # noqa: B023
                           lambda: optimizer.add_param_group(
                               {"params": [Parameter([[1.0]])], name: value})):  # noqa: B023
                with pytest.raises((TypeError, ValueError, NotImplementedError), match=name):
                    assign()
                assert snapshot() == before and len(optimizer.param_groups) == 1
    with pytest.raises(ValueError, match=r"betas must be a tuple of 2 numbers"):
        optim.Adam(params).param_groups[0]["betas"] = (0.9, 0.99, 0.999)


@pytest.mark.parametrize("name", CLASSES)
def test_every_argument_of_a_schedule(backend, name):
    cls = getattr(lr_scheduler, name)
    optimizer = optim.SGD(make(backend), lr=0.1, momentum=0.9)
    before = frozen({**optimizer.param_groups[0], "params": 0})
    required = REQUIRED.get(name, {})
    for argument in arguments(cls):
        for value in WRONG:
            if is_accepted(argument, value):
                continue
            given = {"optimizer": optimizer, **required, argument: value}
            with pytest.raises((TypeError, ValueError, KeyError), match=argument):
                cls(**given)
            assert frozen({**optimizer.param_groups[0], "params": 0}) == before, (argument, value)


INTEGERS = [
    ("StepLR", "step_size", 2, {}), ("ConstantLR", "total_iters", 3, {}),
    ("LinearLR", "total_iters", 3, {}), ("CosineAnnealingLR", "T_max", 3, {}),
    ("PolynomialLR", "total_iters", 3, {}), ("CosineAnnealingWarmRestarts", "T_0", 3, {}),
    ("CosineAnnealingWarmRestarts", "T_mult", 2, {"T_0": 3}),
    ("OneCycleLR", "total_steps", 9, {"max_lr": 0.5}), ("ReduceLROnPlateau", "patience", 1, {}),
    ("OneCycleLR", "epochs", 3, {"max_lr": 0.5, "steps_per_epoch": 3}),
    ("OneCycleLR", "steps_per_epoch", 3, {"max_lr": 0.5, "epochs": 3}),
    ("ReduceLROnPlateau", "cooldown", 1, {}), ("ExponentialLR", "last_epoch", -1, {"gamma": 0.5}),
]


def test_every_integer_of_a_schedule_is_here():
    annotated = {n for name in CLASSES for n, p in inspect.signature(
        getattr(lr_scheduler, name)).parameters.items() if str(p.annotation).startswith("int")}
    assert annotated == {argument for _, argument, _, _ in INTEGERS}


@pytest.mark.parametrize(("name", "argument", "value", "others"), INTEGERS)
def test_whole_floats_are_integers(backend, name, argument, value, others):
    rates = []
    for given in (value, float(value), np.float32(value)):
        optimizer = optim.SGD(make(backend), lr=0.1, momentum=0.9)
        schedule = getattr(lr_scheduler, name)(optimizer, **others, **{argument: given})
        rates.append([])
        for _ in range(6):
            schedule.step(*[1.0] * (name == "ReduceLROnPlateau"))
            rates[-1].append(optimizer.param_groups[0]["lr"])
        schedule.load_state_dict(schedule.state_dict())
    assert rates[0] == rates[1] == rates[2]
    with pytest.raises(TypeError, match=f"{argument} must be an integer.*2.5"):
        getattr(lr_scheduler, name)(optimizer, **others, **{argument: 2.5})


def test_0d_arrays_are_numbers_and_tensors_stay(backend):
    p = make(backend)[0]
    lr = gpuprop.tensor(0.5)
    for value in (np.float32(0.5), np.array(0.5), backend.asarray(np.array(0.5))):
        assert type(optim.SGD([p], lr=value).param_groups[0]["lr"]) is float
    optimizer = optim.Adam([p], lr=lr, betas=(gpuprop.tensor(0.5), gpuprop.tensor(0.75)))
    group = optimizer.param_groups[0]
    assert group["lr"] is lr and group["betas"][1].item() == 0.75
    group["betas"][1].data[...] = 0.25
    steps(optimizer, [p], [0])
    assert [float(gpuprop.asnumpy(s)) for s in arena(optimizer).scalars[:3]] == [0.5, 0.5, 0.25]
    for wrong in (gpuprop.tensor(-0.5), gpuprop.tensor(float("nan"))):
        with pytest.raises(ValueError, match="lr must be a number in"):
            group["lr"] = wrong
    with pytest.raises(ValueError, match="all numbers or all Tensors"):
        group["betas"] = 0.5, gpuprop.tensor(0.75)


@pytest.mark.parametrize("params", [
    None, 5, "abc", {"params": []}, {1, 2}, [np.ones(2)], [None], [5], nn.Linear(2, 2),
    [nn.Linear(2, 2)], nn.ModuleList([nn.Linear(2, 2)]), [], iter(()), gpuprop.tensor([1.0]),
    [{"lr": 1}], [{}], [[1]], [{"params": None}], [{"params": nn.Linear(2, 2)}], [("a",)],
    [("a", 1)], [(1, Parameter([1.0]))], [{"params": [Parameter([1.0])], "learning_rate": 0.1}],
    [{"params": [Parameter([1.0])], "param_names": ["a", "b"]}],
    [{"params": [Parameter([1.0])]}, Parameter([1.0])],
])
@pytest.mark.parametrize("rule", RULES)
def test_parameters(rule, params):
    with pytest.raises((TypeError, ValueError)) as caught:
        getattr(optim, rule)(params)
    assert rule in str(caught.value) or "optimizer" in str(caught.value)
    if isinstance(params, nn.Module) or (isinstance(params, list) and params
                                         and isinstance(params[0], nn.Module)):
        assert "model.parameters()" in str(caught.value)


def test_a_refused_group_leaves_the_optimizer_and_parameters(backend):
    params = make(backend)
    optimizer = optim.SGD(params[:2])
    before = [p.data for p in params]
    for group in ({"params": params[1:]}, {"params": params[2:], "lr": -1}, {"lr": 1},
                  {"params": [params[2], None]}, {"params": params[2:], "nesterov": True}):
        with pytest.raises((TypeError, ValueError)):
            optimizer.add_param_group(group)
    assert len(optimizer.param_groups) == 1
    assert all(p.data is a for p, a in zip(params, before, strict=True))


CHANGES = {
    "param_groups": [
        lambda o, p: o.param_groups.append({"params": [p]}),
        lambda o, p: o.param_groups.extend([]), lambda o, p: o.param_groups.insert(0, {}),
        lambda o, p: o.param_groups.pop(), lambda o, p: o.param_groups.clear(),
        lambda o, p: o.param_groups.remove(o.param_groups[0]),
        lambda o, p: o.param_groups.reverse(),
        lambda o, p: o.param_groups.sort(), lambda o, p: o.param_groups.__setitem__(0, {}),
        lambda o, p: o.param_groups.__delitem__(0), lambda o, p: o.param_groups.__iadd__([{}]),
        lambda o, p: setattr(o, "param_groups", [])],
    "params": [
        lambda o, p: o.param_groups[0]["params"].append(p),
        lambda o, p: o.param_groups[0]["params"].__setitem__(0, p),
        lambda o, p: o.param_groups[0]["params"].__delitem__(0),
        lambda o, p: o.param_groups[0]["params"].clear(),
        lambda o, p: o.param_groups[0].__setitem__("params", [p]),
        lambda o, p: o.param_groups[0].update(params=[p]),
        lambda o, p: o.param_groups[0].pop("params"),
        lambda o, p: o.param_groups[0].__delitem__("lr"),
        lambda o, p: o.param_groups[0].popitem(), lambda o, p: o.param_groups[0].clear()],
    "state": [
        lambda o, p: o.state.clear(), lambda o, p: o.state.pop(p), lambda o, p: o.state.popitem(),
        lambda o, p: o.state.__setitem__(p, {}), lambda o, p: o.state.__delitem__(p),
        lambda o, p: o.state.update({p: {}}), lambda o, p: o.state.setdefault(p, {}),
        lambda o, p: setattr(o, "state", {}),
        lambda o, p: first(o).__setitem__("exp_avg", 0), lambda o, p: first(o).clear(),
        lambda o, p: first(o).update(step=5), lambda o, p: first(o).pop("step"),
        lambda o, p: first(o).__ior__({"step": 5}),
        lambda o, p: first(o)["step"].__setitem__(..., 5)],
}


def first(optimizer):
    return next(iter(optimizer.state.values()))


@pytest.mark.parametrize(("change", "what"),
                         [(change, what) for what, cs in CHANGES.items() for change in cs])
def test_changes_that_an_optimizer_would_not_see(backend, change, what):
    params = make(backend)
    optimizer = optim.Adam(params[:-1])
    steps(optimizer, params, [0])
    before = frozen(optimizer.state_dict())
    with pytest.raises((TypeError, AttributeError)) as caught:
        change(optimizer, params[-1])
    assert frozen(optimizer.state_dict()) == before
    if isinstance(caught.value, TypeError) and "step" not in what:
        assert "add_param_group" in str(caught.value) or "load_state_dict" in str(caught.value) \
            or "item assignment" in str(caught.value) or "cannot be removed" in str(caught.value)


def test_states_are_written_in_place(backend):
    params = make(backend)
    optimizer = optim.Adam(params)
    steps(optimizer, params, [0])
    for name, value in first(optimizer).items():
        if name != "step":
            value[...] = 7.0
    saved = optimizer.state_dict()["state"][0]
    assert (saved["exp_avg"] == 7).all() and (saved["exp_avg_sq"] == 7).all()
    assert first(optimizer)["step"] == 1 == first(optimizer)["step"].item()


def test_values_of_the_users_own(backend):
    params = make(backend)
    optimizer = optim.SGD(params)
    group = optimizer.param_groups[0]
    group["name"] = "head"
    assert group.setdefault("initial_lr", 0.5) == 0.5 and group.pop("initial_lr") == 0.5
    other = optim.SGD(make(backend))
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["name"] == "head"
    del group["name"]
    assert group.pop("name", None) is None
    with pytest.raises(KeyError):
        group.pop("name")


def test_copies_of_groups_and_states_are_plain(backend):
    params = make(backend)
    optimizer = optim.Adam(params)
    steps(optimizer, params, [0])
    groups = copy.deepcopy(optimizer.param_groups)
    assert type(groups) is list and type(groups[0]) is dict and type(groups[0]["params"]) is list
    assert type(copy.copy(optimizer.state)) is dict
    other = pickle.loads(pickle.dumps(optimizer))
    assert frozen(other.state_dict()) == frozen(optimizer.state_dict())
    with pytest.raises(TypeError, match="add_param_group"):
        other.param_groups.append({})


@pytest.mark.parametrize("defaults", [None, 5, {}, {"momentum": 1}])
def test_the_defaults_of_a_users_rule(defaults):
    with pytest.raises((TypeError, ValueError), match="Optimizer: defaults"):
        optim.Optimizer([Parameter([1.0])], defaults)


def failing_rule():
    class Rule(optim.Optimizer):
        scalar_options = ("lr", "power")

        def __init__(self, params, lr=0.1, power=1.0):
            super().__init__(params, {"lr": lr, "power": power})

        @staticmethod
        def kernel_coefficients(xp, step, lr, power):
            return (lr / power if hasattr(xp, "array") else lr / float(power),)

        @staticmethod
        def state_names(group):
            return ("sum",)

        @staticmethod
        @gpuprop.pointwise
        def update_kernel(xp, p, g, lr, total):
            total += g
            p -= lr * total

    return Rule


def test_a_group_that_cannot_be_stepped_leaves_the_others():
    params = [Parameter(np.ones(3)), Parameter(np.ones(3))]
    optimizer = failing_rule()([{"params": params[:1]}, {"params": params[1:]}])
    other = failing_rule()([{"params": [Parameter(np.ones(3))]},
                            {"params": [Parameter(np.ones(3))]}])
    optimizer.param_groups[1]["power"] = 0.0
    for p in params:
        p.grad = np.ones(3)
    before = frozen([[p.data, p.grad] for p in params] + [optimizer.state_dict()])
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            optimizer.step()
        assert frozen([[p.data, p.grad] for p in params] + [optimizer.state_dict()]) == before
    optimizer.param_groups[1]["power"] = 1.0
    optimizer.step()
    theirs = list(other._params())
    for p in theirs:
        p.grad = np.ones(3)
    other.step()
    equal(params, host(theirs))


def broken_kernel(is_broken):
    """A rule whose kernel raises in the groups with scale > 1."""
    class Rule(optim.Optimizer):
        scalar_options = {"lr": "[0, inf)"}
        state_names = staticmethod(lambda group: ("total",))
        kernel_constants = staticmethod(lambda group: {"scale": group["scale"]})

        def __init__(self, params):
            super().__init__(params, {"lr": 0.5, "scale": 1})

        @staticmethod
        @gpuprop.pointwise
        def update_kernel(xp, p, g, lr, total, *, scale):
            if scale > 1:
                is_broken.append(1)
                raise ZeroDivisionError
            total += g
            p -= lr * total

    return Rule


@pytest.mark.parametrize("is_late", [False, True])
def test_a_kernel_that_raises_leaves_all_groups(backend, is_late):
    calls = []
    params = make(backend)
    optimizer = broken_kernel(calls)([{"params": params[:2]}, {"params": params[2:]}])
    if is_late:
        steps(optimizer, params, [0, 1])
    optimizer.param_groups[1]["scale"] = 2
    optimizer.param_groups[0]["lr"] = 0.25
    feed(params, 2)
    snapshot = lambda: frozen([host(params), optimizer.state_dict()])
    before = snapshot()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            optimizer.step()
        assert snapshot() == before and calls
    optimizer.param_groups[1]["scale"] = 1
    optimizer.step()
    counts = [entry["step"] for entry in optimizer.state_dict()["state"].values()]
    assert counts == [3 if is_late else 1] * 5


def test_an_update_that_raises_is_not_counted(backend):
    """After an error in the second group, the first one is stepped, the others are not."""
    class Rule(optim.Adam):
        def update_segment(self, segment, coefficients, constants):
            if segment.params[0] is params[1]:
                raise ZeroDivisionError
            super().update_segment(segment, coefficients, constants)

    params = make(backend)[:3]
    optimizer = Rule([{"params": [p]} for p in params])
    for p in params:
        (p * p).sum().backward()
    before = host(params)
    with pytest.raises(ZeroDivisionError):
        optimizer.step()
    assert [*optimizer.state_dict()["state"]] == [0]
    after = host(params)
    assert not (after[0] == before[0]).all() and (after[2] == before[2]).all()


def test_leaf_tensors_become_parameters(backend):
    w = gpuprop.Tensor(backend.asarray(VALUES[0]), requires_grad=True)
    frozen_leaf = gpuprop.Tensor(backend.asarray(VALUES[1]))
    loss = (w * w).sum()  # its graph refers to the leaf
    optimizer = optim.SGD([{"params": [w]}, {"params": frozen_leaf}], lr=0.5)
    assert type(w) is type(frozen_leaf) is Parameter
    assert w.requires_grad and not frozen_leaf.requires_grad
    loss.backward()
    optimizer.step()
    equal([w, frozen_leaf], [VALUES[0] - 0.5 * 2 * VALUES[0], VALUES[1]])
    loss = (w * w).sum()
    with pytest.raises(TypeError, match=r"leaf Tensors.*x.detach\(\).requires_grad_\(\)"):
        optim.SGD([loss])
    with pytest.raises(TypeError, match="floating-point"):
        optim.SGD([gpuprop.tensor([1])])


def test_options_are_no_attributes():
    optimizer = optim.SGD([Parameter([1.0])])
    group = optimizer.param_groups[0]
    with pytest.raises(AttributeError, match=r"write group\['lr'\] = value"):
        group.lr = 5
    for view in (optimizer.param_groups, group["params"], optimizer.state):
        with pytest.raises(TypeError, match="optimizer"):
            view.lr = 5
    assert group["lr"] == 1e-3


@pytest.mark.parametrize("closure", ["text", 5, object(), {}, float("nan")])
def test_closures(closure):
    with pytest.raises(TypeError, match=r"SGD\.step: closure must be a function"):
        optim.SGD([Parameter([1.0])]).step(closure)


@pytest.mark.parametrize("assign", [
    lambda p: setattr(p, "grad", np.array(["a", "b", "c"])),
    lambda p: setattr(p, "grad", np.ones(3, complex)),
    lambda p: setattr(p, "grad", np.ones(4)),
    lambda p: setattr(p, "grad", [1.0, 2, 3]),
    lambda p: setattr(p, "data", np.array(["a", "b", "c"])),
    lambda p: setattr(p, "data", np.ones(3, complex)),
    lambda p: setattr(p, "data", np.ones(3, int)),
    lambda p: setattr(p, "data", np.ones(4)),
    lambda p: setattr(p, "data", [1.0, 2, 3]),
    lambda p: setattr(p, "data", None),
])
def test_arrays_that_do_not_fit_change_nothing(assign):
    params = [Parameter(VALUES[0]), Parameter(VALUES[0])]
    optimizer = optim.Adam([{"params": params[:1]}, {"params": params[1:]}])
    for p in params:
        p.grad = np.ones(3)
    optimizer.step()
    before = frozen([params[0].data, params[0].grad, optimizer.state_dict()])
    assign(params[1])
    with pytest.raises((TypeError, ValueError), match="parameter 0"):
        optimizer.step()
    assert frozen([params[0].data, params[0].grad, optimizer.state_dict()]) == before


def test_a_schedule_that_raises_stays_where_it_is(backend):
    optimizer = optim.SGD(make(backend), lr=0.1)
    rate = {3: -1.0, 4: float("nan")}
    schedule = lr_scheduler.LambdaLR(optimizer, lambda epoch: rate.get(epoch, 1.0))
    schedule.step()
    schedule.step()
    before = frozen([schedule.state_dict(), optimizer.param_groups[0]["lr"]])
    for _ in range(2):
        with pytest.raises(ValueError, match=r"LambdaLR: the lr that the schedule gave.*-0.1"):
            schedule.step()
        assert frozen([schedule.state_dict(), optimizer.param_groups[0]["lr"]]) == before
    rate.clear()
    schedule.step()
    assert schedule.last_epoch == 3


@pytest.mark.parametrize("combine", [
    lambda o, parts: lr_scheduler.ChainedScheduler(parts, o),
    lambda o, parts: lr_scheduler.SequentialLR(o, parts, [1]),
    lambda o, parts: lr_scheduler.SequentialLR(o, parts, [2]),
])
def test_combined_schedules_that_raise_stay_where_they_are(backend, combine):
    lr = gpuprop.tensor(0.1)
    optimizer = optim.SGD([{"params": make(backend)[:2]}, {"params": make(backend)[2:], "lr": lr}])
    rate = {2: -1.0}
    parts = [lr_scheduler.ExponentialLR(optimizer, 0.5),
             lr_scheduler.LambdaLR(optimizer, lambda epoch: rate.get(epoch, 1.0))]
    schedule = combine(optimizer, parts)
    snapshot = lambda: frozen([schedule.state_dict(), lr.item(),
                               [group["lr"] for group in optimizer.param_groups[:1]]])
    with pytest.raises(ValueError, match="LambdaLR"):
        for _ in range(5):
            before = snapshot()
            schedule.step()
    assert snapshot() == before
    rate.clear()
    epoch = schedule.state_dict()["_schedulers"][1]["last_epoch"]
    schedule.step()
    assert schedule.state_dict()["_schedulers"][1]["last_epoch"] == epoch + 1


@pytest.mark.parametrize("metric", [None, "0.5", object(), True, 1j, [1.0]])
def test_the_metric_of_a_plateau(backend, metric):
    schedule = lr_scheduler.ReduceLROnPlateau(optim.SGD(make(backend)))
    before = frozen(schedule.state_dict())
    with pytest.raises(TypeError, match="metrics must be a number"):
        schedule.step(metric)
    assert frozen(schedule.state_dict()) == before


@pytest.mark.parametrize("make_schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("wrong", [None, "sgd", nn.Linear(1, 1), 5, optim.SGD])
def test_the_optimizer_of_a_schedule(make_schedule, wrong):
    with pytest.raises(TypeError, match=r"optimizer must be an Optimizer|must be an LRScheduler"):
        make_schedule(wrong)


@pytest.mark.parametrize("milestones", [[3, 2], [2, 2], [1.5, 2], ["a", 2], 5, None, [-1, 2],
                                        [True, 2]])
def test_milestones_of_sequences_increase(backend, milestones):
    optimizer = optim.SGD(make(backend))
    parts = [lr_scheduler.ExponentialLR(optimizer, 0.9) for _ in range(3)]
    with pytest.raises((TypeError, ValueError), match="milestones"):
        lr_scheduler.SequentialLR(optimizer, parts, milestones)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_state_dict_loads_after_options_changed(backend, name):
    """Also if a flag was set or reset since the last step, so that a state is missing or extra."""
    params = make(backend, rule=name)
    optimizer = OPTIMIZERS[name](params)
    steps(optimizer, params, [0])
    group = optimizer.param_groups[0]
    for option in ("momentum", "amsgrad", "centered"):
        for value in (0.5, 0) if option == "momentum" else (True, False):
            if option in group:
                for is_stepped in (False, True):
                    group[option] = value
                    if is_stepped:
                        steps(optimizer, params, [1])
                    other = OPTIMIZERS[name](make(backend, rule=name))
                    other.load_state_dict(optimizer.state_dict())
                    assert frozen(other.state_dict()) == frozen(optimizer.state_dict())
