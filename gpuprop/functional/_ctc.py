"""Connectionist temporal classification: a loss for targets that are not aligned to the input."""

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
from gpuprop.functional._cross_entropy import label_message
from gpuprop.functional._loss_common import reduce_loss


@op(precision="full", name="ctc_loss")
def ctc_nll(xp, log_probs: Array, targets: Array, input_lengths: Array, target_lengths: Array,
            blank: int = 0, zero_infinity: bool = False):
    """`ctc_loss` per sample: (T, N, C), (N, S), (N,), (N,) -> (N,).

    As in PyTorch, the pullback returns the gradient with respect to the logits, of which
    `log_probs` must be the `log_softmax`.  Since ``log_softmax(log_probs) == log_probs``, it passes
    through the pullback of `log_softmax` unchanged.
    """
    steps, n, classes = log_probs.shape
    size = targets.shape[1]
    dtype = log_probs.dtype
    check_lengths(xp, "input_lengths", input_lengths, steps)
    check_lengths(xp, "target_lengths", target_lengths, size)
    is_given = xp.arange(size) < target_lengths[:, None]
    labels = xp.where(is_given, targets.astype("int64"), blank)
    xp.check((labels >= 0) & (labels < classes), label_message("ctc_loss", classes), labels)

    # The states of an alignment are the labels with blanks before, between and after them.  At each
    # step the state stays, moves to the next one, or skips a blank between two different labels.
    blanks = xp.full((n, size), blank)
    states = pad_with.on(xp, xp.stack([blanks, labels], axis=2).reshape(n, 2 * size),
                         widths=((0, 0), (2, 1)), value=blank)
    can_skip = states[:, 2:] != states[:, :-2]
    states = states[:, 2:]
    index = xp.arange(2 * size + 1)
    last = 2 * target_lengths[:, None]
    states_of_steps = xp.broadcast_to(states, (steps, *states.shape))
    emitted = xp.take_along_axis(log_probs, states_of_steps, axis=2)

    def predecessors(alpha):
        """Log-probabilities of the three states that lead to each: itself and the two before it."""
        padded = pad_with.on(xp, alpha, widths=((0, 0), (2, 0)), value=-math.inf)
        return xp.stack([padded[:, 2:], padded[:, 1:-1],
                         xp.where(can_skip, padded[:, :-2], -math.inf)])

    def to_predecessors(parts):
        """The adjoint of `predecessors`, for probabilities."""
        padded = [pad_with.on(xp, parts[k], widths=((0, 0), (2 - k, k))) for k in range(3)]
        return (padded[0] + padded[1] + padded[2])[:, 2:]

    def logsumexp(a, axis):
        """``log(sum(exp(a)))``, and the same with 0 in place of -inf."""
        top = a.max(axis=axis, keepdims=True)
        is_zero = top == -math.inf  # the sum is 0
        top = xp.where(is_zero, 0, top)
        finite = xp.log(xp.exp(a - top).sum(axis=axis, keepdims=True) + is_zero) + top
        return xp.where(is_zero, -math.inf, finite), finite

    # alpha[n, s]: log of the summed probability of all beginnings of alignments that end in state s
    is_running = [(step < input_lengths)[:, None] for step in range(steps)]
    alpha = xp.where(xp.broadcast_to(index, states.shape) == 0, 0, -math.inf).astype(dtype)
    history = []
    for step in range(steps):
        arrived, finite = logsumexp(predecessors(alpha), 0)
        history.append((alpha, finite))
        alpha = xp.where(is_running[step], arrived[0] + emitted[step], alpha)
    final = xp.where((index == last) | (index == last - 1), alpha, -math.inf)
    log_p, log_p_finite = logsumexp(final, 1)
    is_infeasible = log_p == -math.inf
    nll = xp.where(is_infeasible, 0, -log_p) if zero_infinity else -log_p

    def to_logits(d):
        # occupancy[n, s]: the fraction of alignments, by probability, that are in state s at a step
        occupancy = xp.exp(final - log_p_finite)
        occupancies = []  # from the last step to the first
        for step in range(steps)[::-1]:
            alpha, finite = history[step]
            occupancies.append(xp.where(is_running[step], occupancy, 0))
            before = to_predecessors(occupancy * xp.exp(predecessors(alpha) - finite))
            occupancy = xp.where(is_running[step], before, occupancy)
        occupancies = xp.stack(occupancies[::-1]) if steps else emitted
        by_class = scatter.on(xp, occupancies, states_of_steps, axis=2, shape=log_probs.shape)
        of_infeasible = 0 if zero_infinity else math.nan
        dx = xp.where(is_infeasible, of_infeasible, (xp.exp(log_probs) - by_class) * d[:, None])
        return xp.where(xp.arange(steps)[:, None, None] < input_lengths[:, None], dx, 0)

    return nll[:, 0], (to_logits, None, None, None)


