"""Forecast the VIX a week ahead and the S&P 500 a month ahead, and say honestly whether it works.

The VIX, daily from 1990 on, is the volatility that prices of options imply.  Its logarithm is
forecast from its values of the last day, week and month, as in the linear model HAR (Corsi, 2009),
and from the last 22 days.  The S&P 500, monthly from 1871 on (R. Shiller's data), is forecast from
the last twelve returns, dividend yield, earnings yield and interest rate.

The first 60 % of a series are for training, the next 20 % choose the number of epochs, and the last
20 % are the test set.  The network starts from the least squares of the linear model and learns
what it lacks.  The measure is the out-of-sample R^2 of Campbell and Thompson (2008): 1 minus the
squared error divided by that of persistence (VIX) or of the mean of all earlier returns (S&P 500);
negative is worse than these.

    python examples/volatility.py [--data DIR] [--epochs 40] [--seed 0]
                                  [--backend cpu|cuda|auto] [--out out]

The script reads vix-daily.csv and sp500-monthly.csv from `--data` or GPUPROP_DATA.  Their
publishers add rows, so there is no download that a checksum could check.  It draws forecasts of the
test set, `out`/volatility.png, and saves the networks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from command_line import parse_arguments
from figures import Figure, record
from texts import find

import gpuprop
import gpuprop.functional as F
from gpuprop import nn, optim
from gpuprop.data import ArrayDataset, DataLoader

PUBLISHERS = "they are on datahub.io as core/finance-vix and core/s-and-p-500"
MEMBERS = 5  # networks, whose forecasts are averaged


class Task(NamedTuple):
    """Features (N, C) known at a time, what follows (N,), and the forecast to be beaten (N,)."""

    name: str
    x: np.ndarray
    y: np.ndarray
    simple: np.ndarray
    linear: list[int]  # the features of the linear model


def read_columns(path: Path, *names: str) -> list[np.ndarray]:
    head, *lines = path.read_text().splitlines()
    rows = [line.split(",") for line in lines]
    return [np.array([float(row[head.split(",").index(name)]) for row in rows]) for name in names]


def vix_task(path: Path, horizon: int = 5) -> Task:
    close, = read_columns(path, "CLOSE")
    log = np.log(close)
    last = np.lib.stride_tricks.sliding_window_view(log, 22)[:-horizon]
    x = np.column_stack([last[:, -1], last[:, -5:].mean(axis=1), last.mean(axis=1), last])
    return Task("VIX, a week ahead", x, log[21 + horizon:], last[:, -1], [0, 1, 2])


def sp500_task(path: Path) -> Task:
    price, dividend, earnings, rate = read_columns(
        path, "SP500", "Dividend", "Earnings", "Long Interest Rate")
    known = (dividend > 0) & (earnings > 0)  # the newest months have none yet
    price, dividend, earnings, rate = (a[known] for a in (price, dividend, earnings, rate))
    returns = np.diff(np.log(price))
    last = np.lib.stride_tricks.sliding_window_view(returns, 12)[:-1]
    now = slice(12, len(price) - 1)  # the month at which each window ends
    x = np.column_stack([np.log(dividend / price)[now], np.log(earnings / price)[now], rate[now],
                         last[:, -1], last])
    earlier = np.cumsum(returns) / np.arange(1, len(returns) + 1)
    return Task("S&P 500, a month ahead", x, returns[12:], earlier[11:-1], [0, 1, 2, 3])


# ---- models --------------------------------------------------------------------------------------


def least_squares(x: np.ndarray, y: np.ndarray, rows: slice) -> np.ndarray:
    """The forecasts (N,) of a linear model that is fitted to some rows."""
    terms = np.column_stack([np.ones(len(x)), x])
    return terms @ np.linalg.lstsq(terms[rows], y[rows], rcond=None)[0]


def run(x: Any = None, y: Any = None) -> tuple:
    """(model, step, batches) of the training, as `gpuprop verify` takes it."""
    if x is None:
        x = gpuprop.random.normal((300, 25)).numpy()
        y = x[:, 0] * x[:, 1]
    model = nn.Sequential(nn.Linear(x.shape[1], 32), nn.Tanh(), nn.Dropout(0.3), nn.Linear(32, 1),
                          nn.Flatten(0))
    optimizer = optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return model, step, DataLoader(ArrayDataset(x.astype("float32"), y.astype("float32")), 64,
                                   shuffle=True)


def outputs(model: nn.Module, x: np.ndarray) -> np.ndarray:
    model.eval()
    with gpuprop.no_grad():
        return model(gpuprop.tensor(x.astype("float32"))).numpy()


def correction(z: np.ndarray, lack: np.ndarray, train: slice, held: slice,
               epochs: int) -> tuple[np.ndarray, nn.Module, int]:
    """What a network adds to the linear model (N,), the network, and its best epoch."""
    scale = lack[train].std()
    model, step, batches = run(z[train], lack[train] / scale)
    best, best_epoch, best_output = np.mean(lack[held]**2), 0, np.zeros(len(z))
    best_state = model.state_dict()
    for epoch in range(1, epochs + 1):
        model.train()
        for batch in batches:
            step(*batch)
        output = outputs(model, z) * scale
        error = np.mean((output - lack)[held]**2)
        if error < best:
            best, best_epoch, best_output, best_state = error, epoch, output, model.state_dict()
    model.load_state_dict(best_state)
    return best_output, model, best_epoch


def out_of_sample(y: np.ndarray, forecast: np.ndarray, simple: np.ndarray) -> float:
    """The R^2 of Campbell and Thompson."""
    return float(1 - np.sum((y - forecast)**2) / np.sum((y - simple)**2))


def forecast(task: Task, epochs: int, out: Path) -> tuple[dict[str, np.ndarray], slice]:
    """The forecasts of all models by name, and the rows of the test set."""
    n = len(task.y)
    train, held, test = slice(int(0.6 * n)), slice(int(0.6 * n), int(0.8 * n)), slice(
        int(0.8 * n), n)
    linear = least_squares(task.x[:, task.linear], task.y, train)
    z = (task.x - task.x[train].mean(axis=0)) / task.x[train].std(axis=0)
    found = [correction(z, task.y - linear, train, held, epochs) for _ in range(MEMBERS)]
    print(f"{task.name}: best epochs {[epoch for *_, epoch in found]} "
          f"(0: nothing is added to the linear model)", flush=True)
    name = task.name.split(",")[0].replace(" ", "_").replace("&", "and")
    states = {f"{i}.{key}": value for i, (_, model, _) in enumerate(found)
              for key, value in model.state_dict().items()}
    gpuprop.save(out / f"volatility_{name}.safetensors", states)
    network = linear + np.mean([added for added, *_ in found], axis=0)
    return {"linear model": linear, "network": network}, test


def draw(path: Path, results: list) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.2 * len(results)), layout="constrained")
    for axes, (task, forecasts, test) in zip(figure.subplots(len(results)), results, strict=True):
        shown = slice(max(test.start, test.stop - 500), test.stop)
        axes.plot(task.y[shown], color="black", linewidth=0.8, label="measured")
        for name, values in forecasts.items():
            axes.plot(values[shown], linewidth=1, label=name)
        axes.set(title=task.name, ylabel="log VIX" if "VIX" in task.name else "log return")
        axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    args = parse_arguments(__doc__, epochs=40)
    if not args.data:
        raise SystemExit("give the folder of vix-daily.csv and sp500-monthly.csv with --data or "
                         f"GPUPROP_DATA; {PUBLISHERS}")
    vix = find(args.data, "finance", "vix-daily.csv")
    sp500 = find(args.data, "finance", "sp500-monthly.csv")
    backend = gpuprop.use(args.backend).backend
    gpuprop.manual_seed(args.seed)
    print(f"backend {backend.name!r}")
    args.out.mkdir(parents=True, exist_ok=True)
    results = []
    for task in (vix_task(vix), sp500_task(sp500)):
        results.append((task, *forecast(task, args.epochs, args.out)))
    draw(args.out / "volatility.png", results)
    figures = []
    for task, forecasts, test in results:
        r2 = {name: out_of_sample(task.y[test], values[test], task.simple[test])
              for name, values in forecasts.items()}
        figures.append(Figure(f"{task.name}: out-of-sample R^2", r2["network"], 4,
                              {"linear model": r2["linear model"], "simple forecast": 0.0}))
        verdict = "better" if r2["network"] > max(0, r2["linear model"]) else "not better"
        print(f"{task.name}: out-of-sample R^2 {r2['network']:+.4f}, linear model "
              f"{r2['linear model']:+.4f}, 0 for the simple forecast: the network is {verdict}")
    record(args.record, *figures)


if __name__ == "__main__":
    main()
