"""Steps recorded as CUDA graphs: memory, order of replays, differences, calls that raise."""

import gc
import itertools
import sys
import threading
import warnings

import numpy as np
import pytest
from counted import settled
from tested_backends import HAS_CUDA

import gpuprop
import gpuprop.functional as F
from gpuprop import asnumpy, capture, nn, optim, use
from gpuprop._core.backend import CaptureError
from gpuprop._core.registry import get_backend
from gpuprop.training import Trainer

pytestmark = pytest.mark.gpu

if HAS_CUDA:
    import cupy

    from gpuprop_cupy import products
    from gpuprop_cupy.graph import Arena, record

    CUPY = get_backend("cupy")


@pytest.fixture(autouse=True)
def _on_cupy():
    with use("cupy"):
        yield


def recorded(step):
    with record() as recording:
        result = step()
    return recording, result


def churn():
    """Unrelated work: allocates memory of many sizes and frees it full of invalid values."""
    for n in (1, 100, 1000, 1024, 3000, 50000):
        arrays = [cupy.full(n, np.nan) for _ in range(8)]
        arrays += [cupy.full(n, -1, "int64") for _ in range(8)]
        del arrays
    gc.collect()


# ---- recording and replaying --------------------------------------------------------------------


def test_nothing_is_computed_while_recording():
    x, out = cupy.ones(3), cupy.zeros(3)
    recording, _ = recorded(lambda: out.__iadd__(x * 2))
    assert out.tolist() == [0, 0, 0]
    for n in (1, 2, 3):
        recording.replay()
        assert out.tolist() == [2 * n] * 3


def test_a_replay_reads_the_current_values():
    x = cupy.ones((4, 4))
    recording, y = recorded(lambda: CUPY.xp.matmul(x, x).sum(axis=0))
    for value in (1, 2, 3):
        x[...] = value
        recording.replay()
        assert y.tolist() == [16 * value**2] * 4


def test_an_empty_recording():
    recording, _ = recorded(lambda: None)
    recording.replay()
    assert recording.difference(recorded(lambda: None)[0]) is None
    assert recording.outside() == []


@pytest.mark.hostcuda
def test_a_replay_is_one_launch():
    x = cupy.ones((8, 8), "float32")
    recording, _ = recorded(lambda: CUPY.xp.matmul(x, x) + x.sum(axis=0))
    assert settled(recording.replay) == {"[graph]": 1}


def test_a_replay_reads_views_and_scalars_of_older_arrays():
    x, scale = cupy.arange(12.0).reshape(3, 4), cupy.asarray(2.0)
    recording, y = recorded(lambda: x[1:, ::2].T * scale)
    scale[...] = 3
    recording.replay()
    assert y.tolist() == (3 * x[1:, ::2].T).tolist()


# ---- memory -------------------------------------------------------------------------------------


def test_results_outlive_their_recording():
    x = cupy.arange(1000.0)
    recording, y = recorded(lambda: x * 2 + 1)
    recording.replay()
    del recording
    churn()
    assert (y == cupy.arange(1000.0) * 2 + 1).all()


def test_no_other_array_gets_the_memory_of_a_recording():
    """Eager work between replays does not affect them, and they do not affect it."""
    x = cupy.arange(1000.0)
    recording, y = recorded(lambda: ((x * 2 + 1) ** 2).cumsum() + x[::-1])
    want = ((np.arange(1000.0) * 2 + 1) ** 2).cumsum() + np.arange(1000.0)[::-1]
    for _ in range(3):
        others = [cupy.full(1000, float(i)) for i in range(50)]
        churn()
        recording.replay()
        np.testing.assert_allclose(y.get(), want, rtol=1e-12)
        assert all((other == i).all() for i, other in enumerate(others))


def test_memory_that_is_used_lives_as_long_as_the_recording():
    kept = [cupy.ones(1000)]
    recording, y = recorded(lambda: kept[0] * 2)
    kept.clear()
    churn()
    recording.replay()
    assert (y == 2).all()


def test_memory_that_only_products_use_lives_too():
    kept = [cupy.eye(32)]
    recording, y = recorded(lambda: CUPY.xp.matmul(kept[0], kept[0]))
    kept.clear()
    churn()
    recording.replay()
    assert (y == cupy.eye(32)).all()


