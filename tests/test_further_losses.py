"""Losses beyond PyTorch's, against short references in NumPy, and their gradients."""

from __future__ import annotations

import numpy as np
import pytest

import gpuprop
from gpuprop import functional as F
from gpuprop import nn, optim
from gpuprop.testing import check_grad

RNG = np.random.default_rng(0)
LOGITS = RNG.standard_normal((3, 4, 5))
TRUTH = RNG.integers(0, 2, (3, 4, 5)).astype(float)
P = 1 / (1 + np.exp(-LOGITS))
A, B, W = (RNG.standard_normal((n, 6)) for n in (5, 5, 4))
LABELS = np.array([0, 3, 1, 1, 2])
unit = lambda a: a / np.linalg.norm(a, axis=1, keepdims=True)


def focal(alpha, gamma):
    p_t = np.where(TRUTH == 1, P, 1 - P)
    weight = 1 if alpha < 0 else np.where(TRUTH == 1, alpha, 1 - alpha)
    return -weight * (1 - p_t) ** gamma * np.log(p_t)


def jaccard_extension(errors, truth):
    """The Lovász extension as a sum over the sorted errors of differences of the set function."""
    order = np.argsort(-errors, kind="stable")
    jaccard = lambda wrong: len(wrong) / len(set(np.flatnonzero(truth)) | wrong)
    before, total, wrong = 0.0, 0.0, set()
    for i in order:
        wrong = wrong | {i}
        now = jaccard(wrong)
        total += max(errors[i], 0) * (now - before)
        before = now
    return total


def softmax_cross_entropy(logits, labels):
    z = logits - logits.max(1, keepdims=True)
    return (np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), labels]).mean()


def call(f, *arrays, **options):
    return gpuprop.asnumpy(f(*map(gpuprop.tensor, arrays), **options))


@pytest.mark.parametrize("alpha, gamma", [(0.25, 2), (-1, 2), (0.6, 0.5)])
def test_focal(backend, alpha, gamma):
    expected = focal(alpha, gamma)
    for reduction, f in (("none", np.asarray), ("mean", np.mean), ("sum", np.sum)):
        np.testing.assert_allclose(
            call(F.sigmoid_focal_loss, LOGITS, TRUTH, alpha=alpha, gamma=gamma,
                 reduction=reduction), f(expected), rtol=1e-10)


def test_overlaps(backend):
    flat = lambda a: a.reshape(3, -1)
    hit = flat(P * TRUTH).sum(1)
    dice = 1 - (2 * hit + 1) / (flat(P).sum(1) + flat(TRUTH).sum(1) + 1)
    np.testing.assert_allclose(call(F.dice_loss, P, TRUTH, reduction="none"), dice)
    tversky = 1 - (hit + 2) / (
        hit + 0.3 * flat(P * (1 - TRUTH)).sum(1) + 0.7 * flat((1 - P) * TRUTH).sum(1) + 2)
    np.testing.assert_allclose(call(F.tversky_loss, P, TRUTH, alpha=0.3, beta=0.7, smooth=2.0),
                               tversky.mean())


def test_lovasz(backend):
    errors = 1 - LOGITS * (2 * TRUTH - 1)
    expected = [jaccard_extension(e.ravel(), t.ravel())
                for e, t in zip(errors, TRUTH, strict=True)]
    np.testing.assert_allclose(call(F.lovasz_hinge_loss, LOGITS, TRUTH, reduction="none"),
                               expected)
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    labels = RNG.integers(0, 3, (3, 5))  # class 3 is absent
    rows = p.swapaxes(0, 1).reshape(4, -1)
    classes = [jaccard_extension(abs((labels.ravel() == c) - rows[c]), labels.ravel() == c)
               for c in range(3)]
    np.testing.assert_allclose(call(F.lovasz_softmax_loss, p, labels), np.mean(classes))


def test_contrastive(backend):
    similar = unit(A) @ unit(B).T / 0.2
    np.testing.assert_allclose(call(F.info_nce_loss, A, B, temperature=0.2),
                               softmax_cross_entropy(similar, np.arange(5)))
    views = unit(np.concatenate([A, B]))
    logits = views @ views.T / 0.5
    np.fill_diagonal(logits, -np.inf)
    np.testing.assert_allclose(call(F.nt_xent_loss, A, B),
                               softmax_cross_entropy(logits, (np.arange(10) + 5) % 10))


