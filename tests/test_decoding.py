"""Decoding: filters against brute force, samples against probabilities, and beam search.

Beam search is compared with the enumeration of all sequences.
"""

import itertools
import math
from functools import partial

import numpy as np
import pytest
from test_transformer import GPT, VOCABULARY

import gpuprop as gp
from gpuprop._core.dtypes import as_dtype
from gpuprop.decoding import beam_search, generate, greedy, sample, top_k_filter, top_p_filter
from gpuprop.random import Generator

INF = math.inf


def log(*probabilities):
    with np.errstate(divide="ignore"):
        return gp.tensor(np.log(np.array(probabilities)))


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


class Markov:
    """A step whose logits are a table of the last two tokens; it keeps the earlier one itself."""

    def __init__(self, size, seed=0):
        self.table = 2 * draw(size, size, size, seed=seed)
        self.before, self.rows, self.device_table = None, [], gp.tensor(self.table)

    def __call__(self, tokens):
        assert not gp.is_grad_enabled() and tokens.dtype == "int64"
        self.rows.append(tokens.shape)
        before = self.before if tokens.shape[1] == 1 else tokens[:, -2]
        self.before = tokens[:, -1]
        return self.device_table[before, self.before]

    def reorder(self, index):
        self.before = self.before[index]

    def best(self, prompt, max_new_tokens, eos, length_penalty):
        """All sequences with their scores, best first."""
        found, open_ = [], [((), 0.0)]
        while open_:
            tokens, log_p = open_.pop()
            if len(tokens) == max_new_tokens or eos in tokens:
                found.append((log_p / len(tokens)**length_penalty, (*prompt, *tokens)))
            else:
                z = self.table[(*prompt, *tokens)[-2:]]
                rest = z - np.log(np.exp(z).sum())
                open_ += [((*tokens, i), log_p + rest[i]) for i in range(len(z))]
        return sorted(found, reverse=True)


# ---- one token ---------------------------------------------------------------------------------


def test_greedy(backend):
    z = gp.tensor([[[0, 3, 1], [2, -1, 2]]], dtype="float16")
    np.testing.assert_array_equal(greedy(z).numpy(), [[1, 0]])
    assert greedy(z[0, 0]).item() == 1


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_top_k(backend, dtype):
    z = gp.tensor([[1, 3, 2, 3, 0], [5, 1, 1, 1, 2], [-INF, -INF, 4, 5, -INF]])
    z = z.astype(as_dtype(dtype))
    kept = {k: top_k_filter(z, k).astype("float32").numpy() for k in (1, 3, 9)}
    np.testing.assert_array_equal(
        kept[1], [[-INF, 3, -INF, 3, -INF], [5, *[-INF] * 4], [*[-INF] * 3, 5, -INF]])
    np.testing.assert_array_equal(
        kept[3], [[-INF, 3, 2, 3, -INF], [5, 1, 1, 1, 2], [-INF, -INF, 4, 5, -INF]])
    np.testing.assert_array_equal(kept[9], z.astype("float32").numpy())
    assert top_k_filter(z, 2).dtype == dtype


@pytest.mark.parametrize("top_p", [1e-20, 0.1, 0.35, 0.5, 0.8, 0.97, 1.0])
def test_top_p_keeps_the_smallest_set(backend, top_p):
    z = 2 * draw(30, 6)
    probabilities = np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
    filtered = top_p_filter(gp.tensor(z), top_p).numpy()
    sets = [list(s) for n in range(1, 7) for s in itertools.combinations(range(6), n)]
    for logits, p, got in zip(z, probabilities, filtered, strict=True):
        enough = [s for s in sets if p[s].sum() >= top_p - 1e-12]
        smallest = [s for s in enough if len(s) == len(enough[0])]
        nucleus = max(smallest, key=lambda s: p[s].sum())
        np.testing.assert_array_equal(got, np.where(np.isin(np.arange(6), nucleus), logits, -INF))


def test_top_p_keeps_equal_logits(backend):
    z = log([0.4, 0.2, 0.2, 0.2], [0.25, 0.25, 0.25, 0.25], [0.9, 0.1, 0, 0]).astype("float32")
    kept = top_p_filter(z, 0.5)
    want = [[1, 1, 1, 1], [1, 1, 1, 1], [1, 0, 0, 0]]
    np.testing.assert_array_equal(np.isfinite(kept.numpy()), want)
    assert kept.dtype == "float32"


