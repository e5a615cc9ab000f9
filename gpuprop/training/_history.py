"""What happened in each epoch of a run, as rows of numbers, and their curves."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from typing import Any

from gpuprop.io._files import replacing

ASIDE = ("epoch", "seconds", "lr")  # columns that are no curves


class History:
    """One row an epoch, a dict: epoch, seconds, lr, loss, metrics, and those of the validation after ``val_``.

    ``history["val_loss"]`` is a column, ``history[-1]`` a row; `interrupted` says that ctrl-C ended the last fit.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.interrupted = False

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    def __getitem__(self, key: str | int) -> Any:
        if not isinstance(key, str):
            return self.rows[key]
        if key not in self.columns:
            raise KeyError(f"no column {key!r}; there are: {', '.join(self.columns) or 'none yet'}")
        return [row.get(key) for row in self.rows]

    @property
    def columns(self) -> list[str]:
        """The names of all that was noted."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def to_csv(self, path: str | os.PathLike) -> None:
        """A table with a line of names; matrices are not in it."""
        numbers = [name for name in self.columns if not any(isinstance(row.get(name), list) for row in self.rows)]
        with replacing(path) as file:
            table = csv.DictWriter(file, numbers, extrasaction="ignore", lineterminator="\n")
            table.writeheader()
            table.writerows(self.rows)

    def to_json(self, path: str | os.PathLike) -> None:
        """An object with the rows, and whether the run was interrupted."""
        with replacing(path) as file:
            json.dump({"interrupted": self.interrupted, "rows": self.rows}, file, indent=1)

    def to_jsonl(self, path: str | os.PathLike) -> None:
        """One object a line, and a line an epoch."""
        with replacing(path) as file:
            file.writelines(json.dumps(row) + "\n" for row in self.rows)

    def plot(self, path: str | os.PathLike | None = None) -> Any:
        """Learning curves of the loss and of every metric, training beside validation: matplotlib's Figure.

        With `path` also a picture, of the kind that its ending says.  Raises ImportError where matplotlib is missing.
        """
        try:
            from matplotlib.figure import Figure
            from matplotlib.ticker import MaxNLocator
        except ImportError as error:
            raise ImportError('learning curves need matplotlib: pip install "gpuprop[train]"') from error
        names = [n for n in self.columns if n not in ASIDE and not isinstance(self.rows[-1].get(n), list)]
        curves = list(dict.fromkeys(name.removeprefix("val_") for name in names))
        if not curves:
            raise ValueError("nothing to plot: the history has no epochs yet")
        figure = Figure(figsize=(5.2 * len(curves), 4), dpi=120, layout="constrained")
        for axes, name in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves, strict=True):
            for column, label, color in ((name, "train", "#3b6ea5"), (f"val_{name}", "validation", "#d1603d")):
                if column in names:
                    axes.plot(self["epoch"], self[column], color=color, linewidth=1.8, marker="o" * (len(self) < 20),
                              markersize=4, label=f"{label}, {self[column][-1]:.3g} at last")
            axes.set(title=name.replace("_", " "), xlabel="epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(frameon=False)
        if path is not None:
            ending = os.path.splitext(path)[1].removeprefix(".") or "png"
            with replacing(path, binary=True) as file:
                figure.savefig(file, format=ending)
        return figure

    def __repr__(self) -> str:
        if not self.rows:
            return "History(no epochs yet)"
        return f"History({len(self)} epochs{', interrupted' * self.interrupted}; {describe(self.rows[-1])})"


def describe(row: dict[str, Any]) -> str:
    """What was measured in an epoch, as text."""
    return ", ".join(f"{name} {value:.4g}" for name, value in row.items()
                     if name not in ASIDE and isinstance(value, int | float))