def test_memory_is_freed_with_the_recording_and_its_arrays():
    x = cupy.ones(1 << 20)
    square = x[:64].reshape(8, 8)
    free = lambda: cupy.cuda.runtime.memGetInfo()[0]
    recorded(lambda: CUPY.xp.matmul(square, square) + 1)
    before = free()
    recording, y = recorded(lambda: CUPY.xp.matmul(square, square) + (x * 2).sum())
    assert recording.difference(recording) is None and free() < before
    del recording
    assert free() < before  # the result
    del y
    assert free() == before


def test_recordings_share_a_workspace_for_products():
    """Eager products use another one: a graph's kernels may write to theirs at any time."""
    x = cupy.ones((8, 8))
    reserved = lambda: CUPY.memory()["reserved"]
    recorded(lambda: CUPY.xp.matmul(x, x))
    before = reserved()
    recordings, addresses = [], set()
    for _ in range(20):
        with record() as recording:
            CUPY.xp.matmul(x, x)
            addresses.add(products._handles.get(0).shared_workspace)
        recordings.append(recording)
    address, = addresses
    assert address is not None
    assert reserved() - before < 20 * (1 << 20)
    CUPY.xp.matmul(x, x)
    own = products._handles.get(0)
    assert own.shared_workspace is None and own.workspace.ptr != address


def test_memory_of_recordings_is_counted():
    x = cupy.ones(1 << 18)
    recorded(lambda: x + 1)
    cupy.get_default_memory_pool().free_all_blocks()
    before = CUPY.memory()["reserved"]
    recording, y = recorded(lambda: x * 2)
    assert CUPY.memory()["reserved"] == before + y.nbytes
    del recording, y
    assert CUPY.memory()["reserved"] == before


def test_held_names_the_code_that_made_an_array_that_is_kept():
    x, kept = cupy.ones(3), {}

    def step():
        kept["a"] = x * 2
        return kept["a"].copy(), kept["a"][1:].copy()

    recording, (y, z) = recorded(step)
    assert "test_held_names_the_code" in recording.held([y, z])
    assert recording.held([y, z, kept["a"]]) is None
    kept["a"] = kept["a"][1:]
    assert recording.held([y, z]) is not None
    kept.clear()
    assert recording.held([y, z]) is None
    assert recording.held([y]) is not None


def test_a_recording_does_not_break_tuples_that_another_thread_builds():
    """A reference to an unfinished tuple, as from `gc.get_objects`, makes its resizing fail."""
    done, x = threading.Event(), cupy.ones(3)

    def other():
        while not done.is_set():
            assert len(tuple(i for i in range(30))) == 30

    def recording():
        try:
            for _ in range(100):
                found, _ = recorded(lambda: x + 1)
                assert [a.data.ptr for a in found.outside()] == [x.data.ptr]
        finally:
            done.set()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        run_in_threads(other, recording)
    finally:
        sys.setswitchinterval(before)


def test_lengths_are_not_mistaken_for_addresses():
    """Nor are words that CuPy does not initialize, which may be addresses of other memory."""
    from gpuprop_cupy.graph import KERNEL, Node, _addresses

    def words(node, *values):
        return _addresses(np.array(values, "int64").tobytes(), node)

    of_cupy, of_library = (Node(KERNEL, "k", (), (), flag) for flag in (False, True))
    assert words(of_cupy, 5, 6, 7, 8) == (5,)
    assert words(of_cupy, 5) == (5,)
    assert words(of_cupy, 5, 6, 7) == ()
    assert words(of_library, 5, 6, 7) == (5, 6, 7)


def test_an_arena_reuses_free_memory():
    arena = Arena()
    a = arena.malloc(1000)
    first = a.ptr
    b, c = arena.malloc(5000), arena.malloc(1)
    del a
    assert arena.malloc(1024).ptr == first
    pointers = sorted([b.ptr, c.ptr])
    assert c.ptr % 512 == 0 and pointers[1] - pointers[0] >= 512
    del b, c
    assert arena.malloc(64 << 10).ptr == first  # free neighbours were merged
    assert arena.malloc(0).ptr == 0
    large = arena.malloc(5 << 20)
    assert [m.size for m in arena.made] == [1024, 5120, 512, 1024, 64 << 10, 5 << 20]
    assert arena.blocks_at(large.ptr + 8) == {(5, 8)}
    assert (0, 8) in arena.blocks_at(first + 8)
    assert not arena.blocks_at(first - 8)