@pytest.mark.parametrize("options, weights", [
    ({}, [0.5, 0.3, 0.15, 0.05]),
    ({"temperature": 0.5}, [0.25, 0.09, 0.0225, 0.0025]),
    ({"top_k": 3}, [0.5, 0.3, 0.15, 0]),
    ({"top_p": 0.75}, [0.5, 0.3, 0, 0]),
    # at temperature 2 the first two have a total probability of 0.7
    ({"temperature": 2.0, "top_p": 0.75}, [0.5**0.5, 0.3**0.5, 0.15**0.5, 0]),
    # of the two that top_k keeps, the first has a probability of 0.625
    ({"top_k": 2, "top_p": 0.6}, [1, 0, 0, 0]),
], ids=str)
def test_frequencies(backend, options, weights):
    """Pearson's chi-square test of 20 000 samples.

    With 3 degrees of freedom the statistic exceeds 16.3 with probability 0.001.
    """
    n = 20_000
    p = np.array(weights) / sum(weights)
    logits = log(*[[0.5, 0.3, 0.15, 0.05]] * n).astype("float32")
    tokens = sample(logits, **options, rng=Generator(1))
    counts = np.bincount(tokens.numpy(), minlength=4)
    assert tokens.shape == (n,) and not counts[p == 0].any()
    expected = n * p[p > 0]
    assert ((counts[p > 0] - expected) ** 2 / expected).sum() < 16.3


def test_backends_sample_the_same_tokens(backend):
    z = draw(50, 3, 40)
    tokens = {}
    for name in ("numpy", backend.name):
        with gp.use(name):
            choose = partial(sample, gp.tensor(z).astype("float32"), 1.5, 30, 0.9)
            gp.manual_seed(7)
            first = choose(), choose()
            with gp.no_sync():
                again = [choose(rng=rng) for rng in [Generator(7)] for _ in range(2)]
            tokens[name] = np.stack([t.numpy() for t in (*first, *again)])
    np.testing.assert_array_equal(tokens["numpy"], tokens[backend.name])
    np.testing.assert_array_equal(tokens["numpy"][:2], tokens["numpy"][2:])
    assert (tokens["numpy"][0] != tokens["numpy"][1]).any()


def test_captured(backend):
    z = gp.tensor(draw(5, 9))
    options = {"temperature": 2.0, "top_k": 7, "top_p": 0.9}
    plain = partial(sample, **options, rng=Generator())
    captured = gp.capture(partial(sample, **options, rng=Generator()))
    for _ in range(5):
        np.testing.assert_array_equal(captured(z).numpy(), plain(z).numpy())


@pytest.mark.parametrize("choose", [
    greedy, sample, partial(sample, top_k=2, top_p=0.5), partial(top_k_filter, top_k=1),
    partial(top_p_filter, top_p=0.5),
])
def test_arrays_give_arrays(backend, choose):
    z = gp.tensor(draw(2, 3))
    assert type(choose(z)) is gp.Tensor and type(choose(z.data)) is type(z.data)


# ---- sequences ---------------------------------------------------------------------------------

PROMPTS = [[1, 2], [2, 2], [3, 1]]


class TestGenerate:
    def test_greedy(self, backend):
        model = Markov(5)
        want = np.array(PROMPTS)
        for _ in range(6):
            want = np.column_stack([want, model.table[want[:, -2], want[:, -1]].argmax(axis=-1)])
        with gp.no_sync():
            tokens = generate(model, gp.tensor(PROMPTS, "int32"), 6)
        assert tokens.dtype == "int64" and model.rows == [(3, 2)] + 5 * [(3, 1)]
        np.testing.assert_array_equal(tokens.numpy(), want)

    @pytest.mark.parametrize("pad", [None, 9])
    def test_eos_and_pad(self, backend, pad):
        # row i: the tokens that the model predicts after prompt i
        script, calls = np.array([[5, 0, 7, 7, 7], [5, 6, 8, 0, 7], [0, 8, 0, 8, 8]]), []

        def step(tokens):
            calls.append(tokens.numpy()[:, -1])
            return gp.tensor(np.eye(10)[script[:, len(calls) - 1]])

        tokens = generate(step, [[0], [1], [2]], 5, eos=0, pad=pad)
        p = pad or 0
        np.testing.assert_array_equal(
            tokens.numpy(), [[0, 5, 0, p, p], [1, 5, 6, 8, 0], [2, 0, p, p, p]])
        np.testing.assert_array_equal(calls[-1], [p, 8, p])

    def test_choose(self, backend):
        z = gp.tensor(draw(2, 7))
        rng, same_rng = Generator(3), Generator(3)
        tokens = generate(lambda tokens: z, [[1], [1]], 4, choose=partial(sample, rng=rng))
        want = [sample(z, rng=same_rng).numpy() for _ in range(4)]
        np.testing.assert_array_equal(tokens.numpy()[:, 1:], np.stack(want, axis=1))


