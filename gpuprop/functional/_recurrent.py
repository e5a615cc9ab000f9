"""Recurrent layers: three cells, the scan that runs any of them along sequences, and batches of several lengths.

Sequences are packed: the rows of all at step 0, then those at step 1, and so on, the longest sequence first in each, so
that ``sizes[t]`` rows are there at step t.  A batch of one length is one of equal sizes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

from gpuprop._array.scatter import pad_with
from gpuprop._core.dtypes import widened
from gpuprop._core.ops import linear_op, op
from gpuprop._core.pointwise import pointwise
from gpuprop._core.signature import Array
from gpuprop.functional._checks import check_dtypes

# ---- cells ----------------------------------------------------------------------------------------------------------
# A cell is one step: of the input's part x of the gates, the state's part g, both (n, gates * H), and the state h, for
# some also c, it makes the new state, and the pullback of that: the gradients of x and of g, and what of those of h and
# c does not come by way of g.


@pointwise
def tanh_forward(xp, x, g):
    return xp.tanh(x + g)


@pointwise
def tanh_backward(xp, dh, h):
    return dh * (1 - h * h)


@pointwise
def relu_forward(xp, x, g):
    return xp.maximum(x + g, 0)


@pointwise
def relu_backward(xp, dh, h):
    return dh * (h > 0)


def elman(forward: Callable, backward: Callable) -> Callable:
    """``h = f(x + g)``, where the value of f tells its gradient.  J. L. Elman, Cognitive Science 14 (1990)."""

    def step(xp, x, g, _):
        h = forward(xp, x, g)

        def back(dh):
            d = backward(xp, dh, h)
            return d, d, None

        return (h,), back

    return step


@pointwise
def gru_forward(xp, x_r, x_z, x_n, g_r, g_z, g_n, h):
    r, z = xp.sigmoid(x_r + g_r), xp.sigmoid(x_z + g_z)
    n = xp.tanh(x_n + r * g_n)
    return n + z * (h - n), r, z, n


@pointwise
def gru_backward(xp, dh, r, z, n, g_n, h):
    dn = dh * (1 - z) * (1 - n * n)
    return dn * g_n * r * (1 - r), dh * (h - n) * z * (1 - z), dn, dn * r, dh * z


def gru(xp, x, g, h):
    """Gates reset, update and new.  K. Cho et al., EMNLP 2014; the reset gate after the product, as cuDNN has it."""
    *_, g_n = parts = blocks(g, 3)
    new, *gates = gru_forward(xp, *blocks(x, 3), *parts, h)

    def back(dh):
        dr, dz, dn, dg_n, direct = gru_backward(xp, dh, *gates, g_n, h)
        return xp.concatenate([dr, dz, dn], axis=1), xp.concatenate([dr, dz, dg_n], axis=1), direct

    return (new,), back


@pointwise
def lstm_forward(xp, i, f, g, o, c):
    i, f, g, o = xp.sigmoid(i), xp.sigmoid(f), xp.tanh(g), xp.sigmoid(o)
    c = f * c + i * g
    t = xp.tanh(c)
    return o * t, c, i, f, g, o, t


@pointwise
def lstm_backward(xp, dh, dc, i, f, g, o, t, c):
    dc = dc + dh * o * (1 - t * t)
    return dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g * g), dh * t * o * (1 - o), dc * f


def lstm(xp, x, g, _, c):
    """Gates input, forget, cell and output.  S. Hochreiter and J. Schmidhuber, 1997; F. A. Gers et al., 2000."""
    h, new, *gates = lstm_forward(xp, *blocks(x + g, 4), c)

    def back(dh, dc):
        *d, dc = lstm_backward(xp, dh, dc, *gates, c)
        d = xp.concatenate(d, axis=1)
        return d, d, None, dc

    return (h, new), back


def blocks(a, n):
    """The gates, side by side in the rows of `a`."""
    width = a.shape[1] // n
    return [a[:, i * width:(i + 1) * width] for i in range(n)]


class Cell(NamedTuple):
    """A cell's step, how many gates it has and states it carries, and whether it needs g apart from x."""

    step: Callable
    gates: int
    states: int = 1
    apart: bool = False


CELLS = {"RNN_TANH": Cell(elman(tanh_forward, tanh_backward), 1),
         "RNN_RELU": Cell(elman(relu_forward, relu_backward), 1),
         "LSTM": Cell(lstm, 4, states=2),
         "GRU": Cell(gru, 3, apart=True)}

# ---- along sequences ------------------------------------------------------------------------------------------------


class Swept(NamedTuple):
    """Gradients of a scan, in all rows: of the gates' two parts and of the output; and of the first states."""

    x: Any
    g: Any
    y: Any
    states: list


