"""Datasets, samplers and the DataLoader: order, contents, types and resuming."""

import collections
import copy
import functools
import inspect
import itertools
import json

import numpy as np
import pytest

import gpuprop
from gpuprop._core.registry import backend_of, use
from gpuprop.data import (
    ArrayDataset,
    BatchSampler,
    Compose,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    WeightedRandomSampler,
    batch_rng,
    default_collate,
    random_split,
)
from gpuprop.random import Generator

TEN = np.arange(10)


class Numbers(Dataset):
    """Samples without `take_batch`, each with a random number."""

    def __len__(self):
        return 10

    def __getitem__(self, i):
        return i, float(batch_rng().uniform())


class Stream(IterableDataset):
    def __init__(self, n=10):
        self.n = n

    def __iter__(self):
        return iter(range(self.n))


def as_lists(loader):
    return [batch.tolist() if hasattr(batch, "tolist") else [field.tolist() for field in batch]
            for batch in loader]


# ---- order ---------------------------------------------------------------------------------------


def test_the_seed_determines_the_order_on_every_backend(backend):
    gpuprop.manual_seed(0)
    loader = DataLoader(ArrayDataset(TEN), 4, shuffle=True)
    assert as_lists(loader) == [[[5, 1, 2, 8]], [[9, 0, 3, 7]], [[4, 6]]]
    second = as_lists(loader)
    assert second != [[[5, 1, 2, 8]], [[9, 0, 3, 7]], [[4, 6]]]
    assert sorted(itertools.chain(*itertools.chain(*second))) == list(range(10))
    gpuprop.manual_seed(0)
    assert as_lists(loader) == [[[5, 1, 2, 8]], [[9, 0, 3, 7]], [[4, 6]]]


def test_shuffling_does_not_wait_for_the_device():
    with use("strict") as strict:
        loader = DataLoader(ArrayDataset(np.zeros((10, 2)), TEN), 3, shuffle=True)
        before = len(strict.syncs)
        assert len(list(loader)) == 4
        assert len(strict.syncs) == before


def test_a_loader_with_its_own_generator():
    loaders = [DataLoader(ArrayDataset(TEN), 5, shuffle=True, rng=Generator(3)) for _ in range(2)]
    gpuprop.random.uniform()
    assert as_lists(loaders[0]) == as_lists(loaders[1])
    assert gpuprop.random.default_generator.get_state()["draws"] == [0, 1, 0]


@pytest.mark.parametrize("n, size, drop_last, sizes", [
    (10, 4, False, [4, 4, 2]), (10, 4, True, [4, 4]), (8, 4, True, [4, 4]),
    (3, 5, False, [3]), (3, 5, True, []), (0, 2, False, []), (1, 1, False, [1])])
def test_batch_sizes(backend, n, size, drop_last, sizes):
    for data in (ArrayDataset(np.zeros((n, 2))), list(range(n)), Stream(n)):
        loader = DataLoader(data, size, drop_last=drop_last)
        assert [len(b[0] if isinstance(b, tuple) else b) for b in loader] == sizes
        if not isinstance(data, Stream):
            assert len(loader) == len(sizes)


def test_shuffling_an_empty_dataset():
    with pytest.raises(ValueError, match="dataset is empty"):
        DataLoader([], shuffle=True)


# ---- contents ------------------------------------------------------------------------------------


def test_batches_are_tensors_on_the_default_backend(backend):
    x = np.arange(12, dtype=np.float64).reshape(6, 2)
    (a, b, c), *_ = DataLoader(ArrayDataset(x, TEN[:6].astype(np.uint8), TEN[:6] > 2), 3)
    assert all(isinstance(t, gpuprop.Tensor) and backend_of(t.data) is backend for t in (a, b, c))
    assert [t.dtype.name for t in (a, b, c)] == ["float32", "uint8", "bool"]
    assert a.tolist() == x[:3].tolist()
    (a,), *_ = DataLoader(ArrayDataset(x), dtype="float64")
    assert a.dtype == "float64"
    (a,), *_ = DataLoader(ArrayDataset(x.astype("float16")), dtype=None)
    assert a.dtype == "float16"


def test_batches_are_copies():
    x = np.zeros((4, 2), np.float32)
    for (a,) in DataLoader(ArrayDataset(x), 2):
        a.data += 1
    assert not x.any()


