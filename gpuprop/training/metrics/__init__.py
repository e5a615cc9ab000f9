"""Metrics: accumulated on the device batch by batch, read once per epoch."""

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

__all__ = [
    "AUROC", "F1", "MAE", "METRICS", "R2", "RMSE", "Accuracy", "AveragePrecision",
    "ConfusionMatrix", "Metric", "Perplexity", "Precision", "Recall", "TopK", "metric",
]

METRICS: dict[str, Callable[[], Metric]] = {
    "accuracy": Accuracy,
    "confusion_matrix": ConfusionMatrix,
    "perplexity": Perplexity,
    "auroc": AUROC,
    "average_precision": AveragePrecision,
    "mae": MAE,
    "rmse": RMSE,
    "r2": R2,
}
for _name, _cls in (("precision", Precision), ("recall", Recall), ("f1", F1)):
    METRICS[_name] = _cls
    METRICS[f"{_name}_micro"] = functools.partial(_cls, "micro")
    METRICS[f"{_name}_binary"] = functools.partial(_cls, "binary")


def metric(name: str | Metric) -> Metric:
    """Return a new metric by its name: one of `METRICS`, or "top" and a number, such as "top5".

    A Metric is returned unchanged.
    """
    if isinstance(name, Metric):
        return name
    top = re.fullmatch(r"top(\d+)", name) if isinstance(name, str) else None
    if top:
        return TopK(int(top[1]))
    if name not in METRICS:
        raise ValueError(f"unknown metric {name!r}: expected {', '.join(METRICS)}, top5 (or "
                         f"another number), or a Metric object")
    return METRICS[name]()
