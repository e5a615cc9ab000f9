"""`load_state_dict` loads a state as it is written, or changes nothing.

Every entry of the state of every optimizer, schedule, module and generator is removed, and replaced
by values that are wrong in one way or another.
"""

import contextlib
import copy
import itertools
import pickle

import numpy as np
import pytest
from optimizer_rules import RULES
from stepping import frozen, make, steps

import gpuprop
from gpuprop import Parameter, nn, optim
from gpuprop._core.registry import get_backend
from gpuprop.nn._module import prepare_load
from gpuprop.optim import lr_scheduler
from gpuprop.random import Generator

MISSING = object()
WRONG = [MISSING, None, "abc", object(), float("nan"), float("inf"), -1, 2.5, True, 1j,
         10**400, [], {}, [[1], [2, 3]], np.zeros((2, 3, 4)), np.array(["a", "b", "c"]),
         np.array([1, None, 2]), np.ma.masked_array([1.0, 2, 3], [0, 1, 0])]
EXTRA = "something else"

OPTIMIZERS = {
    **{name: getattr(optim, name) for name in RULES},
    "SGD": lambda ps: optim.SGD(ps, momentum=0.9),
    "SGD without momentum": optim.SGD,
    "Adam": lambda ps: optim.Adam(ps, amsgrad=True),
    "RMSprop": lambda ps: optim.RMSprop(ps, momentum=0.5, centered=True),
    "named": lambda ps: optim.Adam([(f"p{i}", p) for i, p in enumerate(ps)]),
    "groups": lambda ps: optim.SGD([{"params": ps[:2], "lr": 0.1}, {"params": ps[2:]}],
                                   momentum=0.9),
}
s = lr_scheduler
SCHEDULES = {
    "LambdaLR": lambda o: s.LambdaLR(o, lambda epoch: 0.9 ** epoch),
    "StepLR": lambda o: s.StepLR(o, 2),
    "MultiStepLR": lambda o: s.MultiStepLR(o, [1, 4, 4]),
    "ConstantLR": lambda o: s.ConstantLR(o),
    "LinearLR": lambda o: s.LinearLR(o),
    "ExponentialLR": lambda o: s.ExponentialLR(o, 0.9),
    "CosineAnnealingLR": lambda o: s.CosineAnnealingLR(o, 5),
    "CosineAnnealingWarmRestarts": lambda o: s.CosineAnnealingWarmRestarts(o, 3, 2),
    "CyclicLR": lambda o: s.CyclicLR(o, 0.1, 0.5, 3),
    "MultiplicativeLR": lambda o: s.MultiplicativeLR(o, lambda epoch: 0.9),
    "PolynomialLR": lambda o: s.PolynomialLR(o),
    "OneCycleLR": lambda o: s.OneCycleLR(o, 0.5, total_steps=9),
    "ReduceLROnPlateau": lambda o: s.ReduceLROnPlateau(o),
    "ChainedScheduler": lambda o: s.ChainedScheduler([s.StepLR(o, 2), s.ExponentialLR(o, 0.9)]),
    "SequentialLR": lambda o: s.SequentialLR(o, [s.LinearLR(o), s.StepLR(o, 2)], [2]),
}


def test_every_class_is_here():
    for module, base, known in ((optim, optim.Optimizer, OPTIMIZERS),
                                (lr_scheduler, lr_scheduler.LRScheduler, SCHEDULES)):
        known = {*known, "LBFGS"}  # tests/test_lbfgs.py
        found = {n for n in dir(module) if isinstance(c := getattr(module, n), type)
                 and issubclass(c, base) and c is not base and not n.startswith("_")}
        assert found <= set(known)


def paths(state, path=()):
    """The paths of all entries of nested dicts and lists."""
    items = state.items() if isinstance(state, dict) else \
        enumerate(state) if isinstance(state, list | tuple) else ()
    for key, value in items:
        yield (*path, key)
        yield from paths(value, (*path, key))


