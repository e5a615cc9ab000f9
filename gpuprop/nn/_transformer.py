"""Transformers: layers of attention and two products, stacks of them, and the pair of an encoder and a decoder."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, ClassVar

import gpuprop.functional as F
from gpuprop._array.creation import full
from gpuprop._array.indexing import triu
from gpuprop._core.tensor import Tensor
from gpuprop.nn._attention import MultiheadAttention
from gpuprop.nn._container import ModuleList
from gpuprop.nn._dropout import Dropout
from gpuprop.nn._linear import Linear
from gpuprop.nn._module import Module
from gpuprop.nn._normalization import LayerNorm
from gpuprop.nn.init import xavier_uniform_
from gpuprop.random import Generator

Activation = str | Callable[[Any], Any]
ACTIVATIONS: dict[str, Callable] = {"relu": F.relu, "gelu": F.gelu}


class Layer(Module):
    """Abstract: attentions, then two products with `activation` between them, each a block with dropout and a norm.

    A block's input is added to its output, and the sum normalized; with `norm_first` the block's input alone is.
    """

    attentions: ClassVar[tuple[str, ...]]  # their names

    def __init__(self, d_model: int, nhead: int, dim_feedforward: int = 2048, dropout: float = 0.1,
                 activation: Activation = F.relu, layer_norm_eps: float = 1e-5, batch_first: bool = False,
                 norm_first: bool = False, bias: bool = True, device: str | None = None, dtype: Any = None,
                 rng: Generator | None = None) -> None:
        if isinstance(activation, str) and activation not in ACTIVATIONS:
            raise ValueError(f"{type(self).__name__}: activation is 'relu', 'gelu' or a function, not {activation!r}")
        numbers = range(1, len(self.attentions) + 2)  # of the blocks
        for name in self.attentions:
            setattr(self, name, MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first,
                                                   device=device, dtype=dtype, rng=rng))
        self.linear1 = Linear(d_model, dim_feedforward, bias, device, dtype, rng)
        self.dropout = Dropout(dropout, rng=rng)
        self.linear2 = Linear(dim_feedforward, d_model, bias, device, dtype, rng)
        self.norm_first = norm_first
        for i in numbers:
            setattr(self, f"norm{i}", LayerNorm(d_model, layer_norm_eps, bias=bias, device=device, dtype=dtype))
        for i in numbers:
            setattr(self, f"dropout{i}", Dropout(dropout, rng=rng))
        self.activation = ACTIVATIONS[activation] if isinstance(activation, str) else activation

    def block(self, i: int, x: Any, run: Callable[[Any], Any]) -> Any:
        """The i-th: `run` with its dropout, its norm and the way around both."""
        norm, dropout = getattr(self, f"norm{i}"), getattr(self, f"dropout{i}")
        return x + dropout(run(norm(x))) if self.norm_first else norm(x + dropout(run(x)))

    def feed_forward(self, x: Any) -> Any:
        """The two products."""
        return self.linear2(self.dropout(self.activation(self.linear1(x))))


def attend(attention: MultiheadAttention, x: Any, source: Any, mask: Any, padding: Any, is_causal: bool) -> Any:
    """What `x` sees of `source`, without the weights."""
    return attention(x, source, source, padding, False, mask, is_causal=is_causal)[0]


class TransformerEncoderLayer(Layer):
    """Self-attention and two products: (S, N, E), (N, S, E) with `batch_first`, or (S, E), to the same shape.

    A. Vaswani et al., NeurIPS 2017; `norm_first`: R. Xiong et al., ICML 2020.
    """

    attentions = ("self_attn",)
    self_attn: MultiheadAttention

    def forward(self, src: Any, src_mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool = False) -> Any:
        see = lambda x: attend(self.self_attn, x, x, src_mask, src_key_padding_mask, is_causal)
        return self.block(2, self.block(1, src, see), self.feed_forward)


class TransformerDecoderLayer(Layer):
    """Self-attention, attention to `memory` (S, N, E), and two products: (T, N, E), to the same shape.

    With `batch_first` N comes first; one sample has no N.  A. Vaswani et al., NeurIPS 2017.
    """

    attentions = ("self_attn", "multihead_attn")
    self_attn: MultiheadAttention
    multihead_attn: MultiheadAttention

    def forward(self, tgt: Any, memory: Any, tgt_mask: Any = None, memory_mask: Any = None,
                tgt_key_padding_mask: Any = None, memory_key_padding_mask: Any = None, tgt_is_causal: bool = False,
                memory_is_causal: bool = False) -> Any:
        see = lambda x: attend(self.self_attn, x, x, tgt_mask, tgt_key_padding_mask, tgt_is_causal)
        remember = lambda x: attend(self.multihead_attn, x, memory, memory_mask, memory_key_padding_mask,
                                    memory_is_causal)
        x = self.block(1, tgt, see)
        x = self.block(2, x, remember)
        return self.block(3, x, self.feed_forward)


class Stack(Module):
    """Abstract: copies of a layer, one after the other, and a norm at the end, unless it is None."""

    def __init__(self, layer: Module, num_layers: int, norm: Module | None) -> None:
        shared: dict[int, Any] = {id(m.rng): m.rng for m in layer.modules() if hasattr(m, "rng")}  # each draws its own
        self.layers = ModuleList([copy.deepcopy(layer, {**shared}) for _ in range(num_layers)])
        self.num_layers, self.norm = num_layers, norm

    def through(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        for layer in self.layers:
            x = layer(x, *args, **kwargs)
        return x if self.norm is None else self.norm(x)


class TransformerEncoder(Stack):
    """Copies of an encoder layer.  `enable_nested_tensor` and `mask_check` are accepted and ignored."""

    def __init__(self, encoder_layer: Module, num_layers: int, norm: Module | None = None,
                 enable_nested_tensor: bool = True, mask_check: bool = True) -> None:
        super().__init__(encoder_layer, num_layers, norm)

    def forward(self, src: Any, mask: Any = None, src_key_padding_mask: Any = None,
                is_causal: bool | None = None) -> Any:
        return self.through(src, src_mask=mask, src_key_padding_mask=src_key_padding_mask, is_causal=bool(is_causal))


class TransformerDecoder(Stack):
    """Copies of a decoder layer."""

    def __init__(self, decoder_layer: Module, num_layers: int, norm: Module | None = None) -> None:
        super().__init__(decoder_layer, num_layers, norm)

    def forward(self, tgt: Any, memory: Any, tgt_mask: Any = None, memory_mask: Any = None,
                tgt_key_padding_mask: Any = None, memory_key_padding_mask: Any = None,
                tgt_is_causal: bool | None = None, memory_is_causal: bool = False) -> Any:
        return self.through(tgt, memory, tgt_mask=tgt_mask, memory_mask=memory_mask,
                            tgt_key_padding_mask=tgt_key_padding_mask, memory_key_padding_mask=memory_key_padding_mask,
                            tgt_is_causal=bool(tgt_is_causal), memory_is_causal=memory_is_causal)


class Transformer(Module):
    """An encoder of `src` (S, N, E) and a decoder of `tgt` (T, N, E), which sees what the encoder makes: (T, N, E).

    With `batch_first` N comes first; one sample has no N.  Masks are True for what is *not* seen, or are added to the
    scores.  A `custom_encoder` and a `custom_decoder` take the places of stacks of PyTorch's layers.
    A. Vaswani et al., NeurIPS 2017.
    """

    def __init__(self, d_model: int = 512, nhead: int = 8, num_encoder_layers: int = 6, num_decoder_layers: int = 6,
                 dim_feedforward: int = 2048, dropout: float = 0.1, activation: Activation = F.relu,
                 custom_encoder: Any = None, custom_decoder: Any = None, layer_norm_eps: float = 1e-5,
                 batch_first: bool = False, norm_first: bool = False, bias: bool = True, device: str | None = None,
                 dtype: Any = None, rng: Generator | None = None) -> None:
        def stack(kind: Any, layer: type[Layer], number: int) -> Stack:
            return kind(layer(d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first,
                              norm_first, bias, device, dtype, rng), number,
                        LayerNorm(d_model, layer_norm_eps, bias=bias, device=device, dtype=dtype))

        self.encoder, self.decoder = custom_encoder, custom_decoder
        if custom_encoder is None:
            self.encoder = stack(TransformerEncoder, TransformerEncoderLayer, num_encoder_layers)
        if custom_decoder is None:
            self.decoder = stack(TransformerDecoder, TransformerDecoderLayer, num_decoder_layers)
        self.d_model, self.nhead, self.batch_first = d_model, nhead, batch_first
        self.reset_parameters(rng)

    def reset_parameters(self, rng: Generator | None = None) -> None:
        """Draw the matrices anew, by X. Glorot's scheme."""
        for p in self.parameters():
            if p.ndim > 1:
                xavier_uniform_(p, generator=rng)

    def forward(self, src: Any, tgt: Any, src_mask: Any = None, tgt_mask: Any = None, memory_mask: Any = None,
                src_key_padding_mask: Any = None, tgt_key_padding_mask: Any = None,
                memory_key_padding_mask: Any = None, src_is_causal: bool | None = None,
                tgt_is_causal: bool | None = None, memory_is_causal: bool = False) -> Any:
        for name, x in ("src", src), ("tgt", tgt):
            if x.shape[-1] != self.d_model:
                raise ValueError(f"Transformer: {name} {x.shape} has {x.shape[-1]} features, "
                                 f"not d_model={self.d_model}")
        axis = 0 if self.batch_first else 1
        if src.ndim != tgt.ndim or (src.ndim == 3 and src.shape[axis] != tgt.shape[axis]):
            raise ValueError(f"Transformer: src {src.shape} and tgt {tgt.shape} are not as many samples, axis {axis} "
                             f"with batch_first={self.batch_first}")
        memory = self.encoder(src, mask=src_mask, src_key_padding_mask=src_key_padding_mask, is_causal=src_is_causal)
        return self.decoder(
            tgt, memory, tgt_mask=tgt_mask, memory_mask=memory_mask, tgt_key_padding_mask=tgt_key_padding_mask,
            memory_key_padding_mask=memory_key_padding_mask, tgt_is_causal=tgt_is_causal,
            memory_is_causal=memory_is_causal)

    @staticmethod
    def generate_square_subsequent_mask(sz: int, device: str | None = None, dtype: Any = None) -> Tensor:
        """The (sz, sz) mask by which none sees what comes later: -inf above the diagonal, else 0."""
        return triu(full((sz, sz), -math.inf, dtype or "float32", device), 1)
