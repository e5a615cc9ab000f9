"""Optimizers of programs around those of the library: SAM with two steps, Lookahead, a scaler."""

from collections import defaultdict

import torch
import torch.nn as nn
from common import filled, labels, numbers
from torch.amp import GradScaler, autocast


class SAM(torch.optim.Optimizer):
    def __init__(self, params, base_optimizer, rho=0.05, adaptive=False, **kwargs):
        assert rho >= 0.0, f"Invalid rho, should be non-negative: {rho}"
        defaults = dict(rho=rho, adaptive=adaptive, **kwargs)
        super(SAM, self).__init__(params, defaults)
        self.base_optimizer = base_optimizer(self.param_groups, **kwargs)
        self.param_groups = self.base_optimizer.param_groups
        self.defaults.update(self.base_optimizer.defaults)

    @torch.no_grad()
    def first_step(self, zero_grad=False):
        grad_norm = self._grad_norm()
        for group in self.param_groups:
            scale = group["rho"] / (grad_norm + 1e-12)
            for p in group["params"]:
                if p.grad is None:
                    continue
                self.state[p]["old_p"] = p.data.clone()
                e_w = (torch.pow(p, 2) if group["adaptive"] else 1.0) * p.grad * scale.to(p)
                p.add_(e_w)
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def second_step(self, zero_grad=False):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                p.data = self.state[p]["old_p"]
        self.base_optimizer.step()
        if zero_grad:
            self.zero_grad()

    def _grad_norm(self):
        shared_device = self.param_groups[0]["params"][0].device
        return torch.norm(
            torch.stack([
                ((torch.abs(p) if group["adaptive"] else 1.0) * p.grad).norm(p=2).to(shared_device)
                for group in self.param_groups for p in group["params"]
                if p.grad is not None
            ]),
            p=2
        )


class Lookahead:
    def __init__(self, optimizer, k=5, alpha=0.5):
        self.optimizer = optimizer
        self.k = k
        self.alpha = alpha
        self.param_groups = self.optimizer.param_groups
        self.state = defaultdict(dict)
        self.fast_state = self.optimizer.state
        for group in self.param_groups:
            group["counter"] = 0

    def update(self, group):
        for fast in group["params"]:
            param_state = self.state[fast]
            if "slow_param" not in param_state:
                param_state["slow_param"] = torch.zeros_like(fast.data)
                param_state["slow_param"].copy_(fast.data)
            slow = param_state["slow_param"]
            slow += (fast.data - slow) * self.alpha
            fast.data.copy_(slow)

    def zero_grad(self):
        self.optimizer.zero_grad()

    def step(self, closure=None):
        loss = self.optimizer.step(closure)
        for group in self.param_groups:
            if group["counter"] == 0:
                self.update(group)
            group["counter"] += 1
            if group["counter"] >= self.k:
                group["counter"] = 0
        return loss


def main():
    x, y = torch.from_numpy(numbers(12, 5)), torch.tensor(labels(12, 3))
    criterion = nn.CrossEntropyLoss()
    first = filled(nn.Sequential(nn.Linear(5, 8), nn.ELU(), nn.Linear(8, 3)))
    second = filled(nn.Sequential(nn.Linear(5, 8), nn.Hardswish(), nn.Linear(8, 3)))
    sam = SAM(first.parameters(), torch.optim.SGD, lr=0.1, momentum=0.9, rho=0.1)
    lookahead = Lookahead(torch.optim.Adam(second.parameters(), lr=0.02), k=3)
    scaler = GradScaler("cuda", enabled=torch.cuda.is_available())
    history = []
    for _ in range(20):
        loss = criterion(first(x), y)
        loss.backward()
        sam.first_step(zero_grad=True)
        criterion(first(x), y).backward()
        sam.second_step(zero_grad=True)
        with autocast("cuda", enabled=scaler.is_enabled()):
            other = criterion(second(x), y)
        lookahead.zero_grad()
        scaler.scale(other).backward()
        lookahead.step()
        history.append((loss.item(), other.item()))
    return history, list(first.parameters()), list(second.parameters())
