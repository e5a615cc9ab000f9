"""Rows of functions of boxes."""

from __future__ import annotations

import numpy as np

import gpuprop.functional as F
from gpuprop.testing.rows import Row, floats, integers

FORMATS = ("xyxy", "xywh", "cxcywh")
NO_GRADIENT = "indices have no gradient"
WAITS = dict.fromkeys(("waits", "capture"), "the host waits for the boxes")
CANCELS = "terms cancel, and sizes are 0 between boxes that do not overlap; so in PyTorch"
CONSTANT = dict.fromkeys(("gradient", "second"), "boxes have no gradient")


def boxes(*shape: int) -> np.ndarray:
    """Boxes (*shape, 4) inside of (-1, 9)."""
    corner = floats(*shape, 2, low=-1, high=6)
    return np.concatenate([corner, corner + floats(*shape, 2, low=0.5, high=3)], -1)


def regions(k: int, n: int) -> np.ndarray:
    """Boxes (k, 5) of n images, whose corners are integers."""
    return np.concatenate([integers(n, k, 1), np.round(boxes(k)).astype("int64")], 1)


def of_boxes():
    for shape in ((3,), (2, 3), (), (0,)):
        yield Row(F.box_area, boxes(*shape))
        yield Row(F.clip_boxes_to_image, boxes(*shape), (5, 4))
        for source in FORMATS:
            for target in FORMATS:
                yield Row(F.box_convert, boxes(*shape), source, target)
    for op in (F.box_iou, F.generalized_box_iou):
        for n, m in ((3, 4), (1, 1), (0, 3), (2, 0)):
            yield Row(op, boxes(n), boxes(m)).skip(hidden=CANCELS)


def suppression():
    for n in (7, 1, 0):
        scores = np.argsort(floats(n)) / 8  # without ties in any dtype
        yield Row(F.nms, boxes(n), scores, 0.3)
        yield Row(F.batched_nms, boxes(n), scores, integers(2, n), 0.3)


def features():
    for shape, k in (((2, 3, 6, 7), 4), ((1, 1, 1, 1), 1), ((2, 3, 6, 7), 0)):
        rois = regions(k, shape[0])
        for ratio in (1, 2, -1):
            for aligned in (False, True):
                row = Row(F.roi_align, floats(*shape), rois, (3, 2), 0.5, ratio, aligned)
                yield row.skip(**WAITS) if ratio < 0 else row
        yield Row(F.roi_align, floats(*shape), rois / 4, 3, 1.0, 2).skip(**CONSTANT)
        for boxes in (rois, rois / 4):
            yield Row(F.roi_pool, floats(*shape), boxes, 2).skip(**CONSTANT, **WAITS)
        yield Row(F.roi_pool, floats(*shape), rois, (3, 2), 0.5).skip(**WAITS)


ROWS = [*of_boxes(), *(row.skip(gradient=NO_GRADIENT, **WAITS) for row in suppression()),
        *features()]
