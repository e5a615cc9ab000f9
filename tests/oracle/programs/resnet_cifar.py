"""CIFAR models: residual, inverted residual and dense blocks, and a checkpoint to resume from."""

import os
import tempfile

import torch
import torch.backends.cudnn as cudnn
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim
from common import filled, labels, numbers


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, in_planes, planes, stride=1):
        super(BasicBlock, self).__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, kernel_size=3, stride=stride, padding=1,
                               bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, kernel_size=3, stride=1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_planes != self.expansion * planes:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_planes, self.expansion * planes, kernel_size=1, stride=stride,
                          bias=False),
                nn.BatchNorm2d(self.expansion * planes)
            )

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        out = F.relu(out)
        return out


class InvertedResidual(nn.Module):
    def __init__(self, inp, oup, expand):
        super().__init__()
        hidden = int(round(inp * expand))
        self.conv = nn.Sequential(
            nn.Conv2d(inp, hidden, 1, 1, 0, bias=False), nn.BatchNorm2d(hidden),
            nn.ReLU6(inplace=True),
            nn.Conv2d(hidden, hidden, 3, 1, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden), nn.ReLU6(inplace=True),
            nn.Conv2d(hidden, oup, 1, 1, 0, bias=False), nn.BatchNorm2d(oup))
        self.identity = inp == oup

    def forward(self, x):
        return x + self.conv(x) if self.identity else self.conv(x)


class Bottleneck(nn.Module):
    def __init__(self, in_planes, growth_rate):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.conv1 = nn.Conv2d(in_planes, 2 * growth_rate, kernel_size=1, bias=False)

    def forward(self, x):
        out = self.conv1(F.relu(self.bn1(x)))
        out = torch.cat([out, x], 1)
        return out


class Net(nn.Module):
    def __init__(self, num_classes=5):
        super().__init__()
        self.in_planes = 4
        self.conv1 = nn.Conv2d(3, 4, kernel_size=3, stride=1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.layer1 = self._make_layer(BasicBlock, 6, 2, stride=2)
        self.mobile = InvertedResidual(6, 6, 1.5)
        self.dense = nn.Sequential(Bottleneck(6, 1), Bottleneck(8, 1))
        self.linear = nn.Linear(10, num_classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(m, (nn.BatchNorm2d, nn.GroupNorm)):
                nn.init.constant_(m.weight, 1)
                nn.init.constant_(m.bias, 0)

    def _make_layer(self, block, planes, num_blocks, stride):
        strides = [stride] + [1] * (num_blocks - 1)
        layers = []
        for stride in strides:
            layers.append(block(self.in_planes, planes, stride))
            self.in_planes = planes * block.expansion
        return nn.Sequential(*layers)

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.dense(self.mobile(self.layer1(out)))
        out = F.avg_pool2d(out, 4)
        out = out.view(out.size(0), -1)
        return self.linear(out)


def main():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    best_acc = 0
    net = filled(Net()).to(device)
    if device == "cuda":
        net = torch.nn.DataParallel(net)
        cudnn.benchmark = True
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    inputs, targets = torch.tensor(numbers(10, 3, 8, 8)), torch.tensor(labels(10, 5))
    trainset = torch.utils.data.TensorDataset(inputs, targets)
    trainloader = torch.utils.data.DataLoader(trainset, batch_size=5, num_workers=0)
    report = []
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "ckpt.pth")
        for epoch in range(10):
            net.train()
            train_loss = correct = total = 0
            for batch_idx, (x, y) in enumerate(trainloader):
                x, y = x.to(device), y.to(device)
                optimizer.zero_grad()
                outputs = net(x)
                loss = criterion(outputs, y)
                loss.backward()
                optimizer.step()
                train_loss += loss.item()
                _, predicted = outputs.max(1)
                total += y.size(0)
                correct += predicted.eq(y).sum().item()
            report.append((train_loss / (batch_idx + 1), 100. * correct / total))
            acc = 100. * correct / total
            if acc >= best_acc:
                state = {"net": net.state_dict(), "acc": acc, "epoch": epoch,
                         "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
                torch.save(state, path)
                best_acc = acc
            scheduler.step()
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    net.load_state_dict(checkpoint["net"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    scheduler.load_state_dict(checkpoint["scheduler"])
    report.append((checkpoint["epoch"], checkpoint["acc"], scheduler.get_last_lr()))
    for _ in range(2):
        optimizer.zero_grad()
        criterion(net(inputs), targets).backward()
        optimizer.step()
    return report, net.eval()(inputs), net.state_dict()
