"""Boxes of object detection, against torchvision, and loops in float64 that follow the definitions.

tests/oracle/torchvision_boxes.py wrote torchvision's results.
"""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest
from box_values import weights

import gpuprop
from gpuprop import functional as F
from gpuprop.testing import check_grad


def boxes(n, size=20.0, seed=0):
    rng = np.random.default_rng(seed)
    low = rng.uniform(-2, size, (n, 2))
    return np.concatenate([low, low + rng.uniform(0.1, size / 2, (n, 2))], 1)


def regions(n, images):
    index = np.random.default_rng(3).integers(0, images, (n, 1)).astype(float)
    return np.concatenate([index, boxes(n)], 1)


def test_overlaps(backend):
    a, b = boxes(7), boxes(5, seed=1)
    found, general = (gpuprop.asnumpy(f(gpuprop.tensor(a), gpuprop.tensor(b)))
                      for f in (F.box_iou, F.generalized_box_iou))
    for i, p in enumerate(a):
        for j, q in enumerate(b):
            width = max(min(p[2], q[2]) - max(p[0], q[0]), 0)
            height = max(min(p[3], q[3]) - max(p[1], q[1]), 0)
            area = lambda r: (r[2] - r[0]) * (r[3] - r[1])
            union = area(p) + area(q) - width * height
            hull = (max(p[2], q[2]) - min(p[0], q[0])) * (max(p[3], q[3]) - min(p[1], q[1]))
            iou = width * height / union
            assert found[i, j] == pytest.approx(iou)
            assert general[i, j] == pytest.approx(iou - (hull - union) / hull)
    np.testing.assert_allclose(F.box_area(a), [area(p) for p in a])


def test_gradients():
    a, b = boxes(3), boxes(2, seed=1)
    check_grad(F.box_iou, a, b)
    check_grad(F.generalized_box_iou, a, b)
    check_grad(lambda x: F.box_convert(x, "cxcywh", "xyxy"), a)
    x = np.random.default_rng(0).standard_normal((2, 2, 5, 6))
    check_grad(lambda x: F.roi_align(x, regions(3, 2), 2, 0.3, 2), x)
    check_grad(lambda x: F.roi_pool(x, regions(3, 2), (2, 3), 0.3), x)


def test_conversions_and_clipping(backend):
    a = gpuprop.tensor([[1.0, 2.0, 5.0, 10.0]])
    assert F.box_convert(a, "xyxy", "xywh").tolist() == [[1, 2, 4, 8]]
    assert F.box_convert(a, "xyxy", "cxcywh").tolist() == [[3, 6, 4, 8]]
    for one in ("xyxy", "xywh", "cxcywh"):
        for other in ("xyxy", "xywh", "cxcywh"):
            there = F.box_convert(F.box_convert(a, "xyxy", one), one, other)
            assert F.box_convert(there, other, "xyxy").tolist() == a.tolist()
    assert F.clip_boxes_to_image(a, (6, 4)).tolist() == [[1, 2, 4, 6]]
    with pytest.raises(ValueError, match="in_fmt must be one of xyxy"):
        F.box_convert(a, "xxyy", "xyxy")


def suppressed(corners, scores, kinds, threshold):
    kept = []
    iou = F.box_iou(corners, corners)
    for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
        if all(iou[i, k] <= threshold or kinds[i] != kinds[k] for k in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5, 1.0])
def test_suppression(backend, threshold):
    rng = np.random.default_rng(0)
    corners, scores, kinds = boxes(60), rng.uniform(size=60), rng.integers(0, 3, 60)
    t = [gpuprop.tensor(a) for a in (corners, scores, kinds)]
    kept = F.nms(t[0], t[1], threshold)
    assert isinstance(kept, gpuprop.Tensor)
    assert kept.tolist() == suppressed(corners, scores, np.zeros(60), threshold)
    assert F.batched_nms(*t, threshold).tolist() == suppressed(corners, scores, kinds, threshold)
    assert F.nms(t[0][:0], t[1][:0], threshold).shape == (0,)


def bilinear(image, y, x):
    """torchvision's sample: 0 outside of [-1, size], and the border repeated inside of that."""
    height, width = image.shape
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = max(y, 0), max(x, 0)
    y0, x0 = min(int(y), height - 1), min(int(x), width - 1)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    v = 0.0 if y0 == height - 1 else y - y0
    u = 0.0 if x0 == width - 1 else x - x0
    return ((1 - v) * ((1 - u) * image[y0, x0] + u * image[y0, x1])
            + v * ((1 - u) * image[y1, x0] + u * image[y1, x1]))


