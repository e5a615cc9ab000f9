"""Small programs, run by torch and by gpuprop.torch in float64: what they return must agree."""

from __future__ import annotations

import collections
import copy
import importlib
import io
import itertools
import pickle
import pkgutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch as theirs

import gpuprop.torch as ours

PROGRAMS = []


def program(fn):
    PROGRAMS.append(fn)
    return fn


def array(*shape, seed=0):
    return np.random.default_rng(seed + sum(shape)).standard_normal(shape)


def leaf(torch, *shape, seed=0):
    return torch.tensor(array(*shape, seed=seed), requires_grad=True)


def filled(model):
    """The model in float64 with weights that are the same in both libraries."""
    model.double()
    for i, p in enumerate(model.parameters()):
        p.data.copy_(p.data.new_tensor(array(*p.shape, seed=i) * 0.3))
    return model


def mlp(torch, *sizes):
    nn, layers = torch.nn, []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.Tanh()]
    return filled(nn.Sequential(*layers[:-1]))


@program
def words_that_differ(torch):
    x = torch.tensor(array(2, 3, 4))
    values, places = x.max(1)
    s = x.sort(dim=2, descending=True)
    return [
        values,
        places,
        x.max(),
        x.std(),
        x.var(0),
        x.std(1, unbiased=False),
        x.transpose(0, 2),
        s.values,
        s[1],
        x.repeat(2, 1, 1),
        *x.split(2, dim=2),
        *torch.split(x, [1, 3], 2),
        x.size(1),
        x.numel(),
        x.view(6, -1),
        x.permute(2, 0, 1),
        x.t() if x.dim() == 2 else x[0].t(),
        x.squeeze(0),
        x.narrow(2, 1, 2),
        x.mean((0, 2)),
        torch.max(x, x * 2),
        x.min(dim=1, keepdim=True)[0],
        x.norm(),
        x.type(),
        x.sum([0, 1]),
    ]


@program
def functions(torch):
    x, y = torch.tensor(array(3, 4)), torch.tensor(array(3, 4, seed=1))
    return [
        torch.cat([x, y], dim=1),
        torch.stack((x, y), 1),
        torch.add(x, y, alpha=2),
        x.clamp(min=0),
        torch.lerp(x, y, 0.3),
        torch.addcdiv(x, y, y.exp(), value=0.5),
        torch.where(x > 0, x, y),
        torch.topk(x, 2)[0],
        torch.eye(3).double(),
        x.masked_fill(x > 0, -1.0),
        torch.einsum("ij,kj->ik", x, y),
        torch.arange(3, 9, 2),
        x.div(y, rounding_mode="floor"),
    ]


@program
def gradient_of_max_over_ties(torch):
    x = torch.tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 0.0]], requires_grad=True)
    x.max(dim=1)[0].sum().backward()
    return [x.grad]


@program
def gradient_descent_by_hand(torch):
    w, b, x = leaf(torch, 4, 2), leaf(torch, 2), torch.tensor(array(5, 4))
    for _ in range(5):
        loss = (x @ w + b).tanh().pow(2).mean()
        loss.backward()
        with torch.no_grad():
            w -= 0.5 * w.grad
            b.sub_(b.grad, alpha=0.5)
            w.grad.zero_()
            b.grad = None
    return [w, b, loss]


@program
def data_in_place(torch):
    model = mlp(torch, 3, 4, 2)
    model(torch.tensor(array(5, 3))).sum().backward()
    for p in model.parameters():
        p.grad.data.clamp_(-0.5, 0.5)
        p.data.add_(p.grad.data, alpha=-0.1)
        p.data.clamp_(-0.2, 0.2)
    model[0].bias.data.fill_(3)
    model[2].weight.data[0] = 7
    return list(model.parameters())


@program
def optimizer_sees_what_was_written(torch):
    model = mlp(torch, 3, 4, 2)
    opt = torch.optim.Adam(model.parameters(), lr=0.05)
    for i in range(4):
        opt.zero_grad()
        model(torch.tensor(array(5, 3, seed=i))).pow(2).mean().backward()
        for p in model.parameters():
            p.grad.mul_(0.5)
        opt.step()
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(0.99)
    return list(model.parameters())


@program
def gradients_kept_over_the_next_backward(torch):
    model = mlp(torch, 3, 2)
    opt, x = torch.optim.SGD(model.parameters(), lr=0.1), torch.tensor(array(5, 3))
    model(x).sum().backward()
    kept = [p.grad for p in model.parameters()]
    opt.zero_grad()
    model(x).pow(2).sum().backward()
    dot = sum((a * p.grad).sum() for a, p in zip(kept, model.parameters(), strict=False))
    opt.step()
    return [*kept, dot]


@program
def optimize_a_plain_leaf(torch):
    x = leaf(torch, 3, 3)
    opt = torch.optim.SGD([x], lr=0.1, momentum=0.9)
    for _ in range(4):
        opt.zero_grad()
        (x**2).sum().backward()
        opt.step()
    return [x]


@program
def own_optimizer(torch):
    class Momentum(torch.optim.Optimizer):
        def step(self):
            for group in self.param_groups:
                for p in group["params"]:
                    state = self.state[p]
                    if "v" not in state:
                        state["v"] = torch.zeros_like(p.data)
                    state["v"].mul_(0.9).add_(p.grad.data)
                    p.data.add_(state["v"], alpha=-group["lr"])

    model = mlp(torch, 3, 2)
    opt = Momentum(model.parameters(), dict(lr=0.1))
    for _ in range(3):
        opt.zero_grad()
        model(torch.tensor(array(5, 3))).pow(2).sum().backward()
        opt.step()
    return list(model.parameters())