def test_data_on_a_device_stay_there(backend):
    with use("numpy"):
        rows = backend.asarray(np.arange(12, dtype=np.float32).reshape(6, 2))
        data = Subset(ArrayDataset(rows, gpuprop.tensor([0, 1, 2, 3, 4, 5])), [5, 3, 1])
        (x, y), *_ = DataLoader(data, 3)
    assert backend_of(x.data) is backend
    assert (x.tolist(), y.tolist()) == ([[10, 11], [6, 7], [2, 3]], [5, 3, 1])
    with pytest.raises(IndexError, match=r"index 6.*out of bounds"):
        list(DataLoader(ArrayDataset(rows), 2, sampler=[0, 6]))
    if backend.name != "numpy":
        with pytest.raises(ValueError, match=r"on a device.*num_workers=0"):
            DataLoader(data, num_workers=2)


def test_collate(backend):
    Point = collections.namedtuple("Point", "x y")
    samples = [
        {"a": (np.ones(2), i), "b": [f"t{i}", 0.5], "c": Point(True, gpuprop.tensor([1.0]))}
        for i in range(3)
    ]
    batch, = DataLoader(samples, 3)
    assert batch["a"][0].shape == (3, 2) and batch["a"][0].dtype == "float32"
    assert batch["a"][1].tolist() == [0, 1, 2] and batch["a"][1].dtype == "int64"
    assert batch["b"][0] == ["t0", "t1", "t2"] and batch["b"][1].tolist() == [0.5] * 3
    assert type(batch["c"]) is Point and batch["c"].x.dtype == "bool"
    assert backend_of(batch["c"].y.data) is backend


def test_collate_keeps_the_type_of_containers():
    samples = [collections.defaultdict(list, {"a": i}) for i in range(2)]
    batch = default_collate(samples)
    assert type(batch) is collections.defaultdict and batch.default_factory is list
    assert batch["a"].tolist() == [0, 1] and samples[0] == {"a": 0}
    ordered = default_collate([collections.OrderedDict(b=1, a=2)])
    assert type(ordered) is collections.OrderedDict and list(ordered) == ["b", "a"]


@pytest.mark.parametrize("samples, error, message", [
    ([np.ones(2), np.ones(3)], ValueError, r"shapes: .*\(2,\), sample 1 .*\(3,\)"),
    ([(1, 2), (1,)], ValueError, "lengths"),
    ([{"a": 1}, {"b": 1}], ValueError, "keys"),
    ([1, None], TypeError, "NoneType, int"),
    ([1, "a"], TypeError, "int, str: .*one kind"),
    (["a", 1], TypeError, "int, str: .*one kind"),
    (["ab", (1, 2)], TypeError, "str, tuple"),
    ([(1, 2), "ab"], TypeError, "str, tuple"),
    ([(1, 2), {"a": 1, "b": 2}], TypeError, "dict, tuple"),
    ([np.ones(2), 1.0], TypeError, "float, ndarray"),
    ([], ValueError, "without samples"),
    ([{1}], TypeError, "cannot collate set")])
def test_samples_that_cannot_be_collated(samples, error, message):
    with pytest.raises(error, match=message):
        default_collate(samples)


def test_an_array_is_a_dataset(backend):
    rows = np.arange(12.0).reshape(6, 2)
    for data in (rows, Subset(rows, range(6)), backend.asarray(rows), gpuprop.tensor(rows)):
        batch = next(iter(DataLoader(data, 4)))
        assert batch.tolist() == rows[:4].tolist() and batch.dtype == "float32"


def test_collate_fn_and_single_samples(backend):
    loader = DataLoader(ArrayDataset(TEN), 4, collate_fn=lambda samples: [int(i) for i, in samples])
    assert list(loader) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [x.tolist() for x, in DataLoader(ArrayDataset(TEN), None)] == list(range(10))
    assert list(DataLoader(Stream(3), None)) == [0, 1, 2]


def test_random_transforms_do_not_depend_on_workers(backend):
    def noisy(x, y):
        return x + batch_rng().uniform(x.shape), y

    def run(**kwargs):
        gpuprop.manual_seed(1)
        dataset = ArrayDataset(np.zeros(10), TEN)
        return as_lists(DataLoader(dataset, 4, shuffle=True, transform=noisy, **kwargs))

    first = run()
    assert first == run(num_workers=3) and len({v for x, _ in first for v in x}) == 10


# ---- datasets and samplers -----------------------------------------------------------------------