@pytest.mark.parametrize("ratio", [1, 2, -1])
@pytest.mark.parametrize("aligned", [False, True])
def test_roi_align(backend, ratio, aligned):
    x, scale, (rows, columns) = np.random.default_rng(0).standard_normal((2, 3, 7, 8)), 0.5, (3, 2)
    rois = regions(6, 2)
    found = gpuprop.asnumpy(F.roi_align(gpuprop.tensor(x), gpuprop.tensor(rois), (rows, columns),
                                        scale, ratio, aligned))
    for k, (image, *box) in enumerate(rois):
        x0, y0, x1, y1 = np.array(box) * scale - (0.5 if aligned else 0)
        w, h = (x1 - x0, y1 - y0) if aligned else (max(x1 - x0, 1), max(y1 - y0, 1))
        n = ratio if ratio > 0 else math.ceil(h / rows)
        m = ratio if ratio > 0 else math.ceil(w / columns)
        for c in range(3):
            for i in range(rows):
                for j in range(columns):
                    values = [bilinear(x[int(image), c], y0 + (i + (a + 0.5) / n) * h / rows,
                                       x0 + (j + (b + 0.5) / m) * w / columns)
                              for a in range(n) for b in range(m)]
                    assert found[k, c, i, j] == pytest.approx(np.mean(values)), (k, c, i, j)