@program
def second_derivative(torch):
    x = torch.tensor(array(5), requires_grad=True)
    y = (x.sin() * x**3).sum()
    (g,) = torch.autograd.grad(y, x, create_graph=True)
    (gg,) = torch.autograd.grad(g.sum(), x, create_graph=True)
    (ggg,) = torch.autograd.grad(gg.pow(2).sum(), x)
    return [g, gg, ggg]


@program
def wgan_gp(torch):
    """The penalty of Gulrajani et al., and three steps of the critic."""
    critic, real, fake = (
        mlp(torch, 6, 16, 16, 1),
        torch.tensor(array(8, 6)),
        torch.tensor(array(8, 6, seed=1)),
    )
    opt, found = torch.optim.Adam(critic.parameters(), lr=0.01, betas=(0.5, 0.9)), []
    for i in range(3):
        eps = torch.tensor(np.random.default_rng(i).random((8, 1))).expand_as(real)
        between = (eps * real.data + (1 - eps) * fake.data).requires_grad_(True)
        out = critic(between)
        gradients = torch.autograd.grad(
            outputs=out,
            inputs=between,
            grad_outputs=torch.ones_like(out),
            create_graph=True,
            retain_graph=True,
            only_inputs=True,
        )[0]
        penalty = ((gradients.norm(2, dim=1) - 1) ** 2).mean() * 10
        loss = critic(fake).mean() - critic(real).mean() + penalty
        opt.zero_grad()
        loss.backward()
        opt.step()
        found += [penalty, loss]
    return [*found, *critic.parameters()]


@program
def wgan_gp_convolution(torch):
    """A convolutional critic with layer norm, pooling and leaky relu."""
    nn = torch.nn
    critic = filled(
        nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.GroupNorm(2, 4),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(4 * 9, 1),
        )
    )
    x = leaf(torch, 3, 2, 6, 6)
    g = torch.autograd.grad(critic(x).sum(), x, create_graph=True)[0]
    ((g.view(3, -1).norm(2, dim=1) - 1) ** 2).mean().backward()
    # PyTorch has zeros where None is here: the bias of the norm has no part in it.
    grads = [p.grad for p in critic.parameters()]
    return [g, *[torch.zeros(1).double() if p is None or not p.any() else p for p in grads], x.grad]


@program
def maml(torch):
    w, x = leaf(torch, 3, 2), torch.tensor(array(5, 3))
    fast = w
    for _ in range(3):
        (g,) = torch.autograd.grad((x @ fast).tanh().pow(2).mean(), [fast], create_graph=True)
        fast = fast - 0.3 * g
    (x @ fast).pow(2).mean().backward()
    return [fast, w.grad]


@program
def inputs_above_each_other(torch):
    x = leaf(torch, 4)
    h = x.tanh()
    found = [h]
    for create in (False, True):
        found += torch.autograd.grad(
            (h**3).sum() + x.sum(), [x, h], create_graph=create, retain_graph=True
        )
    found += torch.autograd.grad(found[-2].pow(2).sum() + found[-1].sum(), [x])
    a, b = torch.split(x * x, 2)
    g = torch.autograd.grad((a * b.exp()).sum(), x, create_graph=True)[0]
    return [*found, g, torch.autograd.grad(g.sum(), x)[0]]


@program
def hessian_vector_product(torch):
    model = mlp(torch, 3, 4, 1)
    ps = list(model.parameters())
    gs = torch.autograd.grad(model(torch.tensor(array(5, 3))).pow(2).mean(), ps, create_graph=True)
    dot = sum((g * g.detach()).sum() for g in gs)
    return list(torch.autograd.grad(dot, ps))


@program
def r1_by_backward_create_graph(torch):
    x = leaf(torch, 4, 3)
    model = mlp(torch, 3, 4, 1)
    model(x).sum().backward(create_graph=True)
    penalty = x.grad.pow(2).sum()
    g = torch.autograd.grad(penalty, model[0].weight)[0]
    return [penalty, g]


