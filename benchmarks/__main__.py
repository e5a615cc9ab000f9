"""Run the benchmarks, print a table and store the figures: ``python -m benchmarks [workload ...] [--rounds N]``."""

from __future__ import annotations

import argparse
import json
import pkgutil
from pathlib import Path

from benchmarks import workloads
from benchmarks.frame import compare

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    known = sorted(m.name for m in pkgutil.iter_modules(workloads.__path__))
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("workload", nargs="*", default=known, help=f"of {', '.join(known)} (all)")
    parser.add_argument("--rounds", type=int, default=15, help="turns each contender gets (15)")
    parser.add_argument("--only", help="the contender named, without its peers")
    args = parser.parse_args()
    for name in args.workload:
        row = compare(name, args.rounds, only=args.only)
        print(f"{name}: {row['what']}")
        for contender, times in row["contenders"].items():
            print(f"  {contender:24s} best {times['best_us']:9.1f} us   median {times['median_us']:9.1f} us")
        for contender, reason in row["absent"].items():
            print(f"  {contender:24s} absent: {reason}")
        if row["ratio_to_best_peer"]:
            best, median = row["ratio_to_best_peer"], row["ratio_of_medians"]
            print(f"  gpuprop takes {best:.2f} of the best peer's time (medians: {median:.2f})")
        if args.only is None:
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / f"{name}.json").write_text(json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    main()
