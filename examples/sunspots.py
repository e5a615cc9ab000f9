"""Forecast sunspots three years ahead and temperatures a week ahead, with intervals.

Sunspots: monthly means, 1749 to 1983, with cycles of about eleven years.  Temperatures: daily
minima in Melbourne, 1981 to 1990.  A network reads the last values and returns three quantiles of
each of the next ones, 10 %, 50 % and 90 %, because the loss is the quantile loss (Koenker and
Bassett, 1978): half of the values should be below the middle one, and four fifths between the
others.  The first 60 % of a series are for training, the next 20 % choose the number of epochs, and
the last 20 % are the test set: the network never sees a value after the time of its forecast.

    python examples/sunspots.py [--data DIR] [--epochs 60] [--seed 0] [--backend cpu|cuda|auto]
                                [--out out]

The mean absolute error of the 50 % quantile is printed beside those of persistence, the last value
that is known, and of the value one period earlier, eleven years or one year.  The script reads the
files from `--data` or GPUPROP_DATA, or downloads them once.  It draws forecasts of the test set,
`out`/sunspots.png and `out`/temperatures.png, and saves the networks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from command_line import parse_arguments
from figures import Figure, record
from texts import find_or_download

import gpuprop
import gpuprop.functional as F
from gpuprop import nn, optim
from gpuprop.data import ArrayDataset, DataLoader

SOURCE = "https://raw.githubusercontent.com/jbrownlee/Datasets/master/"
QUANTILES = np.array([0.1, 0.5, 0.9], "float32")


class Series(NamedTuple):
    """A series, how much of it a forecast reads, and how far it looks ahead."""

    name: str
    file: str
    sha256: str
    unit: str
    period: int
    window: int
    horizon: int
    power: float  # of the values, so that the noise is of the same size everywhere


SERIES = [
    Series("sunspots", "monthly-sunspots.csv",
           "c4ec8cc57d9f6fb6ecdb3e1f37f25b6f4badd5124c55931052b0cd2fc3bc71f3",
           "sunspots", 132, 264, 36, 0.5),
    Series("temperatures", "daily-min-temperatures.csv",
           "8b9de63ed6789492bf497625e7f9beb96a63d367b4b0a21754006f749fa5e5da",
           "°C", 365, 380, 7, 1.0),
]


def read_values(path: Path) -> np.ndarray:
    """The numbers in the second column; a question mark before a number is left out."""
    lines = path.read_text().splitlines()[1:]
    rows = [line.split(",") for line in lines if "," in line]
    return np.array([float(row[1].strip('?"')) for row in rows])


class Windows(NamedTuple):
    """The values before and after each time of forecast; all values are in a part of the series."""

    past: np.ndarray  # (N, window)
    future: np.ndarray  # (N, horizon)


def windows(values: np.ndarray, s: Series, first: int, end: int) -> Windows:
    """The forecasts whose values are at the places from `first` to `end`."""
    begin = max(0, first - s.window)
    rows = np.lib.stride_tricks.sliding_window_view(values[begin:end], s.window + s.horizon)
    return Windows(rows[:, :s.window], rows[:, s.window:])


class Forecaster(nn.Module):
    """Maps past values (N, window) to quantiles (N, horizon, 3) in ascending order."""

    def __init__(self, s: Series, width: int = 128) -> None:
        super().__init__()
        self.horizon = s.horizon
        self.net = nn.Sequential(
            nn.Linear(s.window, width), nn.GELU(), nn.Dropout(0.2), nn.Linear(width, width),
            nn.GELU(), nn.Dropout(0.2), nn.Linear(width, 3 * s.horizon))

    def forward(self, past: Any) -> Any:
        out = self.net(past).reshape(-1, self.horizon, 3)
        middle = past[:, -1:] + out[..., 1]
        below, above = F.softplus(out[..., 0]), F.softplus(out[..., 2])
        return gpuprop.stack([middle - below, middle, middle + above], axis=-1)


def quantile_loss(quantiles: Any, future: Any) -> Any:
    """``mean(max(q (y - f), (q - 1) (y - f)))`` of the forecasts f of all quantiles q."""
    error = future[..., None] - quantiles
    levels = gpuprop.tensor(QUANTILES)
    return gpuprop.maximum(levels * error, (levels - 1) * error).mean()


def run(data: Windows | None = None, s: Series = SERIES[1]) -> tuple:
    """(model, step, batches) of the training, as `gpuprop verify` takes it."""
    if data is None:  # a wave with noise
        t = np.arange(800)
        noise = gpuprop.random.normal((800,)).numpy()
        data = windows(np.sin(2 * np.pi * t / s.period) + 0.1 * noise, s, s.window, len(t))
    model = Forecaster(s)
    optimizer = optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)

    def step(past: Any, future: Any) -> Any:
        optimizer.zero_grad()
        loss = quantile_loss(model(past), future)
        loss.backward()
        optimizer.step()
        return loss

    arrays = [np.array(a, "float32") for a in data]
    return model, step, DataLoader(ArrayDataset(*arrays), 64, shuffle=True)


def predict(model: nn.Module, past: np.ndarray) -> np.ndarray:
    model.eval()
    with gpuprop.no_grad():
        return model(gpuprop.tensor(past.astype("float32"))).numpy()


def train(train: Windows, held: Windows, s: Series, epochs: int) -> nn.Module:
    """A network with the weights of the epoch that has the least loss on the held values."""
    model, step, batches = run(train, s)
    best, best_state = np.inf, model.state_dict()
    for epoch in range(1, epochs + 1):
        model.train()
        mean = np.mean([step(*batch).item() for batch in batches])
        with gpuprop.no_grad():
            quantiles = gpuprop.tensor(predict(model, held.past))
            loss = quantile_loss(quantiles, gpuprop.tensor(held.future.astype("float32"))).item()
        if loss < best:
            best, best_state = loss, model.state_dict()
        if epoch % max(1, epochs // 10) == 0:
            print(f"{s.name}: epoch {epoch:3d}/{epochs}: loss {mean:.4f}, held {loss:.4f}, "
                  f"best {best:.4f}", flush=True)
    model.load_state_dict(best_state)
    return model


def draw(path: Path, s: Series, values: np.ndarray, first: int, quantiles: np.ndarray) -> None:
    """The test set, and forecasts that do not overlap."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    axes = figure.subplots()
    shown = values[first:first + 20 * s.horizon]
    axes.plot(shown, color="black", linewidth=0.8, label="measured")
    for i in range(0, min(len(shown), len(quantiles)), s.horizon):
        t = np.arange(i, i + s.horizon)
        low, middle, high = quantiles[i].T
        axes.fill_between(t, low, high, alpha=0.3, color="tab:blue")
        axes.plot(t, middle, color="tab:blue", label="forecast, 80 % interval" if not i else None)
    axes.set(title=f"{s.name}: each forecast knows the values before its left end",
             ylabel=s.unit, xlabel="months" if s.name == "sunspots" else "days")
    axes.legend()
    figure.savefig(path, dpi=120)


