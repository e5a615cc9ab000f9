"""`Mode`: how ops run in the current context, and the functions that change it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar, cast, overload

from gpuprop._core.checks import as_bool, as_callable
from gpuprop._core.dtypes import as_dtype, is_float
from gpuprop._core.warnings import warn_once, was_issued

F = TypeVar("F", bound=Callable)


class Mode(NamedTuple):
    """How ops run in this context."""

    recording: bool = True  # False inside no_grad()
    generic: bool = False  # True inside generic()
    low: Any = None  # the low-precision dtype inside autocast, else None
    depth: int = 1  # the level of the outermost Tensors: 1, and one more inside each grad()
    inspect: Callable | None = None  # (spec, backend, run) -> run: see `instruments.inspect_ops`
    recorded_in: Any = None  # while a step is recorded with arrays of its own


def current_recording() -> Any:
    """The recording with arrays of its own of which this context is a part, or None.

    Copies of the context, which callbacks and tasks get, outlive the recording.
    """
    recording = current.get().recorded_in
    return None if recording is None or recording.has_ended else recording


def current_recorder() -> Any:
    """The `Backend.recorder` that runs ops in this context, or None."""
    recording = current_recording()
    return None if recording is None else recording.backend


current: ContextVar[Mode] = ContextVar("gpuprop_mode", default=Mode())  # noqa: B039 (immutable)


class Block(contextlib.ContextDecorator):
    """Abstract: a context manager and decorator whose effect is local to the context.

    One object may be entered several times, also by several threads at once, so `__enter__` keeps
    what `__exit__` needs in a context variable.  A decorated generator or coroutine has the effect
    while it runs, and its caller has not.
    """

    def __enter__(self) -> Any:
        raise NotImplementedError

    def __exit__(self, *error: Any) -> None:
        raise NotImplementedError

    def __call__(self, fn: F) -> F:
        if isinstance(fn, type):
            raise TypeError(f"class {fn.__qualname__} cannot be decorated: decorate its methods")
        flags = _code_flags(fn)
        if flags & CO_GENERATOR:
            return cast(F, self._generator_function(fn))
        if flags & CO_ASYNC_GENERATOR:
            return cast(F, self._async_generator_function(fn))
        if flags & CO_COROUTINE:
            return cast(F, self._coroutine_function(fn))
        return super().__call__(fn)

    def _generator_function(self, fn: Callable) -> Callable:
        @functools.wraps(fn)
        def generate(*args: Any, **kwargs: Any) -> Generator:
            generator = fn(*args, **kwargs)
            resumed = _Resumed(self)
            resume: Callable[[], Any] = functools.partial(next, generator)
            while True:
                with resumed:  # not around `yield`: the caller is outside of the block
                    try:
                        value = resume()
                    except StopIteration as end:
                        return end.value
                try:
                    sent = yield value
                except GeneratorExit:
                    with resumed:
                        generator.close()
                    raise
                except BaseException as error:
                    resume = functools.partial(generator.throw, error)
                else:
                    resume = functools.partial(generator.send, sent)

        return generate

    def _async_generator_function(self, fn: Callable) -> Callable:
        @functools.wraps(fn)
        async def generate(*args: Any, **kwargs: Any) -> AsyncGenerator:
            generator = fn(*args, **kwargs)
            resumed = _Resumed(self)
            resume: Callable[[], Any] = generator.__anext__
            while True:
                with resumed:
                    try:
                        value = await resume()
                    except StopAsyncIteration:
                        return
                try:
                    sent = yield value
                except GeneratorExit:
                    with resumed:
                        await generator.aclose()
                    raise
                except BaseException as error:
                    resume = functools.partial(generator.athrow, error)
                else:
                    resume = functools.partial(generator.asend, sent)

        return generate

    def _coroutine_function(self, fn: Callable) -> Callable:
        @functools.wraps(fn)
        async def run(*args: Any, **kwargs: Any) -> Any:
            with self:
                return await fn(*args, **kwargs)

        return run


CO_GENERATOR, CO_COROUTINE, CO_ASYNC_GENERATOR = 0x20, 0x80, 0x200  # as `inspect` names them


def _code_flags(fn: Any) -> int:
    while isinstance(fn, functools.partial | staticmethod):
        fn = fn.func if isinstance(fn, functools.partial) else fn.__func__
    return getattr(getattr(fn, "__code__", None), "co_flags", 0)


# (block, what it needs to end) for each block that is entered, outermost first.
_open_blocks: ContextVar[tuple[tuple[Block, Any], ...]] = ContextVar("gpuprop_blocks", default=())


def push_block(block: Block, saved: Any) -> None:
    """Keep what the end of a block needs, in this context."""
    _open_blocks.set((*_open_blocks.get(), (block, saved)))


def pop_block(block: Block) -> tuple[Any, ...]:
    """(saved,) of the last entry of a block; () if it was entered in another context.

    It need not be the innermost block: those of generators overlap.
    """
    entries = _open_blocks.get()
    for i in reversed(range(len(entries))):
        if entries[i][0] is block:
            _open_blocks.set(entries[:i] + entries[i + 1:])
            return (entries[i][1],)
    return ()


class _Resumed:
    """The blocks that a suspended generator is in: they are open only while its body runs."""

    def __init__(self, block: Block) -> None:
        self._block = block
        self._inner: tuple[tuple[Block, Any], ...] = ()  # those that the body has opened

    def __enter__(self) -> None:
        self._block.__enter__()
        self._outer = len(_open_blocks.get())
        for block, saved in self._inner:
            if isinstance(block, Setting):
                Setting.__enter__(block)
            else:
                push_block(block, saved)

    def __exit__(self, *error: Any) -> None:
        self._inner = _open_blocks.get()[self._outer:]
        for block, _ in reversed(self._inner):
            if isinstance(block, Setting):
                Setting.__exit__(block)
            else:
                pop_block(block)
        self._block.__exit__(*error)


class Setting(Block):
    """A block in which a context variable, or an object with its `get` and `set`, is changed."""

    def __init__(self, variable: Any, value: Any) -> None:
        self._variable = variable
        self._value = value

    def __enter__(self) -> Any:
        before = self._variable.get()
        push_block(self, before)
        self._variable.set(self._changed(before))

    def __exit__(self, *error: Any) -> None:
        """Take back this change; those of later blocks that are still open stay.

        In a context that did not enter the block, nothing changes.
        """
        entries = _open_blocks.get()
        for i in reversed(range(len(entries))):
            if entries[i][0] is self:
                value = entries[i][1]
                later = []
                for block, saved in entries[i + 1:]:
                    if isinstance(block, Setting) and block._variable == self._variable:
                        saved, value = value, block._changed(value)
                    later.append((block, saved))
                _open_blocks.set((*entries[:i], *later))
                self._variable.set(value)
                return

    def _changed(self, before: Any) -> Any:
        return self._value


class Switch(Setting):
    """A block in which some fields of the mode have other values."""

    def __init__(self, **change: Any) -> None:
        super().__init__(current, change)

    def _changed(self, before: Mode) -> Mode:
        return before._replace(**self._value)


@overload
def no_grad() -> Switch: ...
@overload
def no_grad(function: F) -> F: ...
def no_grad(function: Any = None) -> Any:
    """Record no op inside the block, or the function that `no_grad` or `no_grad()` decorates."""
    return _block_or_decorated(Switch(recording=False), "no_grad", function)


@overload
def enable_grad() -> Switch: ...
@overload
def enable_grad(function: F) -> F: ...
def enable_grad(function: Any = None) -> Any:
    """Record ops inside the block, or the decorated function, even inside a no_grad()."""
    return _block_or_decorated(Switch(recording=True), "enable_grad", function)


def _block_or_decorated(block: Switch, name: str, function: Any) -> Any:
    return block if function is None else block(as_callable(f"{name}: function", function))


def generic() -> Switch:
    """Run the definitions of ops inside the block: no faster versions, no backend's overrides."""
    return Switch(generic=True)