def test_margins(backend):
    cosine = unit(A) @ unit(W).T
    hot = np.eye(4)[LABELS] > 0
    angle = np.arccos(cosine)
    moved = np.where(angle + 0.5 < np.pi, np.cos(angle + 0.5), cosine - 0.5 * np.sin(0.5))
    np.testing.assert_allclose(call(F.arcface_logits, A, W, LABELS),
                               64 * np.where(hot, moved, cosine), rtol=1e-9)
    np.testing.assert_allclose(call(F.cosface_logits, A, W, LABELS, scale=30.0),
                               30 * np.where(hot, cosine - 0.35, cosine), rtol=1e-9)
    opposite = call(F.arcface_logits, -W, W, np.arange(4))
    assert np.isfinite(opposite).all()


def test_gradients():
    check_grad(lambda x: F.sigmoid_focal_loss(x, TRUTH, reduction="sum"), LOGITS, order=2)
    check_grad(lambda p: F.dice_loss(p, TRUTH), P, order=2)
    check_grad(lambda p: F.tversky_loss(p, TRUTH, 0.3, 0.7), P, order=2)
    check_grad(lambda x: F.lovasz_hinge_loss(x, TRUTH), LOGITS)
    check_grad(F.info_nce_loss, A, B)
    check_grad(F.nt_xent_loss, A, B)
    check_grad(lambda a, w: F.arcface_logits(a, w, LABELS), A, W)
    check_grad(lambda a, w: F.cosface_logits(a, w, LABELS), A, W)


LAYERS = {  # layer -> (its options, its function, the function's other options, arguments)
    nn.FocalLoss: ({"alpha": -1.0, "gamma": 3.0}, F.sigmoid_focal_loss, {"reduction": "mean"},
                   LOGITS, TRUTH),
    nn.DiceLoss: ({"smooth": 0.5, "reduction": "none"}, F.dice_loss, {}, P, TRUTH),
    nn.TverskyLoss: ({"alpha": 0.3, "beta": 0.7}, F.tversky_loss, {}, P, TRUTH),
    nn.LovaszHingeLoss: ({"reduction": "sum"}, F.lovasz_hinge_loss, {}, LOGITS, TRUTH),
    nn.LovaszSoftmaxLoss: ({}, F.lovasz_softmax_loss, {}, P, RNG.integers(0, 4, (3, 5))),
    nn.InfoNCELoss: ({"temperature": 0.3}, F.info_nce_loss, {}, A, B),
    nn.NTXentLoss: ({"temperature": 0.3}, F.nt_xent_loss, {}, A, B),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_layers(backend, layer):
    options, function, others, *arrays = LAYERS[layer]
    expected = call(function, *arrays, **options, **others)
    found = layer(**options)(*map(gpuprop.tensor, arrays))
    np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize("layer, function, margin", [
    (nn.ArcFace, F.arcface_logits, 0.5), (nn.CosFace, F.cosface_logits, 0.35)])
def test_margin_layers(backend, layer, function, margin):
    head = layer(6, 4, scale=8.0, dtype="float64")
    assert head.margin == margin
    assert head.weight.shape == (4, 6) and list(head.state_dict()) == ["weight"]
    assert abs(head.weight.numpy()).max() <= np.sqrt(6 / 10)
    assert repr(head) == f"{layer.__name__}(in_features=6, num_classes=4, scale=8.0, " \
                         f"margin={margin})"
    expected = call(function, A, head.weight.numpy(), LABELS, scale=8.0, margin=margin)
    np.testing.assert_array_equal(head(gpuprop.tensor(A), gpuprop.tensor(LABELS)).numpy(),
                                  expected)


def test_a_margin_layer_learns(backend):
    """The embeddings of a class gather around its row, further than the margin from the others."""
    gpuprop.manual_seed(0)
    x, labels = gpuprop.tensor(A.astype("float32")), gpuprop.tensor(LABELS)
    body, head, loss = nn.Linear(6, 3), nn.ArcFace(3, 4, scale=16.0), nn.CrossEntropyLoss()
    optimizer = optim.Adam([*body.parameters(), *head.parameters()], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        result = loss(head(body(x), labels), labels)
        result.backward()
        optimizer.step()
    assert result.item() < 0.1
    cosine = unit(body(x).numpy()) @ unit(head.weight.numpy()).T
    angle = np.arccos(cosine)
    own = angle[np.arange(5), LABELS]
    others = np.where(np.eye(4)[LABELS] > 0, np.inf, angle).min(1)
    assert (own + 0.5 < others).all()


def test_layers_in_the_words_of_pytorch():
    from gpuprop import torch

    head = torch.nn.ArcFace(6, 4)
    assert isinstance(head.weight, torch.nn.Parameter)
    result = torch.nn.FocalLoss()(torch.tensor(LOGITS), torch.tensor(TRUTH))
    assert isinstance(result, torch.Tensor) and result.dim() == 0
