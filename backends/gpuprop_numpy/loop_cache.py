"""Keeps the machine code of compiled loops on disk, so that a machine compiles each loop once.

A file is named by a digest of all that its code depends on: the loop and the functions in it, with
their constants; the types of the arguments; the processor; the versions; and Numba's settings in
the environment.  So a file never goes out of date.  All files may be deleted at any time.

Numba's own cache does not take these loops: it identifies the functions in a closure by random
numbers.  It may also confuse functions of one name that several processes have compiled
(https://github.com/numba/numba/issues/10486).  Here each loaded loop has an LLVM engine of its own,
in which its names meet no others.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pickle
import platform
import sys
import tempfile
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np

DIGEST = hashlib.sha256
CONSTANTS = (bool, int, float, complex, str, bytes, np.generic, np.dtype, type(None), type(...))
CONTAINERS = (tuple, list, frozenset, CodeType)


def keep(function: Any) -> Any:
    """Let a function of Numba load its code from disk instead of compiling it, or save it there.

    Every error means that the function is compiled, as without files.
    """
    folder = cache_folder()
    if folder is not None:
        function._cache = LoopCache(function, folder)
    return function


def cache_folder() -> Path | None:
    """The folder of the files; None if nobody wants it, or knows the user's home."""
    from numba import config
    from numba.misc.appdirs import AppDirs

    if os.environ.get("GPUPROP_LOOP_CACHE") == "0":
        return None
    chosen = config.CACHE_DIR  # type: ignore[attr-defined]
    parent = chosen or AppDirs("gpuprop", appauthor=False).user_cache_dir
    return Path(parent, "loops") if os.path.isabs(parent) else None


class LoopCache:
    """The files of one function, for Numba, which has named the methods."""

    def __init__(self, function: Any, folder: Path) -> None:
        self.cache_path = str(folder)
        self._folder = folder
        self._function = function

    def load_overload(self, signature: Any, context: Any) -> Any:
        """The compiled function for a signature, or None."""
        from numba.core.codegen import JITCPUCodegen
        from numba.core.compiler import CompileResult
        from numba.core.runtime import rtsys

        with contextlib.suppress(Exception):  # of the file, or of another version of Numba
            saved = self._path(signature, context.codegen()).read_bytes()
            digest, data = saved[:DIGEST().digest_size], saved[DIGEST().digest_size:]
            if DIGEST(data).digest() == digest:  # else the file was damaged
                rtsys.initialize(context)
                engine = context.subtarget(_internal_codegen=JITCPUCodegen("gpuprop"))
                return CompileResult._rebuild(engine, *pickle.loads(data))
        return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        from numba.core.serialize import dumps

        with contextlib.suppress(Exception):
            data = dumps(compiled._reduce())
            path = self._path(signature, compiled.library.codegen)
            self._folder.mkdir(parents=True, exist_ok=True)
            replace(path, DIGEST(data).digest() + data)

    def flush(self) -> None:
        """Nothing to do: no file is out of date."""

    def _path(self, signature: Any, codegen: Any) -> Path:
        lines = [*self._description, str(signature), repr(codegen.magic_tuple()), *environment()]
        name = self._function.py_func.__name__
        return self._folder / f"{name}-{DIGEST(repr(lines).encode()).hexdigest()[:40]}.loop"

    @functools.cached_property
    def _description(self) -> list[str]:
        return description(self._function)


def replace(path: Path, data: bytes) -> None:
    """Write a file that other processes see whole or not at all."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def environment() -> list[str]:
    """What the code depends on besides the function, its arguments and the processor."""
    import llvmlite
    import numba

    settings = sorted(f"{name}={value}" for name, value in os.environ.items()
                      if name.startswith("NUMBA_"))
    return [str(sys.implementation.cache_tag), platform.system(), numba.__version__,
            llvmlite.__version__, np.__version__, *settings]


# ---- a description of a function -----------------------------------------------------------------


def description(value: Any, seen: dict[int, tuple[int, Any]] | None = None) -> list[str]:
    """Lines that are equal for two values only if Numba compiles the same code for them.

    Functions and classes of this package are described by their code and all that it refers to,
    others by their names.  Raises AttributeError for a value that has none.  `seen` has the number
    of each value that was met before, by id, and the value, which must stay alive.
    """
    seen = {} if seen is None else seen
    if isinstance(value, CONSTANTS):
        return [f"{type(value).__qualname__} {value!r}"]
    if isinstance(value, ModuleType):
        return [value.__name__]
    if id(value) in seen:
        return [f"value {seen[id(value)][0]}"]
    if not isinstance(value, CONTAINERS):  # whether two of these are one object is chance
        seen[id(value)] = len(seen), value
    parts = parts_of(value)
    lines = [f"{type(value).__qualname__} of {len(parts)}"]
    for part in parts:
        lines += description(part, seen)
    return lines


def parts_of(value: Any) -> list:
    """What determines a value: names, constants and other such values."""
    if isinstance(value, tuple | list):
        return list(value)
    if isinstance(value, frozenset):  # a constant
        return sorted(map(repr, value))
    if isinstance(value, CodeType):
        return [value.co_code, value.co_consts, value.co_names, value.co_varnames,
                value.co_freevars, value.co_argcount, value.co_flags]
    for wrapped in ("py_func", "_defn", "__wrapped__"):  # of Numba's functions, and of others
        if hasattr(value, wrapped):
            return [repr(getattr(value, "targetoptions", None)), getattr(value, wrapped)]
    names = [value.__module__, value.__qualname__]
    if value.__module__ and value.__module__.partition(".")[0] != __package__:
        return names
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        used = sorted(names_in(value.__code__) & value.__globals__.keys())
        return [*names, value.__code__, value.__defaults__, [*(value.__kwdefaults__ or {}).items()],
                cells, [(name, value.__globals__[name]) for name in used]]
    described = (FunctionType, staticmethod, *CONSTANTS)
    return [*names, [item for item in vars(value).items() if isinstance(item[1], described)]]


def names_in(code: CodeType) -> set[str]:
    """The names of modules' values and of attributes in the code, and in functions in it."""
    inner = [names_in(part) for part in code.co_consts if isinstance(part, CodeType)]
    return set(code.co_names).union(*inner)
