"""Boxes of object detection: conversions, overlaps, suppression, anchors, and features in boxes.

A box is (x1, y1, x2, y2) with x1 <= x2 and y1 <= y2.  Names and meanings are torchvision's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpuprop._array.arithmetic import clip, maximum, minimum, where
from gpuprop._array.indexing import take
from gpuprop._array.shape import concatenate, stack
from gpuprop._core.checks import as_number
from gpuprop._core.composed import checks_arguments, composed
from gpuprop._core.dialects import spoken
from gpuprop._core.dtypes import check_floating, is_float, widened
from gpuprop._core.failures import none_error
from gpuprop._core.graph import raw
from gpuprop._core.options import as_sizes
from gpuprop._core.placement import on_device_of
from gpuprop._core.registry import backend_of, default_backend
from gpuprop._core.signature import Array
from gpuprop._core.tensor import Tensor, asnumpy

FORMATS = "xyxy", "xywh", "cxcywh"
CONVERSIONS = {  # (format, another) -> the pairs of numbers in the other format, of those in one
    ("xyxy", "xywh"): lambda low, high: (low, high - low),
    ("xyxy", "cxcywh"): lambda low, high: ((low + high) / 2, high - low),
    ("xywh", "xyxy"): lambda low, size: (low, low + size),
    ("xywh", "cxcywh"): lambda low, size: (low + size / 2, size),
    ("cxcywh", "xyxy"): lambda center, size: (center - size / 2, center + size / 2),
    ("cxcywh", "xywh"): lambda center, size: (center - size / 2, size),
}


def _of_one_dtype(*arrays: Any) -> list[Any]:
    """Integers in the floating dtype of the other arrays; in float64 if there is none.

    Areas and sums of coordinates may exceed the range of a narrow integer type.
    """
    floating = next((a.dtype for a in arrays if is_float(a.dtype)), "float64")
    return [a if is_float(a.dtype) else a.astype(floating) for a in arrays]


@composed(full=True)
def box_convert(boxes: Array, in_fmt: str, out_fmt: str) -> Array:
    """Boxes (..., 4) in another format: corners "xyxy", corner and size "xywh", or "cxcywh" with
    the center.
    """
    for name, fmt in (("in_fmt", in_fmt), ("out_fmt", out_fmt)):
        if fmt not in FORMATS:
            raise ValueError(f"box_convert: {name} must be one of {', '.join(FORMATS)}, got "
                             f"{fmt!r}")
    _check_boxes("box_convert", boxes)
    if in_fmt == out_fmt:
        return boxes
    if "cxcywh" in (in_fmt, out_fmt):  # halves
        boxes, = _of_one_dtype(boxes)
    return concatenate(CONVERSIONS[in_fmt, out_fmt](boxes[..., :2], boxes[..., 2:]), -1)


@composed(full=True)
def box_area(boxes: Array) -> Array:
    """The areas of boxes: (..., 4) -> (...)."""
    _check_boxes("box_area", boxes)
    size = boxes[..., 2:] - boxes[..., :2]
    return size[..., 0] * size[..., 1]


def _pair(what: str, size: Any, minimum: int) -> tuple[int, int]:
    """A height and a width."""
    size = as_sizes(what, size, minimum)
    if not isinstance(size, Sequence) or len(size) != 2:
        raise ValueError(f"{what} must be (height, width), got {size!r}")
    height, width = size
    return height, width


def _check_boxes(name: str, boxes: Any, ndim: int | None = None) -> None:
    """Raise ValueError unless the last axis has the four numbers of a box."""
    if not boxes.ndim or boxes.shape[-1] != 4 or ndim not in (None, boxes.ndim):
        shape = "(..., 4)" if ndim is None else "(N, 4)"
        raise ValueError(f"{name}: expected boxes {shape}, got {boxes.shape}")


def _overlaps(name, boxes1, boxes2):
    """Intersections and unions of all pairs: (N, 4), (M, 4) -> (N, M)."""
    for boxes in (boxes1, boxes2):
        _check_boxes(name, boxes, 2)
    corner = maximum(boxes1[:, None, :2], boxes2[None, :, :2])
    size = clip(minimum(boxes1[:, None, 2:], boxes2[None, :, 2:]) - corner, 0, None)
    inter = size[..., 0] * size[..., 1]
    union = box_area(boxes1)[:, None] + box_area(boxes2)[None] - inter
    return inter, union


@composed(full=True)
def box_iou(boxes1: Array, boxes2: Array) -> Array:
    """Intersection over union of all pairs of boxes: (N, 4), (M, 4) -> (N, M)."""
    inter, union = _overlaps("box_iou", *_of_one_dtype(boxes1, boxes2))
    return inter / union


@composed(full=True)
def generalized_box_iou(boxes1: Array, boxes2: Array) -> Array:
    """``iou - |C - union| / |C|``, where C is the smallest box around both.

    Shapes: (N, 4), (M, 4) -> (N, M).

    H. Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019.
    """
    boxes1, boxes2 = _of_one_dtype(boxes1, boxes2)
    inter, union = _overlaps("generalized_box_iou", boxes1, boxes2)
    size = clip(maximum(boxes1[:, None, 2:], boxes2[None, :, 2:])
                - minimum(boxes1[:, None, :2], boxes2[None, :, :2]), 0, None)
    hull = size[..., 0] * size[..., 1]
    return inter / union - (hull - union) / hull


@composed
def clip_boxes_to_image(boxes: Array, size: Sequence[int]) -> Array:
    """The parts of boxes (..., 4) inside an image of `size` (height, width)."""
    _check_boxes("clip_boxes_to_image", boxes)
    height, width = _pair("clip_boxes_to_image: size", size, 0)
    x = clip(boxes[..., 0::2], 0, width)
    y = clip(boxes[..., 1::2], 0, height)
    return stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], -1)


@checks_arguments
def nms(boxes: Array, scores: Array, iou_threshold: float) -> Array:
    """Non-maximum suppression: the indices of the boxes that stay, those of high scores first.

    From the highest score on, each box removes those that overlap it with an intersection over
    union above `iou_threshold`.  The host waits for the boxes, since their number depends on them.

    >>> from gpuprop import functional as F
    >>> boxes = np.array([[0, 0, 2, 2], [0, 0, 2, 1.8], [5, 5, 6, 6.0]])
    >>> F.nms(boxes, np.array([0.9, 0.8, 0.7]), 0.5)
    array([0, 2])
    """
    return _kept(boxes, scores, None, iou_threshold, "nms")


@checks_arguments
def batched_nms(boxes: Array, scores: Array, idxs: Array, iou_threshold: float) -> Array:
    """`nms` among the boxes of each category; `idxs` are the categories of the boxes."""
    if idxs is None:
        raise none_error("batched_nms()", "idxs")
    return _kept(boxes, scores, idxs, iou_threshold, "batched_nms")


def _kept(boxes: Any, scores: Any, idxs: Any, iou_threshold: float, caller: str) -> Any:
    as_number(f"{caller}: iou_threshold", iou_threshold, "[0, 1]")
    corners = asnumpy(raw(boxes)).astype("float64")  # equal results for equal boxes of any dtype
    if corners.ndim != 2 or corners.shape[1] != 4 or len(scores) != len(corners):
        raise ValueError(f"{caller}: expected boxes (N, 4) and scores (N,), got {corners.shape} "
                         f"and {scores.shape}")
    backwards = asnumpy(raw(scores))[::-1]  # unsigned integers have no negative
    order = len(corners) - 1 - np.argsort(backwards, kind="stable")[::-1]
    corners = corners[order]
    kinds = np.zeros(len(order)) if idxs is None else asnumpy(raw(idxs))[order]
    areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    is_kept = np.ones(len(order), bool)
    for i in range(len(order)):
        if not is_kept[i]:
            continue
        rest = corners[i + 1:]
        low = np.maximum(corners[i, :2], rest[:, :2])
        size = (np.minimum(corners[i, 2:], rest[:, 2:]) - low).clip(0)
        inter = size[:, 0] * size[:, 1]
        union = areas[i] + areas[i + 1:] - inter
        is_kept[i + 1:] &= ~((inter > iou_threshold * union) & (kinds[i + 1:] == kinds[i]))
    with on_device_of((raw(boxes),)):
        found = backend_of(raw(boxes)).asarray(order[is_kept].astype("int64"))
    return spoken(Tensor(found), (boxes,)) if isinstance(boxes, Tensor) else found


@checks_arguments
def anchor_boxes(image_size: Sequence[int], grid_size: Sequence[int], sizes: Sequence[float],
                 aspect_ratios: Sequence[float]) -> Tensor:
    """Anchors of one feature map: (H * W * A, 4), for A = all pairs of a ratio and a size.

    `image_size` and `grid_size` are (height, width) of the image and of the feature map.  An anchor
    has the area size**2 and the ratio height / width; its corners are rounded around a center that
    is a multiple of the stride, image // grid.

    S. Ren et al., "Faster R-CNN", NeurIPS 2015.
    """
    scales, roots = np.asarray(sizes, "float32"), np.sqrt(np.asarray(aspect_ratios, "float32"))
    heights = (roots[:, None] * scales[None]).reshape(-1)
    widths = ((1 / roots)[:, None] * scales[None]).reshape(-1)
    base = np.round(np.stack([-widths, -heights, widths, heights], 1) / 2)
    image_size = _pair("anchor_boxes: image_size", image_size, 0)
    grid_size = _pair("anchor_boxes: grid_size", grid_size, 1)
    strides = [n // m for n, m in zip(image_size, grid_size, strict=True)]
    y, x = (np.arange(m, dtype="float32") * s for m, s in zip(grid_size, strides, strict=True))
    y, x = np.meshgrid(y, x, indexing="ij")
    shifts = np.stack([x, y, x, y], -1).reshape(-1, 1, 4)
    anchors = (shifts + base).reshape(-1, 4).astype("float32")
    return Tensor(default_backend().asarray(anchors))


# ---- features in boxes ---------------------------------------------------------------------------


def _regions(name: str, input: Any, boxes: Any) -> tuple[Any, Any]:
    """The images (K,) and the corners (K, 4) of boxes, float32 or float64."""
    if input.ndim != 4:
        raise ValueError(f"{name}: expected input (N, C, H, W), got {input.shape}")
    check_floating(name, input)
    xp = backend_of(raw(input)).xp
    if isinstance(boxes, list | tuple):
        given = [widened(raw(b)) for b in boxes]  # half types round the numbers of images
        for b in given:
            _check_boxes(name, b, 2)
        rois = xp.concatenate([xp.concatenate([xp.full((len(b), 1), i, dtype=b.dtype), b], axis=1)
                               for i, b in enumerate(given)])
    else:
        rois = widened(raw(boxes))
    if rois.ndim != 2 or rois.shape[1] != 5:
        raise ValueError(f"{name}: expected boxes (K, 5), with the index of the image first, or a "
                         f"list with boxes (L, 4) for each image, got {rois.shape}")
    image = rois[:, 0].astype("int64")
    n = len(input)
    xp.check((image >= 0) & (image < n),
             f"{name}: image of a box out of range: expected 0 <= index < {n}", image)
    return image, rois[:, 1:] if is_float(rois.dtype) else rois[:, 1:].astype("float32")


def _bin_counts(name: str, size: Any) -> tuple[int, int]:
    """The numbers of rows and columns of bins."""
    sizes = size if isinstance(size, Sequence) else (size, size)
    return _pair(f"{name}: output_size", sizes, 1)


@checks_arguments
def roi_align(input: Array, boxes: Array | Sequence[Array], output_size: int | Sequence[int],
              spatial_scale: float = 1.0, sampling_ratio: int = -1, aligned: bool = False) -> Array:
    """Averages of bilinear samples in the bins of boxes: (N, C, H, W) -> (K, C, *output_size).

    `boxes` are (K, 5), with the index of the image first, or a list with boxes (L, 4) for each
    image; `spatial_scale` maps them to the feature map.  Each bin has `sampling_ratio` squared
    samples; -1 means ``ceil(size of the box / output_size)``, for which the host waits.  With
    `aligned`, pixels are at half integers.  Boxes get no gradient.

    K. He et al., "Mask R-CNN", ICCV 2017.
    """
    with on_device_of((raw(input),)):
        image, corners = _regions("roi_align", input, boxes)
        corners = corners * spatial_scale - (0.5 if aligned else 0.0)
        return _align(input, (image, corners), *_bin_counts("roi_align", output_size),
                      sampling_ratio, aligned)


@composed(full=True)
def _align(input: Array, regions: tuple, rows: int, columns: int, sampling_ratio: int,
           aligned: bool) -> Array:
    n, channels, height, width = input.shape
    image, corners = regions
    xp = backend_of(corners).xp
    axes = []
    for start, end, bins, size in ((corners[:, 1], corners[:, 3], rows, height),
                                   (corners[:, 0], corners[:, 2], columns, width)):
        length = end - start if aligned else xp.maximum(end - start, 1.0)
        axes.append(_samples(start, length, bins, sampling_ratio, size))
    (y, y_weight, y_count), (x, x_weight, x_count) = axes
    pixels = input.transpose(0, 2, 3, 1).reshape(n * height * width, channels)
    total: Any = 0.0
    for i in range(2):  # the lower and the upper neighbor of each sample
        for j in range(2):
            index = ((image[:, None, None, None, None] * height + y[i][:, :, :, None, None]) * width
                     + x[j][:, None, None, :, :])
            weight = y_weight[i][:, :, :, None, None] * x_weight[j][:, None, None, :, :]
            weight = Tensor(weight[..., None].astype(input.dtype))
            picked = take(pixels, Tensor(index), 0)
            total = total + where(weight > 0, picked * weight, 0).sum((2, 4))
    count = xp.maximum(y_count * x_count, 1).astype(input.dtype)
    return (total / Tensor(count[:, None, None, None])).transpose(0, 3, 1, 2)


def _samples(start, length, bins, ratio, size):
    """The neighbors and weights of samples along an axis, two arrays (K, bins, S) each, and their
    number in a bin (K,).
    """
    xp = backend_of(start).xp
    if ratio > 0:
        count = xp.full(start.shape, ratio, dtype="int64")
        most = ratio
    else:
        count = xp.ceil(length / bins).astype("int64")
        most = max(int(asnumpy(count).max(initial=0)), 1)
    s = xp.arange(most)
    place = (s + 0.5) / xp.maximum(count, 1)[:, None]
    at = xp.arange(bins)[:, None] + place[:, None, :]
    at = start[:, None, None] + at * (length / bins)[:, None, None]
    is_used = (s < count[:, None])[:, None, :] & (at >= -1.0) & (at <= size)
    at = xp.maximum(at, 0.0)
    low = xp.minimum(xp.floor(at).astype("int64"), size - 1)
    high = xp.minimum(low + 1, size - 1)
    fraction = xp.where(low >= size - 1, 0.0, at - low)
    return (low, high), (xp.where(is_used, 1 - fraction, 0.0),
                         xp.where(is_used, fraction, 0.0)), count


@checks_arguments
def roi_pool(input: Array, boxes: Array | Sequence[Array], output_size: int | Sequence[int],
             spatial_scale: float = 1.0) -> Array:
    """Maxima in the bins of boxes, in whole pixels: (N, C, H, W) -> (K, C, *output_size).

    For `boxes` see `roi_align`.  An empty bin is 0.  The host waits for the size of the boxes.

    R. Girshick, "Fast R-CNN", ICCV 2015.
    """
    with on_device_of((raw(input),)):
        image, corners = _regions("roi_pool", input, boxes)
        return _pooled(input, (image, corners * spatial_scale),
                       *_bin_counts("roi_pool", output_size))


@composed
def _pooled(input: Array, regions: tuple, rows: int, columns: int) -> Array:
    n, channels, height, width = input.shape
    image, corners = regions
    xp = backend_of(corners).xp
    corners = (xp.sign(corners) * xp.floor(abs(corners) + 0.5)).astype("int64")  # C's round
    dtype = widened(raw(input)[:0]).dtype  # torchvision's bins depend on its rounding
    axes = [_bins(corners[:, 1], corners[:, 3], rows, height, dtype),
            _bins(corners[:, 0], corners[:, 2], columns, width, dtype)]
    (y, y_used), (x, x_used) = axes
    index = ((image[:, None, None, None, None] * height + y[:, :, None, :, None]) * width
             + x[:, None, :, None, :])
    is_used = y_used[:, :, None, :, None] & x_used[:, None, :, None, :]
    shape = (*index.shape[:3], math.prod(index.shape[3:]))
    index, is_used = index.reshape(shape), is_used.reshape(shape)
    values = raw(input).transpose(0, 2, 3, 1).reshape(n * height * width, channels)
    found = xp.where(is_used[..., None], values[index], -math.inf)
    best = xp.take_along_axis(index[..., None], xp.argmax(found, axis=3)[:, :, :, None], axis=3)
    # the flat position of each maximum in (N, C, H, W)
    area = height * width
    best = best[:, :, :, 0]
    channel = xp.arange(channels)
    flat = (best // area * channels + channel) * area + best % area
    picked = take(input.reshape(-1), Tensor(flat), 0)
    chosen = where(Tensor(is_used.any(axis=3)[..., None]), picked, 0)
    return chosen.transpose(0, 3, 1, 2)


def _bins(start, end, bins, size, dtype):
    """The pixels of each bin along an axis (K, bins, M), and which of them are used."""
    xp = backend_of(start).xp
    length = xp.maximum(end - start + 1, 1)
    step = length.astype(dtype) / bins
    i = xp.arange(bins).astype(dtype)
    low = xp.floor(i * step[:, None]).astype("int64") + start[:, None]
    high = xp.ceil((i + 1) * step[:, None]).astype("int64") + start[:, None]
    low, high = xp.clip(low, 0, size), xp.clip(high, 0, size)
    most = max(int(asnumpy(high - low).max(initial=0)), 1)
    at = low[..., None] + xp.arange(most)
    return xp.minimum(at, size - 1), at < high[..., None]
