"""Writes tables and pictures from stored results: ``python -m benchmarks.tables``."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import picture
from benchmarks.contenders import LABELS, OURS
from gpuprop._bench.measure import digits, duration
from gpuprop._bench.workloads import WORKLOADS

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
RUNS = RESULTS / "examples.json"
GALLERY = ROOT / "docs" / "gallery"
PEERS = [name for name in LABELS if name not in OURS]
NOTHING: dict[str, Any] = {"contenders": {}}
BLOCK = re.compile(r"(?<=<!-- results -->\n).*?(?=<!-- end of results -->)", re.S)


# ---- speed ---------------------------------------------------------------------------------------


def folder_of(machine: dict[str, Any]) -> Path:
    """Where the results of a machine are stored."""
    name = re.sub(r"\(\w+\)", "", machine["processor"]).lower()
    return RESULTS / "-".join([*re.findall("[a-z0-9]+", name), f"{machine['cores']}-cores"])


def machines() -> list[Path]:
    """The folders of the machines that were measured."""
    return sorted(path for path in RESULTS.iterdir() if path.is_dir())


def stored(folder: Path) -> list[dict[str, Any]]:
    """The results that the folder has, in the order of the workloads."""
    files = [folder / f"{name}.json" for name in WORKLOADS]
    return [json.loads(f.read_text()) for f in files if f.exists()]


def speed(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: one table for each number of threads, and what was left out."""
    if not rows:
        return "No results are stored.\n"
    table = ratios(rows)
    parts = [f"**gpuprop's best time / each library's best time**\n\n{table}"] if table else []
    for n in _numbers_of_threads(rows):
        have = [(row, row["threads"][n]) for row in rows if n in row["threads"]]
        parts.append(f"**{_threads(n)}**\n\n" + _speed_table(have))
    parts.append(_left_out(rows))
    if any(row["quick"] for row in rows):
        parts.append("Times of the quick mode, with smaller sizes than the names say.\n")
    parts.append(_machine(rows[0]))
    return "\n".join(part for part in parts if part)