@program
def own_function(torch):
    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, scale):
            ctx.save_for_backward(x)
            ctx.scale = scale
            return x**3 * scale

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return g * 3 * x**2 * ctx.scale, None

    x = leaf(torch, 4)
    y = Cube.apply(x, 2.0)
    (g,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    (gg,) = torch.autograd.grad(g.pow(2).sum(), x)
    return [y, g, gg]


@program
def straight_through(torch):
    class Sign(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.sign()

        @staticmethod
        def backward(ctx, g):
            return g.clamp(-1, 1)

    x = leaf(torch, 5)
    (Sign.apply(x * 2) * torch.tensor(array(5, seed=3))).sum().backward()
    return [x.grad]


@program
def in_place_on_results(torch):
    x, y = leaf(torch, 3, 4), leaf(torch, 3, 4, seed=1)
    h = x * 2
    h += y
    h.mul_(2).masked_fill_(h > 3, 0.5)
    h[:, 1] = y[:, 0] * 3
    h.clamp_(-2, 2)
    h.sum().backward()
    return [h, x.grad, y.grad]


@program
def a_distance_of_the_program(torch):
    points = [leaf(torch, 3, 4, seed=seed) for seed in range(3)]
    largest = lambda a, b: (a - b).abs().max(1)[0]
    criterion = torch.nn.TripletMarginWithDistanceLoss(distance_function=largest, swap=True)
    loss = criterion(*points)
    loss.backward()
    return [loss, *[p.grad for p in points]]


@program
def writes_that_views_see(torch):
    x = leaf(torch, 3, 4)
    h = x * 2
    flat, row = h.view(-1), h[1]
    row.mul_(3)
    flat[::3] += 1.0
    h[0, :2].sub_(x[2, :2])
    h.t()[2] *= x[1, 2]
    frozen = h.detach()
    h[:, 3].add_(5)
    (h * row).sum().backward()
    return [h, flat, row, frozen, x.grad]


@program
def writes_into_a_buffer_through_a_view(torch):
    x, buffer = leaf(torch, 3), torch.zeros(2, 3).double()
    row = buffer[1]
    row.copy_(x)
    (buffer * buffer).sum().backward()
    return [buffer, row, x.grad, buffer.requires_grad]


@program
def writes_without_history(torch):
    a = torch.zeros(2, 3)
    b, c, d = a.view(-1), a[0], a.t()
    b += 1
    c[1] = 5
    d[2, 1] = 7
    a.detach().mul_(2)
    return [a, b, c, d]


@program
def gradients_accumulate_in_place(torch):
    x = torch.ones(3, requires_grad=True)
    (x * 2).sum().backward()
    g = x.grad
    (x * 3).sum().backward()
    return [g, x.grad]


@program
def buffer_of_outputs(torch):
    w, h = leaf(torch, 3, 3), torch.tensor(array(2, 3))
    outputs = torch.zeros(4, 2, 3).double()
    for t in range(4):
        h = (h @ w).tanh()
        outputs[t] = h
    (outputs * torch.tensor(array(4, 2, 3))).sum().backward()
    return [outputs, w.grad]


@program
def requires_grad_and_detach(torch):
    x = torch.tensor(array(3))
    x.requires_grad = True
    y = x * 2
    z = y.detach()
    z2 = (z + 1).requires_grad_()
    (y * z2).sum().backward()
    return [x.grad, z2.grad, y.is_leaf, z.requires_grad]


@program
def hooks(torch):
    x, seen = leaf(torch, 3), []
    y = x * 2
    handle = y.register_hook(lambda g: g * 10)
    y.register_hook(lambda g: seen.append(g.sum().item()))
    y.sum().backward(retain_graph=True)
    handle.remove()
    y.sum().backward()
    return [x.grad, seen]


@program
def order_of_hooks(torch):
    """A gradient that is retained is the one after all hooks, whenever they were registered."""
    x, seen = leaf(torch, 3), []
    y = x * 2
    y.retain_grad()
    y.register_hook(lambda g: g * 10)
    y.register_hook(lambda g: seen.append(g.sum().item()))
    x.register_post_accumulate_grad_hook(lambda t: seen.append((t is x, t.grad.sum().item())))
    x.register_hook(lambda g: g + 1)
    handle = x.register_post_accumulate_grad_hook(lambda t: setattr(t, "grad", None))
    (y * x).sum().backward()
    none = x.grad is None
    handle.remove()
    (x * x).sum().backward()
    gradient, = torch.autograd.grad((x * x).sum(), x)  # no gradient is accumulated
    return [y.grad, x.grad, gradient, none, seen]


@program
def forward_hooks(torch):
    seen = []

    class Scale(torch.nn.Module):
        def forward(self, x, factor=1.0):
            if factor == 0:
                raise ValueError("no factor")
            return x * factor

    layer, x = Scale(), leaf(torch, 2, 3)
    layer.register_forward_pre_hook(lambda m, args, kwargs: ((args[0] + 1,), {"factor": 3.0}),
                                    with_kwargs=True)
    layer.register_forward_pre_hook(lambda m, args: seen.append("first"), prepend=True)
    layer.register_forward_hook(
        lambda m, args, kwargs, out: seen.append(kwargs["factor"]), with_kwargs=True)
    handle = layer.register_forward_hook(lambda m, args, out: out * 2, prepend=True)
    first = layer(x, factor=2.0)
    with handle:
        second = layer(x)
    failing = Scale()
    failing.register_forward_hook(lambda m, args, out: seen.append("not called"))
    failing.register_forward_hook(
        lambda m, args, out: seen.append(out is None), always_call=True)
    try:
        failing(x, factor=0)
    except ValueError as error:
        seen.append(str(error))
    return [first, second, layer(x), seen]


@program
def hooks_of_state_dicts(torch):
    """Old names are translated and new entries are added, in the order of PyTorch's recursion."""
    seen = []

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = torch.nn.Linear(2, 2)
            self._register_load_state_dict_pre_hook(self._translate)

        def _translate(self, state, prefix, metadata, strict, missing, unexpected, errors):
            seen.append((prefix, sorted(state), strict, list(missing), list(unexpected)))
            for name in list(state):
                if ".old." in f".{name}":
                    state[name.replace("old.", "lin.")] = state.pop(name)

    model = filled(torch.nn.Sequential(Block(), torch.nn.Sequential(Block(), Block())))
    other = torch.nn.Sequential(Block(), torch.nn.Sequential(Block(), Block())).double()
    for m in (model, model[1], model[1][0]):
        m.register_state_dict_pre_hook(lambda m, prefix, keep: seen.append((prefix, keep)))
        m.register_state_dict_post_hook(
            lambda m, state, prefix, meta: seen.append((prefix, list(state))))
    model[0].register_state_dict_post_hook(
        lambda m, state, prefix, meta: state.update(
            {prefix + "old.weight": state.pop(prefix + "lin.weight")}))
    handle = model[1].register_state_dict_post_hook(
        lambda m, state, prefix, meta: state.update({prefix + "note": torch.ones(1)}))
    noted = list(model.state_dict(prefix="a.", keep_vars=True))
    handle.remove()
    model._register_state_dict_hook(
        lambda m, state, prefix, meta: {n: v for n, v in state.items() if "1.1.lin" not in n})
    state = model.state_dict()
    for m in (other, other[1], other[1][1]):
        m.register_load_state_dict_post_hook(
            lambda m, keys: seen.append((type(m).__name__, *map(sorted, keys))))
    other.register_load_state_dict_post_hook(lambda m, keys: keys.missing_keys.clear())
    result = other.load_state_dict(state)
    seen.append([list(keys) for keys in result])
    model.register_load_state_dict_pre_hook(
        lambda m, state, prefix, meta, strict, missing, unexpected, errors: errors.append("no"))
    try:
        model.load_state_dict(other.state_dict())
    except (RuntimeError, ValueError) as error:
        seen.append("no" in str(error))
    return [noted, list(state), *(v for n, v in other.state_dict().items() if "1.1" not in n), seen]


@program
def full_backward_hooks(torch):
    found = []

    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = torch.nn.Linear(3, 4), torch.nn.Linear(3, 2)

        def forward(self, x, scale, y=None):
            return self.a(x) * scale, self.b(x), "text"

    def flat(grads):
        return [None if g is None else (tuple(g.shape), round(g.sum().item(), 9)) for g in grads]

    model, x = filled(Two()), leaf(torch, 5, 3)
    model.register_full_backward_hook(
        lambda m, gi, go: found.append(("hook", flat(gi), flat(go))))
    model.register_full_backward_hook(lambda m, gi, go: (gi[0] * 2, None))
    model.register_full_backward_hook(
        lambda m, gi, go: found.append(("last", flat(gi), flat(go))))
    model.register_full_backward_hook(
        lambda m, gi, go: found.append(("first", flat(gi), flat(go))), prepend=True)
    model.register_full_backward_pre_hook(lambda m, go: (go[0] * 3, go[1], None))
    model.a.register_full_backward_hook(lambda m, gi, go: found.append(("a", flat(gi), flat(go))))
    u, v, _ = model(x * 1, 2.0)
    loss = u.sum() + (v * v).sum()
    loss.backward(retain_graph=True)
    loss.backward()
    u, v, _ = model(x.detach(), 2.0)  # no input with a gradient
    return [x.grad, *(p.grad for p in model.parameters()), found]


@program
def backward_hooks_without_an_input(torch):
    found = []
    model = filled(torch.nn.Linear(3, 2))
    model.register_full_backward_hook(
        lambda m, gi, go: found.append((gi, [tuple(g.shape) for g in go])))
    handle = model.register_full_backward_pre_hook(lambda m, go: (go[0] * 2,))
    model(torch.tensor(array(4, 3))).sum().backward()
    handle.remove()
    model(torch.tensor(array(4, 3))).sum().backward()
    with torch.no_grad():
        model(torch.tensor(array(4, 3)))
    return [model.weight.grad, model.bias.grad, found]


@program
def backward_hooks_in_a_gradient_penalty(torch):
    seen = []
    model, x = mlp(torch, 3, 4, 1), leaf(torch, 5, 3)
    model[0].register_full_backward_hook(lambda m, gi, go: (gi[0] * 2,))
    model[2].register_full_backward_hook(lambda m, gi, go: seen.append(gi[0].requires_grad))
    g, = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    (g.norm() ** 2).backward()
    return [g, x.grad, *(p.grad for p in model.parameters() if p.grad is not None)]


@program
def optimizer_in_backward(torch):
    model = mlp(torch, 3, 4, 1)
    optimizers = {p: torch.optim.SGD([p], lr=0.1, momentum=0.9) for p in model.parameters()}

    def step(p):
        optimizers[p].step()
        optimizers[p].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(step)
    for _ in range(3):
        (model(torch.tensor(array(5, 3))) ** 2).mean().backward()
    return [p.detach() for p in model.parameters()]


@program
def checkpoints(torch):
    from_utils = torch.utils.checkpoint.checkpoint
    model, x = mlp(torch, 3, 4, 4, 2), leaf(torch, 5, 3)
    h = x * 2
    y = from_utils(lambda a, b=1: model[:2](a) * b + h[:, :1], h, b=3.0, use_reentrant=False)
    y = torch.utils.checkpoint.checkpoint_sequential(model[2:], 2, y, use_reentrant=False)
    g, = torch.autograd.grad((y * y).sum(), h, retain_graph=True)
    (y * y).sum().backward()
    return [y, g, x.grad, *(p.grad for p in model.parameters())]


@program
def scatter_and_gather(torch):
    x, i = leaf(torch, 3, 4), torch.tensor([[0, 2], [1, 1], [3, 0]])
    z = torch.zeros(3, 4).double()
    z.scatter_(1, i[:, :1], 1.0)
    (x.gather(1, i).sum() + (x * z).sum()).backward()
    return [z, x.grad, torch.zeros(3, 4).double().scatter_add_(1, i, torch.ones(3, 2).double())]


@program
def models_of_modules(torch):
    nn = torch.nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3)
            self.bn = nn.BatchNorm2d(4)
            self.scale = nn.Parameter(torch.ones(1))
            self.register_buffer("shift", torch.zeros(1))

        def forward(self, x):
            x = torch.relu(self.bn(self.conv(x))) * self.scale + self.shift
            return x.view(x.size(0), -1).max(1)[0]

    def start(m):
        if isinstance(m, nn.Conv2d):
            m.weight.data.mul_(2.0)
            m.bias.data.zero_()

    net = filled(Net())
    net.apply(start)
    y = net(torch.tensor(array(3, 1, 6, 6)))
    y.sum().backward()
    names = [n for n, _ in net.named_parameters()]
    return [
        y,
        net.conv.weight.grad,
        net.scale.grad,
        sorted(net.state_dict())[0],
        net.bn.running_mean,
        names,
        isinstance(net.conv.weight, nn.Parameter),
        isinstance(net.scale, torch.Tensor),
    ]


@program
def target_network(torch):
    net = mlp(torch, 3, 4, 2)
    target = copy.deepcopy(net)
    opt = torch.optim.RMSprop(net.parameters(), lr=0.01)
    for _ in range(3):
        x = torch.tensor(array(5, 3))
        loss = (net(x) - target(x).max(1, keepdim=True)[0].detach()).pow(2).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        for t, p in zip(target.parameters(), net.parameters(), strict=False):
            t.data.copy_(0.9 * t.data + 0.1 * p.data)
    target.load_state_dict(net.state_dict())
    return [*target.parameters(), loss]


@program
def encoder_layer(torch):
    nn = torch.nn
    layer = filled(
        nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True),
            2,
            enable_nested_tensor=False,
        )
        if torch is theirs
        else nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), 2
        )
    )
    x = leaf(torch, 2, 5, 8)
    y = layer(x)
    y.std().backward()
    count = sum(isinstance(m, nn.Linear) for m in layer.modules())
    return [y, x.grad, count >= 4]