def test_an_arena_frees_unused_memory_of_eager_steps_when_it_needs_more():
    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    free = cupy.cuda.runtime.memGetInfo()[0]
    half = int(free * 0.6) // 8
    cupy.empty(half)  # CuPy's pool keeps it
    recording, y = recorded(lambda: cupy.empty(half))
    assert y.nbytes == half * 8
    with pytest.raises(MemoryError):
        recorded(lambda: cupy.empty(half))  # twice is too much
    del recording, y
    pool.free_all_blocks()
    assert recorded(lambda: cupy.empty(half))[1].nbytes == half * 8


# ---- streams and threads ------------------------------------------------------------------------


def test_replays_are_ordered_with_other_work_of_the_current_stream():
    x, seen = cupy.zeros(2000), []
    recording, y = recorded(lambda: x + 1)
    stream = cupy.cuda.Stream(non_blocking=True)
    stream.wait_event(cupy.cuda.get_current_stream().record())
    with stream:
        for i in range(5):
            x[...] = i
            recording.replay()
            seen.append(y.copy())
        stream.synchronize()
    assert [s[0].item() for s in seen] == [1, 2, 3, 4, 5]


def test_replays_on_several_streams_take_turns():
    """A replay reads what the replay before it wrote, on another stream and without a wait."""
    total = cupy.zeros(200_000)
    recordings = [recorded(lambda: total.__iadd__(1))[0] for _ in range(2)]
    streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(3)]
    streams.append(cupy.cuda.Stream.null)
    cupy.cuda.Device().synchronize()
    for i in range(40):
        with streams[i % 4]:
            recordings[i % 2].replay()
    cupy.cuda.Device().synchronize()
    assert (total == 40).all()


def test_turns_on_different_streams_wait_for_an_event():
    """Inputs are written and results copied on the current stream, which may change."""
    x = cupy.zeros(3)
    recording, _ = recorded(lambda: x + 1)
    stream = cupy.cuda.Stream(non_blocking=True)
    waited = []

    class Waiting(cupy.cuda.Stream):
        def wait_event(self, event):
            waited.append(event)
            super().wait_event(event)

    with stream:
        recording.replay()
        recording.replay()
    with Waiting(non_blocking=True):
        recording.replay()
        recording.replay()
        assert len(waited) == 1
    with cupy.cuda.Stream.null:
        recording.replay()
    with Waiting(non_blocking=True):
        recording.replay()
        assert len(waited) == 2
    cupy.cuda.Device().synchronize()


def test_the_stream_and_the_allocator_are_restored():
    state = lambda: (cupy.cuda.get_current_stream(), cupy.cuda.get_allocator())
    before = state()
    recorded(lambda: cupy.ones(3) + 1)
    assert state() == before
    with pytest.raises(ZeroDivisionError):
        recorded(lambda: cupy.ones(3) / cupy.ones(3) + 1 / 0)
    with pytest.raises(CaptureError):
        recorded(lambda: float(cupy.ones(3).sum()))
    assert state() == before
    assert (cupy.ones(3) * 2).tolist() == [2, 2, 2]
    assert recorded(lambda: cupy.ones(3))[0].nodes


def run_in_threads(*targets):
    errors = []

    def guarded(target):
        try:
            target()
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=guarded, args=(t,)) for t in targets]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for e in errors:
        raise e


def test_two_threads_record_and_replay_at_once():
    barrier = threading.Barrier(2, timeout=60)

    def work(scale):
        with use("cupy"):
            x = cupy.arange(100.0).reshape(10, 10)
            for _ in range(3):
                with record() as recording:
                    y = CUPY.xp.matmul(x, x) * scale
                    barrier.wait()  # both are recording
                    z = y + CUPY.xp.ones(50_000).sum()
                    barrier.wait()
                for _ in range(5):
                    recording.replay()
                    np.testing.assert_array_equal(z.get(), (x.get() @ x.get()) * scale + 50_000)

    run_in_threads(lambda: work(2), lambda: work(3))


def test_a_thread_may_multiply_for_the_first_time_while_it_records():
    """cuBLAS cannot be initialized by a thread that captures."""

    def work():
        x = cupy.ones((8, 8))
        assert not products._handles.own
        with record() as recording:
            assert products._handles.own
            y = CUPY.xp.matmul(x, x)
        recording.replay()
        assert (y == 8).all()

    run_in_threads(work)


