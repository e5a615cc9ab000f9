"""Metrics: equal to scikit-learn's on every backend, without waiting for the device."""

import math

import numpy as np
import pytest
from sklearn import metrics as sk

import gpuprop
from gpuprop.testing import no_syncs
from gpuprop.training.metrics import (
    AUROC,
    F1,
    METRICS,
    R2,
    RMSE,
    Accuracy,
    AveragePrecision,
    ConfusionMatrix,
    Perplexity,
    Precision,
    Recall,
    TopK,
    metric,
)
from gpuprop.training.metrics._classes import ClassificationMetric


def measured(measure, output, target, size=17):
    """The metric over batches, the last one smaller, whose updates do not wait for the device."""
    measure = metric(measure)
    batches = [(gpuprop.tensor(output[i:i + size]), gpuprop.tensor(target[i:i + size]))
               for i in range(0, len(target), size)]
    backend = gpuprop.backend.default_backend()
    with no_syncs(backend, measure.name):
        for batch in batches:
            measure.update(*batch)
    return measure.compute()


@pytest.fixture
def classes(rng):
    """Scores (100, 7) and labels: class 5 never occurs, class 6 is never predicted either."""
    output, target = rng.standard_normal((100, 7)), rng.choice([0, 1, 2, 3, 4], 100)
    output[:, 6] = -9
    output[np.arange(100), target] += 1
    return output, target


@pytest.fixture
def binary(rng):
    """Scores (90,), with ties, and labels 0 and 1."""
    target = rng.integers(0, 2, 90)
    return np.round(rng.standard_normal(90) + target, 1) + 0.05, target


def softmax(z):
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


# ---- classification ------------------------------------------------------------------------------


def test_accuracy(backend, classes, binary):
    output, target = classes
    assert measured("accuracy", output, target) == sk.accuracy_score(target, output.argmax(1))
    scores, labels = binary
    want = sk.accuracy_score(labels, scores > 0)
    assert measured("accuracy", scores[:, None], labels) == want
    for dtype in ("int64", "float64", "bool"):
        assert measured("accuracy", scores, labels.astype(dtype)) == want


def test_accuracy_of_images(backend, rng):
    output, target = rng.standard_normal((20, 4, 3, 5)), rng.integers(0, 4, (20, 3, 5))
    want = (output.argmax(1) == target).mean()
    assert measured("accuracy", output, target) == pytest.approx(want, abs=1e-15)


@pytest.mark.parametrize("k", [1, 2, 6])
def test_top_k(backend, classes, k):
    output, target = classes
    for o in (output, np.round(output)):  # with ties
        want = sk.top_k_accuracy_score(target, o, k=k, labels=range(7))
        assert measured(f"top{k}", o, target) == pytest.approx(want, abs=1e-15)


def test_top_k_of_nan_is_zero(backend):
    assert measured("top2", np.full((4, 5), np.nan), np.zeros(4, int)) == 0


@pytest.mark.parametrize("average", ["macro", "micro", None])
def test_precision_recall_f1(backend, classes, average):
    output, target = classes
    options = {"labels": range(7)} if average is None else {}
    wanted = sk.precision_recall_fscore_support(
        target, output.argmax(1), average=average, zero_division=0, **options)
    for cls, want in zip((Precision, Recall, F1), wanted, strict=False):
        found = measured(cls(average), output, target)
        np.testing.assert_allclose(found, want, rtol=0, atol=1e-15)


def test_binary_precision_recall_f1(backend, binary):
    scores, labels = binary
    wanted = sk.precision_recall_fscore_support(labels, scores > 0, average="binary")
    for name, want in zip(("precision", "recall", "f1"), wanted, strict=False):
        assert measured(f"{name}_binary", scores, labels) == pytest.approx(want, abs=1e-15)


def test_confusion_matrix(backend, classes, binary):
    output, target = classes
    found = measured("confusion_matrix", output, target)
    want = sk.confusion_matrix(target, output.argmax(1), labels=range(7))
    np.testing.assert_array_equal(found, want)
    assert type(found) is np.ndarray and found.dtype == "int64"
    scores, labels = binary
    found = measured("confusion_matrix", scores, labels)
    np.testing.assert_array_equal(found, sk.confusion_matrix(labels, scores > 0))


def test_perplexity(backend, classes):
    output, target = classes
    want = math.exp(sk.log_loss(target, softmax(output), labels=range(7)))
    assert measured("perplexity", output, target) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("cls", [
    Accuracy, TopK, ConfusionMatrix, Precision, Recall, F1, Perplexity, AUROC])
