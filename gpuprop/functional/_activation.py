"""Activation functions.

First the elementwise functions, each with its gradient, then functions along an axis, then random
functions.
"""

from __future__ import annotations

import math
from typing import Any

from gpuprop._array.activation import softmax
from gpuprop._core.composed import checks_arguments, composed
from gpuprop._core.graph import raw
from gpuprop._core.namespace import namespace
from gpuprop._core.ops import op
from gpuprop._core.placement import place_of
from gpuprop._core.pointwise import pointwise_op
from gpuprop._core.registry import making_on
from gpuprop._core.signature import Array
from gpuprop.random import NOISE, Generator, default_generator

# ---- piecewise linear ---------------------------------------------------------------------------
# The gradient at a kink is PyTorch's: 0 if one side is constant.


@pointwise_op
def threshold(xp, input: Array, threshold: float, value: float, inplace: bool = False):
    """Replace small elements by a value: ``y = input if input > threshold else value``.

    `inplace` has no effect.
    """
    return xp.where(input <= threshold, value, input)


@threshold.backward
def threshold_backward(xp, input, dy, threshold, value):
    return xp.where(input <= threshold, 0, dy)


@pointwise_op
def hardtanh(xp, input: Array, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False):
    """Clamp to a range: ``y = min(max(input, min_val), max_val)``.

    The gradient is 0 at `min_val` and at `max_val`.  `inplace` has no effect.  Raises ValueError if
    `min_val` is greater than `max_val`.
    """
    if min_val > max_val:
        raise ValueError(f"hardtanh: min_val {min_val} must not be greater than max_val {max_val}")
    return xp.clip(input, min_val, max_val)


@hardtanh.backward
def hardtanh_backward(xp, input, dy, min_val, max_val):
    return xp.where((input <= min_val) | (input >= max_val), 0, dy)


@checks_arguments
def relu6(input: Array, inplace: bool = False) -> Array:
    """ReLU limited to 6: ``y = min(max(input, 0), 6)``.

    `inplace` has no effect.
    """
    return hardtanh(input, 0, 6)


@pointwise_op(promote=True, name="leaky_relu")
def leaky_relu_op(xp, input: Array, slope: Array):
    """`leaky_relu` with an array of slopes, which broadcasts."""
    return xp.maximum(input, 0) + slope * xp.minimum(input, 0)


@leaky_relu_op.backward
def leaky_relu_backward(xp, input, slope, dy):
    positive = input > 0
    return xp.where(positive, dy, 0) + xp.where(positive, 0, slope * dy)


@leaky_relu_op.backward
def leaky_relu_backward_slope(xp, input, slope, dy):
    return xp.where(input > 0, 0, dy * input)


@checks_arguments
def leaky_relu(input: Array, negative_slope: float = 0.01, inplace: bool = False) -> Array:
    """ReLU with a small slope below 0: ``y = max(input, 0) + negative_slope * min(input, 0)``.

    `inplace` has no effect.
    """
    return leaky_relu_op(input, negative_slope)


@checks_arguments
def prelu(input: Array, weight: Array) -> Array:
    """Leaky ReLU with a learned slope: ``y = max(input, 0) + weight * min(input, 0)``.

    `input` is (N, C, ...) and `weight` (1,) or (C,), one slope per channel.  Raises ValueError for
    any other number of slopes.  K. He et al., ICCV 2015.
    """
    channels = input.shape[1] if input.ndim > 1 else 1
    if weight.ndim > 1 or weight.size not in (1, channels):
        raise ValueError(f"prelu: weight must have shape (1,) or ({channels},) for input "
                         f"{input.shape}, got {weight.shape}")
    shape = (-1, *(1,) * (input.ndim - 2)) if input.ndim else ()
    return leaky_relu_op(input, weight.reshape(shape))


@pointwise_op
def hardshrink(xp, input: Array, lambd: float = 0.5):
    """Set small elements to 0: ``y = input if |input| > lambd else 0``."""
    return xp.where((input <= lambd) & (input >= -lambd), 0, input)  # abs(int8 -128) is -128


