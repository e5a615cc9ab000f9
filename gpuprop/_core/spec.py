"""What is known of an op or kernel: its signature, its versions, and the choice of one."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from typing import Any

from gpuprop._core.backend import BY_TYPE, SEVERAL, Backend, BackendMismatchError
from gpuprop._core.mode import Mode, current
from gpuprop._core.namespace import Differentiable
from gpuprop._core.registry import checks
from gpuprop._core.signature import parameters, public_module, text_of

definitions: dict[str, Callable] = {}  # the body of every op and kernel, by its name
_choices: list[dict] = []  # the `chosen` of every Spec, to be cleared when versions change


class Spec:
    """The signature of an op or kernel, and the versions of its body."""

    def __init__(self, fn: Callable, registered: bool = True, label: str | None = None) -> None:
        self.fn = fn  # the definition
        self.portable: Callable | None = None  # a faster version on `xp`
        self.name = f"{public_module(fn.__module__)}:{fn.__qualname__}"
        self.parameters = parameters(fn)
        self.arrays = [p for p in self.parameters if p.is_array]
        if not self.arrays:
            raise TypeError(f"{self.name}: annotate the parameters that are arrays "
                            f"with gpuprop.Array")
        self.variadic = self.arrays[0].variadic
        self.arrays_first = self.variadic or self.parameters[: len(self.arrays)] == self.arrays
        self.chosen: dict[type, tuple[Any, Callable]] = {}  # array type -> (backend, version)
        self.is_op = False  # or a kernel
        self._label = label or fn.__name__
        _choices.append(self.chosen)
        if registered:
            definitions[self.name] = fn
        else:
            self.name = ""  # no backend overrides it: the body chooses among its own versions

    def label(self, shape: tuple | None) -> str:
        """The name of the op for messages; "{n}" in it is the number of spatial dimensions.

        `shape` is that of the output, (N, C, *space).
        """
        return self._label.format(n="n" if shape is None else len(shape) - 2)

    def argument(self, i: int) -> str:
        """The name of the i-th array argument."""
        return f"{self.arrays[0].name}[{i}]" if self.variadic else self.arrays[i].name

    # ---- versions

    def add_portable(self, version: Callable) -> None:
        """Use a faster version of the body, which has the definition's parameters."""
        expected, given = (
            [(p.name, repr(p.default)) for p in of]
            for of in (self.parameters, parameters(version)))
        if expected != given:
            raise TypeError(f"{self.name}: a faster version must have the parameters "
                            f"{text_of(self.fn)}, not {text_of(version)}")
        self.portable = version
        forget_choices()

    def version_for(self, backend: Backend) -> Callable:
        """The body for a backend: its override, else the portable version, else the definition."""
        if current.get().generic:
            return self.fn
        return backend.kernels.get(self.name) or self.portable or self.fn

    def choose(self, owner: type, mode: Mode) -> tuple[Any, Callable]:
        """The backend of the array type `owner`, and what runs on it."""
        if isinstance(owner, Differentiable):
            return owner, self._arrays_first(self.fn)
        backend = BY_TYPE[owner]
        run = self._arrays_first(self.version_for(backend))
        inspected = mode.inspect is not None and self.is_op
        if mode.inspect is not None and inspected:
            run = mode.inspect(self, backend, run)
        if backend in SEVERAL:
            run = _on_their_device(self, backend, run)
        if not (mode.generic or inspected):
            self.chosen[owner] = backend, run
        return backend, run

    def _arrays_first(self, run: Callable) -> Callable:
        """`run` as a function of all arrays in order, then the constants by name."""
        if self.arrays_first:
            return run
        names = [p.name for p in self.arrays]

        def call(xp: Any, *arrays: Any, **constants: Any) -> Any:
            return run(xp, **dict(zip(names, arrays, strict=True)), **constants)

        return call


def definition(name: str) -> Callable:
    """The body of an op or kernel by its name, such as "gpuprop.functional:gelu".

    An override calls it for the arguments that it has no faster way for.
    """
    return definitions[name]


def check_overrides(name: str, backend: Backend) -> None:
    """Raise TypeError if `backend.kernels` names an unknown op, or has other parameters than it."""
    for key, override in backend.kernels.items():
        with contextlib.suppress(ImportError):
            importlib.import_module(key.partition(":")[0])  # where the op is defined
        if key not in definitions:
            raise TypeError(f"backend {name!r} overrides {key!r}, which is no op or kernel")
        expected, given = ([p.name for p in parameters(f)] for f in (definitions[key], override))
        if expected != given:
            raise TypeError(f"backend {name!r}: the override of {key!r} has the parameters "
                            f"(xp, {', '.join(given)}), and must have (xp, {', '.join(expected)})")


checks.append(check_overrides)


def forget_choices() -> None:
    """Choose versions anew: the `kernels` of a backend, or a portable version, changed."""
    for chosen in _choices:
        chosen.clear()


def _on_their_device(spec: Spec, backend: Backend, run: Callable) -> Callable:
    """`run` on the device of its arrays, whichever is the current one."""

    def go(xp: Any, *arrays: Any, **constants: Any) -> Any:
        devices = {i: backend.device_of(a) for i, a in enumerate(arrays)
                   if type(a) is backend.array_type}
        first, *others = devices
        for other in others:
            if devices[other] != devices[first]:
                one, two = (f"{backend.name}:{devices[i]}" for i in (first, other))
                raise BackendMismatchError(
                    f"{spec.label(None)}(): {spec.argument(first)!r} is on {one!r} and "
                    f"{spec.argument(other)!r} on {two!r}: move one of them, for example with "
                    f"{spec.argument(other)}.to({one!r})")
        with backend.at(arrays[first]):
            return run(xp, *arrays, **constants)

    return go
