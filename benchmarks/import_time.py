"""What `import gpuprop` costs beside `import numpy`, each in processes of its own, in turns.  Prints JSON, in ms.

    python benchmarks/import_time.py
    python benchmarks/import_time.py --limit 40     # exit status 1 where gpuprop adds more than 40 ms
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys

MODULES = ("numpy", "gpuprop")


def milliseconds(module: str) -> float:
    """The time of one import in a fresh interpreter, its start not counted."""
    code = f"from time import perf_counter as now; t = now(); import {module}; print((now() - t) * 1e3)"
    # -P: what is installed, not what lies in the current folder
    return float(subprocess.run([sys.executable, "-P", "-c", code], check=True, capture_output=True, text=True).stdout)


def measure(rounds: int) -> dict:
    times: dict[str, list[float]] = {module: [] for module in MODULES}
    for _ in range(rounds + 1):  # the first round fills the disk cache and writes bytecode
        for module in MODULES:
            times[module].append(milliseconds(module))
    figures = {m: {"best": min(t[1:]), "median": statistics.median(t[1:])} for m, t in times.items()}
    added = {k: figures["gpuprop"][k] - figures["numpy"][k] for k in ("best", "median")}
    return {"unit": "ms", "rounds": rounds, **figures, "added": added,
            "python": platform.python_version(), "machine": platform.machine()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--limit", type=float, help="fail where gpuprop at its best adds more milliseconds")
    args = parser.parse_args()
    result = measure(args.rounds)
    print(json.dumps(result, indent=2))
    return int(args.limit is not None and result["added"]["best"] > args.limit)


if __name__ == "__main__":
    raise SystemExit(main())
