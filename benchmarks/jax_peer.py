"""JAX as a contender: the whole training step is one function under ``jax.jit``.

JAX has no layers, so the models are functions of a state dict with PyTorch's names.  Images are
(N, H, W, C), as is usual in JAX; weights keep PyTorch's shapes.  `stats` receives the new running
statistics of normalization layers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.contenders import Contender, Setting, Weights
from gpuprop._bench.workload import Sizes, Training, Workload

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
Arrays = Mapping[str, Any]


class Jax(Contender):
    """JAX on the CPU."""

    def __init__(self) -> None:
        jax.devices()  # starts the runtime, before the level of the memory is taken

    def step(self, name: str, workload: Workload, s: Sizes, weights: Weights,
             setting: Setting) -> Callable[[], Any]:
        model = MODELS[name]
        state = {k: jnp.asarray(w) for k, w in weights.items()}
        batches = itertools.cycle([tuple(map(_device_array, b)) for b in workload.batches(s)])
        if isinstance(workload, Training):
            return _training_step(model, workload, s, state, batches)
        forward = jax.jit(lambda p, x: model(p, x, s, {}))
        return lambda: np.asarray(forward(state, next(batches)[0]))

    def matmul(self) -> tuple[Callable, Any]:
        product = jax.jit(jnp.matmul)
        return lambda a, b: product(a, b).block_until_ready(), jnp.asarray


def _device_array(a: np.ndarray) -> Any:
    """An array of JAX; images with their channels last."""
    return jnp.asarray(a.transpose(0, 2, 3, 1) if a.ndim == 4 else a)


def _training_step(model: Callable, workload: Training, s: Sizes, state: dict,
                   batches: Any) -> Callable[[], float]:
    def loss_of(p: dict, buffers: dict, x: Any, y: Any) -> tuple:
        stats: dict = {}
        return LOSSES[workload.loss](model(p | buffers, x, s, stats), y), stats

    start, update = OPTIMIZERS[workload.optimizer]

    def train(p: dict, buffers: dict, moments: Any, x: Any, y: Any) -> tuple:
        (loss, stats), gradients = jax.value_and_grad(loss_of, has_aux=True)(p, buffers, x, y)
        p, moments = update(p, gradients, moments, **workload.options)
        return loss, p, buffers | stats, moments

    train = jax.jit(train, donate_argnums=(0, 1, 2))
    parameters = {k: a for k, a in state.items() if not k.endswith(BUFFERS)}
    buffers = {k: a for k, a in state.items() if k.endswith(BUFFERS)}
    carried = (parameters, buffers, start(parameters))

    def step() -> float:
        nonlocal carried
        loss, *rest = train(*carried, *next(batches))
        carried = tuple(rest)
        return float(loss)

    return step


# ---- losses and optimizers, with PyTorch's meaning and defaults ----------------------------------


def cross_entropy(logits: Any, labels: Any) -> Any:
    log_p = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(log_p, labels[..., None], axis=-1).mean()


LOSSES = {"cross_entropy": cross_entropy, "mse_loss": lambda a, b: jnp.square(a - b).mean()}


def _zeros(p: Arrays) -> dict:
    return {k: jnp.zeros_like(a) for k, a in p.items()}


def adam(p: dict, g: dict, moments: tuple, lr: float) -> tuple:
    t, m, v = moments
    t = t + 1
    m = {k: 0.9 * m[k] + 0.1 * g[k] for k in p}
    v = {k: 0.999 * v[k] + 0.001 * g[k] ** 2 for k in p}
    size, root = lr / (1 - 0.9**t), jnp.sqrt(1 - 0.999**t)
    p = {k: p[k] - size * m[k] / (jnp.sqrt(v[k]) / root + 1e-8) for k in p}
    return p, (t, m, v)


def adagrad(p: dict, g: dict, total: dict, lr: float) -> tuple:
    total = {k: total[k] + g[k] ** 2 for k in p}
    return {k: p[k] - lr * g[k] / (jnp.sqrt(total[k]) + 1e-10) for k in p}, total


def sgd(p: dict, g: dict, velocity: dict, lr: float, momentum: float) -> tuple:
    velocity = {k: momentum * velocity[k] + g[k] for k in p}
    return {k: p[k] - lr * velocity[k] for k in p}, velocity


OPTIMIZERS: dict[str, tuple[Callable, Callable]] = {
    "Adam": (lambda p: (jnp.zeros((), "float32"), _zeros(p), _zeros(p)), adam),
    "Adagrad": (_zeros, adagrad),
    "SGD": (_zeros, sgd),
}


# ---- layers --------------------------------------------------------------------------------------


def linear(p: Arrays, name: str, x: Any) -> Any:
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def layer_norm(p: Arrays, name: str, x: Any) -> Any:
    z = jax.nn.standardize(x, epsilon=1e-5)
    return z * p[f"{name}.weight"] + p[f"{name}.bias"]


def conv(p: Arrays, name: str, x: Any, stride: int = 1, padding: int = 0, groups: int = 1) -> Any:
    y = lax.conv_general_dilated(
        x, p[f"{name}.weight"], (stride, stride), [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "OIHW", "NHWC"), feature_group_count=groups)
    bias = p.get(f"{name}.bias")
    return y if bias is None else y + bias


def batch_norm(p: Arrays, name: str, x: Any, stats: dict) -> Any:
    """Normalization over the batch; `stats` receives the running statistics."""
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    n = x.size // x.shape[-1]
    found = {"running_mean": mean, "running_var": variance * (n / (n - 1))}
    for key, value in found.items():
        stats[f"{name}.{key}"] = 0.9 * p[f"{name}.{key}"] + 0.1 * value
    z = (x - mean) * lax.rsqrt(variance + 1e-5)
    return z * p[f"{name}.weight"] + p[f"{name}.bias"]


def max_pool(x: Any) -> Any:
    """The largest of 2x2 pixels."""
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))


# ---- the models of gpuprop/_bench/workloads ------------------------------------------------------


def mlp(p: Arrays, x: Any, s: Sizes, stats: dict) -> Any:
    last = 2 * (len(s.widths) - 2)
    for i in range(0, last, 2):
        x = jax.nn.relu(linear(p, f"{i}", x))
    return linear(p, f"{last}", x)


def factorisation(p: Arrays, x: Any, s: Sizes, stats: dict) -> Any:
    user, item = x[:, 0], x[:, 1]
    product = (p["users.weight"][user] * p["items.weight"][item]).sum(-1)
    return product + p["user_bias.weight"][user, 0] + p["item_bias.weight"][item, 0]


def cnn(p: Arrays, x: Any, s: Sizes, stats: dict) -> Any:
    x = jax.nn.relu(conv(p, "0", x))
    x = max_pool(jax.nn.relu(conv(p, "2", x)))
    x = x.transpose(0, 3, 1, 2).reshape(len(x), -1)  # the linear layer has PyTorch's order
    return linear(p, "8", jax.nn.relu(linear(p, "6", x)))


def resnet(p: Arrays, x: Any, s: Sizes, stats: dict) -> Any:
    def block(name: str, x: Any, stride: int) -> Any:
        y = conv(p, f"{name}.conv1", x, stride, 1)
        y = jax.nn.relu(batch_norm(p, f"{name}.bn1", y, stats))
        y = batch_norm(p, f"{name}.bn2", conv(p, f"{name}.conv2", y, 1, 1), stats)
        if f"{name}.shortcut.weight" in p:
            x = conv(p, f"{name}.shortcut", x, stride)
        return jax.nn.relu(y + x)

    x = jax.nn.relu(batch_norm(p, "1", conv(p, "0", x, 1, 1), stats))
    i = 3
    for n, m in zip((s.widths[0], *s.widths), s.widths, strict=False):
        x = block(f"{i + 1}", block(f"{i}", x, 1 if n == m else 2), 1)
        i += 2
    return linear(p, f"{i + 2}", x.mean((1, 2)))


def separable(p: Arrays, x: Any, s: Sizes, stats: dict) -> Any:
    i = 0

    def unit(x: Any, stride: int = 1, padding: int = 0, groups: int = 1) -> Any:
        nonlocal i
        x = batch_norm(p, f"{i + 1}", conv(p, f"{i}", x, stride, padding, groups), stats)
        i += 3
        return jax.nn.relu(x)

    x = unit(x, 1, 1)
    for n, m in zip(s.widths, s.widths[1:], strict=False):
        x = unit(unit(x, 1 if n == m else 2, 1, n))
    return linear(p, f"{i + 2}", x.mean((1, 2)))


def unet(p: Arrays, x: Any, s: Sizes, stats: dict) -> Any:
    def double(name: str, x: Any) -> Any:
        for i in (0, 3):
            x = conv(p, f"{name}.{i}", x, 1, 1)
            x = jax.nn.relu(batch_norm(p, f"{name}.{i + 1}", x, stats))
        return x

    def twice_as_large(name: str, x: Any) -> Any:
        n, h, w, _ = x.shape
        y = jnp.einsum("nhwc,coij->nhiwjo", x, p[f"{name}.weight"])
        return y.reshape(n, 2 * h, 2 * w, -1) + p[f"{name}.bias"]

    x = double("first", x)
    skips = []
    for i in range(len(s.widths) - 1):
        skips.append(x)
        x = double(f"down.{i}", max_pool(x))
    for i in reversed(range(len(skips))):
        x = double(f"up.{i}", jnp.concatenate([skips[i], twice_as_large(f"wider.{i}", x)], -1))
    return conv(p, "last", x)


def lstm(p: Arrays, x: Any, s: Sizes, stats: dict) -> Any:
    x = p["tokens.weight"][x].swapaxes(0, 1)  # (T, N, D)
    for layer in range(s.layers):
        w_ih, w_hh, b_ih, b_hh = (
            p[f"lstm.{kind}_l{layer}"] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))

        def cell(carried: tuple, gates: Any, w: Any = w_hh.T) -> tuple:
            h, c = carried
            i, f, g, o = jnp.split(gates + h @ w, 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        zero = jnp.zeros((x.shape[1], s.width))
        _, x = lax.scan(cell, (zero, zero), x @ w_ih.T + (b_ih + b_hh))
    return linear(p, "head", x.swapaxes(0, 1).reshape(-1, s.width))


def gpt(p: Arrays, x: Any, s: Sizes, stats: dict) -> Any:
    x = p["tokens.weight"][x] + p["positions.weight"]
    n, t, width = x.shape
    for i in range(s.layers):
        b = f"blocks.{i}"
        qkv = linear(p, f"{b}.qkv", layer_norm(p, f"{b}.ln_1", x))
        q, k, v = jnp.moveaxis(qkv.reshape(n, t, 3, s.heads, width // s.heads), 2, 0)
        y = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        x = x + linear(p, f"{b}.out", y.reshape(n, t, width))
        y = jax.nn.gelu(linear(p, f"{b}.mlp.0", layer_norm(p, f"{b}.ln_2", x)), approximate=False)
        x = x + linear(p, f"{b}.mlp.2", y)
    logits = linear(p, "head", layer_norm(p, "last", x))
    return logits.reshape(-1, logits.shape[-1])


MODELS: dict[str, Callable] = {
    "mlp_small": mlp, "mlp": mlp, "autoencoder": mlp, "factorisation": factorisation,
    "cnn": cnn, "cnn_one": cnn, "cnn_1000": cnn, "resnet": resnet, "separable": separable,
    "unet": unet, "lstm": lstm,
    "gpt_small": gpt, "gpt": gpt, "gpt_one": gpt, "gpt_1000": gpt,
}
