"""Workers: equal batches with threads, processes or none, and clean ends after errors."""

import copy
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from pathlib import Path

import numpy as np
import pytest

import gpuprop
from gpuprop.data import DataLoader, Dataset, IterableDataset, batch_rng
from gpuprop.functional import dropout
from gpuprop.random import DATA, INIT, NOISE, Generator

ROOT = Path(__file__).parent.parent
started = []


class Samples(Dataset):
    """Samples that tell which process read them; `act` is called at sample 5."""

    def __init__(self, act=None, n=12):
        self.act, self.n = act, n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if i == 5 and self.act is not None:
            self.act(i)
        return {"x": np.full(3, i), "noise": batch_rng().uniform(), "cupy": "cupy" in sys.modules,
                "pid": os.getpid(), "started": len(started)}


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(7))


def fail(i):
    raise LookupError(f"bad file {i}")


class Unpicklable(Exception):
    def __init__(self, a, b):
        super().__init__(a)


def fail_unpicklable(i):
    raise Unpicklable(1, 2)


def die(i):
    os.kill(os.getpid(), signal.SIGKILL)


def hang(i):
    time.sleep(1000)


def start(number):
    started.append(number)


@pytest.fixture(autouse=True)
def no_workers_left():
    started.clear()
    yield
    gc.collect()
    assert [t.name for t in threading.enumerate() if t.name.startswith("gpuprop-data")] == []
    assert multiprocessing.active_children() == []


def workers():
    return sorted(t.name for t in threading.enumerate() if t.name.startswith("gpuprop-data"))


def join_all():
    for t in threading.enumerate():
        if t.name.startswith("gpuprop-data"):
            t.join(5)


def run(**kwargs):
    gpuprop.manual_seed(2)
    return list(DataLoader(Samples(), 5, shuffle=True, **kwargs))


def numbers(batches):
    return [(b["x"].tolist(), b["noise"].tolist()) for b in batches]


# ---- equal batches -------------------------------------------------------------------------------


def test_processes_make_equal_batches_without_cupy(backend, monkeypatch):
    monkeypatch.setenv("GPUPROP_BACKEND", "cupy")
    batches = run(num_workers=2, worker="process", worker_init_fn=start)
    assert numbers(batches) == numbers(run())
    assert not any(b["cupy"].numpy().any() for b in batches)
    assert os.getpid() not in {p for b in batches for p in b["pid"].tolist()}
    assert {n for b in batches for n in b["started"].tolist()} == {1}
    batches[0]["x"].data[...] = 7  # the array has its own writable memory


def test_threads_make_equal_batches(backend):
    expected = numbers(run())
    assert numbers(run(num_workers=1)) == expected
    assert numbers(run(num_workers=5, prefetch_factor=1)) == expected
    assert list(map(len, DataLoader(Stream(), 3, num_workers=4))) == [3, 3, 1]


ARGUMENTS = {"uniform": ((3,),), "normal": ((3,),), "truncated_normal": ((3,),),
             "integers": (0, 10**6, (3,)), "bernoulli": (0.5, (64,)), "permutation": (20,)}
SHARED = Generator(21)
DRAWS = {  # (dataset, index) -> numbers
    **{f"{name}, stream {stream}": lambda d, i, name=name, stream=stream:
       getattr(d.rng, name)(*ARGUMENTS[name], stream=stream)
       for name in ARGUMENTS for stream in (INIT, DATA, NOISE)},
    **{f"gpuprop.random.{name}": lambda d, i, name=name:
       getattr(gpuprop.random, name)(*ARGUMENTS[name]).numpy() for name in ARGUMENTS},
    "batch_rng": lambda d, i: batch_rng().uniform((3,)),
    "noise": lambda d, i: d.rng.noise(np.ones(3)),
    "dropout": lambda d, i: dropout(np.ones(64, "float32"), 0.5),
    "a global": lambda d, i: SHARED.uniform((3,)),
    "two of one seed": lambda d, i: np.append(d.rng.uniform((3,)), d.twin.uniform((5,))),
    "deep": lambda d, i: d.deep[-1].uniform((3,)),
    "a copy": lambda d, i: copy.deepcopy(d.rng).uniform((3,)),
    "rewound": lambda d, i: (d.rng.set_state(d.rng.get_state()), d.rng.uniform((3,)))[1],
    "reseeded": lambda d, i: d.rng.manual_seed(i).uniform((3,)),
    "a new one": lambda d, i: Generator(i).uniform((3,)),
}
OF_THE_INDEX = {"reseeded", "a new one"}