class TestBeamSearch:
    @pytest.mark.parametrize("seed", range(4))
    def test_one_beam_is_greedy(self, backend, seed):
        model = Markov(5, seed)
        options = {"eos": 0, "pad": 1}
        tokens, scores = beam_search(model, PROMPTS, 8, 1, **options, reorder=model.reorder)
        want = generate(model, PROMPTS, 8, **options)
        np.testing.assert_array_equal(tokens.numpy()[:, 0], want.numpy())
        assert scores.shape == (3, 1)

    @pytest.mark.parametrize("length_penalty", [0.0, 0.7, 1.0, 2.0, -1.0])
    @pytest.mark.parametrize("eos", [0, None])
    def test_enough_beams_find_the_best(self, backend, eos, length_penalty):
        model = Markov(3, seed=5)
        prompts = [(1, 2), (2, 2)]
        tokens, scores = beam_search(model, prompts, 4, 81, eos=eos,
                                     length_penalty=length_penalty, reorder=model.reorder)
        for prompt, rows, values in zip(prompts, tokens.numpy(), scores.numpy(), strict=True):
            want = model.best(prompt, 4, eos, length_penalty)
            np.testing.assert_allclose(values[:len(want)], [score for score, _ in want], rtol=1e-12)
            scores_of = {(*best, *[0] * (6 - len(best))): score for score, best in want}
            found = [*map(tuple, rows[:len(want)])]
            assert len({*found}) == len(want)
            np.testing.assert_allclose(
                values[:len(want)], [scores_of[row] for row in found], rtol=1e-12)
            assert (values[len(want):] == -INF).all()

    def test_more_beams_than_sequences(self, backend):
        model = Markov(2)
        tokens, scores = beam_search(model, [[1, 1]], 2, 6, eos=0, pad=7, reorder=model.reorder)
        found = sorted(map(tuple, tokens.numpy()[0, :3]))
        assert found == [(1, 1, 0, 7), (1, 1, 1, 0), (1, 1, 1, 1)]
        np.testing.assert_array_equal(np.isfinite(scores.numpy()), [[1, 1, 1, 0, 0, 0]])

    @pytest.mark.parametrize("length_penalty", [0.0, 1.0])
    def test_prompts_are_independent(self, backend, length_penalty):
        """Also if their searches end at different lengths."""
        model = Markov(6, 4)

        def run(prompts):
            return [a.numpy() for a in beam_search(model, prompts, 20, 3, eos=0,
                                                   reorder=model.reorder,
                                                   length_penalty=length_penalty)]

        tokens, scores = run(PROMPTS)
        lengths = set()
        for i, prompt in enumerate(PROMPTS):
            (one,), (score,) = run([prompt])
            lengths.add(one.shape[1])
            np.testing.assert_array_equal(tokens[i, :, :one.shape[1]], one)
            assert not tokens[i, :, one.shape[1]:].any()
            np.testing.assert_allclose(scores[i], score, rtol=1e-12)
        assert len(lengths) > 1

    def test_it_beats_greedy_without_synchronization(self, backend):
        """The most probable first token is followed by two with probability 1/2."""
        table = log([1, 1, 1, 1], [0, 0, 0.6, 0.4], [0.5, 0.5, 0, 0], [1, 0, 0, 0])
        step = lambda tokens: table[tokens[:, -1]]
        with gp.no_sync():
            tokens, scores = beam_search(step, gp.tensor([[1]]), 2, 2, length_penalty=0.0)
        np.testing.assert_array_equal(tokens.numpy(), [[[1, 3, 0], [1, 2, 0]]])
        np.testing.assert_allclose(scores.numpy(), np.log([[0.4, 0.3]]), rtol=1e-12)
        np.testing.assert_array_equal(generate(step, [[1]], 1).numpy(), [[1, 2]])

    @pytest.mark.parametrize("length_penalty, length, want, probabilities", [
        (1.0, 6, [[2] * 6, [2] * 5 + [0]], [0.7, (0.7**5 * 0.3)**(1 / 6)]),
        (0.0, 5, [[0] * 5, [2] + [0] * 4], [0.3, 0.21]),  # 0.7**5 is smaller
    ])
    def test_it_ends_when_no_open_sequence_has_a_higher_score(
            self, backend, length_penalty, length, want, probabilities):
        table = log(*[[0.3, 0, 0.7]] * 3)
        tokens, scores = beam_search(lambda tokens: table[tokens[:, -1]], [[1]], 6, 2, eos=0,
                                     length_penalty=length_penalty)
        np.testing.assert_array_equal(tokens.numpy(), [[[1, *row] for row in want]])
        np.testing.assert_allclose(scores.numpy(), np.log([probabilities]), rtol=1e-12)
        assert tokens.shape == (1, 2, 1 + length)

    def test_an_ended_sequence_frees_its_beam(self, backend):
        table = log([1, 0, 0, 0], [0.5, 0, 0.3, 0.2], [0.4, 0, 0.6, 0], [1, 0, 0, 0])
        step = lambda tokens: table[tokens[:, -1]]
        tokens, _ = beam_search(step, [[1]], 5, 2, eos=0, length_penalty=0.0)
        np.testing.assert_array_equal(tokens.numpy(), [[[1, 0, 0], [1, 3, 0]]])

    @pytest.mark.parametrize("eos", [None, 4])
    def test_with_and_without_a_cache(self, backend, eos):
        model, beams = GPT(), 3
        prompts = np.random.default_rng(0).integers(0, VOCABULARY, (2, 5))
        caches, moved = model.caches(2 * beams), []
        seen = gp.zeros(2 * beams, 0, dtype="int64")

        def reorder(index):
            moved.append(index.numpy())
            for cache in caches:
                cache.reorder(index)

        def cached_step(tokens):
            return 3 * model(tokens, caches)[:, -1]

        def step(tokens):
            nonlocal seen
            seen = gp.concatenate([seen, tokens], 1)
            return 3 * model(seen)[:, -1]

        def reorder_seen(index):
            nonlocal seen
            seen = seen[index]

        options = {"max_new_tokens": 12, "beams": beams, "eos": eos}
        tokens, scores = beam_search(cached_step, prompts, **options, reorder=reorder)
        want, want_scores = beam_search(step, prompts, **options, reorder=reorder_seen)
        np.testing.assert_array_equal(tokens.numpy(), want.numpy())
        np.testing.assert_allclose(scores.numpy(), want_scores.numpy(), rtol=1e-10)
        assert any((index != np.arange(6)).any() for index in moved[1:])


