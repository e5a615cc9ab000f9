"""Steps recorded as CUDA graphs: whose memory they use, how they are ordered, what differs, what is refused."""

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
    """Other work: memory of many sizes, given back full of values that nobody means."""
    for n in (1, 100, 1000, 1024, 3000, 50000):
        [cupy.full(n, np.nan) for _ in range(8)] + [cupy.full(n, -1, "int64") for _ in range(8)]
    gc.collect()


# ---- recording and replaying ----------------------------------------------------------------------------------------


def test_nothing_is_computed_while_recording():
    x, out = cupy.ones(3), cupy.zeros(3)
    recording, _ = recorded(lambda: out.__iadd__(x * 2))
    assert out.tolist() == [0, 0, 0]
    for n in (1, 2, 3):
        recording.replay()
        assert out.tolist() == [2 * n] * 3


def test_a_replay_reads_what_lies_at_the_addresses_now():
    x = cupy.ones((4, 4))
    recording, y = recorded(lambda: CUPY.xp.matmul(x, x).sum(axis=0))
    for value in (1, 2, 3):
        x[...] = value
        recording.replay()
        assert y.tolist() == [16 * value**2] * 4


def test_an_empty_recording():
    recording, _ = recorded(lambda: None)
    recording.replay()
    assert recording.difference(recorded(lambda: None)[0]) is None and recording.outside() == []


@pytest.mark.hostcuda
def test_a_replay_is_one_launch():
    x = cupy.ones((8, 8), "float32")
    recording, _ = recorded(lambda: CUPY.xp.matmul(x, x) + x.sum(axis=0))
    assert settled(recording.replay) == {"[graph]": 1}


def test_views_and_scalars_of_outside_arrays_are_followed():
    x, scale = cupy.arange(12.0).reshape(3, 4), cupy.asarray(2.0)
    recording, y = recorded(lambda: x[1:, ::2].T * scale)
    scale[...] = 3
    recording.replay()
    assert y.tolist() == (3 * x[1:, ::2].T).tolist()


# ---- memory ---------------------------------------------------------------------------------------------------------


def test_results_outlive_their_recording():
    x = cupy.arange(1000.0)
    recording, y = recorded(lambda: x * 2 + 1)
    recording.replay()
    del recording
    churn()
    assert (y == cupy.arange(1000.0) * 2 + 1).all()


def test_memory_of_a_recording_is_never_handed_out():
    """Eager work between replays neither disturbs them nor is disturbed."""
    x = cupy.arange(1000.0)
    recording, y = recorded(lambda: ((x * 2 + 1) ** 2).cumsum() + x[::-1])
    want = ((np.arange(1000.0) * 2 + 1) ** 2).cumsum() + np.arange(1000.0)[::-1]
    for _ in range(3):
        others = [cupy.full(1000, float(i)) for i in range(50)]
        churn()
        recording.replay()
        np.testing.assert_allclose(y.get(), want, rtol=1e-12)
        assert all((other == i).all() for i, other in enumerate(others))


def test_what_is_used_lives_as_long_as_the_recording():
    kept = [cupy.ones(1000)]
    recording, y = recorded(lambda: kept[0] * 2)
    kept.clear()
    churn()
    recording.replay()
    assert (y == 2).all()


def test_memory_used_by_products_alone_lives_too():
    kept = [cupy.eye(32)]
    recording, y = recorded(lambda: CUPY.xp.matmul(kept[0], kept[0]))
    kept.clear()
    churn()
    recording.replay()
    assert (y == cupy.eye(32)).all()


def test_memory_is_given_back_at_last():
    x, free = cupy.ones(1 << 20), cupy.cuda.runtime.memGetInfo
    recorded(lambda: CUPY.xp.matmul(x[:64].reshape(8, 8), x[:64].reshape(8, 8)) + 1)
    before = free()[0]
    recording, y = recorded(lambda: CUPY.xp.matmul(x[:64].reshape(8, 8), x[:64].reshape(8, 8)) + (x * 2).sum())
    assert recording.difference(recording) is None and free()[0] < before
    del recording
    assert free()[0] < before  # the result
    del y
    assert free()[0] == before


