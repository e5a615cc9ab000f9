"""A siamese network: pairs from a Dataset and a contrastive loss."""

import numpy as np
import torch
import torch.nn.functional as F
from common import filled, numbers
from torch import nn, optim
from torch.utils.data import DataLoader, Dataset, random_split


class PairDataset(Dataset):
    def __init__(self, images, target):
        self.images, self.target = images, target
        self.label_to_indices = {label: np.where(target == label)[0] for label in set(target)}

    def __getitem__(self, index):
        other = (index * 7 + 3) % len(self.images)
        should_get_same_class = self.target[index] == self.target[other]
        img0 = torch.from_numpy(self.images[index]).type(torch.DoubleTensor)
        img1 = torch.from_numpy(self.images[other]).type(torch.DoubleTensor)
        return img0, img1, torch.from_numpy(
            np.array([int(not should_get_same_class)], dtype=np.float64))

    def __len__(self):
        return len(self.images)


class SiameseNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.cnn1 = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(1, 4, kernel_size=3),
            nn.ReLU(inplace=True),
            nn.BatchNorm2d(4),
            nn.ReflectionPad2d(1),
            nn.Conv2d(4, 6, kernel_size=3),
            nn.ReLU(inplace=True),
            nn.BatchNorm2d(6),
        )
        self.fc1 = nn.Sequential(
            nn.Linear(6 * 6 * 6, 10),
            nn.ReLU(inplace=True),
            nn.Linear(10, 4))

    def forward_once(self, x):
        output = self.cnn1(x)
        output = output.view(output.size()[0], -1)
        return self.fc1(output)

    def forward(self, input1, input2):
        return self.forward_once(input1), self.forward_once(input2)


class ContrastiveLoss(torch.nn.Module):
    def __init__(self, margin=2.0):
        super().__init__()
        self.margin = margin

    def forward(self, output1, output2, label):
        euclidean_distance = F.pairwise_distance(output1, output2)
        return torch.mean((1 - label) * torch.pow(euclidean_distance, 2)
                          + label * torch.pow(torch.clamp(self.margin - euclidean_distance,
                                                          min=0.0), 2))


def main():
    target = np.arange(15) % 3
    dataset = PairDataset(numbers(15, 1, 6, 6) + target[:, None, None, None], target)
    parts = random_split(dataset, [12, 3], generator=torch.Generator().manual_seed(42))
    assert list(map(len, parts)) == [12, 3]
    loader = DataLoader(dataset, shuffle=False, num_workers=0, batch_size=5)
    net = filled(SiameseNetwork()).train()
    criterion = ContrastiveLoss()
    optimizer = optim.Adam(net.parameters(), lr=0.005, eps=1e-4)
    counter, loss_history = [], []
    iteration_number = 0
    for epoch in range(7):
        for i, data in enumerate(loader, 0):
            img0, img1, label = data
            optimizer.zero_grad()
            output1, output2 = net(img0, img1)
            loss_contrastive = criterion(output1, output2, label.squeeze())
            loss_contrastive.backward()
            optimizer.step()
            if i % 2 == 0:
                iteration_number += 10
                counter.append(iteration_number + epoch)
                loss_history.append(loss_contrastive.data.item())
    net.eval()
    x0, x1, label2 = next(iter(loader))
    output1, output2 = net(Variable(x0), Variable(x1))
    euclidean_distance = F.pairwise_distance(output1, output2)
    return counter, loss_history, euclidean_distance, label2, net.state_dict()


def Variable(x):
    return torch.autograd.Variable(x)
