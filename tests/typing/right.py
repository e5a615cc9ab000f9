"""Calls that type checkers must accept: see check.py."""

import numpy as np

import gpuprop
from gpuprop import data, nn, optim
from gpuprop import functional as F
from gpuprop.training import Trainer

x = gpuprop.zeros(2, 3, requires_grad=True)
y: gpuprop.Tensor = x @ x.T + 1.0
z: gpuprop.Tensor = -x[0] * 2
total: float = x.sum(axis=0, keepdims=True).mean().item()
rows: int = len(x)

gpuprop.exp(x)
gpuprop.sum(x, axis=(0, 1), keepdims=True)
gpuprop.concatenate([x, x], axis=0)
gpuprop.stack([x, x], 0)
gpuprop.concatenate((x, x.data), 1)
gpuprop.stack(arrays=[x], axis=-1)
gpuprop.where(x > 0, x, 0.0)
x.sum(dim=[0, 1], keepdim=True).mean(axis=0)
x.topk(2, dim=1)[1].gather(dim=0, index=x)
gpuprop.einsum("ij,kj->ik", x, x)
gpuprop.grad(lambda a: (a * a).sum())(np.ones(3))

F.relu(x)
F.relu(x, inplace=True)
F.linear(x, x)
F.cross_entropy(x, gpuprop.tensor([0, 1]), label_smoothing=0.1)
F.conv2d(gpuprop.zeros(1, 3, 8, 8), gpuprop.zeros(4, 3, 3, 3), None, 2, padding=(1, 1))
F.max_pool2d(gpuprop.zeros(1, 3, 8, 8), 2, stride=2)
F.dropout(x, p=0.1, training=True)


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        self.layers = nn.Sequential(nn.Linear(3, width), nn.ReLU(inplace=True), nn.Dropout(0.1))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.scale = nn.Parameter(gpuprop.ones(width))

    def forward(self, x: gpuprop.Tensor) -> gpuprop.Tensor:
        return self.norm(self.layers(x)) * self.scale


model = Network(4)
optimizer = optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
loss = nn.CrossEntropyLoss(label_smoothing=0.1)
loss(model(x), gpuprop.tensor([0, 1])).backward()
optimizer.step()
loader = data.DataLoader(data.ArrayDataset(np.zeros((4, 3)), np.zeros(4)), 2, shuffle=True)
Trainer(model, loss, optimizer).fit(loader, epochs=1)


@gpuprop.op
def cube(xp, x: gpuprop.Array, scale: float = 1.0):
    return x**3 * scale, (lambda dy: 3 * x**2 * scale * dy,)


@gpuprop.kernel
def halve(xp, x: gpuprop.Array):
    x *= 0.5


cube(x, scale=2.0)
halve(x)
