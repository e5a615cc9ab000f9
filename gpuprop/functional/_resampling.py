"""Changes of resolution: pixel shuffles, interpolation, and sampling on a grid."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from typing import Any

from gpuprop._array.arithmetic import clip, minimum, remainder, where
from gpuprop._array.indexing import take_along_axis
from gpuprop._array.mathematics import floor, round
from gpuprop._array.products import matmul
from gpuprop._array.scatter import put_rows
from gpuprop._core.checks import as_number
from gpuprop._core.composed import checks_arguments, composed
from gpuprop._core.dtypes import check_floating, widened
from gpuprop._core.graph import raw
from gpuprop._core.mode import is_autocasting
from gpuprop._core.namespace import namespace
from gpuprop._core.ops import op
from gpuprop._core.signature import Array
from gpuprop.functional._windows import check_memory

# ---- shuffles of channels and pixels ------------------------------------------------------------


@composed
def pixel_shuffle(input: Array, upscale_factor: int) -> Array:
    """Move channels into space: (..., C * r * r, H, W) -> (..., C, H * r, W * r).

    r is `upscale_factor`:

    ``y[..., c, h * r + i, w * r + j] = input[..., c * r * r + i * r + j, h, w]``

    W. Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel
    Convolutional Neural Network", CVPR 2016.
    """
    r = upscale_factor
    check_shuffle("pixel_shuffle", "upscale_factor", input, r)
    *lead, channels, height, width = input.shape
    if channels % (r * r):
        raise ValueError(f"pixel_shuffle: {channels} channels are not divisible by "
                         f"upscale_factor**2 = {r * r}")
    n = len(lead)
    split = input.reshape(*lead, channels // (r * r), r, r, height, width)
    split = split.transpose(*range(n), n, n + 3, n + 1, n + 4, n + 2)
    return split.reshape(*lead, channels // (r * r), height * r, width * r)


@composed
def pixel_unshuffle(input: Array, downscale_factor: int) -> Array:
    """Move space into channels: (..., C, H * r, W * r) -> (..., C * r * r, H, W).

    r is `downscale_factor`.  The inverse of `pixel_shuffle`.
    """
    r = downscale_factor
    check_shuffle("pixel_unshuffle", "downscale_factor", input, r)
    *lead, channels, height, width = input.shape
    if height % r or width % r:
        raise ValueError(f"pixel_unshuffle: height {height} and width {width} must be divisible by "
                         f"downscale_factor={r}")
    n = len(lead)
    split = input.reshape(*lead, channels, height // r, r, width // r, r)
    split = split.transpose(*range(n), n, n + 2, n + 4, n + 1, n + 3)
    return split.reshape(*lead, channels * r * r, height // r, width // r)


def check_shuffle(name: str, parameter: str, input: Any, factor: int) -> None:
    if input.ndim < 3 or factor < 1:
        raise ValueError(f"{name}: expected an input (..., C, H, W) and {parameter} >= 1, "
                         f"not {input.shape} and {factor}")


@composed
def channel_shuffle(input: Array, groups: int) -> Array:
    """Interleave the channels of `groups` groups: (N, C, ...) -> (N, C, ...).

    Channel ``c * groups + g`` of the output is channel c of group g.

    X. Zhang et al., "ShuffleNet", CVPR 2018.
    """
    if input.ndim < 3 or groups < 1 or input.shape[1] % groups:
        raise ValueError(f"channel_shuffle: input must be (N, C, ...) with C divisible by "
                         f"groups={groups}, not {input.shape}")
    batch, channels, *space = input.shape
    split = input.reshape(batch, groups, channels // groups, *space)
    return split.swapaxes(1, 2).reshape(input.shape)


# ---- interpolation -----------------------------------------------------------------------------
# One axis after the other: "nearest" by indexing, the other modes as a product with a matrix with
# few nonzero elements, whose gradient is the product with the transpose.

NEAREST = ("nearest", "nearest-exact")


def linear_kernel(xp, x):
    return xp.maximum(1 - xp.abs(x), 0)


def cubic_kernel(xp, x, a):
    """The cubic convolution kernel with parameter `a`.

    R. Keys, "Cubic convolution interpolation for digital image processing", 1981.
    """
    x = xp.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return xp.where(x <= 1, near, xp.where(x < 2, far, 0))


def nearest_indices(xp, n, m, mode, step):
    """The index of the input element, of `n`, that each of `m` output elements copies.

    Computed in float32 and rounded where PyTorch rounds, so that both copy the same elements.
    """
    i = xp.arange(m)
    if mode == "nearest":
        position = i.astype("float32") * step
    else:
        step = xp.full((), step, "float32").astype("float64")
        position = xp.maximum(((i + 0.5) * step - 0.5).astype("float32"), 0) + 0.5
    return xp.minimum(position.astype("int64"), n - 1)


def area_weights(xp, n, m):
    """(m, n): weights of the mean of the input elements with start <= index < end."""
    i = xp.arange(m)[:, None]
    column = xp.arange(n)
    start = i * n // m
    end = (i * n + n + m - 1) // m
    return ((column >= start) & (column < end)) / (end - start)


def antialias_weights(xp, n, m, mode, step):
    """(m, n): the kernel widened to the step between output elements, normalized to sum 1."""
    i = xp.arange(m)[:, None]
    column = xp.arange(n)
    distance = (column + 0.5 - step * (i + 0.5)) / max(step, 1.0)
    is_linear = mode == "linear"
    weights = linear_kernel(xp, distance) if is_linear else cubic_kernel(xp, distance, -0.5)
    return weights / weights.sum(axis=1, keepdims=True)


def kernel_weights(xp, n, m, mode, step, align_corners):
    """(m, n): the kernel around the position of each output element."""
    i = xp.arange(m)[:, None]
    column = xp.arange(n)
    position = i * step if align_corners else (i + 0.5) * step - 0.5
    first = xp.floor(position)
    is_linear = mode == "linear"
    weights = 0
    for tap in (0, 1) if is_linear else (-1, 0, 1, 2):
        distance = position - first - tap
        weight = linear_kernel(xp, distance) if is_linear else cubic_kernel(xp, distance, -0.75)
        index = xp.clip(first + tap, 0, n - 1)  # outside of the input: its edge element
        weights = weights + weight * (index == column)
    return weights


def interpolation_matrix(xp, n, m, mode, step, align_corners, antialias):
    """(m, n): the weight of each of `n` input elements in each of `m` output elements.

    `step` is the distance of neighbouring output elements in the input.
    """
    if mode == "area":
        return area_weights(xp, n, m)
    if antialias:
        return antialias_weights(xp, n, m, mode, step)
    return kernel_weights(xp, n, m, mode, step, align_corners)


def matmul_along_axis(xp, matrix, x, axis):
    """The product of a matrix (m, n) with `x` along an axis of size n, which becomes m."""
    m, n = matrix.shape
    lead = x.shape[:axis]
    rest = x.shape[axis + 1:]
    if not rest:
        return xp.matmul(x.reshape(math.prod(lead), n), matrix.T).reshape(*lead, m)
    x = x.reshape(math.prod(lead), n, math.prod(rest))
    return xp.matmul(matrix, x).reshape(*lead, m, *rest)


@op(name="interpolate", precision="full")
def resample(xp, input: Array, sizes, mode, steps, align_corners, antialias):
    """The last axes of `input` resampled to `sizes`.

    `mode` is "nearest", "nearest-exact", "linear", "cubic" or "area".
    """
    first = input.ndim - len(sizes)
    y = input
    pullbacks: list[Any] = []
    for axis, (m, step) in enumerate(zip(sizes, steps, strict=True), first):
        n = input.shape[axis]
        if mode in NEAREST:  # a product with a matrix would spread infinities: 0 * inf is NaN
            index = nearest_indices(xp, n, m, mode, step)
            y = xp.take(y, index, axis=axis)
            pullbacks.append(lambda dy, index=index, axis=axis, n=n:
                             put_rows.on(xp, dy, index, axis=axis, n=n))
        else:
            matrix = interpolation_matrix(xp, n, m, mode, step, align_corners, antialias)
            matrix = matrix.astype(input.dtype)
            y = matmul_along_axis(xp, matrix, y, axis)
            pullbacks.append(lambda dy, matrix=matrix, axis=axis:
                             matmul_along_axis(xp, matrix.T, dy, axis))

    def input_grad(dy):
        for pullback in pullbacks[::-1]:
            dy = pullback(dy)
        return dy

    return y, (input_grad,)


DIMENSIONS = {  # the number of spatial dimensions that a mode requires; None is any
    "nearest": None,
    "nearest-exact": None,
    "area": None,
    "linear": 1,
    "bilinear": 2,
    "bicubic": 2,
    "trilinear": 3,
}
AXIS_MODES = {"bilinear": "linear", "trilinear": "linear", "bicubic": "cubic"}


@checks_arguments
def interpolate(input: Array, size: int | Sequence[int] | None = None,
                scale_factor: float | Sequence[float] | None = None, mode: str = "nearest",
                align_corners: bool | None = None, recompute_scale_factor: bool | None = None,
                antialias: bool = False) -> Array:
    """Resize images, signals or volumes.

    Shapes: input (N, C, *space) with 1 to 3 spatial dimensions; output (N, C, *size).  If `size` is
    not given, it is ``floor(space * scale_factor)`` per spatial dimension.

    `mode` is "nearest", "nearest-exact" or "area" (the mean of the elements covered) for any input,
    "linear" for 1 spatial dimension, "bilinear" or "bicubic" for 2, and "trilinear" for 3.  With
    step = input size / output size, the position in the input of output element i is

    - ``floor(i * step)`` for "nearest", and ``floor((i + 0.5) * step)`` for "nearest-exact";
    - ``(i + 0.5) * step - 0.5`` for the linear and cubic modes, or, with `align_corners`,
      ``i * (input size - 1) / (output size - 1)``, which maps corner elements to corner elements.

    If `scale_factor` is given, step is ``1 / scale_factor``, unless `recompute_scale_factor` is
    true.  `antialias` ("bilinear" and "bicubic" only) widens the kernel when an image shrinks, so
    that all elements contribute.

    Raises ValueError for a mode that does not match the input or the options, and for sizes that
    are not positive.

    >>> import numpy as np, gpuprop.functional as F
    >>> x = np.array([[[0.0, 1.0, 2.0]]])
    >>> F.interpolate(x, scale_factor=2)
    array([[[0., 0., 1., 1., 2., 2.]]])
    >>> F.interpolate(x, 5, mode="linear", align_corners=True)
    array([[[0. , 0.5, 1. , 1.5, 2. ]]])
    """
    check_options("interpolate", size, scale_factor, mode, align_corners, recompute_scale_factor)
    check_mode(mode, input, antialias)
    space = input.shape[2:]
    sizes, factors = output_sizes(space, size, scale_factor, recompute_scale_factor)
    if not (math.prod(space) and math.prod(sizes)) or min(sizes) < 0:
        raise ValueError(f"interpolate: input size {space} and output size {tuple(sizes)} must be "
                         f"positive")
    check_memory("interpolate", sizes)
    axis_mode = AXIS_MODES.get(mode, mode)
    if axis_mode not in NEAREST:
        check_floating("interpolate", input)
    steps = tuple(axis_step(n, m, factor, axis_mode, align_corners)
                  for n, m, factor in zip(space, sizes, factors, strict=True))
    return resample(input, tuple(sizes), axis_mode, steps, bool(align_corners), antialias)


def axis_step(n: int, m: int, factor: float | None, mode: str, align_corners: bool | None) -> float:
    """The distance in the input of neighbouring output elements along one axis."""
    if align_corners:
        return (n - 1) / (m - 1) if m > 1 else 0.0
    is_copy = n == m and mode == "linear"  # PyTorch then ignores the factor
    return 1 / factor if factor and not is_copy else n / m


def check_options(caller: str, size: Any, scale_factor: Any, mode: str,
                  align_corners: bool | None, recompute: bool | None) -> None:
    """Raise ValueError for options that no input allows."""
    if (size is None) == (scale_factor is None):
        raise ValueError(f"{caller}: give either size or scale_factor, not size={size}, "
                         f"scale_factor={scale_factor}")
    if mode not in DIMENSIONS:
        raise ValueError(f"{caller}: mode must be one of {', '.join(map(repr, DIMENSIONS))}, "
                         f"not {mode!r}")
    if align_corners is not None and mode in (*NEAREST, "area"):
        raise ValueError(f"{caller}: mode {mode!r} takes no align_corners: only linear, "
                         f"bilinear, bicubic and trilinear do")
    if recompute and scale_factor is None:
        raise ValueError(f"{caller}: recompute_scale_factor requires scale_factor, not size")


def check_mode(mode: str, input: Any, antialias: bool) -> None:
    required = DIMENSIONS[mode]
    if input.ndim not in (3, 4, 5) or required not in (None, input.ndim - 2):
        raise ValueError(f"interpolate: mode {mode!r} takes an input (N, C, *space) with "
                         f"{required or '1 to 3'} spatial dimensions, not {input.shape}")
    if antialias and mode not in ("bilinear", "bicubic"):
        raise ValueError(f"interpolate: antialias requires mode 'bilinear' or 'bicubic', "
                         f"not {mode!r}")


def output_sizes(space: Sequence[int], size: Any, scale_factor: Any,
                 recompute: bool | None) -> tuple[list[int], list[float | None]]:
    """The output size of each axis, and the factor that determines its step, or None."""
    name, given = ("size", size) if scale_factor is None else ("scale_factor", scale_factor)
    values = list(given) if isinstance(given, Sequence) else [given] * len(space)
    if name == "scale_factor":
        values = [as_number("interpolate: scale_factor", value) for value in values]
    if len(values) != len(space):
        raise ValueError(f"interpolate: {name} must be a number or a sequence of length "
                         f"{len(space)}, not {given}")
    if name == "size":
        return [operator.index(n) for n in values], [None] * len(space)
    sizes = [math.floor(n * factor) for n, factor in zip(space, values, strict=True)]
    return sizes, [None if recompute else factor for factor in values]


@checks_arguments
def upsample(input: Array, size: int | Sequence[int] | None = None,
             scale_factor: float | Sequence[float] | None = None, mode: str = "nearest",
             align_corners: bool | None = None) -> Array:
    """`interpolate` under PyTorch's older name."""
    return interpolate(input, size, scale_factor, mode, align_corners)