def check_lengths(xp, name, lengths, limit):
    xp.check((lengths >= 0) & (lengths <= limit),
             f"ctc_loss: {name} out of range: expected 0 <= length <= {limit}", lengths)


@composed(full=True)
def ctc_loss(log_probs: Array, targets: Array, input_lengths: Array | Sequence[int],
             target_lengths: Array | Sequence[int], blank: int = 0, reduction: str = "mean",
             zero_infinity: bool = False) -> Array:
    """CTC loss: ``y = -log(p)``, where p is the probability of all alignments of a target.

    An alignment is a sequence of classes, one per step, that becomes the target when repeats are
    merged and blanks are then removed.  `log_probs`, from `log_softmax`, is (T, N, C), or (T, C)
    for one sample.  `targets` is (N, S), or (S,) for one sample, or 1-D with the labels of all
    samples one after the other.  `input_lengths` and `target_lengths` are (N,): the numbers of
    steps and of labels of each sample, at most T and S.

    `reduction` is "mean", "sum" or "none".  "mean" divides the loss of each sample by its target
    length, and averages over the samples.  The loss is infinite, or 0 with `zero_infinity`, if a
    target does not fit into its input.  The gradient is only right if `log_probs` comes from
    `log_softmax`.  A training step with this loss can be captured if the lengths are arrays and
    targets (N, S): for 1-D targets the host reads `target_lengths`.

    Raises ValueError if shapes do not fit, TypeError if labels are not integers, and IndexError if
    labels or lengths are out of range (on a device, when a value is next read).
    A. Graves et al., ICML 2006.

    >>> import numpy as np
    >>> import gpuprop.functional as F
    >>> log_probs = np.log(np.full((2, 1, 3), 1 / 3))
    >>> loss = F.ctc_loss(log_probs, np.array([[1]]), (2,), (1,), reduction="sum")
    >>> round(float(np.exp(-loss)), 4)  # 3 of the 9 sequences of 2 classes: 1 1, 0 1 and 1 0
    0.3333
    """
    if log_probs.ndim not in (2, 3):
        raise ValueError(
            f"ctc_loss: log_probs must be (T, N, C) or (T, C), got shape {log_probs.shape}")
    if targets.dtype.kind not in "iu":
        raise TypeError(f"ctc_loss: targets must hold integer labels, got {targets.dtype.name}")
    classes = log_probs.shape[-1]
    if not 0 <= blank < classes:
        raise ValueError(f"ctc_loss: blank out of range: expected 0 <= blank < {classes}, got "
                         f"{blank}")
    is_single = log_probs.ndim == 2
    if is_single:
        log_probs = log_probs[:, None]
        targets = targets.reshape(1, targets.size)
    n = log_probs.shape[1]
    input_lengths_array = lengths_as_array("input_lengths", input_lengths, log_probs)
    target_lengths_array = lengths_as_array("target_lengths", target_lengths, log_probs)
    if targets.ndim == 1:
        targets = pad_targets(targets, asnumpy(target_lengths))
    if targets.ndim != 2 or len(targets) != n:
        raise ValueError(f"ctc_loss: targets must be ({n}, S) for {n} samples, or 1-D, got shape "
                         f"{targets.shape}")
    loss = ctc_nll(log_probs, targets, input_lengths_array, target_lengths_array, blank,
                   zero_infinity)
    if reduction == "mean":
        loss = loss / maximum(target_lengths_array, 1).astype(loss.dtype)
    loss = reduce_loss(loss, None, reduction)
    return loss[0] if is_single and reduction == "none" else loss


def lengths_as_array(name: str, lengths: Any, log_probs: Any) -> Any:
    """The lengths as an int64 array (N,) on the device of `log_probs`."""
    n = log_probs.shape[1]
    if hasattr(lengths, "shape"):
        array = raw(lengths)
    else:
        on_host = np.asarray(lengths, None if np.size(lengths) else "int64")
        array = backend_of(raw(log_probs)).asarray(on_host)
    if array.dtype.kind not in "iu" or array.size != n or array.ndim > 1:
        raise ValueError(f"ctc_loss: {name} must hold {n} integers, one per sample, got "
                         f"{array.dtype.name} of shape {array.shape}")
    return array.reshape(n).astype("int64", copy=False)  # narrow types overflow at twice the length


def pad_targets(targets: Any, lengths: np.ndarray) -> Any:
    """Concatenated targets as a padded array: (sum of lengths,) -> (N, longest)."""
    if lengths.sum() != len(targets):
        raise ValueError(f"ctc_loss: the sum of target_lengths is {lengths.sum()}, but there are "
                         f"{len(targets)} targets")
    lengths = lengths.astype(np.int64)
    longest = lengths.max(initial=0)
    index = (lengths.cumsum() - lengths)[:, None] + np.arange(longest)
    index = np.minimum(index, len(targets) - 1)
    return take(targets, backend_of(raw(targets)).asarray(index), 0)
