"""Loops that Numba compiles, if it is installed."""

from __future__ import annotations

import functools
import importlib
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuprop_numpy import loop_cache

MIN_SIZE = 1 << 15  # elements: for fewer, nobody should wait for Numba to compile


class Loop:
    """A compiled function: for the types of each call, or for one signature.

    Arrays of any layout may be given to a signature of layout "A".

    It has slots, so that the engine's search for arrays that pullbacks hold does not enter Numba.
    """

    __slots__ = ("address", "function")

    def __init__(self, function: Any, signature: tuple | None = None) -> None:
        self.function = loop_cache.keep(function)
        self.function.compile = _uninterrupted(self.function.compile)
        if signature is not None:
            self.function.compile(signature)
            self.function.disable_compile()
            compiled, = self.function.overloads.values()
            # of the machine code, while this object lives
            self.address: int = compiled.library.get_pointer_to_function(
                compiled.fndesc.llvm_func_name)

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


@functools.cache
def njit(in_any_order: bool = False) -> Callable | None:
    """Numba's decorator, or None if Numba is not installed, cannot be imported or compiles nothing.

    With `in_any_order`, sums are added in the order that is fastest on this processor.  Such a
    function is inlined: a copy of it that is compiled alone may add in another order.
    """
    try:
        numba = _uninterrupted(importlib.import_module)("numba")
    except Exception:  # of another version of NumPy or LLVM, or of a setting in the environment
        return None
    if numba.config.DISABLE_JIT:
        return None
    let_forks_wait()
    fastmath = {"reassoc", "nsz"} if in_any_order else False
    return numba.njit(
        nogil=True, error_model="numpy", fastmath=fastmath, forceinline=in_any_order)


def _uninterrupted(call: Callable) -> Callable:
    """`call`, during which the handlers of signals wait, such as that of ctrl-C.

    Python runs them in the main thread, in LLVM's callbacks too, where an exception is lost and
    leaves LLVM damaged.  It would also leave Numba half imported.
    """
    @functools.wraps(call)
    def run(*args: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            return call(*args)
        waiting: dict[int, tuple] = {}  # the arguments for handlers, by signal
        handlers = {number: handler for number in signal.valid_signals()
                    if callable(handler := signal.getsignal(number))}
        try:
            for number in handlers:
                signal.signal(number, lambda *args: waiting.update({args[0]: args}))
            return call(*args)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            for given in waiting.values():
                handlers[given[0]](*given)

    return run


@functools.cache
def let_forks_wait() -> None:
    """Let a fork wait while another thread compiles.

    The child, which does not have that thread, would wait for Numba's lock for ever.
    """
    from numba.core.compiler_lock import global_compiler_lock as lock

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)


def may_be_silent() -> bool:
    """Whether np.errstate lets loops report nothing; "warn" is NumPy's default."""
    return {*np.geterr().values()} <= {"warn", "ignore"}