@checks_arguments
def upsample_nearest(input: Array, size: int | Sequence[int] | None = None,
                     scale_factor: float | Sequence[float] | None = None) -> Array:
    """``interpolate(input, size, scale_factor, "nearest")`` under PyTorch's older name."""
    return interpolate(input, size, scale_factor, "nearest")


@checks_arguments
def upsample_bilinear(input: Array, size: int | Sequence[int] | None = None,
                      scale_factor: float | Sequence[float] | None = None) -> Array:
    """`interpolate` with "bilinear" and `align_corners`, under PyTorch's older name."""
    return interpolate(input, size, scale_factor, "bilinear", True)


# ---- sampling on a grid ------------------------------------------------------------------------


@composed(full=True)
def affine_grid(theta: Array, size: Sequence[int], align_corners: bool | None = None) -> Array:
    """The grid for `grid_sample` that applies an affine map to images.

    ``grid[n, i, j] = theta[n] @ (x, y, 1)``, where x and y are the normalized coordinates, from -1
    to 1, of the output element (i, j).

    Shapes: theta (N, 2, 3) for `size` (N, C, H, W), output (N, H, W, 2); or theta (N, 3, 4) for
    `size` (N, C, D, H, W), output (N, D, H, W, 3).  With `align_corners` the coordinates -1 and 1
    are the centres of the corner elements, otherwise their outer edges.
    """
    check_floating("affine_grid", theta, "theta")
    d = len(size) - 2
    if d not in (2, 3) or theta.shape != (size[0], d, d + 1):
        raise ValueError(f"affine_grid: theta must be (N, 2, 3) for size (N, C, H, W), or "
                         f"(N, 3, 4) for (N, C, D, H, W), not {theta.shape} for {tuple(size)}")
    xp = namespace(raw(theta))
    space = tuple(size[2:])
    coordinates = []
    for axis, n in enumerate(space):
        centres = normalized_centres(xp, n, align_corners)
        centres = centres.reshape(-1, *(1,) * (d - 1 - axis))
        coordinates.append(xp.broadcast_to(centres, space))
    points = xp.stack([*coordinates[::-1], xp.ones(space)], axis=-1)
    points = points.reshape(math.prod(space), d + 1).astype(theta.dtype)
    return matmul(points, theta.swapaxes(1, 2)).reshape(size[0], *space, d)