def changed(state, path, value):
    """A copy of a state with another value at a path, or without this entry."""
    if not path:
        return value
    key, *rest = path
    copied = dict(state) if isinstance(state, dict) else dict(enumerate(state))
    if value is MISSING and not rest:
        del copied[key]
    else:
        copied[key] = changed(copied.get(key), rest, value)
    return copied if isinstance(state, dict) else type(state)(copied.values())


def variants(state):
    for path in paths(state):
        for value in WRONG:
            yield path, value, changed(state, path, value)
    for path in [(), *paths(state)]:
        owner = state
        for key in path:
            owner = owner[key]
        if isinstance(owner, dict):
            for key in (EXTRA, 99):
                yield (*path, key), 1, changed(state, (*path, key), 1)
    for value in WRONG[1:]:
        yield (), value, value


def same(a, b):
    """True if two states hold the same values, in whatever types."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(v, b[k]) for k, v in a.items())
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, str | dict | None) or isinstance(b, str | dict | None):
        return a == b
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    return np.array_equal(np.asarray(a, float), np.asarray(b, float), equal_nan=True)


def check_all(make, snapshot, normal=lambda state: state, use=lambda owner: None):
    """Load every variant of a state; return the paths of those that were accepted.

    ``snapshot(owner)`` is all that a load may change.  ``use(owner)`` works with a state that was
    accepted.
    """
    owner = make()
    good = copy.deepcopy(owner.state_dict())
    owner.load_state_dict(good)
    before = frozen(snapshot(owner))
    accepted = set()
    for path, value, state in variants(good):
        try:
            owner.load_state_dict(state)
        except (TypeError, ValueError, NotImplementedError) as error:
            after = frozen(snapshot(owner))
            assert after == before, f"{path} = {value!r}: {error}, but something has changed"
        else:
            loaded = normal(owner.state_dict())
            assert same(loaded, normal(state)), f"{path} = {value!r} was not loaded"
            accepted.add(path)
            use(owner)
            owner = make()
            owner.load_state_dict(good)
    return accepted


def optimizer_state(state):
    """An optimizer's state as it is loaded: None is no state, and absent flags are False."""
    entries = {}
    for i, entry in state["state"].items():
        entry = {name: v for name, v in (entry or {}).items() if v is not None}
        if entry:
            entries[i] = entry
    names = ("maximize", "foreach", "capturable", "differentiable", "fused",
             "decoupled_weight_decay")
    groups = [{**dict.fromkeys(names, False), **group} for group in state["param_groups"]]
    return {"state": entries, "param_groups": groups}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name):
    def make_optimizer():
        params = make(get_backend("numpy"), "float32", rule=name)
        optimizer = OPTIMIZERS[name](params)
        steps(optimizer, params, [0, 1], (1,))
        return optimizer

    def snapshot(optimizer):
        params = list(optimizer._params())
        arenas = list(optimizer._arenas())
        return [(p.data, p.grad) for p in params], optimizer.state_dict(), \
            [{**group, "params": 0} for group in optimizer.param_groups], \
            [(a.scalars, a.step_counts, a.numbers, a.histories, a.has_state) for a in arenas]

    def normal(state):
        state = optimizer_state(state)
        for group in state["param_groups"]:
            if name == "named":  # a state without names, as that of an older PyTorch
                group.setdefault("param_names", [f"p{i}" for i in range(5)])
            if name == "AdamW":  # the state may be that of an Adam
                group["decoupled_weight_decay"] = True
        return state

    check_all(make_optimizer, snapshot, normal)


