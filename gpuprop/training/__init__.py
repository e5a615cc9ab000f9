"""The Trainer, which runs the training loop, and its callbacks, metrics and history."""

from gpuprop.training._callbacks import Callback, Checkpoint, EarlyStopping, HistoryLogger
from gpuprop.training._history import History
from gpuprop.training._trainer import Trainer
from gpuprop.training.metrics import (
    AUROC,
    F1,
    MAE,
    METRICS,
    R2,
    RMSE,
    Accuracy,
    AveragePrecision,
    ConfusionMatrix,
    Metric,
    Perplexity,
    Precision,
    Recall,
    TopK,
)

__all__ = [
    "AUROC", "F1", "MAE", "METRICS", "R2", "RMSE", "Accuracy", "AveragePrecision", "Callback",
    "Checkpoint", "ConfusionMatrix", "EarlyStopping", "History", "HistoryLogger", "Metric",
    "Perplexity", "Precision", "Recall", "TopK", "Trainer",
]
