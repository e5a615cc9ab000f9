"""Recurrent layers for whole sequences, and cells for single steps."""

from __future__ import annotations

import math
import warnings
from typing import Any

import gpuprop.functional as F
from gpuprop._array.indexing import take
from gpuprop._array.shape import concatenate, stack
from gpuprop._core.checks import as_choice
from gpuprop._core.graph import raw
from gpuprop._core.namespace import namespace
from gpuprop._core.options import as_array_option, checks_options
from gpuprop._core.tensor import Parameter
from gpuprop.functional._recurrent import CELLS, scan
from gpuprop.nn._module import Module, initialize, new_tensor
from gpuprop.nn.init import uniform_
from gpuprop.nn.utils.rnn import PackedSequence
from gpuprop.random import Generator

PARAMETER_NAMES = "weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr"


class Recurrent(Module):
    """Abstract: the parameters and the time steps of RNN, LSTM and GRU."""

    mode: str  # a key of CELLS
    input_size: int
    hidden_size: int

    def _create_parameters(self, suffix: str, input_size: int, output_size: int, bias: bool,
                           device: str | None, dtype: Any) -> None:
        """Create the parameters of one layer in one direction, filled with zeros.

        `output_size` is `hidden_size`, or the smaller size to which h is projected.
        """
        rows = CELLS[self.mode].gates * self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {
            "weight_ih": (rows, input_size), "weight_hh": (rows, output_size)}
        if bias:
            shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
        if output_size != self.hidden_size:
            shapes["weight_hr"] = (output_size, self.hidden_size)
        for name, shape in shapes.items():
            parameter = Parameter(new_tensor(shape, device, dtype))
            self.register_parameter(name + suffix, parameter)

    def reset_parameters(self, rng: Generator | None = None) -> None:
        """Initialize the parameters again, with new random numbers."""
        bound = 1 / math.sqrt(self.hidden_size)
        for p in self.parameters():
            uniform_(p, -bound, bound, rng)

    def _scan(self, suffix: str, rows: Any, states: list, sizes: tuple[int, ...],
              reverse: bool = False) -> tuple:
        """Run one layer in one direction; returns the output rows and the final states."""
        h = states[0]
        c = states[1] if len(states) > 1 else None
        w_ih, w_hh, b_ih, b_hh, w_hr = (
            getattr(self, name + suffix, None) for name in PARAMETER_NAMES)
        return scan(rows, h, c, w_ih, w_hh, b_ih, b_hh, w_hr, mode=self.mode, sizes=sizes,
                    reverse=reverse)

    def _initial_states(self, hx: Any, input: Any, *shapes: tuple[int, ...]) -> list:
        """`hx` as a list of states with these shapes; zeros for None."""
        if hx is None:
            return [namespace(raw(input)).zeros(shape, input.dtype) for shape in shapes]
        name = type(self).__name__
        states = list(hx) if isinstance(hx, tuple | list) else [hx]
        if len(states) != len(shapes):
            expected = "one state h" if len(shapes) == 1 else "two states (h, c)"
            raise ValueError(f"{name}: hx must be {expected}, got {len(states)}")
        for i, (state, shape) in enumerate(zip(states, shapes, strict=True)):
            label = "hx" if len(states) == 1 else f"hx[{i}]"
            if not hasattr(state, "shape"):
                as_array_option(f"{name}: {label}", state)  # raises
            if state.shape != shape:
                raise ValueError(f"{name}: {label} must have shape {shape} for this input, "
                                 f"got {state.shape}")
        return states

    def _repr_options(self, defaults: dict[str, Any]) -> str:
        """The sizes, and the options that differ from their defaults, as text."""
        options = [f"{name}={getattr(self, name)}" for name, default in defaults.items()
                   if getattr(self, name, default) != default]
        return ", ".join([f"{self.input_size}, {self.hidden_size}", *options])


def unwrap_single(states: list) -> Any:
    """h alone, or the tuple (h, c), from a list of states."""
    return states[0] if len(states) == 1 else tuple(states)


# ---- whole sequences -----------------------------------------------------------------------------


