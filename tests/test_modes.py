"""Blocks and decorators that change how things run: no_grad, autocast, no_sync, debug."""

import asyncio
import itertools
import threading

import pytest

import gpuprop
from gpuprop import nn
from gpuprop._core.instruments import (
    around_modules,
    check_at_once,
    inspect_ops,
    leaf_reached,
    optimizer_stepped,
)
from gpuprop._core.mode import Mode, current, is_generic
from gpuprop._core.registry import default_backend

BLOCKS = {
    "no_grad": (lambda: gpuprop.no_grad(), lambda: not gpuprop.is_grad_enabled()),
    "autocast": (lambda: gpuprop.autocast(), lambda: product().dtype == "float16"),
    "no_sync": (lambda: gpuprop.no_sync(), lambda: refuses_to_wait()),
    "debug": (lambda: gpuprop.debug(nan=True), lambda: finds_nan()),
    "generic": (lambda: gpuprop.generic(), lambda: is_generic()),
    "use": (lambda: gpuprop.use("strict"), lambda: default_backend().name == "strict"),
}
each = pytest.mark.parametrize(("make", "is_on"), BLOCKS.values(), ids=BLOCKS)


def product():
    return gpuprop.ones(1, 1) @ gpuprop.ones(1, 1)


def refuses_to_wait():
    try:
        gpuprop.ones(1).item()
    except RuntimeError:
        return True
    return False


def finds_nan():
    try:
        gpuprop.log(gpuprop.full(1, -1.0))
    except FloatingPointError:
        return True
    return False


@each
@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_block_that_is_entered_again_and_inside_of_itself(make, is_on):
    block = make()
    for _ in range(2):
        with block:
            with block:
                assert is_on()
            assert is_on()
        assert not is_on()


@each
@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_decorated_function(make, is_on):
    @make()
    def inside(again):
        return is_on() and (not again or inside(False))

    assert inside(True) and not is_on()
    assert inside.__name__ == "inside"


@each
@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_decorated_generator(make, is_on):
    seen = []

    @make()
    def steps():
        try:
            got = yield is_on()
            try:
                yield (got, is_on())
            except KeyError:
                yield ("caught", is_on())
        finally:
            seen.append(is_on())
        return "done"

    run = steps()
    assert next(run) and not is_on()
    assert run.send("sent") == ("sent", True) and not is_on()
    assert run.throw(KeyError()) == ("caught", True) and not is_on()
    with pytest.raises(StopIteration) as end:
        next(run)
    assert end.value.value == "done" and seen == [True] and not is_on()
    closed = steps()
    next(closed)
    closed.close()
    assert seen == [True, True] and not is_on()


@each
@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_decorated_coroutine_beside_a_plain_one(make, is_on):
    @make()
    async def inside():
        first = is_on()
        await asyncio.sleep(0)
        return first and is_on()

    async def outside():
        found = []
        for _ in range(3):
            found.append(is_on())
            await asyncio.sleep(0)
        return found

    async def both():
        return await asyncio.gather(inside(), outside())

    assert asyncio.run(both()) == [True, [False] * 3]


@each
@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_decorated_asynchronous_generator(make, is_on):
    seen = []

    @make()
    async def steps():
        """Steps."""
        try:
            got = yield is_on()
            await asyncio.sleep(0)
            try:
                yield (got, is_on())
            except KeyError:
                yield ("caught", is_on())
        finally:
            await asyncio.sleep(0)
            seen.append(is_on())

    async def run():
        run = steps()
        assert await anext(run) and not is_on()
        assert await run.asend("sent") == ("sent", True) and not is_on()
        assert await run.athrow(KeyError()) == ("caught", True) and not is_on()
        with pytest.raises(StopAsyncIteration):
            await anext(run)
        closed = steps()
        await anext(closed)
        await closed.aclose()
        assert seen == [True, True] and not is_on()
        assert [v async for v in steps()] == [True, (None, True)]

    asyncio.run(run())
    assert steps.__name__ == "steps" and steps.__doc__ == "Steps."


@each
def test_a_class_is_refused(make, is_on):
    with pytest.raises(TypeError, match=r"Model.*methods"):
        @make()
        class Model:
            pass


def test_a_decorated_generator_keeps_its_own_blocks_while_it_is_suspended():
    @gpuprop.no_grad()
    def steps():
        on = gpuprop.is_grad_enabled
        yield on()
        with gpuprop.enable_grad(), gpuprop.use("strict"):
            for _ in range(2):
                yield on(), gpuprop.zeros(1).device
        yield on()

    def walk():
        for got in steps():
            yield got
            yield gpuprop.is_grad_enabled(), gpuprop.zeros(1).device

    before = True, "numpy"
    inside = True, "strict:0"
    expected = [False, before, inside, before, inside, before, False, before]
    assert list(walk()) == expected
    run = steps()
    with gpuprop.no_grad():
        first = [next(run), next(run)]
        assert not gpuprop.is_grad_enabled()
    assert first == [False, inside]
    assert [next(run), gpuprop.is_grad_enabled()] == [inside, True]


