"""Matrix factorization with biases, ranked pairs (BPR) and an optimizer written in the program."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from common import filled, labels
from torch.optim.optimizer import Optimizer


class MF(nn.Module):
    def __init__(self, num_users, num_items, emb_size=4):
        super().__init__()
        self.user_emb = nn.Embedding(num_users, emb_size, padding_idx=0)
        self.user_bias = nn.Embedding(num_users, 1)
        self.item_emb = nn.Embedding(num_items, emb_size)
        self.item_bias = nn.Embedding(num_items, 1)
        self.user_emb.weight.data.uniform_(0, 0.05)
        self.item_emb.weight.data.uniform_(0, 0.05)
        self.user_bias.weight.data.uniform_(-0.01, 0.01)
        self.item_bias.weight.data.uniform_(-0.01, 0.01)

    def forward(self, u, v):
        U, V = self.user_emb(u), self.item_emb(v)
        b_u, b_v = self.user_bias(u).squeeze(), self.item_bias(v).squeeze()
        return (U * V).sum(1) + b_u + b_v


class SGDHD(Optimizer):
    """SGD with momentum and hypergradient descent on the learning rate."""

    def __init__(self, params, lr=0.05, momentum=0.9, weight_decay=0.0, hypergrad_lr=1e-4):
        if lr < 0.0:
            raise ValueError(f"Invalid learning rate: {lr}")
        defaults = dict(lr=lr, momentum=momentum, weight_decay=weight_decay,
                        hypergrad_lr=hypergrad_lr)
        super().__init__(params, defaults)

    def __setstate__(self, state):
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("nesterov", False)

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                grad = p.grad
                if group["weight_decay"] != 0:
                    grad = grad.add(p, alpha=group["weight_decay"])
                state = self.state[p]
                if len(state) == 0:
                    state["step"] = 0
                    state["momentum_buffer"] = torch.zeros_like(
                        p, memory_format=torch.preserve_format)
                    state["previous"] = torch.zeros_like(p)
                state["step"] += 1
                h = torch.dot(grad.view(-1), state["previous"].view(-1)).item()
                group["lr"] += group["hypergrad_lr"] * h
                buf = state["momentum_buffer"]
                buf.mul_(group["momentum"]).add_(grad, alpha=1 - group["momentum"])
                state["previous"].copy_(grad)
                p.add_(buf, alpha=-group["lr"])
        return loss


def main():
    users = torch.from_numpy(labels(24, 6)).long()
    items = torch.LongTensor(labels(24, 8, 1))
    ratings = torch.DoubleTensor(labels(24, 5, 2).tolist())
    model = filled(MF(6, 8))
    optimizer = SGDHD(model.parameters(), lr=0.1, weight_decay=1e-3)
    losses = []
    for step in range(20):
        model.train()

        def closure(step=step):
            optimizer.zero_grad()
            y_hat = model(users, items)
            loss = F.mse_loss(y_hat, ratings)
            negative = model(users, items.roll(step + 1))
            loss = loss - 0.1 * F.logsigmoid(y_hat - negative).mean()
            loss.backward()
            return loss

        losses.append(optimizer.step(closure).item())
    similar = F.cosine_similarity(model.item_emb.weight[0:1], model.item_emb.weight)
    order = torch.argsort(similar, descending=True)
    states = [optimizer.state[p]["momentum_buffer"] for p in model.parameters()]
    return losses, optimizer.param_groups[0]["lr"], order, states, list(model.parameters())
