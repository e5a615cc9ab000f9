"""Threads: what one switches on no other sees, and two that train get what they get alone."""

import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from tested_backends import BACKENDS

import gpuprop
from gpuprop import functional as F
from gpuprop import nn, optim
from gpuprop._core import registry
from gpuprop._core.instruments import (
    around_modules,
    check_at_once,
    inspect_ops,
    leaf_reached,
    module_call,
    parameter_changed,
)
from gpuprop._core.mode import current
from gpuprop._core.registry import default_backend
from gpuprop.backend import Backend, get_backend, register
from gpuprop.random import Generator


def together(*functions):
    """The results of functions that start at the same moment, each in a thread of its own."""
    results, barrier = [None] * len(functions), threading.Barrier(len(functions))

    def run(i, function):
        try:
            barrier.wait(60)
            results[i] = function()
        except BaseException as e:
            results[i] = e

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


# ---- what is switched on -----------------------------------------------------------------------


def test_a_block_of_use_is_never_seen_by_another_thread():
    gpuprop.set_default_backend("numpy")
    done = threading.Event()

    def switching():
        for _ in range(3000):
            with gpuprop.use("strict"):
                assert default_backend().name == "strict"
            assert default_backend().name == "numpy"
        done.set()

    def looking():
        seen = set()
        while not done.is_set():
            seen.add(default_backend().name)
        return seen

    *_, seen = together(switching, switching, looking)
    assert seen == {"numpy"}


def test_a_statement_of_use_is_seen_by_all():
    gpuprop.use("strict")
    seen = together(lambda: default_backend().name, lambda: gpuprop.zeros(2).device)
    assert [name.partition(":")[0] for name in seen] == ["strict", "strict"]
    repr(gpuprop.use("numpy"))  # as an interactive session shows it, and keeps it
    assert together(lambda: default_backend().name) == ["numpy"]


SWITCHES = {
    "no_grad": gpuprop.no_grad(),
    "generic": gpuprop.generic(),
    "autocast": gpuprop.autocast(),
    "inspect_ops": inspect_ops(lambda spec, backend, run: run),
}


@pytest.mark.parametrize("switch", SWITCHES.values(), ids=SWITCHES)
def test_one_switch_in_two_threads_whose_blocks_overlap(switch):
    first, second = threading.Event(), threading.Event()
    plain = current.get()

    def one():
        with switch:
            first.set()
            assert second.wait(60) and current.get() != plain
        return current.get()

    def two():
        assert first.wait(60) and current.get() == plain
        with switch:
            second.set()
            time.sleep(0.02)  # the block of the other thread ends first
            assert current.get() != plain
        return current.get()

    assert together(one, two) == [plain, plain] and current.get() == plain


def test_debug_and_instruments_are_the_threads_own():
    inside, looked = threading.Event(), threading.Event()
    state = lambda: (check_at_once.get(), current.get().inspect, module_call(),
                     parameter_changed.is_watched, leaf_reached.is_watched)
    plain = state()

    def debugging():
        as_it_is = lambda module, args, kwargs, run: run(module, args, kwargs)
        with gpuprop.debug(nan=True), leaf_reached.collect(), around_modules(as_it_is):
            inside.set()
            assert looked.wait(60)
            assert all(state())
        return state()

    def bystander():
        assert inside.wait(60)
        found = state()
        model = nn.Linear(2, 1)
        model(gpuprop.full((1, 2), float("nan"))).sum().backward()  # nobody looks here
        looked.set()
        return found

    assert together(debugging, bystander) == [plain, plain]


def test_a_backend_is_made_once(monkeypatch):
    for name in ("_classes", "_instances"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))
    made = []

    class Slow(Backend):
        name, xp, array_type = "slow", np, type("Slow", (np.ndarray,), {})

        def __init__(self):
            time.sleep(0.02)
            made.append(self)

        def asarray(self, value, dtype=None):
            return np.asarray(value, dtype).view(self.array_type)

        def _to_numpy(self, array):
            return np.array(array)

    register("slow", Slow)
    found = together(*[lambda: get_backend("slow")] * 8)
    assert len(made) == 1 and set(found) == set(made)


def fresh(code):
    """What a new interpreter prints, in which nothing is loaded yet."""
    code = "import threading\n" + PARALLEL + code
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


PARALLEL = """
errors = []
def parallel(*functions):
    barrier = threading.Barrier(len(functions))
    def run(function):
        barrier.wait(60)
        try:
            function()
        except BaseException as e:
            errors.append(repr(e))
    threads = [threading.Thread(target=run, args=(f,)) for f in functions]
    for t in threads: t.start()
    for t in threads: t.join()
    print(*errors)
"""


def test_the_first_tensors_of_several_threads():
    for _ in range(3):
        assert fresh("import gpuprop\nparallel(*[lambda: gpuprop.tensor([1.0])] * 6)") == []


LATE = "training summary", "capture debug", "nn training summary verify"


@pytest.mark.parametrize("names", LATE)
def test_names_that_load_at_first_use_in_several_threads(names):
    loads = f"[lambda n=n: getattr(gpuprop, n) for n in {names.split()!r}]"
    code = f"import gpuprop\nparallel(*{loads})"
    for _ in range(2):
        assert fresh(code) == []


def test_a_name_and_an_import_statement_at_the_same_time():
    code = ("import gpuprop, importlib\n"
            "load = lambda: importlib.import_module('gpuprop.training')\n"
            "parallel(lambda: gpuprop.summary, load)")
    for _ in range(3):
        assert fresh(code) == []


def test_a_device_that_is_chosen_for_the_process_is_every_threads():
    device = lambda: gpuprop.zeros(1).device
    gpuprop.use("strict:1")
    assert [device(), *together(device, device)] == ["strict:1"] * 3
    together(lambda: gpuprop.set_default_backend("strict", 0))
    assert device() == "strict:0"
    with gpuprop.use("strict:1"):
        assert device() == "strict:1" and together(device) == ["strict:0"]
    assert device() == "strict:0"


# ---- training ----------------------------------------------------------------------------------


def trained(seed, name, steps=12):
    """The parameters of a model after some steps, as bytes."""
    rng = Generator(seed)
    data = np.random.default_rng(seed)
    with gpuprop.use(name):
        model = nn.Sequential(
            nn.Linear(6, 32, rng=rng), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3, rng=rng),
            nn.Linear(32, 3, rng=rng))
        optimizer = optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(steps):
            x = gpuprop.tensor(data.normal(size=(16, 6)).astype("float32"))
            y = gpuprop.tensor(data.integers(0, 3, 16))
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            with gpuprop.no_grad():
                model.eval()(x)
                model.train()
        return b"".join(v.tobytes() for v in model.state_dict().values())


@pytest.mark.parametrize("name", BACKENDS)
def test_two_threads_train_two_models_as_alone(name):
    alone = [trained(1, name), trained(2, name)]
    assert together(lambda: trained(1, name), lambda: trained(2, name)) == alone