def autocast(dtype: Any = "float16", enabled: bool = True) -> Switch:
    """Run matrix products in a low precision, and ops that need range, such as norms, in float32.

    The casts are recorded.  Parameters and their gradients keep their dtype.  An op with a float64
    argument is not changed.

    In float16, gradients below 6e-8 become 0 unless a `gpuprop.amp.GradScaler` scales the loss; the
    first backward without it warns.  bfloat16 has the range of float32.
    """
    try:
        low = None if dtype is None else as_dtype(dtype)
    except TypeError:
        low = None
    if low is None or not is_float(low):
        raise TypeError(f"autocast: expected a floating dtype such as 'bfloat16', got {dtype!r}")
    enabled = as_bool("autocast: enabled", enabled)
    if enabled and low == "float16" and not backward_checks and not was_issued(UNSCALED):
        backward_checks.append(_check_scaling)
    return Switch(low=low if enabled else None)


loss_scaling_ops: set[Any] = set()  # the `Spec`s of ops that scale losses
backward_checks: list[Callable[[Iterable[Any]], None]] = []  # called with the nodes of a backward
UNSCALED = ("backward in float16 without loss scaling: gradients below 6e-8 become 0: scale the "
            "loss with gpuprop.amp.GradScaler, or use autocast('bfloat16')")


def _check_scaling(nodes: Iterable[Any]) -> None:
    """Warn, once in a process, if a backward passes through float16 and its loss is not scaled."""
    if any(node.op in loss_scaling_ops for node in nodes):
        return
    if any(node.dtype == "float16" for node in nodes):
        backward_checks.clear()
        warn_once(UNSCALED)


def is_grad_enabled() -> bool:
    """True if ops are recorded in this context."""
    return current.get().recording


def is_autocasting() -> bool:
    """True inside autocast()."""
    return current.get().low is not None


def is_generic() -> bool:
    """True inside generic()."""
    return current.get().generic