@program
def no_grad_in_three_ways(torch):
    x = leaf(torch, 3)

    @torch.no_grad()
    def f(x):
        return x * 2

    with torch.no_grad():
        a = x * 2
        with torch.enable_grad():
            b = x * 2
    return [f(x).requires_grad, a.requires_grad, b.requires_grad]


def plain(value):
    if isinstance(value, theirs.Tensor | ours.Tensor):
        return value.detach().numpy()
    return value


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph",
                            "ignore:Full backward hook is firing")
@pytest.mark.parametrize("run", PROGRAMS, ids=lambda f: f.__name__)
def test_as_torch(run):
    expected, found = run(theirs), run(ours)
    assert len(expected) == len(found)
    for i, (e, f) in enumerate(zip(expected, found, strict=True)):
        if isinstance(e, theirs.Tensor):
            assert isinstance(f, ours.Tensor), (i, type(f))
            assert str(f.dtype) == str(e.dtype).removeprefix("torch."), i
            np.testing.assert_allclose(plain(f), plain(e), rtol=1e-9, atol=1e-12, err_msg=str(i))
        elif isinstance(e, float):
            assert f == pytest.approx(e)
        else:
            assert (list(f) == list(e)) if isinstance(e, list | tuple) else f == e, i


# ---- what PyTorch refuses, and what must not happen -------------------------------------------


