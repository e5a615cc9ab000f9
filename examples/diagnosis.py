"""Diagnose breast cancer and diabetes from measurements, with calibrated probabilities.

Breast cancer: 569 tumours, 30 measurements of the nuclei of cells in an image (Wisconsin
Diagnostic, in scikit-learn).  Diabetes: 768 women of Pima heritage, 8 measurements, in which 0
stands for a missing one; this file is read from `--data` or GPUPROP_DATA if it is there.

Every patient is predicted by networks that have not seen her, in five folds.  A prediction is the
mean of an ensemble of small networks (Lakshminarayanan, Pritzel and Blundell, 2017).  A fifth of
each training set chooses the number of steps, and the temperature that divides the logits so that
probabilities are frequencies (Guo, Pleiss, Sun and Weinberger, 2017).  Logistic regression on the
same folds is the baseline.

    python examples/diagnosis.py [--data DIR] [--members 5] [--steps 300] [--seed 0]
                                 [--backend cpu|cuda|auto] [--out out]

The script prints the area under the ROC curve (AUROC), the sensitivity at a specificity of 95 %,
and the Brier score, the mean squared error of the probabilities.  It draws the ROC curves and the
calibration, `out`/diagnosis.png, and saves the networks of the last fold, for example
`out`/diagnosis_breast_cancer.safetensors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from command_line import parse_arguments
from figures import Figure, record
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, roc_auc_score, roc_curve
from sklearn.model_selection import StratifiedKFold, train_test_split

import gpuprop
import gpuprop.functional as F
from gpuprop import nn, optim
from gpuprop.data import ArrayDataset, DataLoader

FOLDS = 5
MISSING = slice(1, 6)  # the columns of the diabetes data in which 0 is no measurement


class Task(NamedTuple):
    """Measurements (N, C), NaN where one is missing, and the diagnoses (N,), 1 for the disease."""

    name: str
    x: np.ndarray
    y: np.ndarray


class Prediction(NamedTuple):
    """The probability of the disease for each patient."""

    model: str
    p: np.ndarray


def load_tasks(folder: str | None) -> list[Task]:
    data = load_breast_cancer()
    tasks = [Task("breast cancer", data.data, 1 - data.target)]
    for path in (Path(folder or ".") / "pima-indians-diabetes.csv",
                 Path(folder or ".") / "medical_tabular" / "pima-indians-diabetes.csv"):
        if path.exists():
            table = np.loadtxt(path, delimiter=",")
            measured = table[:, MISSING]
            measured[measured == 0] = np.nan
            tasks.append(Task("diabetes", table[:, :-1], table[:, -1].astype("int64")))
            break
    return tasks


def standardized(x: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Scaled by the statistics of the rows `train`; missing values become 0, their mean."""
    z = (x - np.nanmean(x[train], axis=0)) / np.nanstd(x[train], axis=0)
    return np.nan_to_num(z).astype("float32")


# ---- the networks --------------------------------------------------------------------------------


def network(inputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 1),
                         nn.Flatten(0))


def run() -> tuple:
    """(model, step, batches) of the training on all patients, as `gpuprop verify` takes it."""
    task = load_tasks(None)[0]
    x = standardized(task.x, np.arange(len(task.x)))
    return training(x, task.y)


def training(x: np.ndarray, y: np.ndarray) -> tuple:
    model = network(x.shape[1])
    optimizer = optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return model, step, DataLoader(ArrayDataset(x, y.astype("float32")), 64, shuffle=True)


def logits_of(model: nn.Module, x: np.ndarray) -> np.ndarray:
    model.eval()
    with gpuprop.no_grad():
        return model(gpuprop.tensor(x)).numpy().astype("float64")


def log_loss(logits: np.ndarray, y: np.ndarray) -> float:
    return float(np.mean(np.logaddexp(0, np.where(y == 1, -logits, logits))))


def fitted(x: np.ndarray, y: np.ndarray, held: np.ndarray, held_y: np.ndarray,
           steps: int) -> nn.Module:
    """A network with the weights that have the least loss on the held patients."""
    model, step, batches = training(x, y)
    best, best_state = np.inf, model.state_dict()
    done = 0
    while done < steps:
        model.train()
        for batch in batches:
            step(*batch)
            done += 1
        loss = log_loss(logits_of(model, held), held_y)
        if loss < best:
            best, best_state = loss, model.state_dict()
    model.load_state_dict(best_state)
    return model


