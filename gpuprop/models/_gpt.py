"""GPT-2: a Transformer decoder that predicts the next token of a text.

A. Radford et al., "Language models are unsupervised multitask learners", 2019.

Names and shapes of the entries of `state_dict` are those of Hugging Face's `GPT2LMHeadModel`; only
the output layer has no entry of its own, since its weight is that of the token embedding.
Published weights load (`GPT.load_state_dict`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import gpuprop.decoding as decoding
import gpuprop.functional as F
import gpuprop.nn as nn
from gpuprop._array.shape import unstack
from gpuprop._core.graph import raw
from gpuprop._core.namespace import namespace
from gpuprop._core.options import checks_options
from gpuprop._core.tensor import Tensor, tensor
from gpuprop.nn._module import new_tensor

Caches = list[nn.KeyValueCache]


class Conv1D(nn.Module):
    """``y = x @ weight + bias``: `nn.Linear` with the transposed weight (in, out).

    GPT-2 was written with it, so its files have such weights, which therefore load as they are.
    """

    def __init__(self, in_features: int, out_features: int, std: float = 0.02) -> None:
        self.weight = nn.Parameter(new_tensor((in_features, out_features)))
        self.bias = nn.Parameter(new_tensor((out_features,)))
        nn.init.normal_(self.weight, std=std)

    def forward(self, x: Any) -> Any:
        return F.linear(x, self.weight.T, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.weight.shape[0]}, out_features={self.weight.shape[1]}"


class Attention(nn.Module):
    """Causal self-attention: each token attends to itself and to earlier ones.

    With a cache, the input follows the tokens in the cache.
    """

    def __init__(self, width: int, heads: int, dropout: float, residual_std: float) -> None:
        self.heads = heads
        self.dropout = dropout
        self.c_attn = Conv1D(width, 3 * width)  # queries, keys and values of all heads
        self.c_proj = Conv1D(width, width, residual_std)
        self.resid_dropout = nn.Dropout(dropout)

    def forward(self, x: Any, cache: nn.KeyValueCache | None = None) -> Any:
        n, t, width = x.shape
        parts = self.c_attn(x).reshape(n, t, 3, self.heads, width // self.heads)
        q, k, v = (part.swapaxes(1, 2) for part in unstack(parts, 2))  # (n, heads, t, dim)
        dropout = self.dropout if self.training else 0.0
        if cache is None:
            y = F.scaled_dot_product_attention(q, k, v, None, dropout, True)
        else:
            k, v = cache.update(k, v)
            y = F.scaled_dot_product_attention(q, k, v, cache.mask(t), dropout)
        return self.resid_dropout(self.c_proj(y.swapaxes(1, 2).reshape(n, t, width)))


class MLP(nn.Module):
    """``dropout(c_proj(gelu(c_fc(x))))``, with GELU's approximation by tanh."""

    def __init__(self, width: int, dropout: float, residual_std: float) -> None:
        self.c_fc = Conv1D(width, 4 * width)
        self.c_proj = Conv1D(4 * width, width, residual_std)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Any) -> Any:
        return self.dropout(self.c_proj(F.gelu(self.c_fc(x), approximate="tanh")))


class Block(nn.Module):
    """``x = x + attn(ln_1(x))``, then ``x + mlp(ln_2(x))``."""

    def __init__(self, width: int, heads: int, dropout: float, residual_std: float) -> None:
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads, dropout, residual_std)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = MLP(width, dropout, residual_std)

    def forward(self, x: Any, cache: nn.KeyValueCache | None = None) -> Any:
        x = x + self.attn(self.ln_1(x), cache)
        return x + self.mlp(self.ln_2(x))


class Decoder(nn.Module):
    """Embeddings of tokens and positions, `n_layer` blocks, and a final norm."""

    def __init__(self, vocab_size: int, n_positions: int, n_embd: int, n_layer: int, n_head: int,
                 dropout: float) -> None:
        self.wte = nn.Embedding(vocab_size, n_embd)
        self.wpe = nn.Embedding(n_positions, n_embd)
        for embedding in (self.wte, self.wpe):
            nn.init.normal_(embedding.weight, std=0.02)
        self.drop = nn.Dropout(dropout)
        # 2 * n_layer outputs are added to x: with this scale, their sum has the variance of one.
        residual_std = 0.02 / math.sqrt(2 * n_layer)
        self.h = nn.ModuleList(Block(n_embd, n_head, dropout, residual_std)
                               for _ in range(n_layer))
        self.ln_f = nn.LayerNorm(n_embd)

    def forward(self, tokens: Any, caches: Caches | None = None) -> Any:
        positions = namespace(raw(tokens)).arange(tokens.shape[1])
        if caches:
            positions = positions + caches[0].length
        x = self.drop(self.wte(tokens) + self.wpe(positions))
        for i, block in enumerate(self.h):
            x = block(x, caches[i] if caches else None)
        return self.ln_f(x)


