"""A word language model with nn.TransformerEncoder, batchify and a learning rate that is halved."""

import math
import os
import tempfile

import torch
import torch.nn as nn
import torch.nn.functional as F
from common import filled, labels


class PositionalEncoding(nn.Module):
    def __init__(self, d_model, dropout=0.1, max_len=50):
        super().__init__()
        self.dropout = nn.Dropout(p=dropout)
        pe = torch.zeros(max_len, d_model).double()
        position = torch.arange(0, max_len, dtype=torch.double).unsqueeze(1)
        div_term = torch.exp(torch.arange(0, d_model, 2).double() * (-math.log(10000.0) / d_model))
        pe[:, 0::2] = torch.sin(position * div_term)
        pe[:, 1::2] = torch.cos(position * div_term)
        pe = pe.unsqueeze(0).transpose(0, 1)
        self.register_buffer("pe", pe)

    def forward(self, x):
        x = x + self.pe[:x.size(0), :]
        return self.dropout(x)


class TransformerModel(nn.Transformer):
    def __init__(self, ntoken, ninp, nhead, nhid, nlayers, dropout=0.0):
        super().__init__(d_model=ninp, nhead=nhead, dim_feedforward=nhid,
                         num_encoder_layers=nlayers, num_decoder_layers=1, dropout=dropout)
        self.src_mask = None
        self.pos_encoder = PositionalEncoding(ninp, dropout)
        self.input_emb = nn.Embedding(ntoken, ninp)
        self.ninp = ninp
        self.decoder = nn.Linear(ninp, ntoken)
        self.init_weights()

    def _generate_square_subsequent_mask(self, sz):
        return torch.log(torch.tril(torch.ones(sz, sz)))

    def init_weights(self):
        initrange = 0.1
        nn.init.uniform_(self.input_emb.weight, -initrange, initrange)
        nn.init.zeros_(self.decoder.bias)
        nn.init.uniform_(self.decoder.weight, -initrange, initrange)

    def forward(self, src, has_mask=True):
        if has_mask:
            device = src.device
            if self.src_mask is None or self.src_mask.size(0) != len(src):
                mask = self._generate_square_subsequent_mask(len(src)).to(device)
                self.src_mask = mask.double()
        else:
            self.src_mask = None
        src = self.input_emb(src) * math.sqrt(self.ninp)
        src = self.pos_encoder(src)
        output = self.encoder(src, mask=self.src_mask)
        output = self.decoder(output)
        return F.log_softmax(output, dim=-1)


def batchify(data, bsz):
    nbatch = data.size(0) // bsz
    data = data.narrow(0, 0, nbatch * bsz)
    return data.view(bsz, -1).t().contiguous()


def get_batch(source, i, bptt=5):
    seq_len = min(bptt, len(source) - 1 - i)
    return source[i:i + seq_len], source[i + 1:i + 1 + seq_len].view(-1)


def evaluate(model, criterion, source, ntokens):
    model.eval()
    total_loss = 0.0
    with torch.no_grad():
        for i in range(0, source.size(0) - 1, 5):
            data, targets = get_batch(source, i)
            output = model(data).view(-1, ntokens)
            total_loss += len(data) * criterion(output, targets).item()
    return total_loss / (len(source) - 1)


def main():
    ntokens, lr, best_val_loss, history = 9, 0.5, None, []
    train_data = batchify(torch.tensor(labels(130, ntokens)).type(torch.int64), 4)
    val_data = batchify(torch.tensor(labels(30, ntokens)).type(torch.int64), 2)
    model = filled(TransformerModel(ntokens, 8, 2, 12, 2))
    criterion = nn.NLLLoss()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.pt")
        for _epoch in range(3):
            model.train()
            total_loss = 0.0
            for _batch, i in enumerate(range(0, train_data.size(0) - 1, 5)):
                data, targets = get_batch(train_data, i)
                model.zero_grad()
                output = model(data)
                output = output.view(-1, ntokens)
                loss = criterion(output, targets)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
                for p in model.parameters():
                    if p.grad is not None:
                        p.data.add_(p.grad, alpha=-lr)
                total_loss += loss.item()
            val_loss = evaluate(model, criterion, val_data, ntokens)
            history.append((total_loss, val_loss, lr))
            if not best_val_loss or val_loss < best_val_loss:
                with open(path, "wb") as f:
                    torch.save(model.state_dict(), f)
                best_val_loss = val_loss
            else:
                lr /= 4.0
        with open(path, "rb") as f:
            model.load_state_dict(torch.load(f, weights_only=True))
    return history, evaluate(model, criterion, val_data, ntokens), list(model.encoder.parameters())
