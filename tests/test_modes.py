"""Blocks and decorators that change how things run: no_grad, autocast, no_sync, debug."""

import asyncio
import threading

import pytest

import gpuprop
from gpuprop._core.mode import Mode, current

BLOCKS = {
    "no_grad": (lambda: gpuprop.no_grad(), lambda: not gpuprop.is_grad_enabled()),
    "autocast": (lambda: gpuprop.autocast(), lambda: product().dtype == "float16"),
    "no_sync": (lambda: gpuprop.no_sync(), lambda: refuses_to_wait()),
    "debug": (lambda: gpuprop.debug(nan=True), lambda: finds_nan()),
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


def test_an_asynchronous_generator_is_refused():
    with pytest.raises(TypeError, match="asynchronous generator"):
        @gpuprop.no_grad()
        async def steps():
            yield 1


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
