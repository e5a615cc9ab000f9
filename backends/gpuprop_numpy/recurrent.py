"""The override of `scan` for the CPU: LSTM and GRU that write all steps into a few arrays.

Activations are (gates, rows, H): those of one gate at one step are contiguous, and one call
computes neighbouring gates.  The gradients of pre-activations are (rows, gates * H), as matrix
products need them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpuprop.backend import cache_last, definition
from gpuprop_numpy import lstm_loops
from gpuprop_numpy.products import has_small_products, product

BLOCK = 32  # columns of a block of weights
MIN_ROWS, MAX_ROWS = 1 << 11, 1 << 14  # elements of the rows, between which blocks are faster


def scan(xp: Any, input: Any, h: Any, c: Any, weight_ih: Any, weight_hh: Any, bias_ih: Any = None,
         bias_hh: Any = None, weight_hr: Any = None, mode: Any = "LSTM", sizes: Any = (),
         reverse: Any = False) -> tuple:
    """The override; the definition computes other cells, projections and half types."""
    arrays = [a for a in (input, h, c, weight_ih, weight_hh, bias_ih, bias_hh) if a is not None]
    one_dtype = len({a.dtype for a in arrays}) == 1 and input.itemsize > 2
    if mode not in CELLS or weight_hr is not None or not one_dtype:
        return definition("gpuprop.functional:scan")(
            xp, input, h, c, weight_ih, weight_hh, bias_ih, bias_hh, weight_hr, mode=mode,
            sizes=sizes, reverse=reverse)
    rows = input.reshape(sum(sizes), input.shape[-1])
    width = weight_hh.shape[1]
    weights = weight_ih.reshape(-1, width, weight_ih.shape[1])
    gates = product(np.broadcast_to(rows, (len(weights), *rows.shape)), weights.swapaxes(1, 2))
    steps = [slice(end - n, end)
             for n, end in zip(sizes, itertools.accumulate(sizes), strict=True)]
    states = [h] if c is None else [h, c]
    is_compiled = mode == "LSTM" and lstm_loops.is_faster(gates, weight_hh)
    cell = lstm_loops.lstm if is_compiled else CELLS[mode]
    output, last, h_before, backward = cell(
        gates, states, weight_hh, bias_ih, bias_hh, steps[::-1] if reverse else steps)

    # (dx, dg, dstates): the gradients of the input's part of the pre-activations, of the hidden
    # part and of the states
    backward = cache_last(backward)
    sum_rows = cache_last(lambda d: product(np.ones(len(d), d.dtype), d))
    return (output.reshape(*input.shape[:-1], width), *last), (
        lambda d: product(backward(d)[0], weight_ih).reshape(input.shape),
        lambda d: backward(d)[2][0],
        lambda d: backward(d)[2][1],
        lambda d: product(backward(d)[0].T, rows),
        lambda d: product(backward(d)[1].T, h_before),
        lambda d: sum_rows(backward(d)[0]),
        lambda d: sum_rows(backward(d)[1]),
        None)


# ---- cells ---------------------------------------------------------------------------------------
# A cell turns the input's part of the pre-activations into activations, in place, and returns
# (output, last states, h before each step, backward).  h[:n] belongs to the sequences that have a
# step.  Few temporaries are made, because they would take the place of the weights in the cache.


def lstm(gates: np.ndarray, states: Sequence, weight: np.ndarray, bias_ih: Any, bias_hh: Any,
         steps: Sequence[slice]) -> tuple:
    """Gates: input, forget, cell, output."""
    h, c = (s.copy() for s in states)
    product = RowsTimes(weight.T, 1, len(h))
    bias = 0 if bias_ih is None else bias_ih + bias_hh
    output, tanh_c, h_before, c_before = np.empty((4, *gates.shape[1:]), gates.dtype)
    with np.errstate(over="ignore"):  # of `sigmoid`
        for rows in steps:
            at = gates[:, rows]
            i, f, g, o = at
            h_n, c_n = h[:len(i)], c[:len(i)]
            h_before[rows] = h_n
            c_before[rows] = c_n
            hidden = product(h_n)
            hidden += bias
            at += split(hidden, 4)
            sigmoid(at[:2])
            np.tanh(g, out=g)
            sigmoid(o)
            c_n *= f
            c_n += i * g
            t = np.tanh(c_n, out=tanh_c[rows])
            h_n[...] = np.multiply(o, t, out=output[rows])

    def backward(grads: Sequence) -> tuple:
        doutput, dh, dc = grads
        doutput = doutput.reshape(output.shape)
        dh, dc = dh.copy(), dc.copy()
        product = RowsTimes(weight, 4, len(dh))
        d = np.empty((len(output), len(weight)), output.dtype)
        for rows in reversed(steps):
            i, f, g, o = gates[:, rows]
            t = tanh_c[rows]
            di, df, dg, do = split(d[rows], 4)
            dh_n, dc_n = dh[:len(i)], dc[:len(i)]
            dh_n += doutput[rows]
            dt = dh_n * o
            dt_t = dt * t
            np.multiply(dt_t, 1 - o, out=do)
            dt_t *= t
            dc_n += dt
            dc_n -= dt_t
            dc_i = dc_n * i
            np.multiply(dc_i, 1 - g * g, out=dg)
            dc_i *= g
            np.multiply(dc_i, 1 - i, out=di)
            dc_n *= f
            np.multiply(dc_n * c_before[rows], 1 - f, out=df)
            product(d[rows], out=dh_n)
        return d, d, (dh, dc)

    return output, (h, c), h_before, backward


def gru(gates: np.ndarray, states: Sequence, weight: np.ndarray, bias_ih: Any, bias_hh: Any,
        steps: Sequence[slice]) -> tuple:
    """Gates: reset, update, new."""
    h = states[0].copy()
    product = RowsTimes(weight.T, 1, len(h))
    if bias_ih is not None:
        gates += bias_ih.reshape(3, 1, -1)
    bias = 0 if bias_hh is None else bias_hh
    output, hidden_n, h_before = np.empty((3, *gates.shape[1:]), gates.dtype)
    with np.errstate(over="ignore"):  # of `sigmoid`
        for rows in steps:
            at = gates[:, rows]
            r, z, n = at
            h_n = h[:len(r)]
            h_before[rows] = h_n
            hidden = product(h_n)
            hidden += bias
            hidden = split(hidden, 3)
            at[:2] += hidden[:2]
            sigmoid(at[:2])
            hidden_n[rows] = hidden[2]
            n += r * hidden[2]
            np.tanh(n, out=n)
            h_n -= n
            h_n *= z
            h_n += n
            output[rows] = h_n

    def backward(grads: Sequence) -> tuple:
        doutput, dh = grads
        doutput = doutput.reshape(output.shape)
        dh = dh.copy()
        product = RowsTimes(weight, 3, len(dh))
        dx, dg = np.empty((2, len(output), len(weight)), output.dtype)
        for rows in reversed(steps):
            r, z, n = gates[:, rows]
            dr, dz, dn = split(dx[rows], 3)
            dh_n = dh[:len(r)]
            dh_n += doutput[rows]
            dh_z = dh_n * z
            np.multiply(dh_n - dh_z, 1 - n * n, out=dn)
            np.multiply(dh_z * (h_before[rows] - n), 1 - z, out=dz)
            dn_r = dn * r
            np.multiply(dn_r * hidden_n[rows], 1 - r, out=dr)
            dg[rows] = dx[rows]
            split(dg[rows], 3)[2] = dn_r
            product(dg[rows], out=dh_n)
            dh_n += dh_z
        return dx, dg, (dh,)

    return output, (h,), h_before, backward


CELLS = {"LSTM": lstm, "GRU": gru}


def sigmoid(a: np.ndarray) -> None:
    """``1 / (1 + exp(-a))``, in place; where exp overflows, the result is 0, which is correct."""
    np.multiply(a, -1, out=a)  # np.negative in place is wrong for some strides: NumPy 2.4
    np.exp(a, out=a)
    a += 1
    np.divide(1, a, out=a)


# ---- products ------------------------------------------------------------------------------------


class RowsTimes:
    """The product of at most `n` rows with a matrix, which is the same at all steps.

    OpenBLAS copies the matrix in each product, unless it is small.  So the matrix is cut into
    blocks of BLOCK columns, and of the rows of one of its `parts`, whose products are added.
    """

    def __init__(self, matrix: np.ndarray, parts: int, n: int) -> None:
        k, m = matrix.shape
        self.parts = parts
        self.in_blocks = (has_small_products() and m % BLOCK == 0
                          and MIN_ROWS <= n * k // parts <= MAX_ROWS)
        if self.in_blocks:
            matrix = matrix.reshape(parts, k // parts, m // BLOCK, BLOCK).swapaxes(1, 2)
            self.temporary = np.empty((n, m), matrix.dtype)
        self.matrix = np.ascontiguousarray(matrix)

    def __call__(self, rows: np.ndarray, out: Any = None) -> np.ndarray:
        """``rows @ matrix``; without `out` in an array that the next call may overwrite."""
        if not self.in_blocks:
            y = product(rows, self.matrix)
            if out is None:
                return y
            out[...] = y
            return out
        if out is None:
            out = self.temporary[:len(rows)]
        blocks = split(out, self.matrix.shape[1])
        if self.parts == 1:
            np.matmul(rows, self.matrix[0], out=blocks)
        else:
            np.matmul(split(rows, self.parts)[:, None], self.matrix).sum(0, out=blocks)
        return out


def split(a: np.ndarray, n: int) -> np.ndarray:
    """A view of (rows, n * H) as (n, rows, H)."""
    return a.reshape(len(a), n, a.shape[1] // n).swapaxes(0, 1)
