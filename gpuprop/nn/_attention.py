"""Attention with projections: see `gpuprop.functional.multi_head_attention_forward`."""

from __future__ import annotations

from typing import Any

import gpuprop.functional as F
from gpuprop._core.tensor import Parameter
from gpuprop.nn._linear import Linear
from gpuprop.nn._module import Module
from gpuprop.nn.init import new, xavier_normal_, xavier_uniform_, zeros_
from gpuprop.random import Generator


class MultiheadAttention(Module):
    """Queries (L, N, E) see keys (S, N, kdim) and values (S, N, vdim): the output (L, N, E), and the weights (N, L, S).

    With `batch_first` N comes first; one sample has no N.  Masks are True for what is *not* seen, or are added.
    A. Vaswani et al., NeurIPS 2017.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0, bias: bool = True,
                 add_bias_kv: bool = False, add_zero_attn: bool = False, kdim: int | None = None,
                 vdim: int | None = None, batch_first: bool = False, device: str | None = None, dtype: Any = None,
                 rng: Generator | None = None) -> None:
        if embed_dim < 1 or num_heads < 1 or embed_dim % num_heads:
            raise ValueError(f"MultiheadAttention: num_heads={num_heads} does not divide embed_dim={embed_dim}, "
                             f"both positive")
        if not 0 <= dropout <= 1:
            raise ValueError(f"MultiheadAttention: dropout is a probability, not {dropout}")
        self.embed_dim, self.num_heads, self.head_dim = embed_dim, num_heads, embed_dim // num_heads
        self.kdim, self.vdim = (embed_dim if n is None else n for n in (kdim, vdim))
        self.dropout, self.batch_first, self.add_zero_attn, self.rng = dropout, batch_first, add_zero_attn, rng
        make = lambda wanted, *shape: Parameter(new(shape, device, dtype)) if wanted else None
        packed = self.kdim == self.vdim == embed_dim
        self.q_proj_weight = make(not packed, embed_dim, embed_dim)
        self.k_proj_weight = make(not packed, embed_dim, self.kdim)
        self.v_proj_weight = make(not packed, embed_dim, self.vdim)
        self.in_proj_weight = make(packed, 3 * embed_dim, embed_dim)
        self.in_proj_bias = make(bias, 3 * embed_dim)
        self.out_proj = Linear(embed_dim, embed_dim, bias, device, dtype, rng)
        self.bias_k = make(add_bias_kv, 1, 1, embed_dim)
        self.bias_v = make(add_bias_kv, 1, 1, embed_dim)
        self.reset_parameters(rng)

    def reset_parameters(self, rng: Generator | None = None) -> None:
        """Draw the parameters anew: X. Glorot's scheme, and biases 0."""
        self.out_proj.reset_parameters(rng)
        for draw, parameters in (
                (xavier_uniform_, (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)),
                (xavier_normal_, (self.bias_k, self.bias_v)),
                (lambda p, generator: zeros_(p), (self.in_proj_bias, self.out_proj.bias))):
            for p in parameters:
                if p is not None:
                    draw(p, generator=rng)

    def forward(self, query: Any, key: Any, value: Any, key_padding_mask: Any = None, need_weights: bool = True,
                attn_mask: Any = None, average_attn_weights: bool = True, is_causal: bool = False) -> tuple[Any, Any]:
        return F.multi_head_attention_forward(
            query, key, value, self.embed_dim, self.num_heads, self.in_proj_weight, self.in_proj_bias, self.bias_k,
            self.bias_v, self.add_zero_attn, self.dropout, self.out_proj.weight, self.out_proj.bias, self.training,
            key_padding_mask, need_weights, attn_mask, self.in_proj_weight is None, self.q_proj_weight,
            self.k_proj_weight, self.v_proj_weight, average_attn_weights=average_attn_weights, is_causal=is_causal,
            batch_first=self.batch_first, rng=self.rng)

    def extra_repr(self) -> str:
        return (f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, dropout={self.dropout}, "
                f"batch_first={self.batch_first}")
