"""Random numbers: Philox's published vectors, equal bits on all backends, distributions, state."""

import copy
import hashlib
import inspect
import itertools
import json
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
from scipy import special, stats

import gpuprop
import gpuprop._core.philox as bits
import gpuprop.random as random
import gpuprop.testing  # registers the strict backend
from gpuprop._core.philox import keep_mask, keep_rows, philox, words
from gpuprop._core.registry import get_backend, usable_backends
from gpuprop.random import DATA, INIT, NOISE, Generator

BACKENDS = list(usable_backends())
SHAPES = [(), (0,), (1,), (7,), (3, 0, 2), (4, 1, 9)]
DRAWS = {
    "uniform": lambda g, shape, stream: g.uniform(shape, -2, 3, stream=stream),
    "uniform float64": lambda g, shape, stream: g.uniform(shape, dtype="float64", stream=stream),
    "normal": lambda g, shape, stream: g.normal(shape, 1, 0.5, stream=stream),
    "normal float16": lambda g, shape, stream: g.normal(shape, dtype="float16", stream=stream),
    "truncated_normal": lambda g, shape, stream: g.truncated_normal(
        shape, 0.5, 2, -1, 4, "float64", stream),
    "integers": lambda g, shape, stream: g.integers(-5, 10**12, shape, stream),
    "bernoulli": lambda g, shape, stream: g.bernoulli(0.3, shape, stream),
    "permutation": lambda g, shape, stream: g.permutation(int(np.prod(shape)), stream),
}
each_draw = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)


def host(array):
    return gpuprop.asnumpy(array)


def same(a, b):
    """Equal bits, shapes and dtypes."""
    a, b = host(a), host(b)
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


# ---- Philox ------------------------------------------------------------------------------------