def normalized_centres(xp: Any, n: int, align_corners: bool | None) -> Any:
    """The centres of `n` elements in [-1, 1]; that of a single one is 0."""
    if align_corners:
        centres = xp.arange(n) * (2.0 / max(n - 1, 1)) - 1
    else:
        centres = (xp.arange(n) * 2.0 + 1) / n - 1
    return centres * (n > 1)


@composed(full=True)
def grid_sample(input: Array, grid: Array, mode: str = "bilinear", padding_mode: str = "zeros",
                align_corners: bool | None = None) -> Array:
    """Sample images or volumes at the points of a grid.

    Shapes: input (N, C, H, W) and grid (N, H_out, W_out, 2), output (N, C, H_out, W_out); or input
    (N, C, D, H, W) and grid (N, D_out, H_out, W_out, 3), output (N, C, D_out, H_out, W_out).

    A point is (x, y) or (x, y, z), with coordinates from -1 to 1; x is along the last axis of the
    input.  With `align_corners` -1 and 1 are the centres of the corner elements, otherwise their
    outer edges.  `mode` is "bilinear" (in volumes trilinear), "nearest" or, for images, "bicubic".
    Outside of the input, `padding_mode` "zeros" reads 0, "border" the nearest edge element, and
    "reflection" the elements mirrored at the edges.

    Raises ValueError for shapes that do not match and TypeError for different dtypes.
    """
    check_floating("grid_sample", input)
    if is_autocasting():
        input, grid = widened(input), widened(grid)
    check_grid(input, grid, mode, padding_mode)
    align_corners = bool(align_corners)
    batch, channels, *space = input.shape
    out = grid.shape[1:-1]
    d = len(space)
    coordinates = []
    for axis, n in enumerate(space):
        x = grid[..., d - 1 - axis].reshape(batch, 1, math.prod(out))
        x = (x + 1) * ((n - 1) / 2) if align_corners else ((x + 1) * n - 1) / 2
        if mode != "bicubic":  # it handles the taps instead
            x = apply_padding_mode(padding_mode, align_corners, x, n)
        coordinates.append(x)

    flat = input.reshape(batch, channels, math.prod(space))
    total: Any = 0
    for corner in itertools.product(*(taps(mode, x) for x in coordinates)):
        index: Any = 0
        weight: Any = 1.0
        is_inside: Any = True
        for (x, tap_weight), n in zip(corner, space, strict=True):
            if mode == "bicubic":
                x = apply_padding_mode(padding_mode, align_corners, x, n)
            is_inside = (x >= 0) & (x <= n - 1) & is_inside
            weight = weight * tap_weight
            index = index * n + where(is_inside, x, 0).astype("int64")
        total = total + where(is_inside, take_along_axis(flat, index, 2) * weight, 0)
    return total.reshape(batch, channels, *out)


