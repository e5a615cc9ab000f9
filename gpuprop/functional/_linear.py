"""Linear and bilinear maps."""

from __future__ import annotations

from gpuprop._array.products import as_matrix
from gpuprop._core.dtypes import cast, compute_dtype, widened
from gpuprop._core.ops import op
from gpuprop._core.signature import Array
from gpuprop.functional._checks import check_dtypes


def add_bias(name, y, bias):
    """``y + bias``, in place; ValueError unless `bias` broadcasts to the shape of `y`."""
    try:
        y += bias
    except ValueError:
        raise ValueError(f"{name}: bias {bias.shape} does not broadcast to the output {y.shape}: "
                         f"it must be (out,)") from None
    return y


@op(precision="low")
def linear(xp, input: Array, weight: Array, bias: Array = None):
    """Linear map of the last axis: ``y = input @ weight.T + bias``.

    (..., in), (out, in), (out,) -> (..., out).  Raises ValueError if shapes do not fit, and
    TypeError if dtypes differ.

    >>> import gpuprop as gp
    >>> import gpuprop.functional as F
    >>> F.linear(gp.ones((2, 3)), gp.ones((4, 3))).shape
    (2, 4)
    """
    check_dtypes("linear", input, weight, bias)
    if weight.ndim != 2:
        raise ValueError(f"linear: weight must be (out, in), got shape {weight.shape}")
    if input.shape[-1:] != weight.shape[1:]:
        features = input.shape[-1] if input.ndim else "no"
        raise ValueError(f"linear: input {input.shape} has {features} features, but weight "
                         f"{weight.shape} takes {weight.shape[1]}")
    y = xp.matmul(input, weight.T)
    if bias is not None:
        y = add_bias("linear", y, bias)
    return y, (
        lambda dy: xp.matmul(dy, weight),
        lambda dy: xp.matmul(as_matrix(dy).T, as_matrix(input)),
        lambda dy: dy)  # the engine sums over the axes along which bias was broadcast


@op(precision="low")
def bilinear(xp, input1: Array, input2: Array, weight: Array, bias: Array = None):
    """Bilinear map of the last axes: ``y[..., k] = input1 @ weight[k] @ input2 + bias[k]``.

    (..., in1), (..., in2), (out, in1, in2), (out,) -> (..., out).  Raises ValueError if shapes do
    not fit, and TypeError if dtypes differ.
    """
    check_dtypes("bilinear", input1, weight, bias)
    check_dtypes("bilinear", input2, weight)
    if weight.ndim != 3:
        raise ValueError(f"bilinear: weight must be (out, in1, in2), got shape {weight.shape}")
    out, in1, in2 = weight.shape
    batch = input1.shape[:-1]
    if (input1.shape, input2.shape) != ((*batch, in1), (*batch, in2)):
        raise ValueError(f"bilinear: input1 {input1.shape} and input2 {input2.shape} do not fit "
                         f"weight {weight.shape}, which is (out, in1, in2)")
    x1 = as_matrix(input1)
    x2 = as_matrix(input2)
    n = len(x1)
    w = weight.transpose(1, 0, 2).reshape(in1, out * in2)
    # products that are multiplied further are not rounded to half types
    x1_w = xp.matmul(x1, w, dtype=compute_dtype(w.dtype)).reshape(n, out, in2)
    y = xp.matmul(x1_w, x2[:, :, None]).reshape(*batch, out)
    if bias is not None:
        y = add_bias("bilinear", y, bias)

    def dy_x2(dy):
        return (widened(dy).reshape(n, out, 1) * x2[:, None]).reshape(n, out * in2)

    return cast(y, w.dtype), (
        lambda dy: xp.matmul(dy_x2(dy), w.T).reshape(*batch, in1),
        lambda dy: xp.matmul(dy.reshape(n, 1, out), x1_w).reshape(*batch, in2),
        lambda dy: xp.matmul(x1.T, dy_x2(dy)).reshape(in1, out, in2).transpose(1, 0, 2),
        lambda dy: dy)
