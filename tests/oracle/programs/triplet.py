"""Metric learning: balanced batches by a BatchSampler of the program, hard triplets, AdamW."""

import numpy as np
import torch
import torch.nn as nn
from common import filled, numbers
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.sampler import BatchSampler, Sampler


class Blobs(Dataset):
    def __init__(self, n):
        self.train_labels = torch.LongTensor([i % 4 for i in range(n)])
        self.data = torch.tensor(numbers(n, 5)) + self.train_labels.unsqueeze(1)

    def __len__(self):
        return len(self.data)

    def __getitem__(self, i):
        return self.data[i], self.train_labels[i]


class BalancedBatchSampler(BatchSampler):
    def __init__(self, labels, n_classes, n_samples):
        self.labels = labels
        self.labels_set = list(set(self.labels.numpy()))
        self.label_to_indices = {label: np.where(self.labels.numpy() == label)[0]
                                 for label in self.labels_set}
        self.count, self.n_classes, self.n_samples = 0, n_classes, n_samples
        self.batch_size = self.n_samples * self.n_classes

    def __iter__(self):
        rng = np.random.RandomState(0)
        self.count = 0
        while self.count + self.batch_size < len(self.labels):
            classes = rng.choice(sorted(self.labels_set), self.n_classes, replace=False)
            indices = []
            for class_ in classes:
                indices.extend(self.label_to_indices[class_][:self.n_samples])
            yield indices
            self.count += self.n_classes * self.n_samples

    def __len__(self):
        return len(self.labels) // self.batch_size


class Backwards(Sampler):
    def __init__(self, data_source):
        self.data_source = data_source

    def __iter__(self):
        return iter(range(len(self.data_source) - 1, -1, -1))

    def __len__(self):
        return len(self.data_source)


def pdist(vectors):
    return (-2 * vectors.mm(torch.t(vectors)) + vectors.pow(2).sum(dim=1).view(1, -1)
            + vectors.pow(2).sum(dim=1).view(-1, 1))


def batch_hard(embeddings, labels, margin):
    dist = pdist(embeddings).clamp(min=1e-12).sqrt()
    same = labels.expand(len(labels), len(labels)).eq(labels.expand(len(labels), -1).t())
    dist_ap, dist_an = [], []
    for i in range(len(labels)):
        dist_ap.append(dist[i][same[i]].max().unsqueeze(0))
        dist_an.append(dist[i][same[i] == 0].min().unsqueeze(0))
    dist_ap, dist_an = torch.cat(dist_ap), torch.cat(dist_an)
    y = dist_an.data.new()
    y.resize_as_(dist_an.data)
    y.fill_(1)
    loss = nn.MarginRankingLoss(margin=margin)(dist_an, dist_ap, y)
    prec = (dist_an.data > dist_ap.data).sum() * 1.0 / y.size(0)
    return loss, prec


def main():
    dataset = Blobs(30)
    sampler = BalancedBatchSampler(dataset.train_labels, n_classes=3, n_samples=3)
    loader = DataLoader(dataset, batch_sampler=sampler)
    model = filled(nn.Sequential(nn.Linear(5, 12), nn.PReLU(), nn.Linear(12, 3)))
    triplet = nn.TripletMarginLoss(margin=1.0, p=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, nesterov=True)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 4], gamma=0.1, last_epoch=-1)
    history = []
    for _ in range(7):
        for data, target in loader:
            if not type(data) in (tuple, list):
                data = (data,)
            optimizer.zero_grad()
            outputs = model(*data)
            loss, prec = batch_hard(outputs, target, 0.5)
            loss = loss + triplet(outputs[0:3], outputs[[1, 2, 0]], outputs[3:6])
            loss.backward()
            optimizer.step()
            history.append((loss.item(), prec.item()))
        scheduler.step()
    embeddings = []
    with torch.no_grad():
        model.eval()
        for data, _ in DataLoader(dataset, batch_size=8, sampler=Backwards(dataset)):
            embeddings.append(model(data).data.cpu().numpy())
    return history, np.concatenate(embeddings), list(model.parameters())