def test_recordings_share_a_workspace_for_products():
    """Products outside go on with another: a graph's kernels write to theirs at any time."""
    x, used = cupy.ones((8, 8)), CUPY.memory
    recorded(lambda: CUPY.xp.matmul(x, x))
    before, found = used()["reserved"], []
    for _ in range(20):
        with record() as recording:
            CUPY.xp.matmul(x, x)
            found.append((recording, products._handles.get(0).lent))
    assert len({address for _, address in found}) == 1 and found[0][1] is not None
    assert used()["reserved"] - before < 20 * (1 << 20)
    CUPY.xp.matmul(x, x)
    own = products._handles.get(0)
    assert own.lent is None and own.workspace.ptr != found[0][1]


def test_memory_of_recordings_is_counted():
    x = cupy.ones(1 << 18)
    recorded(lambda: x + 1)
    cupy.get_default_memory_pool().free_all_blocks()
    before = CUPY.memory()["reserved"]
    recording, y = recorded(lambda: x * 2)
    assert CUPY.memory()["reserved"] == before + y.nbytes
    del recording, y
    assert CUPY.memory()["reserved"] == before


def test_what_is_held_beside_results_is_named():
    x, kept = cupy.ones(3), {}

    def step():
        kept["a"] = x * 2
        return kept["a"].copy(), kept["a"][1:].copy()

    recording, (y, z) = recorded(step)
    assert "test_what_is_held" in recording.held([y, z]) and recording.held([y, z, kept["a"]]) is None
    kept["a"] = kept["a"][1:]
    assert recording.held([y, z]) is not None
    kept.clear()
    assert recording.held([y, z]) is None and recording.held([y]) is not None


def test_another_thread_makes_tuples_while_one_looks_for_the_memory_it_uses():
    """Who holds every object for a moment has others' growing tuples break."""
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


def test_lengths_are_not_taken_for_addresses():
    """Nor what CuPy leaves unwritten: the memory of others is not to be looked at, nor written to."""
    from gpuprop_cupy.graph import KERNEL, Node, _addresses

    def words(node, *values):
        return _addresses(np.array(values, "int64").tobytes(), node)

    own, foreign = (Node(KERNEL, "k", (), (), by_library) for by_library in (False, True))
    assert words(own, 5, 6, 7, 8) == (5,) and words(own, 5) == (5,) and words(own, 5, 6, 7) == ()
    assert words(foreign, 5, 6, 7) == (5, 6, 7)


def test_an_arena_reuses_what_is_free():
    arena = Arena()
    a = arena.malloc(1000)
    first = a.ptr
    b, c = arena.malloc(5000), arena.malloc(1)
    del a
    assert arena.malloc(1024).ptr == first
    pointers = sorted([b.ptr, c.ptr])
    assert c.ptr % 512 == 0 and pointers[1] - pointers[0] >= 512
    del b, c
    assert arena.malloc(64 << 10).ptr == first  # all neighbours are one block again
    assert arena.malloc(0).ptr == 0
    large = arena.malloc(5 << 20)
    assert [m.size for m in arena.made] == [1024, 5120, 512, 1024, 64 << 10, 5 << 20]
    assert arena.place(large.ptr + 8) == {(5, 8)} and (0, 8) in arena.place(first + 8)
    assert not arena.place(first - 8)


def test_memory_that_eager_steps_left_is_used_when_there_is_no_other():
    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    free = cupy.cuda.runtime.memGetInfo()[0]
    half = int(free * 0.6) // 8
    cupy.empty(half)  # and now it is the pool's
    recording, y = recorded(lambda: cupy.empty(half))
    assert y.nbytes == half * 8
    with pytest.raises(MemoryError):
        recorded(lambda: cupy.empty(half))  # twice is too much
    del recording, y
    pool.free_all_blocks()
    assert recorded(lambda: cupy.empty(half))[1].nbytes == half * 8


# ---- streams and threads --------------------------------------------------------------------------------------------