def temperature(logits: np.ndarray, y: np.ndarray) -> float:
    """The number that the logits are divided by for the least loss."""
    candidates = np.geomspace(0.25, 4, 81)
    return float(min(candidates, key=lambda t: log_loss(logits / t, y)))


def predict(task: Task, members: int, steps: int, seed: int) -> tuple[list[Prediction], list]:
    """The predictions of logistic regression and of ensembles, and the networks of a fold."""
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    baseline = np.empty(len(task.y))
    ensemble = np.empty(len(task.y))
    models: list[nn.Module] = []
    for i, (train, test) in enumerate(folds.split(task.x, task.y), 1):
        x = standardized(task.x, train)
        regression = LogisticRegression(max_iter=1000).fit(x[train], task.y[train])
        baseline[test] = regression.predict_proba(x[test])[:, 1]
        own, held = train_test_split(train, test_size=0.2, stratify=task.y[train],
                                     random_state=seed)
        models = [fitted(x[own], task.y[own], x[held], task.y[held], steps)
                  for _ in range(members)]
        mean = lambda rows, x=x, models=models: np.mean(
            [logits_of(model, x[rows]) for model in models], axis=0)
        t = temperature(mean(held), task.y[held])
        ensemble[test] = 1 / (1 + np.exp(-mean(test) / t))
        print(f"{task.name}: fold {i}/{FOLDS}, temperature {t:.2f}, "
              f"AUROC {roc_auc_score(task.y[test], ensemble[test]):.4f}", flush=True)
    return [Prediction("logistic regression", baseline), Prediction("ensemble", ensemble)], models


# ---- results -------------------------------------------------------------------------------------


def sensitivity(y: np.ndarray, p: np.ndarray, specificity: float = 0.95) -> float:
    """The share of the ill that is found if at least this share of the healthy is let go."""
    false_positive, true_positive, _ = roc_curve(y, p)
    return float(true_positive[false_positive <= 1 - specificity].max())


MEASURES = {"AUROC": roc_auc_score, "sensitivity at a specificity of 95 %": sensitivity,
            "Brier score": brier_score_loss}


def draw(path: Path, results: list[tuple[Task, list[Prediction]]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2 * len(results)), layout="constrained")
    panels = figure.subplots(len(results), 2, squeeze=False)
    for (task, predictions), (roc, calibration) in zip(results, panels, strict=True):
        for model, p in predictions:
            roc.plot(*roc_curve(task.y, p)[:2], label=model)
            groups = np.array_split(np.argsort(p), 10)
            calibration.plot([p[g].mean() for g in groups], [task.y[g].mean() for g in groups],
                             "o-", label=model)
        calibration.plot([0, 1], [0, 1], "--", color="gray")
        roc.set(title=f"{task.name}: ROC", xlabel="false positives", ylabel="true positives")
        calibration.set(title=f"{task.name}: calibration", xlabel="predicted probability",
                        ylabel="frequency of the disease")
        roc.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    args = parse_arguments(__doc__, members=5, steps=300)
    backend = gpuprop.use(args.backend).backend
    gpuprop.manual_seed(args.seed)
    print(f"backend {backend.name!r}")
    results = []
    args.out.mkdir(parents=True, exist_ok=True)
    for task in load_tasks(args.data):
        predictions, models = predict(task, args.members, args.steps, args.seed)
        results.append((task, predictions))
        states = {f"{i}.{name}": value for i, model in enumerate(models)
                  for name, value in model.state_dict().items()}
        gpuprop.save(args.out / f"diagnosis_{task.name.replace(' ', '_')}.safetensors", states)
    draw(args.out / "diagnosis.png", results)
    record(args.record, *(
        Figure(f"{task.name}, {what}", measure(task.y, ensemble.p), 4,
               {baseline.model: measure(task.y, baseline.p)})
        for task, (baseline, ensemble) in results for what, measure in MEASURES.items()))
    for task, predictions in results:
        for model, p in predictions:
            print(f"{task.name}, {model}: AUROC {roc_auc_score(task.y, p):.4f}, sensitivity "
                  f"{sensitivity(task.y, p):.3f}, Brier score {brier_score_loss(task.y, p):.4f}")


if __name__ == "__main__":
    main()