def test_other_threads_compute_while_one_records():
    started, done = threading.Event(), threading.Event()

    def eager():
        assert started.wait(60)
        x = cupy.ones((64, 64))
        for n in range(1, 20):  # allocations, waits, copies, products
            y = CUPY.xp.matmul(x, x) + cupy.ones(n * 1000).sum()
            assert y.get()[0, 0] == 64 + n * 1000
        # CUDA does not allow a wait for a whole device while a stream of it captures.
        cupy.cuda.get_current_stream().synchronize()
        done.set()

    def recording():
        x = cupy.ones(3)
        with record() as found:
            y = x + 1
            started.set()
            assert done.wait(60)
            z = y * 2
        found.replay()
        assert z.tolist() == [4, 4, 4]

    run_in_threads(eager, recording)


# ---- calls that cannot be captured --------------------------------------------------------------


@pytest.mark.parametrize("call", [
    lambda x: float(x.sum()),
    lambda x: x[x > 0],
    lambda x: x.get(),
    lambda x: bool((x > 0).all()),
    lambda x: cupy.nonzero(x),
    lambda x: gpuprop.Tensor(x).numpy(),
])
def test_the_error_names_the_call_that_waits_and_its_line(call):
    with pytest.raises(CaptureError, match=r"in .*<lambda> \(test_cupy_graph.py:\d+\)") as e:
        recorded(lambda: call(cupy.ones(3)))
    assert "waits for the device" in str(e.value)
    assert "disallowed" in str(e.value.__cause__)


@pytest.mark.parametrize("call", [
    lambda: cupy.asarray([1, 2]),
    lambda: cupy.cuda.Device().synchronize(),
    lambda: CUPY.synchronize(),
    lambda: cupy.cuda.get_current_stream().synchronize(),
    lambda: cupy.ones((3, 3)) @ cupy.ones((3, 3)),
])
def test_the_error_names_the_line_of_a_call_that_cannot_be_captured(call):
    with pytest.raises(CaptureError, match=r"in .*<lambda> \(test_cupy_graph.py:\d+\)"):
        recorded(call)
    assert cupy.ones(3).sum() == 3


def test_the_error_for_an_array_on_another_device_names_both_devices():
    x = cupy.ones(3)
    with record() as recording:
        device = recording.arena.device
        recording.arena.device = 1
        with pytest.raises(CaptureError, match=r"on cuda:0 .*recorded on cuda:1.* one device"):
            x + 1
        recording.arena.device = device


def test_an_error_that_the_step_catches_is_raised_at_its_end():
    def step():
        try:
            cupy.cuda.get_current_stream().synchronize()
        except RuntimeError:
            return None

    with pytest.raises(CaptureError, match="cannot be captured"):
        recorded(step)


def test_an_error_of_the_step_itself_is_not_changed():
    with pytest.raises(ValueError, match="of the step"):
        recorded(lambda: (_ for _ in ()).throw(ValueError("of the step")))
    with pytest.raises(ValueError), record() as recording:
        raise ValueError
    with pytest.raises(CaptureError, match="nothing to replay"):
        recording.replay()


def test_a_recording_inside_a_recording_raises():
    with pytest.raises(CaptureError, match="already recording"):
        recorded(lambda: recorded(lambda: None))
    recorded(lambda: None)


# ---- differences --------------------------------------------------------------------------------


def difference(step):
    a, b = recorded(step)[0], recorded(step)[0]
    return a.difference(b)


def test_the_same_step_twice_has_no_difference():
    x, w = cupy.ones((40, 30)), cupy.ones((30, 20), "float32")
    out, order = cupy.zeros(10), cupy.arange(40) % 7

    def step():
        y = CUPY.xp.matmul(x, w) + 1
        out[2:6] = y[:4, 3]
        CUPY.xp.index_add(out, order, y[:, 0])
        parts = [y[:, i:i + 3].T * 2.5 for i in range(5)]
        del y
        total = sum(part.sum() for part in parts)
        return cupy.argsort(parts[0], axis=-1), total, cupy.where(x > 0, x, 0).cumsum(axis=1)

    assert difference(step) is None


def test_a_number_that_changes_is_reported():
    numbers = itertools.count(1)
    x = cupy.ones(3)
    assert difference(lambda: x * (next(numbers) / 4)).startswith(
        "multiply in test_a_number_that_changes_is_reported.<locals>.<lambda> (test_cupy_graph.py:")
    for step in (
            lambda: x * next(numbers),
            lambda: x + next(numbers) / 3,
            lambda: x.astype("float32") * next(numbers),
            lambda: cupy.where(x > 0, x, next(numbers)),
            lambda: x.fill(next(numbers)),
            lambda: cupy.arange(3) + next(numbers)):
        assert "must be a 0-d array" in difference(step)


