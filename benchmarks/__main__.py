"""Run benchmarks and store the times: ``python -m benchmarks [workload ...] [--rounds N]``."""

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
    names = ", ".join(known)
    parser.add_argument("workload", nargs="*", default=known, help=f"{names} (default: all)")
    parser.add_argument("--rounds", type=int, default=15,
                        help="time slices per contender (default: 15)")
    parser.add_argument("--only", metavar="CONTENDER", help="run this contender without the others")
    args = parser.parse_args()
    for name in args.workload:
        row = compare(name, args.rounds, only=args.only)
        print(f"{name}: {row['what']}")
        for contender, times in row["contenders"].items():
            best, median = times["best_us"], times["median_us"]
            print(f"  {contender:24s} best {best:9.1f} us   median {median:9.1f} us")
        for contender, reason in row["absent"].items():
            print(f"  {contender:24s} absent: {reason}")
        if row["ratio_to_best_peer"]:
            best, median = row["ratio_to_best_peer"], row["ratio_of_medians"]
            print(f"  gpuprop's time / the fastest peer's: {best:.2f} (medians: {median:.2f})")
        if args.only is None:
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / f"{name}.json").write_text(json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    main()
