"""Connectionist temporal classification: the loss of labels in a sequence that nobody aligned with the input's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpuprop._array.arithmetic import maximum
from gpuprop._array.indexing import take
from gpuprop._array.scatter import pad_with, scatter
from gpuprop._core.composed import composed
from gpuprop._core.graph import raw
from gpuprop._core.ops import op
from gpuprop._core.registry import backend_of
from gpuprop._core.signature import Array
from gpuprop._core.tensor import asnumpy
from gpuprop.functional._loss import reduced


@op(precision="full")
def aligned_nll(xp, log_probs: Array, targets: Array, input_lengths: Array, target_lengths: Array, blank=0,
                zero_infinity=False):
    """-log of the probability of all of a sample's alignments: (T, N, C), (N, S), (N,), (N,) -> (N,).

    As PyTorch's, the gradient is that by the logits `log_probs` are the `log_softmax` of, which this leaves as it is.
    """
    (steps, n, classes), size, dtype = log_probs.shape, targets.shape[1], log_probs.dtype
    check_lengths(xp, "input_lengths", input_lengths, steps)
    check_lengths(xp, "target_lengths", target_lengths, size)
    labels = xp.where(xp.arange(size) < target_lengths[:, None], targets.astype("int64"), blank)
    xp.check((labels >= 0) & (labels < classes),
               f"ctc_loss: labels of {classes} classes are 0 to {classes - 1}: another was found in targets")
    # an alignment goes through states, the labels with blanks about them: at each step it stays, goes on to the next,
    # or skips a blank between two labels that differ
    blanks = xp.full((n, size), blank)
    states = pad_with.on(xp, xp.stack([blanks, labels], axis=2).reshape(n, 2 * size), widths=((0, 0), (2, 1)),
                         value=blank)
    skips, states = states[:, 2:] != states[:, :-2], states[:, 2:]
    place, last = xp.arange(2 * size + 1), 2 * target_lengths[:, None]
    everywhere = xp.broadcast_to(states, (steps, *states.shape))
    emitted = xp.take_along_axis(log_probs, everywhere, axis=2)

    def origins(alpha):
        """The log-probabilities of the states that lead to each: itself, the one before, and the one before that."""
        wide = pad_with.on(xp, alpha, widths=((0, 0), (2, 0)), value=-math.inf)
        return xp.stack([wide[:, 2:], wide[:, 1:-1], xp.where(skips, wide[:, :-2], -math.inf)])

    def back(shares):
        """What each state is given by those that it is an origin of."""
        wide = [pad_with.on(xp, shares[k], widths=((0, 0), (2 - k, k))) for k in range(3)]
        return (wide[0] + wide[1] + wide[2])[:, 2:]

    def total(a, axis):
        """``log(sum(exp(a)))``, and the same with 0 for -inf."""
        top = a.max(axis=axis, keepdims=True)
        never = top == -math.inf
        top = xp.where(never, 0, top)
        whole = xp.log(xp.exp(a - top).sum(axis=axis, keepdims=True) + never) + top
        return xp.where(never, -math.inf, whole), whole

    running = [(step < input_lengths)[:, None] for step in range(steps)]
    alpha, passed = xp.where(xp.broadcast_to(place, states.shape) == 0, 0, -math.inf).astype(dtype), []
    for step in range(steps):
        arrived, whole = total(origins(alpha), 0)
        passed.append((alpha, whole))
        alpha = xp.where(running[step], arrived[0] + emitted[step], alpha)
    ends = xp.where((place == last) | (place == last - 1), alpha, -math.inf)
    log_p, whole = total(ends, 1)
    lost = log_p == -math.inf
    nll = xp.where(lost, 0, -log_p) if zero_infinity else -log_p

    def to_logits(d):
        share, visits = xp.exp(ends - whole), []  # of the alignments, those in a state, from the last step to the first
        for step in range(steps)[::-1]:
            alpha, arrived = passed[step]
            visits.append(xp.where(running[step], share, 0))
            share = xp.where(running[step], back(share * xp.exp(origins(alpha) - arrived)), share)
        visits = xp.stack(visits[::-1]) if steps else emitted
        by_class = scatter.on(xp, visits, everywhere, axis=2, shape=log_probs.shape)
        slope = xp.where(lost, 0 if zero_infinity else math.nan, xp.exp(log_probs) - by_class) * d[:, None]
        return xp.where(xp.arange(steps)[:, None, None] < input_lengths[:, None], slope, 0)

    return nll[:, 0], (to_logits, None, None, None)


def check_lengths(xp, name, lengths, limit):
    xp.check((lengths >= 0) & (lengths <= limit), f"ctc_loss: {name} lie between 0 and {limit}: another was found")


@composed(full=True)
def ctc_loss(log_probs: Array, targets: Array, input_lengths: Array | Sequence[int],
             target_lengths: Array | Sequence[int], blank: int = 0, reduction: str = "mean",
             zero_infinity: bool = False) -> Array:
    """-log of the probability that `log_probs` (T, N, C), of a `log_softmax`, spell their targets, blanks left out.

    Targets are (N, S), or 1-D, one sample's after the other, for which the host reads `target_lengths`; a single sample
    is (T, C) and (S,).  Only the first of each, as lengths say, counts.  The "mean" is over samples, of the loss over
    the number of labels.  Where an input is too short for its labels the loss is infinite, and 0 with `zero_infinity`.
    A step can be captured with lengths in arrays and targets (N, S).  A. Graves et al., ICML 2006.
    """
    if log_probs.ndim not in (2, 3):
        raise ValueError(f"ctc_loss: log_probs are (T, N, C) or (T, C), not of shape {log_probs.shape}")
    if targets.dtype.kind not in "iu":
        raise TypeError(f"ctc_loss: targets hold labels, and must be integers, not {targets.dtype.name}")
    if not 0 <= blank < log_probs.shape[-1]:
        raise ValueError(f"ctc_loss: blank={blank} is none of the {log_probs.shape[-1]} classes")
    single = log_probs.ndim == 2
    if single:
        log_probs, targets = log_probs[:, None], targets.reshape(1, targets.size)
    n = log_probs.shape[1]
    in_lengths = one_each("input_lengths", input_lengths, log_probs)
    out_lengths = one_each("target_lengths", target_lengths, log_probs)
    targets = targets if targets.ndim > 1 else beneath(targets, asnumpy(target_lengths))
    if targets.ndim != 2 or len(targets) != n:
        raise ValueError(f"ctc_loss: targets of {n} samples are ({n}, S), or 1-D, not of shape {targets.shape}")
    loss = aligned_nll(log_probs, targets, in_lengths, out_lengths, blank, zero_infinity)
    if reduction == "mean":
        loss = loss / maximum(out_lengths, 1).astype(loss.dtype)
    loss = reduced(loss, None, reduction)
    return loss[0] if single and reduction == "none" else loss


def one_each(name: str, lengths: Any, log_probs: Any) -> Any:
    """Lengths, one a sample, as an array where `log_probs` are."""
    n = log_probs.shape[1]
    if hasattr(lengths, "shape"):
        own = raw(lengths)
    else:
        own = backend_of(raw(log_probs)).asarray(np.asarray(lengths, None if np.size(lengths) else "int64"))
    if own.dtype.kind not in "iu" or own.size != n or own.ndim > 1:
        raise ValueError(f"ctc_loss: {name} are integers, one for each of {n} samples, not {own.dtype.name} of shape "
                         f"{own.shape}")
    return own.reshape(n).astype("int64", copy=False)  # a narrow type does not hold twice the length


def beneath(targets: Any, lengths: np.ndarray) -> Any:
    """Targets given one after the other, one beneath the other: (sum of lengths,) -> (N, longest)."""
    if lengths.sum() != len(targets):
        raise ValueError(f"ctc_loss: {len(targets)} targets are given, and target_lengths say {lengths.sum()}")
    lengths = lengths.astype(np.int64)
    longest = lengths.max(initial=0)
    places = (lengths.cumsum() - lengths)[:, None] + np.arange(longest)
    return take(targets, backend_of(raw(targets)).asarray(np.minimum(places, len(targets) - 1)), 0)