def test_both_values_of_a_number_are_reported():
    numbers = itertools.count(1)
    for dtype, before, after in [("float64", 1.0, 2.0), ("int64", 3, 4), ("float32", 5.0, 6.0)]:
        x = cupy.ones(3, dtype)
        message = difference(lambda x=x: x * next(numbers))
        assert f": argument 1 was {before}, then {after}: " in message


def test_an_array_at_another_address_is_reported():
    arrays = itertools.cycle([cupy.ones((3, 3)), cupy.ones((3, 3))])
    for step in (
            lambda: next(arrays) + 1,
            lambda: next(arrays).sum(),
            lambda: next(arrays).copy(),
            lambda: next(arrays).fill(0)):
        message = difference(step)
        assert "at another address" in message and "must change in place" in message


def test_an_operand_of_a_product_at_another_address_is_reported():
    arrays = itertools.cycle([cupy.ones((3, 3)), cupy.ones((3, 3))])
    x = cupy.ones((3, 3))
    assert "at another address" in difference(lambda: CUPY.xp.matmul(x, next(arrays)))


def test_other_operations_and_shapes_are_reported():
    n = itertools.count(1)
    x = cupy.ones(3)
    assert difference(lambda: [x + 1 for _ in range(next(n))]) == "1 device operations became 2"
    ops = itertools.cycle([cupy.add, cupy.multiply])
    assert "a call of add in " in difference(lambda: next(ops)(x, x))
    sizes = itertools.count(100, 100)
    assert "was launched as" in difference(lambda: cupy.zeros(next(sizes)) + 1)
    steps, wide = itertools.count(2), cupy.ones(12)
    assert "shape or strides 16, then 24" in difference(lambda: wide[::next(steps)][:3] + 1)


def test_state_that_is_rebound_is_reported():
    state = {"h": cupy.ones(3)}

    def step():
        state["h"] = state["h"] * 2

    assert "at another address" in difference(step)


# ---- whole steps --------------------------------------------------------------------------------


class Last(nn.Module):
    """A recurrent layer, and a linear one on its last output."""

    def __init__(self):
        self.rnn = nn.LSTM(5, 6, num_layers=2, dropout=0.2, batch_first=True)
        self.out = nn.Linear(6, 3)

    def forward(self, x):
        return self.out(self.rnn(x)[0][:, -1])


class Sentences(nn.Module):
    def __init__(self):
        self.embedding = nn.Embedding(11, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, ids):
        return self.out(self.block(self.embedding(ids)).mean(axis=1))


def floats(*shape):
    return lambda rng: rng.standard_normal(shape).astype("float32")


def integers(high, *shape):
    return lambda rng: rng.integers(0, high, shape)


def ctc(model, x, labels):
    y = F.log_softmax(model(x), -1)
    input_lengths = gpuprop.full((2,), 6, dtype="int64")
    target_lengths = gpuprop.full((2,), 3, dtype="int64")
    return F.ctc_loss(y, labels + 1, input_lengths, target_lengths)


def cross_entropy(model, x, y):
    return F.cross_entropy(model(x), y)


def perceptron():
    return nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Dropout(0.5), nn.Linear(7, 3))


def convolutional():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3), nn.LeakyReLU(), nn.Flatten(), nn.Linear(16, 3))


def language_model():
    return nn.Sequential(nn.Embedding(11, 6), nn.LayerNorm(6), nn.Linear(6, 11))


def token_cross_entropy(model, x, y):
    return F.cross_entropy(model(x).reshape(-1, 11), y.reshape(-1))


adam = lambda p: optim.Adam(p, lr=0.01)
adamw = lambda p: optim.AdamW(p, lr=0.01, weight_decay=0.1)
sgd = lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True)
STEPS = {
    "MLP": (perceptron, cross_entropy, adam, floats(8, 5), integers(3, 8)),
    "MLP, SGD": (perceptron, cross_entropy, sgd, floats(8, 5), integers(3, 8)),
    "CNN": (convolutional, cross_entropy, sgd, floats(4, 2, 8, 8), integers(3, 4)),
    "LSTM": (Last, cross_entropy, adam, floats(4, 6, 5), integers(3, 4)),
    "Transformer": (Sentences, cross_entropy, adamw, integers(11, 4, 6), integers(3, 4)),
    "embedding": (language_model, token_cross_entropy, adam, integers(11, 4, 6),
                  integers(11, 4, 6)),
    "CTC": (lambda: nn.Linear(5, 4), ctc, adam, floats(6, 2, 5), integers(3, 2, 3)),
}


