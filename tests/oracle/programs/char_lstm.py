"""A character LSTM with truncated backpropagation, and sampling."""

import torch
from common import filled, labels
from torch import nn


class RNN(nn.Module):
    def __init__(self, tokens, hidden, layers):
        super().__init__()
        self.hidden, self.layers = hidden, layers
        self.encoder = nn.Embedding(tokens, hidden)
        self.rnn = nn.LSTM(hidden, hidden, layers, batch_first=True)
        self.decoder = nn.Linear(hidden, tokens)
        self.init_weights()

    def init_weights(self):
        self.encoder.weight.data.uniform_(-0.1, 0.1)
        self.decoder.bias.data.zero_()

    def forward(self, input, hidden):
        output, hidden = self.rnn(self.encoder(input), hidden)
        decoded = self.decoder(output.contiguous().view(output.size(0) * output.size(1), -1))
        return decoded, hidden

    def init_hidden(self, batch):
        weight = next(self.parameters())
        return (weight.new_zeros(self.layers, batch, self.hidden),
                weight.new_zeros(self.layers, batch, self.hidden))


def repackage_hidden(h):
    """Cut the history of the hidden states."""
    if isinstance(h, torch.Tensor):
        return h.detach()
    return tuple(repackage_hidden(v) for v in h)


def main():
    text = torch.LongTensor(labels(201, 7).tolist())
    source = text[:-1].narrow(0, 0, 200).view(4, -1).t().contiguous()  # (50, 4)
    target = text[1:].view(4, -1).t().contiguous()
    model = filled(RNN(7, 8, 2))
    criterion = nn.CrossEntropyLoss()
    hidden = model.init_hidden(4)
    losses = []
    for step in range(20):
        i = step * 2 % 45
        x, y = source[i:i + 5].t(), target[i:i + 5].t()
        hidden = repackage_hidden(hidden)
        model.zero_grad()
        output, hidden = model(x, hidden)
        loss = criterion(output, y.reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        for p in model.parameters():
            p.data.add_(p.grad, alpha=-0.5)
        losses.append(loss.item())
    model.eval()
    input, tokens = torch.zeros(1, 1, dtype=torch.long), []
    hidden = model.init_hidden(1)
    with torch.no_grad():
        for _ in range(20):
            output, hidden = model(input, hidden)
            word_weights = output.squeeze().div(0.8).exp()
            token = torch.topk(word_weights, 1)[1][0]
            input.fill_(token)
            tokens.append(token.item())
    return losses, tokens, hidden, list(model.parameters())
