"""Hostcuda's libcuda and libcublas, compiled on first use."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .toolchain import CXX, cache, cpu_flags, digest, made, run, version

HERE = Path(__file__).parent / "native"
FLAGS = ("-std=c++20", "-c", "-fPIC", "-w", "-fvisibility=hidden")
SLOW_TO_OPTIMIZE = ("thrust", "cub", "cublas")  # templates of many types


def libraries() -> tuple[Path, Path]:
    """The paths of libcuda and libcublas."""
    files = {p: p.read_text() for p in sorted(HERE.iterdir()) if p.is_file()}
    headers = [text for p, text in files.items() if p.suffix == ".h"]
    key = digest([(p.name, text) for p, text in files.items()], version(), cpu_flags())
    folder = cache() / f"native-{key}"
    cuda, cublas = folder / "libcuda.so.1", folder / "libcublas.so.13"
    if cuda.exists() and cublas.exists():
        return cuda, cublas

    def compiled(source: Path) -> str:
        level = "-O1" if source.name.startswith(SLOW_TO_OPTIMIZE) else "-O2"
        command = [CXX, *FLAGS, *cpu_flags(), level, str(source), "-o"]
        name = f"{source.stem}-{digest(files[source], headers, version(), command[1:-2])}.o"
        return str(made(cache() / "objects" / name, lambda out: run([*command, str(out)])))

    def linked(path: Path, sources: list[Path], *options: str) -> None:
        command = [CXX, "-shared", f"-Wl,-soname,{path.name}", *(objects[p] for p in sources)]
        made(path, lambda out: run([*command, "-o", str(out), *options]))

    sources = [p for p in files if p.suffix == ".cpp"]
    sources.sort(key=lambda p: p.name != "thrust.cpp")  # the slowest first
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = dict(zip(sources, pool.map(compiled, sources), strict=True))
    of_cublas = [p for p in sources if p.name.startswith("cublas")]
    linked(cuda, [p for p in sources if p not in of_cublas], "-ldl", "-lpthread")
    linked(cublas, of_cublas, f"-Wl,--version-script={HERE / 'cublas.map'}", f"-L{folder}",
           "-l:libcuda.so.1")
    return cuda, cublas
