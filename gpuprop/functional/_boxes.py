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
from gpuprop._array.shape import stack
from gpuprop._core.checks import as_integer, as_number
from gpuprop._core.composed import checks_arguments, composed
from gpuprop._core.graph import raw
from gpuprop._core.placement import on_device_of
from gpuprop._core.registry import backend_of, default_backend
from gpuprop._core.signature import Array
from gpuprop._core.tensor import Tensor, asnumpy

FORMATS = "xyxy", "xywh", "cxcywh"


@composed
def box_convert(boxes: Array, in_fmt: str, out_fmt: str) -> Array:
    """Boxes (..., 4) in another format: corners "xyxy", corner and size "xywh", or "cxcywh" with
    the center.
    """
    for name, fmt in (("in_fmt", in_fmt), ("out_fmt", out_fmt)):
        if fmt not in FORMATS:
            raise ValueError(f"box_convert: {name} must be one of {', '.join(FORMATS)}, got "
                             f"{fmt!r}")
    if in_fmt == out_fmt:
        return boxes
    a, b, c, d = (boxes[..., i] for i in range(4))
    if in_fmt == "xywh":
        c, d = a + c, b + d
    elif in_fmt == "cxcywh":
        a, b, c, d = a - c / 2, b - d / 2, a + c / 2, b + d / 2
    if out_fmt == "xywh":
        c, d = c - a, d - b
    elif out_fmt == "cxcywh":
        a, b, c, d = (a + c) / 2, (b + d) / 2, c - a, d - b
    return stack([a, b, c, d], -1)


