"""The command ``gpuprop info | doctor | verify``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, by default this process's; the result is its exit status."""
    args = _parser().parse_args(arguments)
    return args.run(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("gpuprop", description="What gpuprop is here, whether it works, and whether two "
                                                            "backends do the same training run.")
    commands = parser.add_subparsers(required=True, metavar="command")
    for run, summary in ((info, "what to paste into a bug report: versions, machine, backends, variables"),
                         (doctor, "PASS or FAIL for every backend, the reason, and the line that mends it"),
                         (verify, "is a training run the same on two backends?  exit status 0: same, 1: it differs, "
                                  "2: nothing to compare")):
        command = commands.add_parser(run.__name__, help=summary, description=summary)
        command.set_defaults(run=run)
        command.add_argument("--json", nargs="?", const="-", metavar="FILE",
                             help="write JSON to this file, or to standard output instead of text")
    command.add_argument("name", nargs="*", metavar="RUN",
                         help="a built-in run, or file.py:function, which returns (model, step, batches); by default "
                              "every built-in one")
    command.add_argument("--reference", default="numpy", help="the backend to be measured by (%(default)s)")
    command.add_argument("--candidate", default="cupy", help="the backend to be measured (%(default)s)")
    command.add_argument("--steps", type=int, default=3, help="training steps to compare (%(default)s)")
    command.add_argument("--seed", type=int, default=0, help="of all random numbers (%(default)s)")
    command.add_argument("--html", metavar="FILE", help="write a page that shows every layer and step")
    return parser


def info(args: argparse.Namespace) -> int:
    from gpuprop import _environment as environment

    known = environment.info()
    _write(args.json, known, environment.text(known))
    return 0


def doctor(args: argparse.Namespace) -> int:
    from gpuprop._doctor import examine

    verdicts = examine()
    plain = [{**v._asdict(), "findings": [f._asdict() for f in v.findings]} for v in verdicts]
    _write(args.json, plain, "\n".join(map(str, verdicts)))
    return int(any(v.verdict == "FAIL" for v in verdicts))


def verify(args: argparse.Namespace) -> int:
    from gpuprop._core.registry import get_backend
    from gpuprop.verification import NOTHING, verify
    from gpuprop.verification._builtin_runs import RUNS, find
    from gpuprop.verification._page import page

    if "strict" in (args.reference, args.candidate):
        import gpuprop.testing  # noqa: F401 (makes it known)
    try:
        runs = [find(name) for name in args.name or RUNS]
    except (ValueError, OSError, AttributeError) as error:
        print(f"gpuprop verify: {error}", file=sys.stderr)
        return NOTHING
    for name in (args.reference, args.candidate):
        try:
            get_backend(name)
        except Exception as error:  # of a third party's backend, too
            print(f"gpuprop verify: {' '.join(str(error).split())}", file=sys.stderr)
            return NOTHING
    results = [verify(run, args.reference, args.candidate, steps=args.steps, seed=args.seed) for run in runs]
    if args.html:
        with open(args.html, "w", encoding="utf-8") as file:
            file.write(page(results))
    _write(args.json, [r.plain() for r in results], "\n\n".join(map(str, results)))
    return max((r.status for r in results), default=NOTHING)


def _write(where: str | None, plain: Any, text: str) -> None:
    """JSON to a file, or to standard output, where else the text goes."""
    if where and where != "-":
        with open(where, "w", encoding="utf-8") as file:
            json.dump(plain, file, indent=1)
    print(json.dumps(plain, indent=1) if where == "-" else text)
