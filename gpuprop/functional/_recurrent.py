"""Recurrent layers: the cells of RNN, LSTM and GRU, the loop over time, and packed sequences.

Sequences are packed as in PyTorch: the rows of all sequences at step 0, then those at step 1, and
so on, with the longest sequence first.  ``sizes[t]`` is the number of rows at step t; all sizes are
equal in a batch of sequences of one length.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from gpuprop._array.scatter import pad_with
from gpuprop._core.dtypes import widened
from gpuprop._core.ops import cache_last, linear_op, op
from gpuprop._core.pointwise import pointwise
from gpuprop._core.signature import Array
from gpuprop.functional._checks import check_dtypes

# ---- cells --------------------------------------------------------------------------------------
# A cell is a function step(xp, x, g, h[, c]) -> (states, pullback) of one time step.  x and g, both
# (n, gates * H), are the pre-activations that come from the input and from the hidden state.
# pullback(dh[, dc]) returns the gradients of x, of g, of h and, for an LSTM, of c.  The gradient of
# h is the part that does not pass through g, None if there is no such part.


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
    return xp.where(h != 0, dh, 0)


def elman_cell(forward: Callable, backward: Callable) -> Callable:
    """``h = f(x + g)``, with a gradient that depends on h only.

    J. L. Elman, Cognitive Science 14, 1990.
    """

    def step(xp, x, g, _):
        h = forward(xp, x, g)

        def pullback(dh):
            d = backward(xp, dh, h)
            return d, d, None

        return (h,), pullback

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


def gru_cell(xp, x, g, h):
    """Gates: reset, update, new.  The reset gate multiplies the matrix product, as in cuDNN.

    K. Cho et al., EMNLP 2014.
    """
    g_r, g_z, g_n = split_gates(g, 3)
    next_h, *gates = gru_forward(xp, *split_gates(x, 3), g_r, g_z, g_n, h)

    def pullback(dh):
        dr, dz, dn, dg_n, dh = gru_backward(xp, dh, *gates, g_n, h)
        dx = xp.concatenate([dr, dz, dn], axis=1)
        dg = xp.concatenate([dr, dz, dg_n], axis=1)
        return dx, dg, dh

    return (next_h,), pullback


@pointwise
def lstm_forward(xp, i, f, g, o, c):
    i, f, g, o = xp.sigmoid(i), xp.sigmoid(f), xp.tanh(g), xp.sigmoid(o)
    c = f * c + i * g
    t = xp.tanh(c)
    return o * t, c, i, f, g, o, t


@pointwise
def lstm_backward(xp, dh, dc, i, f, g, o, t, c):
    dc = dc + dh * o * (1 - t * t)
    di, df = dc * g * i * (1 - i), dc * c * f * (1 - f)
    dg, do = dc * i * (1 - g * g), dh * t * o * (1 - o)
    return di, df, dg, do, dc * f


def lstm_cell(xp, x, g, _, c):
    """Gates: input, forget, cell, output.

    S. Hochreiter and J. Schmidhuber, 1997; F. A. Gers et al., 2000.
    """
    h, next_c, *gates = lstm_forward(xp, *split_gates(x + g, 4), c)

    def pullback(dh, dc):
        *d, dc = lstm_backward(xp, dh, dc, *gates, c)
        d = xp.concatenate(d, axis=1)
        return d, d, None, dc

    return (h, next_c), pullback


def split_gates(a, n):
    """The `n` blocks of columns of `a`, one for each gate."""
    width = a.shape[1] // n
    return [a[:, i * width:(i + 1) * width] for i in range(n)]


class Cell(NamedTuple):
    """A step function and its properties."""

    step: Callable
    gates: int
    states: int = 1
    separate_gates: bool = False  # True if the gradients of x and g differ


CELLS = {
    "RNN_TANH": Cell(elman_cell(tanh_forward, tanh_backward), gates=1),
    "RNN_RELU": Cell(elman_cell(relu_forward, relu_backward), gates=1),
    "LSTM": Cell(lstm_cell, gates=4, states=2),
    "GRU": Cell(gru_cell, gates=3, separate_gates=True),
}

# ---- the loop over time -------------------------------------------------------------------------


@op(precision="low", name="rnn")
def scan(xp, input: Array, h: Array, c: Array | None, weight_ih: Array, weight_hh: Array,
         bias_ih: Array = None, bias_hh: Array = None, weight_hr: Array = None, mode="LSTM",
         sizes=(), reverse=False):
    """One recurrent layer in one direction: (output, last h[, last c]).

    The input is packed (R, I), or (T, N, I) if all steps have N rows.  The states are h (N, P) and,
    for an LSTM only, c (N, H).  The output has P features.  `weight_hr` (P, H) projects the output
    of an LSTM; without it P is H.  A sequence keeps its state after its end, and with `reverse`
    before its beginning.
    """
    check_dtypes(mode, input, weight_ih, weight_hh, bias_ih, bias_hh, weight_hr)
    check_state_dtypes(mode, input, h, c)
    cell = CELLS[mode]
    steps = step_slices(sizes)[::-1 if reverse else 1]
    as_rows = lambda a: a.reshape(sum(sizes), a.shape[-1])
    join_steps = lambda parts: xp.concatenate(parts[::-1] if reverse else parts)

    x = input_gates(xp, cell, as_rows(input), weight_ih, bias_ih, bias_hh)
    states = [h] if c is None else [h, c]
    forward = forward_sweep(xp, cell, x, states, weight_hh, bias_hh, weight_hr, steps)
    output = join_steps(forward.outputs)
    output = output.reshape(*input.shape[:-1], output.shape[1])

    def backward_pass(d):
        doutput, *dstates = d
        return backward_sweep(xp, cell, as_rows(doutput), dstates, forward.pullbacks, weight_hh,
                              weight_hr, steps, join_steps)

    backward = cache_last(backward_pass)
    sum_rows = cache_last(lambda d: widened(d).sum(axis=0))  # often dx is dg
    return (output, *forward.states), (
        lambda d: xp.matmul(backward(d).dx, weight_ih).reshape(input.shape),
        lambda d: backward(d).dstates[0],
        lambda d: backward(d).dstates[1],
        lambda d: xp.matmul(backward(d).dx.T, as_rows(input)),
        lambda d: xp.matmul(backward(d).dg.T, join_steps(forward.previous)),
        lambda d: sum_rows(backward(d).dx),
        lambda d: sum_rows(backward(d).dg),
        lambda d: xp.matmul(backward(d).doutputs.T, join_steps(forward.hidden)))


def check_state_dtypes(mode, input, h, c):
    """Raise TypeError for a state of another dtype than the input."""
    for state in (h, c):
        if state is not None and state.dtype != input.dtype:
            raise TypeError(
                f"{mode}: input is {input.dtype.name}, but a state in hx is {state.dtype.name}: "
                f"use one dtype")


def input_gates(xp, cell, rows, weight_ih, bias_ih, bias_hh):
    """The input's part of the pre-activations of all steps, in one product.

    It includes `bias_hh`, unless the cell needs the hidden part of the pre-activations separately.
    """
    x = xp.matmul(rows, weight_ih.T)
    if bias_ih is not None:
        x += bias_ih if cell.separate_gates else bias_ih + bias_hh
    return x


class Forward(NamedTuple):
    """Results of `forward_sweep`: sequences have one item per step, in the order of computation."""

    outputs: Sequence  # h, projected by weight_hr
    hidden: Sequence  # h before the projection
    previous: Sequence  # h before the step
    pullbacks: Sequence  # of the cell
    states: list  # after the last step


def forward_sweep(xp, cell, x, states, weight_hh, bias_hh, weight_hr, steps):
    """Run the cell over `steps`, slices of the rows of `x`."""
    weight = contiguous(weight_hh.T)
    results = []
    for rows in steps:
        n = rows.stop - rows.start
        previous, *others = [s[:n] for s in states]
        g = xp.matmul(previous, weight)
        if cell.separate_gates and bias_hh is not None:
            g += bias_hh
        (hidden, *others), pullback = cell.step(xp, x[rows], g, previous, *others)
        output = hidden if weight_hr is None else xp.matmul(hidden, weight_hr.T)
        states = replace_first_rows(xp, states, [output, *others])
        results.append((output, hidden, previous, pullback))
    return Forward(*zip(*results, strict=True), states)


class Backward(NamedTuple):
    """Gradients of a scan, of x, g and the output for all rows, and of the initial states."""

    dx: Any
    dg: Any
    doutputs: Any  # None without weight_hr
    dstates: list


def backward_sweep(xp, cell, doutput, dstates, pullbacks, weight_hh, weight_hr, steps, join_steps):
    """Backpropagate through time."""
    results = []
    for rows, pullback in zip(steps[::-1], pullbacks[::-1], strict=True):
        n = rows.stop - rows.start
        dh, *others = [s[:n] for s in dstates]
        dh = dh + doutput[rows]
        dhidden = dh if weight_hr is None else xp.matmul(dh, weight_hr)
        dx, dg, direct, *others = pullback(dhidden, *others)
        dprevious = xp.matmul(dg, weight_hh)
        if direct is not None:
            dprevious += direct
        dstates = replace_first_rows(xp, dstates, [dprevious, *others])
        results.append((dx, dg, dh))
    dxs, dgs, dhs = zip(*results[::-1], strict=True)
    dx = join_steps(dxs)
    dg = join_steps(dgs) if cell.separate_gates else dx
    return Backward(dx, dg, None if weight_hr is None else join_steps(dhs), dstates)


def step_slices(sizes):
    """The slice of rows of each step."""
    return [slice(end - n, end) for n, end in zip(sizes, itertools.accumulate(sizes), strict=True)]


def contiguous(a):
    """`a` in C order, since products with a transposed matrix are slower."""
    return a.reshape(-1).reshape(a.shape)  # reshape(-1) copies an array in another order


def replace_first_rows(xp, states, updates):
    """Each state with its first rows replaced by those of its update."""
    return [new if len(new) == len(old) else xp.concatenate([new, old[len(new):]])
            for old, new in zip(states, updates, strict=True)]


# ---- packed and padded sequences ---------------------------------------------------------------


def pack_adjoint(xp, d, shape, sizes):
    return unpack.on(xp, d, sizes=sizes, total=shape[0])


@linear_op(pack_adjoint)
def pack(xp, padded: Array, sizes):
    """The first ``sizes[t]`` rows of each step t: (T, N, ...) -> (sum of sizes, ...)."""
    return xp.concatenate([padded[t, :n] for t, n in enumerate(sizes)])


@linear_op(lambda xp, d, _, sizes, total, value=0.0: pack.on(xp, d, sizes=sizes))
def unpack(xp, packed: Array, sizes, total, value=0.0):
    """Undo `pack`, padding with `value`: (sum of sizes, ...) -> (total, sizes[0], ...)."""
    out = xp.full((total, sizes[0], *packed.shape[1:]), value, packed.dtype)
    for t, rows in enumerate(step_slices(sizes)):
        out[t, :sizes[t]] = packed[rows]
    return out


@op(promote=True, half="exact", name="pad_sequence")
def stack_padded(xp, *sequences: Array, batch_first=False, value=0.0, left=False):
    """Stack sequences (L, ...), padded with `value` to the length of the longest."""
    longest = max(len(s) for s in sequences)
    gaps = [longest - len(s) for s in sequences]
    widths = [(gap, 0) if left else (0, gap) for gap in gaps]
    padded = [pad_with.on(xp, s, widths=(width, *((0, 0),) * (s.ndim - 1)), value=value)
              for s, width in zip(sequences, widths, strict=True)]

    def sequence_grad(i, before, after):
        rows = slice(before, longest - after)
        return lambda d: d[i, rows] if batch_first else d[rows, i]

    pullbacks = tuple(sequence_grad(i, *width) for i, width in enumerate(widths))
    return xp.stack(padded, axis=0 if batch_first else 1), pullbacks