@op(precision="low")
def scan(xp, input: Array, h: Array, c: Array, weight_ih: Array, weight_hh: Array, bias_ih: Array = None,
         bias_hh: Array = None, weight_hr: Array = None, mode="LSTM", sizes=(), reverse=False):
    """One layer in one direction: rows (R, I), states (N, P) and (N, H) -> rows (R, P) and the last states.

    The rows are packed; they may be (T, N, I) where all steps have N.  `weight_hr` (P, H) projects an LSTM's output;
    without it P is H.  A sequence that has ended, or in `reverse` has not begun, keeps its state.
    """
    check_dtypes(mode, input, weight_ih, weight_hh, bias_ih, bias_hh, weight_hr)
    for state in (h, c):
        if state is not None and state.dtype != input.dtype:
            raise TypeError(f"{mode}: input is {input.dtype.name}, and a state in hx {state.dtype.name}")
    cell, steps = CELLS[mode], spans(sizes)[::-1 if reverse else 1]
    run, apart = cell.step, cell.apart and bias_hh is not None
    in_time = lambda parts: xp.concatenate(parts[::-1] if reverse else parts)
    lead, rows_of = input.shape[:-1], lambda a: a.reshape(sum(sizes), a.shape[-1])
    x, by_state = xp.matmul(rows_of(input), weight_ih.T), row_by_row(weight_hh.T)
    if bias_ih is not None:
        x += bias_ih if apart else bias_ih + bias_hh  # at all steps at once
    states, done = [h] if c is None else [h, c], []
    for rows in steps:
        before, *others = [s[:rows.stop - rows.start] for s in states]
        g = xp.matmul(before, by_state)
        if apart:
            g += bias_hh
        (made, *others), back = run(xp, x[rows], g, before, *others)
        y = made if weight_hr is None else xp.matmul(made, weight_hr.T)
        states = [replaced(xp, old, new) for old, new in zip(states, [y, *others], strict=True)]
        done.append((y, made, before, back))
    ys, mades, befores, backs = zip(*done, strict=True)

    def sweep(d):
        dy, dstates, done = rows_of(d[0]), d[1:], []
        for rows, back in zip(steps[::-1], backs[::-1], strict=True):
            dh, *others = [s[:rows.stop - rows.start] for s in dstates]
            dh = dh + dy[rows]
            dx, dg, direct, *others = back(dh if weight_hr is None else xp.matmul(dh, weight_hr), *others)
            dbefore = xp.matmul(dg, weight_hh)
            if direct is not None:
                dbefore += direct
            dstates = [replaced(xp, old, new) for old, new in zip(dstates, [dbefore, *others], strict=True)]
            done.append((dx, dg, dh))
        dxs, dgs, dys = zip(*done[::-1], strict=True)
        dx = in_time(dxs)
        dg = in_time(dgs) if cell.apart else dx
        return Swept(dx, dg, None if weight_hr is None else in_time(dys), dstates)

    swept, total = once(sweep), once(lambda d: widened(d).sum(axis=0))
    y = in_time(ys)
    return (y.reshape(*lead, y.shape[1]), *states), (
        lambda d: xp.matmul(swept(d).x, weight_ih).reshape(input.shape),
        lambda d: swept(d).states[0],
        lambda d: swept(d).states[1],
        lambda d: xp.matmul(swept(d).x.T, rows_of(input)),
        lambda d: xp.matmul(swept(d).g.T, in_time(befores)),
        lambda d: total(swept(d).x),
        lambda d: total(swept(d).g),
        lambda d: xp.matmul(swept(d).y.T, in_time(mades)))


def spans(sizes):
    """Where each step's rows lie among all."""
    return [slice(end - n, end) for n, end in zip(sizes, itertools.accumulate(sizes), strict=True)]


def row_by_row(a):
    """The same matrix, its rows together in memory: products with a transposed one are slower."""
    return a.reshape(-1).reshape(a.shape)


def replaced(xp, old, new):
    """`new` in place of the first rows of `old`."""
    return new if len(new) == len(old) else xp.concatenate([new, old[len(new):]])


def once(f: Callable) -> Callable:
    """`f`, computed again only for another argument than the last: what pullbacks share."""
    last: list = [None, None]

    def call(d: Any) -> Any:
        if last[0] is not d:
            last[:] = d, f(d)
        return last[1]

    return call


# ---- sequences of several lengths -----------------------------------------------------------------------------------


def unpacked(xp, d, shape, sizes):
    return unpack.on(xp, d, sizes=sizes, total=shape[0])


@linear_op(unpacked)
def pack(xp, padded: Array, sizes):
    """The first ``sizes[t]`` rows of step t, one step after the other: (T, N, ...) -> (sum of sizes, ...)."""
    return xp.concatenate([padded[t, :n] for t, n in enumerate(sizes)])


@linear_op(lambda xp, d, _, sizes, total, value=0.0: pack.on(xp, d, sizes=sizes))
def unpack(xp, packed: Array, sizes, total, value=0.0):
    """Packed rows where they were, among rows full of `value`: (sum of sizes, ...) -> (total, sizes[0], ...)."""
    out = xp.full((total, sizes[0], *packed.shape[1:]), value, packed.dtype)
    for t, rows in enumerate(spans(sizes)):
        out[t, :sizes[t]] = packed[rows]
    return out


@op(half="exact")
def stack_padded(xp, *sequences: Array, batch_first=False, value=0.0, left=False):
    """Sequences (L, ...) of several lengths beside each other, with `value` after the end, or before the start."""
    longest = max(len(s) for s in sequences)
    gaps = [((longest - len(s)) * left, (longest - len(s)) * (not left)) for s in sequences]
    padded = [pad_with.on(xp, s, widths=(gap, *((0, 0),) * (s.ndim - 1)), value=value)
              for s, gap in zip(sequences, gaps, strict=True)]

    def cut(i, gap):
        rows = slice(gap[0], longest - gap[1])
        return lambda d: d[i, rows] if batch_first else d[rows, i]

    return xp.stack(padded, axis=0 if batch_first else 1), tuple(itertools.starmap(cut, enumerate(gaps)))