def forecast(s: Series, path: Path, epochs: int, out: Path) -> list[Figure]:
    """Train, test and draw."""
    values = read_values(path)
    first, second = int(0.6 * len(values)), int(0.8 * len(values))
    scaled = values**s.power
    mean, scale = scaled[:first].mean(), scaled[:first].std()
    scaled = (scaled - mean) / scale
    parts = [windows(scaled, s, begin, end) for begin, end in (
        (s.window, first), (first, second), (second, len(values)))]
    model = train(parts[0], parts[1], s, epochs)
    test = windows(values, s, second, len(values))
    quantiles = np.maximum(predict(model, parts[2].past) * scale + mean, 0)**(1 / s.power)
    error = lambda found: float(np.abs(found - test.future).mean())
    inside = (quantiles[..., 0] <= test.future) & (test.future <= quantiles[..., 2])
    earlier = test.past[:, s.window - s.period:][:, :s.horizon]
    gpuprop.save(out / f"{s.name}.safetensors", model.state_dict())
    draw(out / f"{s.name}.png", s, values, second, quantiles)
    return [Figure(f"{s.name}: mean absolute error, {s.unit}", error(quantiles[..., 1]), 2,
                   {"persistence": error(test.past[:, -1:]),
                    "one period earlier": error(earlier)}),
            Figure(f"{s.name}: in the 80 % interval, %", 100 * float(inside.mean()), 1)]


def main() -> None:
    args = parse_arguments(__doc__, epochs=60)
    paths = [find_or_download(args.data, "timeseries", SOURCE + s.file, s.sha256) for s in SERIES]
    backend = gpuprop.use(args.backend).backend
    gpuprop.manual_seed(args.seed)
    print(f"backend {backend.name!r}")
    args.out.mkdir(parents=True, exist_ok=True)
    figures = [figure for s, path in zip(SERIES, paths, strict=True)
               for figure in forecast(s, path, args.epochs, args.out)]
    record(args.record, *figures)
    print(*figures, sep="\n")


if __name__ == "__main__":
    main()