@composed
def box_area(boxes: Array) -> Array:
    """The areas of boxes: (..., 4) -> (...)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _overlaps(boxes1, boxes2):
    """Intersections and unions of all pairs: (N, 4), (M, 4) -> (N, M)."""
    corner = maximum(boxes1[:, None, :2], boxes2[None, :, :2])
    size = clip(minimum(boxes1[:, None, 2:], boxes2[None, :, 2:]) - corner, 0, None)
    inter = size[..., 0] * size[..., 1]
    union = box_area(boxes1)[:, None] + box_area(boxes2)[None] - inter
    return inter, union


@composed
def box_iou(boxes1: Array, boxes2: Array) -> Array:
    """Intersection over union of all pairs of boxes: (N, 4), (M, 4) -> (N, M)."""
    inter, union = _overlaps(boxes1, boxes2)
    return inter / union


@composed
def generalized_box_iou(boxes1: Array, boxes2: Array) -> Array:
    """``iou - |C - union| / |C|``, where C is the smallest box around both.

    Shapes: (N, 4), (M, 4) -> (N, M).

    H. Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019.
    """
    inter, union = _overlaps(boxes1, boxes2)
    size = clip(maximum(boxes1[:, None, 2:], boxes2[None, :, 2:])
                - minimum(boxes1[:, None, :2], boxes2[None, :, :2]), 0, None)
    hull = size[..., 0] * size[..., 1]
    return inter / union - (hull - union) / hull


@composed
def clip_boxes_to_image(boxes: Array, size: Sequence[int]) -> Array:
    """The parts of boxes (..., 4) inside an image of `size` (height, width)."""
    height, width = size
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
    return _kept(boxes, scores, idxs, iou_threshold, "batched_nms")


def _kept(boxes: Any, scores: Any, idxs: Any, iou_threshold: float, caller: str) -> Any:
    as_number(f"{caller}: iou_threshold", iou_threshold, "[0, 1]")
    corners = asnumpy(raw(boxes))
    if corners.ndim != 2 or corners.shape[1] != 4 or len(scores) != len(corners):
        raise ValueError(f"{caller}: expected boxes (N, 4) and scores (N,), got {corners.shape} "
                         f"and {scores.shape}")
    order = np.argsort(-asnumpy(raw(scores)), kind="stable")
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
    return Tensor(found) if isinstance(boxes, Tensor) else found


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
    strides = [n // m for n, m in zip(image_size, grid_size, strict=True)]
    y, x = (np.arange(m, dtype="float32") * s for m, s in zip(grid_size, strides, strict=True))
    y, x = np.meshgrid(y, x, indexing="ij")
    shifts = np.stack([x, y, x, y], -1).reshape(-1, 1, 4)
    anchors = (shifts + base).reshape(-1, 4).astype("float32")
    return Tensor(default_backend().asarray(anchors))


# ---- features in boxes ---------------------------------------------------------------------------


def _regions(boxes: Any, xp: Any) -> Any:
    """Boxes as an array (K, 5) with the index of the image first."""
    if not isinstance(boxes, list | tuple):
        return raw(boxes)
    rows = [xp.concatenate([xp.full((len(b), 1), i, dtype=raw(b).dtype), raw(b)], axis=1)
            for i, b in enumerate(boxes)]
    return xp.concatenate(rows)


def _pair(size: Any) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return as_integer("output_size", height, 1), as_integer("output_size", width, 1)


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
    xp = backend_of(raw(input)).xp
    with on_device_of((raw(input),)):
        rois = _regions(boxes, xp)
        return _align(input, rois, *_pair(output_size), spatial_scale, sampling_ratio, aligned)


@composed
def _align(input: Array, rois: Array, rows: int, columns: int, spatial_scale: float,
           sampling_ratio: int, aligned: bool) -> Array:
    n, channels, height, width = input.shape
    boxes = raw(rois)
    xp = backend_of(boxes).xp
    corners = boxes[:, 1:] * spatial_scale - (0.5 if aligned else 0.0)
    axes = []
    for start, end, bins, size in ((corners[:, 1], corners[:, 3], rows, height),
                                   (corners[:, 0], corners[:, 2], columns, width)):
        length = end - start if aligned else xp.maximum(end - start, 1.0)
        axes.append(_samples(start, length, bins, sampling_ratio, size))
    (y, y_weight, y_count), (x, x_weight, x_count) = axes
    image = boxes[:, 0].astype("int64")
    pixels = input.transpose(0, 2, 3, 1).reshape(n * height * width, channels)
    total: Any = 0.0
    for i in range(2):  # the lower and the upper neighbor of each sample
        for j in range(2):
            index = ((image[:, None, None, None, None] * height + y[i][:, :, :, None, None]) * width
                     + x[j][:, None, None, :, :])
            weight = y_weight[i][:, :, :, None, None] * x_weight[j][:, None, None, :, :]
            picked = take(pixels, Tensor(index), 0)
            total = total + (picked * Tensor(weight[..., None].astype(input.dtype))).sum((2, 4))
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
    xp = backend_of(raw(input)).xp
    with on_device_of((raw(input),)):
        return _pooled(input, _regions(boxes, xp), *_pair(output_size), spatial_scale)


@composed
def _pooled(input: Array, rois: Array, rows: int, columns: int, spatial_scale: float) -> Array:
    n, channels, height, width = input.shape
    boxes = raw(rois)
    xp = backend_of(boxes).xp
    halves = boxes[:, 1:] * spatial_scale
    corners = (xp.sign(halves) * xp.floor(abs(halves) + 0.5)).astype("int64")  # C's round
    axes = [_bins(corners[:, 1], corners[:, 3], rows, height),
            _bins(corners[:, 0], corners[:, 2], columns, width)]
    (y, y_used), (x, x_used) = axes
    image = boxes[:, 0].astype("int64")
    index = ((image[:, None, None, None, None] * height + y[:, :, None, :, None]) * width
             + x[:, None, :, None, :])
    is_used = y_used[:, :, None, :, None] & x_used[:, None, :, None, :]
    shape = (*index.shape[:3], -1)
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


def _bins(start, end, bins, size):
    """The pixels of each bin along an axis (K, bins, M), and which of them are used."""
    xp = backend_of(start).xp
    length = xp.maximum(end - start + 1, 1)
    step = length.astype("float32") / np.float32(bins)
    i = xp.arange(bins).astype("float32")
    low = xp.floor(i * step[:, None]).astype("int64") + start[:, None]
    high = xp.ceil((i + 1) * step[:, None]).astype("int64") + start[:, None]
    low, high = xp.clip(low, 0, size), xp.clip(high, 0, size)
    most = max(int(asnumpy(high - low).max(initial=0)), 1)
    at = low[..., None] + xp.arange(most)
    return xp.minimum(at, size - 1), at < high[..., None]
