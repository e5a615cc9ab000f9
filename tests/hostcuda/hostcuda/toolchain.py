"""The C++ compiler, its requirements, and the cache of compiled files."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

CXX = os.environ.get("HOSTCUDA_CXX", "g++")
OLDEST_GCC = 12  # the first with _Float16 in C++
MACHINES = ("x86_64", "aarch64")


class CompileError(RuntimeError):
    """The compiler failed; the message is its output."""


def supported() -> bool | str:
    """True, or the reason why hostcuda cannot work on this machine."""
    system, machine = platform.system(), platform.machine()
    if sys.platform != "linux" or machine not in MACHINES:
        return f"hostcuda needs Linux on {' or '.join(MACHINES)}; this is {system} on {machine}"
    if shutil.which(CXX) is None:
        return f"hostcuda needs g++ {OLDEST_GCC} or later; not found: {CXX} (HOSTCUDA_CXX)"
    version = subprocess.run([CXX, "-dumpversion"], capture_output=True, text=True).stdout.strip()
    if not version.split(".")[0].isdigit() or int(version.split(".")[0]) < OLDEST_GCC:
        return f"hostcuda needs g++ {OLDEST_GCC} or later; {CXX} is {version or 'no compiler'}"
    try:
        importlib.metadata.version("cupy-cuda13x")
    except importlib.metadata.PackageNotFoundError:
        return "hostcuda emulates CUDA 13: it needs the package cupy-cuda13x"
    return True


@functools.cache
def cache() -> Path:
    """The folder of compiled files: ``HOSTCUDA_CACHE``, or a folder in the user's cache."""
    base = os.environ.get("HOSTCUDA_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "hostcuda")
    path = Path(base).absolute()
    path.mkdir(parents=True, exist_ok=True)
    return path


@functools.cache
def version() -> str:
    """The first line of ``g++ --version``."""
    command = [CXX, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0]


@functools.cache
def cpu_flags() -> tuple[str, ...]:
    """Enable float16 instructions if the CPU has them, but no others that could change values."""
    try:
        return ("-mf16c",) if " f16c " in Path("/proc/cpuinfo").read_text() else ()
    except OSError:
        return ()


def digest(*parts: object) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def run(command: list[str]) -> None:
    plain = os.environ | {"LC_ALL": "C"}  # messages in English
    done = subprocess.run(command, capture_output=True, text=True, env=plain)
    if done.returncode:
        raise CompileError(f"{' '.join(command)}\n{done.stderr[:4000]}")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """A lock on a path, for processes and threads."""
    folder = cache() / "locks"
    folder.mkdir(exist_ok=True)
    with open(folder / digest(str(path))[:3], "w") as file:  # closing it unlocks it
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def made(path: Path, make: Callable[[Path], object]) -> Path:
    """Let `make` write `path` unless it exists; a process that dies leaves no partial file."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path):
        if path.exists():
            return path
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=path.suffix)
        os.close(handle)
        try:
            make(Path(name))
            os.replace(name, path)
        finally:
            Path(name).unlink(missing_ok=True)
    return path
