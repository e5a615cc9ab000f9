"""Transformer layers, stacks of layers, and the encoder-decoder model."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, ClassVar

import gpuprop.functional as F
from gpuprop._array.creation import full
from gpuprop._array.indexing import triu
from gpuprop._core.options import checks_options
from gpuprop._core.tensor import Tensor
from gpuprop.nn._attention import MultiheadAttention
from gpuprop.nn._container import ModuleList
from gpuprop.nn._dropout import Dropout
from gpuprop.nn._linear import Linear
from gpuprop.nn._module import Module, initialize
from gpuprop.nn._normalization import LayerNorm
from gpuprop.nn.init import xavier_uniform_
from gpuprop.random import Generator

Activation = str | Callable[[Any], Any]
ACTIVATIONS: dict[str, Callable] = {"relu": F.relu, "gelu": F.gelu}


class TransformerLayer(Module):
    """Abstract: residual blocks with one or two attention layers and a feed-forward network."""

    _attention_names: ClassVar[tuple[str, ...]]

    @checks_options
    def __init__(self, d_model: int, nhead: int, dim_feedforward: int = 2048,
                 dropout: float = 0.1, activation: Activation = F.relu,
                 layer_norm_eps: float = 1e-5, batch_first: bool = False,
                 norm_first: bool = False, bias: bool = True, device: str | None = None,
                 dtype: Any = None, rng: Generator | None = None) -> None:
        is_name = isinstance(activation, str)
        if activation not in ACTIVATIONS if is_name else not callable(activation):
            kind = ValueError if is_name else TypeError
            raise kind(f"{type(self).__name__}: activation must be 'relu', 'gelu' or a function, "
                       f"got {activation!r}")
        n_blocks = len(self._attention_names) + 1  # the last one is the feed-forward network
        for name in self._attention_names:
            attention = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first,
                                           device=device, dtype=dtype, rng=rng)
            setattr(self, name, attention)
        self.linear1 = Linear(d_model, dim_feedforward, bias, device, dtype, rng)
        self.dropout = Dropout(dropout, rng=rng)
        self.linear2 = Linear(dim_feedforward, d_model, bias, device, dtype, rng)
        self.norm_first = norm_first
        for i in range(1, n_blocks + 1):
            norm = LayerNorm(d_model, layer_norm_eps, bias=bias, device=device, dtype=dtype)
            setattr(self, f"norm{i}", norm)
        for i in range(1, n_blocks + 1):
            setattr(self, f"dropout{i}", Dropout(dropout, rng=rng))
        self.activation = ACTIVATIONS[activation] if isinstance(activation, str) else activation

    def _residual_block(self, i: int, x: Any, sublayer: Callable[[Any], Any]) -> Any:
        """``norm(x + dropout(sublayer(x)))``, or ``x + dropout(sublayer(norm(x)))``."""
        norm = getattr(self, f"norm{i}")
        dropout = getattr(self, f"dropout{i}")
        if self.norm_first:
            return x + dropout(sublayer(norm(x)))
        return norm(x + dropout(sublayer(x)))

    def _feed_forward(self, x: Any) -> Any:
        return self.linear2(self.dropout(self.activation(self.linear1(x))))


def _attend(attention: MultiheadAttention, x: Any, source: Any, mask: Any, padding_mask: Any,
            is_causal: bool) -> Any:
    """The output of attention with queries from `x`, and keys and values from `source`."""
    output, _ = attention(x, source, source, padding_mask, False, mask, is_causal=is_causal)
    return output


class TransformerEncoderLayer(TransformerLayer):
    """Self-attention and a feed-forward network, each with a residual connection.

    ``x = norm1(x + dropout1(self_attn(x)))``
    ``x = norm2(x + dropout2(linear2(dropout(activation(linear1(x))))))``

    With `norm_first`:

    ``x = x + dropout1(self_attn(norm1(x)))``
    ``x = x + dropout2(linear2(dropout(activation(linear1(norm2(x))))))``

    Input and output (S, N, d_model), or (N, S, d_model) with `batch_first`, or (S, d_model) for a
    single sample.  `activation` is "relu", "gelu" or a function.  For masks see `Transformer`.

    A. Vaswani et al., NeurIPS 2017; `norm_first`: R. Xiong et al., ICML 2020.

    >>> from gpuprop import nn
    >>> layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=16, batch_first=True)
    >>> layer(gpuprop.ones(3, 5, 8)).shape
    (3, 5, 8)
    """

    _attention_names = ("self_attn",)
    self_attn: MultiheadAttention

    def forward(self, src: Any, src_mask: Any = None, src_key_padding_mask: Any = None,
                is_causal: bool = False) -> Any:
        def self_attention(x: Any) -> Any:
            return _attend(self.self_attn, x, x, src_mask, src_key_padding_mask, is_causal)

        x = self._residual_block(1, src, self_attention)
        return self._residual_block(2, x, self._feed_forward)


class TransformerDecoderLayer(TransformerLayer):
    """Self-attention, cross-attention to `memory`, and a feed-forward network.

    ``x = norm1(x + dropout1(self_attn(x)))``
    ``x = norm2(x + dropout2(multihead_attn(x, memory)))``
    ``x = norm3(x + dropout3(linear2(dropout(activation(linear1(x))))))``

    With `norm_first`, the norms are applied as in `TransformerEncoderLayer`.

    tgt and output (T, N, d_model), memory (S, N, d_model); with `batch_first`, N is the first axis;
    a single sample has no axis N.  For masks see `Transformer`.

    A. Vaswani et al., NeurIPS 2017.
    """

    _attention_names = ("self_attn", "multihead_attn")
    self_attn: MultiheadAttention
    multihead_attn: MultiheadAttention

    def forward(self, tgt: Any, memory: Any, tgt_mask: Any = None, memory_mask: Any = None,
                tgt_key_padding_mask: Any = None, memory_key_padding_mask: Any = None,
                tgt_is_causal: bool = False, memory_is_causal: bool = False) -> Any:
        def self_attention(x: Any) -> Any:
            return _attend(self.self_attn, x, x, tgt_mask, tgt_key_padding_mask, tgt_is_causal)

        def cross_attention(x: Any) -> Any:
            return _attend(self.multihead_attn, x, memory, memory_mask, memory_key_padding_mask,
                           memory_is_causal)

        x = self._residual_block(1, tgt, self_attention)
        x = self._residual_block(2, x, cross_attention)
        return self._residual_block(3, x, self._feed_forward)


class TransformerStack(Module):
    """Abstract: copies of a layer in sequence, and an optional final norm."""

    def __init__(self, layer: Module, num_layers: int, norm: Module | None) -> None:
        # The copies share the layer's generators, so that each copy draws different numbers:
        # deepcopy does not copy objects that are in its memo.
        memo: dict[int, Any] = {id(m.rng): m.rng for m in layer.modules() if hasattr(m, "rng")}
        self.layers = ModuleList([copy.deepcopy(layer, {**memo}) for _ in range(num_layers)])
        self.num_layers = num_layers
        self.norm = norm

    def _apply_layers(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        for layer in self.layers:
            x = layer(x, *args, **kwargs)
        return x if self.norm is None else self.norm(x)


class TransformerEncoder(TransformerStack):
    """`num_layers` copies of `encoder_layer` in sequence, and an optional final `norm`.

    The copies start with the weights of `encoder_layer`, but share no parameters.  Shapes are those
    of the layer.  `enable_nested_tensor` and `mask_check` are accepted and ignored.
    """

    @checks_options
    def __init__(self, encoder_layer: Module, num_layers: int, norm: Module | None = None,
                 enable_nested_tensor: bool = True, mask_check: bool = True) -> None:
        super().__init__(encoder_layer, num_layers, norm)

    def forward(self, src: Any, mask: Any = None, src_key_padding_mask: Any = None,
                is_causal: bool | None = None) -> Any:
        return self._apply_layers(src, src_mask=mask, src_key_padding_mask=src_key_padding_mask,
                                  is_causal=bool(is_causal))


class TransformerDecoder(TransformerStack):
    """`num_layers` copies of `decoder_layer` in sequence, and an optional final `norm`.

    The copies start with the weights of `decoder_layer`, but share no parameters.  All of them
    attend to the same `memory`.  Shapes are those of the layer.
    """

    @checks_options
    def __init__(self, decoder_layer: Module, num_layers: int, norm: Module | None = None) -> None:
        super().__init__(decoder_layer, num_layers, norm)

    def forward(self, tgt: Any, memory: Any, tgt_mask: Any = None, memory_mask: Any = None,
                tgt_key_padding_mask: Any = None, memory_key_padding_mask: Any = None,
                tgt_is_causal: bool | None = None, memory_is_causal: bool = False) -> Any:
        return self._apply_layers(
            tgt, memory, tgt_mask=tgt_mask, memory_mask=memory_mask,
            tgt_key_padding_mask=tgt_key_padding_mask,
            memory_key_padding_mask=memory_key_padding_mask,
            tgt_is_causal=bool(tgt_is_causal), memory_is_causal=memory_is_causal)


class Transformer(Module):
    """Encoder-decoder model: ``decoder(tgt, encoder(src))``.

    src (S, N, d_model), tgt and output (T, N, d_model); with `batch_first`, N is the first axis; a
    single sample has no axis N.  The model does not include embeddings, positional encodings or an
    output layer.

    `src_mask` is (S, S), `tgt_mask` (T, T), `memory_mask` (T, S); with one matrix for each sample
    and head, they are (N * nhead, ...).  `src_key_padding_mask` and `memory_key_padding_mask` are
    (N, S), `tgt_key_padding_mask` is (N, T).  A bool mask is True where attention is *not* allowed;
    a floating mask is added to the scores.  The `is_causal` arguments assert that a mask is causal;
    the mask must still be given.

    `custom_encoder` and `custom_decoder` replace the stacks of layers.

    A. Vaswani et al., NeurIPS 2017.
    """

    @checks_options
    def __init__(self, d_model: int = 512, nhead: int = 8, num_encoder_layers: int = 6,
                 num_decoder_layers: int = 6, dim_feedforward: int = 2048, dropout: float = 0.1,
                 activation: Activation = F.relu, custom_encoder: Module | None = None,
                 custom_decoder: Module | None = None, layer_norm_eps: float = 1e-5,
                 batch_first: bool = False, norm_first: bool = False, bias: bool = True,
                 device: str | None = None, dtype: Any = None,
                 rng: Generator | None = None) -> None:
        def new_layer(layer_type: type[TransformerLayer]) -> TransformerLayer:
            return layer_type(d_model, nhead, dim_feedforward, dropout, activation,
                              layer_norm_eps, batch_first, norm_first, bias, device, dtype, rng)

        def new_norm() -> LayerNorm:
            return LayerNorm(d_model, layer_norm_eps, bias=bias, device=device, dtype=dtype)

        self.encoder: Any = custom_encoder
        if custom_encoder is None:
            layer = new_layer(TransformerEncoderLayer)
            self.encoder = TransformerEncoder(layer, num_encoder_layers, new_norm())
        self.decoder: Any = custom_decoder
        if custom_decoder is None:
            layer = new_layer(TransformerDecoderLayer)
            self.decoder = TransformerDecoder(layer, num_decoder_layers, new_norm())
        self.d_model = d_model
        self.nhead = nhead
        self.batch_first = batch_first
        initialize(self, rng)

    def reset_parameters(self, rng: Generator | None = None) -> None:
        """Initialize all weight matrices again, by Xavier's scheme; biases keep their values."""
        for p in self.parameters():
            if p.ndim > 1:
                xavier_uniform_(p, generator=rng)

    def forward(self, src: Any, tgt: Any, src_mask: Any = None, tgt_mask: Any = None,
                memory_mask: Any = None, src_key_padding_mask: Any = None,
                tgt_key_padding_mask: Any = None, memory_key_padding_mask: Any = None,
                src_is_causal: bool | None = None, tgt_is_causal: bool | None = None,
                memory_is_causal: bool = False) -> Any:
        for name, x in ("src", src), ("tgt", tgt):
            if x.shape[-1] != self.d_model:
                raise ValueError(f"Transformer: {name} {x.shape} has {x.shape[-1]} features, "
                                 f"expected d_model={self.d_model}")
        axis = 0 if self.batch_first else 1
        if src.ndim != tgt.ndim or (src.ndim == 3 and src.shape[axis] != tgt.shape[axis]):
            raise ValueError(f"Transformer: src {src.shape} and tgt {tgt.shape} must have the "
                             f"same batch size, axis {axis} with batch_first={self.batch_first}")
        memory = self.encoder(src, mask=src_mask, src_key_padding_mask=src_key_padding_mask,
                              is_causal=src_is_causal)
        return self.decoder(
            tgt, memory, tgt_mask=tgt_mask, memory_mask=memory_mask,
            tgt_key_padding_mask=tgt_key_padding_mask,
            memory_key_padding_mask=memory_key_padding_mask, tgt_is_causal=tgt_is_causal,
            memory_is_causal=memory_is_causal)

    @staticmethod
    def generate_square_subsequent_mask(sz: int, device: str | None = None,
                                        dtype: Any = None) -> Tensor:
        """The causal mask (sz, sz) that is added to scores: -inf above the diagonal, else 0."""
        return triu(full((sz, sz), -math.inf, dtype or "float32", device), 1)
