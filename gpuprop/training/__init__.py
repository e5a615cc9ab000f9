"""Training without writing the loop: the Trainer, its callbacks, metrics and the history of a run."""

from gpuprop.training.callbacks import Callback, Checkpoint, EarlyStopping, Log
from gpuprop.training.history import History
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
from gpuprop.training.trainer import Trainer

__all__ = [
    "AUROC", "F1", "MAE", "METRICS", "R2", "RMSE", "Accuracy", "AveragePrecision", "Callback", "Checkpoint",
    "ConfusionMatrix", "EarlyStopping", "History", "Log", "Metric", "Perplexity", "Precision", "Recall", "TopK",
    "Trainer",
]