def test_replays_are_in_order_with_the_stream_that_is_current():
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
    """What one writes for the next to read is not read before, though nobody waits."""
    total = cupy.zeros(200_000)
    recordings = [recorded(lambda: total.__iadd__(1))[0] for _ in range(2)]
    streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(3)] + [cupy.cuda.Stream.null]
    cupy.cuda.Device().synchronize()
    for i in range(40):
        with streams[i % 4]:
            recordings[i % 2].replay()
    cupy.cuda.Device().synchronize()
    assert (total == 40).all()


def test_turns_order_what_is_done_in_them():
    """Slots are written and results copied on the stream that is current: an event is between two streams."""
    x = cupy.zeros(3)
    recording, _ = recorded(lambda: x + 1)
    stream, waited = cupy.cuda.Stream(non_blocking=True), []

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


def test_the_stream_and_the_allocator_come_back():
    stream, allocator = cupy.cuda.get_current_stream(), cupy.cuda.get_allocator()
    recorded(lambda: cupy.ones(3) + 1)
    assert cupy.cuda.get_current_stream() == stream and cupy.cuda.get_allocator() == allocator
    with pytest.raises(ZeroDivisionError):
        recorded(lambda: cupy.ones(3) / cupy.ones(3) + 1 / 0)
    with pytest.raises(CaptureError):
        recorded(lambda: float(cupy.ones(3).sum()))
    assert cupy.cuda.get_current_stream() == stream and cupy.cuda.get_allocator() == allocator
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
    """cuBLAS cannot be started by a thread that captures."""
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
        for n in range(1, 20):  # new memory, waits, copies, products
            y = CUPY.xp.matmul(x, x) + cupy.ones(n * 1000).sum()
            assert y.get()[0, 0] == 64 + n * 1000
        cupy.cuda.get_current_stream().synchronize()  # CUDA refuses to wait for a whole device on which one captures
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


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [
    lambda x: float(x.sum()), lambda x: x[x > 0], lambda x: x.get(), lambda x: bool((x > 0).all()),
    lambda x: cupy.nonzero(x), lambda x: gpuprop.Tensor(x).numpy(),
])
def test_waiting_is_refused_by_name(call):
    with pytest.raises(CaptureError, match=r"in .*(<lambda> \(test_cupy_graph|numpy \(autograd).py:\d+\)") as e:
        recorded(lambda: call(cupy.ones(3)))
    assert "waits for the device" in str(e.value) and "disallowed" in str(e.value.__cause__)


@pytest.mark.parametrize("call", [
    lambda: cupy.asarray([1, 2]), lambda: cupy.cuda.Device().synchronize(), lambda: CUPY.synchronize(),
    lambda: cupy.cuda.get_current_stream().synchronize(), lambda: cupy.ones((3, 3)) @ cupy.ones((3, 3)),
])
def test_what_cannot_be_captured_is_refused_by_name(call):
    with pytest.raises(CaptureError, match=r"in .*<lambda> \(test_cupy_graph.py:\d+\)"):
        recorded(call)
    assert cupy.ones(3).sum() == 3


def test_an_array_on_another_device_is_refused_with_both_named():
    x = cupy.ones(3)
    with record() as recording:
        device, recording.arena.device = recording.arena.device, 1
        with pytest.raises(CaptureError, match=r"on cuda:0 in a step that is recorded on cuda:1: .* one device"):
            x + 1
        recording.arena.device = device


def test_a_refusal_that_the_step_hides_is_told_at_its_end():
    def step():
        try:
            cupy.cuda.get_current_stream().synchronize()
        except RuntimeError:
            return None

    with pytest.raises(CaptureError, match="cannot be captured"):
        recorded(step)


def test_an_error_of_the_step_is_its_own():
    with pytest.raises(ValueError, match="of the step"):
        recorded(lambda: (_ for _ in ()).throw(ValueError("of the step")))
    with pytest.raises(ValueError), record() as recording:
        raise ValueError
    with pytest.raises(CaptureError, match="nothing to replay"):
        recording.replay()


def test_a_recording_inside_a_recording():
    with pytest.raises(CaptureError, match="recording already"):
        recorded(lambda: recorded(lambda: None))
    recorded(lambda: None)


# ---- differences ----------------------------------------------------------------------------------------------------


def difference(step):
    a, b = recorded(step)[0], recorded(step)[0]
    return a.difference(b)