FULL = 0xFFFFFFFF
PUBLISHED = [  # Random123's kat_vectors: counter, key, result
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((FULL,) * 4, (FULL,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
     (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
]


def philox_in_integers(counter, key):
    """The definition in the paper, with Python integers."""
    a, b, c, d = counter
    k, m = key
    for _ in range(10):
        p, q = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = (q >> 32) ^ b ^ k, q & FULL, (p >> 32) ^ d ^ m, p & FULL
        k, m = (k + 0x9E3779B9) & FULL, (m + 0xBB67AE85) & FULL
    return a, b, c, d


def run_philox(backend, counter, key):
    one = lambda value: backend.asarray(np.array([value], "uint64"))
    draw, seed = counter[0] | counter[3] << 32, key[0] | key[1] << 32
    first, second = philox(backend.xp, one(counter[1]), one(draw), one(counter[2]), one(seed))
    result = [*host(first).tolist(), *host(second).tolist()]
    return tuple(half for word in result for half in (word & FULL, word >> 32))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("counter", "key", "result"), PUBLISHED, ids=["zeros", "ones", "pi"])
def test_philox_gives_the_published_results(counter, key, result, backend):
    assert run_philox(get_backend(backend), counter, key) == result
    assert philox_in_integers(counter, key) == result


def test_philox_agrees_with_its_definition():
    rng = np.random.default_rng(0)
    for *counter, k0, k1 in rng.integers(0, 2**32, (50, 6)).tolist():
        key = k0, k1
        assert run_philox(get_backend("numpy"), counter, key) == philox_in_integers(counter, key)


@pytest.mark.parametrize("backend", BACKENDS)
def test_words_are_the_blocks_in_order(backend):
    seed, draw = 0x0123456789ABCDEF, 0xFEDCBA9876543210
    backend = get_backend(backend)
    rng_key = backend.asarray(np.array([seed, draw], "uint64"))
    found = host(words(backend.xp, rng_key, NOISE, 4, 9))
    key = seed & FULL, seed >> 32
    blocks = [philox_in_integers((draw & FULL, i, NOISE, draw >> 32), key) for i in range(5)]
    expected = [low | high << 32 for a, b, c, d in blocks for low, high in ((a, b), (c, d))]
    assert found.dtype == "uint64"
    assert found.tolist() == expected[4:9]


def test_one_call_gives_the_words_of_many_calls():
    """Many enough that the pointwise body runs in several blocks and threads."""
    xp, rng_key, n = get_backend("numpy").xp, np.array([1, 2], "uint64"), 1 << 20
    parts = [words(xp, rng_key, NOISE, i, i + (n >> 4)) for i in range(0, n, n >> 4)]
    assert same(words(xp, rng_key, NOISE, 0, n), np.concatenate(parts))


# ---- the same bits everywhere ------------------------------------------------------------------


@each_draw
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("stream", [INIT, DATA, NOISE])
def test_backends_draw_the_same_bits(draw, shape, stream):
    found = {}
    for name in BACKENDS:
        with gpuprop.use(name) as backend:
            generator = Generator(3)
            found[name] = [draw(generator, shape, stream) for _ in range(2)]
            assert all(type(d) is backend.array_type for d in found[name])
    for draws in found.values():
        assert all(same(a, b) for a, b in zip(draws, found["numpy"], strict=True))


@each_draw
def test_the_size_of_blocks_does_not_change_draws(draw, monkeypatch):
    whole = draw(Generator(5), (1000,), DATA)
    monkeypatch.setattr(random, "BLOCK", 64)
    assert same(draw(Generator(5), (1000,), DATA), whole)


# The first two draws of seed 2026.  They must never change, so that runs can be reproduced.
DIGESTS = {
    "uniform": "a348e99e4bf00ce2",
    "uniform float64": "3a2caed2c6094cee",
    "normal": "92253fd157a7addb",
    "normal float16": "ef1eca5c52f57b2b",
    "truncated_normal": "611fb3cbc8ce8fad",
    "integers": "da1387d05ca511f0",
    "bernoulli": "302281047b5cbfee",
    "permutation": "9f64736b62d68202",
}


@pytest.mark.parametrize("name", DIGESTS)
def test_draws_never_change(name):
    generator = Generator(2026)
    data = b"".join(host(DRAWS[name](generator, (1001,), DATA)).tobytes() for _ in range(2))
    assert hashlib.sha256(data).hexdigest()[:16] == DIGESTS[name]


@pytest.mark.parametrize("method", ["uniform", "normal", "truncated_normal"])
def test_a_narrower_dtype_gives_the_same_numbers_rounded(method):
    wide = getattr(Generator(1), method)(500, dtype="float64")
    for dtype in ("float32", "float16"):
        narrow = getattr(Generator(1), method)(500, dtype=dtype)
        np.testing.assert_array_equal(narrow, wide.astype("float32").astype(dtype))


def test_draws_do_not_depend_on_earlier_shapes_and_dtypes():
    one, other = Generator(1), Generator(1)
    one.uniform(3), one.integers(0, 9, (2, 2))
    other.normal(1000, dtype="float64"), other.permutation(10)
    assert same(one.uniform(5), other.uniform(5))


def test_a_longer_draw_starts_with_the_shorter_one():
    assert same(Generator(1).normal(7), Generator(1).normal((10, 10)).reshape(-1)[:7])


# ---- independence ------------------------------------------------------------------------------


def test_streams_are_independent():
    alone, beside = Generator(4), Generator(4)
    beside.normal(10, stream=INIT), beside.normal(10, stream=NOISE)
    assert same(alone.normal(10, stream=DATA), beside.normal(10, stream=DATA))


def test_streams_draws_and_seeds_are_uncorrelated():
    draws = [Generator(seed).normal(20000, stream=stream)
             for seed in (0, 1, 2**32) for stream in (INIT, DATA, NOISE)]
    generator = Generator(0)
    generator.normal(1)
    draws += [generator.normal(20000) for _ in range(3)]
    off_diagonal = np.corrcoef(draws)[np.triu_indices(len(draws), 1)]
    assert abs(off_diagonal).max() < 5 / np.sqrt(20000)


def test_devices_draw_different_noise():
    generator = Generator(0)
    with gpuprop.use("strict"):
        first = generator.uniform(20, stream=NOISE)
    with gpuprop.use("strict", device=1):
        second = generator.uniform(20, stream=NOISE)
        assert not same(first, second)
        state = generator.get_state()
        third = generator.uniform(20, stream=NOISE)
    generator.set_state(state)
    with gpuprop.use("strict", device=1):
        assert same(generator.uniform(20, stream=NOISE), third)


# ---- distributions -----------------------------------------------------------------------------


def test_uniform_is_uniform():
    x = Generator(0).uniform(100_000, -1, 3, "float64")
    assert stats.kstest(x, stats.uniform(-1, 4).cdf).pvalue > 0.01
    assert abs(x.mean() - 1) < 5 * 4 / np.sqrt(12 * x.size)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_uniform_contains_its_lower_bound_and_not_its_upper_one(dtype, monkeypatch):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    for low, high in [(0, 1), (-0.3, 0.1), (1, 1.5), (-7, -7), (1e-3, 1e3)]:
        extremes = lambda *args: np.array([0, 2**64 - 1], "uint64")
        monkeypatch.setattr(bits, "words", extremes)
        first, last = Generator(0).uniform(2, low, high, dtype)
        bounds = np.array([low, high], "float64").astype(first.dtype)
        assert first == bounds[0]
        assert last < bounds[1] or low == high
        assert float(bounds[1]) - float(last) <= 0.01 * max(abs(low), abs(high))


def test_normal_is_normal():
    x = Generator(0).normal(100_000, dtype="float64")
    assert stats.kstest(x, stats.norm.cdf).pvalue > 0.01
    assert stats.normaltest(x).pvalue > 0.01
    y = Generator(0).normal(100_000, 3, 2, "float64")
    np.testing.assert_array_equal(y, 3 + 2 * x)


@pytest.mark.parametrize(("mean", "std", "low", "high"), [
    (0, 1, -2, 2), (1, 0.02, -2, 2), (0, 1, 1, 9), (-3, 2, 0, 1)])
def test_truncated_normal_is_truncated_and_normal(mean, std, low, high):
    x = Generator(0).truncated_normal(50_000, mean, std, low, high, "float64")
    a, b = (low - mean) / std, (high - mean) / std
    assert low <= x.min() and x.max() <= high
    assert stats.kstest(x, stats.truncnorm(a, b, mean, std).cdf).pvalue > 0.01


def test_truncation_far_from_the_mean_gives_the_bound():
    assert (Generator(0).truncated_normal(100, 0, 1, 20, 30) == 20).all()


@pytest.mark.parametrize("span", [1, 2, 7, 1000])
def test_integers_are_uniform(span):
    x = Generator(0).integers(-3, span - 3, 50_000)
    assert x.dtype == "int64"
    counts = np.bincount(x + 3, minlength=span)
    assert counts.size == span
    assert stats.chisquare(counts).pvalue > 0.01 or span == 1


@pytest.mark.parametrize("n", [1, 3, 2**32 - 1, 2**32, 2**32 + 1, 10**15 + 3, 2**63 - 1, 2**63])
def test_integers_are_the_upper_half_of_a_product(n):
    random_words = np.random.default_rng(0).integers(0, 2**63, 50)
    w = np.array([0, 1, 2**32 - 1, 2**32, 2**63, 2**64 - 1, *random_words], "uint64")
    assert bits.integers_below(w, n).tolist() == [int(x) * n >> 64 for x in w]


def test_integers_reach_both_ends_of_int64():
    for low, high in [(-(2**63), 0), (0, 2**63), (2**63 - 1, 2**63), (-(2**63), -(2**63) + 1)]:
        x = Generator(0).integers(low, high, 200)
        assert x.dtype == "int64"
        assert low <= int(x.min()) and int(x.max()) < high


@pytest.mark.parametrize("p", [0.0, 1e-3, 0.5, 0.9, 1.0])
def test_bernoulli_is_true_with_probability_p(p):
    x = Generator(0).bernoulli(p, (200, 500))
    assert x.dtype == bool
    assert abs(x.mean() - p) <= 5 * np.sqrt(p * (1 - p) / x.size)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 64, 65, 1000])
