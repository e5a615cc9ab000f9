"""Recurrent layers, of whole sequences and of one step."""

from __future__ import annotations

import math
import warnings
from typing import Any

import gpuprop.functional as F
from gpuprop._array.indexing import take
from gpuprop._array.shape import concatenate, stack
from gpuprop._core.graph import raw
from gpuprop._core.namespace import namespace
from gpuprop._core.tensor import Parameter
from gpuprop.functional._recurrent import CELLS, scan
from gpuprop.nn._module import Module
from gpuprop.nn.init import new, uniform_
from gpuprop.nn.utils.rnn import PackedSequence, on_host
from gpuprop.random import Generator

NAMES = "weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr"


class Recurrent(Module):
    """Abstract: a cell with parameters, which start uniform within 1/sqrt(hidden_size)."""

    mode: str  # of `gpuprop.functional.recurrent.CELLS`
    hidden_size: int

    def make(self, suffix: str, inputs: int, outputs: int, bias: bool, device: str | None, dtype: Any) -> None:
        """The parameters of one layer in one direction, without initial values; `outputs` may be a projection's."""
        rows = CELLS[self.mode].gates * self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, inputs), "weight_hh": (rows, outputs)}
        if bias:
            shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
        if outputs != self.hidden_size:
            shapes["weight_hr"] = outputs, self.hidden_size
        for name, shape in shapes.items():
            self.register_parameter(name + suffix, Parameter(new(shape, device, dtype)))

    def reset_parameters(self, rng: Generator | None = None) -> None:
        """Draw the parameters anew."""
        bound = 1 / math.sqrt(self.hidden_size)
        for p in self.parameters():
            uniform_(p, -bound, bound, rng)

    def run(self, suffix: str, rows: Any, states: list, sizes: tuple[int, ...], reverse: bool = False) -> tuple:
        """One layer in one direction: rows and the states before -> rows and the states after."""
        h, c = (*states, None)[:2]
        w_ih, w_hh, b_ih, b_hh, w_hr = (getattr(self, name + suffix, None) for name in NAMES)
        return scan(rows, h, c, w_ih, w_hh, b_ih, b_hh, w_hr, mode=self.mode, sizes=sizes, reverse=reverse)

    def states(self, hx: Any, input: Any, *shapes: tuple[int, ...]) -> list:
        """The states given, of these shapes, or zeros where `input` is; they come alone, or as a pair."""
        if hx is None:
            return [namespace(raw(input)).zeros(shape, input.dtype) for shape in shapes]
        name, given = type(self).__name__, list(hx) if isinstance(hx, tuple | list) else [hx]
        if len(given) != len(shapes):
            raise ValueError(f"{name}: hx is {'one state' if len(shapes) == 1 else 'a pair (h, c)'}, and "
                             f"{len(given)} came")
        for i, (state, shape) in enumerate(zip(given, shapes, strict=True)):
            if state.shape != shape:
                raise ValueError(f"{name}: {'hx' if len(given) == 1 else f'hx[{i}]'} is {shape} for this input, not "
                                 f"{state.shape}")
        return given


def check_types(name: str, kind: type, **given: Any) -> None:
    for word, value in given.items():
        if not isinstance(value, kind):
            raise TypeError(f"{name}: {word} is of type {kind.__name__}, not {type(value).__name__}")


def together(states: list) -> Any:
    """As states are given to the user: alone, or as a pair."""
    return states[0] if len(states) == 1 else tuple(states)


# ---- whole sequences ------------------------------------------------------------------------------------------------


