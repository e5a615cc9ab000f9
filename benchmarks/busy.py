"""Compare steps with one thread and with all threads on a machine on which all processors are busy.

    python -m benchmarks.busy [WORKLOAD ...] [--rounds 5] [--seconds 1] [--quick] [--out FOLDER]

As many processes as processors run the same steps at the same time.  Threads that wait for each
other without sleeping then take the processors from those that they wait for.  A run of everything
replaces busy.json in this machine's folder of benchmarks/results, and the tables made of it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks import tables
from benchmarks.contenders import LABELS
from benchmarks.frame import Absent, beside_others, cores, machine, workload_name
from gpuprop._bench.workloads import WORKLOADS

CONTENDERS = ["gpuprop", "numba", "pytorch"]
TRAINING = ["mlp_small", "mlp", "autoencoder", "factorisation", "cnn", "resnet", "separable",
            "unet", "lstm", "gpt_small"]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.busy", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload", nargs="*", metavar="WORKLOAD", type=workload_name,
                        help=f"(default: {', '.join(TRAINING)})")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=1, help="of a round (default: 1)")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where busy.json is stored")
    args = parser.parse_args()
    everything = not (args.workload or args.quick)
    out = args.out or (tables.folder_of(machine()) if everything else None)
    rows: list[dict[str, Any]] = []
    for workload in args.workload or TRAINING:
        row: dict[str, Any] = {"workload": workload, "what": WORKLOADS[workload].what,
                               "machine": machine(), "rounds": args.rounds, "seconds": {}}
        for name in CONTENDERS:
            try:
                row["seconds"][name] = {
                    n: beside_others(workload, name, n, args.rounds, args.seconds, args.quick)
                    for n in sorted({1, cores()})}
            except Absent as reason:
                print(f"{LABELS[name]} is left out: {reason}", flush=True)
        rows.append(row)
        print(f"\n{tables.busy(rows[-1:])}", flush=True)
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "busy.json").write_text(json.dumps(rows, indent=1) + "\n")
    if everything:
        tables.write()


if __name__ == "__main__":
    main()
