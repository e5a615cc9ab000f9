"""The command line that the examples share."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def arguments(doc: str | None, **options: float) -> argparse.Namespace:
    """Options with these defaults, of their types, a flag where it is False; then what all examples take."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in options.items():
        word = f"--{name.replace('_', '-')}"
        if default is False:
            parser.add_argument(word, action="store_true")
        else:
            parser.add_argument(word, type=type(default), default=default, help=f"({default})")
    parser.add_argument("--data", default=os.environ.get("GPUPROP_DATA"), help="the folder of the data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backend", default="auto", help="cpu, cuda, or auto: the GPU if one answers (auto)")
    parser.add_argument("--out", type=Path, default="out", help="the folder for what it writes")
    return parser.parse_args()