class RNNBase(Recurrent):
    """What RNN, LSTM and GRU have in common; `mode` is "RNN_TANH", "RNN_RELU", "LSTM" or "GRU".

    Input (T, N, input_size), (N, T, input_size) with `batch_first`, (T, input_size) or a `PackedSequence`; states
    (num_layers * directions, N, hidden_size).  `dropout` is a probability, for the output of each layer but the last.
    """

    def __init__(self, mode: str, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True,
                 batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, proj_size: int = 0,
                 device: str | None = None, dtype: Any = None, rng: Generator | None = None) -> None:
        name = type(self).__name__
        if mode not in CELLS:
            raise ValueError(f"{name}: mode is one of {', '.join(CELLS)}, not {mode!r}")
        check_types(name, int, input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        check_types(name, bool, bias=bias, batch_first=batch_first)
        for word, size in ("input_size", input_size), ("hidden_size", hidden_size), ("num_layers", num_layers):
            if size <= 0:
                raise ValueError(f"{name}: {word} is greater than zero, and not {size}")
        if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout <= 1:
            raise ValueError(f"{name}: dropout is a probability, not {dropout!r}")
        if not 0 <= proj_size < hidden_size:
            raise ValueError(f"{name}: proj_size is 0, for none, or less than hidden_size={hidden_size}, and not "
                             f"{proj_size}")
        if proj_size and mode != "LSTM":
            raise ValueError(f"{name}: proj_size is for LSTM only")
        if dropout > 0 and num_layers == 1:
            warnings.warn(f"{name}: dropout={dropout} acts on the output of each layer but the last, and num_layers is "
                          f"1: nothing is dropped", stacklevel=2)
        self.mode, self.input_size, self.hidden_size, self.num_layers = mode, input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout = bias, batch_first, float(dropout)
        self.bidirectional, self.proj_size, self.rng = bidirectional, proj_size, rng
        outputs = proj_size or hidden_size
        for layer, suffix in self._places():
            self.make(suffix, outputs * (1 + bidirectional) if layer else input_size, outputs, bias, device, dtype)
        self.reset_parameters(rng)

    def _places(self) -> list[tuple[int, str]]:
        """Each layer, in each direction: its number, and what the names of its parameters end with."""
        return [(layer, f"_l{layer}{direction}") for layer in range(self.num_layers)
                for direction in ("", "_reverse")[:1 + self.bidirectional]]

    @property
    def all_weights(self) -> list[list[Parameter]]:
        """The parameters, a list for each layer and direction."""
        return [[getattr(self, name + suffix) for name in NAMES if hasattr(self, name + suffix)]
                for _, suffix in self._places()]

    def flatten_parameters(self) -> None:
        """Nothing: where parameters lie in memory is the optimizer's business."""

    def forward(self, input: Any, hx: Any = None) -> Any:
        return (self._packed if isinstance(input, PackedSequence) else self._padded)(input, hx)

    def _packed(self, input: PackedSequence, hx: Any) -> tuple:
        """Of sequences of several lengths."""
        data, batch_sizes, order, inverse = input
        sizes = tuple(on_host("batch_sizes", batch_sizes).tolist())
        descending = [*sizes] == sorted(sizes, reverse=True) and min(sizes, default=-1) >= 0
        if data.ndim != 2 or len(data) != sum(sizes) or not descending:
            raise ValueError(f"{type(self).__name__}: a packed sequence has data ({sum(sizes)}, {self.input_size}) and "
                             f"descending batch_sizes, not data {data.shape} and batch_sizes {sizes}")
        ordered = lambda states, index: states if index is None else [take(s, index, 1) for s in states]
        output, states = self._layers(data, ordered(self._first(hx, data, sizes[0]), order), sizes)
        return PackedSequence(output, batch_sizes, order, inverse), together(ordered(states, inverse))

    def _padded(self, input: Any, hx: Any) -> tuple:
        """Of sequences of one length, or of a single one."""
        if input.ndim not in (2, 3):
            raise ValueError(f"{type(self).__name__}: input has 3 axes, or 2 for a single sequence, not {input.ndim}, "
                             f"as {input.shape} has")
        single = input.ndim == 2
        x = input[:, None] if single else input.swapaxes(0, 1) if self.batch_first else input
        steps, many = x.shape[:2]
        if not steps:
            raise ValueError(f"{type(self).__name__}: input {input.shape} has no steps")
        first = self._first(hx, input, *() if single else (many,))
        output, states = self._layers(x, [h[:, None] for h in first] if single else first, (many,) * steps)
        if single:
            return output[:, 0], together([s[:, 0] for s in states])
        return output.swapaxes(0, 1) if self.batch_first else output, together(states)

    def _first(self, hx: Any, input: Any, *many: int) -> list:
        """The states before the first step."""
        if input.shape[-1] != self.input_size:
            raise ValueError(f"{type(self).__name__}: input {input.shape} has {input.shape[-1]} features, and "
                             f"input_size is {self.input_size}")
        widths = (self.proj_size or self.hidden_size, self.hidden_size)[:CELLS[self.mode].states]
        return self.states(hx, input, *((len(self._places()), *many, width) for width in widths))

    def _layers(self, rows: Any, first: list, sizes: tuple[int, ...]) -> tuple[Any, list]:
        """All layers: rows and the first states -> rows and the last states."""
        outputs, last = [], []  # of a layer in each direction; of all layers
        for i, (layer, suffix) in enumerate(self._places()):
            reverse = suffix.endswith("_reverse")
            output, *states = self.run(suffix, rows, [h[i] for h in first], sizes, reverse)
            last.append(states)
            outputs.append(output)
            if reverse == self.bidirectional:  # the last direction
                rows, outputs = concatenate(outputs, -1) if self.bidirectional else output, []
                if layer < self.num_layers - 1:
                    rows = F.dropout(rows, self.dropout, self.training, rng=self.rng)
        return rows, [stack(states) for states in zip(*last, strict=True)]

    def extra_repr(self) -> str:
        usual = {"proj_size": 0, "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0,
                 "bidirectional": False}
        told = [f"{n}={getattr(self, n)}" for n, value in usual.items() if getattr(self, n) != value]
        return ", ".join([f"{self.input_size}, {self.hidden_size}", *told])


class RNN(RNNBase):
    """``h[t] = tanh(weight_ih @ x[t] + bias_ih + weight_hh @ h[t - 1] + bias_hh)``, or `nonlinearity` "relu".

    See `RNNBase` for shapes; it returns all h of the last layer, and the last h of every layer.
    """

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: str = "tanh",
                 bias: bool = True, batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False,
                 device: str | None = None, dtype: Any = None, rng: Generator | None = None) -> None:
        self.nonlinearity = nonlinearity
        super().__init__(rnn_mode("RNN", nonlinearity), input_size, hidden_size, num_layers, bias, batch_first, dropout,
                         bidirectional, 0, device, dtype, rng)


