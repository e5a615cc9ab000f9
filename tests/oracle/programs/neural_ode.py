"""A neural ODE by Euler's method; the adjoint is an autograd.Function with flattened parameters."""

import torch
import torch.nn as nn
from common import filled, numbers


class ODEFunc(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 10), nn.Tanh(), nn.Linear(10, 2))
        for m in self.net.modules():
            if isinstance(m, nn.Linear):
                nn.init.normal_(m.weight, mean=0, std=0.1)
                nn.init.constant_(m.bias, val=0)

    def forward(self, t, y):
        return self.net(y ** 3) + 0.1 * t

    def flat(self):
        return torch.cat([p.reshape(-1) for p in self.parameters()])


class Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx, func, y0, t, flat_parameters):
        ctx.func = func
        with torch.no_grad():
            y = euler(func, y0, t)
        ctx.save_for_backward(t, y, flat_parameters)
        return y

    @staticmethod
    def backward(ctx, grad_output):
        t, ys, flat_parameters = ctx.saved_tensors
        func, params = ctx.func, tuple(ctx.func.parameters())
        adj_y = torch.zeros_like(grad_output[0])
        adj_params = torch.zeros_like(flat_parameters)
        for i in range(len(t) - 1, 0, -1):
            adj_y = adj_y + grad_output[i]
            with torch.set_grad_enabled(True):
                y = ys[i - 1].detach().requires_grad_(True)
                stepped = y + (t[i] - t[i - 1]) * func(t[i - 1], y)
                vjp_y, *vjp_params = torch.autograd.grad(stepped, (y, *params), adj_y,
                                                         allow_unused=True)
            adj_y = vjp_y
            adj_params = adj_params + torch.cat([g.contiguous().view(-1) for g in vjp_params])
        return None, adj_y + grad_output[0], None, adj_params


def euler(func, y0, t):
    solution = torch.empty(len(t), *y0.shape, dtype=y0.dtype, device=y0.device)
    solution[0] = y0
    for j, (t0, t1) in enumerate(zip(t[:-1], t[1:])):
        y0 = y0 + (t1 - t0) * func(t0, y0)
        solution[j + 1] = y0
    return solution


def main():
    t = torch.linspace(0.0, 1.0, 6).double()
    true_A = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]], dtype=torch.float64)
    true_y = euler(lambda _, y: y @ true_A, torch.tensor([[2.0, 0.0]]).double(), t)
    func = filled(ODEFunc())
    optimizer = torch.optim.RMSprop(func.parameters(), lr=1e-2)
    losses = []
    for itr in range(20):
        optimizer.zero_grad()
        y0 = true_y[0] + 0.01 * torch.from_numpy(numbers(1, 2, seed=itr))
        if itr % 2:
            pred_y = euler(func, y0, t)
        else:
            y0.requires_grad = True
            pred_y = Adjoint.apply(func, y0, t, func.flat())
        loss = torch.mean(torch.abs(pred_y - true_y))
        loss.backward()
        optimizer.step()
        losses.append((loss.item(), 0.0 if y0.grad is None else y0.grad.norm().item()))
    return losses, list(func.parameters())
