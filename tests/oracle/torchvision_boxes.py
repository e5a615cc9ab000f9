"""Writes tests/torchvision_boxes.json.gz, what torchvision's functions compute, for test_boxes.py.

    pip install torch torchvision        (torchvision 0.28.0 with torch 2.13.0 wrote the file)
    python tests/oracle/torchvision_boxes.py

Each entry has the name of a function, its arguments (arrays as [dtype, nested lists]), its result,
and the gradient of ``(result * weights(result)).sum()`` for its first argument, or null.
"""

import gzip
import itertools
import json
import sys
from pathlib import Path

import numpy as np
import torch
from torchvision import ops
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))
from box_values import weights  # noqa: E402

RNG = np.random.RandomState(0)
FLOATS = "float64", "float32"


def boxes(n, low=0.0, high=6.0):
    corner = RNG.uniform(low, high, (n, 2))
    return np.concatenate([corner, corner + RNG.uniform(0.2, 4, (n, 2))], 1)


def regions(n, images):
    return np.concatenate([RNG.randint(0, images, (n, 1)), boxes(n, -3, 12)], 1)


def anchors(image_size, grid_size, sizes, aspect_ratios):
    make = AnchorGenerator((sizes,), (aspect_ratios,))
    images = ImageList(torch.zeros(1, 3, *image_size), [image_size])
    return make(images, [torch.zeros(1, 1, *grid_size)])[0]


def of_boxes():
    for dtype in FLOATS:
        a, b = boxes(7).astype(dtype), boxes(5).astype(dtype)
        b[0], b[1] = a[0], a[1] + np.array([3, 0, 3, 0]) * (a[1, 2] - a[1, 0])  # equal, apart
        for name in ("box_iou", "generalized_box_iou"):
            yield name, getattr(ops, name), [a, b]
        yield "box_area", ops.box_area, [a]
        yield "clip_boxes_to_image", ops.clip_boxes_to_image, [a, (5, 4)]
        for source, target in itertools.permutations(("xyxy", "xywh", "cxcywh"), 2):
            yield "box_convert", ops.box_convert, [a, source, target]
    whole = np.round(boxes(6) * 9).astype("int64")
    yield "box_iou", ops.box_iou, [whole, whole[:3]]


def suppression():
    for dtype, threshold in itertools.product(FLOATS, (0.0, 0.2, 0.5, 1.0)):
        corners = boxes(40).astype(dtype)
        scores = (RNG.randint(0, 30, 40) / 30).astype(dtype)  # with ties
        yield "nms", ops.nms, [corners, scores, threshold]
        yield "batched_nms", ops.batched_nms, [corners, scores, RNG.randint(0, 3, 40), threshold]


def features():
    for dtype in FLOATS:
        x, rois = RNG.standard_normal((2, 2, 7, 8)).astype(dtype), regions(8, 2).astype(dtype)
        rois[0] = 0, 2, 2, 2, 2  # no area
        rois[1] = 1, 4, 2, 3, 1  # negative size
        for size, scale in (((3, 2), 0.5), ((1, 4), 1.0)):
            for ratio, aligned in itertools.product((-1, 1, 3), (False, True)):
                yield "roi_align", ops.roi_align, [x, rois, size, scale, ratio, aligned]
            yield "roi_pool", ops.roi_pool, [x, rois, size, scale]
        # lengths at which the edges of bins depend on the rounding of length / 7 in this dtype
        x = np.stack([np.arange(70), -np.arange(70)]).reshape(1, 2, 1, 70).astype(dtype)
        rois = np.array([[0, 0, 0, n - 1, 0] for n in (29, 31, 57, 58, 61, 62)], dtype)
        yield "roi_pool", ops.roi_pool, [x, rois, (1, 7), 1.0]


def others():
    for image, grid, sizes, ratios in (
        ((32, 48), (4, 4), (16, 32), (0.5, 1.0, 2.0)),
        ((37, 50), (5, 3), (9,), (0.7,)),
        ((800, 1066), (3, 4), (32, 64, 128), (0.5, 1.0, 2.0)),
    ):
        yield "anchor_boxes", anchors, [image, grid, sizes, ratios]
    logits, truth = RNG.standard_normal((3, 5)) * 4, RNG.randint(0, 2, (3, 5)) * 1.0
    for alpha, gamma, reduction in ((0.25, 2, "none"), (-1, 1.5, "mean"), (0.6, 0.5, "sum")):
        yield "sigmoid_focal_loss", ops.sigmoid_focal_loss, [logits, truth, alpha, gamma, reduction]


def entry(name, function, arguments):
    tensors = [torch.tensor(a) if isinstance(a, np.ndarray) else a for a in arguments]
    first = tensors[0]
    is_differentiable = isinstance(first, torch.Tensor) and first.is_floating_point()
    if is_differentiable:
        first.requires_grad_()
    result, gradient = function(*tensors), None
    if is_differentiable and result.requires_grad:
        (result * torch.tensor(weights(result.shape)).to(result.dtype)).sum().backward()
        gradient = first.grad.tolist()
    return {"function": name, "result": result.tolist(), "gradient": gradient, "arguments": [
        [a.dtype.name, a.tolist()] if isinstance(a, np.ndarray) else a for a in arguments]}


def main():
    cases = [*of_boxes(), *suppression(), *features(), *others()]
    text = json.dumps([entry(*case) for case in cases], separators=(",", ":")).encode()
    (TESTS / "torchvision_boxes.json.gz").write_bytes(gzip.compress(text, 9, mtime=0))


if __name__ == "__main__":
    main()
