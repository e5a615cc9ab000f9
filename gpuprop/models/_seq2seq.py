"""An encoder-decoder Transformer on tokens, for example for translation.

The encoder reads the source.  The decoder predicts each token of the target from the tokens before
it and from the encoder's output.

A. Vaswani et al., "Attention is all you need", NeurIPS 2017.

Names of the entries of `state_dict` are those of PyTorch's tutorial on translation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gpuprop.decoding as decoding
import gpuprop.nn as nn
from gpuprop._array.shape import concatenate, repeat
from gpuprop._core.graph import raw
from gpuprop._core.mode import no_grad
from gpuprop._core.namespace import namespace
from gpuprop._core.options import checks_options
from gpuprop._core.tensor import Tensor, tensor


class TokenEmbedding(nn.Module):
    """``sqrt(emb_size) * embedding(tokens)``, beside which positions of order 1 are not large."""

    def __init__(self, vocab_size: int, emb_size: int) -> None:
        self.embedding = nn.Embedding(vocab_size, emb_size)

    def forward(self, tokens: Any) -> Any:
        return self.embedding(tokens) * math.sqrt(self.embedding.embedding_dim)


class Seq2SeqTransformer(nn.Module):
    """Source tokens (N, S) and target tokens (N, T) to logits (N, T, tgt_vocab_size).

    The logits at position t are of the token at t + 1, and depend on the target up to t.  So in
    training, the target begins with a start token, and labels are the target without it.  No
    position attends to `pad_idx`.

    >>> from gpuprop import models
    >>> model = models.Seq2SeqTransformer(1, 1, emb_size=8, nhead=2, src_vocab_size=7,
    ...                                   tgt_vocab_size=9, dim_feedforward=16).eval()
    >>> source = gpuprop.tensor([[3, 4, 5, 6]])
    >>> model(source, gpuprop.tensor([[2, 5, 5]])).shape
    (1, 3, 9)
    >>> model.generate(source, start=2, max_new_tokens=4).shape
    (1, 5)
    """

    @checks_options(emb_size=1, src_vocab_size=1, tgt_vocab_size=1)
    def __init__(self, num_encoder_layers: int, num_decoder_layers: int, emb_size: int, nhead: int,
                 src_vocab_size: int, tgt_vocab_size: int, dim_feedforward: int = 512,
                 dropout: float = 0.1, pad_idx: int = 1) -> None:
        self.pad_idx = pad_idx
        self.transformer = nn.Transformer(emb_size, nhead, num_encoder_layers, num_decoder_layers,
                                          dim_feedforward, dropout, batch_first=True)
        self.generator = nn.Linear(emb_size, tgt_vocab_size)
        self.src_tok_emb = TokenEmbedding(src_vocab_size, emb_size)
        self.tgt_tok_emb = TokenEmbedding(tgt_vocab_size, emb_size)
        self.positional_encoding = nn.SinusoidalPositionalEncoding(emb_size, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        for p in self.parameters():
            if p.ndim > 1:
                nn.init.xavier_uniform_(p)

    def encode(self, src: Any) -> Any:
        """What the decoder attends to, (N, S, emb_size)."""
        x = self.dropout(self.positional_encoding(self.src_tok_emb(src)))
        return self.transformer.encoder(x, src_key_padding_mask=src == self.pad_idx)

    def decode(self, tgt: Any, memory: Any, src: Any) -> Any:
        """The logits (N, T, tgt_vocab_size), with the encoder's output `memory`."""
        xp = namespace(raw(tgt))
        hidden = xp.triu(xp.ones((tgt.shape[1], tgt.shape[1]), "bool"), 1)  # later positions
        x = self.dropout(self.positional_encoding(self.tgt_tok_emb(tgt)))
        x = self.transformer.decoder(
            x, memory, tgt_mask=hidden, tgt_key_padding_mask=tgt == self.pad_idx,
            memory_key_padding_mask=src == self.pad_idx, tgt_is_causal=True)
        return self.generator(x)

    def forward(self, src: Any, tgt: Any) -> Any:
        return self.decode(tgt, self.encode(src), src)

    def generate(self, src: Any, start: int, max_new_tokens: int, eos: int | None = None,
                 choose: Callable[[Tensor], Any] = decoding.greedy) -> Tensor:
        """Targets (N, 1 + at most `max_new_tokens`) that begin with `start`; call `eval` first.

        The other parameters are those of `gpuprop.decoding.generate`.
        """
        search = Search(self, src)
        return decoding.generate(search.step, search.prompts(start), max_new_tokens, eos=eos,
                                 pad=self.pad_idx, choose=choose)

    def beam_search(self, src: Any, start: int, max_new_tokens: int, beams: int,
                    eos: int | None = None, length_penalty: float = 1.0) -> tuple[Tensor, Tensor]:
        """The best targets (N, beams, length) and their scores; call `eval` first.

        The parameters are those of `gpuprop.decoding.beam_search`.
        """
        search = Search(self, src, beams)
        return decoding.beam_search(search.step, search.prompts(start), max_new_tokens, beams,
                                    eos=eos, pad=self.pad_idx, length_penalty=length_penalty,
                                    reorder=search.reorder)


class Search:
    """The state of a search: the targets so far, and the sources, `beams` times each."""

    def __init__(self, model: Seq2SeqTransformer, src: Any, beams: int = 1) -> None:
        self.model = model
        self.beams = beams
        self.src = repeat(tensor(src), beams, 0)
        self.tgt: Any = None
        with no_grad():
            self.memory = model.encode(self.src)

    def prompts(self, start: int) -> Any:
        """The beginning of each target, (N, 1)."""
        return namespace(raw(self.src)).full((len(self.src) // self.beams, 1), start, "int64")

    def step(self, new: Tensor) -> Any:
        """The logits of the next tokens.  All positions are computed again: there is no cache."""
        self.tgt = new if self.tgt is None else concatenate([self.tgt, new], 1)
        return self.model.decode(self.tgt, self.memory, self.src)[:, -1]

    def reorder(self, index: Tensor) -> None:
        # A sequence moves only among the rows of its source, so sources and memory stay.
        self.tgt = self.tgt[index]
