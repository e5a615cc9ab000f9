"""Activations, element by element: each with its gradient below it; then those along an axis."""

from __future__ import annotations

import math
from typing import Any

from gpuprop._array.activation import softmax
from gpuprop._core.composed import composed
from gpuprop._core.graph import raw
from gpuprop._core.namespace import namespace
from gpuprop._core.ops import op
from gpuprop._core.placement import place_of
from gpuprop._core.pointwise import pointwise_op
from gpuprop._core.registry import making_on
from gpuprop._core.signature import Array
from gpuprop.random import NOISE, Generator, default_generator

# ---- pieces of straight lines ---------------------------------------------------------------------------------------
# Multiplied by a mask rather than chosen by `where`, which costs ten times as much on a CPU where signs are random.  At
# a kink the gradient is PyTorch's: that of the constant side.


@pointwise_op
def threshold(xp, input: Array, threshold: float, value: float, inplace: bool = False):
    """`input` where it is above `threshold`, else `value`."""
    return xp.where(input <= threshold, value, input)


@threshold.backward
def threshold_backward(xp, input, dy, threshold, value):
    return dy * (input > threshold)


@pointwise_op
def clamp(xp, input: Array, low: float, high: float):
    """`input` between two bounds; unlike ``clip``, a bound itself has no gradient."""
    return xp.clip(input, low, high)


@clamp.backward
def clamp_backward(xp, input, dy, low, high):
    return dy * ((input > low) & (input < high))


