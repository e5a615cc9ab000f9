"""An image classifier with the usual parts: loaders, schedule, clipping, evaluation, checkpoint."""

import io

import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim
from common import filled, labels, numbers
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 8, 3)
        self.dropout = nn.Dropout(0.0)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(8 * 9, 5)

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(self.conv2(x), 2)
        x = x.view(x.size(0), -1)
        return F.log_softmax(self.fc(self.dropout(x)), dim=1)


def evaluate(model, loader, device):
    model.eval()
    loss, correct = 0.0, 0
    with torch.no_grad():
        for data, target in loader:
            data, target = data.to(device), target.to(device)
            output = model(data)
            loss += F.nll_loss(output, target, reduction="sum").item()
            pred = output.argmax(dim=1, keepdim=True)
            correct += pred.eq(target.view_as(pred)).sum().item()
    return loss / len(loader.dataset), correct


def main():
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = torch.from_numpy(numbers(40, 1, 8, 8))
    target = torch.from_numpy(labels(40, 5)).long()
    train = DataLoader(TensorDataset(images[:30], target[:30]), batch_size=10, shuffle=False)
    test = DataLoader(TensorDataset(images[30:], target[30:]), batch_size=5)
    model = filled(Net()).to(device)
    optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    scheduler = optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
    history = []
    for _ in range(7):
        model.train()
        running_loss = 0.0
        for data, labels_ in train:
            data, labels_ = data.to(device), labels_.to(device)
            optimizer.zero_grad()
            loss = F.nll_loss(model(data), labels_)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
            optimizer.step()
            running_loss += loss.item() * data.size(0)
        scheduler.step()
        lr = scheduler.get_last_lr()[0]
        history.append((running_loss / 30, *evaluate(model, test, device), lr))

    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    checkpoint = torch.load(file, map_location=device)
    again = Net().double().to(device)
    again.load_state_dict(checkpoint["model"])
    return history, list(model.parameters()), evaluate(again, test, device), model.bn1.running_var
