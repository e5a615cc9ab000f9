"""The steps of an LSTM in float32, compiled by Numba.

A task computes all steps of a few sequences, so that threads need not wait for each other at each
step.  The sums of a row are those of one tile, whatever the other rows are, so that results do not
depend on the tasks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpuprop_numpy import compiled
from gpuprop_numpy.elementary import elementary
from gpuprop_numpy.microkernels import microkernels
from gpuprop_numpy.product_loops import packing
from gpuprop_numpy.threads import in_threads

FLOAT32 = np.dtype(np.float32)
ROWS = 16  # sequences of a task: two tiles of the processors with 32 registers
MIN_UNITS = 48  # fewer do not fill a tile
MIN_WORK = 1 << 22  # multiplications of all steps; nobody should wait for Numba to compile


def is_faster(gates: np.ndarray, weight: np.ndarray) -> bool:
    """Whether `lstm` supports the arrays and is faster than NumPy's version."""
    return (gates.dtype == np.float32 and weight.shape[1] >= MIN_UNITS
            and gates.shape[1] * weight.size >= MIN_WORK and compiled.njit() is not None)


def lstm(gates: np.ndarray, states: Sequence, weight: np.ndarray, bias_ih: Any, bias_hh: Any,
         steps: Sequence[slice]) -> tuple:
    """`recurrent.lstm`."""
    loops = lstm_loops()
    h, c = (np.array(s, order="C") for s in states)
    bias = np.zeros(len(weight), gates.dtype) if bias_ih is None else bias_ih + bias_hh
    output, tanh_c, h_before, c_before = np.empty((4, *gates.shape[1:]), gates.dtype)
    bounds = np.array([[rows.start, rows.stop] for rows in steps])
    matrix = np.array(weight, order="C")
    firsts = range(0, len(h), ROWS)
    in_threads(lambda first: loops.forward(
        gates, h, c, matrix, bias, bounds, output, tanh_c, h_before, c_before, first), firsts)

    def backward(grads: Sequence) -> tuple:
        doutput, dh, dc = (np.array(d, order="C") for d in grads)
        doutput = doutput.reshape(output.shape)
        d = np.empty((len(output), len(weight)), output.dtype)
        matrix = np.array(weight, order="C")
        in_threads(lambda first: loops.backward(
            gates, tanh_c, c_before, matrix, bounds, doutput, dh, dc, d, first), firsts)
        return d, d, (dh, dc)

    return output, (h, c), h_before, backward


class LstmLoops(NamedTuple):
    forward: Callable
    backward: Callable


