"""Find the examples' data files in a folder, or download them to a cache."""

from __future__ import annotations

from pathlib import Path


def find(folder: str, subfolder: str, name: str) -> Path:
    """The path of the file `name`, in `folder` or in its subfolder."""
    for path in (Path(folder) / name, Path(folder) / subfolder / name):
        if path.exists():
            return path
    raise SystemExit(f"{name} not found in {folder} or in its subfolder {subfolder}")


def download(url: str, sha256: str, subfolder: str) -> Path:
    """The path of the file in the cache, downloaded if missing, checked by SHA-256."""
    name = url.split("/")[-1]
    try:
        import pooch
    except ImportError:
        raise SystemExit(f"{name} not found: give its folder with --data or GPUPROP_DATA, or "
                         'install pooch to download it (pip install "gpuprop[examples]")') from None
    return Path(pooch.retrieve(url, sha256, name, pooch.os_cache("gpuprop") / subfolder))


def find_or_download(folder: str | None, subfolder: str, url: str, sha256: str) -> Path:
    """The path of the file at `url`: in `folder` if given, else in the cache."""
    if folder:
        return find(folder, subfolder, url.split("/")[-1])
    return download(url, sha256, subfolder)


def find_given(folder: str | None, subfolder: str, name: str, publisher: str) -> Path:
    """The path of a file that the user has to download: `publisher` tells where."""
    if not folder:
        raise SystemExit(f"give the folder of {name} with --data or GPUPROP_DATA; it is published "
                         f"at {publisher}")
    return find(folder, subfolder, name)
