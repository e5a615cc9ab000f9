"""A picture of stored results: each library's time, relative to the fastest peer's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.contenders import LABELS, OURS

MARKERS = dict(zip(LABELS, "oPDs^v", strict=True))


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write an SVG with one panel for each number of threads; needs Matplotlib.

    A workload without a peer is compared with the fastest library.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        print(f"{path.name} is not drawn: matplotlib is not installed")
        return
    if not rows:
        return
    numbers = list(dict.fromkeys(n for row in rows for n in row["threads"]))
    with matplotlib.rc_context({"svg.hashsalt": "gpuprop", "svg.fonttype": "none"}):
        figure = Figure(figsize=(5 + 3.5 * len(numbers), 1.5 + 0.3 * len(rows)),
                        layout="constrained")
        panels = figure.subplots(1, len(numbers), sharey=True, squeeze=False)[0]
        for n, axes in zip(numbers, panels, strict=True):
            _panel(axes, rows, n)
            axes.set_title(f"threads: {n}")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(LABELS))
        figure.savefig(path, metadata={"Date": None})


def _panel(axes: Any, rows: Sequence[dict[str, Any]], n: str) -> None:
    relative: dict[str, list[tuple[float, int]]] = {name: [] for name in LABELS}
    for i, row in enumerate(rows):
        found = row["threads"].get(n)
        if found is None:
            continue
        times = {name: t["best"] for name, t in found["contenders"].items()}
        base = times[found["best_peer"]] if found["best_peer"] else min(times.values())
        for name, best in times.items():
            relative[name].append((best / base, i))
    for name, points in relative.items():
        if points:
            x, y = zip(*points, strict=True)
            axes.scatter(x, y, marker=MARKERS[name], label=LABELS[name],
                         s=45 if name in OURS else 25, zorder=3)
    axes.axvline(1, color="gray", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel("time / time of the fastest peer")
    axes.set_yticks(range(len(rows)), [row["workload"] for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(alpha=0.3)