class Drawing(Dataset):
    """Samples of random numbers; each needs several draws, so that threads take turns."""

    def __init__(self, kind, seed=5):
        self.kind = kind
        self.rng = Generator(seed)
        self.twin = Generator(seed)
        self.deep = [None] * 200 + [Generator(seed)]

    def __len__(self):
        return 24

    def __getitem__(self, i):
        return np.concatenate([np.asarray(DRAWS[self.kind](self, i), float) for _ in range(2)])


class DrawingStream(IterableDataset):
    def __init__(self, kind):
        self.samples = Drawing(kind)

    def __iter__(self):
        return (self.samples[i] for i in range(24))


def drawn(dataset, **kwargs):
    """The batches of two epochs."""
    loader = DataLoader(dataset, 2, rng=Generator(3), dtype=None, **kwargs)
    return [[batch.tolist() for batch in loader] for _ in range(2)]


@pytest.mark.parametrize("kind", DRAWS)
def test_what_a_dataset_draws_does_not_depend_on_workers(kind):
    before = Drawing(kind).rng.get_state()
    dataset = Drawing(kind)
    expected = drawn(dataset)
    assert dataset.rng.get_state() == before
    samples = [sample for epoch in expected for batch in epoch for sample in batch]
    if kind in OF_THE_INDEX:
        assert expected[0] == expected[1] and len(set(map(tuple, samples))) == 24
        assert samples[3][:3] == Generator(3).uniform((3,)).tolist()
    else:
        assert len(set(map(tuple, samples))) == 48 - 24 * (kind == "a copy")
        reseeded = drawn(Drawing(kind, seed=6))
        of_dataset = not kind.startswith(("gpuprop", "batch_rng", "dropout", "a global"))
        assert (reseeded != expected) is of_dataset
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for workers in [1, 4, 4]:
            assert drawn(Drawing(kind), num_workers=workers) == expected
        stream = drawn(DrawingStream(kind), num_workers=4)
    finally:
        sys.setswitchinterval(interval)
    assert stream == drawn(DrawingStream(kind))


def test_what_processes_draw():
    """Everything that `DRAWS` lists, in a transform."""
    workers = {"num_workers": 2, "worker": "process", "persistent_workers": True}
    assert drawn(range(12), transform=draw_all, **workers) == drawn(range(12), transform=draw_all)


def draw_all(batch):
    dataset = Drawing("")
    return np.concatenate([np.asarray(draw(dataset, 0), float) for draw in DRAWS.values()])


def test_threads_start_once_and_persist():
    loader = DataLoader(Samples(), 2, num_workers=2, worker_init_fn=start, persistent_workers=True)
    assert workers() == []
    assert len(list(loader)) == 6
    assert set(started) <= {0, 1}  # one worker may have made all batches
    threads = {t.ident for t in threading.enumerate()}
    for _ in loader:
        break
    assert len(list(loader)) == 6
    assert {t.ident for t in threading.enumerate()} == threads and len(workers()) == 2
    del loader
    assert workers() == []


def test_an_iterable_dataset_keeps_its_process():
    loader = DataLoader(Stream(), 3, num_workers=3, worker="process", persistent_workers=True,
                        drop_last=True)
    for _ in range(2):
        assert [b.tolist() for b in loader] == [[0, 1, 2], [3, 4, 5]]
    assert len(multiprocessing.active_children()) == 1