def test_array_dataset():
    data = ArrayDataset([[1.0], [2.0]], [3, 4])
    assert len(data) == 2 and data[1] == (2.0, 4)
    assert data.take_batch([1, 0])[1].tolist() == [4, 3]
    wrong = ((([1], [1, 2]), "same length"), ((), "at least one"), ((3,), "same length"))
    for arrays, message in wrong:
        with pytest.raises(ValueError, match=message):
            ArrayDataset(*arrays)


class Doubled(ArrayDataset):
    def __getitem__(self, index):
        return tuple(2 * value for value in super().__getitem__(index))


def test_an_overridden_getitem_is_not_bypassed():
    """`take_batch` of the base class would return other samples."""
    for data in (Doubled(TEN), Subset(Doubled(TEN), range(10))):
        assert as_lists(DataLoader(data, 5)) == [[[0, 2, 4, 6, 8]], [[10, 12, 14, 16, 18]]]


def test_a_dataset_with_take_batch_is_read_by_it():
    class Batches(Dataset):
        def __len__(self):
            return 4

        def take_batch(self, indices):
            return -np.asarray(indices)

    assert as_lists(DataLoader(Batches(), 2)) == [[0, -1], [-2, -3]]
    assert as_lists(DataLoader(Subset(Batches(), [3, 1]), 2)) == [[-3, -1]]


def test_subsets_and_concatenation(backend):
    both = ConcatDataset([Subset(TEN, [7, 8]), [1, 2, 3]]) + Subset(TEN, [4])
    assert [both[i] for i in range(len(both))] == [7, 8, 1, 2, 3, 4] and both[-1] == 4
    with pytest.raises(IndexError, match=r"out of bounds.*6 samples"):
        both[6]
    for lengths, sizes in (([7, 3], [7, 3]), ([0.5, 0.25, 0.25], [6, 2, 2]), ([1.0], [10])):
        parts = random_split(TEN, lengths, rng=Generator(1))
        assert [len(p) for p in parts] == sizes
        assert sorted(int(p[i]) for p in parts for i in range(len(p))) == list(range(10))
    assert [int(i) for i in random_split(TEN, [3, 7], rng=Generator(1))[0].indices] == [5, 3, 0]
    for lengths in ([3, 3], [0.2, 0.2], [], [1.5, 8.5]):
        with pytest.raises(ValueError, match="lengths that sum to 10"):
            random_split(TEN, lengths)
    for length in (-1, np.nan, np.inf):
        with pytest.raises(ValueError, match=r"each of lengths .*got (-1|nan|inf)"):
            random_split(TEN, [length, 11])


MASK = [i in (1, 4) for i in range(10)]


@pytest.mark.parametrize("make", [
    lambda indices: list(Subset(TEN, indices)),
    lambda indices: ArrayDataset(np.arange(10)).take_batch(indices)[0].tolist(),
    lambda indices: gpuprop.asnumpy(
        ArrayDataset(gpuprop.arange(10)).take_batch(indices)[0]).tolist(),
], ids=["Subset", "take_batch", "take_batch on a device"])
def test_indices_and_masks(backend, make):
    """A mask chooses, an index counts from either end, and nothing else is taken for an index."""
    for indices, expected in [
            (MASK, [1, 4]), (np.array(MASK), [1, 4]), (gpuprop.tensor(MASK), [1, 4]),
            ([False] * 10, []), ([], []), (np.zeros(0), []), ([-1, 0, 0], [9, 0, 0]),
            (range(8, 10), [8, 9]), ((3,), [3]), (np.array([3, 250 - 241], "uint8"), [3, 9]),
            (gpuprop.tensor([2, -10]), [2, 0])]:
        assert make(indices) == expected
    for indices, found in [([10], 10), ([0, -11], -11), (np.array([2**63], "uint64"), 2**63),
                           (np.array([200], "uint8"), 200)]:
        with pytest.raises(IndexError, match=f"index {found} is out of bounds .* 10 samples"):
            make(indices)
    for mask in (MASK[:9], [*MASK, True], [True]):
        with pytest.raises(IndexError, match=f"mask .* 10 samples, got {len(mask)}"):
            make(mask)
    for indices in ([1.0], [0.5], [None], None, "12", ["1"], 3, [[1, 2]], [[1], [1, 2]], {1, 2},
                    np.array([1], object), iter([1]), [float("nan")]):
        with pytest.raises(TypeError, match="sequence of integers"):
            make(indices)


