"""Threads: what one switches on no other sees, and two that train get what they get alone."""

import asyncio
import os
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
from gpuprop.data import DataLoader, TensorDataset, batch_rng
from gpuprop.random import DATA, INIT, NOISE, Generator, default_generator


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


# ---- first uses ---------------------------------------------------------------------------------

FIRST_USES = """
import faulthandler, importlib, sys, threading
import gpuprop
import numpy as np

faulthandler.dump_traceback_later(120, exit=True)  # if threads wait for each other
sys.setswitchinterval(1e-6)

def op():
    @gpuprop.op
    def twice(xp, x: gpuprop.Array, *, shift=0):
        return 2 * x + shift, (lambda dy: 2 * dy,)
    assert twice(np.ones(2), shift=1).tolist() == [3, 3]

def step():
    model = gpuprop.nn.Linear(3, 2)
    optimizer = gpuprop.optim.Adam(model.parameters())
    model(gpuprop.ones(4, 3)).sum().backward()
    optimizer.step()

def captured():
    importlib.import_module("gpuprop.testing")
    with gpuprop.use("strict"):
        double = gpuprop.capture(lambda x: 2 * x)
        assert [double(gpuprop.ones(1)).item() for _ in range(4)] == [2.0] * 4

def backend(name):
    def make():
        importlib.import_module("gpuprop.testing")
        assert gpuprop.backend.get_backend(name).name in (name, "numpy")
    return make

USES = [lambda n=n: getattr(gpuprop, n) for n in sorted(gpuprop._MODULES | {*gpuprop._MODULE_OF})]
USES += [lambda n=n: importlib.import_module("gpuprop." + n) for n in sorted(gpuprop._MODULES)]
LAZY = len(USES)
USES += [lambda n=n: getattr(gpuprop, n) for n in gpuprop.__all__]
USES += [op, step, captured, backend("strict"), backend("cpu")]
USES += [
    lambda: gpuprop.tensor([1.0]), lambda: gpuprop.ones(2) + np.ones(2, "float32"),
    lambda: gpuprop.random.Generator(3).uniform(4), lambda: gpuprop.random.normal(4),
    lambda: gpuprop.manual_seed(0), lambda: gpuprop.grad(lambda x: (x * x).sum())(np.ones(2)),
    lambda: gpuprop.einsum("ij,jk->ik", gpuprop.ones(2, 2), gpuprop.ones(2, 2)),
    lambda: gpuprop.functional.gelu(gpuprop.ones(1 << 18)), lambda: gpuprop.backends(),
]
COUNT = 8
barrier = threading.Barrier(COUNT)
errors = []

def run(number, seed):
    rng = np.random.default_rng([seed, number])
    order = [*rng.permutation(LAZY), *LAZY + rng.permutation(len(USES) - LAZY)]
    barrier.wait(60)
    for i in order:
        try:
            USES[i]()
        except BaseException as error:
            errors.append(f"{i}: {type(error).__name__}: {error}")

seed = int(sys.argv[1])
threads = [threading.Thread(target=run, args=(n, seed)) for n in range(COUNT)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(*errors, sep="\\n")
"""


def test_first_uses_of_everything_public_by_eight_threads_in_new_processes():
    """In each process, eight threads use everything that is made at first use, in random order."""
    runs = [subprocess.Popen([sys.executable, "-c", FIRST_USES, str(seed)], text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE) for seed in range(4)]
    results = [(*run.communicate(), run.returncode) for run in runs]
    for output, errors, code in results:
        assert (output.strip(), code) == ("", 0), output + errors


# ---- a fork -------------------------------------------------------------------------------------