class GPT(nn.Module):
    """GPT-2: tokens (N, T) to logits (N, T, vocab_size) of the next tokens.

    T is at most `n_positions`.  With `caches`, one for each layer, the tokens follow those of the
    calls before.  `dropout` acts on embeddings, attention weights and residual branches.

    >>> from gpuprop import models
    >>> model = models.GPT(vocab_size=11, n_positions=8, n_embd=16, n_layer=2, n_head=2).eval()
    >>> model(gpuprop.tensor([[1, 2, 3]])).shape
    (1, 3, 11)
    >>> model.generate([[1, 2, 3]], max_new_tokens=4).shape
    (1, 7)
    """

    @checks_options(vocab_size=1, n_positions=1, n_embd=1, n_layer=1, n_head=1)
    def __init__(self, vocab_size: int = 50257, n_positions: int = 1024, n_embd: int = 768,
                 n_layer: int = 12, n_head: int = 12, dropout: float = 0.1) -> None:
        if n_embd % n_head:
            raise ValueError(f"GPT: n_head={n_head} must divide n_embd={n_embd}")
        self.vocab_size = vocab_size
        self.n_positions = n_positions
        self.n_head = n_head
        self.transformer = Decoder(vocab_size, n_positions, n_embd, n_layer, n_head, dropout)

    def forward(self, tokens: Any, caches: Caches | None = None) -> Any:
        if tokens.shape[1] > self.n_positions:
            raise ValueError(f"GPT: tokens {tokens.shape} are more than "
                             f"n_positions={self.n_positions}")
        return F.linear(self.transformer(tokens, caches), self.transformer.wte.weight)

    def generate(self, tokens: Any, max_new_tokens: int, eos: int | None = None,
                 choose: Callable[[Tensor], Any] = decoding.greedy) -> Tensor:
        """Continue prompts (N, T) as `gpuprop.decoding.generate`; call `eval` first.

        ``choose=lambda logits: gpuprop.decoding.sample(logits, 0.8, top_k=20)`` samples.
        """
        prompts = tensor(tokens)
        length = prompts.shape[-1] + max_new_tokens - 1  # the last token is not read
        if length > self.n_positions:
            raise ValueError(f"GPT.generate: prompts {prompts.shape} and {max_new_tokens} new "
                             f"tokens are longer than n_positions={self.n_positions}")
        weight = self.transformer.wte.weight
        caches = [nn.KeyValueCache(len(prompts), max(1, length), self.n_head,
                                   weight.shape[1] // self.n_head).to(weight)
                  for _ in self.transformer.h]
        return decoding.generate(lambda new: self(new, caches)[:, -1], prompts, max_new_tokens,
                                 eos=eos, choose=choose)

    def load_state_dict(self, state_dict: dict[str, Any], strict: bool = True) -> Any:
        """As `Module.load_state_dict`, also from the files that Hugging Face publishes.

        These may lack the prefix "transformer.", and contain causal masks and the output layer.
        """
        if isinstance(state_dict, Mapping):
            ignored = (".attn.bias", ".attn.masked_bias", "lm_head.weight")
            state_dict = {"transformer." + name.removeprefix("transformer."): value
                          for name, value in state_dict.items() if not name.endswith(ignored)}
        return super().load_state_dict(state_dict, strict)


def gpt2(**options: Any) -> GPT:
    """GPT-2 with 124 million parameters.  `options` are those of `GPT`."""
    return GPT(**options)


def gpt2_medium(**options: Any) -> GPT:
    """GPT-2 with 355 million parameters.  `options` are those of `GPT`."""
    return GPT(n_embd=1024, n_layer=24, n_head=16, **options)


def gpt2_large(**options: Any) -> GPT:
    """GPT-2 with 774 million parameters.  `options` are those of `GPT`."""
    return GPT(n_embd=1280, n_layer=36, n_head=20, **options)


def gpt2_xl(**options: Any) -> GPT:
    """GPT-2 with 1558 million parameters.  `options` are those of `GPT`."""
    return GPT(n_embd=1600, n_layer=48, n_head=25, **options)
