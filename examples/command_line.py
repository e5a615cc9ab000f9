"""Command-line options shared by the examples."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path


def number_like(default: float) -> Callable[[str], float]:
    """A function that reads a number of the default's type; integers are at least 1."""
    def read(text: str) -> float:
        number = type(default)(text)
        if isinstance(default, int) and number < 1:
            raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text}")
        return number

    read.__name__ = type(default).__name__  # argparse's word for text that is no number
    return read


def parse_arguments(description: str | None, **defaults: float) -> argparse.Namespace:
    """Parse an example's own options, with these defaults, and those that all examples have.

    An option has the type of its default, and an integer is at least 1.  An option with default
    False is a flag.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in defaults.items():
        option = f"--{name.replace('_', '-')}"
        if default is False:
            parser.add_argument(option, action="store_true")
        else:
            parser.add_argument(option, type=number_like(default), default=default,
                                help="(default: %(default)s)")
    parser.add_argument("--data", default=os.environ.get("GPUPROP_DATA"),
                        help="folder of the data set")
    parser.add_argument("--seed", type=int, default=0,
                        help="of the random numbers (default: 0)")
    parser.add_argument("--backend", default="auto",
                        help="cpu, cuda, or auto: a GPU if one is available (default: auto)")
    parser.add_argument("--out", type=Path, default="out",
                        help="folder for the results (default: out)")
    parser.add_argument("--record", type=Path, metavar="FILE",
                        help="write the measured figures to this file, as JSON")
    return parser.parse_args()