@hardshrink.backward
def hardshrink_backward(xp, input, dy, lambd):
    return xp.where(xp.abs(input) <= lambd, 0, dy)


@pointwise_op
def softshrink(xp, input: Array, lambd: float = 0.5):
    """Soft thresholding: ``y = sign(input) * max(|input| - lambd, 0)``.

    Raises ValueError if `lambd` is negative.
    """
    if lambd < 0:
        raise ValueError(f"softshrink: lambd must not be negative, got {lambd}")
    return input - xp.clip(input, -lambd, lambd)


softshrink.backward(hardshrink_backward)


@pointwise_op
def hardsigmoid(xp, input: Array, inplace: bool = False):
    """Piecewise linear approximation of sigmoid: ``y = min(max(input + 3, 0), 6) / 6``.

    `inplace` has no effect.
    """
    return xp.clip(input + 3, 0, 6) / 6


@hardsigmoid.backward
def hardsigmoid_backward(xp, input, dy):
    return xp.where(xp.abs(input) < 3, dy / 6, 0)


@pointwise_op
def hardswish(xp, input: Array, inplace: bool = False):
    """Piecewise approximation of `silu`: ``y = input * hardsigmoid(input)``.

    `inplace` has no effect.  A. Howard et al., ICCV 2019.
    """
    return input * (xp.clip(input + 3, 0, 6) / 6)


@hardswish.backward
def hardswish_backward(xp, input, dy):
    return xp.where(input <= -3, 0, dy * xp.where(input < 3, input / 3 + 0.5, 1))


# ---- smooth ------------------------------------------------------------------------------------


@pointwise_op(name="elu")
def elu_op(xp, input: Array, scale: float, negative_scale: float, rate: float):
    """``scale * input`` if positive, else ``negative_scale * (exp(rate * input) - 1)``."""
    return scale * xp.maximum(input, 0) + negative_scale * xp.expm1(rate * xp.minimum(input, 0))


@elu_op.backward
def elu_backward(xp, input, dy, scale, negative_scale, rate):
    negative_slope = negative_scale * rate * xp.exp(rate * xp.minimum(input, 0))
    return dy * xp.where(input > 0, scale, negative_slope)


@checks_arguments
def elu(input: Array, alpha: float = 1.0, inplace: bool = False) -> Array:
    """Exponential linear unit: ``y = input if input > 0 else alpha * (exp(input) - 1)``.

    `inplace` has no effect.  D.-A. Clevert et al., ICLR 2016.
    """
    return elu_op(input, 1.0, alpha, 1.0)


@checks_arguments
def celu(input: Array, alpha: float = 1.0, inplace: bool = False) -> Array:
    """Differentiable ELU: ``y = input if input > 0 else alpha * (exp(input / alpha) - 1)``.

    Its derivative is continuous for every `alpha`.  `inplace` has no effect.  J. T. Barron, 2017.
    """
    if alpha == 0:
        raise ValueError("celu: alpha must be a number other than 0")
    return elu_op(input, 1.0, alpha, 1 / alpha)


@checks_arguments
def selu(input: Array, inplace: bool = False) -> Array:
    """Scaled ELU: ``y = 1.0507 * elu(input, alpha=1.6733)``.

    With these constants activations keep mean 0 and variance 1 from layer to layer.  `inplace` has
    no effect.  G. Klambauer et al., NeurIPS 2017.
    """
    alpha = 1.6732632423543772848170429916717
    scale = 1.0507009873554804934193349852946
    return elu_op(input, scale, alpha * scale, 1.0)


