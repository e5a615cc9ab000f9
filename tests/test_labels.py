"""Labels and indices: out of range, of a wrong dtype or shape.  Each call says which, and where."""

import numpy as np
import pytest

import gpuprop
import gpuprop.functional as F
from gpuprop import nn, training


def x():
    return gpuprop.ones(3, 4)


def log_probs():
    return F.log_softmax(gpuprop.ones(5, 3, 4), -1)


LABELED = {  # name -> call with the labels of 3 samples, 4 classes
    "cross_entropy": lambda t: F.cross_entropy(x(), t),
    "nll_loss": lambda t: F.nll_loss(x(), t),
    "linear_cross_entropy": lambda t: F.linear_cross_entropy(x(), gpuprop.ones(4, 4), t),
    "multi_margin_loss": lambda t: F.multi_margin_loss(x(), t),
    "AdaptiveLogSoftmaxWithLoss": lambda t: nn.AdaptiveLogSoftmaxWithLoss(4, 4, [2])(x(), t),
    "accuracy": lambda t: training.Accuracy().update(x(), t),
    "f1": lambda t: training.F1().update(x(), t),
    "precision": lambda t: training.Precision().update(x(), t),
    "recall": lambda t: training.Recall().update(x(), t),
    "top2": lambda t: training.TopK(2).update(x(), t),
    "confusion_matrix": lambda t: training.ConfusionMatrix().update(x(), t),
    "auroc": lambda t: training.AUROC().update(x(), t),
    "average_precision": lambda t: training.AveragePrecision().update(x(), t),
}
INDEXED = {  # name -> call with indices (3,) of 4 rows or elements
    "one_hot": lambda i: F.one_hot(i, 4),
    "embedding": lambda i: F.embedding(i, x().T),
    "embedding_bag": lambda i: F.embedding_bag(i, x().T, gpuprop.tensor([0])),
    "take": lambda i: gpuprop.take(x(), i, 1),
    "index_select": lambda i: gpuprop.index_select(x(), 1, i),
    "take_along_axis": lambda i: gpuprop.take_along_axis(x(), i[:, None], 1),
    "gather": lambda i: gpuprop.gather(x(), 1, i[:, None]),
    "scatter_add": lambda i: gpuprop.scatter_add(x(), 1, i[:, None], x()[:, :1]),
    "index_add": lambda i: gpuprop.index_add(x(), 1, i, x()[:, :3]),
    "ctc_loss": lambda i: F.ctc_loss(log_probs(), i[:, None], [5, 5, 5], [1, 1, 1]),
}
CALLS = LABELED | INDEXED
OTHER_NAMES = {"embedding_bag": "embedding", "index_select": "take"}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", ["int64", "uint8", "int32"])
@pytest.mark.parametrize("wrong", [9, 4, -7])
def test_out_of_range(name, dtype, wrong):
    if wrong < 0 and dtype == "uint8":
        return
    labels = np.array([0, wrong, 1]).astype(dtype)
    with pytest.raises(IndexError, match=rf"got {wrong} at index \(1") as error:
        CALLS[name](gpuprop.tensor(labels))
    assert OTHER_NAMES.get(name, name) in str(error.value)
    assert "4" in str(error.value)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", ["float32", "bool"])
def test_no_integers(name, dtype):
    with pytest.raises(TypeError, match=f"integer.*{dtype}") as error:
        CALLS[name](gpuprop.tensor(np.array([0, 1, 1], dtype)))
    assert OTHER_NAMES.get(name, name) in str(error.value) or name == "embedding_bag"


@pytest.mark.parametrize("name", LABELED)
@pytest.mark.parametrize("shape", [(2,), (4,), (1, 3)])
def test_other_shapes(name, shape):
    with pytest.raises(ValueError, match=r"shape|match|labels|expected"):
        CALLS[name](gpuprop.zeros(*shape, dtype="int64"))


@pytest.mark.parametrize("name", CALLS)
def test_ignored_and_valid_labels(name):
    CALLS[name](gpuprop.tensor([0, 3, 1]))
    if name in LABELED and name not in ("multi_margin_loss", "AdaptiveLogSoftmaxWithLoss"):
        CALLS[name](gpuprop.tensor([0, -100, 1]))


def test_indices_of_tensors():
    t = x()
    for read in (lambda: t[7], lambda: t[np.array([0, 7])], lambda: t[:, -9], lambda: t[[0, 7]]):
        with pytest.raises(IndexError, match=r"(7|-9) is out of bounds for axis . with size"):
            read()


@pytest.mark.parametrize("name", CALLS)
def test_on_a_device(name):
    """A device finds the same, when a value is next read: nothing waits before."""
    with gpuprop.use("strict"):
        labels = gpuprop.tensor([0, 9, 1])
        with gpuprop.no_sync():
            CALLS[name](labels)
        messages = []
        while len(messages) < 5:  # a call may check its labels in several ops
            try:
                gpuprop.ones(1).numpy()
                break
            except IndexError as error:
                messages.append(str(error))
    assert any("out of range" in message for message in messages)
