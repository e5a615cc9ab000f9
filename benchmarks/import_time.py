"""Times of `import gpuprop` and `import numpy` in milliseconds, in new processes; prints JSON.

    python benchmarks/import_time.py
    python benchmarks/import_time.py --limit 40     # exit status 1 if gpuprop adds more than 40 ms
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
    """The time of one import in a new interpreter, without the interpreter's start."""
    code = f"""
from time import perf_counter
start = perf_counter()
import {module}
print((perf_counter() - start) * 1e3)
"""
    command = [sys.executable, "-P", "-c", code]  # -P: not from the current folder
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(rounds: int) -> dict:
    times: dict[str, list[float]] = {module: [] for module in MODULES}
    for _ in range(rounds + 1):  # the first round fills the disk cache and writes bytecode
        for module in MODULES:
            times[module].append(milliseconds(module))
    summary = {}
    for module, (_, *measured) in times.items():
        summary[module] = {"best": min(measured), "median": statistics.median(measured)}
    added = {k: summary["gpuprop"][k] - summary["numpy"][k] for k in ("best", "median")}
    return {
        "unit": "ms",
        "rounds": rounds,
        **summary,
        "added": added,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10,
                        help="imports of each module (default: 10)")
    parser.add_argument("--limit", type=float,
                        help="fail if gpuprop's best time exceeds NumPy's by more milliseconds")
    args = parser.parse_args()
    result = measure(args.rounds)
    print(json.dumps(result, indent=2))
    return int(args.limit is not None and result["added"]["best"] > args.limit)


if __name__ == "__main__":
    raise SystemExit(main())