def test_permutation_contains_every_integer_once(n):
    x = Generator(0).permutation(n)
    assert x.dtype == "int64"
    assert sorted(x.tolist()) == list(range(n))


def test_permutations_are_equally_likely():
    generator = Generator(0)
    found = [tuple(generator.permutation(4).tolist()) for _ in range(2400)]
    counts = [found.count(p) for p in itertools.permutations(range(4))]
    assert stats.chisquare(counts).pvalue > 0.01


def test_quantile_is_the_inverse_of_the_normal_distribution():
    rng = np.random.default_rng(0)
    tails = 2.0 ** -np.linspace(1, 53, 5000)
    special_q = [0.0, 0.425, np.nextafter(0.425, 1)]
    q = np.concatenate([rng.uniform(-0.5, 0.5, 20000), 0.5 - tails, tails - 0.5, special_q])
    z = bits.normal_quantile(np, q, on_host=False)
    expected = np.sign(q) * -special.ndtri(0.5 - abs(q))  # q + 1/2 would not be exact
    np.testing.assert_allclose(z, expected, rtol=2e-15, atol=2e-16)
    np.testing.assert_array_equal(bits.normal_quantile(np, -q, on_host=False), -z)
    np.testing.assert_array_equal(bits.normal_quantile(np, q, on_host=True), z)