def test_refusals():
    x = ours.ones(3, requires_grad=True)
    with pytest.raises(RuntimeError, match="leaf Variable"):
        x.add_(1)
    y = (x * x).sum()
    with ours.no_grad():
        x.mul_(2)
    with pytest.raises(RuntimeError, match=r"read|inplace"):
        y.backward()
    with pytest.raises(RuntimeError, match="leaf Variable"):
        x[1:].add_(1)
    with pytest.raises(RuntimeError, match="single memory location"):
        ours.zeros(3, 1).expand(3, 2).add_(1)
    with pytest.raises(RuntimeError, match="broadcast shape"):
        ours.zeros(3).add_(ours.ones(2, 3))
    with pytest.raises(RuntimeError, match="not have been used"):
        ours.autograd.grad((x * 2).sum(), ours.ones(3, requires_grad=True))


def test_checkpoint_and_create_graph():
    x = ours.ones(3, requires_grad=True)
    y = ours.utils.checkpoint.checkpoint(lambda x: x ** 3, x, use_reentrant=False)
    with pytest.raises(RuntimeError, match="without checkpoint"):
        ours.autograd.grad(y.sum(), x, create_graph=True)


def test_inferred_dtypes():
    """tensor() of Python numbers, NumPy scalars, arrays and Tensors in lists."""
    def cases(torch):
        one = torch.tensor([1.0], dtype=torch.float64)[0]
        yield from ([], [[]], [1, 2.0], [True, 1], [[True], [2]], 1, 2.5, range(3), [one, 2],
                    np.float64(1), np.bool_(True), [np.float64(1)], [np.float32(1), 1.0],
                    [np.int64(1), 2.0], [np.int32(1)], collections.deque([np.float64(1)]),
                    (torch.tensor(1), 2), array(2))

    for a, b in zip(cases(theirs), cases(ours), strict=True):
        expected, found = theirs.tensor(a), ours.tensor(b)
        assert (str(expected.dtype), expected.shape) == (f"torch.{found.dtype}", found.shape), a


def test_types_as_programs_name_them():
    for torch in theirs, ours:
        x = torch.LongTensor([2**40, 1])
        assert x.tolist() == [2**40, 1] and isinstance(x, torch.LongTensor)
        assert not isinstance(x, torch.FloatTensor) and not isinstance(x, torch.cuda.LongTensor)
        assert x.type(torch.DoubleTensor).type() == "torch.DoubleTensor"
        assert torch.zeros(size=(2, 3)).shape == torch.rand(size=(2, 3)).shape == (2, 3)


def test_variable():
    for torch in theirs, ours:
        h = torch.ones(2, requires_grad=True) * 2
        v = torch.autograd.Variable(h, requires_grad=True)
        assert v.is_leaf and v.requires_grad and isinstance(h, torch.autograd.Variable)
        with pytest.warns(UserWarning, match="volatile"):
            assert not torch.autograd.Variable(h, volatile=True).requires_grad


