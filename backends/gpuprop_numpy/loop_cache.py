"""Keeps the machine code of compiled loops on disk, so that each loop is compiled once.

A file is named by a digest of all that its code depends on: the loop and the functions in it, with
their constants; the types of the arguments; the processor; the versions; and Numba's settings.  So
a file never goes out of date.  All files may be deleted at any time.  They are unpickled, so nobody
else may be able to write to the folder.

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
import sys
import sysconfig
import uuid
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np

DIGEST_SIZE = 32  # bytes
NUMBERS = (bool, int, float, complex, np.generic)
CONSTANTS = (str, bytes, np.dtype, type(None), type(...))
CONTAINERS = (tuple, list, set, frozenset, dict, slice, CodeType)
NAMED = {"builtins", "llvmlite", "math", "numba", "numpy"}  # their versions are in the digest
IGNORED = {"__dict__", "__doc__", "__module__", "__weakref__", "__static_attributes__",
           "__firstlineno__"}  # attributes of a class


def keep(function: Any) -> Any:
    """Let a function of Numba load its code from disk instead of compiling it, or save it there.

    Every error means that the function is compiled, as without files.
    """
    with contextlib.suppress(Exception):  # of another version of Numba
        folder = cache_folder()
        if folder is not None:
            function._cache = LoopCache(function, folder)
    return function


def cache_folder() -> Path | None:
    """The folder of the files; None if GPUPROP_LOOP_CACHE is 0 or the user has no home."""
    from numba import config
    from numba.misc.appdirs import AppDirs

    if os.environ.get("GPUPROP_LOOP_CACHE") == "0":
        return None
    chosen = config.CACHE_DIR  # type: ignore[attr-defined]
    if chosen:
        return Path(chosen).absolute() / "gpuprop" / "loops"
    folder = AppDirs("gpuprop", appauthor=False).user_cache_dir
    return Path(folder, "loops") if os.path.isabs(folder) else None


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

        with contextlib.suppress(Exception):  # of the file, or of another version of Numba
            initialize_runtime(context)
            data = read_whole(self.path(signature, context.codegen()))
            if data is not None:
                engine = context.subtarget(_internal_codegen=JITCPUCodegen("gpuprop"))
                return CompileResult._rebuild(engine, *pickle.loads(data))
        return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        from numba.core.serialize import dumps

        library = compiled.library
        with contextlib.suppress(Exception):
            if not library.has_dynamic_globals:  # addresses of this process
                path = self.path(signature, library.codegen)
                write_whole(path, dumps(compiled._reduce()))

    def flush(self) -> None:
        """Nothing to do: no file is out of date."""

    def path(self, signature: Any, codegen: Any) -> Path:
        """The file for a signature."""
        lines = [*self._description, str(signature), repr(codegen.magic_tuple()), *environment()]
        return path_of(self._folder, self._function.py_func.__name__, lines)

    @functools.cached_property
    def _description(self) -> list[str]:
        return description(self._function)


def digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def path_of(folder: Path, name: str, lines: list[str]) -> Path:
    """The file of a function that these lines describe."""
    return folder / f"{name}-{digest(repr(lines).encode()).hex()[:40]}.loop"


def read_whole(path: Path) -> bytes | None:
    """What `write_whole` has written; None if there is no file, or a damaged one."""
    saved = path.read_bytes() if path.is_file() else b""  # to open a pipe might wait
    data = saved[DIGEST_SIZE:]
    return data if digest(data) == saved[:DIGEST_SIZE] else None


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that other processes see whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{uuid.uuid4().hex}")
    try:
        temporary.write_bytes(digest(data) + data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def initialize_runtime(context: Any) -> None:
    """Initialize Numba's runtime, whose functions are kept on disk, too.

    Otherwise LLVM compiles them in every process, for which it takes 20 MB of memory.
    """
    from numba.core.runtime import nrtdynmod, rtsys

    compile_functions = nrtdynmod.compile_nrt_functions
    nrtdynmod.compile_nrt_functions = functions_of_runtime
    try:
        rtsys.initialize(context)
    finally:
        nrtdynmod.compile_nrt_functions = compile_functions


def functions_of_runtime(context: Any) -> Any:
    """``nrtdynmod.compile_nrt_functions(context)``, from disk if they were compiled before."""
    from numba.core.runtime import nrtdynmod

    codegen = context.codegen()
    folder = cache_folder()
    assert folder is not None  # it has the loop that needs the runtime
    path = path_of(folder, "runtime", [repr(codegen.magic_tuple()), *environment()])
    data = read_whole(path)
    if data is not None:
        return codegen.unserialize_library(pickle.loads(data))
    module, library = nrtdynmod.create_nrt_module(context)
    library.enable_object_caching()
    library.add_ir_module(module)
    library.finalize()
    with contextlib.suppress(OSError):
        write_whole(path, pickle.dumps(library.serialize_using_object_code()))
    return library


def environment() -> list[str]:
    """What the code depends on besides the function, its arguments and the processor."""
    import llvmlite
    import numba
    from numba import config

    config.reload_config()  # as the compiler does, if variables of the environment have changed
    settings = sorted(
        f"{name}={value!r}" for name, value in vars(config).items()
        if name.isupper() and isinstance(value, (*NUMBERS, str, type(None)))
        and not name.startswith("CUDA") and "CACHE" not in name and "THREAD" not in name)
    return [sys.version, str(sysconfig.get_config_var("SOABI")), sysconfig.get_platform(),
            numba.__version__, llvmlite.__version__, np.__version__, *settings]


# ---- a description of a function -----------------------------------------------------------------


def description(value: Any, seen: dict[int, tuple[int, Any]] | None = None) -> list[str]:
    """Lines that are equal for two values only if Numba compiles the same code for them.

    Functions and classes of this package are described by their code and all that it refers to,
    those of NAMED packages by their names.  Raises TypeError for others.  `seen` has the number of
    each value that was met before, by id, and the value, which must stay alive.
    """
    seen = {} if seen is None else seen
    kind = type(value).__qualname__
    if isinstance(value, NUMBERS):  # by bits: repr depends on settings, and hides the sign of NaN
        bits = repr(value) if isinstance(value, int) else np.asarray(value).tobytes().hex()
        return [f"{kind} {bits}"]
    if isinstance(value, CONSTANTS):
        return [f"{kind} {value!r}"]
    if id(value) in seen:
        return [f"value {seen[id(value)][0]}"]
    if not isinstance(value, CONTAINERS):  # whether two of these are one object is chance
        seen[id(value)] = len(seen), value
    found = [description(part, seen) for part in parts_of(value)]
    if isinstance(value, set | frozenset):
        found.sort()
    return [f"{kind} of {len(found)}", *(line for lines in found for line in lines)]


def parts_of(value: Any) -> list:
    """What determines a value: names, constants and other such values."""
    if isinstance(value, tuple | list | set | frozenset):
        return list(value)
    if isinstance(value, dict):
        return sorted(value.items())
    if isinstance(value, slice):
        return [value.start, value.stop, value.step]
    if isinstance(value, CodeType):
        return [value.co_code, value.co_consts, value.co_names, value.co_varnames,
                value.co_freevars, value.co_argcount, value.co_flags]
    for wrapped in ("py_func", "_defn", "__wrapped__"):  # of Numba's functions, and of others
        if hasattr(value, wrapped):
            return [getattr(value, "targetoptions", None), getattr(value, wrapped)]
    is_module = isinstance(value, ModuleType)
    module = value.__name__ if is_module else getattr(value, "__module__", "?")
    package = module and module.partition(".")[0]  # None for a function without a module
    if package in NAMED:
        return [module, None if is_module else value.__qualname__]
    if package in (__package__, None) and isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        used = names_in(value.__code__) & value.__globals__.keys()
        return [module, value.__qualname__, value.__code__, value.__defaults__,
                value.__kwdefaults__, cells, {name: value.__globals__[name] for name in used}]
    if package == __package__ and isinstance(value, type):
        attributes = {name: a for name, a in vars(value).items() if name not in IGNORED}
        return [module, value.__qualname__, attributes]
    raise TypeError(f"{value!r} has no description")


def names_in(code: CodeType) -> set[str]:
    """The names of modules' values and of attributes in the code, and in functions in it."""
    inner = [names_in(part) for part in code.co_consts if isinstance(part, CodeType)]
    return set(code.co_names).union(*inner)