def test_quantile_of_the_extreme_words():
    q = bits.centered_unit_interval(np.array([0, 2**64 - 1], "uint64"))
    assert q.tolist() == [2.0**-53 - 0.5, 0.5 - 2.0**-53]
    last = special.ndtri(2.0**-53)
    np.testing.assert_allclose(bits.normal_quantile(np, q, on_host=True), [last, -last], rtol=2e-15)


def test_log_is_the_logarithm():
    rng = np.random.default_rng(0)
    powers = 2.0 ** -np.arange(60.0)
    x = np.concatenate([rng.uniform(0, 2, 10000), powers, [0.7071067811865475, 1.5]])
    np.testing.assert_allclose(bits.log(np, x), np.log(x), rtol=5e-16, atol=1e-16)


def test_normal_cdf_of_bounds():
    for z in [0, 1e-9, 0.3, -1, 2, -5, 8, 8.5, -40, float("inf")]:
        assert bits.centered_normal_cdf(z) == pytest.approx(special.ndtr(z) - 0.5, abs=2e-16)
        assert abs(bits.centered_normal_cdf(z)) < 0.5


# ---- dropout masks -----------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_keep_mask_uses_16_bits_per_element(backend, shape):
    backend = get_backend(backend)
    rng_key = backend.asarray(np.array([5, 6], "uint64"))
    n = int(np.prod(shape))
    blocks = [philox_in_integers((6, i, NOISE, 0), (5, 0)) for i in range(n)]
    halves = [h for block in blocks for word in block for h in (word & 0xFFFF, word >> 16)]
    expected = np.array([h >= round(0.3 * 2**16) for h in halves[:n]], bool).reshape(shape)
    mask = keep_mask(rng_key, shape, 0.3)
    assert type(mask) is backend.array_type
    assert same(mask, expected)
    assert host(keep_mask(rng_key, shape, 0)).all()
    assert not host(keep_mask(rng_key, shape, 1)).any()
    assert keep_mask(rng_key, shape, 0.0).shape == shape


@pytest.mark.parametrize("p", [2**-16, 0.1, 0.5, 0.9])
def test_keep_mask_keeps_with_probability_1_minus_p(p):
    mask = keep_mask(Generator(0).noise(np.zeros(1)), (400, 1000), p)
    assert abs((~mask).mean() - p) < 5 * np.sqrt(p * (1 - p) / mask.size) + 2**-17
    neighbours = np.corrcoef(mask.reshape(-1)[0::2], mask.reshape(-1)[1::2])[0, 1]
    assert abs(neighbours) < 5 / np.sqrt(mask.size / 2)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n", [1, 8, 13, 24])
