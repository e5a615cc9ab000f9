"""A bidirectional LSTM that tags words (Z. Huang et al., 2015), as a PyTorch user writes it."""

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class Tagger(nn.Module):
    def __init__(self, vocab_size, num_tags, embedding_dim=100, hidden_size=128, num_layers=2,
                 dropout=0.3):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embedding_dim, padding_idx=0)
        self.lstm = nn.LSTM(embedding_dim, hidden_size, num_layers=num_layers, batch_first=True,
                            dropout=dropout, bidirectional=True)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(2 * hidden_size, num_tags)
        for name, p in self.lstm.named_parameters():
            if "weight_hh" in name:
                nn.init.orthogonal_(p)
            elif "bias" in name:
                nn.init.zeros_(p)

    def forward(self, words, lengths):
        self.lstm.flatten_parameters()
        x = self.dropout(self.embedding(words))
        x = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        x, (h, _) = self.lstm(x)
        x, _ = pad_packed_sequence(x, batch_first=True, total_length=words.size(1))
        sentence = torch.cat([h[-2], h[-1]], -1)
        return self.fc(self.dropout(x + sentence.unsqueeze(1)))
