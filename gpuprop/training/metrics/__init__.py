"""Measures of how good a model is: summed up on the device batch by batch, read once an epoch."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

from gpuprop.training.metrics._classes import (
    F1,
    Accuracy,
    ConfusionMatrix,
    Perplexity,
    Precision,
    Recall,
    TopK,
)
from gpuprop.training.metrics._metric import Metric
from gpuprop.training.metrics._numbers import MAE, R2, RMSE
from gpuprop.training.metrics._ranking import AUROC, AveragePrecision

METRICS: dict[str, Callable[[], Metric]] = {
    "accuracy": Accuracy, "confusion_matrix": ConfusionMatrix, "perplexity": Perplexity,
    "auroc": AUROC, "average_precision": AveragePrecision, "mae": MAE, "rmse": RMSE, "r2": R2,
    **{f"{name}{suffix}": functools.partial(cls, average)
       for name, cls in (("precision", Precision), ("recall", Recall), ("f1", F1))
       for suffix, average in (("", "macro"), ("_micro", "micro"), ("_binary", "binary"))},
}


def metric(what: str | Metric) -> Metric:
    """A metric by name, "top5" or one of `METRICS`; a Metric is itself."""
    if isinstance(what, Metric):
        return what
    top = re.fullmatch(r"top(\d+)", what) if isinstance(what, str) else None
    if top:
        return TopK(int(top[1]))
    if what not in METRICS:
        raise ValueError(f"unknown metric {what!r}; there are: {', '.join(METRICS)}, top5; or derive one from Metric")
    return METRICS[what]()