@pytest.mark.parametrize("worker", ["thread", "process"])
def test_a_persistent_worker_reads_an_iterable_dataset_again(worker):
    loader = DataLoader(Stream(), 2, num_workers=1, worker=worker, persistent_workers=True)
    batches = iter(loader)
    first = next(batches).tolist()
    position = loader.state_dict()
    rest = [batch.tolist() for batch in batches]
    assert [first, *rest] == [[0, 1], [2, 3], [4, 5], [6]]
    loader.load_state_dict(position)
    next(iter(loader))  # leaves most of the resumed epoch unread
    loader.load_state_dict(position)
    assert [batch.tolist() for batch in loader] == rest


# ---- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kwargs", [
    {}, {"num_workers": 2}, {"num_workers": 1, "worker": "process"},
], ids=["none", "threads", "process"])
def test_errors_name_the_sample_and_the_batch(backend, kwargs):
    batches = iter(DataLoader(Samples(fail), 2, **kwargs))
    assert [next(batches)["x"].tolist()[0][0] for _ in range(2)] == [0, 2]
    with pytest.raises(LookupError, match="bad file 5") as caught:
        next(batches)
    assert caught.value.__notes__ == ["while reading sample 5", "while making batch 2 of Samples"]
    assert "in fail\n" in "".join(traceback.format_exception(caught.value))
    assert workers() == [] and next(batches, None) is None


def test_an_error_that_cannot_be_pickled():
    with pytest.raises(RuntimeError, match="Unpicklable: 1"):
        list(DataLoader(Samples(fail_unpicklable), 6, num_workers=1, worker="process"))


@pytest.mark.parametrize("how", ["break", "close", "collect", "raise"])
def test_threads_end_with_the_iterator(how):
    batches = iter(DataLoader(Samples(), 1, num_workers=2))
    next(batches)
    assert len(workers()) == 2
    if how == "close":
        batches.close()
    elif how == "collect":
        ring = [batches]
        ring.append(ring)
        del batches, ring
        gc.collect()
    elif how == "raise":
        with pytest.raises(ZeroDivisionError):
            for _ in DataLoader(Samples(), 1, num_workers=2):
                1 / 0  # noqa: B018
        del batches
    else:
        for _ in batches:
            break
        del batches
    assert workers() == []


def test_a_killed_process_is_reported():
    with pytest.raises(RuntimeError, match=r"process \d+ was killed by signal 9: .*out of memory"):
        list(DataLoader(Samples(die), 2, num_workers=1, worker="process"))


def test_a_hanging_process_is_killed():
    with pytest.raises(TimeoutError, match=r"1 worker.* timeout=1 s"):
        list(DataLoader(Samples(hang), 4, num_workers=1, worker="process", timeout=1))
    assert workers() == []


def test_a_hanging_thread_is_left_alone():
    release = threading.Event()
    with pytest.raises(TimeoutError, match=r"timeout=0\.1 s"):
        list(DataLoader(Samples(lambda i: release.wait()), 2, num_workers=2, timeout=0.1))
    release.set()
    join_all()


def test_ctrl_c_does_not_wait_for_a_sample():
    release = threading.Event()

    def interrupt(i):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        release.wait()

    with pytest.raises(KeyboardInterrupt):
        list(DataLoader(Samples(interrupt), 2, num_workers=1))
    release.set()
    join_all()


def test_a_timeout_error_of_the_dataset():
    def late(i):
        raise TimeoutError("no answer")

    with pytest.raises(TimeoutError, match="no answer"):
        list(DataLoader(Samples(late), 2, num_workers=1, timeout=60))


def test_data_that_processes_cannot_get(backend):
    with pytest.raises(TypeError, match="top level of a module"):
        list(DataLoader(Samples(lambda i: None), num_workers=1, worker="process"))
    data = Samples()
    data.table = backend.asarray([1.0])
    if backend.name != "numpy":
        with pytest.raises(TypeError, match=f"backend '{backend.name}'.*no device"):
            list(DataLoader(data, num_workers=1, worker="process"))


# ---- programs ------------------------------------------------------------------------------------


