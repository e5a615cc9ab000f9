"""Multi-head attention."""

from __future__ import annotations

from typing import Any

import gpuprop.functional as F
from gpuprop._core.options import checks_options
from gpuprop._core.tensor import Parameter
from gpuprop.nn._linear import Linear
from gpuprop.nn._module import Module, initialize, new_tensor
from gpuprop.nn.init import xavier_normal_, xavier_uniform_, zeros_
from gpuprop.random import Generator


class MultiheadAttention(Module):
    """Scaled dot-product attention in `num_heads` heads, with input and output projections.

    Each head computes ``softmax(q @ k.T / sqrt(head_dim)) @ v`` from the projected inputs, with
    head_dim = embed_dim / num_heads.  `out_proj` projects the concatenated heads.

    query (L, N, embed_dim), key (S, N, kdim), value (S, N, vdim); with `batch_first`, N is the
    first axis; a single sample has no axis N.  Returns (output, weights): the output has the
    query's shape, and the attention weights are (N, L, S), averaged over heads, or None if not
    `need_weights`.  Dropout acts on the attention weights.

    `attn_mask` is (L, S) or (N * num_heads, L, S), `key_padding_mask` is (N, S).  A bool mask is
    True where attention is *not* allowed; a floating mask is added to the scores.  `is_causal`
    asserts that `attn_mask` is causal; `attn_mask` must still be given.

    A. Vaswani et al., NeurIPS 2017.

    >>> from gpuprop import nn
    >>> attention = nn.MultiheadAttention(8, 2, batch_first=True)
    >>> x = gpuprop.ones(3, 5, 8)
    >>> output, weights = attention(x, x, x)
    >>> output.shape, weights.shape
    ((3, 5, 8), (3, 5, 5))
    """

    @checks_options
    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0, bias: bool = True,
                 add_bias_kv: bool = False, add_zero_attn: bool = False, kdim: int | None = None,
                 vdim: int | None = None, batch_first: bool = False, device: str | None = None,
                 dtype: Any = None, rng: Generator | None = None) -> None:
        if embed_dim % num_heads:
            raise ValueError(f"MultiheadAttention: num_heads={num_heads} must divide "
                             f"embed_dim={embed_dim}")
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self.dropout = dropout
        self.batch_first = batch_first
        self.add_zero_attn = add_zero_attn
        self.rng = rng

        def parameter(is_used: bool, *shape: int) -> Parameter | None:
            return Parameter(new_tensor(shape, device, dtype)) if is_used else None

        packed = self.kdim == self.vdim == embed_dim  # one matrix for q, k and v
        self.q_proj_weight = parameter(not packed, embed_dim, embed_dim)
        self.k_proj_weight = parameter(not packed, embed_dim, self.kdim)
        self.v_proj_weight = parameter(not packed, embed_dim, self.vdim)
        self.in_proj_weight = parameter(packed, 3 * embed_dim, embed_dim)
        self.in_proj_bias = parameter(bias, 3 * embed_dim)
        self.out_proj = Linear(embed_dim, embed_dim, bias, device, dtype, rng)
        self.bias_k = parameter(add_bias_kv, 1, 1, embed_dim)
        self.bias_v = parameter(add_bias_kv, 1, 1, embed_dim)
        initialize(self, rng)

    def reset_parameters(self, rng: Generator | None = None) -> None:
        """Initialize the parameters again: by Xavier's scheme, biases of projections with 0.

        `out_proj.weight` is initialized as in `Linear`.
        """
        self.out_proj.reset_parameters(rng)
        for weight in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight,
                       self.v_proj_weight):
            if weight is not None:
                xavier_uniform_(weight, generator=rng)
        for row in (self.bias_k, self.bias_v):
            if row is not None:
                xavier_normal_(row, generator=rng)
        for bias in (self.in_proj_bias, self.out_proj.bias):
            if bias is not None:
                zeros_(bias)

    def forward(self, query: Any, key: Any, value: Any, key_padding_mask: Any = None,
                need_weights: bool = True, attn_mask: Any = None,
                average_attn_weights: bool = True, is_causal: bool = False) -> tuple[Any, Any]:
        return F.multi_head_attention_forward(
            query, key, value, self.embed_dim, self.num_heads, self.in_proj_weight,
            self.in_proj_bias, self.bias_k, self.bias_v, self.add_zero_attn, self.dropout,
            self.out_proj.weight, self.out_proj.bias, self.training, key_padding_mask,
            need_weights, attn_mask, self.in_proj_weight is None, self.q_proj_weight,
            self.k_proj_weight, self.v_proj_weight, average_attn_weights=average_attn_weights,
            is_causal=is_causal, batch_first=self.batch_first, rng=self.rng)

    def extra_repr(self) -> str:
        return (f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, "
                f"dropout={self.dropout}, batch_first={self.batch_first}")
