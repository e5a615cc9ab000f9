"""A spatial transformer: affine_grid, grid_sample, and gradients that hooks see and change."""

import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim
from common import filled, labels, numbers


class Net(nn.Module):
    def __init__(self):
        super(Net, self).__init__()
        self.conv1 = nn.Conv2d(1, 4, kernel_size=3)
        self.conv2 = nn.Conv2d(4, 6, kernel_size=3)
        self.conv2_drop = nn.Dropout2d(0.0)
        self.fc1 = nn.Linear(24, 10)
        self.fc2 = nn.Linear(10, 4)
        self.localization = nn.Sequential(
            nn.Conv2d(1, 3, kernel_size=5),
            nn.MaxPool2d(2, stride=2),
            nn.ReLU(True),
            nn.Conv2d(3, 4, kernel_size=3),
            nn.MaxPool2d(2, stride=2),
            nn.ReLU(True)
        )
        self.fc_loc = nn.Sequential(nn.Linear(4, 8), nn.ReLU(True), nn.Linear(8, 3 * 2))

    def init_identity(self):
        self.fc_loc[2].weight.data.mul_(0.1)
        self.fc_loc[2].bias.data.copy_(torch.tensor([1, 0, 0, 0, 1, 0], dtype=torch.float))
        return self

    def stn(self, x):
        xs = self.localization(x)
        xs = xs.view(-1, 4)
        theta = self.fc_loc(xs)
        theta = theta.view(-1, 2, 3)
        grid = F.affine_grid(theta, x.size(), align_corners=False)
        return F.grid_sample(x, grid, align_corners=False)

    def forward(self, x):
        x = self.stn(x)
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2_drop(self.conv2(x)), 1))
        x = F.adaptive_avg_pool2d(x, (2, 2))
        x = x.view(-1, 24)
        x = F.relu(self.fc1(x))
        x = F.dropout(x, p=0.0, training=self.training)
        x = self.fc2(x)
        return F.log_softmax(x, dim=1)


class Sharpen(torch.autograd.Function):
    """The sign of x, with the gradient of a clipped identity."""

    @staticmethod
    def forward(ctx, i):
        ctx.save_for_backward(i)
        return i.sign()

    @staticmethod
    def backward(ctx, grad_output):
        i, = ctx.saved_tensors
        grad_input = grad_output.clone()
        grad_input[i.abs() > 1] = 0
        return grad_input


def main():
    model = filled(Net()).init_identity()
    optimizer = optim.Adagrad(model.parameters(), lr=0.02, eps=1e-3)
    data = torch.tensor(numbers(5, 1, 12, 12), requires_grad=True)
    target = torch.tensor(labels(5, 4))
    seen, norms = {}, []
    model.conv1.register_full_backward_hook(
        lambda module, grad_input, grad_output: seen.update(conv1=grad_output[0].detach().clone()))
    handle = model.fc1.weight.register_hook(lambda grad: grad * 2)
    history = []
    for step in range(20):
        if step == 10:
            handle.remove()
        optimizer.zero_grad()
        data.grad = None
        warped = model.stn(data)
        warped.retain_grad()
        output = model(data)
        loss = F.nll_loss(output, target) + 0.1 * Sharpen.apply(warped).mean()
        loss.backward()
        norms.append([seen["conv1"].norm().item(), warped.grad.abs().sum().item(),
                      data.grad.norm().item()])
        optimizer.step()
        history.append(loss.item())
    saliency = data.grad.data.abs().squeeze(1)
    saliency, _ = torch.max(saliency, dim=-1)
    return history, norms, saliency, list(model.parameters())
