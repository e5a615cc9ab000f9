"""A toy of speech recognition: convolution, bidirectional GRUs, CTC, a one-cycle schedule."""

import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim
import torch.utils.data as data
from common import filled, labels, numbers


class Utterances(data.Dataset):
    def __init__(self, n):
        self.lengths = [12 + 2 * (i % 3) for i in range(n)]

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, i):
        spectrogram = torch.Tensor(numbers(self.lengths[i], 5, seed=i))
        label = torch.IntTensor((labels(2 + i % 2, 4, i) + 1).tolist())
        return spectrogram, label


def data_processing(batch):
    spectrograms, targets, input_lengths, label_lengths = [], [], [], []
    for spec, label in batch:
        spectrograms.append(spec)
        targets.append(label)
        input_lengths.append(spec.shape[0] // 2)
        label_lengths.append(len(label))
    spectrograms = nn.utils.rnn.pad_sequence(spectrograms, batch_first=True).unsqueeze(1)
    targets = nn.utils.rnn.pad_sequence(targets, batch_first=True)
    return spectrograms.transpose(2, 3), targets, input_lengths, label_lengths


class CNNLayerNorm(nn.Module):
    def __init__(self, n_feats):
        super().__init__()
        self.layer_norm = nn.LayerNorm(n_feats)

    def forward(self, x):
        x = x.transpose(2, 3).contiguous()
        x = self.layer_norm(x)
        return x.transpose(2, 3).contiguous()


class BidirectionalGRU(nn.Module):
    def __init__(self, rnn_dim, hidden_size, batch_first):
        super().__init__()
        self.BiGRU = nn.GRU(input_size=rnn_dim, hidden_size=hidden_size, num_layers=1,
                            batch_first=batch_first, bidirectional=True)
        self.layer_norm = nn.LayerNorm(rnn_dim)
        self.dropout = nn.Dropout(0.0)

    def forward(self, x):
        x = F.gelu(self.layer_norm(x))
        x, _ = self.BiGRU(x)
        return self.dropout(x)


class SpeechRecognitionModel(nn.Module):
    def __init__(self, n_class=5, n_feats=5):
        super().__init__()
        self.cnn = nn.Conv2d(1, 2, 3, stride=(1, 2), padding=3 // 2)
        self.norm = CNNLayerNorm(n_feats)
        self.fully_connected = nn.Linear(n_feats * 2, 6)
        self.birnn_layers = nn.Sequential(*[
            BidirectionalGRU(6 if i == 0 else 8, 4, batch_first=i == 0) for i in range(2)])
        self.classifier = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, n_class))

    def forward(self, x):
        x = self.norm(self.cnn(x))
        sizes = x.size()
        x = x.view(sizes[0], sizes[1] * sizes[2], sizes[3])
        x = x.transpose(1, 2)
        x = self.birnn_layers(self.fully_connected(x))
        return self.classifier(x)


def greedy_decoder(output, blank=0):
    decodes = []
    for args in torch.argmax(output, dim=2):
        decode = []
        for j, index in enumerate(args):
            if index != blank:
                if j != 0 and index == args[j - 1]:
                    continue
                decode.append(index.item())
        decodes.append(decode)
    return decodes


def main():
    torch.set_default_dtype(torch.float64)
    loader = data.DataLoader(Utterances(6), batch_size=3, shuffle=False,
                             collate_fn=lambda x: data_processing(x))
    model = filled(SpeechRecognitionModel())
    num_params = sum([param.nelement() for param in model.parameters()])
    optimizer = optim.AdamW(model.parameters(), 5e-4)
    criterion = nn.CTCLoss(blank=0)
    scheduler = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.02, steps_per_epoch=len(loader),
                                              epochs=10, anneal_strategy="linear")
    history = []
    for _ in range(10):
        for spectrograms, targets, input_lengths, label_lengths in loader:
            optimizer.zero_grad()
            output = model(spectrograms)
            output = F.log_softmax(output, dim=2)
            output = output.transpose(0, 1)
            loss = criterion(output, targets, input_lengths, label_lengths)
            loss.backward()
            optimizer.step()
            history.append((loss.item(), scheduler.get_last_lr()[0]))
            scheduler.step()
    return history, num_params, greedy_decoder(output.transpose(0, 1)), list(model.parameters())