def test_roi_pool(backend):
    x, scale, (rows, columns) = np.random.default_rng(0).standard_normal((2, 3, 7, 8)), 0.5, (3, 2)
    rois = regions(6, 2)
    found = gpuprop.asnumpy(F.roi_pool(gpuprop.tensor(x), gpuprop.tensor(rois), (rows, columns),
                                       scale))
    assert found.shape == (6, 3, rows, columns)
    for k, (image, *box) in enumerate(rois):
        x0, y0, x1, y1 = (math.floor(abs(v) + 0.5) * (1 if v > 0 else -1)
                          for v in np.array(box) * scale)
        h, w = max(y1 - y0 + 1, 1), max(x1 - x0 + 1, 1)
        for i in range(rows):
            top, low = (min(max(v + y0, 0), 7) for v in (i * h // rows, -(-(i + 1) * h // rows)))
            for j in range(columns):
                left, right = (min(max(v + x0, 0), 8)
                               for v in (j * w // columns, -(-(j + 1) * w // columns)))
                part = x[int(image), :, top:low, left:right].reshape(3, -1)
                expected = part.max(1) if part.size else np.zeros(3)
                np.testing.assert_array_equal(found[k, :, i, j], expected)


def test_boxes_of_each_image_in_a_list(backend):
    x = gpuprop.tensor(np.random.default_rng(0).standard_normal((2, 3, 7, 8)))
    rois = [boxes(2), boxes(3, seed=1)]
    joined = np.concatenate([np.r_["1", np.full((len(b), 1), i), b] for i, b in enumerate(rois)])
    listed = [gpuprop.tensor(b) for b in rois]
    for f in (F.roi_align, F.roi_pool):
        expected = f(x, gpuprop.tensor(joined), 2, 0.5)
        assert f(x, listed, 2, 0.5).tolist() == expected.tolist()


def test_anchors():
    found = F.anchor_boxes((32, 48), (4, 4), (16, 32), (0.5, 1.0)).numpy()
    assert found.shape == (4 * 4 * 4, 4) and found.dtype == "float32"
    # the first cell: ratio 0.5 of both sizes, then ratio 1
    np.testing.assert_array_equal(found[:4], [[-11, -6, 11, 6], [-23, -11, 23, 11],
                                              [-8, -8, 8, 8], [-16, -16, 16, 16]])
    np.testing.assert_array_equal(found[4:8] - found[:4], [[12, 0, 12, 0]] * 4)
    np.testing.assert_array_equal(found[16:20] - found[:4], [[0, 8, 0, 8]] * 4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "uint8", "int8"])
def test_narrow_types(backend, dtype):
    """Areas of narrow types overflow; their results are those of float64."""
    rng = np.random.default_rng(0)
    low, size = rng.integers(0, 60, (20, 2)), rng.integers(10, 60, (20, 2))
    corners, scores = np.concatenate([low, low + size], 1).astype("float64"), rng.permutation(20)
    t, s = (gpuprop.tensor(a).astype(dtype) for a in (corners, scores))
    for f in (F.box_iou, F.generalized_box_iou):
        found = f(t, t[:5])
        assert found.dtype == (dtype if "float" in dtype else "float64")
        tolerance = 1e-2 if dtype == "bfloat16" else 1e-6
        np.testing.assert_allclose(found.astype("float64").numpy(), f(corners, corners[:5]),
                                   tolerance, tolerance)
    assert F.nms(t, s, 0.4).tolist() == F.nms(corners, scores * 1.0, 0.4).tolist()


def test_no_boxes(backend):
    x, none = gpuprop.ones((2, 3, 5, 6)), gpuprop.zeros((0, 5))
    for f in (F.roi_align, F.roi_pool):
        assert f(x, none, (2, 3)).shape == (0, 3, 2, 3)
        assert f(x, [none[:, 1:], none[:, 1:]], 2).shape == (0, 3, 2, 2)


def test_a_half_type_has_not_the_number_of_each_image(backend):
    """In bfloat16, 257 is 256."""
    x = gpuprop.zeros((258, 1, 2, 2), dtype="bfloat16")
    x[257] = 1
    none = gpuprop.zeros((0, 4), dtype="bfloat16")
    whole = gpuprop.tensor([[0.0, 0.0, 1.0, 1.0]]).astype("bfloat16")
    for f in (F.roi_align, F.roi_pool):
        found = f(x, [*[none] * 257, whole], 1)
        assert found.dtype == "bfloat16" and found.tolist() == [[[[1.0]]]]


@pytest.mark.parametrize("f", [F.roi_align, F.roi_pool])
def test_wrong_regions(backend, f):
    x, box = gpuprop.ones((2, 3, 5, 6)), [0.0, 0.0, 2.0, 2.0]
    with pytest.raises(ValueError, match=rf"{f.__name__}: expected boxes \(K, 5\)"):
        f(x, gpuprop.tensor([box]), 2)
    with pytest.raises(ValueError, match=rf"{f.__name__}: expected boxes \(N, 4\)"):
        f(x, [gpuprop.tensor([[0.0, *box]])], 2)
    with pytest.raises(ValueError, match=rf"{f.__name__}: expected input \(N, C, H, W\)"):
        f(x[0], gpuprop.tensor([[0.0, *box]]), 2)
    for image in (-1.0, 2.0):
        with pytest.raises(IndexError, match=f"{f.__name__}: image of a box out of range"):
            f(x, gpuprop.tensor([[image, *box]]), 2).numpy()


@pytest.mark.parametrize("f", [
    F.box_area, lambda a: F.box_iou(a, a), lambda a: F.generalized_box_iou(a, a),
    lambda a: F.box_convert(a, "xyxy", "xywh"), lambda a: F.clip_boxes_to_image(a, (3, 3))])
def test_wrong_boxes(f):
    wrong = gpuprop.ones((3, 5))
    with pytest.raises(ValueError, match="expected boxes"):
        f(wrong)


# ---- torchvision ---------------------------------------------------------------------------------

FILE = Path(__file__).with_name("torchvision_boxes.json.gz")
THEIRS = json.loads(gzip.decompress(FILE.read_bytes()))
DTYPES = {"float64", "float32", "int64"}


def is_array(argument):
    return isinstance(argument, list) and argument[0] in DTYPES


@pytest.mark.parametrize("function", dict.fromkeys(entry["function"] for entry in THEIRS))
def test_torchvision(backend, function):
    entries = [entry for entry in THEIRS if entry["function"] == function]
    for i, entry in enumerate(entries):
        arguments = [gpuprop.tensor(np.array(a[1], a[0])) if is_array(a) else a
                     for a in entry["arguments"]]
        first = arguments[0]
        if entry["gradient"] is not None:
            first.requires_grad_()
        found = getattr(F, function)(*arguments)
        tolerance = 1e-4 if getattr(first, "dtype", None) == "float32" else 1e-7
        compare = lambda got, want, n=i, t=tolerance: np.testing.assert_allclose(
            gpuprop.asnumpy(got), want, rtol=t, atol=t, err_msg=f"{function}, case {n}")
        compare(found.array, entry["result"])
        if entry["gradient"] is not None:
            (found * gpuprop.tensor(weights(found.shape)).astype(found.dtype)).sum().backward()
            compare(first.grad, entry["gradient"])
