"""Other resolutions: rearranged channels, interpolation along each axis, and sampling at any places."""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Sequence
from typing import Any

from gpuprop._array.arithmetic import clip, minimum, remainder, where
from gpuprop._array.indexing import take_along_axis
from gpuprop._array.mathematics import floor, round
from gpuprop._array.products import matmul
from gpuprop._core.composed import composed
from gpuprop._core.graph import raw
from gpuprop._core.namespace import namespace
from gpuprop._core.ops import op
from gpuprop._core.signature import Array

# ---- channels -------------------------------------------------------------------------------------------------------


def _images(what: str, input: Any, factor: int) -> tuple[tuple[int, ...], int, int, int]:
    if input.ndim < 3 or factor < 1:
        raise ValueError(f"{what}: input is (..., C, H, W) and the factor at least 1, not {input.shape} and {factor}")
    return input.shape[:-3], *input.shape[-3:]


@composed
def pixel_shuffle(input: Array, upscale_factor: int) -> Array:
    """(..., C * r * r, H, W) -> (..., C, H * r, W * r).  W. Shi et al., CVPR 2016."""
    r = upscale_factor
    lead, c, h, w = _images("pixel_shuffle", input, r)
    if c % (r * r):
        raise ValueError(f"pixel_shuffle: {c} channels are not divisible by upscale_factor**2 = {r * r}")
    apart, n = input.reshape(*lead, c // (r * r), r, r, h, w), len(lead)
    return apart.transpose(*range(n), n, n + 3, n + 1, n + 4, n + 2).reshape(*lead, c // (r * r), h * r, w * r)


@composed
def pixel_unshuffle(input: Array, downscale_factor: int) -> Array:
    """(..., C, H * r, W * r) -> (..., C * r * r, H, W): the inverse of `pixel_shuffle`."""
    r = downscale_factor
    lead, c, h, w = _images("pixel_unshuffle", input, r)
    if h % r or w % r:
        raise ValueError(f"pixel_unshuffle: height {h} and width {w} are not both divisible by downscale_factor={r}")
    apart, n = input.reshape(*lead, c, h // r, r, w // r, r), len(lead)
    return apart.transpose(*range(n), n, n + 2, n + 4, n + 1, n + 3).reshape(*lead, c * r * r, h // r, w // r)


@composed
def channel_shuffle(input: Array, groups: int) -> Array:
    """(N, C, ...) with channels taken from the groups in turn.  X. Zhang et al., CVPR 2018."""
    if input.ndim < 3 or groups < 1 or input.shape[1] % groups:
        raise ValueError(f"channel_shuffle: input is (N, C, ...) with C divisible by groups={groups}, "
                         f"not {input.shape}")
    n, c, *space = input.shape
    return input.reshape(n, groups, c // groups, *space).swapaxes(1, 2).reshape(input.shape)


# ---- interpolation --------------------------------------------------------------------------------------------------
# Each axis by itself: the nearest by reading, all else as a product with a matrix of few non-zero elements, whose
# derivative is the product with its transpose.


NEAREST = ("nearest", "nearest-exact")


def triangle(xp, x):
    return xp.maximum(1 - xp.abs(x), 0)


def cubic(xp, x, a):
    """R. Keys, "Cubic convolution interpolation for digital image processing", 1981."""
    x = xp.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return xp.where(x <= 1, near, xp.where(x < 2, far, 0))


def matrix(xp, n, m, mode, step, align_corners, antialias):
    """(m, n): the shares of n elements in each of m, which are `step` apart."""
    at, column = xp.arange(m)[:, None], xp.arange(n)
    if mode in NEAREST:
        return nearest(xp, n, m, mode, step)[:, None] == column
    if mode == "area":
        start, end = at * n // m, (at * n + n + m - 1) // m
        return ((column >= start) & (column < end)) / (end - start)
    reach = 1 if mode == "linear" else 2
    if antialias:
        wide = max(step, 1.0)
        away = (column + 0.5 - step * (at + 0.5)) / wide
        shares = triangle(xp, away) if mode == "linear" else cubic(xp, away, -0.5)
        return shares / shares.sum(axis=1, keepdims=True)
    place = at * step if align_corners else (at + 0.5) * step - 0.5
    first = xp.floor(place)
    shares = 0
    for tap in range(1 - reach, 1 + reach):  # beyond an edge the edge is read
        share = triangle(xp, place - first - tap) if mode == "linear" else cubic(xp, place - first - tap, -0.75)
        shares = shares + share * (xp.clip(first + tap, 0, n - 1) == column)
    return shares


def nearest(xp, n, m, mode, step):
    """Which of n elements each of m reads, in single precision, rounded where PyTorch rounds."""
    at = xp.arange(m)
    if mode == "nearest":
        at = at.astype("float32") * step
    else:
        step = xp.full((), step, "float32").astype("float64")
        at = xp.maximum(((at + 0.5) * step - 0.5).astype("float32"), 0) + 0.5
    return xp.minimum(at.astype("int64"), n - 1)


def along(xp, a, x, axis):
    """The matrix `a` times an axis of `x`."""
    m, n = a.shape
    lead, rest = x.shape[:axis], x.shape[axis + 1:]
    if not rest:
        return xp.matmul(x.reshape(math.prod(lead), n), a.T).reshape(*lead, m)
    return xp.matmul(a, x.reshape(math.prod(lead), n, math.prod(rest))).reshape(*lead, m, *rest)


@op(precision="full")
def interpolated(xp, input: Array, sizes, mode, steps, align_corners, antialias):
    """The last axes in other `sizes`: "nearest", "nearest-exact", "linear", "cubic" or "area"."""
    first, y, matrices = input.ndim - len(sizes), input, []
    for axis, (m, step) in enumerate(zip(sizes, steps, strict=True), first):
        a = matrix(xp, input.shape[axis], m, mode, step, align_corners, antialias).astype(input.dtype)
        matrices.append((axis, a))
        if mode in NEAREST:  # what is not read is not multiplied: it may be infinite
            y = xp.take(y, nearest(xp, input.shape[axis], m, mode, step), axis=axis)
        else:
            y = along(xp, a, y, axis)

    def back(dy):
        for axis, a in matrices[::-1]:
            dy = along(xp, a.T, dy, axis)
        return dy

    return y, (back,)


MODES = {"nearest": None, "nearest-exact": None, "linear": 1, "bilinear": 2, "trilinear": 3, "bicubic": 2, "area": None}
KERNELS = {"bilinear": "linear", "trilinear": "linear", "bicubic": "cubic"}


@composed(full=True)
def interpolate(input: Array, size: int | Sequence[int] | None = None,
                scale_factor: float | Sequence[float] | None = None, mode: str = "nearest",
                align_corners: bool | None = None, recompute_scale_factor: bool | None = None,
                antialias: bool = False) -> Array:
    """(N, C, *space) in another `size` of space, or in `scale_factor` times its own, rounded down.

    `mode` is "nearest", "nearest-exact", "area", "linear" (of one axis), "bilinear", "bicubic" (of two) or "trilinear"
    (of three).  With `align_corners` the outermost elements stay outermost; with `antialias` ("bilinear", "bicubic")
    fewer elements are weighted means of more.  A scale factor is taken as it is unless `recompute_scale_factor`.
    """
    space = input.shape[2:]
    _check_mode(mode, input, align_corners, antialias)
    sizes, factors = _sizes(space, size, scale_factor, recompute_scale_factor)
    if not (math.prod(space) and math.prod(sizes)) or min(sizes) < 0:
        raise ValueError(f"interpolate: input and output sizes must be at least 1, not {space} and {sizes}")
    if align_corners:
        steps = [(n - 1) / (m - 1) if m > 1 else 0.0 for n, m in zip(space, sizes, strict=True)]
    else:
        whole = lambda n, m: n == m and KERNELS.get(mode, mode) == "linear"  # then PyTorch copies, whatever the factor
        steps = [1 / f if f and not whole(n, m) else n / m for n, m, f in zip(space, sizes, factors, strict=True)]
    return interpolated(input, tuple(sizes), KERNELS.get(mode, mode), tuple(steps), bool(align_corners), antialias)


def _check_mode(mode: str, input: Any, align_corners: bool | None, antialias: bool) -> None:
    if mode not in MODES:
        raise ValueError(f"interpolate: mode is {', '.join(map(repr, MODES))}, not {mode!r}")
    if input.ndim not in (3, 4, 5) or MODES[mode] not in (None, input.ndim - 2):
        wanted = f"{MODES[mode]}" if MODES[mode] else "1, 2 or 3"
        raise ValueError(f"interpolate: input is (N, C, ...) with {wanted} more axes for mode {mode!r}, "
                         f"not of shape {input.shape}")
    if align_corners is not None and mode in (*NEAREST, "area"):
        raise ValueError(f"interpolate: align_corners goes with linear, bilinear, bicubic and trilinear, not {mode!r}")
    if antialias and mode not in ("bilinear", "bicubic"):
        raise ValueError(f"interpolate: antialias goes with 'bilinear' and 'bicubic', not {mode!r}")


def _sizes(space: Any, size: Any, scale_factor: Any, recompute: bool | None) -> tuple[list[int], list[float | None]]:
    """The sizes of the output, and the factors where they count more than the sizes."""
    if (size is None) == (scale_factor is None):
        raise ValueError(f"interpolate: give either size or scale_factor, not size={size}, scale_factor={scale_factor}")
    name, given = ("size", size) if scale_factor is None else ("scale_factor", scale_factor)
    given = list(given) if isinstance(given, Sequence) else [given] * len(space)
    if len(given) != len(space):
        raise ValueError(f"interpolate: {name} is one number or {len(space)}, not {given}")
    if name == "size":
        if recompute:
            raise ValueError("interpolate: recompute_scale_factor goes with scale_factor, not with size")
        return [operator.index(n) for n in given], [None] * len(space)
    return [math.floor(n * f) for n, f in zip(space, given, strict=True)], [None if recompute else f for f in given]


def upsample(input: Array, size: int | Sequence[int] | None = None,
             scale_factor: float | Sequence[float] | None = None, mode: str = "nearest",
             align_corners: bool | None = None) -> Array:
    """PyTorch's first name for `interpolate`."""
    return interpolate(input, size, scale_factor, mode, align_corners)


# ---- sampling at places ---------------------------------------------------------------------------------------------


@composed(full=True)
def affine_grid(theta: Array, size: Sequence[int], align_corners: bool | None = None) -> Array:
    """The places for `grid_sample` that a map (N, d, d + 1) sends an output (N, C, *size) to: (N, *size, d)."""
    d = len(size) - 2
    if d not in (2, 3) or theta.shape != (size[0], d, d + 1):
        raise ValueError(f"affine_grid: theta is (N, 2, 3) for size (N, C, H, W), or (N, 3, 4) for (N, C, D, H, W), "
                         f"not {theta.shape} for {tuple(size)}")
    xp, space = namespace(raw(theta)), tuple(size[2:])
    axes = []
    for i, n in enumerate(space):
        centres = xp.arange(n) * (2.0 / max(n - 1, 1)) - 1 if align_corners else (xp.arange(n) * 2.0 + 1) / n - 1
        centres = centres * (n > 1)
        axes.append(xp.broadcast_to(centres.reshape(-1, *(1,) * (d - 1 - i)), space))
    base = xp.stack([*axes[::-1], xp.ones(space)], axis=-1).reshape(math.prod(space), d + 1).astype(theta.dtype)
    return matmul(base, theta.swapaxes(1, 2)).reshape(size[0], *space, d)


@composed(full=True)
def grid_sample(input: Array, grid: Array, mode: str = "bilinear", padding_mode: str = "zeros",
                align_corners: bool | None = None) -> Array:
    """(N, C, *space) at the places `grid` (N, *out, d), d = 2 or 3, each from -1 to 1 and the last axis first.

    `mode` is "bilinear", "nearest" or, for d = 2, "bicubic"; beyond the edges are "zeros", the "border" or, by
    `padding_mode`, its "reflection".  With `align_corners` -1 and 1 are the centres of the outermost elements, else
    their outer edges.
    """
    _check_grid(input, grid, mode, padding_mode)
    n, c, *space = input.shape
    out, d = grid.shape[1:-1], len(space)
    places = [grid[..., d - 1 - i].reshape(n, math.prod(out)) for i in range(d)]
    places = [(p + 1) * ((s - 1) / 2) if align_corners else ((p + 1) * s - 1) / 2
              for p, s in zip(places, space, strict=True)]
    inside = functools.partial(_inside, padding_mode, bool(align_corners))
    if mode != "bicubic":
        places = [inside(p, s) for p, s in zip(places, space, strict=True)]
    flat = input.reshape(n, c, math.prod(space))
    total: Any = 0
    for corner in itertools.product(*(_taps(mode, p) for p in places)):
        index: Any = 0
        weight: Any = None
        for (at, share), s in zip(corner, space, strict=True):
            at = inside(at, s) if mode == "bicubic" else at
            valid = (at >= 0) & (at <= s - 1)
            share = valid.astype(input.dtype) * share
            weight = share if weight is None else weight * share
            index = index * s + clip(where(valid, at, 0), 0, s - 1).astype("int64")
        total = total + take_along_axis(flat, index[:, None], 2) * weight[:, None]
    return total.reshape(n, c, *out)


def _check_grid(input: Any, grid: Any, mode: str, padding_mode: str) -> None:
    if mode not in ("bilinear", "nearest", "bicubic"):
        raise ValueError(f"grid_sample: mode is 'bilinear', 'nearest' or 'bicubic', not {mode!r}")
    if padding_mode not in ("zeros", "border", "reflection"):
        raise ValueError(f"grid_sample: padding_mode is 'zeros', 'border' or 'reflection', not {padding_mode!r}")
    d = input.ndim - 2
    if d not in (2, 3) or grid.ndim != input.ndim or grid.shape[0] != input.shape[0] or grid.shape[-1] != d:
        raise ValueError(f"grid_sample: input (N, C, *space) and grid (N, *out, d), d = 2 or 3 axes of space, "
                         f"do not go together in {input.shape} and {grid.shape}")
    if mode == "bicubic" and d != 2:
        raise ValueError(f"grid_sample: mode 'bicubic' is of 2 axes of space, and input {input.shape} has {d}")
    if not math.prod(input.shape[2:]):
        raise ValueError(f"grid_sample: input {input.shape} has nothing to read")
    if input.dtype != grid.dtype:
        raise TypeError(f"grid_sample: input is {input.dtype.name} and grid {grid.dtype.name}: use "
                        f"grid.astype({input.dtype.name!r})")


def _inside(padding_mode: str, align_corners: bool, at: Any, n: int) -> Any:
    """Places brought back between the edges, unless there are zeros beyond."""
    if padding_mode == "zeros":
        return at
    if padding_mode == "reflection":
        low, span = (0.0, n - 1) if align_corners else (-0.5, n)
        away = remainder(at - low, 2 * span) if span else at * 0
        at = minimum(away, 2 * span - away) + low
    return clip(at, 0, n - 1)


def _taps(mode: str, place: Any) -> list[tuple[Any, Any]]:
    """The elements that a place reads along one axis, and their shares."""
    if mode == "nearest":
        return [(round(place), 1.0)]
    first = floor(place)
    if mode == "bilinear":
        return [(first, first + 1 - place), (first + 1, place - first)]
    xp = namespace(place)
    return [(first + tap, cubic(xp, place - first - tap, -0.75)) for tap in (-1, 0, 1, 2)]
