"""Convolution, its transpose, `unfold` and `fold`, for any number of spatial dimensions."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from typing import Any

from gpuprop._array.shape import pad
from gpuprop._core.composed import checks_arguments, composed
from gpuprop._core.dtypes import cast, compute_dtype, widened
from gpuprop._core.ops import op
from gpuprop._core.registry import backend_of
from gpuprop._core.signature import Array
from gpuprop.functional._checks import check_dtypes
from gpuprop.functional._windows import (
    Sizes,
    as_batch,
    crop,
    extent,
    fold_windows,
    int_tuple,
    window_counts,
    windows,
    zero_pad,
)

# ---- matrix products ----------------------------------------------------------------------------
# conv_forward, conv_input_grad and conv_weight_grad are the derivatives of each other.


def im2col(xp, x, size, counts, stride, padding, dilation, groups):
    """Windows as columns: (N, C, *space) -> (groups, C / groups * prod(size), N * prod(counts))."""
    batch, channels = x.shape[:2]
    n = len(size)
    x = zero_pad(xp, x, padding)
    w = windows.on(xp, x, size=size, counts=counts, stride=stride, dilation=dilation)
    w = w.transpose((*range(1, n + 2), 0, *range(n + 2, 2 * n + 2)))  # (C, *size, N, *counts)
    return w.reshape(groups, channels // groups * math.prod(size), batch * math.prod(counts))


def conv_forward(xp, x, w, counts, stride, padding, dilation, groups):
    """``y[n, o, i] = sum over c and j of x[n, c, i * stride + j * dilation] * w[o, c, j]``.

    c runs over the channels of the group of o.
    """
    out = len(w)
    filters = w.reshape(groups, out // groups, math.prod(w.shape[1:]))
    columns = im2col(xp, x, w.shape[2:], counts, stride, padding, dilation, groups)
    y = xp.matmul(filters, columns)
    return y.reshape(out, len(x), *counts).swapaxes(0, 1)


def conv_input_grad(xp, dy, w, space, stride, padding, dilation, groups):
    """The gradient of `conv_forward` with respect to x, which has spatial shape `space`.

    float32 for half types, so that the windows that share an element are added before they are
    rounded.
    """
    batch, _, *counts = dy.shape
    out, channels, *size = w.shape
    n = len(size)
    filters = w.reshape(groups, out // groups, math.prod(w.shape[1:])).swapaxes(1, 2)
    columns = xp.matmul(filters, group_matrices(dy, groups), dtype=compute_dtype(dy.dtype))
    columns = columns.reshape(groups * channels, *size, batch, *counts)
    columns = columns.transpose((n + 1, *range(n + 1), *range(n + 2, 2 * n + 2)))
    padded = tuple(s + before + after for s, (before, after) in zip(space, padding, strict=True))
    dx = fold_windows.on(xp, columns, shape=padded, stride=stride, dilation=dilation)
    return crop(dx, padding, space)


def conv_weight_grad(xp, x, dy, weight_shape, stride, padding, dilation, groups):
    """The gradient of `conv_forward` with respect to w.

    float32 for half types, so that gradients of chunks are added before they are rounded.
    """
    columns = im2col(xp, x, weight_shape[2:], dy.shape[2:], stride, padding, dilation, groups)
    dtype = compute_dtype(x.dtype)
    dw = xp.matmul(group_matrices(dy, groups), columns.swapaxes(1, 2), dtype=dtype)
    return dw.reshape(weight_shape)


def bias_grad(dy):
    """The sum over the batch and space, in float32 for half types."""
    return widened(dy).sum(axis=(0, *range(2, dy.ndim)))


def group_matrices(y, groups):
    """(N, O, *counts) -> (groups, O / groups, N * prod(counts))."""
    rows = y.shape[1] // groups
    return y.swapaxes(0, 1).reshape(groups, rows, len(y) * math.prod(y.shape[2:]))


def per_channel(bias, n):
    """(O,) -> (O, 1, ..., 1), which broadcasts with `n` spatial dimensions."""
    return bias.reshape(-1, *(1,) * n)


# ---- ops ---------------------------------------------------------------------------------------


@op(name="conv{n}d", precision="low")
def conv(xp, input: Array, weight: Array, bias: Array | None, stride, padding, dilation, groups):
    """(N, C, *space), weight (O, C / groups, *size), bias (O,) or None -> (N, O, *counts).

    `padding` is a pair (before, after) per spatial dimension; the two may differ.
    """
    space = input.shape[2:]
    weight_shape = weight.shape
    name = f"conv{len(space)}d"
    check_dtypes(name, input, weight, bias)
    counts = window_counts(name, space, weight_shape[2:], stride, padding, dilation)
    options = (stride, padding, dilation, groups)
    y = conv_forward(xp, input, weight, counts, *options)
    if bias is not None:
        y += per_channel(bias, len(space))
    return y, (
        lambda dy: conv_input_grad(xp, dy, weight, space, *options),
        lambda dy: conv_weight_grad(xp, input, dy, weight_shape, *options),
        bias_grad)


@conv.faster
def conv_in_chunks(xp, input, weight, bias, stride, padding, dilation, groups):
    """`conv` of a few images at a time: `im2col` of a whole batch takes many times its memory."""
    space = input.shape[2:]
    name = f"conv{len(space)}d"
    counts = window_counts(name, space, weight.shape[2:], stride, padding, dilation)
    options = (stride, padding, dilation, groups)
    column_elements = groups * math.prod(weight.shape[1:]) * math.prod(counts)
    bytes_per_image = column_elements * input.dtype.itemsize
    chunk_size = max(1, backend_of(input).workspace() // max(1, bytes_per_image))
    if len(input) <= chunk_size:
        return conv_flipped(xp, input, weight, bias, *options)

    chunks = [slice(i, i + chunk_size) for i in range(0, len(input), chunk_size)]
    results = [conv_flipped(xp, input[chunk], weight, bias, *options) for chunk in chunks]
    outputs = [y for y, _ in results]
    input_grads = [pullbacks[0] for _, pullbacks in results]
    weight_grads = [pullbacks[1] for _, pullbacks in results]

    def chunk_grads(grads, dy):
        return [grad(dy[chunk]) for grad, chunk in zip(grads, chunks, strict=True)]

    return xp.concatenate(outputs), (
        lambda dy: xp.concatenate(chunk_grads(input_grads, dy)),
        lambda dy: functools.reduce(operator.iadd, chunk_grads(weight_grads, dy)),
        bias_grad)


def conv_flipped(xp, input, weight, bias, stride, padding, dilation, groups):
    """`conv`, with the input gradient as a convolution of dy with the flipped filters.

    Only for stride 1, if dy has no more channels than the input; otherwise it is `conv` itself.
    """
    y, pullbacks = conv.fn(xp, input, weight, bias, stride, padding, dilation, groups)
    space = input.shape[2:]
    out, channels, *size = weight.shape
    full_padding = [(k - 1 - before, k - 1 - after)
                    for k, (before, after) in zip(extent(size, dilation), padding, strict=True)]
    is_strided = any(s > 1 for s in stride)
    if is_strided or out > channels * groups or min(map(min, full_padding)) < 0:
        return y, pullbacks

    flipped = weight[(..., *(slice(None, None, -1),) * len(size))]
    flipped = flipped.reshape(groups, out // groups, channels, *size).swapaxes(1, 2)
    flipped = flipped.reshape(groups * channels, out // groups, *size)
    input_grad = lambda dy: conv_forward(
        xp, dy, flipped, space, stride, full_padding, dilation, groups)
    return y, (input_grad, *pullbacks[1:])


@op(name="conv_transpose{n}d", precision="low")
def conv_transpose(xp, input: Array, weight: Array, bias: Array | None, space, stride, padding,
                   dilation, groups):
    """(N, C, *counts), weight (C, O / groups, *size), bias (O,) or None -> (N, O, *space)."""
    counts = input.shape[2:]
    weight_shape = weight.shape
    check_dtypes(f"conv_transpose{len(counts)}d", input, weight, bias)
    options = (stride, padding, dilation, groups)
    y = conv_input_grad(xp, input, weight, space, *options)
    if bias is not None:
        y += per_channel(bias, len(space))
    return cast(y, input.dtype), (
        lambda dy: conv_forward(xp, dy, weight, counts, *options),
        lambda dy: conv_weight_grad(xp, dy, input, weight_shape, *options),
        bias_grad)


# ---- convolution -------------------------------------------------------------------------------


@checks_arguments
def conv1d(input: Array, weight: Array, bias: Array = None, stride: Sizes = 1,
           padding: Sizes | str = 0, dilation: Sizes = 1, groups: int = 1) -> Array:
    """1-d convolution (cross-correlation) of a signal with filters.

    Shapes: input (N, C, L) or (C, L), weight (O, C / groups, kernel_size), bias (O,);
    output (N, O, L_out) or (O, L_out) with

    ``L_out = floor((L + 2 * padding - dilation * (kernel_size - 1) - 1) / stride) + 1``

    The other parameters and the errors are those of `conv2d`.
    """
    return conv_nd(1, "conv1d", input, weight, bias, stride, padding, dilation, groups)


@checks_arguments
def conv2d(input: Array, weight: Array, bias: Array = None, stride: Sizes = 1,
           padding: Sizes | str = 0, dilation: Sizes = 1, groups: int = 1) -> Array:
    """2-d convolution (cross-correlation) of images with filters.

    ``y[n, o, i, j] = bias[o] + sum over c, k, l of
    weight[o, c, k, l] * input[n, c, i * stride + k * dilation, j * stride + l * dilation]``, with
    the padded input

    Shapes: input (N, C, H, W) or (C, H, W), weight (O, C / groups, *kernel_size), bias (O,);
    output (N, O, H_out, W_out) or (O, H_out, W_out) with

    ``H_out = floor((H + 2 * padding - dilation * (kernel_size - 1) - 1) / stride) + 1``

    and W_out likewise.  `stride`, `padding` and `dilation` are an int or one int per spatial
    dimension.  `padding` is the number of zeros added on each side, or "valid" (no zeros), or
    "same": the zeros that keep the size, for stride 1, of which an odd one is added at the end.
    With `groups`, each group of O / groups filters reads its own C / groups channels.

    Raises ValueError for shapes that do not match or a kernel larger than the padded input, and
    TypeError for an input and a weight of different dtypes.

    >>> import numpy as np, gpuprop.functional as F
    >>> image = np.arange(16.0).reshape(1, 1, 4, 4)
    >>> F.conv2d(image, np.ones((1, 1, 2, 2)), stride=2)
    array([[[[10., 18.],
             [42., 50.]]]])
    >>> F.conv2d(image, np.ones((8, 1, 3, 3)), padding="same").shape
    (1, 8, 4, 4)
    """
    return conv_nd(2, "conv2d", input, weight, bias, stride, padding, dilation, groups)


@checks_arguments
def conv3d(input: Array, weight: Array, bias: Array = None, stride: Sizes = 1,
           padding: Sizes | str = 0, dilation: Sizes = 1, groups: int = 1) -> Array:
    """3-d convolution (cross-correlation) of volumes with filters.

    Shapes: input (N, C, D, H, W) or (C, D, H, W), weight (O, C / groups, *kernel_size), bias (O,);
    output (N, O, D_out, H_out, W_out) or (O, D_out, H_out, W_out) with

    ``D_out = floor((D + 2 * padding - dilation * (kernel_size - 1) - 1) / stride) + 1``

    and H_out, W_out likewise.  The other parameters and the errors are those of `conv2d`.
    """
    return conv_nd(3, "conv3d", input, weight, bias, stride, padding, dilation, groups)


def conv_nd(n: int, name: str, input: Any, weight: Any, bias: Any, stride: Any, padding: Any,
            dilation: Any, groups: int) -> Any:
    """Convolution in `n` spatial dimensions; `name` is the public function's, for messages."""
    x, unbatch = as_batch(name, input, n)
    stride = int_tuple(name, "stride", stride, n)
    dilation = int_tuple(name, "dilation", dilation, n)
    check_channels(name, n, x, weight, bias, groups, transposed=False)
    widths = resolve_padding(name, padding, weight.shape[2:], stride, dilation)
    return unbatch(conv(x, weight, bias, stride, widths, dilation, groups))