def schedule_state(state):
    """A schedule's state as it is loaded: an absent `_is_initial` is False."""
    state = {name: value for name, value in state.items() if value is not False}
    if "_schedulers" in state:
        state["_schedulers"] = [schedule_state(part) for part in state["_schedulers"]]
    return state


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(name):
    def make_schedule():
        params = make(get_backend("numpy"), "float32")
        groups = [{"params": params[:2], "lr": 0.1}, {"params": params[2:]}]
        schedule = SCHEDULES[name](optim.SGD(groups, momentum=0.9))
        for i in range(2):
            schedule.step(*[1.0 - i] * (name == "ReduceLROnPlateau"))
        return schedule

    def snapshot(schedule):
        return schedule.state_dict(), list(vars(schedule)), \
            [{**group, "params": 0} for group in schedule.optimizer.param_groups]

    def use(schedule):
        with contextlib.suppress(ValueError):  # more than total_steps
            for i in range(12):
                schedule.step(*[i] * (name == "ReduceLROnPlateau"))

    accepted = check_all(make_schedule, snapshot, schedule_state, use)
    assert not any(EXTRA in path or 99 in path for path in accepted if path[0] != "milestones")


@pytest.mark.parametrize(("name", "changes"), [
    ("OneCycleLR", {"phases": []}),
    ("OneCycleLR", {"phases": [(8, "initial_lr", "max_lr")]}),
    ("OneCycleLR", {"phases": [(100.0, "initial_lr", "max_lr"), (8, "max_lr", "min_lr")]}),
    ("OneCycleLR", {"phases": [(1.0, "initial_lr", "max_lr"), (3, "max_lr", "min_lr")]}),
    ("OneCycleLR", {"phases": [(1.0, "max_lr", "initial_lr"), (8, "max_lr", "min_lr")]}),
    ("OneCycleLR", {"total_steps": 20}), ("OneCycleLR", {"last_epoch": 10}),
    ("SequentialLR", {"_milestones": []}), ("SequentialLR", {"_milestones": [1, 2]}),
    ("SequentialLR", {"_milestones": [-1]}),
])
def test_entries_of_a_schedule_match_each_other(name, changes):
    schedule = SCHEDULES[name](optim.SGD(make(get_backend("numpy")), momentum=0.9))
    state = schedule.state_dict()
    with pytest.raises(ValueError, match=f"{name}.*{next(iter(changes)).lstrip('_')}"):
        schedule.load_state_dict({**state, **changes})
    schedule.load_state_dict(state)


def test_a_schedule_of_a_user_loads_its_own_state(tmp_path):
    class Mine(lr_scheduler.LRScheduler):
        def __init__(self, optimizer):
            self.best, self.scale, self.note = float("nan"), np.float32(2), None
            self.rule = lambda epoch: 0.9 ** epoch
            self.window = (1, 2)
            super().__init__(optimizer)

        def get_lr(self):
            return [self.scale * self.rule(self.last_epoch) for _ in self.base_lrs]

    one, other = (Mine(optim.SGD(make(get_backend("numpy")))) for _ in range(2))
    one.step()
    one.note = "stepped"
    state = {name: value for name, value in one.state_dict().items() if name != "rule"}
    gpuprop.save(tmp_path / "state.npz", state)
    other.load_state_dict(gpuprop.load(tmp_path / "state.npz"))
    assert other.last_epoch == 1 and other.note == "stepped" and other.window == (1, 2)
    for name, value in (("best", "abc"), ("window", 5), ("last_epoch", float("nan")), ("other", 1)):
        with pytest.raises((TypeError, ValueError), match=name):
            other.load_state_dict({**state, name: value})


def test_generators():
    def make_generator():
        generator = Generator(3)
        generator.normal(3)
        generator.load_state_dict, generator.state_dict = generator.set_state, generator.get_state
        return generator

    check_all(make_generator, lambda generator: generator.get_state())


def test_modules():
    make_model = lambda: nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    batches = "1.num_batches_tracked"  # a state may lack it; the only 0-d array
    accepted = check_all(make_model, lambda model: model.state_dict(),
                         normal=lambda state: {batches: np.array(0), **state})
    assert accepted == {(batches,)}


@pytest.mark.parametrize(("one", "other"), [
    pair for pair in itertools.permutations(SCHEDULES, 2)
    if {*pair} != {"LambdaLR", "MultiplicativeLR"}])  # their states have the same entries
