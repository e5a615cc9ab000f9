"""Positions, which attention by itself does not see."""

from __future__ import annotations

from typing import Any

import numpy as np

import gpuprop.functional as F
from gpuprop._array.indexing import take
from gpuprop._core.graph import raw
from gpuprop._core.namespace import namespace
from gpuprop._core.placement import place
from gpuprop._core.registry import default_backend
from gpuprop._core.tensor import Tensor
from gpuprop.functional._position import angles
from gpuprop.nn._module import Module


class Positions(Module):
    """Abstract: tables with a row a position, kept in float64 and rounded to the input's dtype; they are not saved.

    `input_pos` says where the input stands: its first position, a number or a 0-d integer tensor, which a captured step
    can count on, or the position of each element, (L,) or (N, L); None is 0.
    """

    def keep(self, dim: int, max_seq_len: int, base: float, device: str | None, **tables: np.ndarray) -> None:
        self.dim, self.max_seq_len, self.base = dim, max_seq_len, base
        for name, table in tables.items():
            array = default_backend().asarray(table)
            self.register_buffer(name, Tensor(array if device is None else place(array, device)), persistent=False)

    def rows(self, table: Tensor, length: int, input_pos: Any, dtype: Any) -> Tensor:
        """(L, ...) or (N, L, ...)."""
        if input_pos is None or isinstance(input_pos, int | np.integer):
            start = int(input_pos or 0)
            if not 0 <= start <= start + length <= self.max_seq_len:
                raise ValueError(f"{type(self).__name__}: positions {start} to {start + length - 1} lie outside of "
                                 f"max_seq_len={self.max_seq_len}")
            return table[start:start + length].astype(dtype)
        if input_pos.ndim == 0:
            input_pos = input_pos + namespace(raw(input_pos)).arange(length)
        if input_pos.shape[-1] != length:
            raise ValueError(f"{type(self).__name__}: input_pos {input_pos.shape} is not of an input of {length} "
                             f"places")
        return take(table, input_pos, 0).astype(dtype)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, max_seq_len={self.max_seq_len}, base={self.base}"


class SinusoidalPositionalEncoding(Positions):
    """`input` plus the sines and cosines of its positions: (L, N, dim), (N, L, dim) with `batch_first`, or (L, dim).

    Sines are at even and cosines at odd places of the last axis, of wavelengths from 2 pi to 2 pi `base`.
    A. Vaswani et al., NeurIPS 2017, section 3.5.
    """

    waves: Tensor

    def __init__(self, dim: int, max_seq_len: int = 4096, base: float = 10_000.0, batch_first: bool = False,
                 device: str | None = None) -> None:
        turns = angles(max_seq_len, dim, base)
        waves = np.stack((np.sin(turns), np.cos(turns)), axis=-1).reshape(max_seq_len, -1)[:, :dim]
        self.keep(dim, max_seq_len, base, device, waves=waves)
        self.batch_first = batch_first

    def forward(self, input: Any, *, input_pos: Any = None) -> Any:
        if input.ndim not in (2, 3) or input.shape[-1] != self.dim:
            layout = "(N, L, dim)" if self.batch_first else "(L, N, dim)"
            raise ValueError(f"SinusoidalPositionalEncoding: input is {layout}, or (L, dim), with dim={self.dim}, "
                             f"not {input.shape}")
        inner = input.ndim == 3 and not self.batch_first  # N is
        waves = self.rows(self.waves, input.shape[-3 if inner else -2], input_pos, input.dtype)
        if inner:
            waves = waves[:, None] if waves.ndim == 2 else waves.swapaxes(0, 1)
        return input + waves


class RotaryPositionalEmbeddings(Positions):
    """Queries or keys (N, L, heads, dim), before heads and L are exchanged for attention, turned by their positions.

    Pairs of neighbours turn together, as in the paper and in torchtune, or, unless `interleaved`, the elements i and
    i + dim / 2, as in GPT-NeoX and Hugging Face's models.  J. Su et al., 2021.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, dim: int, max_seq_len: int = 4096, base: float = 10_000.0, interleaved: bool = True,
                 device: str | None = None) -> None:
        if dim < 2 or dim % 2:
            raise ValueError(f"RotaryPositionalEmbeddings: dim is even, for it is of pairs, not {dim}")
        turns = angles(max_seq_len, dim, base)
        self.keep(dim, max_seq_len, base, device, cos=np.cos(turns), sin=np.sin(turns))
        self.interleaved = interleaved

    def forward(self, x: Any, *, input_pos: Any = None) -> Any:
        if x.ndim < 3 or x.shape[-1] != self.dim:
            raise ValueError(f"RotaryPositionalEmbeddings: x is (N, L, heads, dim) with dim={self.dim}, not {x.shape}")
        cos, sin = (self.rows(t, x.shape[-3], input_pos, x.dtype)[..., None, :] for t in (self.cos, self.sin))
        return F.rotary_embedding(x, cos, sin, self.interleaved)
