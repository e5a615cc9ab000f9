"""The command ``gpuprop info | doctor | verify | bench``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

INFO = "print versions, machine, backends and settings, to paste into a bug report"
DOCTOR = ("run a training step on every backend; print PASS, FAIL or SKIP, with the problems and "
          "their fixes; exit status 1 if a backend fails")
VERIFY = ("check that two backends do the same training run; exit status 0: same, 1: different, "
          "2: not compared")
BENCH = ("time training steps, inference and data loading, in gpuprop's words and in PyTorch's; "
         "exit status 1 if the losses of the two differ")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, by default this process's, and return its exit status."""
    args = _parser().parse_args(arguments)
    return args.run(args)


def _parser() -> argparse.ArgumentParser:
    description = "Inspect this installation of gpuprop; compare and time its backends."
    parser = argparse.ArgumentParser("gpuprop", description=description)
    commands = parser.add_subparsers(required=True, metavar="command")
    for run, summary in ((info, INFO), (doctor, DOCTOR), (verify, VERIFY), (bench, BENCH)):
        command = commands.add_parser(run.__name__, help=summary, description=summary)
        command.set_defaults(run=run)
        command.add_argument("--json", nargs="?", const="-", metavar="FILE", type=_output_file,
                             help="write JSON to FILE, or to standard output in place of the text")
        if run is verify:
            _add_verify_arguments(command)
        elif run is bench:
            _add_bench_arguments(command)
    return parser


def _add_verify_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", nargs="*", metavar="RUN",
                         help="a built-in run (mlp, cnn, gpt or lstm), or file.py:function, which "
                              "returns (model, step, batches); default: all built-in runs")
    command.add_argument("--reference", default="numpy",
                         help="the backend to compare with (default: %(default)s)")
    command.add_argument("--candidate", default="cupy",
                         help="the backend to check (default: %(default)s)")
    command.add_argument("--steps", type=_natural_number, default=3,
                         help="the number of training steps (default: %(default)s)")
    command.add_argument("--seed", type=_natural_number, default=0,
                         help="the seed of all random numbers (default: %(default)s)")
    command.add_argument("--html", metavar="FILE", type=_output_file,
                         help="write an HTML page with the results of every layer and step")


def _add_bench_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", nargs="*", metavar="WORKLOAD",
                         help="such as mlp, cnn or gpt; an unknown name lists all; default: all")
    command.add_argument("--backend", default="numpy",
                         help="the backend to time (default: %(default)s)")
    command.add_argument("--rounds", type=_positive_number, default=5,
                         help="time slices of each workload (default: %(default)s)")
    command.add_argument("--quick", action="store_true",
                         help="small sizes and short slices, to see that everything runs")


def _positive_number(text: str) -> int:
    if (number := _natural_number(text)) == 0:
        raise argparse.ArgumentTypeError("expected an integer of at least 1, got '0'")
    return number


def _natural_number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected an integer of at least 0, got {text!r}")
    return int(text)


def _output_file(path: str) -> str:
    """The path of a file, checked before the work whose results it receives."""
    folder = os.path.dirname(path) or "."
    existing = path if os.path.exists(path) else folder
    if path != "-" and (os.path.isdir(path) or not os.path.isdir(folder)
                        or not os.access(existing, os.W_OK)):
        raise argparse.ArgumentTypeError(f"cannot write to {path!r}")
    return path


def info(args: argparse.Namespace) -> int:
    from gpuprop import _environment

    values = _environment.info()
    _write(args.json, values, _environment.format_info(values))
    return 0


def doctor(args: argparse.Namespace) -> int:
    from gpuprop._doctor import check_backends

    reports = check_backends()
    plain = [{**r._asdict(), "problems": [p._asdict() for p in r.problems]} for r in reports]
    _write(args.json, plain, "\n".join(map(str, reports)))
    return int(any(r.status == "FAIL" for r in reports))


def verify(args: argparse.Namespace) -> int:
    from gpuprop._core.registry import get_backend
    from gpuprop.io import replacing
    from gpuprop.verification import DIFFERENT, NOT_COMPARED, verify
    from gpuprop.verification._builtin_runs import RUNS, UnknownRunError, find_run
    from gpuprop.verification._html_report import html_report

    if "strict" in (args.reference, args.candidate):
        import gpuprop.testing  # noqa: F401 (registers it)
    try:
        runs = [find_run(name) for name in args.name or RUNS]
    except UnknownRunError as error:
        print(f"gpuprop verify: {error}", file=sys.stderr)
        return NOT_COMPARED
    for name in (args.reference, args.candidate):
        try:
            get_backend(name)
        except Exception as error:  # a third party's backend may raise anything
            print(f"gpuprop verify: {' '.join(str(error).split())}", file=sys.stderr)
            return NOT_COMPARED
    results = [
        verify(run, args.reference, args.candidate, steps=args.steps, seed=args.seed)
        for run in runs
    ]
    if args.html:
        with replacing(args.html) as file:
            file.write(html_report(results))
    _write(args.json, [r.to_dict() for r in results], "\n\n".join(map(str, results)))
    statuses = [r.status for r in results]
    return DIFFERENT if DIFFERENT in statuses else max(statuses)


def bench(args: argparse.Namespace) -> int:
    from gpuprop._bench.command import UnknownWorkloadError, find_workloads, report, run
    from gpuprop._core.registry import use

    try:
        workloads = find_workloads(args.name)
    except UnknownWorkloadError as error:
        print(f"gpuprop bench: {error}", file=sys.stderr)
        return 2
    if args.backend == "strict":
        import gpuprop.testing  # noqa: F401 (registers it)
    try:
        backend = use(args.backend)
    except Exception as error:  # a third party's backend may raise anything
        print(f"gpuprop bench: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    with backend:
        results = run(workloads, args.rounds, args.quick)
    _write(args.json, results, report(results))
    return int(not all(w["same"] for w in results["workloads"]))


def _write(path: str | None, plain: Any, text: str) -> None:
    """Print `text`, or JSON if `path` is "-"; write JSON to any other path."""
    from gpuprop.io import replacing

    if path and path != "-":
        with replacing(path) as file:
            json.dump(plain, file, indent=1)
    print(json.dumps(plain, indent=1) if path == "-" else text)