def test_use_as_a_decorator():
    @gpuprop.use("strict")
    def inside():
        return gpuprop.zeros(1).device

    @gpuprop.use("strict:1")
    def devices():
        yield inside()
        yield gpuprop.zeros(1).device

    device = gpuprop.zeros(1).device
    assert device == "numpy" and inside() == "strict:0"
    assert [(d, gpuprop.zeros(1).device) for d in devices()] == [
        ("strict:1", "numpy"), ("strict:1", "numpy")]


@pytest.mark.parametrize("dtype", ["int8", "bool", "complex64", "U3"])
def test_autocast_takes_floating_dtypes(dtype):
    with pytest.raises(TypeError, match="floating dtype"):
        gpuprop.autocast(dtype)


def test_blocks_of_generators_overlap():
    def batches():
        with gpuprop.no_sync():
            yield 1

    @gpuprop.no_grad()
    def steps():
        with gpuprop.enable_grad():
            yield gpuprop.is_grad_enabled()

    batch = batches()
    with gpuprop.no_grad():
        next(batch)
    assert gpuprop.exp(gpuprop.ones(2)).shape == (2,) and gpuprop.is_grad_enabled()
    assert refuses_to_wait()  # the generator is still inside of its block
    batch.close()
    assert not refuses_to_wait()
    assert [(inside, gpuprop.is_grad_enabled()) for inside in steps()] == [(True, True)]


OBSERVERS = {
    "debug": (lambda: gpuprop.debug(nan=True), lambda: finds_nan()),
    "checks": (lambda: gpuprop.debug(), lambda: bool(check_at_once.get())),
    "no_sync": (lambda: gpuprop.no_sync(), lambda: refuses_to_wait()),
    "modules": (lambda: around_modules(lambda module, args, kwargs, run: 7),
                lambda: nn.Identity()(1) == 7),
    "ops": (lambda: inspect_ops(lambda spec, backend, run: lambda xp, x: (x * 0 + 7, None)),
            lambda: gpuprop.exp(gpuprop.zeros(1)).item() == 7),
    "listener": (lambda: optimizer_stepped.listen(lambda optimizer: None),
                 lambda: optimizer_stepped.is_watched),
    "collection": (lambda: leaf_reached.collect(), lambda: leaf_reached.is_watched),
}
each_observer = pytest.mark.parametrize(("make", "is_on"), OBSERVERS.values(), ids=OBSERVERS)
ORDERS = list(itertools.permutations(range(3)))


@each_observer
@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_overlapping_blocks_end_in_any_order(make, is_on, order):
    plain = current.get()
    blocks = [make(), gpuprop.no_grad(), make()]
    for block in blocks:
        block.__enter__()
    for i, n in enumerate(order):
        blocks[n].__exit__(None, None, None)
        assert is_on() == bool({0, 2} - {*order[:i + 1]})
        assert gpuprop.is_grad_enabled() == (1 in order[:i + 1])
    assert current.get() == plain


@each_observer
@pytest.mark.filterwarnings("ignore:invalid value")
def test_an_observer_ends_with_its_block_in_any_thread(make, is_on):
    def observing():
        with make():
            yield

    run = observing()
    next(run)
    assert is_on()
    thread = threading.Thread(target=run.close)
    thread.start()
    thread.join()
    assert not is_on() and current.get() == Mode()


@each_observer
@pytest.mark.filterwarnings("ignore:invalid value")
def test_an_observer_ends_after_an_error_and_in_tasks(make, is_on):
    with pytest.raises(ZeroDivisionError), make():
        _ = 1 / 0

    async def main():
        started, ended = asyncio.Event(), asyncio.Event()

        async def later():  # it has a copy of the context with the observer
            started.set()
            await ended.wait()
            return is_on()

        with make():
            task = asyncio.create_task(later())
            await started.wait()
        ended.set()
        return await task

    assert not asyncio.run(main()) and not is_on()


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_overlapping_blocks_of_use_end_in_any_order(order):
    names = "strict:1", "numpy", "strict:0"
    blocks = []
    for name in names:
        blocks.append(gpuprop.use(name))
        blocks[-1].__enter__()
    left = list(names)
    for n in order:
        blocks[n].__exit__(None, None, None)
        left.remove(names[n])
        assert gpuprop.zeros(1).device == (left[-1] if left else "numpy")
    with gpuprop.use("strict"):
        assert gpuprop.zeros(1).device == "strict:0"


def test_a_generator_that_another_thread_ends():
    def batches():
        with gpuprop.no_grad():
            yield 1

    batch = batches()
    next(batch)
    thread = threading.Thread(target=batch.close)
    thread.start()
    thread.join()
    assert not gpuprop.is_grad_enabled()  # it began here
    with gpuprop.enable_grad():
        assert gpuprop.is_grad_enabled()
    current.set(Mode())


@pytest.mark.parametrize("mode, expected", [(gpuprop.no_grad, False), (gpuprop.enable_grad, True)])
def test_decorators_without_parentheses(mode, expected):
    @mode
    def inside():
        return gpuprop.is_grad_enabled()

    assert inside() is expected and inside.__name__ == "inside"
    with pytest.raises(TypeError, match="function must be a function, got 5"):
        mode(5)
