"""What the examples on texts share: their arguments, and where a text is, in a folder of the user's or in the cache."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def arguments(doc: str | None, **numbers: int) -> argparse.Namespace:
    """The command line: numbers with these defaults, then what all examples take."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in numbers.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help=f"({default})")
    parser.add_argument("--data", default=os.environ.get("GPUPROP_DATA"), help="the folder of the texts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backend", default="auto", help="cpu, cuda, or auto: the GPU if one answers (auto)")
    parser.add_argument("--out", type=Path, default="out", help="the folder for what it writes")
    return parser.parse_args()


def find(folder: str, part: str, name: str) -> Path:
    """The file `name` in `folder`, or in its folder `part`."""
    for path in (Path(folder) / name, Path(folder) / part / name):
        if path.exists():
            return path
    raise SystemExit(f"{folder} holds no {name}, which is expected there, or in its folder {part}")


def download(url: str, sha256: str, part: str) -> Path:
    """The file in the cache, downloaded first if it is not there; its checksum is compared."""
    name = url.split("/")[-1]
    try:
        import pooch
    except ImportError:
        raise SystemExit(f'{name} is not here: give its folder by --data or GPUPROP_DATA, or have it downloaded, for '
                         f'which pip install pooch, or "gpuprop[examples]"') from None
    return Path(pooch.retrieve(url, sha256, name, pooch.os_cache("gpuprop") / part))