def test_keep_rows_depends_on_row_and_column_only(backend, n):
    """Parts of a mask equal the whole, and the whole `keep_mask` if rows fill their blocks."""
    backend = get_backend(backend)
    rng_key = backend.asarray(np.array([5, 6], "uint64"))
    numbers = backend.asarray(np.arange(12).reshape(3, 4))
    whole = host(keep_rows(rng_key, numbers, n, 0, n, 0.3))
    padded = host(keep_mask(rng_key, (3, 4, -(-n // 8) * 8), 0.3))
    assert whole.shape == (3, 4, n) and same(whole, padded[..., :n])
    for start, stop in ((0, 1), (n // 2, n), (n - 1, n), (n // 3, n // 2), (n, n)):
        part = keep_rows(rng_key, numbers[1:, ::2], n, start, stop, 0.3)
        assert type(part) is backend.array_type and same(part, whole[1:, ::2, start:stop])
        assert host(keep_rows(rng_key, numbers, n, start, stop, 0)).all()
        assert not host(keep_rows(rng_key, numbers, n, start, stop, 1)).any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_equal_rng_keys_give_equal_masks_and_the_next_one_another(backend):
    backend = get_backend(backend)
    x, generator = backend.asarray(np.zeros(100, "float32")), Generator(0)
    rng_key = generator.noise(x)
    mask = keep_mask(rng_key, (100,), 0.5)
    assert not same(keep_mask(generator.noise(gpuprop.tensor(x)), (100,), 0.5), mask)
    assert same(keep_mask(rng_key, (100,), 0.5), mask)


def test_noise_never_synchronizes():
    with gpuprop.use("strict") as backend:
        generator, x = Generator(0), backend.asarray(np.zeros(8, "float32"))
        before = len(backend.syncs)
        keep_mask(generator.noise(x), x.shape, 0.5)
        generator.normal(8, stream=NOISE), generator.uniform(8), generator.permutation(8)
        assert len(backend.syncs) == before


def test_a_replayed_step_draws_new_numbers_and_follows_a_new_seed():
    with gpuprop.use("strict") as backend:
        x = backend.asarray(np.zeros(50, "float32"))

        def step(generator):
            return keep_mask(generator.noise(x), x.shape, 0.5), generator.normal(3, stream=NOISE)

        generator = Generator(0)
        step(generator)  # puts the counter on the device before the recording
        with backend.record() as recording:
            results = step(generator)
        replayed = []
        for _ in range(2):
            recording.replay()
            replayed.append([host(r) for r in results])
        generator.manual_seed(7)
        recording.replay()
        replayed.append([host(r) for r in results])
        eager = Generator(0)
        expected = [[host(r) for r in step(eager)] for _ in range(3)]
        reseeded = [host(r) for r in step(Generator(7))]
    for got, want in zip(replayed, [expected[1], expected[2], reseeded], strict=True):
        assert all(same(a, b) for a, b in zip(got, want, strict=True))


# ---- state -------------------------------------------------------------------------------------


def draws_of(generator):
    return [generator.normal(5, stream=stream) for stream in (INIT, DATA, NOISE)]


@pytest.mark.parametrize("before", BACKENDS)
@pytest.mark.parametrize("after", BACKENDS)
def test_a_state_continues_on_any_backend(before, after):
    generator = Generator(11)
    with gpuprop.use(before):
        for _ in range(3):
            draws_of(generator)
        state = json.loads(json.dumps(generator.get_state()))
        assert state == {"seed": 11, "draws": [3, 3, 3]}
        expected = draws_of(generator)
    with gpuprop.use(after):
        other = Generator(0)
        draws_of(other)
        other.set_state(state)
        assert all(same(a, b) for a, b in zip(draws_of(other), expected, strict=True))


@pytest.mark.parametrize("duplicate", [
    copy.copy, copy.deepcopy, lambda g: pickle.loads(pickle.dumps(g))])
def test_a_copy_draws_the_same(duplicate):
    with gpuprop.use("strict"):
        generator = Generator(3)
        draws_of(generator)
        other = duplicate(generator)
        pairs = zip(draws_of(generator), draws_of(other), strict=True)
        assert all(same(a, b) for a, b in pairs)
        assert generator.get_state() == other.get_state()


def test_manual_seed_restarts_on_every_device():
    generator = Generator(1)
    first = {}
    for name in BACKENDS:
        with gpuprop.use(name):
            first[name] = draws_of(generator)
            draws_of(generator)
    assert generator.manual_seed(1) is generator
    for name in BACKENDS:
        with gpuprop.use(name):
            assert same(generator.normal(5, stream=NOISE), first[name][NOISE])
    assert same(generator.normal(5, stream=INIT), first[BACKENDS[0]][INIT])


def test_threads_share_a_generator_without_drawing_twice():
    generator, found = Generator(0), []
    work = lambda: found.extend(generator.integers(0, 2**60, 4).tobytes() for _ in range(50))
    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(set(found)) == 200
    assert generator.get_state()["draws"] == [0, 200, 0]


# ---- functions and errors ----------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_functions_draw_tensors_from_the_default_generator(backend):
    def draws(source):
        return [source.uniform((2, 3), -1, 1), source.normal(4, 1.0, 2.0),
                source.truncated_normal(4, high=1.0), source.integers(0, 9, 5),
                source.bernoulli(0.5, (2, 2)), source.permutation(6)]

    with gpuprop.use(backend) as chosen:
        random.manual_seed(9)
        found = draws(random)
        expected = draws(Generator(9))
        for got, want in zip(found, expected, strict=True):
            assert isinstance(got, gpuprop.Tensor) and type(got.data) is chosen.array_type
            assert same(got, want)


def test_functions_have_the_signatures_and_docstrings_of_the_methods():
    parameters = list(inspect.signature(random.normal).parameters)
    assert parameters == ["shape", "mean", "std", "dtype", "stream"]
    assert random.normal.__doc__ == Generator.normal.__doc__


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda g: Generator(-1), ValueError, r"seed must be an integer"),
    (lambda g: Generator(2**64), ValueError, r"seed must be an integer"),
    (lambda g: Generator(0.5), TypeError, "integer"),
    (lambda g: g.uniform(3, 1, 0), ValueError, "low <= high"),
    (lambda g: g.uniform(3, 0, float("inf")), ValueError, "finite"),
    (lambda g: g.uniform(3, dtype="int32"), TypeError, "floating"),
    (lambda g: g.normal(3, dtype=bool), TypeError, "floating"),
    (lambda g: g.normal(1.5), TypeError, "integer"),
    (lambda g: g.normal(3, 0, -1), ValueError, r"std.*\[0, inf\)"),
    (lambda g: g.normal((2, -1)), ValueError, "shape.*at least 0"),
    (lambda g: g.truncated_normal(3, low=2, high=2), ValueError, "low < high"),
    (lambda g: g.truncated_normal(3, std=0), ValueError, "std > 0"),
    (lambda g: g.integers(3, 3), ValueError, "low < high"),
    (lambda g: g.integers(0, 2**64), ValueError, "int64"),
    (lambda g: g.bernoulli(1.5), ValueError, r"p .*\[0, 1\]"),
    (lambda g: g.bernoulli(float("nan")), ValueError, r"p .*\[0, 1\]"),
    (lambda g: g.permutation(-1), ValueError, "at least 0"),
    (lambda g: g.uniform(3, stream=3), ValueError, "stream"),
])
def test_errors(call, error, message):
    generator = Generator(0)
    with pytest.raises(error, match=message):
        call(generator)
    assert generator.get_state() == {"seed": 0, "draws": [0, 0, 0]}


def test_the_repr_of_a_generator_has_its_seed():
    assert repr(Generator(42)) == "Generator(seed=42)"
    assert Generator(np.int64(42)).seed == 42


# ---- modules -----------------------------------------------------------------------------------


def test_the_public_module_lists_its_names():
    assert all(hasattr(random, name) for name in random.__all__)
    public = {name for name, value in vars(random).items()
              if callable(value) and value.__module__ == "gpuprop.random" and name[0] != "_"}
    assert public <= set(random.__all__)


def test_kernels_have_the_names_that_backends_override():
    names = {kernel.spec.name for kernel in (bits.take_rng_key, keep_mask, keep_rows)}
    assert names == {"gpuprop:take_rng_key", "gpuprop:keep_mask", "gpuprop:keep_rows"}


def test_import_needs_no_inspect():
    """It takes 5 to 15 ms to import."""
    code = """
import sys, gpuprop, gpuprop.random
for name, module in sys.modules.items():
    assert not (name.startswith("gpuprop") and hasattr(module, "inspect")), name
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