# ---- errors ------------------------------------------------------------------------------------

Z = np.zeros((2, 5))
ERRORS = [
    (lambda: greedy(Z.astype(int)), r"greedy.*\(..., V\).*\(2, 5\).*int64"),
    (lambda: sample(gp.tensor(0.5)), r"sample.*logits.*\(\).*float32"),
    *[(lambda t=t: sample(Z, t), r"sample.*temperature.*\(0, inf\)")
      for t in (0, -1.0, INF, math.nan)],
    *[(lambda k=k: sample(Z, top_k=k), f"top_k.*at least 1.*{k}") for k in (0, -1, 2.0)],
    *[(lambda p=p: sample(Z, top_p=p), rf"top_p.*\(0, 1\].*{p}") for p in (0, 1.1, math.nan)],
    *[(lambda b=b: beam_search(None, [[1]], 3, b), f"beams.*at least 1.*{b}")
      for b in (0, 1.5)],
    *[(lambda run=run: run(None, [[1]], 0), "max_new_tokens.*at least 1.*0")
      for run in (generate, partial(beam_search, beams=2))],
    (lambda: generate(None, [1, 2], 3), r"generate.*\(N, T\).*int64.*\(2,\)"),
    (lambda: generate(None, [[1.0]], 3), r"generate.*float32.*\(1, 1\)"),
    (lambda: beam_search(None, np.zeros((2, 0), int), 3, 2), r"beam_search.*T > 0.*\(2, 0\)"),
    (lambda: generate(lambda t: np.zeros((1, 2, 5)), [[1, 2]], 3),
     r"generate.*step.*\(1, V\).*\(1, 2, 5\)"),
    (lambda: beam_search(lambda t: np.zeros((1, 5)), [[1]], 3, 2),
     r"beam_search.*step.*\(2, V\).*\(1, 5\)"),
]


@pytest.mark.parametrize(("call", "text"), ERRORS, ids=range(len(ERRORS)))
def test_errors(call, text):
    with pytest.raises((TypeError, ValueError), match=text):
        call()