class RNNBase(Recurrent):
    """Base class of RNN, LSTM and GRU; `mode` is "RNN_TANH", "RNN_RELU", "LSTM" or "GRU".

    Input (T, N, input_size), or (N, T, input_size) with `batch_first`, or (T, input_size) for a
    single sequence, or a `PackedSequence`.  The initial state `hx` is optional and 0 by default.

    Returns (output, state).  The output is h of the last layer at each step: it has the input's
    layout, with directions * hidden_size features.  The state is the final h of each layer and
    direction, (num_layers * directions, N, hidden_size), or for an LSTM the pair (h, c).  For a
    single sequence, states have no axis N.

    With `bidirectional`, there are two directions, and their outputs are concatenated.  In
    training, dropout with probability `dropout` acts on the output of each layer except the last.

    Layer l has the parameters weight_ih_l{l} (gates * hidden_size, features of the layer's input),
    weight_hh_l{l} (gates * hidden_size, hidden_size), bias_ih_l{l} and bias_hh_l{l}, both (gates *
    hidden_size,).  With `proj_size`, h has proj_size features instead of hidden_size, and the layer
    has weight_hr_l{l} (proj_size, hidden_size).  The second direction has the suffix _reverse.  All
    parameters are initialized uniformly in [-k, k], with k = 1 / sqrt(hidden_size).
    """

    @checks_options
    def __init__(self, mode: str, input_size: int, hidden_size: int, num_layers: int = 1,
                 bias: bool = True, batch_first: bool = False, dropout: float = 0.0,
                 bidirectional: bool = False, proj_size: int = 0, device: str | None = None,
                 dtype: Any = None, rng: Generator | None = None) -> None:
        name = type(self).__name__
        if mode not in CELLS:
            raise ValueError(f"{name}: mode must be one of {', '.join(CELLS)}, got {mode!r}")
        if not 0 <= proj_size < hidden_size:
            raise ValueError(f"{name}: proj_size must be 0 (no projection) or less than "
                             f"hidden_size={hidden_size}, got {proj_size}")
        if proj_size and mode != "LSTM":
            raise ValueError(f"{name}: only an LSTM supports proj_size, got proj_size={proj_size}")
        if dropout > 0 and num_layers == 1:
            warnings.warn(f"{name}: dropout={dropout} has no effect with num_layers=1, because it "
                          f"acts on the output of each layer except the last", stacklevel=2)
        self.mode = mode
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        self.rng = rng
        output_size = proj_size or hidden_size
        for layer, suffix in self._layer_suffixes():
            layer_input = output_size * (1 + bidirectional) if layer else input_size
            self._create_parameters(suffix, layer_input, output_size, bias, device, dtype)
        initialize(self, rng)

    def _layer_suffixes(self) -> list[tuple[int, str]]:
        """(layer, suffix of the parameters' names) for each layer and direction."""
        directions = ("", "_reverse") if self.bidirectional else ("",)
        return [(layer, f"_l{layer}{direction}") for layer in range(self.num_layers)
                for direction in directions]

    @property
    def all_weights(self) -> list[list[Parameter]]:
        """A list of parameters for each layer and direction."""
        found = []
        for _, suffix in self._layer_suffixes():
            names = [name + suffix for name in PARAMETER_NAMES]
            found.append([getattr(self, name) for name in names if hasattr(self, name)])
        return found

    def flatten_parameters(self) -> None:
        """Do nothing.  In PyTorch, this copies the parameters into one block of memory."""

    def forward(self, input: Any, hx: Any = None) -> Any:
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, hx)
        return self._forward_padded(input, hx)

    def _forward_packed(self, input: PackedSequence, hx: Any) -> tuple:
        data, batch_sizes, order, inverse = input
        sizes = tuple(input._host_batch_sizes().tolist())
        is_descending = [*sizes] == sorted(sizes, reverse=True) and min(sizes, default=-1) >= 0
        if data.ndim != 2 or len(data) != sum(sizes) or not is_descending:
            raise ValueError(f"{type(self).__name__}: a packed sequence must have data "
                             f"({sum(sizes)}, {self.input_size}) and descending batch_sizes, got "
                             f"data {data.shape} and batch_sizes {sizes}")

        def reorder(states: list, index: Any) -> list:
            return states if index is None else [take(s, index, 1) for s in states]

        initial = reorder(self._layer_states(hx, data, sizes[0]), order)
        output, states = self._run_layers(data, initial, sizes)
        packed = PackedSequence(output, batch_sizes, order, inverse)
        return packed, unwrap_single(reorder(states, inverse))

    def _forward_padded(self, input: Any, hx: Any) -> tuple:
        """Run on sequences of equal length, or on a single sequence."""
        if input.ndim not in (2, 3):
            raise ValueError(f"{type(self).__name__}: input must have 3 axes, or 2 for a single "
                             f"sequence, got shape {input.shape}")
        is_single = input.ndim == 2
        x = input
        if is_single:
            x = input[:, None]
        elif self.batch_first:
            x = input.swapaxes(0, 1)
        steps, batch = x.shape[:2]
        if not steps:
            raise ValueError(f"{type(self).__name__}: input {input.shape} has no time steps")
        batch_axes = () if is_single else (batch,)
        initial = self._layer_states(hx, input, *batch_axes)
        if is_single:
            initial = [state[:, None] for state in initial]
        output, states = self._run_layers(x, initial, (batch,) * steps)
        if is_single:
            return output[:, 0], unwrap_single([state[:, 0] for state in states])
        if self.batch_first:
            output = output.swapaxes(0, 1)
        return output, unwrap_single(states)

    def _layer_states(self, hx: Any, input: Any, *batch: int) -> list:
        """The initial states of all layers; also checks the number of input features."""
        if input.shape[-1] != self.input_size:
            raise ValueError(f"{type(self).__name__}: input {input.shape} has {input.shape[-1]} "
                             f"features, expected input_size={self.input_size}")
        layers = len(self._layer_suffixes())
        shapes = [(layers, *batch, self.proj_size or self.hidden_size)]
        if CELLS[self.mode].states == 2:
            shapes.append((layers, *batch, self.hidden_size))
        return self._initial_states(hx, input, *shapes)

    def _run_layers(self, rows: Any, initial: list, sizes: tuple[int, ...]) -> tuple[Any, list]:
        """Run all layers; returns the output rows and the final states."""
        final = []
        directions = []  # outputs of the current layer
        for i, (layer, suffix) in enumerate(self._layer_suffixes()):
            reverse = suffix.endswith("_reverse")
            output, *states = self._scan(suffix, rows, [h[i] for h in initial], sizes, reverse)
            final.append(states)
            directions.append(output)
            if reverse == self.bidirectional:  # this is the layer's last direction
                rows = concatenate(directions, -1) if self.bidirectional else output
                directions = []
                if layer < self.num_layers - 1:
                    rows = F.dropout(rows, self.dropout, self.training, rng=self.rng)
        return rows, [stack(states) for states in zip(*final, strict=True)]

    def extra_repr(self) -> str:
        return self._repr_options({
            "proj_size": 0, "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0,
            "bidirectional": False})