def test_grad_modes():
    for torch in theirs, ours:
        torch.set_grad_enabled(False)
        assert not torch.is_grad_enabled()
        torch.set_grad_enabled(True)
        with torch.set_grad_enabled(False):
            assert not torch.is_grad_enabled()
        assert torch.is_grad_enabled()
        decorated = torch.set_grad_enabled(False)(torch.is_grad_enabled)
        assert torch.is_grad_enabled() and not decorated() and torch.is_grad_enabled()
        assert not torch.inference_mode(torch.is_grad_enabled)()
        with torch.inference_mode(), torch.enable_grad():
            pass
        with torch.inference_mode(mode=False):
            assert torch.is_grad_enabled()


def test_samplers():
    for torch in theirs, ours:
        data = torch.utils.data

        class Evens(data.Sampler[int]):
            def __iter__(self):
                return iter(range(0, 10, 2))

            def __len__(self):
                return 5

        class Pairs(data.BatchSampler):
            def __init__(self):
                pass

            def __iter__(self):
                yield [0, 9]

            def __len__(self):
                return 1

        class Rows(data.Dataset[int]):
            def __getitem__(self, i):
                return i * 10

            def __len__(self):
                return 10

        rows = Rows()
        assert [b.tolist() for b in data.DataLoader(rows, batch_sampler=Pairs())] == [[0, 90]]
        assert torch.cat(list(data.DataLoader(rows, sampler=Evens()))).tolist() == [
            0, 20, 40, 60, 80]
        for drawn in (data.RandomSampler(rows, generator=torch.Generator().manual_seed(1)),
                      data.SubsetRandomSampler(range(10)),
                      data.RandomSampler(rows, True, 30),
                      data.WeightedRandomSampler(torch.ones(10), 20, generator=torch.Generator())):
            assert set(drawn) <= set(range(10)) and len(list(drawn)) == len(drawn)
        split = [data.random_split(rows, [7, 3], generator=torch.Generator().manual_seed(42))
                 for _ in range(2)]
        assert list(split[0][0]) == list(split[1][0])


def test_paths():
    """Programs import from PyTorch's files."""
    from gpuprop.torch.__main__ import modules

    found = modules()
    for path, name in (("nn.modules.utils", "_pair"), ("nn.parameter", "Parameter"),
                       ("optim.lr_scheduler", "LRScheduler"), ("optim.optimizer", "Optimizer"),
                       ("utils.data.dataloader", "DataLoader"), ("nn.utils.rnn", "pad_sequence"),
                       ("distributions.normal", "Normal"), ("backends.cudnn", "benchmark"),
                       ("nn.init", "xavier_uniform_"), ("autograd.variable", "Variable")):
        importlib.import_module(f"torch.{path}")
        assert hasattr(found[f"torch.{path}"], name)
    for folder in theirs.optim, theirs.distributions, theirs.nn.modules:
        for module in pkgutil.iter_modules(folder.__path__):
            path = f"{folder.__name__}.{module.name}"
            assert module.name.startswith("_") or path in found or path in NO_COUNTERPART


NO_COUNTERPART = {"torch.distributions.utils", "torch.distributions.lkj_cholesky",
                  "torch.distributions.von_mises", "torch.distributions.wishart",
                  "torch.nn.modules.lazy", "torch.nn.modules.linear_cross_entropy",
                  "torch.nn.modules.linear_cross_entropy_options"}


def test_amp_without_a_gpu():
    for torch in theirs, ours:
        with pytest.warns(UserWarning, match="[Dd]isabl"):
            scaler = torch.amp.GradScaler("cuda")
        w = torch.ones(2, requires_grad=True)
        optimizer = torch.optim.SGD([w], lr=0.5)
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.amp.autocast("cpu", enabled=False):
            loss = (w @ w) * 2
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        assert w.tolist() == [-1.0, -1.0] and not scaler.is_enabled()


def test_legacy_reductions():
    a, b = array(3), array(3, seed=1)
    for how in ({"size_average": False}, {"reduce": False}, {"size_average": True},
                {"size_average": True, "reduce": True}):
        for loss in ("MSELoss", "L1Loss", "SmoothL1Loss"):
            values = []
            for torch in theirs, ours:
                with pytest.warns(UserWarning, match="reduction="):
                    layer = getattr(torch.nn, loss)(**how)
                values.append(layer(torch.tensor(a), torch.tensor(b)).numpy())
            np.testing.assert_allclose(values[0], values[1], 1e-12)
        with pytest.warns(UserWarning, match="reduction="):
            ours.nn.functional.mse_loss(ours.tensor(a), ours.tensor(b), **how)


def test_dropout2d_of_two_axes():
    for torch in theirs, ours:
        with pytest.warns(UserWarning, match="2-D input"):
            x = torch.nn.Dropout2d(0.5)(torch.ones(30, 30))
        assert 0 < (x == 0).sum() < 900 and x.max() == 2


def test_modules_as_programs_move_them():
    for torch in theirs, ours:
        model = torch.nn.Sequential(torch.nn.Linear(2, 2))
        model.to(torch.device("cpu"), torch.float64, non_blocking=True)
        assert model.to(memory_format=torch.channels_last)[0].weight.dtype is torch.float64
        assert model.type(torch.FloatTensor).to(None, torch.float64) is model
        assert torch.randint(5, size=(2, 3)).shape == (2, 3) == torch.randint(5, (2, 3)).shape
        x = torch.ones(2).byte()
        assert x.dtype is torch.uint8 and x.is_cpu and not x.is_sparse


