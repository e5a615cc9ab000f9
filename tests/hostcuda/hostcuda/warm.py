"""Compiles kernels ahead of their use on a machine with a GPU, on all cores, into CuPy's cache.

    python -m hostcuda.kernels save LIST    # on a machine without a GPU, after a run of the program
    python -m hostcuda.warm LIST            # with a GPU: the program then compiles nothing

NVRTC takes about 0.3 s per kernel, and a program compiles its kernels one after another.
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
    """Compile sources with CuPy, into its cache; returns the error messages."""
    from cupy.cuda import compiler

    before, after, keywords = _options_of_cupy()
    failed = []
    for line in given:
        source, options, names = json.loads(line)
        language = [o for o in options if "std=" in o]
        others = [o for o in options if "std=" not in o and not o.startswith("-I")]
        keywords["name_expressions"] = tuple(names) or None
        try:
            compiler._compile_module_with_cache(
                source, (*before, *others, *language, *after), **keywords)
        except compiler.CompileException as error:
            failed.append(str(error))
    return failed


def _options_of_cupy() -> tuple[tuple, tuple, dict]:
    """CuPy's options on this machine before and after a kernel's own, and its keywords."""
    import cupy
    from cupy.cuda import compiler

    calls = []
    real = compiler._compile_module_with_cache

    def watched(source, options=(), **keywords):
        calls.append((options, keywords))
        return real(source, options, **keywords)

    compiler._compile_module_with_cache = watched
    try:
        kernel = cupy.ElementwiseKernel("float32 x", "float32 y", "y = x", "hostcuda_warm")
        kernel(cupy.zeros(1, "float32"))
    finally:
        compiler._compile_module_with_cache = real
    options, keywords = calls[-1]
    language = next(i for i, o in enumerate(options) if "std=" in o)
    return options[:language], options[language + 1:], keywords


def warm(path: str, workers: int | None = None) -> int:
    """Compile a list of kernels; returns the number of failures."""
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