def test_samplers(backend):
    assert list(SequentialSampler(TEN)) == list(range(10))
    assert sorted(RandomSampler(TEN)) == list(range(10))
    assert len(list(RandomSampler(TEN, num_samples=25))) == 25
    drawn = list(RandomSampler(TEN, replacement=True, num_samples=1000))
    assert set(drawn) == set(range(10)) and max(np.bincount(drawn)) < 150
    assert list(BatchSampler(range(5), 2)) == [[0, 1], [2, 3], [4]]
    batches = BatchSampler(SequentialSampler(TEN), 4, drop_last=True)
    assert list(batches) == [[0, 1, 2, 3], [4, 5, 6, 7]]

    counts = np.bincount(list(WeightedRandomSampler([1, 0, 3, 6], 10_000)), minlength=4) / 1000
    np.testing.assert_allclose(counts, [1, 0, 3, 6], atol=0.2)
    without = WeightedRandomSampler([1, 0, 3, 6], 3, replacement=False)
    firsts = [next(iter(without)) for _ in range(1000)]
    np.testing.assert_allclose(np.bincount(firsts, minlength=4) / 100, [1, 0, 3, 6], atol=0.6)
    assert sorted(without) == [0, 2, 3]


def many(count):
    """A sampler of each kind that draws more samples than the dataset has."""
    return [RandomSampler(TEN, replacement=True, num_samples=count),
            RandomSampler(TEN, num_samples=count), WeightedRandomSampler([1] * 10, count)]


@pytest.mark.parametrize("kind", range(3))
class TestManySamples:
    def test_are_drawn_as_they_are_read(self, kind):
        loader, again = (DataLoader(TEN, 4, sampler=many(10**10)[kind], rng=Generator(0))
                         for _ in range(2))
        assert len(loader) == 10**10 // 4
        batches = map(np.asarray, iter(loader))
        first = np.concatenate([*itertools.islice(batches, 5)])
        again.load_state_dict(loader.state_dict())
        np.testing.assert_array_equal(next(batches), next(iter(again)))
        if kind == 1:
            assert sorted(first[:10]) == list(range(10))

    @pytest.mark.parametrize("count", [10, 11, 16, 17, 40])
    def test_have_their_number(self, kind, count, monkeypatch):
        monkeypatch.setattr("gpuprop.data._sampler.MANY", 16)
        assert len([*many(count)[kind]]) == count


@pytest.mark.parametrize("base", [BatchSampler, RandomSampler, SequentialSampler])
def test_a_subclass_with_its_own_iter(base):
    """`__iter__` of a subclass counts, whatever its base class does."""
    class Own(base):
        def __init__(self):
            pass

        def __iter__(self):
            yield from ([0, 3], [2])

        def __len__(self):
            return 2

    class Inherits(Own):
        pass

    for sampler in Own(), Inherits():
        batches = list(DataLoader(TEN, batch_sampler=sampler))
        assert list(map(len, batches)) == [2, 1]


def test_pytorch_samplers():
    class Even(Sampler):  # as written for PyTorch
        def __iter__(self):
            return iter(range(0, 10, 2))

    assert as_lists(DataLoader(ArrayDataset(TEN), 3, sampler=Even())) == [[[0, 2, 4]], [[6, 8]]]
    assert as_lists(DataLoader(ArrayDataset(TEN), batch_sampler=[[1, 2], [3]])) == [[[1, 2]], [[3]]]
    assert as_lists(DataLoader({"a": 1, "b": 2}, 2, sampler=["b", "a"])) == [[2, 1]]
    with pytest.raises(NotImplementedError, match="must define epoch_indices"):
        iter(Sampler())


@pytest.mark.parametrize("make, message", [
    (lambda: RandomSampler(TEN, num_samples=0), "at least 1"),
    (lambda: WeightedRandomSampler([1, -1], 1), "not negative"),
    (lambda: WeightedRandomSampler([1, 0], 2, replacement=False), "at most 1"),
    (lambda: DataLoader(3), "int has neither"),
    (lambda: DataLoader(Stream), r"is a class: .*Stream\(\.\.\.\)"),
    (lambda: DataLoader("images"), "must hold samples"),
    (lambda: DataLoader(Dataset()), "Dataset has no length"),
    (lambda: DataLoader(Stream(), shuffle=True), "own order"),
    (lambda: DataLoader(TEN, shuffle=True, sampler=TEN), "leave out shuffle"),
    (lambda: DataLoader(TEN, 2, batch_sampler=[[1]]), "leave out batch_size"),
    (lambda: DataLoader(TEN, None, drop_last=True), "leave out drop_last"),
    (lambda: DataLoader(TEN, timeout=1), "num_workers > 0"),
    (lambda: DataLoader(TEN, dtype="int32"), "dtype must be floating-point, got int32")])
