"""Where the examples on texts find a text: in a folder of the user's, or in the cache."""

from __future__ import annotations

from pathlib import Path


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