@program
def lists_of_tensors(torch):
    """A Tensor in a list is a number, whatever its shape."""
    one, two = torch.ones(1, 1), torch.tensor(2)
    lists = [[one], [one, two], [[one], [two]], ([one, 3], (2.5, two)), [[[True]], [[two > 1]]]]
    makers = torch.tensor, torch.as_tensor, torch.FloatTensor, torch.Tensor, one.new_tensor
    return [make(values) for values in lists for make in makers]


@program
def the_private_name_of_grad(torch):
    """Threads that train one model give it their copies' gradients."""
    mine, shared = leaf(torch, 2), leaf(torch, 2)
    (mine * mine).sum().backward()
    shared._grad = mine.grad
    optimizer = torch.optim.SGD([shared], lr=0.1)
    optimizer.step()
    assert shared._grad is not None
    optimizer.zero_grad()
    assert shared._grad is None
    return [shared]


SIZES = """torch.zeros(2, n)|torch.ones((2, n))|torch.empty(size=(n, 2))|torch.full((n,), 1.)
    torch.rand(n)|torch.randn((n, 2))|torch.randint(n, (2,))|torch.eye(n)|torch.randperm(n)
    torch.linspace(0, 1, n)|torch.Tensor(n, 2)|torch.FloatTensor(n, 2)|torch.zeros(x.shape[0] * n)
    x.view(n, -1)|x.reshape((n, 2))|x.new_zeros(n, 2)|x.new_full((n,), 1.)|x[:1].expand(n, 2)
    x.repeat(n, 1)|x.narrow(0, 0, n)|x[:n]|x.tile((n, n))|torch.stack(x.chunk(n))
    torch.cat(x.split(n))|torch.cat(x.split([n - 1, 1]))|x.topk(n - 1, 0)[0]|x.roll(n, 0)
    x.sum(n - 2)|x.sum((n - 3, n - 2))|x.unsqueeze(n - 3)|x.transpose(n - 3, 1)|x.flip((n - 3,))
    torch.cat([x, x], n - 3)|x.cumsum(n - 3)|x.unfold(0, n, 1)|x.repeat_interleave(n, 0)
    nn.Linear(n, 2).weight|nn.Embedding(n, 2).weight|nn.Conv2d(n, n, 2).weight|F.pad(x, (n, 0))
    F.one_hot(torch.tensor([1]), n)|F.softmax(x, n - 3)|F.max_pool2d(image, n)
    F.adaptive_avg_pool2d(image, (n - 1, n))|F.interpolate(image, size=(n, n))
    F.unfold(image, (n, n))|F.layer_norm(x, (n - 1,))
    F.conv2d(image, image, stride=n, padding=(n - 1, n - 1))"""


@pytest.mark.parametrize("call", [call.strip() for line in SIZES.splitlines()
                                  for call in line.split("|")])
def test_tensors_as_integers(call):
    """Sizes, dims and counts may be Tensors without axes."""
    found = []
    for torch in theirs, ours:
        names = {"torch": torch, "nn": torch.nn, "F": torch.nn.functional, "n": torch.tensor(3),
                 "x": torch.ones(3, 2), "image": torch.ones(1, 1, 4, 4)}
        found.append(tuple(eval(call, names).shape))
    assert found[0] == found[1]


@program
def the_dicts_of_a_module(torch):
    """Programs walk through them, and replace layers and parameters by them."""
    nn = torch.nn
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU())
    net.add_module("last", nn.Linear(3, 2, bias=False))
    names = [[*net._modules], [*net[0]._parameters], [*net[1]._buffers], [*net._parameters]]
    assert names == [["0", "1", "2", "last"], ["weight", "bias"],
                     ["running_mean", "running_var", "num_batches_tracked"], []]
    net._modules["2"] = nn.Tanh()
    net._modules["last"]._parameters["weight"] = nn.Parameter(torch.ones(2, 3))
    assert isinstance(net[2], nn.Tanh) and "5" not in net._modules and len(net._modules) == 4
    del net[0]._parameters["bias"]
    net[0].bias = 0.0
    assert [*net[0]._parameters] == ["weight"] and "weight" in net[0]._parameters
    net[0].bias = None
    filled(net)
    x = torch.tensor(array(4, 3))
    for layer in dict(net._modules.items()).values():
        x = layer(x)
    with torch.no_grad():
        net[1]._buffers["running_mean"] += 1
    return [x, *net[1]._buffers.values(), *net.state_dict().values()]


def test_lists_of_longer_tensors_are_refused():
    for torch in theirs, ours:
        with pytest.raises(ValueError, match="one element"):
            torch.tensor([torch.ones(2), torch.ones(2)])


@pytest.mark.filterwarnings("ignore:TypedStorage")
def test_elements_of_a_storage():
    for torch in theirs, ours:
        storage = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).storage()
        assert storage.tolist() == [*storage] == [1.0, 2.0, 3.0, 4.0] and storage[1] == 2.0


def test_default_dtype_of_distributions():
    for torch in theirs, ours:
        torch.set_default_dtype(torch.float64)
        try:
            assert torch.distributions.Normal(0, 0.1).sample().dtype is torch.float64
            assert torch.distributions.Binomial(3, probs=0.5).log_prob(
                torch.tensor(1.0)).dtype is torch.float64
        finally:
            torch.set_default_dtype(torch.float32)