def _machine(row: dict[str, Any]) -> str:
    machine = row["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in machine["packages"].items())
    return (f"{machine['processor']}, {machine['cores']} cores;\nPython {machine['python']}, "
            f"{versions}; {machine['date']}; {row['rounds']} rounds.\n")


def all_speeds() -> str:
    """Markdown: the ratios on each machine that was measured, with a link to its times."""
    parts = []
    for folder in machines():
        rows = stored(folder)
        name = f"{rows[0]['machine']['processor']}, {rows[0]['machine']['cores']} cores"
        link = f"../benchmarks/results/{folder.name}"
        with_numba = ratios(rows, "numba")
        parts.append(f"### {name}\n\n![Times relative to the best peer]({link}/speed.svg)\n\n"
                     f"{ratios(rows)}\n"
                     + (f"With Numba:\n\n{with_numba}\n" if with_numba else "")
                     + f"[All times, memory and floors]({link}/speed.md).\n{_machine(rows[0])}")
        if (path := folder / "busy.json").exists():
            found = json.loads(path.read_text())
            parts.append("Time of a step with all threads, divided by that with one thread, while "
                         "as many processes\nas processors run the same steps at the same time:"
                         f"\n\n{busy(found)}\n{_machine(found[0])}")
    return "\n".join(parts)


def busy(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: the time with all threads divided by that with one, on a busy machine."""
    names = list(dict.fromkeys(name for row in rows for name in row["seconds"]))
    lines = [f"| workload | {' | '.join(LABELS[name] for name in names)} |",
             "|" + "---|" * (1 + len(names))]
    for row in rows:
        times = [list(row["seconds"].get(name, {}).values()) for name in names]
        cells = [f"{found[-1] / found[0]:.2f}" if found else "" for found in times]
        lines.append(f"| {row['what']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def ratios(rows: Sequence[dict[str, Any]], ours: str = "gpuprop") -> str:
    """Markdown: our time divided by that of each peer, and the geometric mean."""
    rows = [row for row in rows if any(ours in f["contenders"] for f in row["threads"].values())]
    columns = [(peer, n) for peer in PEERS for n in _numbers_of_threads(rows)
               if any(peer in row["threads"].get(n, NOTHING)["contenders"] for row in rows)]
    head = ["workload", *(f"{LABELS[peer]}, {_threads(n)}" for peer, n in columns)]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    found: dict[tuple[str, str], list[float]] = {column: [] for column in columns}
    for row in rows:
        cells = [row["what"]]
        for peer, n in columns:
            times = row["threads"].get(n, NOTHING)["contenders"]
            both = ours in times and peer in times
            ratio = times[ours]["best"] / times[peer]["best"] if both else None
            found[peer, n] += [] if ratio is None else [ratio]
            cells.append("" if ratio is None else f"{ratio:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    means = [f"{statistics.geometric_mean(found[column]):.2f}" for column in columns]
    lines.append(f"| geometric mean | {' | '.join(means)} |")
    return "\n".join(lines) + "\n" if columns else ""


def _numbers_of_threads(rows: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(n for row in rows for n in row["threads"]))


def _speed_table(have: Sequence[tuple[dict, dict]]) -> str:
    head = ["workload", "library", "best", "median", "spread", "ratio to best peer", "memory",
            "floor", "best / floor"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row, found in have:
        peer = found["best_peer"]
        floor = found["floor"]["seconds"]
        for i, (name, times) in enumerate(found["contenders"].items()):
            ratio = f"{times['best'] / found['contenders'][peer]['best']:.2f}" if peer else ""
            cells = [
                row["what"] if i == 0 else "", LABELS[name], duration(times["best"]),
                duration(times["median"]), f"{times['spread']:.0%}", ratio, _size(times["memory"]),
                duration(floor) if i == 0 else "", f"{times['best'] / floor:.1f}" if floor else ""]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _left_out(rows: Sequence[dict]) -> str:
    """Which libraries did not run, grouped by reason."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for name, why in {k: v for f in row["threads"].values()
                          for k, v in f["absent"].items()}.items():
            reasons.setdefault((name, why), []).append(row["workload"])
    lines = [f"- {LABELS[name]} is left out of {', '.join(workloads)}: {why}"
             for (name, why), workloads in reasons.items()]
    return "\n".join(lines) + "\n" if lines else ""


def text(threads: int, found: dict[str, Any]) -> str:
    """The results of one workload for the terminal."""
    lines = [f"  {_threads(threads)}"]
    for name, times in found["contenders"].items():
        remark = "".join(f"   {k}={v}" for k, v in times["setting"].items())
        lines.append(f"    {LABELS[name]:14} best {duration(times['best']):>9}   "
                     f"median {duration(times['median']):>9}   spread {times['spread']:4.0%}   "
                     f"memory {_size(times['memory']):>8}{remark}")
    for name, why in found["absent"].items():
        lines.append(f"    {LABELS[name]:14} left out: {why}")
    floor = found["floor"]
    lines.append(f"    {'floor':14} {duration(floor['seconds'])}: {floor['flops'] / 1e6:.4g} "
                 f"MFLOP {duration(floor['arithmetic'])}, {floor['bytes'] / 1e6:.4g} MB "
                 f"{duration(floor['traffic'])}")
    if found["best_peer"]:
        lines.append(f"    gpuprop's time / the best peer's: {found['ratio_to_best_peer']:.2f} "
                     f"(medians: {found['ratio_of_medians']:.2f})")
    return "\n".join(lines)


def _threads(n: int | str) -> str:
    return f"{n} thread" if int(n) == 1 else f"{n} threads"


def _size(count: int | None) -> str:
    return "" if count is None else f"{digits(count / 1e6)} MB"


# ---- examples ------------------------------------------------------------------------------------


def runs() -> list[dict[str, Any]]:
    """The stored runs of examples, by name and seed: see `benchmarks.examples`."""
    return json.loads(RUNS.read_text() or "[]")


def by_example() -> dict[str, list[dict[str, Any]]]:
    """The runs of each example."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in runs():
        found.setdefault(row["example"], []).append(row)
    return found


def examples() -> str:
    """The mean figures of each example over its seeds, and what they are compared with."""
    lines = ["| example | measured | mean | range | beside | seeds | processor seconds a run |",
             "|---|---|---|---|---|---|---|"]
    for name, rows in by_example().items():
        link = f"[{name}](examples/{name}.py)"
        times = [row["processor_seconds"] for row in rows if "processor_seconds" in row]
        seconds = f"{statistics.mean(times):.0f}" if times else ""
        for figures in zip(*(row["figures"] for row in rows), strict=True):
            cells = [link, *_figure_cells(figures), str(len(rows)), seconds]
            lines.append(f"| {' | '.join(cells)} |")
            link = seconds = ""
    machines = {f"{row['machine']['processor']}, {row['machine']['cores']} cores" for row in runs()}
    return "\n".join(lines) + f"\n\nMeasured on: {'; '.join(sorted(machines))}.\n"


def _figure_cells(figures: Sequence[dict[str, Any]]) -> list[str]:
    """The measure, its mean and range over the seeds, and the means of what is beside it."""
    first = figures[0]
    shown = lambda value: f"{value:.{first['decimals']}f}"
    values = [figure["value"] for figure in figures]
    span = f"{shown(min(values))} to {shown(max(values))}" if len(values) > 1 else ""
    beside = [f"{shown(statistics.mean(figure['beside'][what] for figure in figures))}, {what}"
              for what in first["beside"]]
    return [first["measure"], shown(statistics.mean(values)), span, "; ".join(beside)]


def gallery() -> str:
    """Markdown: the task, the pictures and the figures of each example that draws."""
    parts = []
    for name, rows in by_example().items():
        pictures = sorted((GALLERY / name).glob("*.png"))
        if not pictures:
            continue
        source = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")
        task = source.removeprefix('"""').partition("\n")[0]
        figures = [f"- {measure}: {mean}" + (f" ({beside})" if beside else "")
                   for measure, mean, _, beside in map(
                       _figure_cells, zip(*(row["figures"] for row in rows), strict=True))]
        images = [f"![{picture.stem}]({picture.relative_to(GALLERY.parent).as_posix()})"
                  for picture in pictures]
        parts.append(f"## [{name}](../examples/{name}.py)\n\n{task}\n\n" + "\n".join(figures)
                     + "\n\n" + "\n\n".join(images) + "\n")
    return "\n".join(parts)


# ---- the documents -------------------------------------------------------------------------------


def pages() -> dict[Path, str]:
    """The documents with the current tables."""
    blocks = {"README.md": examples(), "docs/gallery.md": gallery(),
              "docs/performance.md": all_speeds()}
    found = {}
    for name, block in blocks.items():
        old = (ROOT / name).read_text(encoding="utf-8")
        found[ROOT / name] = BLOCK.sub(lambda _, block=block: block, old, count=1)  # type: ignore
    return found | {folder / "speed.md": speed(stored(folder)) for folder in machines()}


def write() -> None:
    for path, page in pages().items():
        path.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    write()
    for folder in machines():
        picture.draw(stored(folder), folder / "speed.svg")
