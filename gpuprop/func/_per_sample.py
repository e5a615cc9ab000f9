"""The gradient of each sample of a batch, by one backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gpuprop.functional as F
from gpuprop._array.arithmetic import multiply
from gpuprop._array.products import matmul
from gpuprop._array.reduction import sum as sum_of
from gpuprop._array.shape import concatenate
from gpuprop._core.graph import raw
from gpuprop._core.mode import enable_grad, no_grad
from gpuprop._core.namespace import namespace
from gpuprop._core.tensor import Tensor
from gpuprop.func._functional_call import functional_call
from gpuprop.nn import Embedding, GroupNorm, LayerNorm, Linear, RMSNorm
from gpuprop.nn._convolution import Convolution
from gpuprop.nn._module import Module
from gpuprop.nn._normalization import BatchNorm


def per_sample_gradients(model: Module, loss_fn: Callable, x: Any, y: Any) -> dict[str, Any]:
    """The gradients of ``loss_fn(model(x[i:i + 1]), y[i:i + 1])`` for each i: {name: (N, ...)}.

    The model is called once with the whole batch x, so its layers must treat samples separately.
    The gradients of parameters come from the input and the output's gradient of each layer: by a
    product for linear layers, a grouped convolution for convolutions, a sum for embeddings and
    norms, and by a loop over the samples for other layers.  Batch normalization in training mixes
    samples and raises ValueError.  `grad` of the parameters is not changed.

    G. Rochette et al., "Efficient per-example gradient computations in convolutional neural
    networks", 2019.

    >>> from gpuprop import func, nn
    >>> model = nn.Linear(3, 2)
    >>> found = func.per_sample_gradients(model, nn.MSELoss(), gpuprop.ones(5, 3),
    ...                                   gpuprop.zeros(5, 2))
    >>> {name: g.shape for name, g in found.items()}
    {'weight': (5, 2, 3), 'bias': (5, 2)}
    """
    owners = {path: m for path, m in model.named_modules()
              if any(p.requires_grad for p in m.parameters(recurse=False))}
    for path, module in owners.items():
        if isinstance(module, BatchNorm) and module.training:
            raise ValueError(f"per_sample_gradients: {path or type(module).__name__} is batch "
                             f"normalization in training, which mixes samples: use GroupNorm, or "
                             f"model.eval()")
    calls: list[tuple[str, Any, Any]] = []  # layer, input, gradient of the output
    removers = [_watch(path, module, calls) for path, module in owners.items()]
    saved = [(p, p.gradient) for p in model.parameters()]
    try:
        with enable_grad():
            output = model(x)
            losses = [loss_fn(output[i:i + 1], y[i:i + 1]) for i in range(output.shape[0])]
            total = losses[0]
            for loss in losses[1:]:
                total = total + loss
            total.backward()
    finally:
        for remove in removers:
            remove()
        for p, g in saved:
            p.gradient = g
    found: dict[str, Any] = {}
    with no_grad():
        for path, given, g in calls:
            for name, value in _gradients(owners[path], given, g).items():
                key = f"{path}.{name}".lstrip(".")
                found[key] = found[key] + value if key in found else value
    order = [name for name, p in model.named_parameters() if p.requires_grad]
    return {name: Tensor(found[name]) for name in order if name in found}


def _watch(path: str, module: Module, calls: list) -> Callable[[], None]:
    """Note the input and the gradient of the output in each call of a layer."""

    def after(layer: Module, args: tuple, output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(lambda g: calls.append((path, raw(args[0]), raw(g))))

    return module.register_forward_hook(after)


def _gradients(layer: Any, x: Any, g: Any) -> dict[str, Any]:
    """The gradients of a layer's own parameters for each sample: {name: (N, ...)}."""
    rule = next((rule for kinds, rule in RULES if isinstance(layer, kinds)), _one_by_one)
    found = rule(layer, x, g)
    names = [name for name, p in layer.named_parameters(recurse=False) if p.requires_grad]
    return {name: found[name] for name in names}


def _summed(a: Any, axes: range) -> Any:
    return sum_of(a, tuple(axes)) if len(axes) else a


def _linear(layer: Linear, x: Any, g: Any) -> dict[str, Any]:
    n = x.shape[0]
    rows = lambda a: a.reshape(n, -1, a.shape[-1])
    return {"weight": matmul(rows(g).swapaxes(-1, -2), rows(x)),
            "bias": _summed(g, range(1, g.ndim - 1))}


def _convolution(layer: Any, x: Any, g: Any) -> dict[str, Any]:
    """All samples as groups of one convolution, each with weights of its own."""
    n = x.shape[0]
    weight = raw(layer.weight)
    xp = namespace(weight)
    copies = Tensor(xp.concatenate([weight] * n), requires_grad=True)
    function = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[weight.ndim]
    if layer.padding_mode != "zeros":
        return _one_by_one(layer, x, g)
    merged = x.reshape(1, n * x.shape[1], *x.shape[2:])
    with enable_grad():
        y = function(Tensor(merged), copies, None, layer.stride, layer.padding, layer.dilation,
                     n * layer.groups)
    y.backward(g.reshape(y.shape))
    return {"weight": copies.gradient.reshape(n, *weight.shape),
            "bias": _summed(g, range(2, g.ndim))}


def _embedding(layer: Embedding, x: Any, g: Any) -> dict[str, Any]:
    n = x.shape[0]
    weight = raw(layer.weight)
    xp = namespace(weight)
    table = Tensor(xp.zeros((n * weight.shape[0], weight.shape[1]), weight.dtype), True)
    first = (xp.arange(n) * weight.shape[0]).reshape(n, *[1] * (x.ndim - 1))
    with enable_grad():
        rows = F.embedding(Tensor(x + first), table)
    if layer.padding_idx is not None:
        g = g * (x != layer.padding_idx)[..., None]
    rows.backward(g)
    return {"weight": table.gradient.reshape(n, *weight.shape)}


def _norm(layer: Any, x: Any, g: Any) -> dict[str, Any]:
    """From the normalized input, which is the output without weight and bias."""
    own = dict(layer.named_parameters(recurse=False))
    neutral = {name: Tensor(namespace(raw(p)).full_like(raw(p), float(name == "weight")))
               for name, p in own.items()}
    normalized = raw(functional_call(layer, neutral, Tensor(x)))
    ndim = own["weight"].ndim if "weight" in own else 1
    axes = range(2, g.ndim) if isinstance(layer, GroupNorm) else range(1, g.ndim - ndim)
    return {"weight": _summed(multiply(g, normalized), axes), "bias": _summed(g, axes)}


def _one_by_one(layer: Module, x: Any, g: Any) -> dict[str, Any]:
    """The layer is called with each sample."""
    own = {name: p for name, p in layer.named_parameters(recurse=False) if p.requires_grad}
    rows: dict[str, list] = {name: [] for name in own}
    for i in range(x.shape[0]):
        leaves = {name: Tensor(raw(p), requires_grad=True) for name, p in own.items()}
        with enable_grad():
            y = functional_call(layer, leaves, Tensor(x[i:i + 1]))
        y.backward(g[i:i + 1])
        for name, leaf in leaves.items():
            rows[name].append(leaf.gradient[None])
    return {name: concatenate(found) for name, found in rows.items()}


RULES: list[tuple[Any, Callable]] = [
    (Linear, _linear), (Convolution, _convolution), (Embedding, _embedding),
    ((LayerNorm, RMSNorm, GroupNorm), _norm),
]
