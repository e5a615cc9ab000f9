"""The history of a run: one row of results per epoch, files and learning curves."""

from __future__ import annotations

import copy
import csv
import json
import math
import os
from collections.abc import Iterator
from typing import Any

from gpuprop._core.checks import as_instance, as_integer, as_number
from gpuprop._core.loading import as_entries
from gpuprop._core.tensor import asnumpy
from gpuprop._core.tree import tree_leaves, tree_map
from gpuprop.io._files import replacing

NOT_MEASURED = ("epoch", "seconds", "lr")  # columns that are neither losses nor metrics
COLORS = {"train": "#3b6ea5", "validation": "#d1603d"}


class History:
    """The results of a run, one row (a dict) per epoch.

    The columns are epoch, seconds, lr, loss and the metrics; with validation also val_loss and the
    metrics with the prefix val_.  ``history[-1]`` is the last row, and ``history["val_loss"]`` a
    column: a list with None for epochs that lack it.  `interrupted` is True if ctrl-C ended the
    last `fit`.

    >>> from gpuprop.training import History
    >>> history = History()
    >>> history.rows.append({"epoch": 1, "seconds": 0.5, "lr": 0.1, "loss": 2.0})
    >>> history["loss"]
    [2.0]
    >>> history
    History(1 epochs; loss 2)
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
            raise KeyError(f"no column {key!r}: the history has "
                           f"{', '.join(self.columns) or 'no columns yet'}")
        return [row.get(key) for row in self.rows]

    @property
    def columns(self) -> list[str]:
        """The names of all columns."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def to_csv(self, path: str | os.PathLike) -> None:
        """Write a CSV table with a header; columns of arrays, as of matrices, are left out."""
        columns = [name for name in self.columns if not self._has_lists(name)]
        with replacing(path) as file:
            table = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
            table.writeheader()
            table.writerows(self.rows)

    def _has_lists(self, column: str) -> bool:
        return any(isinstance(row.get(column), list) for row in self.rows)

    def to_json(self, path: str | os.PathLike) -> None:
        """Write one JSON object with the keys "interrupted" and "rows".

        JSON has no NaN and no infinity: they are written as null.
        """
        state = _without_nan({"interrupted": self.interrupted, "rows": self.rows})
        with replacing(path) as file:
            json.dump(state, file, indent=1, allow_nan=False)

    def to_jsonl(self, path: str | os.PathLike) -> None:
        """Write one line with one JSON object for each epoch; NaN and infinity are null."""
        with replacing(path) as file:
            for row in self.rows:
                file.write(json.dumps(_without_nan(row), allow_nan=False) + "\n")

    def plot(self, path: str | os.PathLike | None = None) -> Any:
        """Plot the training and validation curves of the loss and each metric.

        Returns a matplotlib Figure.  With `path`, also saves it in the format of the suffix, by
        default png.  Raises ImportError if matplotlib is missing.
        """
        try:
            from matplotlib.figure import Figure
            from matplotlib.ticker import MaxNLocator
        except ImportError as error:
            raise ImportError(
                'learning curves need matplotlib: pip install "gpuprop[train]"') from error
        measured = [name for name in self.columns
                    if name not in NOT_MEASURED and not self._has_lists(name)]
        names = list(dict.fromkeys(name.removeprefix("val_") for name in measured))
        if not names:
            raise ValueError("nothing to plot: the history has no epochs yet")
        figure = Figure(figsize=(5.2 * len(names), 4), dpi=120, layout="constrained")
        all_axes = figure.subplots(1, len(names), squeeze=False)[0]
        for axes, name in zip(all_axes, names, strict=True):
            for column, label in ((name, "train"), (f"val_{name}", "validation")):
                if column in measured:
                    values = self[column]
                    last = [value for value in values if value is not None][-1]
                    axes.plot(self["epoch"], values, color=COLORS[label], linewidth=1.8,
                              marker="o" if len(self) < 20 else "", markersize=4,
                              label=f"{label}, last {last:.3g}")
            axes.set(title=name.replace("_", " "), xlabel="epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(frameon=False)
        if path is not None:
            suffix = os.path.splitext(path)[1].removeprefix(".") or "png"
            with replacing(path, binary=True) as file:
                figure.savefig(file, format=suffix)
        return figure

    def __repr__(self) -> str:
        if not self.rows:
            return "History(no epochs yet)"
        interrupted = ", interrupted" if self.interrupted else ""
        return f"History({len(self)} epochs{interrupted}; {describe(self.rows[-1])})"


def plain(tree: Any) -> Any:
    """A tree with Python numbers and lists in place of NumPy's numbers, arrays and Tensors."""
    return tree_map(lambda leaf: asnumpy(leaf).tolist() if hasattr(leaf, "shape") else leaf, tree)


def _without_nan(tree: Any) -> Any:
    """A plain tree with None in place of NaN and infinity."""
    return tree_map(lambda leaf: None if isinstance(leaf, float) and not math.isfinite(leaf)
                    else leaf, plain(tree))


def checked_rows(what: str, rows: Any) -> list[dict[str, Any]]:
    """Copies of the rows of a history; raises if they are none."""
    as_instance(what, rows, (list, tuple), "a list of rows")
    checked = []
    for number, row in enumerate(rows, 1):
        where = f"{what}: row {number}"
        entries = as_entries(where, row, ("epoch", "seconds", "lr", "loss"))
        as_integer(f"{where}: epoch", entries["epoch"], number, number)
        as_number(f"{where}: seconds", entries["seconds"], "[0, inf)")
        as_number(f"{where}: lr", entries["lr"])
        for name, value in entries.items():
            as_instance(f"{what}: a name of a column", name, str, "a text")
            if name.removeprefix("val_") == "loss" and type(value) not in (int, float):
                raise TypeError(f"{where}: {name} must be a number, got {value!r}")
            for leaf in tree_leaves(value):
                as_instance(f"{where}: {name}", leaf, (bool, int, float, str, type(None)),
                            "a number, a text or a list of them")
        checked.append(copy.deepcopy(entries))
    return checked


def measured_numbers(row: dict[str, Any]) -> dict[str, float]:
    """The entries of a row that are losses and metrics, without arrays."""
    return {name: value for name, value in row.items()
            if name not in NOT_MEASURED and isinstance(value, int | float)}


def describe(row: dict[str, Any]) -> str:
    """The losses and metrics of a row as text."""
    return ", ".join(f"{name} {value:.4g}" for name, value in measured_numbers(row).items())