def test_the_same_step_twice():
    x, w = cupy.ones((40, 30)), cupy.ones((30, 20), "float32")
    out, order = cupy.zeros(10), cupy.arange(40) % 7

    def step():
        y = CUPY.xp.matmul(x, w) + 1
        out[2:6] = y[:4, 3]
        CUPY.xp.index_add(out, order, y[:, 0])
        some = [y[:, i:i + 3].T * 2.5 for i in range(5)]
        del y
        return cupy.argsort(some[0], axis=-1), sum(s.sum() for s in some), cupy.where(x > 0, x, 0).cumsum(axis=1)

    assert difference(step) is None


def test_a_number_that_changes_is_told():
    numbers = itertools.count(1)
    x = cupy.ones(3)
    assert difference(lambda: x * (next(numbers) / 4)).startswith(
        "multiply in test_a_number_that_changes_is_told.<locals>.<lambda> (test_cupy_graph.py:")
    for step in (lambda: x * next(numbers), lambda: x + next(numbers) / 3, lambda: x.astype("float32") * next(numbers),
                 lambda: cupy.where(x > 0, x, next(numbers)), lambda: x.fill(next(numbers)),
                 lambda: cupy.arange(3) + next(numbers)):
        assert "what changes from step to step must be a 0-d array" in difference(step)


def test_the_number_itself_is_told():
    numbers = itertools.count(1)
    for dtype, was, now in [("float64", 1.0, 2.0), ("int64", 3, 4), ("float32", 5.0, 6.0)]:
        x = cupy.ones(3, dtype)
        assert f": argument 1 was {was}, then {now}: " in difference(lambda x=x: x * next(numbers))


def test_an_array_elsewhere_is_told():
    arrays = itertools.cycle([cupy.ones((3, 3)), cupy.ones((3, 3))])
    for step in (lambda: next(arrays) + 1, lambda: next(arrays).sum(), lambda: next(arrays).copy(),
                 lambda: next(arrays).fill(0)):
        assert "was elsewhere: what lasts from step to step must change in place" in difference(step)


def test_an_operand_of_a_product_elsewhere_is_told():
    arrays, x = itertools.cycle([cupy.ones((3, 3)), cupy.ones((3, 3))]), cupy.ones((3, 3))
    assert "was elsewhere" in difference(lambda: CUPY.xp.matmul(x, next(arrays)))


def test_other_work_is_told():
    n = itertools.count(1)
    x = cupy.ones(3)
    assert difference(lambda: [x + 1 for _ in range(next(n))]) == "1 device operations became 2"
    ops = itertools.cycle([cupy.add, cupy.multiply])
    assert "a call of add in " in difference(lambda: next(ops)(x, x))
    sizes = itertools.count(100, 100)
    assert "was launched as" in difference(lambda: cupy.zeros(next(sizes)) + 1)
    distances, wide = itertools.count(2), cupy.ones(12)
    assert "was of shape or strides 16, then 24" in difference(lambda: wide[::next(distances)][:3] + 1)


def test_state_that_is_rebound_is_told():
    state = {"h": cupy.ones(3)}

    def step():
        state["h"] = state["h"] * 2

    assert "was elsewhere" in difference(step)


# ---- whole steps ----------------------------------------------------------------------------------------------------


class Last(nn.Module):
    """A recurrent layer, and a linear one on its last output."""

    def __init__(self):
        self.rnn, self.out = nn.LSTM(5, 6, num_layers=2, dropout=0.2, batch_first=True), nn.Linear(6, 3)

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
    return F.ctc_loss(y, labels + 1, gpuprop.full((2,), 6, dtype="int64"), gpuprop.full((2,), 3, dtype="int64"))


def entropy(model, x, y):
    return F.cross_entropy(model(x), y)


def perceptron():
    return nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Dropout(0.5), nn.Linear(7, 3))


def convolutional():
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
                         nn.Conv2d(4, 4, 3), nn.LeakyReLU(), nn.Flatten(), nn.Linear(16, 3))