def test_a_schedule_refuses_the_state_of_another_class(one, other):
    states = []
    for name in (one, other):
        optimizer = optim.SGD(make(get_backend("numpy")), lr=0.1, momentum=0.9)
        states.append(SCHEDULES[name](optimizer))
    with pytest.raises(ValueError, match=f"{one}: the state dict (lacks|has unknown)"):
        states[0].load_state_dict(states[1].state_dict())


@pytest.mark.parametrize(("one", "other"), [*itertools.permutations(("SGD", "Adam", "RMSprop"), 2)])
def test_an_optimizer_refuses_the_state_of_another_class(one, other):
    optimizers = []
    for name in (one, other):
        params = make(get_backend("numpy"))
        optimizers.append(OPTIMIZERS[name](params))
        steps(optimizers[-1], params, [0])
    with pytest.raises(ValueError, match=r"param_groups\[0\] lacks"):
        optimizers[0].load_state_dict(optimizers[1].state_dict())


def test_other_indices_are_refused():
    params = make(get_backend("numpy"))
    optimizer = optim.Adam(params)
    state = optimizer.state_dict()
    for indices in ([0, 0, 1, 2, 3], [1, 0, 2, 3, 4], [1, 2, 3, 4, 5], ["0", "1", "2", "3", "4"]):
        group = {**state["param_groups"][0], "params": indices}
        with pytest.raises(ValueError, match="must be the indices"):
            optimizer.load_state_dict({**state, "param_groups": [group]})


def test_values_are_converted_to_the_dtype_of_their_destination():
    p = Parameter(np.zeros(2, "float16"))
    optimizer = optim.SGD([p], momentum=0.9)
    state = optimizer.state_dict()
    optimizer.load_state_dict({**state, "state": {0: {"momentum_buffer": [0.1, float("nan")]}}})
    moment = optimizer.state_dict()["state"][0]["momentum_buffer"]
    np.testing.assert_array_equal(moment, np.array([0.1, np.nan], "float16"))
    counter = nn.BatchNorm1d(2)
    counter.load_state_dict({**counter.state_dict(), "num_batches_tracked": 3.0})
    with pytest.raises(ValueError, match="num_batches_tracked must hold numbers of int64"):
        counter.load_state_dict({**counter.state_dict(), "num_batches_tracked": 3.5})


def test_a_prepared_load_writes_later():
    model = nn.Linear(2, 2)
    write, result = prepare_load(model, {"weight": np.ones((2, 2))}, strict=False)
    assert result.missing_keys == ["bias"] and not (model.weight.numpy() == 1).any()
    write()
    assert (model.weight.numpy() == 1).all()


@pytest.mark.parametrize("name", [n for n in nn.__all__ if n.startswith(("Batch", "Instance"))])
def test_running_statistics_have_minima(name):
    layer = getattr(nn, name)(2, track_running_stats=True)
    state = layer.state_dict()
    for entry, value in ("num_batches_tracked", -1), ("running_var", [1.0, -0.5]):
        with pytest.raises(ValueError, match=f"{entry} must be at least 0, got -"):
            nn.Sequential(layer).load_state_dict(
                {f"0.{n}": a for n, a in {**state, entry: value}.items()})
    layer.load_state_dict({**state, "running_var": [1.0, float("nan")]})


def test_weights_may_be_exchanged():
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    before = one.weight.numpy(), other.weight.numpy()
    nn.ModuleList([one, other]).load_state_dict(
        {"0.weight": other.weight.data, "1.weight": one.weight.data}, strict=False)
    np.testing.assert_array_equal(one.weight.numpy(), before[1])
    np.testing.assert_array_equal(other.weight.numpy(), before[0])
    assert gpuprop.asnumpy(one.weight) is not before[1]


# ---- hooks ---------------------------------------------------------------------------------------


def two_layers():
    return nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 1)))