@functools.cache
def lstm_loops() -> LstmLoops:
    """``forward(gates, h, c, ..., first)`` and ``backward(gates, ..., first)``.

    They compute the ROWS sequences from `first` on.  `bounds` are the rows of each step, in the
    order of the steps.
    """
    kernels = microkernels(FLOAT32)
    rows, columns = kernels.rows, kernels.columns
    *_, tile = kernels.tiles
    pack, _ = packing(FLOAT32)
    _, _, sigmoid, tanh = elementary()
    decorate = compiled.njit()
    assert decorate is not None  # see `is_faster`

    @decorate
    def packed(matrix: Any) -> Any:
        """Panels of columns, which the tiles of all steps read in order; the last two overlap."""
        terms, n = matrix.shape
        panels = np.empty(((n + columns - 1) // columns, terms, columns), np.float32)
        term_step, step = matrix.strides
        for i in range(len(panels)):
            column = min(i * columns, n - columns)
            pack(matrix[:, column:].ctypes.data, step, term_step, columns, terms,
                 panels[i].ctypes.data, columns)
        return panels

    @decorate
    def product(a: Any, panels: Any, start: Any, out: Any) -> None:
        """``out = start + a @ matrix`` for ROWS rows; `start` is one row."""
        n, terms = out.shape[1], panels.shape[1]
        for i in range(len(panels)):
            column = min(i * columns, n - columns)
            for row in range(0, ROWS, rows):
                tile(a[row:].ctypes.data, terms, 1, panels[i].ctypes.data, terms,
                     start[column:].ctypes.data, 0, out[row, column:].ctypes.data, n)

    @decorate
    def put(to: Any, source: Any) -> None:
        """``to[:] = source``, which Numba compiles faster than that."""
        for j in range(to.size):
            to[j] = source[j]

    @decorate
    def activate(x: Any, y: Any, k: Any) -> None:
        """``x += y``, and the activation of gate k."""
        for j in range(x.size):
            total = x[j] + y[j]
            x[j] = tanh(total) if k == 2 else sigmoid(total)

    @decorate
    def update(i: Any, f: Any, g: Any, o: Any, c: Any, t: Any, h: Any) -> None:
        for j in range(c.size):
            c[j] = c[j] * f[j] + i[j] * g[j]
        for j in range(c.size):
            t[j] = tanh(c[j])
        for j in range(c.size):
            h[j] = o[j] * t[j]

    @decorate
    def forward(gates: Any, h: Any, c: Any, weight: Any, bias: Any, bounds: Any, output: Any,
                tanh_c: Any, h_before: Any, c_before: Any, first: Any) -> None:
        units = h.shape[1]
        panels = packed(weight.T)
        hidden = np.zeros((ROWS, units), np.float32)
        products = np.empty((ROWS, 4 * units), np.float32)
        count = min(ROWS, len(h) - first)
        for r in range(count):
            put(hidden[r], h[first + r])
        for start, end in bounds:
            product(hidden, panels, bias, products)
            for r in range(min(count, end - start - first)):
                row = start + first + r
                put(h_before[row], hidden[r])
                put(c_before[row], c[first + r])
                for k in range(4):
                    activate(gates[k, row], products[r, k * units:], k)
                update(gates[0, row], gates[1, row], gates[2, row], gates[3, row], c[first + r],
                       tanh_c[row], hidden[r])
                put(output[row], hidden[r])
        for r in range(count):
            put(h[first + r], hidden[r])

    @decorate
    def backward(gates: Any, tanh_c: Any, c_before: Any, weight: Any, bounds: Any, doutput: Any,
                 dh: Any, dc: Any, d: Any, first: Any) -> None:
        units = dh.shape[1]
        panels, zeros = packed(weight), np.zeros(units, np.float32)
        before = np.empty((ROWS, units), np.float32)
        grads = np.zeros((ROWS, len(weight)), np.float32)
        for start, end in bounds[::-1]:
            count = min(ROWS, end - start - first)
            for r in range(count):
                row = start + first + r
                i, f, g, o = gates[0, row], gates[1, row], gates[2, row], gates[3, row]
                di, df, dg, do = (grads[r, :units], grads[r, units:2 * units],
                                  grads[r, 2 * units:3 * units], grads[r, 3 * units:])
                t, before_c, dcell = tanh_c[row], c_before[row], dc[first + r]
                hidden, doutput_r = dh[first + r], doutput[row]
                for j in range(units):
                    hidden[j] += doutput_r[j]
                for j in range(units):
                    dt = hidden[j] * o[j]
                    do[j] = dt * t[j] * (np.float32(1) - o[j])
                    dcell[j] += dt - dt * t[j] * t[j]
                for j in range(units):
                    di[j] = dcell[j] * i[j] * g[j] * (np.float32(1) - i[j])
                    dg[j] = dcell[j] * i[j] * (np.float32(1) - g[j] * g[j])
                for j in range(units):
                    dcell[j] *= f[j]
                    df[j] = dcell[j] * before_c[j] * (np.float32(1) - f[j])
                put(d[row], grads[r])
            if count > 0:
                product(grads, panels, zeros, before)
            for r in range(count):
                put(dh[first + r], before[r])

    return LstmLoops(compiled.Loop(forward), compiled.Loop(backward))