def test_invalid_arguments(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


# the values that each parameter accepts besides its type; all others of `BAD` must be refused
BAD = {"none": None, "text": "abc", "object": object(), "negative": -1, "zero": 0, "number": 1.5,
       "nan": float("nan"), "bool": True, "class": Generator, "integer": 3}
ACCEPTED = {
    (DataLoader, "dataset"): "",
    (DataLoader, "batch_size"): "none integer",
    (DataLoader, "sampler"): "none text",
    (DataLoader, "batch_sampler"): "none text",
    (DataLoader, "num_workers"): "zero integer",
    (DataLoader, "timeout"): "zero integer number",
    (DataLoader, "prefetch_factor"): "none integer",
    (DataLoader, "dtype"): "none",
    (BatchSampler, "sampler"): "text",
    (SequentialSampler, "data_source"): "text",
    (RandomSampler, "data_source"): "text",
    (WeightedRandomSampler, "weights"): "",
    **{(cls, name): "bool zero" for cls, names in {
        DataLoader: "shuffle pin_memory drop_last persistent_workers",
        BatchSampler: "drop_last", RandomSampler: "replacement",
        WeightedRandomSampler: "replacement"}.items() for name in names.split()},
    **{(DataLoader, name): "none class" for name in ("collate_fn", "transform", "worker_init_fn")},
    (DataLoader, "rng"): "none",
    (DataLoader, "worker"): "",
    (BatchSampler, "batch_size"): "integer",
    (RandomSampler, "num_samples"): "none integer",
    (WeightedRandomSampler, "num_samples"): "integer",
}
VALID = {DataLoader: {"dataset": TEN}, BatchSampler: {"sampler": TEN, "batch_size": 2},
         SequentialSampler: {"data_source": TEN}, RandomSampler: {"data_source": TEN},
         WeightedRandomSampler: {"weights": [1, 2, 3], "num_samples": 2}}


@pytest.mark.parametrize("cls, name", [
    (cls, name) for cls in VALID for name in inspect.signature(cls).parameters])
def test_wrong_values_of_every_parameter(cls, name):
    """They are refused by the constructor, which names the parameter."""
    for kind, value in BAD.items():
        arguments = {**VALID[cls], name: value}
        if name in ("prefetch_factor", "timeout", "persistent_workers"):
            arguments["num_workers"] = 1
        if name == "batch_sampler" and kind == "text":
            arguments["batch_size"] = 1
        if kind in ACCEPTED[cls, name].split():
            cls(**arguments)
            continue
        with pytest.raises((TypeError, ValueError), match=rf"{cls.__name__}: .*{name}"):
            cls(**arguments)


# ---- resuming -----------------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("data, options", [(Numbers(), {"shuffle": True}), (Stream(), {})])
def test_resuming_within_an_epoch(backend, data, options, num_workers):
    gpuprop.manual_seed(5)
    loader = DataLoader(data, 3, num_workers=num_workers, **options)
    list(loader)
    it = iter(loader)
    next(it)
    state = json.loads(json.dumps(loader.state_dict()))
    gpuprop.random.uniform(7)  # other draws in between
    saved = gpuprop.random.default_generator.get_state()
    rest = as_lists(it)
    next_epoch = as_lists(loader)

    gpuprop.manual_seed(99)
    again = DataLoader(data, 3, **options)
    gpuprop.random.default_generator.set_state(saved)
    again.load_state_dict(state)
    assert as_lists(again) == rest and len(rest) == 3
    gpuprop.random.uniform(7)
    assert as_lists(again) == next_epoch


def test_resuming_between_epochs():
    loader = DataLoader(Numbers(), 4, shuffle=True)
    list(loader)
    state = loader.state_dict()
    assert state["epoch"] is None and state["batch"] == 0
    second = as_lists(loader)
    again = DataLoader(Numbers(), 4, shuffle=True, rng=Generator(1))
    again.load_state_dict(state)
    assert as_lists(again) == second


def leaves(state, path=()):
    """The paths of all entries of nested dicts and lists, whole containers included."""
    items = state.items() if isinstance(state, dict) else enumerate(state)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from leaves(value, (*path, key))


def replaced(state, path, value):
    """A copy of a state with another value at a path; without the entry if it is `leaves`."""
    state = copy.deepcopy(state)
    owner = functools.reduce(lambda owner, key: owner[key], path[:-1], state)
    if value is leaves:
        del owner[path[-1]]
    else:
        owner[path[-1]] = value
    return state


class Noise:
    """A transform with a generator of its own."""

    def __init__(self):
        self.rng = Generator(3)

    def __call__(self, x):
        return x + self.rng.uniform(x.shape)


class Shuffled(Sampler):
    """A sampler as written for PyTorch, with a generator of its own."""

    def __init__(self):
        self.rng = Generator(4)

    def __len__(self):
        return 10

    def __iter__(self):
        return iter(self.rng.permutation(10).tolist())


class NoisyStream(IterableDataset):
    def __init__(self):
        self.rng = Generator(6)

    def __iter__(self):
        return iter(self.rng.uniform(10))


LOADERS = {
    "default": lambda: DataLoader(ArrayDataset(TEN), 3, shuffle=True),
    "own": lambda: DataLoader(ArrayDataset(TEN), 3, shuffle=True, rng=Generator(7)),
    "transform": lambda: DataLoader(TEN.astype(float), 3, transform=Noise(), rng=Generator(7)),
    "composed": lambda: DataLoader(TEN.astype(float), 3, transform=Compose([Noise(), Noise()])),
    "closure": lambda: DataLoader(TEN.astype(float), 3, transform=Noise().__call__),
    "sampler": lambda: DataLoader(TEN, 3, sampler=Shuffled(), num_workers=2),
    "batch sampler": lambda: DataLoader(TEN, batch_sampler=BatchSampler(Shuffled(), 3)),
    "stream": lambda: DataLoader(NoisyStream(), 3, rng=Generator(7)),
    "noisy stream": lambda: DataLoader(NoisyStream(), 3, transform=Noise()),
}


@pytest.mark.parametrize("done", range(5))
@pytest.mark.parametrize("name", LOADERS)
def test_a_loader_continues_at_every_batch(backend, name, done):
    """Whatever generators it holds; `done` is the number of batches of the second epoch."""
    make = LOADERS[name]
    gpuprop.manual_seed(5)
    loader = make()
    list(loader)
    batches = iter(loader)
    for _ in range(done):
        next(batches)
    state = json.loads(json.dumps(loader.state_dict()))
    want = as_lists(batches) + as_lists(loader) + as_lists(loader)
    gpuprop.manual_seed(99)
    again = make()
    again.load_state_dict(state)
    assert again.state_dict() == state
    assert as_lists(again) + as_lists(again) + as_lists(again) == want


@pytest.mark.parametrize("name", ["own", "transform", "sampler"])
def test_wrong_entries_of_a_loader_state(name):
    """Each entry that is missing or wrong is refused, and the loader stays as it was."""
    loader = LOADERS[name]()
    next(iter(loader))
    state = loader.state_dict()
    refused = 0
    for path in leaves(state):
        for value in (leaves, None, "abc", float("nan"), -1, object(), [1], 99, True):
            again = LOADERS[name]()
            before = again.state_dict()
            wrong = replaced(state, path, value)
            try:
                again.load_state_dict(wrong)
            except (TypeError, ValueError) as error:
                assert path[0] in str(error)
                assert again.state_dict() == before
                refused += 1
            else:
                assert again.state_dict() == wrong
    assert refused > 50


def test_a_position_that_the_loader_does_not_have():
    loader = LOADERS["own"]()
    next(iter(loader))
    state = loader.state_dict()
    for wrong, message in [({"batch": 99}, "batch must be an integer from 0 to 4, got 99"),
                           ({"batch_size": 2}, "batch_size is 2 in the state, but 3"),
                           ({"batches": 5}, "batches is 5 in the state, but 4"),
                           ({"epoch": None}, "batch must be 0 if epoch is None")]:
        with pytest.raises(ValueError, match=message):
            loader.load_state_dict({**state, **wrong})
    with pytest.raises(ValueError, match=r"pass rng=Generator"):
        LOADERS["default"]().load_state_dict(state)
    with pytest.raises(ValueError, match=r"states of transform\.rng, got none"):
        LOADERS["transform"]().load_state_dict(state)
    stream = DataLoader(Stream(3), 1)
    stream.load_state_dict({**stream.state_dict(), "epoch": 1, "batch": 9})
    with pytest.raises(ValueError, match="after batch 9, but the Stream has only 3 batches"):
        list(stream)


def test_breaking_out_of_an_epoch_starts_a_new_one():
    loader = DataLoader(ArrayDataset(TEN), 4)
    for _ in loader:
        break
    assert len(list(loader)) == 3
