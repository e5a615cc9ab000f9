"""MAML: fast weights by autograd.grad with create_graph, layers in a ParameterList."""

from copy import deepcopy

import torch
from common import labels, numbers
from torch import nn, optim
from torch.nn import functional as F


class Learner(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.vars = nn.ParameterList()
        self.vars_bn = nn.ParameterList()
        for name, param in self.config:
            if name in ("conv2d", "linear"):
                shape = param[:4] if name == "conv2d" else param
                w = nn.Parameter(torch.ones(*shape))
                torch.nn.init.kaiming_normal_(w)
                self.vars.append(w)
                self.vars.append(nn.Parameter(torch.zeros(param[0])))
            elif name == "bn":
                self.vars.append(nn.Parameter(torch.ones(param[0])))
                self.vars.append(nn.Parameter(torch.zeros(param[0])))
                running_mean = nn.Parameter(torch.zeros(param[0]), requires_grad=False)
                running_var = nn.Parameter(torch.ones(param[0]), requires_grad=False)
                self.vars_bn.extend([running_mean, running_var])

    def forward(self, x, vars=None, bn_training=True):
        if vars is None:
            vars = self.vars
        idx, bn_idx = 0, 0
        for name, param in self.config:
            if name == "conv2d":
                w, b = vars[idx], vars[idx + 1]
                x = F.conv2d(x, w, b, stride=param[4], padding=param[5])
                idx += 2
            elif name == "linear":
                w, b = vars[idx], vars[idx + 1]
                x = F.linear(x, w, b)
                idx += 2
            elif name == "bn":
                w, b = vars[idx], vars[idx + 1]
                running_mean, running_var = self.vars_bn[bn_idx], self.vars_bn[bn_idx + 1]
                x = F.batch_norm(x, running_mean, running_var, weight=w, bias=b,
                                 training=bn_training)
                idx += 2
                bn_idx += 2
            elif name == "flatten":
                x = x.view(x.size(0), -1)
            elif name == "relu":
                x = F.relu(x, inplace=param[0])
            elif name == "max_pool2d":
                x = F.max_pool2d(x, param[0], param[1], param[2])
            else:
                raise NotImplementedError
        return x

    def zero_grad(self, vars=None):
        with torch.no_grad():
            for p in self.vars if vars is None else vars:
                if p.grad is not None:
                    p.grad.zero_()

    def parameters(self):
        return self.vars


class Meta(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.update_lr, self.meta_lr = 0.1, 1e-2
        self.net = Learner(config).double()
        for i, p in enumerate(self.net.parameters()):
            p.data = torch.tensor(numbers(*p.shape, seed=i)) * 0.4
        self.meta_optim = optim.Adam(self.net.parameters(), lr=self.meta_lr)

    def forward(self, x_spt, y_spt, x_qry, y_qry, update_step=2):
        task_num = x_spt.size(0)
        losses_q = [0 for _ in range(update_step + 1)]
        corrects = [0 for _ in range(update_step + 1)]
        for i in range(task_num):
            fast_weights = self.net.parameters()
            for k in range(update_step + 1):
                logits_q = self.net(x_qry[i], fast_weights, bn_training=True)
                losses_q[k] = losses_q[k] + F.cross_entropy(logits_q, y_qry[i])
                with torch.no_grad():
                    pred_q = F.softmax(logits_q, dim=1).argmax(dim=1)
                    corrects[k] += torch.eq(pred_q, y_qry[i]).sum().item()
                if k < update_step:
                    loss = F.cross_entropy(self.net(x_spt[i], fast_weights), y_spt[i])
                    grad = torch.autograd.grad(loss, fast_weights, create_graph=True)
                    fast_weights = list(map(lambda p: p[1] - self.update_lr * p[0],
                                            zip(grad, fast_weights)))
        loss_q = losses_q[-1] / task_num
        self.meta_optim.zero_grad()
        loss_q.backward()
        self.meta_optim.step()
        return [x.item() for x in losses_q], corrects

    def finetunning(self, x_spt, y_spt):
        net = deepcopy(self.net)
        grad = torch.autograd.grad(F.cross_entropy(net(x_spt), y_spt), net.parameters())
        fast = [p - self.update_lr * g for g, p in zip(grad, net.parameters(), strict=True)]
        with torch.no_grad():
            return net(x_spt, fast, bn_training=True)


def main():
    config = [("conv2d", [3, 1, 3, 3, 1, 0]), ("relu", [True]), ("bn", [3]),
              ("max_pool2d", [2, 1, 0]), ("flatten", []), ("linear", [3, 27])]
    maml = Meta(config)
    history = []
    for step in range(20):
        x_spt = torch.from_numpy(numbers(2, 3, 1, 6, 6, seed=step))
        x_qry = torch.from_numpy(numbers(2, 3, 1, 6, 6, seed=step + 50))
        y_spt = torch.from_numpy(labels(6, 3, step)).view(2, 3)
        y_qry = torch.from_numpy(labels(6, 3, step + 50)).view(2, 3)
        history.append(maml(x_spt, y_spt, x_qry, y_qry))
    return history, maml.finetunning(x_spt[0], y_spt[0]), list(maml.net.parameters())
