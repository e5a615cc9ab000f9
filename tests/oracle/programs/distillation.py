"""Knowledge distillation: a frozen teacher, temperatures, hints from forward hooks, groups."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from common import filled, labels, numbers


def make(width, depth):
    layers = []
    for i in range(depth):
        layers.extend([nn.Linear(6 if i == 0 else width, width), nn.BatchNorm1d(width), nn.ReLU()])
    layers.append(nn.Linear(width, 4))
    return nn.Sequential(*layers)


class DistillKL(nn.Module):
    """Distilling the Knowledge in a Neural Network"""

    def __init__(self, T):
        super(DistillKL, self).__init__()
        self.T = T

    def forward(self, y_s, y_t):
        p_s = F.log_softmax(y_s / self.T, dim=1)
        p_t = F.softmax(y_t / self.T, dim=1)
        loss = F.kl_div(p_s, p_t, reduction="sum") * (self.T ** 2) / y_s.shape[0]
        return loss


class AverageMeter(object):
    """Computes and stores the average and current value"""

    def __init__(self):
        self.reset()

    def reset(self):
        self.val = self.avg = self.sum = self.count = 0

    def update(self, val, n=1):
        self.val = val
        self.sum += val * n
        self.count += n
        self.avg = self.sum / self.count


def accuracy(output, target, topk=(1,)):
    """Computes the accuracy over the k top predictions for the specified values of k"""
    with torch.no_grad():
        maxk = max(topk)
        batch_size = target.size(0)
        _, pred = output.topk(maxk, 1, True, True)
        pred = pred.t()
        correct = pred.eq(target.view(1, -1).expand_as(pred))
        res = []
        for k in topk:
            correct_k = correct[:k].reshape(-1).float().sum(0, keepdim=True)
            res.append(correct_k.mul_(100.0 / batch_size))
        return res


def main():
    teacher, student = filled(make(10, 2)), filled(make(6, 1))
    for p in teacher.parameters():
        p.requires_grad = False
    teacher.eval()
    features = {}

    def save(name):
        def hook(module, input, output):
            features[name] = output
        return hook

    handles = [teacher[-2].register_forward_hook(save("t")),
               student[-2].register_forward_hook(save("s"))]
    regressor = filled(nn.Linear(6, 10, bias=False))
    trainable_list = nn.ModuleList([student, regressor])
    optimizer = torch.optim.SGD([
        {"params": [p for n, p in trainable_list.named_parameters() if n.endswith("weight")]},
        {"params": [p for n, p in trainable_list.named_parameters() if n.endswith("bias")],
         "weight_decay": 0, "lr": 0.1},
    ], lr=0.05, momentum=0.9, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    criterion_cls, criterion_div, criterion_kd = nn.CrossEntropyLoss(), DistillKL(4), nn.MSELoss()
    losses, top1 = AverageMeter(), AverageMeter()
    x, target = torch.tensor(numbers(16, 6)), torch.tensor(labels(16, 4))
    history = []
    for _ in range(20):
        student.train()
        logit_s = student(x)
        with torch.no_grad():
            logit_t = teacher(x)
        loss = (0.1 * criterion_cls(logit_s, target) + 0.9 * criterion_div(logit_s, logit_t)
                + 0.5 * criterion_kd(regressor(features["s"]), features["t"].detach()))
        acc1, acc3 = accuracy(logit_s, target, topk=(1, 3))
        losses.update(loss.item(), x.size(0))
        top1.update(acc1.item(), x.size(0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        history.append([losses.avg, top1.avg, acc3.item(), *scheduler.get_last_lr()])
    for handle in handles:
        handle.remove()
    changed = any(p.grad is not None for p in teacher.parameters())
    return history, changed, list(student.parameters()), list(regressor.parameters())
