"""Positional encodings for attention."""

from __future__ import annotations

from typing import Any

import numpy as np

import gpuprop.functional as F
from gpuprop._array.indexing import take
from gpuprop._core.graph import raw
from gpuprop._core.namespace import namespace
from gpuprop._core.options import checks_options
from gpuprop._core.placement import place
from gpuprop._core.registry import default_backend
from gpuprop._core.tensor import Tensor
from gpuprop.functional._position import position_angles
from gpuprop.nn._module import Module


class PositionTables(Module):
    """Abstract: tables with one row for each position.

    The tables are float64 buffers that are not part of `state_dict`.  Rows are cast to the input's
    dtype.
    """

    def _register_tables(self, dim: int, max_seq_len: int, base: float, device: str | None,
                         **tables: np.ndarray) -> None:
        self.dim = dim
        self.max_seq_len = max_seq_len
        self.base = base
        for name, table in tables.items():
            array = default_backend().asarray(table)
            if device is not None:
                array = place(array, device)
            self.register_buffer(name, Tensor(array), persistent=False)

    def _rows(self, table: Tensor, length: int, input_pos: Any, dtype: Any) -> Tensor:
        """The rows for an input of this length: (L, ...), or (N, L, ...) if `input_pos` is 2-D."""
        name = type(self).__name__
        if input_pos is None or isinstance(input_pos, int | np.integer):
            start = int(input_pos or 0)
            if not 0 <= start <= start + length <= self.max_seq_len:
                raise ValueError(f"{name}: positions {start} to {start + length - 1} are out of "
                                 f"range for max_seq_len={self.max_seq_len}")
            return table[start:start + length].astype(dtype)
        if input_pos.ndim == 0:
            input_pos = input_pos + namespace(raw(input_pos)).arange(length)
        if input_pos.shape[-1] != length:
            raise ValueError(f"{name}: input_pos {input_pos.shape} must have one position for each "
                             f"element of the sequence, whose length is {length}")
        return take(table, input_pos, 0).astype(dtype)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, max_seq_len={self.max_seq_len}, base={self.base}"


class SinusoidalPositionalEncoding(PositionTables):
    """Add sines and cosines of the positions to the input.

    ``y[p, 2 * i]     = x[p, 2 * i]     + sin(p / base**(2 * i / dim))``
    ``y[p, 2 * i + 1] = x[p, 2 * i + 1] + cos(p / base**(2 * i / dim))``

    Input and output (L, N, dim), or (N, L, dim) with `batch_first`, or (L, dim).

    ``layer(x, input_pos=p)`` sets the position of the first element, an int or a 0-d integer
    Tensor, or the position of every element, (L,) or (N, L).  The default is 0.

    A. Vaswani et al., NeurIPS 2017, section 3.5.  PyTorch has no such layer.

    >>> from gpuprop import nn
    >>> nn.SinusoidalPositionalEncoding(4)(gpuprop.zeros(1, 4)).tolist()
    [[0.0, 1.0, 0.0, 1.0]]
    """

    waves: Tensor

    @checks_options(dim=1)
    def __init__(self, dim: int, max_seq_len: int = 4096, base: float = 10_000.0,
                 batch_first: bool = False, device: str | None = None) -> None:
        angles = position_angles(max_seq_len, dim, base)
        pairs = np.stack((np.sin(angles), np.cos(angles)), axis=-1)
        waves = pairs.reshape(max_seq_len, -1)[:, :dim]
        self._register_tables(dim, max_seq_len, base, device, waves=waves)
        self.batch_first = batch_first

    def forward(self, input: Any, *, input_pos: Any = None) -> Any:
        if input.ndim not in (2, 3) or input.shape[-1] != self.dim:
            layout = "(N, L, dim)" if self.batch_first else "(L, N, dim)"
            raise ValueError(f"SinusoidalPositionalEncoding: input must be {layout} or (L, dim) "
                             f"with dim={self.dim}, got {input.shape}")
        length_first = input.ndim == 3 and not self.batch_first
        length = input.shape[-3 if length_first else -2]
        waves = self._rows(self.waves, length, input_pos, input.dtype)
        if length_first:
            waves = waves[:, None] if waves.ndim == 2 else waves.swapaxes(0, 1)
        return input + waves


class RotaryPositionalEmbeddings(PositionTables):
    """Rotate pairs of features of queries or keys by angles proportional to the position.

    ``y_a = x_a * cos(t) - x_b * sin(t)``
    ``y_b = x_b * cos(t) + x_a * sin(t)``

    for the pair i, (x_a, x_b), at position p, with t = p / base**(2 * i / dim).  The scores of
    rotated queries and keys depend on positions only through their distance.

    Input and output (N, L, heads, dim).  By default, pair i has the features 2 * i and 2 * i + 1,
    as in the paper and in torchtune; if not `interleaved`, it has the features i and i + dim / 2,
    as in GPT-NeoX and Hugging Face's models.

    ``layer(x, input_pos=p)`` sets the position of the first element, an int or a 0-d integer
    Tensor, or the position of every element, (L,) or (N, L).  The default is 0.

    J. Su et al., 2021.
    """

    cos: Tensor
    sin: Tensor

    @checks_options(dim=1)
    def __init__(self, dim: int, max_seq_len: int = 4096, base: float = 10_000.0,
                 interleaved: bool = True, device: str | None = None) -> None:
        if dim < 2 or dim % 2:
            raise ValueError(f"RotaryPositionalEmbeddings: dim must be positive and even, "
                             f"got {dim}")
        angles = position_angles(max_seq_len, dim, base)
        self._register_tables(dim, max_seq_len, base, device,
                              cos=np.cos(angles), sin=np.sin(angles))
        self.interleaved = interleaved

    def forward(self, x: Any, *, input_pos: Any = None) -> Any:
        if x.ndim < 3 or x.shape[-1] != self.dim:
            raise ValueError(f"RotaryPositionalEmbeddings: x must be (N, L, heads, dim) with "
                             f"dim={self.dim}, got {x.shape}")
        length = x.shape[-3]
        cos = self._rows(self.cos, length, input_pos, x.dtype)[..., None, :]
        sin = self._rows(self.sin, length, input_pos, x.dtype)[..., None, :]
        return F.rotary_embedding(x, cos, sin, self.interleaved)