@pointwise_op
def gelu(xp, input: Array, approximate: str = "none"):
    """Gaussian error linear unit: ``y = input * Phi(input)``.

    Phi is the cumulative distribution function of the standard normal distribution.  With
    ``approximate="tanh"``,
    ``y = input * (1 + tanh(sqrt(2 / pi) * (input + 0.044715 * input**3))) / 2``.  Raises ValueError
    if `approximate` is neither "none" nor "tanh".  D. Hendrycks and K. Gimpel, 2016.
    """
    if approximate == "none":
        return 0.5 * input * (1 + xp.erf(input * math.sqrt(0.5)))
    if approximate != "tanh":
        raise ValueError(f"gelu: approximate must be 'none' or 'tanh', got {approximate!r}")
    return 0.5 * input * (
        1 + xp.tanh(input * (0.044715 * input * input + 1) * math.sqrt(2 / math.pi)))


@gelu.backward
def gelu_backward(xp, input, dy, approximate):
    square = input * input
    if approximate == "none":
        density = xp.exp(-0.5 * square) * (1 / math.sqrt(2 * math.pi))
        return dy * (0.5 * (1 + xp.erf(input * math.sqrt(0.5))) + input * density)
    t = xp.tanh(input * (0.044715 * square + 1) * math.sqrt(2 / math.pi))
    return dy * (0.5 * (1 + t) + 0.5 * input * (1 - t * t)
                 * (3 * 0.044715 * square + 1) * math.sqrt(2 / math.pi))


@pointwise_op
def silu(xp, input: Array, inplace: bool = False):
    """Sigmoid linear unit, also called swish: ``y = input * sigmoid(input)``.

    `inplace` has no effect.
    """
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
    """Mish: ``y = input * tanh(softplus(input))``.

    `inplace` has no effect.  D. Misra, BMVC 2020.
    """
    return input * xp.tanh(log1p_exp(xp, input))


@mish.backward
def mish_backward(xp, input, dy):
    t = xp.tanh(log1p_exp(xp, input))
    return dy * (t + input * xp.sigmoid(input) * (1 - t * t))


@pointwise_op(precision="full")
def softplus(xp, input: Array, beta: float = 1.0, threshold: float = 20.0):
    """Smooth ReLU: ``y = log(1 + exp(beta * input)) / beta``.

    Where ``beta * input`` is above `threshold`, ``y = input``.
    """
    return xp.where(beta * input > threshold, input, log1p_exp(xp, beta * input) / beta)


@softplus.backward
def softplus_backward(xp, input, dy, beta, threshold):
    return dy * xp.where(beta * input > threshold, 1, xp.sigmoid(beta * input))


@pointwise_op
def logsigmoid(xp, input: Array):
    """Logarithm of sigmoid, without overflow: ``y = log(1 / (1 + exp(-input)))``."""
    return -log1p_exp(xp, -input)


@logsigmoid.backward
def logsigmoid_backward(xp, input, dy):
    return dy * xp.sigmoid(-input)


@pointwise_op
def softsign(xp, input: Array):
    """Softsign: ``y = input / (1 + |input|)``."""
    return input / (1 + xp.abs(input))


@softsign.backward
def softsign_backward(xp, input, dy):
    a = 1 + xp.abs(input)
    return dy / a / a


@pointwise_op
def tanhshrink(xp, input: Array):
    """Tanhshrink: ``y = input - tanh(input)``."""
    return input - xp.tanh(input)


@tanhshrink.backward
def tanhshrink_backward(xp, input, dy):
    t = xp.tanh(input)
    return dy * t * t


# ---- along an axis -----------------------------------------------------------------------------


@pointwise_op(promote=True, name="glu")
def sigmoid_gate(xp, input: Array, gate: Array):
    """``input * sigmoid(gate)``."""
    return input * xp.sigmoid(gate)


@sigmoid_gate.backward
def sigmoid_gate_backward(xp, input, gate, dy):
    return dy * xp.sigmoid(gate)


@sigmoid_gate.backward
def sigmoid_gate_backward_gate(xp, input, gate, dy):
    s = xp.sigmoid(gate)
    return dy * input * s * (1 - s)


