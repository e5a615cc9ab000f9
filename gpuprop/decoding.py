"""Generate token sequences with a language model: greedy, by sampling, or with beam search.

The model is a function ``step(tokens) -> logits`` that the user writes.  The first call gets the
prompts, int64 tokens (N, T), and each later call the tokens chosen last, (N, 1).  It returns the
logits of the next token, (N, V), and keeps the state of earlier tokens itself::

    def step(tokens):
        return model(tokens, caches)[:, -1]

    choose = lambda logits: decoding.sample(logits, 0.8, top_k=20)
    tokens = decoding.generate(step, prompts, 100, eos=0, choose=choose)

Functions of logits return a Tensor for a Tensor and an array for an array; `generate` and
`beam_search` return Tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from gpuprop._array.reduction import argmax, cumsum, sort, topk
from gpuprop._core.composed import composed
from gpuprop._core.dtypes import is_float
from gpuprop._core.graph import raw
from gpuprop._core.mode import no_grad
from gpuprop._core.namespace import namespace
from gpuprop._core.options import checks_options
from gpuprop._core.placement import on_device_of_arguments
from gpuprop._core.signature import Array
from gpuprop._core.tensor import Tensor, tensor
from gpuprop.functional import gumbel_softmax, log_softmax, softmax
from gpuprop.random import Generator

__all__ = ["beam_search", "generate", "greedy", "sample", "top_k_filter", "top_p_filter"]

Step = Callable[[Tensor], Any]

# ---- one token ---------------------------------------------------------------------------------


def greedy(logits: Array) -> Array:
    """The tokens (...) with the largest logits (..., V), and of equal ones the first.

    >>> import gpuprop
    >>> gpuprop.decoding.greedy(gpuprop.tensor([[0.1, 2.0, -1.0], [3.0, 0.0, 3.0]])).tolist()
    [1, 0]
    """
    _check_logits("greedy", logits)
    return argmax(logits, -1)


@checks_options
@composed
def sample(logits: Array, temperature: float = 1.0, top_k: int | None = None,
           top_p: float | None = None, rng: Generator | None = None) -> Array:
    """Tokens (...) drawn from ``softmax(logits / temperature)``, with logits (..., V).

    `greedy` is the limit of temperature 0.  If `top_k` and `top_p` are given, `top_k_filter` and
    then `top_p_filter` are applied first.  The noise is drawn on the device of the logits, so the
    host does not wait; the tokens are the same on every backend.

    >>> import gpuprop
    >>> logits = gpuprop.tensor([0.0, 1.0, 5.0])
    >>> gpuprop.decoding.sample(logits, temperature=0.7, top_k=1).item()
    2
    """
    _check_logits("sample", logits)
    logits = logits.detach().astype("float64") / temperature
    if top_k is not None:
        logits = top_k_filter(logits, top_k)
    if top_p is not None:
        logits = top_p_filter(logits, top_p)
    return argmax(gumbel_softmax(logits, rng=rng), -1)


@checks_options
@composed
def top_k_filter(logits: Array, top_k: int) -> Array:
    """The logits (..., V) with all but the `top_k` largest replaced by -inf.

    Logits equal to the smallest of these are kept too.

    >>> import gpuprop
    >>> gpuprop.decoding.top_k_filter(gpuprop.tensor([1.0, 4.0, 2.0]), 2).tolist()
    [-inf, 4.0, 2.0]
    """
    _check_logits("top_k_filter", logits)
    largest, _ = topk(logits, min(top_k, logits.shape[-1]))
    return _mask_below(largest[..., -1:], logits)


@checks_options
@composed
def top_p_filter(logits: Array, top_p: float) -> Array:
    """The logits (..., V) with all but those of the nucleus replaced by -inf.

    The nucleus is the smallest set of most probable tokens with a total probability of at least
    `top_p`.  Logits equal to the smallest of these are kept too.  A. Holtzman et al., "The curious
    case of neural text degeneration", ICLR 2020.
    """
    _check_logits("top_p_filter", logits)
    ascending = sort(logits)
    cumulative = cumsum(softmax(ascending.astype("float64"), -1), -1)
    # the largest logit is always kept
    kept = namespace(logits).where(cumulative > 1 - top_p, ascending, ascending[..., -1:])
    return _mask_below(kept.min(axis=-1, keepdims=True), logits)


def _mask_below(threshold: Tensor, logits: Tensor) -> Tensor:
    """The logits with those below the threshold replaced by -inf."""
    xp = namespace(logits)
    return xp.where(logits < threshold, xp.full_like(threshold, -math.inf), logits)


# ---- sequences ---------------------------------------------------------------------------------


@checks_options
@no_grad()
@on_device_of_arguments
def generate(step: Step, tokens: Any, max_new_tokens: int, *, eos: int | None = None,
             pad: int | None = None, choose: Callable[[Tensor], Any] = greedy) -> Tensor:
    """Continue prompts (N, T) with the tokens that ``choose(logits)`` returns.

    The result contains the prompts and the new tokens: int64 (N, T + at most `max_new_tokens`).

    With `eos`, a sequence ends with its first new `eos`.  From then on its tokens, in the result
    and for `step`, are `pad`, by default `eos`.  Generation stops when all sequences have ended; to
    check this, the host waits for the device after each step.  Without `eos` it never waits.

    >>> import gpuprop
    >>> step = lambda tokens: gpuprop.eye(5)[(tokens[:, -1] + 1) % 5]  # predicts token + 1
    >>> gpuprop.decoding.generate(step, [[0, 1], [1, 2]], 4, eos=4).tolist()
    [[0, 1, 2, 3, 4], [1, 2, 3, 4, 4]]
    """
    sequences = _prompts("generate", tokens)
    new = sequences
    xp = namespace(sequences)
    done = xp.zeros((len(sequences), 1), "bool")
    for _ in range(max_new_tokens):
        logits = _next_logits("generate", step, new)
        token = Tensor(raw(choose(logits))).reshape(-1, 1)
        new = token if eos is None else xp.where(done, eos if pad is None else pad, token)
        sequences = xp.concatenate([sequences, new], 1)
        if eos is not None:
            done |= token == eos
            if done.all():
                break
    return sequences


@checks_options
@no_grad()
@on_device_of_arguments
def beam_search(step: Step, tokens: Any, max_new_tokens: int, beams: int, *,
                eos: int | None = None, pad: int | None = None, length_penalty: float = 1.0,
                reorder: Callable[[Tensor], Any] | None = None) -> tuple[Tensor, Tensor]:
    """The best continuations of prompts (N, T) found by beam search, best first, and their scores.

    Returns int64 tokens (N, beams, T + at most `max_new_tokens`), filled with `pad` as by
    `generate`, and float64 scores (N, beams).  A score is ``log p / length**length_penalty``, where
    `length` is the number of new tokens, including `eos`.  If there are fewer sequences than
    `beams`, the scores of the missing ones are -inf.

    A sequence ends with `eos`, if that is among the best `beams` continuations, or after
    `max_new_tokens`.  The search for a prompt ends when `beams` sequences have ended and no open
    sequence has a higher score at its current length.  With ``length_penalty <= 0`` no better
    sequence could follow; otherwise one could, but rarely does.  If `eos` is given, the host waits
    for the device after each step, otherwise never.

    Every call of `step` gets N * beams sequences, those of one prompt in consecutive rows.  From
    the second call on, the sequence in row i continues the one that was in row ``index[i]``.
    Therefore ``reorder(index)`` is called first, to reorder the state of `step`: by
    ``state = state[index]``, or by ``cache.reorder(index)`` for a cache.
    """
    prompts = _prompts("beam_search", tokens)
    xp = namespace(prompts)
    n = len(prompts)
    pad = next(p for p in (pad, eos, 0) if p is not None)

    def pick(paths: Tensor, rows: Tensor) -> Tensor:
        return xp.take_along_axis(paths, rows[..., None], 1)

    def append(paths: Tensor, token: Tensor) -> Tensor:
        return xp.concatenate([paths, token[..., None]], 2)

    new = prompts.repeat(beams, axis=0)
    paths = new.reshape(n, beams, -1)  # the open sequences
    ended = paths
    best = xp.full((n, beams), -math.inf, "float64")  # the scores of `ended`, in descending order
    log_p = xp.where(xp.arange(beams) == 0, 0.0, best)  # of `paths`, which are equal at first
    for length in range(1, max_new_tokens + 1):
        logits = _next_logits("beam_search", step, new).reshape(n, beams, -1)
        choices = log_softmax(logits.astype("float64"), -1) + log_p[..., None]
        vocabulary = choices.shape[-1]
        norm = length**length_penalty
        # twice as many as beams: at most half of them end with `eos`
        count = min(2 * beams, beams * vocabulary)
        log_p, choice = topk(choices.reshape(n, -1), count)
        row = choice // vocabulary
        token = choice % vocabulary
        paths = append(pick(paths, row), token)

        ends = (token == (-1 if eos is None else eos)) | (length == max_new_tokens)
        final = xp.where(ends, log_p, -math.inf)[:, :beams] / norm
        best, kept = topk(xp.concatenate([best, final], 1), beams)
        padded = append(ended, xp.full((n, beams), pad))
        ended = pick(xp.concatenate([padded, paths[:, :beams]], 1), kept)

        log_p, kept = topk(xp.where(ends, -math.inf, log_p), beams)
        improves = log_p[:, :1] / norm > best[:, -1:]
        if length == max_new_tokens or (eos is not None and not improves.any()):
            break
        log_p = xp.where(improves, log_p, -math.inf)
        paths = pick(paths, kept)
        new = paths[..., -1].reshape(-1, 1)
        if reorder is not None:
            rows = xp.arange(n)[:, None] * beams + xp.take_along_axis(row, kept, 1)
            reorder(rows.reshape(-1))
    return ended, best


# ---- checks ------------------------------------------------------------------------------------


def _check_logits(name: str, logits: Any) -> None:
    if not logits.ndim or not is_float(logits.dtype):
        raise ValueError(f"{name}: logits must have shape (..., V) and a floating dtype, "
                         f"got {logits.shape} and {logits.dtype.name}")


def _prompts(name: str, tokens: Any) -> Tensor:
    """The prompts as int64 tokens (N, T)."""
    tokens = tensor(tokens)
    if tokens.ndim != 2 or not tokens.shape[1] or tokens.dtype.kind not in "iu":
        raise ValueError(f"{name}: tokens must be integers of shape (N, T) with T > 0, "
                         f"got {tokens.dtype.name} of shape {tokens.shape}")
    return tokens.astype("int64")


def _next_logits(name: str, step: Step, tokens: Tensor) -> Tensor:
    """The logits of the next token, checked."""
    logits = Tensor(raw(step(tokens)))
    if logits.ndim != 2 or len(logits) != len(tokens):
        raise ValueError(f"{name}: step must return logits of shape ({len(tokens)}, V), for the "
                         f"last position, got {logits.shape}")
    return logits