FORK = """
import faulthandler, os, sys, threading, warnings
import gpuprop, gpuprop.testing
from gpuprop import nn, optim, functional as F
from gpuprop._core import locks
from gpuprop.data import DataLoader, TensorDataset
from gpuprop.random import Generator, default_generator
import numpy as np

warnings.simplefilter("ignore")
generator = Generator(1)
twice = gpuprop.capture(lambda x: 2 * x)
loader = DataLoader(TensorDataset(np.arange(8.0)), batch_size=2, num_workers=2,
                    persistent_workers=True)
step = iter(loader)
next(step)

def work():
    for name in ("numpy", "strict"):
        with gpuprop.use(name):
            x = gpuprop.tensor([1.0, 2.0], requires_grad=True)
            generator.noise(x.data)
            generator.uniform(3), default_generator.normal(2), default_generator.get_state()
            twice(gpuprop.ones(2)), twice(gpuprop.ones(2))
            model = nn.Linear(2, 1)
            optimizer = optim.SGD(model.parameters(), lr=0.1)
            F.cross_entropy(nn.Linear(2, 3)(gpuprop.ones(4, 2)), gpuprop.zeros(4, dtype="int64"))
            (model(x) * F.dropout(x, 0.5)).sum().backward()
            optimizer.step()
    gpuprop.verification, gpuprop.training, gpuprop.backend.usable_backends()
    gpuprop.use("numpy")
    assert len(list(loader)) == 4

work()
held, forked = threading.Event(), threading.Event()

def hold():  # each lock that the library has made so far
    every = list(locks._locks)
    for lock in every:
        lock.acquire()
    held.set()
    forked.wait()
    for lock in every:
        lock.release()

holder = threading.Thread(target=hold)
holder.start()
held.wait()
assert len(list(locks._locks)) >= 8
pid = os.fork()
if not pid:
    faulthandler.dump_traceback_later(60, exit=True)
    work()
    os._exit(0)
status = os.waitpid(pid, 0)[1]
forked.set()
holder.join()
work()
print("child", os.waitstatus_to_exitcode(status))
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_process_that_is_forked_while_another_thread_holds_every_lock():
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["child", "0"], done.stdout + done.stderr


# ---- the default backend ------------------------------------------------------------------------


def test_an_explicit_choice_wins_over_the_automatic_one_of_another_thread(monkeypatch):
    monkeypatch.setattr(registry, "_process_choice", None)
    chosen = threading.Event()
    best = registry._best

    def slow():
        backend = best()
        assert chosen.wait(60)
        return backend

    monkeypatch.setattr(registry, "_best", slow)
    monkeypatch.delenv("GPUPROP_BACKEND", raising=False)

    def choosing():
        time.sleep(0.02)
        gpuprop.use("strict")
        chosen.set()

    together(default_backend, choosing)
    assert default_backend().name == "strict"


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


@pytest.fixture
def eager_switches():
    """Let threads switch as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("stream", [INIT, DATA, NOISE])
def test_threads_that_share_a_generator_never_get_one_draw_twice(name, stream, eager_switches):
    shared, alone = Generator(5), Generator(5)
    count, each = 6, 40

    def draw(generator, n):
        with gpuprop.use(name):
            return [tuple(gpuprop.asnumpy(generator.uniform(2, stream=stream))) for _ in range(n)]

    drawn = [row for rows in together(*[lambda: draw(shared, each)] * count) for row in rows]
    assert sorted(drawn) == sorted(draw(alone, count * each)) and len(set(drawn)) == len(drawn)
    assert shared.get_state() == alone.get_state()