class RNN(RNNBase):
    """Elman network: ``h[t] = tanh(W_ih x[t] + b_ih + W_hh h[t - 1] + b_hh)``

    With ``nonlinearity="relu"``, relu replaces tanh.

    Input (T, N, input_size), or (N, T, input_size) with `batch_first`, or (T, input_size), or a
    `PackedSequence`.  Returns (output, h).  `output` is h of the last layer at each step, (T, N,
    directions * hidden_size) in the input's layout; `h` is the final h of each layer and direction,
    (num_layers * directions, N, hidden_size).  `RNNBase` describes parameters and options.

    >>> from gpuprop import nn
    >>> output, h = nn.RNN(input_size=4, hidden_size=8)(gpuprop.ones(5, 3, 4))
    >>> output.shape, h.shape
    ((5, 3, 8), (1, 3, 8))
    """

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1,
                 nonlinearity: str = "tanh", bias: bool = True, batch_first: bool = False,
                 dropout: float = 0.0, bidirectional: bool = False, device: str | None = None,
                 dtype: Any = None, rng: Generator | None = None) -> None:
        self.nonlinearity = nonlinearity
        super().__init__(rnn_mode("RNN", nonlinearity), input_size, hidden_size, num_layers, bias,
                         batch_first, dropout, bidirectional, 0, device, dtype, rng)


class LSTM(RNNBase):
    """Long short-term memory.

    ``i, f, g, o = split(W_ih x[t] + b_ih + W_hh h[t - 1] + b_hh, 4)``
    ``c[t] = sigmoid(f) * c[t - 1] + sigmoid(i) * tanh(g)``
    ``h[t] = sigmoid(o) * tanh(c[t])``

    With `proj_size`, h is projected to proj_size features by W_hr (proj_size, hidden_size):
    ``h[t] = W_hr (sigmoid(o) * tanh(c[t]))``.

    Input (T, N, input_size), or (N, T, input_size) with `batch_first`, or (T, input_size), or a
    `PackedSequence`.  Returns (output, (h, c)).  `output` is h of the last layer at each step,
    (T, N, directions * hidden_size) in the input's layout; `h` and `c` are the final states of each
    layer and direction, (num_layers * directions, N, hidden_size).  `RNNBase` describes parameters
    and options.

    S. Hochreiter and J. Schmidhuber, 1997; projection: H. Sak et al., 2014.

    >>> from gpuprop import nn
    >>> lstm = nn.LSTM(input_size=4, hidden_size=8, num_layers=2, batch_first=True)
    >>> output, (h, c) = lstm(gpuprop.ones(3, 5, 4))
    >>> output.shape, h.shape, c.shape
    ((3, 5, 8), (2, 3, 8), (2, 3, 8))
    """

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True,
                 batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False,
                 proj_size: int = 0, device: str | None = None, dtype: Any = None,
                 rng: Generator | None = None) -> None:
        super().__init__("LSTM", input_size, hidden_size, num_layers, bias, batch_first, dropout,
                         bidirectional, proj_size, device, dtype, rng)


