"""Where a NaN comes from: the first layer and op, and whether in the forward, the backward or an update."""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from gpuprop._core.backend import Backend
from gpuprop._core.dtypes import is_float
from gpuprop._core.instruments import around_modules, inspect_ops, parameter_changed
from gpuprop._core.ops import Spec
from gpuprop._core.registry import backend_of
from gpuprop._core.tensor import Parameter
from gpuprop.nn._locate import path
from gpuprop.nn._module import Module

LIMIT = 4096  # looks on a device before the host reads what they found


@contextlib.contextmanager
def detect_nan() -> Iterator[None]:
    """Raise FloatingPointError where a NaN is born: on the host at once, on a device at the end of the block."""
    detector = Detector()
    try:
        with (np.errstate(all="ignore"), around_modules(detector.call), inspect_ops(detector.inspect),
              parameter_changed.listen(detector.update)):
            yield
    except FloatingPointError:
        raise
    except Exception as error:
        message = detector.read()
        if message:
            error.add_note(message)
        raise
    _raise(detector.read())


class Look(NamedTuple):
    """What was seen of one op, pullback or update."""

    when: int
    what: str
    nan: bool  # in what it made
    infinite: bool  # or NaN
    given: bool  # something infinite, or NaN, in what it was made of


class Flags:
    """The looks on one device, kept there, so that nobody waits."""

    def __init__(self, backend: Backend) -> None:
        self.backend, self.device = backend, backend.device()
        self.flags = backend.xp.zeros((LIMIT, 3), "bool")
        self.names: list[tuple[int, str]] = []

    def add(self, when: int, what: str, seen: list) -> None:
        for i, flag in enumerate(seen):
            self.flags[len(self.names), i] = flag
        self.names.append((when, what))

    def read(self) -> list[Look]:
        here = self.backend.device()
        self.backend.use_device(self.device)
        seen = self.backend.to_numpy(self.flags).tolist()
        self.backend.use_device(here)
        return [Look(*name, *flags) for name, flags in zip(self.names, seen, strict=False)]


class Detector:
    """Looks at what ops, pullbacks and updates make."""

    def __init__(self) -> None:
        self.stack: list[Module] = []  # the modules in whose forward we are
        self.roots: dict[int, Module] = {}
        self.flags: dict[Any, Flags] = {}
        self.source = ""  # of the first infinity
        self.looks = 0

    def call(self, module: Module, args: tuple, kwargs: dict, run: Callable) -> Any:
        if not self.stack:
            self.roots[id(module)] = module
        self.stack.append(module)
        try:
            return run(module, args, kwargs)
        finally:
            self.stack.pop()

    def inspect(self, spec: Spec, backend: Backend, run: Callable) -> Callable:
        name, names = spec.fn.__name__, [p.name for p in spec.arrays]

        def watched(xp: Any, *arrays: Any, **constants: Any) -> tuple:
            layer = f" in {path(self.stack)}" if self.stack else ""
            out, pullback = run(xp, *arrays, **constants)
            self.look(backend, out, arrays, f"the forward of {name}{layer}")

            def pulled(f: Callable, of: str = "") -> Callable:
                what = f"the backward of {name}{of}{layer}"
                return functools.wraps(f)(lambda d: self.look(backend, f(d), d, what))

            if type(pullback) is not tuple:
                return out, pullback and pulled(pullback)
            labels = [f"{names[0]}[{i}]" for i in range(len(pullback))] if spec.variadic else names
            return out, tuple(f and pulled(f, f" to {label!r}") for f, label in zip(pullback, labels, strict=False))

        return watched

    def update(self, p: Parameter) -> None:
        name = next((n for root in self.roots.values() for n, q in root.named_parameters() if q is p), None)
        self.look(backend_of(p.data), p.data, p.grad, f"the update of {name or f'a parameter of shape {p.shape}'}")

    def look(self, backend: Backend, made: Any, of: Any, what: str) -> Any:
        """Note whether what was `made` is finite, and what it was made `of`; on the host raise at once."""
        xp, outputs = backend.xp, _floats(made)
        if outputs:
            nan = _any(xp.isnan(a).any() for a in outputs)
            seen = [nan, *(_any(~xp.isfinite(a).all() for a in arrays) for arrays in (outputs, _floats(of)))]
            self.looks += 1
            if backend.array_type is np.ndarray:
                _raise(self.first([Look(self.looks, what, *seen)]))
            else:
                self.flags_of(backend).add(self.looks, what, seen)
        return made

    def flags_of(self, backend: Backend) -> Flags:
        key = backend.name, backend.device()
        if key in self.flags and len(self.flags[key].names) == LIMIT:
            _raise(self.read())
        if key not in self.flags:
            self.flags[key] = Flags(backend)
        return self.flags[key]

    def read(self) -> str:
        """What the first NaN on any device comes from; the flags are lowered."""
        looks = sorted(look for flags in self.flags.values() for look in flags.read())
        self.flags.clear()
        return self.first(looks)

    def first(self, looks: list[Look]) -> str:
        """What the first NaN among these comes from, in words."""
        for look in looks:
            if look.nan:
                ill = f"infinity, from {self.source}" if self.source else "NaN or infinity that was there before"
                return f"the first NaN comes from {look.what}, computed with {ill if look.given else 'finite numbers'}"
            if look.infinite and not look.given:
                self.source = self.source or look.what
        return ""


def _raise(message: str) -> None:
    if message:
        raise FloatingPointError(message)


def _any(flags: Iterable) -> Any:
    return functools.reduce(operator.or_, flags, False)


def _floats(values: Any) -> list[Any]:
    """The floating arrays among what a body takes or gives, NumPy's scalars included."""
    flat = values if isinstance(values, list | tuple) else (values,)
    return [a for a in flat if hasattr(a, "dtype") and is_float(a.dtype)]
