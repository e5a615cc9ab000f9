"""An LSTM that tags the words of sentences, for example with parts of speech.

One LSTM reads the sentence from the left and one from the right, so that a tag depends on all of
it.  Sentences of different lengths are packed: no step is computed for padding.

Z. Huang, W. Xu and K. Yu, "Bidirectional LSTM-CRF models for sequence tagging", 2015, without the
conditional random field.

Names of the entries of `state_dict` are those of PyTorch's tutorial on taggers.
"""

from __future__ import annotations

from typing import Any

import gpuprop.nn as nn
from gpuprop._core.options import checks_options
from gpuprop.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class LSTMTagger(nn.Module):
    """Words (N, T), with `lengths` of the N sentences, to logits (N, T, tagset_size).

    Logits after the end of a sentence mean nothing: let the loss ignore them, by
    ``F.cross_entropy(logits.reshape(-1, tags), labels.reshape(-1), ignore_index=-1)`` with labels
    of -1.  Without `lengths`, all sentences have T words.  `dropout` acts on the embeddings and on
    the output of each layer.

    >>> from gpuprop import models
    >>> model = models.LSTMTagger(embedding_dim=8, hidden_dim=4, vocab_size=20, tagset_size=3)
    >>> model(gpuprop.tensor([[5, 7, 2], [4, 0, 0]]), lengths=[3, 1]).shape
    (2, 3, 3)
    """

    @checks_options(hidden_dim=1, vocab_size=1, tagset_size=1)
    def __init__(self, embedding_dim: int, hidden_dim: int, vocab_size: int, tagset_size: int,
                 num_layers: int = 1, dropout: float = 0.0) -> None:
        self.word_embeddings = nn.Embedding(vocab_size, embedding_dim)
        between_layers = dropout if num_layers > 1 else 0.0
        self.lstm = nn.LSTM(embedding_dim, hidden_dim, num_layers, batch_first=True,
                            dropout=between_layers, bidirectional=True)
        self.hidden2tag = nn.Linear(2 * hidden_dim, tagset_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, words: Any, lengths: Any = None) -> Any:
        x = self.dropout(self.word_embeddings(words))
        if lengths is None:
            x, _ = self.lstm(x)
        else:
            packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            packed, _ = self.lstm(packed)
            x, _ = pad_packed_sequence(packed, batch_first=True, total_length=words.shape[1])
        return self.hidden2tag(self.dropout(x))