def test_ignored_labels_do_not_count(backend, classes, cls):
    output, target = classes
    ignored = np.where(np.arange(100) % 3 == 0, -100, target)
    kept = ignored != -100
    want = measured(cls(), output[kept], target[kept])
    np.testing.assert_allclose(measured(cls(), output, ignored), want, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16"])
def test_labels_of_narrow_types(backend, rng, dtype):
    """Every metric of classification, with more classes than a uint8 can square."""
    labels = np.concatenate([np.arange(21), rng.integers(0, 21, 60)])
    scores = rng.standard_normal((81, 21))
    assert measured("f1", np.eye(21)[labels], labels.astype(dtype)) == 1
    for name in (*METRICS, "top5"):
        if isinstance(metric(name), ClassificationMetric) and "binary" not in name:
            np.testing.assert_array_equal(measured(name, scores, labels.astype(dtype)),
                                          measured(name, scores, labels), err_msg=name)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_scores_of_half_types(backend, dtype):
    """The sum of 90,000 losses is above the largest float16."""
    scores = gpuprop.zeros((90_000, 3)).astype(dtype)
    target = gpuprop.zeros(90_000, dtype="int64")
    for name, want in (("perplexity", 3), ("accuracy", 1), ("top1", 0)):
        measure = metric(name)
        measure.update(scores, target)
        assert measure.compute() == pytest.approx(want, rel=1e-3), name
    for name in ("mae", "rmse"):
        measure = metric(name)
        measure.update(scores[:, 0] + 1, gpuprop.zeros(90_000))
        assert measure.compute() == 1


# ---- ranking -------------------------------------------------------------------------------------


def test_auroc_and_average_precision_of_two_classes(backend, binary):
    scores, labels = binary
    both = np.stack([np.zeros(90), scores], axis=1)
    references = ((AUROC, sk.roc_auc_score), (AveragePrecision, sk.average_precision_score))
    for cls, reference in references:
        want = reference(labels, scores)
        for output in (scores, scores[:, None], both):
            assert measured(cls(), output, labels) == pytest.approx(want, abs=1e-14)
        assert measured(cls(), scores, labels.astype("float64")) == pytest.approx(want, abs=1e-14)


def test_auroc_and_average_precision_of_many_classes(backend, rng):
    output, target = rng.standard_normal((80, 4)), np.arange(80) % 4
    want = sk.roc_auc_score(target, softmax(output), multi_class="ovr")
    assert measured("auroc", output, target) == pytest.approx(want, abs=1e-14)
    want = sk.average_precision_score(target, softmax(output))
    assert measured("average_precision", output, target) == pytest.approx(want, abs=1e-14)


@pytest.mark.parametrize("cls", [AUROC, AveragePrecision])
def test_undefined_rankings_are_nan(backend, cls):
    assert math.isnan(measured(cls(), np.arange(4.0), np.ones(4, int)))
    assert math.isnan(measured(cls(), np.array([0, 1, np.nan]), np.array([0, 1, 1])))


# ---- regression ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(70,), (70, 1), (70, 3)])
def test_regression_metrics(backend, rng, shape):
    target = rng.standard_normal(shape) + 5
    output = target + 0.3 * rng.standard_normal(shape)
    references = {
        "mae": sk.mean_absolute_error, "rmse": sk.root_mean_squared_error, "r2": sk.r2_score}
    for name, reference in references.items():
        want = reference(target, output)
        assert measured(name, output, target) == pytest.approx(want, rel=1e-12)


def test_r2_far_from_zero(backend, rng):
    """Sums of squares would lose all digits."""
    target = 1e8 + rng.standard_normal(50)
    output = target + 0.1
    assert measured("r2", output, target) == pytest.approx(sk.r2_score(target, output), rel=1e-7)


def test_r2_of_a_constant(backend):
    flat = np.full(6, 2.0)
    assert measured("r2", flat, flat) == sk.r2_score(flat, flat) == 1
    assert measured("r2", flat + 1, flat) == sk.r2_score(flat, flat + 1) == 0
    assert math.isnan(measured("r2", flat[:1], flat[:1]))


# ---- names, state and errors ---------------------------------------------------------------------


def test_every_name():
    assert {metric(name).name for name in METRICS} == set(METRICS)
    assert metric("top3").k == 3 and metric("f1_micro").average == "micro"
    one = R2()
    assert metric(one) is one


def test_unknown_names():
    with pytest.raises(ValueError, match=r"unknown metric 'acuracy': .*accuracy, .*top5"):
        metric("acuracy")
    with pytest.raises(ValueError, match="average must be 'macro', 'micro'"):
        F1("weighted")


def test_no_batches():
    for name in [*METRICS, "top5"]:
        with pytest.raises(ValueError, match=f"{name}: no batches"):
            metric(name).compute()


def test_reset():
    measure = RMSE()
    measure.update(np.array([1.0]), np.array([3.0]))
    assert measure.compute() == 2
    measure.reset()
    measure.update(np.array([1.0]), np.array([2.0]))
    assert measure.compute() == 1


def test_wrong_shapes():
    with pytest.raises(ValueError, match=r"output \(4, 1\) and target \(3,\)"):
        Accuracy().update(np.zeros((4, 1)), np.zeros(3, int))
    with pytest.raises(ValueError, match=r"mae: output \(4, 1\) and target \(4,\)"):
        metric("mae").update(np.zeros((4, 1)), np.zeros(4))
    with pytest.raises(ValueError, match=r"auroc needs scores \(N, C\) or \(N,\)"):
        metric("auroc").update(np.zeros((4, 3, 2)), np.zeros((4, 2), int))
    with pytest.raises(ValueError, match=r"top5 needs scores"):
        metric("top5").update(np.zeros(4), np.zeros(4, int))


def test_a_loader_may_reuse_the_memory_of_labels():
    measure, target = AUROC(), np.array([0, 1])
    measure.update(np.array([0.0, 1.0]), target)
    target[...] = 0
    assert measure.compute() == 1
