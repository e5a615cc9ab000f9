"""Compiles kernels on a machine with a GPU before they are needed, on all cores, into CuPy's cache.

    python -m hostcuda.kernels save LIST        # without a GPU, after a run of the program there
    python -m hostcuda.warm LIST                # with one: the program's first run compiles nothing

NVRTC takes about 0.3 s a kernel, one after another, in a program that meets them one by one.
"""

from __future__ import annotations

import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from .kernels import lines


def compile_all(given: list[str]) -> list[str]:
    """Have CuPy compile sources and keep what comes of it; the messages of those that fail."""
    from cupy.cuda import compiler

    before, after, keywords = _added_here()
    failed = []
    for line in given:
        source, options, names = json.loads(line)
        language = [o for o in options if "std=" in o]
        own = [o for o in options if "std=" not in o and not o.startswith("-I")]
        known = keywords | {"name_expressions": tuple(names) or None}
        try:
            compiler._compile_module_with_cache(
                source, (*before, *own, *language, *after), **known)
        except compiler.CompileException as error:
            failed.append(str(error))
    return failed


def _added_here() -> tuple[tuple, tuple, dict]:
    """The options that CuPy adds on this machine before and after a kernel's own, and keywords."""
    import cupy
    from cupy.cuda import compiler

    asked = []
    real = compiler._compile_module_with_cache

    def look(source, options=(), **keywords):
        asked.append((options, keywords))
        return real(source, options, **keywords)

    compiler._compile_module_with_cache = look
    try:
        kernel = cupy.ElementwiseKernel("float32 x", "float32 y", "y = x", "hostcuda_warm")
        kernel(cupy.zeros(1, "float32"))
    finally:
        compiler._compile_module_with_cache = real
    options, keywords = asked[-1]
    language = next(i for i, o in enumerate(options) if "std=" in o)
    return options[:language], options[language + 1:], keywords


def warm(path: str, workers: int | None = None) -> int:
    """Compile a list of kernels; how many failed."""
    start = time.perf_counter()
    known, workers = lines(path), workers or os.cpu_count() or 1
    parts = [part for i in range(workers) if (part := known[i::workers])]
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        failed = [message for found in pool.map(compile_all, parts) for message in found]
    print(f"hostcuda: {len(known)} kernels compiled in {time.perf_counter() - start:.0f} s "
          f"by {len(parts)} processes, {len(failed)} failed")
    for message in failed:
        print(message, file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    sys.exit(bool(warm(sys.argv[1])))