def resolve_padding(name: str, padding: Any, size: Sequence[int], stride: Sequence[int],
                    dilation: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """The padding (before, after) per spatial dimension; with "same" an odd zero is after."""
    if padding == "same":
        if any(s != 1 for s in stride):
            raise ValueError(f"{name}: padding='same' requires stride 1, not {stride}")
        return tuple(((k - 1) // 2, k // 2) for k in extent(size, dilation))
    if isinstance(padding, str) and padding != "valid":
        raise ValueError(f"{name}: padding must be ints, 'same' or 'valid', not {padding!r}")
    widths = 0 if padding == "valid" else padding
    return tuple((p, p) for p in int_tuple(name, "padding", widths, len(size), least=0))


def check_channels(name: str, n: int, x: Any, weight: Any, bias: Any, groups: int,
                   transposed: bool) -> None:
    """Check that the channels of input, weight and bias match, with this number of groups."""
    layout = "(C, O / groups, *kernel_size)" if transposed else "(O, C / groups, *kernel_size)"
    if weight.ndim != n + 2:
        raise ValueError(f"{name}: weight must be {layout} with {n + 2} axes, not {weight.shape}")
    if groups < 1 or len(weight) % groups:
        counted = "input channels" if transposed else "filters"
        raise ValueError(f"{name}: groups={groups} must divide the {len(weight)} {counted} of "
                         f"weight {weight.shape}")
    if transposed:
        channels = len(weight)
        out = weight.shape[1] * groups
    else:
        channels = weight.shape[1] * groups
        out = len(weight)
    if x.shape[1] != channels:
        raise ValueError(f"{name}: input {x.shape} has {x.shape[1]} channels, but weight "
                         f"{weight.shape}, {layout} with groups={groups}, takes {channels}")
    if bias is not None and bias.shape != (out,):
        raise ValueError(f"{name}: bias must have one element per output channel, shape ({out},), "
                         f"not {bias.shape}")


# ---- transposed convolution --------------------------------------------------------------------


@checks_arguments
def conv_transpose1d(input: Array, weight: Array, bias: Array = None, stride: Sizes = 1,
                     padding: Sizes = 0, output_padding: Sizes = 0, groups: int = 1,
                     dilation: Sizes = 1) -> Array:
    """1-d transposed convolution: the gradient of `conv1d` with respect to its input.

    Shapes: input (N, C, L) or (C, L), weight (C, O / groups, kernel_size), bias (O,);
    output (N, O, L_out) or (O, L_out) with

    ``L_out = (L - 1) * stride - 2 * padding + dilation * (kernel_size - 1) + output_padding + 1``

    The other parameters and the errors are those of `conv_transpose2d`.
    """
    return conv_transpose_nd(1, "conv_transpose1d", input, weight, bias, stride, padding,
                             output_padding, groups, dilation)


@checks_arguments
def conv_transpose2d(input: Array, weight: Array, bias: Array = None, stride: Sizes = 1,
                     padding: Sizes = 0, output_padding: Sizes = 0, groups: int = 1,
                     dilation: Sizes = 1) -> Array:
    """2-d transposed convolution: the gradient of `conv2d` with respect to its input.

    Each input element, multiplied by the filter, is added to the output; neighbouring elements are
    added `stride` apart.

    Shapes: input (N, C, H, W) or (C, H, W), weight (C, O / groups, *kernel_size), bias (O,);
    output (N, O, H_out, W_out) or (O, H_out, W_out) with

    ``H_out = (H - 1) * stride - 2 * padding + dilation * (kernel_size - 1) + output_padding + 1``

    and W_out likewise.  `padding` removes elements from both sides of the output.
    `output_padding` adds elements at its end, fewer than the stride or the dilation: it selects
    one of the sizes that `conv2d` with this stride maps to the input's size.

    Raises ValueError for shapes that do not match or an output without elements, and TypeError
    for an input and a weight of different dtypes.

    >>> import numpy as np, gpuprop.functional as F
    >>> F.conv_transpose2d(np.array([[[[1.0, 2.0]]]]), np.ones((1, 1, 2, 2)), stride=2)
    array([[[[1., 1., 2., 2.],
             [1., 1., 2., 2.]]]])
    """
    return conv_transpose_nd(2, "conv_transpose2d", input, weight, bias, stride, padding,
                             output_padding, groups, dilation)


@checks_arguments
def conv_transpose3d(input: Array, weight: Array, bias: Array = None, stride: Sizes = 1,
                     padding: Sizes = 0, output_padding: Sizes = 0, groups: int = 1,
                     dilation: Sizes = 1) -> Array:
    """3-d transposed convolution: the gradient of `conv3d` with respect to its input.

    Shapes: input (N, C, D, H, W) or (C, D, H, W), weight (C, O / groups, *kernel_size), bias (O,);
    output (N, O, D_out, H_out, W_out) or (O, D_out, H_out, W_out) with

    ``D_out = (D - 1) * stride - 2 * padding + dilation * (kernel_size - 1) + output_padding + 1``

    and H_out, W_out likewise.  The other parameters and the errors are those of
    `conv_transpose2d`.
    """
    return conv_transpose_nd(3, "conv_transpose3d", input, weight, bias, stride, padding,
                             output_padding, groups, dilation)


def conv_transpose_nd(n: int, name: str, input: Any, weight: Any, bias: Any, stride: Any,
                      padding: Any, output_padding: Any, groups: int, dilation: Any) -> Any:
    """Transposed convolution in `n` spatial dimensions; `name` is the public function's."""
    x, unbatch = as_batch(name, input, n)
    stride = int_tuple(name, "stride", stride, n)
    dilation = int_tuple(name, "dilation", dilation, n)
    padding = int_tuple(name, "padding", padding, n, least=0)
    output_padding = int_tuple(name, "output_padding", output_padding, n, least=0)
    check_channels(name, n, x, weight, bias, groups, transposed=True)
    limits = map(max, stride, dilation)
    if any(map(operator.ge, output_padding, limits)):
        raise ValueError(f"{name}: output_padding {output_padding} must be less than the stride "
                         f"{stride} or the dilation {dilation}")
    reach = extent(weight.shape[2:], dilation)
    space = tuple(
        (length - 1) * s - 2 * p + k + extra
        for length, s, p, k, extra
        in zip(x.shape[2:], stride, padding, reach, output_padding, strict=True))
    if min(space) < 1 or not math.prod(x.shape[2:]):
        raise ValueError(f"{name}: output size {space} must be positive and the input not empty, "
                         f"for input {x.shape} and weight {weight.shape}")
    widths = tuple((p, p) for p in padding)
    return unbatch(conv_transpose(x, weight, bias, space, stride, widths, dilation, groups))


# ---- unfold and fold ---------------------------------------------------------------------------


@composed
def unfold(input: Array, kernel_size: Sizes, dilation: Sizes = 1, padding: Sizes = 0,
           stride: Sizes = 1) -> Array:
    """The windows of images as columns (im2col).

    Shapes: input (N, C, H, W) or (C, H, W); output (N, C * prod(kernel_size), windows) or
    (C * prod(kernel_size), windows).  ``windows`` is their number: the product, for size = H and
    size = W, of

    ``floor((size + 2 * padding - dilation * (kernel_size - 1) - 1) / stride) + 1``

    A matrix product with filters reshaped to (O, C * prod(kernel_size)) is `conv2d`.

    >>> import numpy as np, gpuprop.functional as F
    >>> F.unfold(np.arange(9.0).reshape(1, 1, 3, 3), 2)
    array([[[0., 1., 3., 4.],
            [1., 2., 4., 5.],
            [3., 4., 6., 7.],
            [4., 5., 7., 8.]]])
    """
    x, unbatch = as_batch("unfold", input, 2)
    options = unfold_options("unfold", kernel_size, stride, padding, dilation)
    size, stride, widths, dilation = options
    counts = window_counts("unfold", x.shape[2:], *options)
    x = pad(x, ((0, 0), (0, 0), *widths))
    columns = windows(x, size, counts, stride, dilation)
    return unbatch(columns.reshape(len(x), x.shape[1] * math.prod(size), math.prod(counts)))


@composed
def fold(input: Array, output_size: Sizes, kernel_size: Sizes, dilation: Sizes = 1,
         padding: Sizes = 0, stride: Sizes = 1) -> Array:
    """Sum of columns into overlapping windows of an image (col2im): the adjoint of `unfold`.

    Shapes: input (N, C * prod(kernel_size), windows) or without N, with as many windows as
    `unfold` makes of `output_size`; output (N, C, *output_size) or (C, *output_size).

    >>> import numpy as np, gpuprop.functional as F
    >>> F.fold(np.ones((1, 4, 4)), output_size=3, kernel_size=2)
    array([[[[1., 2., 1.],
             [2., 4., 2.],
             [1., 2., 1.]]]])
    """
    if input.ndim not in (2, 3):
        raise ValueError(f"fold: input must have shape (N, C * prod(kernel_size), windows) or "
                         f"(C * prod(kernel_size), windows), not {input.shape}")
    x = input if input.ndim == 3 else input[None]
    space = int_tuple("fold", "output_size", output_size, 2)
    options = unfold_options("fold", kernel_size, stride, padding, dilation)
    size, stride, widths, dilation = options
    counts = window_counts("fold", space, *options)
    batch, rows, columns = x.shape
    if rows % math.prod(size) or columns != math.prod(counts):
        raise ValueError(f"fold: input {input.shape} has {rows} rows and {columns} columns, but "
                         f"kernel {size} takes a multiple of {math.prod(size)} rows, and output "
                         f"{space} takes {math.prod(counts)} columns")
    x = x.reshape(batch, rows // math.prod(size), *size, *counts)
    padded = tuple(n + before + after for n, (before, after) in zip(space, widths, strict=True))
    y = crop(fold_windows(x, padded, stride, dilation), widths, space)
    return y if input.ndim == 3 else y[0]


def unfold_options(name: str, kernel_size: Any, stride: Any, padding: Any, dilation: Any) -> tuple:
    """(size, stride, padding, dilation) of `unfold`, each with one item per spatial dimension."""
    size = int_tuple(name, "kernel_size", kernel_size, 2)
    stride = int_tuple(name, "stride", stride, 2)
    dilation = int_tuple(name, "dilation", dilation, 2)
    widths = resolve_padding(name, padding, size, stride, dilation)
    return size, stride, widths, dilation