def program(text, folder):
    """Run a program until all processes that hold its output, its workers too, have ended."""
    path = [str(ROOT), str(ROOT / "backends"), str(ROOT / "tests")]
    if os.environ.get("PYTHONPATH"):
        path.append(os.environ["PYTHONPATH"])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    script = folder / "script.py"
    script.write_text(textwrap.dedent(text))
    return subprocess.run([sys.executable, str(script)], env=env, capture_output=True, text=True,
                          timeout=60)


def test_a_script_without_a_main_guard_gets_a_hint(tmp_path):
    done = program("""
        import gpuprop
        from gpuprop.data import DataLoader
        gpuprop.use("cpu")
        list(DataLoader([1, 2], num_workers=1, worker="process"))
        """, folder=tmp_path)
    assert "ended with exit code 1: it imports the main script" in done.stderr


@pytest.mark.parametrize("end", ["pass", "os.kill(os.getpid(), 9)"], ids=["exit", "killed"])
def test_workers_end_with_the_program(tmp_path, end):
    done = program(f"""
        import os, time
        import gpuprop
        from gpuprop.data import DataLoader

        class Slow(list):
            def __getitem__(self, i):
                time.sleep(1000 if i else 0)
                return i

        if __name__ == "__main__":
            gpuprop.use("cpu")
            first = iter(DataLoader(Slow([1] * 9), num_workers=2, worker="process"))
            second = iter(DataLoader(Slow([1] * 9), num_workers=2))
            print(len(next(first)), len(next(second)), flush=True)
            {end}
        """, folder=tmp_path)
    assert (done.stdout, done.stderr) == ("1 1\n", "")
    assert done.returncode == (0 if end == "pass" else -9)


@pytest.mark.gpu
def test_cuda_in_a_forked_process_raises_a_clear_error(tmp_path):
    done = program("""
        import os
        import gpuprop
        gpuprop.use("cuda")
        x = gpuprop.tensor([1.0])
        if os.fork():
            _, status = os.wait()
            print(status, x + x)
        else:
            for use in (lambda: gpuprop.zeros(3), lambda: x + x, x.numpy,
                        lambda: gpuprop.use("cuda")):
                try:
                    use()
                except RuntimeError as e:
                    print("spawn" in str(e))
            gpuprop.use("cpu")
            print(gpuprop.zeros(1), flush=True)
            os._exit(0)
        """, folder=tmp_path)
    assert done.stdout.split("\n")[:5] == ["True"] * 4 + ["Tensor([0.])"], done.stderr
    assert done.stdout.split("\n")[5].startswith("0 Tensor([2.]"), done.stderr


@pytest.mark.gpu
@pytest.mark.hostcuda
def test_batches_are_copied_while_the_previous_one_is_used(tmp_path):
    """In hostcuda's lazy mode a copy runs only if something waits for it: no wait is missing."""
    done = program("""
        import hostcuda
        import numpy as np, cupy, gpuprop
        from gpuprop.data import ArrayDataset, DataLoader
        hostcuda.lazy()
        backend = gpuprop.use("cuda").backend
        held = []
        for x, in DataLoader(ArrayDataset(np.arange(12.0)), 2):
            held.append(x + 0)
        assert [x.tolist() for x in held] == [[2.0 * i, 2.0 * i + 1] for i in range(6)]
        assert len(backend._prefetch._in_flight) <= 3

        def broken():
            yield [np.ones(2)]
            raise LookupError

        batches = backend.prefetch(broken())
        assert next(batches)[0].sum() == 2  # the batch before the error
        try:
            next(batches)
        except LookupError:
            print("raised")
        batches = backend.prefetch([np.ones(2), np.ones(0)] for _ in range(3))
        next(batches)
        batches.close()
        # a pending copy must not write into memory that was freed and allocated again
        after = [cupy.zeros(2) for _ in range(8)]
        assert all((a == 0).all() for a in after)
        """, folder=tmp_path)
    assert done.stdout == "raised\n", done.stderr
