"""Compare whole training steps of gpuprop and other libraries, and store the results.

A run of everything, without --quick, replaces this machine's results in benchmarks/results, and
the tables and the picture made of them.  Any other run only prints, unless --out names a folder.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import picture, tables
from benchmarks.contenders import LABELS
from benchmarks.frame import DifferentValues, compare, cores, machine, workload_name
from gpuprop._bench.workloads import WORKLOADS

PEERS = [name for name in LABELS if name != "gpuprop"]


def main() -> int:
    args = _parser().parse_args()
    everything = not (args.workload or args.threads or args.quick) and args.peers is None
    out = args.out or (tables.folder_of(machine()) if everything else None)
    names = ["gpuprop", *(PEERS if args.peers is None else args.peers)]
    threads = args.threads or sorted({1, cores()})
    seconds = args.seconds or (0.02 if args.quick else 0.3)
    failures = []
    for name in args.workload or WORKLOADS:
        row: dict[str, Any] = {
            "workload": name, "what": WORKLOADS[name].what, "quick": args.quick,
            "machine": machine(), "rounds": args.rounds, "threads": {}}
        print(f"\n{name}: {row['what']}", flush=True)
        try:
            for n in threads:
                row["threads"][n] = compare(name, names, n, args.rounds, seconds, args.quick)
                print(tables.text(n, row["threads"][n]), flush=True)
        except DifferentValues as error:
            print(f"  FAILED: {error}", flush=True)
            failures.append(name)
            if out:
                (out / f"{name}.json").unlink(missing_ok=True)
            continue
        if out:
            out.mkdir(parents=True, exist_ok=True)
            (out / f"{name}.json").write_text(json.dumps(row, indent=1) + "\n")
    if out:
        rows = tables.stored(out)
        (out / "speed.md").write_text(tables.speed(rows), encoding="utf-8")
        picture.draw(rows, out / "speed.svg")
    if everything:
        tables.write()
    if failures:
        print(f"\nFAILED, since libraries computed different values: {', '.join(failures)}",
              file=sys.stderr)
    return int(bool(failures))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload", nargs="*", metavar="WORKLOAD", type=workload_name,
                        help=f"{', '.join(WORKLOADS)} (default: all)")
    parser.add_argument("--peers", type=_peers, metavar="LIST",
                        help=f"the libraries beside gpuprop, of {','.join(PEERS)}, or none "
                             f"(default: all)")
    parser.add_argument("--threads", type=_threads, metavar="LIST",
                        help="the numbers of threads, such as 1,4 (default: 1 and all)")
    parser.add_argument("--rounds", type=int, default=9,
                        help="time slices per contender (default: %(default)s)")
    parser.add_argument("--seconds", type=float,
                        help="the length of a time slice (default: 0.3; at least one step)")
    parser.add_argument("--quick", action="store_true",
                        help="small sizes and slices, to see that everything runs")
    parser.add_argument("--out", type=Path, metavar="FOLDER",
                        help="where the results are stored (see above)")
    return parser


def _peers(text: str) -> list[str]:
    names = [] if text == "none" else text.split(",")
    if unknown := set(names) - set(PEERS):
        raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}: {','.join(PEERS)}, none")
    return names


def _threads(text: str) -> list[int]:
    try:
        numbers = [int(n) for n in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(1 <= n <= cores() for n in numbers):
        raise argparse.ArgumentTypeError(
            f"expected numbers from 1 to {cores()}, the processors that there are; got {text!r}")
    return numbers


if __name__ == "__main__":
    sys.exit(main())
