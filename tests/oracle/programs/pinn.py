"""A physics-informed network: u_t + u u_x = nu u_xx, with derivatives by autograd.grad."""

from collections import OrderedDict

import numpy as np
import torch
from common import filled, numbers

torch.set_default_dtype(torch.float64)
if torch.cuda.is_available():
    device = torch.device("cuda")
else:
    device = torch.device("cpu")


class DNN(torch.nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.depth = len(layers) - 1
        self.activation = torch.nn.Tanh
        layer_list = []
        for i in range(self.depth - 1):
            layer_list.append((f"layer_{i}", torch.nn.Linear(layers[i], layers[i + 1])))
            layer_list.append((f"activation_{i}", self.activation()))
        layer_list.append((f"layer_{self.depth - 1}", torch.nn.Linear(layers[-2], layers[-1])))
        self.layers = torch.nn.Sequential(OrderedDict(layer_list))

    def forward(self, x):
        return self.layers(x)


class PhysicsInformedNN:
    def __init__(self, X_u, u, X_f, layers):
        self.x_u = torch.tensor(X_u[:, 0:1], requires_grad=True).to(device)
        self.t_u = torch.tensor(X_u[:, 1:2], requires_grad=True).to(device)
        self.x_f = torch.tensor(X_f[:, 0:1], requires_grad=True).to(device)
        self.t_f = torch.tensor(X_f[:, 1:2], requires_grad=True).to(device)
        self.u = torch.tensor(u).to(device)
        self.lambda_1 = torch.nn.Parameter(torch.tensor([0.5], requires_grad=True).to(device))
        self.lambda_2 = torch.nn.Parameter(torch.tensor([-3.0], requires_grad=True).to(device))
        self.dnn = filled(DNN(layers)).to(device)
        self.dnn.register_parameter("lambda_1", self.lambda_1)
        self.dnn.register_parameter("lambda_2", self.lambda_2)
        self.optimizer = torch.optim.LBFGS(
            self.dnn.parameters(), lr=1.0, max_iter=4, max_eval=8, history_size=5,
            tolerance_grad=1e-5, tolerance_change=1.0 * np.finfo(float).eps,
            line_search_fn="strong_wolfe")
        self.optimizer_Adam = torch.optim.Adam(self.dnn.parameters())
        self.history = []

    def net_u(self, x, t):
        return self.dnn(torch.cat([x, t], dim=1))

    def net_f(self, x, t):
        u = self.net_u(x, t)
        u_t = torch.autograd.grad(u, t, grad_outputs=torch.ones_like(u), retain_graph=True,
                                  create_graph=True)[0]
        u_x = torch.autograd.grad(u, x, grad_outputs=torch.ones_like(u), retain_graph=True,
                                  create_graph=True)[0]
        u_xx = torch.autograd.grad(u_x, x, grad_outputs=torch.ones_like(u_x), retain_graph=True,
                                   create_graph=True)[0]
        return u_t + self.lambda_1 * u * u_x - torch.exp(self.lambda_2) * u_xx

    def loss_func(self):
        loss_u = torch.mean((self.u - self.net_u(self.x_u, self.t_u)) ** 2)
        loss_f = torch.mean(self.net_f(self.x_f, self.t_f) ** 2)
        return loss_u + loss_f

    def closure(self):
        self.optimizer.zero_grad()
        loss = self.loss_func()
        loss.backward()
        self.history.append((loss.item(), self.lambda_1.item(),
                             torch.exp(self.lambda_2.detach()).item()))
        return loss

    def train(self, nIter):
        self.dnn.train()
        for _ in range(nIter):
            loss = self.loss_func()
            self.optimizer_Adam.zero_grad()
            loss.backward()
            self.optimizer_Adam.step()
        for _ in range(4):
            self.optimizer.step(self.closure)

    def predict(self, X):
        x = torch.tensor(X[:, 0:1], requires_grad=True).double().to(device)
        t = torch.tensor(X[:, 1:2], requires_grad=True).double().to(device)
        self.dnn.eval()
        u, f = self.net_u(x, t), self.net_f(x, t)
        return u.detach().cpu().numpy(), f.detach().cpu().numpy()


def main():
    X = numbers(12, 2)
    model = PhysicsInformedNN(X, -np.sin(np.pi * X[:, 0:1]), numbers(10, 2, seed=1), [2, 6, 6, 1])
    model.train(5)
    return model.history, model.predict(X), list(model.dnn.parameters())
