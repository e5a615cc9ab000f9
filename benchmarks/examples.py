"""Run examples with several seeds, and store their figures and pictures for the documentation.

    python -m benchmarks.examples [NAME ...] [--seeds 3]

Each example runs as a user would start it, with its default options.  The figures go to
benchmarks/results/examples.json, with seed, time and machine; the pictures of the first seed go to
docs/gallery.  Then the tables of the documents are written again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import tables
from benchmarks.frame import machine

EXAMPLES = tables.ROOT / "examples"


def names() -> list[str]:
    """The examples that record figures."""
    return sorted(path.stem for path in EXAMPLES.glob("*.py") if "record(" in path.read_text()
                  and path.stem != "figures")


def run(name: str, seed: int, out: Path) -> dict[str, Any]:
    """The figures of a whole run, which writes its pictures to `out`."""
    figures = out / "figures.json"
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), "--seed", str(seed),
               "--out", str(out), "--record", str(figures)]
    start, used = time.perf_counter(), _processor_seconds()
    subprocess.run(command, check=True)
    return {"example": name, "seed": seed, "seconds": round(time.perf_counter() - start, 1),
            "processor_seconds": round(_processor_seconds() - used, 1), "machine": machine(),
            "threads": os.environ.get("OMP_NUM_THREADS", "all"),
            "figures": json.loads(figures.read_text())}


def _processor_seconds() -> float:
    """The time that processes which have ended used the processors."""
    times = os.times()
    return times.children_user + times.children_system


def store(row: dict[str, Any]) -> None:
    """Put the run among the stored ones, in place of an older one with the same seed."""
    key = lambda row: (row["example"], row["seed"])
    rows = [r for r in tables.runs() if key(r) != key(row)] + [row]
    lines = [json.dumps(r) for r in sorted(rows, key=key)]
    tables.RUNS.write_text("[\n" + ",\n".join(lines) + "\n]\n")


def store_pictures(name: str, out: Path) -> None:
    folder = tables.GALLERY / name
    shutil.rmtree(folder, ignore_errors=True)
    for picture in sorted(out.glob("*.png")):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.examples", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="*", help=f"{', '.join(names())} (default: all)")
    parser.add_argument("--seeds", type=int, default=3, help="(default: %(default)s)")
    args = parser.parse_args()
    for name in args.name or names():
        for seed in range(args.seeds):
            print(f"\n== {name}, seed {seed}", flush=True)
            with tempfile.TemporaryDirectory() as folder:
                row = run(name, seed, Path(folder))
                store(row)
                if seed == 0:
                    store_pictures(name, Path(folder))
    tables.write()


if __name__ == "__main__":
    main()