def hardtanh(input: Array, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Array:
    """`input` between `min_val` and `max_val`."""
    if min_val > max_val:
        raise ValueError(f"hardtanh: min_val {min_val} is above max_val {max_val}")
    return clamp(input, min_val, max_val)


def relu6(input: Array, inplace: bool = False) -> Array:
    """``min(max(input, 0), 6)``."""
    return clamp(input, 0, 6)


@pointwise_op
def leaky(xp, input: Array, slope: Array):
    """`input` where positive, else `slope` times it."""
    return xp.maximum(input, 0) + slope * xp.minimum(input, 0)


@leaky.backward
def leaky_backward(xp, input, slope, dy):
    return dy * (input > 0) + slope * dy * (input <= 0)


@leaky.backward
def leaky_backward_slope(xp, input, slope, dy):
    return dy * xp.minimum(input, 0)


def leaky_relu(input: Array, negative_slope: float = 0.01, inplace: bool = False) -> Array:
    """`input` where positive, else `negative_slope` times it."""
    return leaky(input, negative_slope)


def prelu(input: Array, weight: Array) -> Array:
    """`input` where positive, else `weight` times it: one weight for all, or (C,) for the channels of (N, C, ...)."""
    channels = input.shape[1] if input.ndim > 1 else 1
    if weight.ndim > 1 or weight.size not in (1, channels):
        raise ValueError(f"prelu: input {input.shape} takes a weight of 1 or {channels} elements, not {weight.shape}")
    return leaky(input, weight.reshape((-1, *(1,) * (input.ndim - 2)) if input.ndim else ()))


@pointwise_op
def hardshrink(xp, input: Array, lambd: float = 0.5):
    """`input` where it is further than `lambd` from 0, else 0."""
    return input * (xp.abs(input) > lambd)


@hardshrink.backward
def hardshrink_backward(xp, input, dy, lambd):
    return dy * (xp.abs(input) > lambd)


@pointwise_op
def softshrink(xp, input: Array, lambd: float = 0.5):
    """`input` moved towards 0 by `lambd`, but not beyond it."""
    if lambd < 0:
        raise ValueError(f"softshrink: lambd cannot be negative, and is {lambd}")
    return input - xp.clip(input, -lambd, lambd)


softshrink.backward(hardshrink_backward)


@pointwise_op
def hardsigmoid(xp, input: Array, inplace: bool = False):
    """``input / 6 + 1/2`` between 0 and 1."""
    return xp.clip(input + 3, 0, 6) / 6


@hardsigmoid.backward
def hardsigmoid_backward(xp, input, dy):
    return dy * (xp.abs(input) < 3) / 6


@pointwise_op
def hardswish(xp, input: Array, inplace: bool = False):
    """``input * hardsigmoid(input)``."""
    return input * (xp.clip(input + 3, 0, 6) / 6)


@hardswish.backward
def hardswish_backward(xp, input, dy):
    return dy * xp.where(input <= -3, 0, xp.where(input < 3, input / 3 + 0.5, 1))


# ---- curves ---------------------------------------------------------------------------------------------------------


@pointwise_op
def exponential(xp, input: Array, scale: float, negative_scale: float, rate: float):
    """``scale * input`` where positive, else ``negative_scale * (exp(rate * input) - 1)``."""
    return scale * xp.maximum(input, 0) + negative_scale * xp.expm1(rate * xp.minimum(input, 0))


@exponential.backward
def exponential_backward(xp, input, dy, scale, negative_scale, rate):
    below = negative_scale * rate * xp.exp(rate * xp.minimum(input, 0))
    return scale * dy * (input > 0) + below * dy * (input <= 0)


def elu(input: Array, alpha: float = 1.0, inplace: bool = False) -> Array:
    """`input` where positive, else ``alpha * (exp(input) - 1)``.  D.-A. Clevert et al., ICLR 2016."""
    return exponential(input, 1.0, alpha, 1.0)


def celu(input: Array, alpha: float = 1.0, inplace: bool = False) -> Array:
    """`input` where positive, else ``alpha * (exp(input / alpha) - 1)``.  J. T. Barron, 2017."""
    return exponential(input, 1.0, alpha, 1 / alpha)


def selu(input: Array, inplace: bool = False) -> Array:
    """A scaled `elu` that keeps mean 0 and variance 1 from layer to layer.  G. Klambauer et al., NeurIPS 2017."""
    alpha, scale = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
    return exponential(input, scale, alpha * scale, 1.0)


@pointwise_op
def gelu(xp, input: Array, approximate: str = "none"):
    """`input` times the normal distribution function, or its "tanh" form.  D. Hendrycks and K. Gimpel, 2016."""
    if approximate == "none":
        return 0.5 * input * (1 + xp.erf(input * math.sqrt(0.5)))
    if approximate != "tanh":
        raise ValueError(f"gelu: approximate is 'none' or 'tanh', not {approximate!r}")
    return 0.5 * input * (1 + xp.tanh(input * (0.044715 * input * input + 1) * math.sqrt(2 / math.pi)))


@gelu.backward
def gelu_backward(xp, input, dy, approximate):
    square = input * input
    if approximate == "none":
        density = xp.exp(-0.5 * square) * (1 / math.sqrt(2 * math.pi))
        return dy * (0.5 * (1 + xp.erf(input * math.sqrt(0.5))) + input * density)
    t = xp.tanh(input * (0.044715 * square + 1) * math.sqrt(2 / math.pi))
    return dy * (0.5 * (1 + t) + 0.5 * input * (1 - t * t) * (3 * 0.044715 * square + 1) * math.sqrt(2 / math.pi))


@pointwise_op
def silu(xp, input: Array, inplace: bool = False):
    """``input * sigmoid(input)``, the swish."""
    return input * xp.sigmoid(input)


@silu.backward
def silu_backward(xp, input, dy):
    s = xp.sigmoid(input)
    return dy * s * (1 + input * (1 - s))


def log1p_exp(xp, x):
    """``log(1 + exp(x))`` without overflow."""
    return xp.maximum(x, 0) + xp.log1p(xp.exp(-xp.abs(x)))


@pointwise_op
def mish(xp, input: Array, inplace: bool = False):
    """``input * tanh(softplus(input))``.  D. Misra, BMVC 2020."""
    return input * xp.tanh(log1p_exp(xp, input))


@mish.backward
def mish_backward(xp, input, dy):
    t = xp.tanh(log1p_exp(xp, input))
    return dy * (t + input * xp.sigmoid(input) * (1 - t * t))


@pointwise_op(precision="full")
def softplus(xp, input: Array, beta: float = 1.0, threshold: float = 20.0):
    """``log(1 + exp(beta * input)) / beta``, and `input` itself where ``beta * input`` is above `threshold`."""
    return xp.where(beta * input > threshold, input, log1p_exp(xp, beta * input) / beta)


@softplus.backward
def softplus_backward(xp, input, dy, beta, threshold):
    return dy * xp.where(beta * input > threshold, 1, xp.sigmoid(beta * input))


@pointwise_op
def logsigmoid(xp, input: Array):
    """``log(sigmoid(input))``."""
    return -log1p_exp(xp, -input)


@logsigmoid.backward
def logsigmoid_backward(xp, input, dy):
    return dy * xp.sigmoid(-input)


@pointwise_op
def softsign(xp, input: Array):
    """``input / (1 + |input|)``."""
    return input / (1 + xp.abs(input))


@softsign.backward
def softsign_backward(xp, input, dy):
    a = 1 + xp.abs(input)
    return dy / a / a


@pointwise_op
def tanhshrink(xp, input: Array):
    """``input - tanh(input)``."""
    return input - xp.tanh(input)


@tanhshrink.backward
def tanhshrink_backward(xp, input, dy):
    t = xp.tanh(input)
    return dy * t * t


# ---- gates and shares along an axis ---------------------------------------------------------------------------------


@pointwise_op
def gated(xp, input: Array, gate: Array):
    """``input * sigmoid(gate)``."""
    return input * xp.sigmoid(gate)


@gated.backward
def gated_backward(xp, input, gate, dy):
    return dy * xp.sigmoid(gate)


@gated.backward
def gated_backward_gate(xp, input, gate, dy):
    s = xp.sigmoid(gate)
    return dy * input * s * (1 - s)


@op
def glu(xp, input: Array, dim: int = -1):
    """The first half along `dim`, times the sigmoid of the second.  Y. Dauphin et al., ICML 2017."""
    if input.ndim == 0 or input.shape[dim] % 2:
        raise ValueError(f"glu: axis {dim} of input {input.shape} has no two halves")
    n, lead = input.shape[dim] // 2, (slice(None),) * (dim % input.ndim)
    y, pullbacks = gated.fn(xp, input[(*lead, slice(n))], input[(*lead, slice(n, None))])
    return y, (lambda dy: xp.concatenate([pull(dy) for pull in pullbacks], axis=dim),)


@op(precision="full")
def softmin(xp, input: Array, dim: int | None = None, dtype: Any = None):
    """``softmax(-input, dim)``; `dtype` is cast to first."""
    y, (back,) = softmax.fn(xp, -input, dim, dtype)
    return y, (lambda dy: -back(dy),)


# ---- noise ----------------------------------------------------------------------------------------------------------


def uniform(like: Any, low: float, high: float, dtype: Any, rng: Generator | None) -> Any:
    """Noise of the shape of `like`, and where that is."""
    with making_on(place_of(raw(like))):
        return (rng or default_generator).uniform(like.shape, low, high, dtype, NOISE)


def rrelu(input: Array, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, inplace: bool = False,
          rng: Generator | None = None) -> Array:
    """`input` where positive, else times a slope drawn between `lower` and `upper`; their mean when not training."""
    if lower > upper:
        raise ValueError(f"rrelu: lower {lower} is above upper {upper}")
    if not training:
        return leaky_relu(input, (lower + upper) / 2)
    return leaky(input, uniform(input, lower, upper, input.dtype, rng))


@op
def straight_through(xp, input: Array, dim: int):
    """1 at the largest along `dim` and 0 elsewhere, with the gradient of the identity."""
    axis = dim % input.ndim
    place = xp.arange(input.shape[axis]).reshape(-1, *(1,) * (input.ndim - axis - 1))
    return (xp.expand_dims(xp.argmax(input, axis=axis), axis) == place).astype(input.dtype), (lambda dy: dy,)


@composed(full=True)
def gumbel_softmax(logits: Array, tau: float = 1.0, hard: bool = False, eps: float = 1e-10, dim: int = -1,
                   rng: Generator | None = None) -> Array:
    """Shares along `dim` drawn about those of `logits`, the nearer to one-hot the lower `tau`; one-hot where `hard`.

    A one-hot draw has the gradient of the shares it was made of; `eps` is ignored.  E. Jang et al., ICLR 2017.
    """
    u = uniform(logits, 0.0, 1.0, "float64", rng)
    xp = namespace(u)
    gumbel = -xp.log(-xp.log(xp.maximum(u, 2.0**-54)))  # as the largest of many is distributed
    shares = softmax((logits + gumbel.astype(logits.dtype)) / tau, dim)
    return straight_through(shares, dim) if hard else shares