def use_a_group_of_one_process(torch, store):
    """What programs for several GPUs do when they are the only process."""
    dist, data = torch.distributed, torch.utils.data
    assert dist.is_available() and not dist.is_initialized()
    with pytest.raises(ValueError, match="group"):
        dist.get_rank()
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    try:
        assert (dist.get_rank(), dist.get_world_size(), dist.get_backend()) == (0, 1, "gloo")
        model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 1))
        assert [*model.state_dict()] == ["module.weight", "module.bias"]
        x = torch.ones(3, 2)
        with model.no_sync():
            model(x).sum().backward()
        assert model.module.bias.grad.item() == 3
        received, objects, flat = [torch.zeros(3, 2)], [None], torch.zeros(3, 2)
        dist.all_reduce(x, op=dist.ReduceOp.SUM)
        assert dist.all_reduce(x, async_op=True).wait()
        dist.reduce(x, 0)
        dist.broadcast(x, src=0)
        dist.all_gather(received, x)
        dist.all_gather_into_tensor(flat, x)
        dist.all_gather_object(objects, {"loss": 1})
        dist.barrier()
        assert torch.equal(received[0], x) and torch.equal(flat, torch.ones(3, 2))
        assert objects == [{"loss": 1}]
        sampler = data.distributed.DistributedSampler(range(5), shuffle=False)
        loader = data.DataLoader(range(5), sampler=sampler, batch_size=2)
        assert [len(batch) for batch in loader] == [2, 2, 1]
    finally:
        dist.destroy_process_group()
    assert not dist.is_initialized()


GROUP_OF_THEIRS = """
import os, sys, torch
from test_torch_snippets import use_a_group_of_one_process

use_a_group_of_one_process(torch, sys.argv[1])
os._exit(0)
"""


def test_a_group_of_one_process(tmp_path):
    """PyTorch's process ends at once: to free its group may wait for ever for a thread of it."""
    use_a_group_of_one_process(ours, tmp_path / "ours")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", GROUP_OF_THEIRS,
                           str(tmp_path / "theirs")], cwd=Path(__file__).parent, timeout=120,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("replicas", [1, 2, 3, 12])
@pytest.mark.parametrize("drop_last", [False, True])
def test_distributed_sampler(replicas, drop_last):
    for rank in range(replicas):
        options = {"num_replicas": replicas, "rank": rank, "drop_last": drop_last}
        a, b = (t.utils.data.DistributedSampler(range(5), shuffle=False, **options)
                for t in (ours, theirs))
        assert (list(a), len(a)) == (list(b), len(b))
    samplers = [ours.utils.data.DistributedSampler(range(7), 2, rank, seed=3) for rank in (0, 1)]
    first = [list(s) for s in samplers]
    assert first == [list(s) for s in samplers] and {*first[0], *first[1]} == {*range(7)}
    for sampler in samplers:
        sampler.set_epoch(1)
    assert first != [list(s) for s in samplers]


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match=r"one process.*world_size=2"):
        ours.distributed.init_process_group("nccl")
    with pytest.raises(ValueError, match=r"init_process_group"):
        ours.nn.parallel.DistributedDataParallel(ours.nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"rank.*0\.\.1.*got 2"):
        ours.utils.data.DistributedSampler(range(3), 2, 2)
    assert not ours.distributed.is_initialized()


def test_memory_is_not_shared_between_processes(monkeypatch):
    monkeypatch.setattr("gpuprop._core.warnings._issued", set())
    layer = ours.nn.Linear(1, 1)
    with pytest.warns(UserWarning, match=r"share_memory.*copies.*threads"):
        assert layer.share_memory() is layer
    assert not layer.weight.is_shared()


def test_the_numpy_dialect_beside_it():
    """In one process, one program each; a layer of gpuprop's own stays as it is."""
    import gpuprop

    t = gpuprop.tensor(array(3, 4))
    assert type(t.max(axis=1)) is gpuprop.Tensor and isinstance(t.data, np.ndarray)
    layer = gpuprop.nn.Linear(4, 2)
    assert isinstance(layer.weight.data, np.ndarray) and not isinstance(layer.weight, ours.Tensor)
    out = layer(ours.tensor(array(3, 4).astype("float32")))
    assert isinstance(out, ours.Tensor)
    out.sum().backward()
    assert isinstance(layer.weight.grad, np.ndarray)


def test_a_whole_transformer_by_its_listed_classes(tmp_path):
    for torch in theirs, ours:
        modules = torch.nn.modules
        classes = [modules.activation.MultiheadAttention, modules.container.ModuleList,
                   modules.dropout.Dropout, modules.linear.Linear, modules.normalization.LayerNorm,
                   modules.linear.NonDynamicallyQuantizableLinear, torch.nn.functional.relu,
                   modules.transformer.TransformerEncoder,
                   modules.transformer.TransformerEncoderLayer]
        model = torch.nn.TransformerEncoder(
            torch.nn.TransformerEncoderLayer(4, 2, 3), 1, enable_nested_tensor=False)
        torch.save(model, tmp_path / "model.pt")
        with torch.serialization.safe_globals(classes):
            again = torch.load(tmp_path / "model.pt")
        assert isinstance(again.layers[0].self_attn.out_proj,
                          modules.linear.NonDynamicallyQuantizableLinear)
        assert torch.equal(again.layers[0].linear1.weight, model.layers[0].linear1.weight)


def test_pickle_copy_save():
    model = ours.nn.Sequential(ours.nn.Linear(3, 2))
    again = pickle.load(io.BytesIO(pickle.dumps(model)))
    assert type(again[0].weight) is type(model[0].weight) and isinstance(
        copy.deepcopy(again)[0], ours.nn.Linear
    )
    x = ours.ones(2)
    assert type(pickle.loads(pickle.dumps(x))) is ours.Tensor
    model = ours.optim.swa_utils.AveragedModel(model)
    normed = ours.nn.utils.parametrizations.spectral_norm(ours.nn.Linear(3, 2))
    for m in model, normed:
        again = pickle.loads(pickle.dumps(m))
        assert repr(again) == repr(m) and again.state_dict().keys() == m.state_dict().keys()
