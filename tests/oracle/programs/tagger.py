"""A tagger with packed sequences, embeddings that are given, accumulation, EMA and SWA weights."""

import torch
import torch.nn as nn
from common import filled, labels, numbers
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence
from torch.optim.swa_utils import SWALR, AveragedModel
from torch.utils.data import DataLoader, Dataset

PAD = 0


class Sentences(Dataset):
    def __init__(self, n):
        super().__init__()
        self.samples = [(labels(2 + i % 4, 8, i) + 1, labels(2 + i % 4, 3, i)) for i in range(n)]

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, idx):
        words, tags = self.samples[idx]
        return torch.tensor(words, dtype=torch.long), torch.tensor(tags, dtype=torch.long)


def collate_fn(batch):
    batch.sort(key=lambda pair: len(pair[0]), reverse=True)
    words, tags = zip(*batch)
    lengths = torch.tensor([len(w) for w in words])
    return (pad_sequence(words, batch_first=True, padding_value=PAD),
            pad_sequence(tags, batch_first=True, padding_value=-100), lengths)


class BiLSTMTagger(nn.Module):
    def __init__(self, vocab, emb_dim, hidden, tagset):
        super().__init__()
        self.embedding = nn.Embedding(vocab, emb_dim, padding_idx=PAD)
        self.lstm = nn.LSTM(emb_dim, hidden // 2, num_layers=2, bidirectional=True,
                            batch_first=True, dropout=0.0)
        self.hidden2tag = nn.Linear(hidden, tagset)

    def init_weights(self):
        for name, param in self.lstm.named_parameters():
            if "weight_hh" in name:
                nn.init.orthogonal_(param)
            elif "bias" in name:
                param.data.zero_()
                n = param.size(0)
                param.data[n // 4:n // 2].fill_(1.0)

    def forward(self, x, lengths):
        emb = self.embedding(x)
        packed = pack_padded_sequence(emb, lengths.cpu(), batch_first=True)
        out, (h_n, _c_n) = self.lstm(packed)
        out, _ = pad_packed_sequence(out, batch_first=True)
        last = torch.cat((h_n[-2, :, :], h_n[-1, :, :]), dim=1)
        return self.hidden2tag(out), last


def main():
    model = BiLSTMTagger(9, 4, 6, 3)
    model.init_weights()
    filled(model)
    weights = torch.from_numpy(numbers(9, 4))
    model.embedding = nn.Embedding.from_pretrained(weights, freeze=False, padding_idx=PAD)
    loader = DataLoader(Sentences(8), batch_size=4, shuffle=False, collate_fn=collate_fn)
    criterion = nn.CrossEntropyLoss(ignore_index=-100)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    swa_model = AveragedModel(model)
    swa_scheduler = SWALR(optimizer, swa_lr=0.05, anneal_epochs=3)
    accumulation_steps, history = 2, []
    for epoch in range(10):
        model.train()
        for i, (words, tags, lengths) in enumerate(loader):
            logits, last = model(words, lengths)
            loss = criterion(logits.view(-1, logits.shape[-1]), tags.view(-1))
            loss = loss + 0.01 * last.pow(2).mean()
            loss = loss / accumulation_steps
            loss.backward()
            if (i + 1) % accumulation_steps == 0 or (i + 1) == len(loader):
                nn.utils.clip_grad_value_(model.parameters(), 0.5)
                optimizer.step()
                optimizer.zero_grad()
            mask = tags != -100
            correct = (logits.argmax(-1)[mask] == tags[mask]).sum().item()
            history.append((loss.item(), correct, mask.sum().item()))
        if epoch >= 5:
            swa_model.update_parameters(model)
            swa_scheduler.step()
        history.append(optimizer.param_groups[0]["lr"])
    swa_model.eval()
    with torch.no_grad():
        averaged, _ = swa_model(words, lengths)
    return history, averaged, int(swa_model.n_averaged), list(model.parameters())