def trained(name, captured, steps=7):
    make, loss_of, optimizer_of, x_of, y_of = STEPS[name]
    gpuprop.manual_seed(3)
    rng = np.random.default_rng(0)
    model = make()
    optimizer = optimizer_of(model.parameters())

    def step(x, y):
        optimizer.zero_grad()
        loss = loss_of(model, x, y)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        return loss, norm

    if captured:
        step = capture(step)
    losses = []
    for i in range(steps):
        optimizer.param_groups[0]["lr"] = 0.1 / (i + 1)
        x, y = gpuprop.tensor(x_of(rng)), gpuprop.tensor(y_of(rng))
        losses.append([v.item() for v in step(x, y)])
        churn()
    return losses, model.state_dict(), optimizer.state_dict()["state"]


@pytest.mark.parametrize("name", STEPS)
def test_captured_training_has_the_same_bits(name):
    """Losses, weights, buffers and the optimizer's state; and no step runs without a replay."""
    losses, weights, state = trained(name, captured=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        replayed, weights_, state_ = trained(name, captured=True)
    assert replayed == losses and len(set(map(tuple, losses))) == len(losses)
    for key in weights:
        np.testing.assert_array_equal(weights_[key], weights[key])
    for n, entries in state.items():
        for key, value in entries.items():
            np.testing.assert_array_equal(state_[n][key], value)


def test_several_signatures_alternate():
    def run(wrap):
        gpuprop.manual_seed(3)
        model = perceptron()
        optimizer = adam(model.parameters())

        def step(x, y):
            optimizer.zero_grad()
            loss = cross_entropy(model, x, y)
            loss.backward()
            optimizer.step()
            return loss

        step = wrap(step)
        rng = np.random.default_rng(0)
        losses = []
        for i in range(16):
            rows = (8, 3, 5)[i % 3]
            x, y = rng.standard_normal((rows, 5)).astype("float32"), rng.integers(0, 3, rows)
            losses.append(step(gpuprop.tensor(x), gpuprop.tensor(y)).item())
        return losses

    assert run(capture) == run(lambda step: step)


def test_a_captured_trainer_has_the_same_bits():
    def run(captured):
        gpuprop.manual_seed(3)
        model = perceptron()
        rng = np.random.default_rng(0)
        x, y = rng.standard_normal((40, 5)).astype("float32"), rng.integers(0, 3, 40)
        trainer = Trainer(
            model, F.cross_entropy, adam(model.parameters()), metrics=["accuracy"],
            clip_grad_norm=1.0, capture=captured)
        history = trainer.fit((x, y), epochs=3, batch_size=8, progress=False)
        losses = [row["loss"] for row in history]
        return losses, {k: v.tolist() for k, v in model.state_dict().items()}

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(True) == run(False)


SCALED = """extern "C" __global__ void scaled(const float* x, float s, float* y) {
    y[threadIdx.x] = x[threadIdx.x] * s;
}"""
ADDED = """extern "C" __global__ void added(const float* x, float* total) {
    total[threadIdx.x] += x[threadIdx.x];
}"""


def test_a_number_that_changes_in_a_users_kernel_is_found_by_the_first_replay():
    """`difference` compares only its arrays, because its arguments may contain padding."""
    kernel = cupy.RawKernel(SCALED, "scaled")
    numbers = iter([1, 2, 3, 4, 5])

    def step(x):
        y = cupy.empty_like(x.data)
        kernel((1,), (4,), (x.data, np.float32(next(numbers)), y))
        return gpuprop.Tensor(y)

    step, x = capture(step), gpuprop.ones(4)
    step(x)
    with pytest.warns(UserWarning, match="its first replay"):
        assert step(x).tolist() == [4] * 4
    assert asnumpy(step(x)).tolist() == [5] * 4


def test_a_users_kernel_that_updates_in_place_does_so_once_per_step():
    kernel = cupy.RawKernel(ADDED, "added")
    total = cupy.zeros(4, "float32")
    step = capture(lambda x: kernel((1,), (4,), (x.data, total)))
    for i in range(1, 6):
        step(gpuprop.ones(4) * i)
        assert total.tolist() == [i * (i + 1) / 2] * 4