@op
def glu(xp, input: Array, dim: int = -1):
    """Gated linear unit: ``y = a * sigmoid(b)``, for the two halves a and b of `input` along `dim`.

    The output has half the size along `dim`.  Raises ValueError if `input` has an odd size there.
    Y. Dauphin et al., ICML 2017.

    >>> import gpuprop as gp
    >>> import gpuprop.functional as F
    >>> F.glu(gp.tensor([4.0, 6.0, 0.0, 0.0])).tolist()
    [2.0, 3.0]
    """
    if input.ndim == 0 or input.shape[dim] % 2:
        raise ValueError(f"glu: axis {dim} of input {input.shape} must have an even size")
    n = input.shape[dim] // 2
    leading = (slice(None),) * (dim % input.ndim)
    a = input[(*leading, slice(n))]
    b = input[(*leading, slice(n, None))]
    y, pullbacks = sigmoid_gate.fn(xp, a, b)
    return y, (lambda dy: xp.concatenate([pull(dy) for pull in pullbacks], axis=dim),)


@op(precision="full")
def softmin(xp, input: Array, dim: int | None = None, dtype: Any = None):
    """Softmax of the negated input: ``y = softmax(-input, dim)``.

    `dim` and `dtype` are those of `softmax`.
    """
    y, (to_negative,) = softmax.fn(xp, -input, dim, dtype)
    return y, (lambda dy: -to_negative(dy),)


# ---- random ------------------------------------------------------------------------------------


def uniform_like(x: Any, low: float, high: float, dtype: Any, rng: Generator | None) -> Any:
    """Uniform noise in [low, high), in the shape of `x` and on its device."""
    with making_on(place_of(raw(x))):
        return (rng or default_generator).uniform(x.shape, low, high, dtype, NOISE)


@checks_arguments
def rrelu(input: Array, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False,
          inplace: bool = False, rng: Generator | None = None) -> Array:
    """Randomized leaky ReLU: ``y = max(input, 0) + slope * min(input, 0)``.

    In training each element has its own slope, uniform between `lower` and `upper`, drawn from
    `rng` or the default generator.  Otherwise the slope is ``(lower + upper) / 2``.  `inplace` has
    no effect.  Raises ValueError if `lower` is greater than `upper`.  B. Xu et al., 2015.
    """
    if lower > upper:
        raise ValueError(f"rrelu: lower {lower} must not be greater than upper {upper}")
    if not training:
        return leaky_relu(input, (lower + upper) / 2)
    return leaky_relu_op(input, uniform_like(input, lower, upper, input.dtype, rng))


@op(name="gumbel_softmax")
def straight_through_one_hot(xp, input: Array, dim: int):
    """One-hot encoding of the argmax along `dim`, with the gradient of the identity."""
    axis = dim % input.ndim
    index = xp.arange(input.shape[axis]).reshape(-1, *(1,) * (input.ndim - axis - 1))
    largest = xp.expand_dims(xp.argmax(input, axis=axis), axis)
    return (largest == index).astype(input.dtype), (lambda dy: dy,)


@composed(full=True)
def gumbel_softmax(logits: Array, tau: float = 1.0, hard: bool = False, eps: float = 1e-10,
                   dim: int = -1, rng: Generator | None = None) -> Array:
    """A sample from the Gumbel-softmax distribution: ``y = softmax((logits + gumbel) / tau, dim)``.

    The output has the shape of `logits`.  The lower the temperature `tau`, the closer it is to
    one-hot.  With `hard` it is one-hot, with the gradient of the soft sample.  Noise is drawn from
    `rng` or the default generator.  `eps` has no effect.  E. Jang et al., ICLR 2017.
    """
    u = uniform_like(logits, 0.0, 1.0, "float64", rng)
    xp = namespace(u)
    gumbel = -xp.log(-xp.log(xp.maximum(u, 2.0**-54)))  # u may be 0
    sample = softmax((logits + gumbel.astype(logits.dtype)) / tau, dim)
    return straight_through_one_hot(sample, dim) if hard and sample.ndim else sample