def test_a_generator_is_seeded_as_a_whole(eager_switches):
    """A draw belongs to the state before a `set_state` or to the one after it."""
    generator = Generator(1)
    first = {seed: tuple(Generator(seed).uniform(2)) for seed in (1, 2)}
    states = [{"seed": seed, "draws": [0, 1000 * seed, 0]} for seed in (1, 2)]

    def setting():
        for i in range(300):
            generator.set_state(states[i % 2])

    def drawing():
        found = []
        for _ in range(300):
            state = generator.get_state()
            found.append((state["seed"], state["draws"][1] // 1000))
            generator.uniform(1)
        return found

    generator.set_state(states[0])
    _, found = together(setting, drawing)
    assert set(found) <= {(1, 1), (2, 2)} and first[1] != first[2]


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("has_arena", [False, True])
def test_threads_that_run_backward_through_graphs_with_common_leaves(name, has_arena,
                                                                     eager_switches):
    """No gradient is lost; small integers, whose sums are exact in any order."""
    with gpuprop.use(name):
        leaves = [nn.Parameter(gpuprop.zeros(size)) for size in (1, 7, 50_000)]
        optimizer = optim.SGD(leaves, lr=1.0) if has_arena else None
        count, each = 4, 20
        factor = [gpuprop.ones(p.shape) for p in leaves]

        def backward():
            with gpuprop.use(name):
                for _ in range(each):
                    sum((p * f).sum() for p, f in zip(leaves, factor, strict=True)).backward()

        for _ in range(3):
            for p in leaves:
                p.grad = None
            together(*[backward] * count)
            for p in leaves:
                assert (gpuprop.asnumpy(p.grad) == count * each).all()
        del optimizer


def test_threads_call_captured_steps_of_their_own_and_a_common_one(recorder, eager_switches):
    with gpuprop.use(recorder):
        total = nn.Parameter(gpuprop.zeros(1))
        common = gpuprop.capture(lambda x: x * 3)

    def run(start):
        with gpuprop.use(recorder):
            count = gpuprop.zeros(1)

            def step(x):
                count.data[...] = count.data + 1
                return x + count

            own = gpuprop.capture(step)
            return [own(gpuprop.full(1, start)).item() + common(gpuprop.full(1, start)).item()
                    for _ in range(8)]

    expected = [[4.0 * start + n for n in range(1, 9)] for start in (10, 20, 30)]
    assert together(*[lambda s=s: run(s) for s in (10, 20, 30)]) == expected
    assert total.grad is None


def test_loaders_with_workers_in_several_threads(eager_switches):
    data = np.arange(60.0)

    def noisy(x):
        return x + gpuprop.asnumpy(batch_rng().uniform(x.shape))

    def epochs(seed):
        loader = DataLoader(TensorDataset(data), batch_size=7, shuffle=True, num_workers=3,
                            rng=Generator(seed), transform=noisy)
        return [batch[0].tolist() if isinstance(batch, tuple) else batch.tolist()
                for _ in range(2) for batch in loader]

    alone = [epochs(1), epochs(2)]
    *results, _ = together(lambda: epochs(1), lambda: epochs(2),
                           lambda: [default_generator.uniform(3) for _ in range(50)])
    assert results == alone


def test_blocks_in_threads_and_tasks_at_random(eager_switches):
    """Blocks that open and close in any order: each context has what its own open blocks say."""
    kinds = {
        "grad": (lambda: gpuprop.no_grad(), lambda: not gpuprop.is_grad_enabled()),
        "generic": (lambda: gpuprop.generic(), lambda: current.get().generic),
        "low": (lambda: gpuprop.autocast("bfloat16"), lambda: current.get().low is not None),
        "strict": (lambda: gpuprop.use("strict"), lambda: default_backend().name == "strict"),
        "modules": (lambda: around_modules(lambda m, a, k, run: run(m, a, k)),
                    lambda: module_call() is not None),
        "ops": (lambda: inspect_ops(lambda spec, backend, run: run),
                lambda: current.get().inspect is not None),
        "changes": (lambda: parameter_changed.listen(id), lambda: parameter_changed.is_watched),
        "debug": (lambda: gpuprop.debug(), lambda: bool(check_at_once.get())),
    }

    def moves(seed):
        rng = np.random.default_rng(seed)
        opened = []
        for _ in range(120):
            if opened and rng.random() < 0.5:
                _, block = opened.pop(rng.integers(len(opened)))
                block.__exit__(None, None, None)
            else:
                name = list(kinds)[rng.integers(len(kinds))]
                opened.append((name, kinds[name][0]()))
                opened[-1][1].__enter__()
            names = {name for name, _ in opened}
            assert {name for name, (_, is_on) in kinds.items() if is_on()} == names
            yield
        for _, block in opened:
            block.__exit__(None, None, None)
        assert not any(is_on() for _, is_on in kinds.values())

    async def task(seed):
        for _ in moves(seed):
            await asyncio.sleep(0)

    async def tasks(seed):
        await asyncio.gather(*[task(seed + n) for n in range(3)])

    gpuprop.set_default_backend("numpy")
    together(*[lambda s=s: list(moves(s)) for s in range(3)],
             *[lambda s=s: asyncio.run(tasks(s)) for s in (10, 20)])