def check_grid(input: Any, grid: Any, mode: str, padding_mode: str) -> None:
    if mode not in ("bilinear", "nearest", "bicubic"):
        raise ValueError(f"grid_sample: mode must be 'bilinear', 'nearest' or 'bicubic', "
                         f"not {mode!r}")
    if padding_mode not in ("zeros", "border", "reflection"):
        raise ValueError(f"grid_sample: padding_mode must be 'zeros', 'border' or 'reflection', "
                         f"not {padding_mode!r}")
    d = input.ndim - 2
    same_batch = grid.ndim == input.ndim and grid.shape[0] == input.shape[0]
    if d not in (2, 3) or not same_batch or grid.shape[-1] != d:
        raise ValueError(f"grid_sample: expected input (N, C, H, W) and grid (N, H_out, W_out, 2), "
                         f"or input (N, C, D, H, W) and grid (N, D_out, H_out, W_out, 3), "
                         f"not {input.shape} and {grid.shape}")
    if mode == "bicubic" and d != 2:
        raise ValueError(f"grid_sample: mode 'bicubic' takes an input (N, C, H, W), "
                         f"not {input.shape}")
    if not math.prod(input.shape[2:]):
        raise ValueError(f"grid_sample: input {input.shape} must have a positive size")
    check_floating("grid_sample", input)
    if input.dtype != grid.dtype:
        raise TypeError(f"grid_sample: input is {input.dtype.name} and grid {grid.dtype.name}: use "
                        f"grid.astype({input.dtype.name!r})")


def apply_padding_mode(padding_mode: str, align_corners: bool, x: Any, n: int) -> Any:
    """Coordinates moved into an axis of size `n`; unchanged for "zeros"."""
    if padding_mode == "zeros":
        return x
    if padding_mode == "reflection":
        low, span = (0.0, n - 1) if align_corners else (-0.5, n)
        distance = remainder(x - low, 2 * span) if span else x * 0
        x = minimum(distance, 2 * span - distance) + low
    return clip(x, 0, n - 1)


def taps(mode: str, x: Any) -> list[tuple[Any, Any]]:
    """Pairs (index, weight) of the elements that contribute at coordinates `x` along one axis."""
    if mode == "nearest":
        return [(round(x), 1.0)]
    first = floor(x)
    if mode == "bilinear":
        return [(first, first + 1 - x), (first + 1, x - first)]
    xp = namespace(x)
    return [(first + tap, cubic_kernel(xp, x - first - tap, -0.75)) for tap in (-1, 0, 1, 2)]
