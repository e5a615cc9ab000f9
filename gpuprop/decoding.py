"""Sequences from a model that scores the next token: the likeliest, drawn, or the best that a search by beams finds.

A model is a function ``step(tokens) -> logits`` of the user's own: from int64 tokens (N, T), the whole prompts at first
and then (N, 1), what was chosen last, to the scores (N, V) of those that follow.  What came before it keeps itself::

    def step(tokens):
        return model(tokens, caches)[:, -1]

    tokens = decoding.generate(step, prompts, 100, eos=0, choose=lambda z: decoding.sample(z, 0.8, top_k=20))

Functions of logits return a Tensor for a Tensor and an array for an array, `generate` and `beam_search` Tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral
from typing import Any

from gpuprop._array.reduction import argmax, cumsum, sort, topk
from gpuprop._core.composed import composed
from gpuprop._core.dtypes import is_float
from gpuprop._core.graph import raw
from gpuprop._core.mode import no_grad
from gpuprop._core.namespace import namespace
from gpuprop._core.placement import on_device_of_arguments
from gpuprop._core.signature import Array
from gpuprop._core.tensor import Tensor, tensor
from gpuprop.functional import gumbel_softmax, log_softmax, softmax
from gpuprop.random import Generator

Step = Callable[[Tensor], Any]

# ---- one token ------------------------------------------------------------------------------------------------------


def greedy(logits: Array) -> Array:
    """The likeliest tokens (...) by logits (..., V); the first of several."""
    _check_logits("greedy", logits)
    return argmax(logits, -1)


@composed
def sample(logits: Array, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None,
           rng: Generator | None = None) -> Array:
    """Tokens (...) drawn by ``softmax(logits / temperature)``, logits (..., V), of the `top_k` and then the `top_p`.

    The noise is drawn where the logits are, so nothing waits for a device; it is the same on every backend, and so are
    the tokens.
    """
    _check_logits("sample", logits)
    if not 0 < temperature < math.inf:
        raise ValueError(f"sample: temperature is positive and finite, not {temperature}; greedy() is its limit 0")
    logits = logits.detach().astype("float64") / temperature
    if top_k is not None:
        logits = top_k_filter(logits, top_k)
    if top_p is not None:
        logits = top_p_filter(logits, top_p)
    return argmax(gumbel_softmax(logits, rng=rng), -1)


@composed
def top_k_filter(logits: Array, top_k: int) -> Array:
    """The logits (..., V), -inf where not among the `top_k` largest; what is equal to the least of these stays too."""
    _check_logits("top_k_filter", logits)
    _check_count("top_k", top_k)
    return _from(topk(logits, min(top_k, logits.shape[-1]))[0][..., -1:], logits)


@composed
def top_p_filter(logits: Array, top_p: float) -> Array:
    """The logits (..., V), -inf where not among the fewest, from the largest on, whose shares make up `top_p`.

    What is equal to the least of these stays too.  A. Holtzman et al., "The curious case of neural text degeneration",
    ICLR 2020.
    """
    _check_logits("top_p_filter", logits)
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p is a share of all, 0 < top_p <= 1, not {top_p}")
    rising = sort(logits)
    up_to = cumsum(softmax(rising.astype("float64"), -1), -1)
    stays = namespace(logits).where(up_to > 1 - top_p, rising, rising[..., -1:])  # the largest does in any case
    return _from(stays.min(axis=-1, keepdims=True), logits)


def _from(least: Tensor, logits: Tensor) -> Tensor:
    """The logits, -inf where smaller."""
    xp = namespace(logits)
    return xp.where(logits < least, xp.full_like(least, -math.inf), logits)


# ---- sequences ------------------------------------------------------------------------------------------------------


@no_grad()
@on_device_of_arguments
def generate(step: Step, tokens: Any, max_new_tokens: int, *, eos: int | None = None, pad: int | None = None,
             choose: Callable[[Tensor], Any] = greedy) -> Tensor:
    """The prompts (N, T) and what ``choose(logits)`` continues them with: int64 tokens (N, T + up to `max_new_tokens`).

    Behind its first new `eos` a sequence is filled with `pad`, `eos` if None, which `step` sees too, until all have
    one.  To know that, the host waits for the device once a step; without `eos` it never does.
    """
    found = _prompts("generate", tokens, max_new_tokens)
    xp, new = namespace(found), found
    done = xp.zeros((len(found), 1), "bool")
    for _ in range(max_new_tokens):
        token = Tensor(raw(choose(_scores("generate", step, new)))).reshape(-1, 1)
        new = token if eos is None else xp.where(done, eos if pad is None else pad, token)
        found = xp.concatenate([found, new], 1)
        if eos is not None:
            done |= token == eos
            if done.all():
                break
    return found


@no_grad()
@on_device_of_arguments
def beam_search(step: Step, tokens: Any, max_new_tokens: int, beams: int, *, eos: int | None = None,
                pad: int | None = None, length_penalty: float = 1.0,
                reorder: Callable[[Tensor], Any] | None = None) -> tuple[Tensor, Tensor]:
    """The best continuations of prompts (N, T) that a search by beams finds, best first, and their float64 scores.

    These are tokens (N, beams, T + up to `max_new_tokens`), filled with `pad` as by `generate`, and scores (N, beams),
    ``log p / length**length_penalty``, where `length` counts the new tokens, `eos` among them; -inf marks what is left
    where there are not as many sequences.  A sequence ends with `eos`, if that is among the best `beams` continuations,
    or with `max_new_tokens`.  For a prompt the search ends when `beams` have, and no open one scores higher at its
    length: none can then with ``length_penalty <= 0``, and else hardly any.  Only with `eos` the host waits for the
    device, once a step.

    `step` sees N * beams sequences, those of one prompt in a row, from the beginning.  Before each further call the
    one in row i continues what was in row ``index[i]``, and ``reorder(index)`` is called: what `step` keeps follows by
    ``state = state[index]``, and a cache by ``cache.reorder(index)``.
    """
    _check_count("beams", beams)
    prompts = _prompts("beam_search", tokens, max_new_tokens)
    xp, n = namespace(prompts), len(prompts)
    pad = next(p for p in (pad, eos, 0) if p is not None)
    pick = lambda paths, rows: xp.take_along_axis(paths, rows[..., None], 1)
    behind = lambda paths, token: xp.concatenate([paths, token[..., None]], 2)

    new = prompts.repeat(beams, axis=0)
    ended = paths = new.reshape(n, beams, -1)
    best = xp.full((n, beams), -math.inf, "float64")  # the scores of the ended, in order
    log_p = xp.where(xp.arange(beams) == 0, 0.0, best)  # of the open ones, which are all the same at first
    for length in range(1, max_new_tokens + 1):
        logits = _scores("beam_search", step, new).reshape(n, beams, -1)
        choices = log_softmax(logits.astype("float64"), -1) + log_p[..., None]
        size, norm = choices.shape[-1], length**length_penalty
        log_p, place = topk(choices.reshape(n, -1), min(2 * beams, beams * size))  # at most half of them are `eos`
        row, token = place // size, place % size
        paths = behind(pick(paths, row), token)

        ends = (token == (-1 if eos is None else eos)) | (length == max_new_tokens)
        final = xp.where(ends, log_p, -math.inf)[:, :beams] / norm
        best, among = topk(xp.concatenate([best, final], 1), beams)
        ended = pick(xp.concatenate([behind(ended, xp.full((n, beams), pad)), paths[:, :beams]], 1), among)

        log_p, among = topk(xp.where(ends, -math.inf, log_p), beams)
        wins = log_p[:, :1] / norm > best[:, -1:]
        if length == max_new_tokens or (eos is not None and not wins.any()):
            break
        log_p, paths = xp.where(wins, log_p, -math.inf), pick(paths, among)
        new = paths[..., -1].reshape(-1, 1)
        if reorder is not None:
            reorder((xp.arange(n)[:, None] * beams + xp.take_along_axis(row, among, 1)).reshape(-1))
    return ended, best


# ---- what is given --------------------------------------------------------------------------------------------------


def _check_logits(name: str, logits: Any) -> None:
    if not logits.ndim or not is_float(logits.dtype):
        raise ValueError(f"{name}: logits are (..., V) of a floating dtype, not {logits.shape} of {logits.dtype.name}")


def _check_count(name: str, count: Any) -> None:
    if not isinstance(count, Integral) or count < 1:
        raise ValueError(f"{name} is an integer of at least 1, not {count!r}")


def _prompts(name: str, tokens: Any, max_new_tokens: int) -> Tensor:
    tokens = tensor(tokens)
    if tokens.ndim != 2 or not tokens.shape[1] or tokens.dtype.kind not in "iu":
        raise ValueError(f"{name}: tokens are integers (N, T), T > 0, not {tokens.shape} of {tokens.dtype.name}")
    _check_count("max_new_tokens", max_new_tokens)
    return tokens.astype("int64")


def _scores(name: str, step: Step, tokens: Tensor) -> Tensor:
    """What `step` says of the tokens."""
    logits = Tensor(raw(step(tokens)))
    if logits.ndim != 2 or len(logits) != len(tokens):
        raise ValueError(f"{name}: step returns logits (N, V) for the last position, here ({len(tokens)}, V), "
                         f"not {logits.shape}")
    return logits