class GRU(RNNBase):
    """Gated recurrent unit.

    ``r = sigmoid(W_ir x[t] + b_ir + W_hr h[t - 1] + b_hr)``
    ``z = sigmoid(W_iz x[t] + b_iz + W_hz h[t - 1] + b_hz)``
    ``n = tanh(W_in x[t] + b_in + r * (W_hn h[t - 1] + b_hn))``
    ``h[t] = (1 - z) * n + z * h[t - 1]``

    `weight_ih` stacks W_ir, W_iz and W_in; `weight_hh` stacks W_hr, W_hz and W_hn.

    Input (T, N, input_size), or (N, T, input_size) with `batch_first`, or (T, input_size), or a
    `PackedSequence`.  Returns (output, h).  `output` is h of the last layer at each step, (T, N,
    directions * hidden_size) in the input's layout; `h` is the final h of each layer and direction,
    (num_layers * directions, N, hidden_size).  `RNNBase` describes parameters and options.

    K. Cho et al., EMNLP 2014.

    >>> from gpuprop import nn
    >>> output, h = nn.GRU(4, 8, bidirectional=True)(gpuprop.ones(5, 3, 4))
    >>> output.shape, h.shape
    ((5, 3, 16), (2, 3, 8))
    """

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True,
                 batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False,
                 device: str | None = None, dtype: Any = None,
                 rng: Generator | None = None) -> None:
        super().__init__("GRU", input_size, hidden_size, num_layers, bias, batch_first, dropout,
                         bidirectional, 0, device, dtype, rng)


def rnn_mode(name: str, nonlinearity: str) -> str:
    as_choice(f"{name}: nonlinearity", nonlinearity, ("tanh", "relu"))
    return f"RNN_{nonlinearity.upper()}"


# ---- single steps --------------------------------------------------------------------------------


class RNNCellBase(Recurrent):
    """Abstract: RNNCell, LSTMCell and GRUCell."""

    @checks_options
    def __init__(self, mode: str, input_size: int, hidden_size: int, bias: bool,
                 device: str | None, dtype: Any, rng: Generator | None) -> None:
        self.mode = mode
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        self._create_parameters("", input_size, hidden_size, bias, device, dtype)
        if not bias:
            self.bias_ih = self.bias_hh = None
        initialize(self, rng)

    def forward(self, input: Any, hx: Any = None) -> Any:
        if input.ndim not in (1, 2) or input.shape[-1] != self.input_size:
            raise ValueError(f"{type(self).__name__}: input must be (N, {self.input_size}), or "
                             f"({self.input_size},) for a single sample, got {input.shape}")
        shapes = [(*input.shape[:-1], self.hidden_size)] * CELLS[self.mode].states
        states = self._initial_states(hx, input, *shapes)
        is_single = input.ndim == 1
        if is_single:
            input = input[None]
            states = [state[None] for state in states]
        _, *states = self._scan("", input, states, (len(input),))
        if is_single:
            states = [state[0] for state in states]
        return unwrap_single(states)

    def extra_repr(self) -> str:
        return self._repr_options({"bias": True, "nonlinearity": "tanh"})


class RNNCell(RNNCellBase):
    """One step of `RNN`: ``h = tanh(weight_ih @ x + bias_ih + weight_hh @ h + bias_hh)``

    Input (N, input_size) and h (N, hidden_size), 0 by default; returns the next h.  A single sample
    has no axis N.  `nonlinearity` is "tanh" or "relu".
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True,
                 nonlinearity: str = "tanh", device: str | None = None, dtype: Any = None,
                 rng: Generator | None = None) -> None:
        self.nonlinearity = nonlinearity
        super().__init__(rnn_mode("RNNCell", nonlinearity), input_size, hidden_size, bias, device,
                         dtype, rng)


class LSTMCell(RNNCellBase):
    """One step of `LSTM`.

    Input (N, input_size) and (h, c), each (N, hidden_size), 0 by default; returns the next
    (h, c).  A single sample has no axis N.

    >>> from gpuprop import nn
    >>> h, c = nn.LSTMCell(4, 8)(gpuprop.ones(3, 4))
    >>> h.shape, c.shape
    ((3, 8), (3, 8))
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True,
                 device: str | None = None, dtype: Any = None,
                 rng: Generator | None = None) -> None:
        super().__init__("LSTM", input_size, hidden_size, bias, device, dtype, rng)


class GRUCell(RNNCellBase):
    """One step of `GRU`.

    Input (N, input_size) and h (N, hidden_size), 0 by default; returns the next h.  A single sample
    has no axis N.
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True,
                 device: str | None = None, dtype: Any = None,
                 rng: Generator | None = None) -> None:
        super().__init__("GRU", input_size, hidden_size, bias, device, dtype, rng)