adam = lambda p: optim.Adam(p, lr=0.01)
adamw = lambda p: optim.AdamW(p, lr=0.01, weight_decay=0.1)
sgd = lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True)
STEPS = {
    "MLP": (perceptron, entropy, adam, floats(8, 5), integers(3, 8)),
    "MLP, SGD": (perceptron, entropy, sgd, floats(8, 5), integers(3, 8)),
    "CNN": (convolutional, entropy, sgd, floats(4, 2, 8, 8), integers(3, 4)),
    "LSTM": (Last, entropy, adam, floats(4, 6, 5), integers(3, 4)),
    "Transformer": (Sentences, entropy, adamw, integers(11, 4, 6), integers(3, 4)),
    "embedding": (lambda: nn.Sequential(nn.Embedding(11, 6), nn.LayerNorm(6), nn.Linear(6, 11)),
                  lambda m, x, y: F.cross_entropy(m(x).reshape(-1, 11), y.reshape(-1)), adam,
                  integers(11, 4, 6), integers(11, 4, 6)),
    "CTC": (lambda: nn.Linear(5, 4), ctc, adam, floats(6, 2, 5), integers(3, 2, 3)),
}


def trained(name, captured, steps=7, rows=None):
    make, loss_of, optimizer_of, x_of, y_of = STEPS[name]
    gpuprop.manual_seed(3)
    rng, model = np.random.default_rng(0), make()
    optimizer = optimizer_of(model.parameters())

    def step(x, y):
        optimizer.zero_grad()
        loss = loss_of(model, x, y)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        return loss, norm

    step, found = capture(step) if captured else step, []
    for i in range(steps):
        optimizer.param_groups[0]["lr"] = 0.1 / (i + 1)
        found.append([v.item() for v in step(gpuprop.tensor(x_of(rng)), gpuprop.tensor(y_of(rng)))])
        churn()
    return found, model.state_dict(), optimizer.state_dict()["state"]


@pytest.mark.parametrize("name", STEPS)
def test_training_is_the_same_replayed(name):
    """Bit for bit: losses, weights, buffers and the optimizer's state; and no step was run as it is."""
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


def test_several_signatures_take_turns():
    def run(wrap):
        gpuprop.manual_seed(3)
        model = perceptron()
        optimizer = adam(model.parameters())

        def step(x, y):
            optimizer.zero_grad()
            loss = entropy(model, x, y)
            loss.backward()
            optimizer.step()
            return loss

        step, rng, losses = wrap(step), np.random.default_rng(0), []
        for i in range(16):
            rows = (8, 3, 5)[i % 3]
            x, y = rng.standard_normal((rows, 5)).astype("float32"), rng.integers(0, 3, rows)
            losses.append(step(gpuprop.tensor(x), gpuprop.tensor(y)).item())
        return losses

    assert run(capture) == run(lambda step: step)


def test_the_trainer_captures():
    def run(captured):
        gpuprop.manual_seed(3)
        model = perceptron()
        rng = np.random.default_rng(0)
        x, y = rng.standard_normal((40, 5)).astype("float32"), rng.integers(0, 3, 40)
        trainer = Trainer(model, F.cross_entropy, adam(model.parameters()), metrics=["accuracy"], clip_grad_norm=1.0,
                          capture=captured)
        history = trainer.fit((x, y), epochs=3, batch_size=8, progress=False)
        return [row["loss"] for row in history], {k: v.tolist() for k, v in model.state_dict().items()}

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(True) == run(False)


def test_a_kernel_of_the_users_own_with_a_number_that_changes_is_found_by_its_first_replay():
    """Its name does not say that its arguments have no gaps, so `difference` looks at its arrays alone."""
    kernel = cupy.RawKernel(
        'extern "C" __global__ void scaled(const float* x, float s, float* y) { y[threadIdx.x] = x[threadIdx.x] * s; }',
        "scaled")
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


def test_a_kernel_of_the_users_own_that_writes_in_place_does_so_once_a_step():
    kernel = cupy.RawKernel(
        'extern "C" __global__ void added(const float* x, float* total) { total[threadIdx.x] += x[threadIdx.x]; }',
        "added")
    total = cupy.zeros(4, "float32")
    step = capture(lambda x: kernel((1,), (4,), (x.data, total)))
    for i in range(1, 6):
        step(gpuprop.ones(4) * i)
        assert total.tolist() == [i * (i + 1) / 2] * 4