class LSTM(RNNBase):
    """Long short-term memory: states are pairs (h, c); with `proj_size` h is projected to so many features.

    See `RNNBase` for shapes; it returns all h of the last layer, and the last (h, c) of every layer.
    """

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True,
                 batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, proj_size: int = 0,
                 device: str | None = None, dtype: Any = None, rng: Generator | None = None) -> None:
        super().__init__("LSTM", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
                         proj_size, device, dtype, rng)


class GRU(RNNBase):
    """Gated recurrent units; see `RNNBase` for shapes.

    It returns all h of the last layer, and the last h of every layer.
    """

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True,
                 batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False,
                 device: str | None = None, dtype: Any = None, rng: Generator | None = None) -> None:
        super().__init__("GRU", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0,
                         device, dtype, rng)


def rnn_mode(name: str, nonlinearity: str) -> str:
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"{name}: nonlinearity is 'tanh' or 'relu', not {nonlinearity!r}")
    return f"RNN_{nonlinearity.upper()}"


# ---- single steps ---------------------------------------------------------------------------------------------------


class Step(Recurrent):
    """Abstract: input (N, input_size) or (input_size,), states (N, hidden_size) or (hidden_size,)."""

    def __init__(self, mode: str, input_size: int, hidden_size: int, bias: bool, device: str | None, dtype: Any,
                 rng: Generator | None) -> None:
        check_types(type(self).__name__, bool, bias=bias)
        self.mode, self.input_size, self.hidden_size, self.bias = mode, input_size, hidden_size, bias
        self.make("", input_size, hidden_size, bias, device, dtype)
        if not bias:
            self.bias_ih = self.bias_hh = None
        self.reset_parameters(rng)

    def forward(self, input: Any, hx: Any = None) -> Any:
        name = type(self).__name__
        if input.ndim not in (1, 2) or input.shape[-1] != self.input_size:
            raise ValueError(f"{name}: input is (N, {self.input_size}), or ({self.input_size},) for a single one, not "
                             f"{input.shape}")
        states = self.states(hx, input, *[(*input.shape[:-1], self.hidden_size)] * CELLS[self.mode].states)
        single = input.ndim == 1
        if single:
            input, states = input[None], [s[None] for s in states]
        _, *states = self.run("", input, states, (len(input),))
        return together([s[0] for s in states] if single else states)

    def extra_repr(self) -> str:
        usual = {"bias": True, "nonlinearity": "tanh"}
        told = [f"{n}={getattr(self, n)}" for n, value in usual.items() if getattr(self, n, value) != value]
        return ", ".join([f"{self.input_size}, {self.hidden_size}", *told])


class RNNCell(Step):
    """One step of `RNN`: the next h."""

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh",
                 device: str | None = None, dtype: Any = None, rng: Generator | None = None) -> None:
        self.nonlinearity = nonlinearity
        super().__init__(rnn_mode("RNNCell", nonlinearity), input_size, hidden_size, bias, device, dtype, rng)


class LSTMCell(Step):
    """One step of `LSTM`: the next (h, c)."""

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, device: str | None = None,
                 dtype: Any = None, rng: Generator | None = None) -> None:
        super().__init__("LSTM", input_size, hidden_size, bias, device, dtype, rng)


class GRUCell(Step):
    """One step of `GRU`: the next h."""

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, device: str | None = None,
                 dtype: Any = None, rng: Generator | None = None) -> None:
        super().__init__("GRU", input_size, hidden_size, bias, device, dtype, rng)