def test_hooks_around_state_dict():
    model, seen = two_layers(), []
    model[1].register_state_dict_pre_hook(lambda *args: seen.append(args))

    def rename(module, state, prefix, metadata):
        state[prefix + "kernel"] = state.pop(prefix + "0.weight")

    remove = model[1].register_state_dict_post_hook(rename)
    assert list(model.state_dict()) == ["0.weight", "0.bias", "1.0.bias", "1.kernel"]
    assert seen == [(model[1], "1.", False)]
    remove()
    assert list(model.state_dict())[2:] == ["1.0.weight", "1.0.bias"]
    model.register_state_dict_post_hook(lambda *args: {})
    with pytest.raises(RuntimeError, match="state dict post-hook of Sequential must change its"):
        model.state_dict()


def test_a_hook_before_a_load_translates_names():
    model, seen = two_layers(), []

    def translate(module, state, prefix, metadata, strict, missing, unexpected, errors):
        seen.append((module, sorted(state), prefix))
        state[prefix + "0.weight"] = state.pop(prefix + "kernel")

    state = model.state_dict()
    old = {**{n: v + 1 for n, v in state.items() if n != "1.0.weight"},
           "1.kernel": state["1.0.weight"] + 1}
    with pytest.raises(ValueError, match=r"missing: 1\.0\.weight; unexpected: 1\.kernel"):
        model.load_state_dict(old)
    model[1].register_load_state_dict_pre_hook(translate)
    assert model.load_state_dict(old) == ([], [])
    assert seen == [(model[1], ["1.0.bias", "1.kernel"], "1.")] and "1.kernel" in old
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, state[name] + 1)


def test_a_hook_before_a_load_refuses_it():
    model = two_layers()
    before = model.state_dict()
    remove = model.register_load_state_dict_pre_hook(lambda *args: args[-1].append("too old"))
    with pytest.raises(ValueError, match="nothing was loaded: too old"):
        model.load_state_dict({n: v + 1 for n, v in before.items()})
    assert_equal_states(model, before)
    remove()
    model.load_state_dict({n: v + 1 for n, v in before.items()})


def test_a_hook_after_a_load():
    """It sees the new values, and decides on names; what it refuses is not loaded."""
    model = two_layers()
    before = model.state_dict()
    state = {n: v + 1 for n, v in before.items() if n != "0.bias"}
    seen = []
    model.register_load_state_dict_post_hook(
        lambda m, keys: seen.append((m[0].weight.numpy()[0, 0], [*keys.missing_keys])))
    with pytest.raises(ValueError, match=r"nothing was loaded: missing: 0\.bias"):
        model.load_state_dict(state)
    assert_equal_states(model, before)
    assert seen == [(state["0.weight"][0, 0], ["0.bias"])]
    remove = model[1].register_load_state_dict_post_hook(
        lambda m, keys: keys.missing_keys.clear())
    assert model.load_state_dict(state) == ([], [])
    assert_equal_states(model, {**before, **state})
    remove()

    def fail(module, keys):
        raise KeyError("no")

    model.register_load_state_dict_post_hook(fail)
    with pytest.raises(KeyError):
        model.load_state_dict(before)
    assert_equal_states(model, {**before, **state})


def test_hooks_of_the_state_are_copied_and_do_not_change_calls():
    loss = nn.MSELoss()
    loss.register_state_dict_post_hook(lambda *args: None)
    model = copy.deepcopy(two_layers())
    model.register_state_dict_post_hook(add_a_note)
    assert "note" in copy.deepcopy(model).state_dict()
    assert "note" in pickle.loads(pickle.dumps(model)).state_dict()
    assert not model._hook_lists and loss.sum_and_count(gpuprop.ones(2), gpuprop.ones(2))[1] == 2
    for register in (model.register_state_dict_pre_hook, model.register_state_dict_post_hook,
                     model.register_load_state_dict_pre_hook,
                     model.register_load_state_dict_post_hook):
        with pytest.raises(TypeError, match="Sequential: hook"):
            register(3)


def add_a_note(module, state, prefix, metadata):
    state[prefix + "note"] = np.ones(1)


def assert_equal_states(model, state):
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, state[name])
