"""Find the op that computes the first NaN, in the forward pass, the backward pass or an update."""

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
from gpuprop._core.mode import Setting
from gpuprop._core.ops import Spec
from gpuprop._core.registry import backend_of
from gpuprop._core.tensor import Parameter
from gpuprop.nn import Module
from gpuprop.nn._locate import module_path

FLAG_ROWS = 4096  # the host reads the flags of a device after so many checks


@contextlib.contextmanager
def detect_nan() -> Iterator[None]:
    """Raise FloatingPointError for the first NaN.

    On the host it is raised immediately; on a device at the end of the block, or after `FLAG_ROWS`
    checks.  If the block raises another exception, the description becomes a note of it.
    """
    detector = NanDetector()
    try:
        with (Setting(NumpyErrors, IGNORED), around_modules(detector.call),
              inspect_ops(detector.inspect), parameter_changed.listen(detector.update)):
            yield
    except FloatingPointError:
        raise
    except Exception as error:
        message = detector.read()
        if message:
            error.add_note(message)
        raise
    _raise(detector.read())


class NumpyErrors:
    """NumPy's reactions to floating-point errors, as a variable for `Setting`."""

    get = staticmethod(np.geterr)

    @staticmethod
    def set(reactions: dict[str, Any]) -> None:
        np.seterr(**reactions)


IGNORED = dict.fromkeys(("divide", "over", "under", "invalid"), "ignore")


class Check(NamedTuple):
    """Whether the results of one op, pullback or update were finite.  Checks sort by time."""

    time: int  # the number of the check, from 1
    source: str  # such as "the forward pass of log in Net.head"
    has_nan: bool
    has_nonfinite: bool
    nonfinite_inputs: bool


class DeviceFlags:
    """The flags of checks on one device.  They stay on it, so that the host need not wait."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.device = backend.device()
        self.flags = backend.xp.zeros((FLAG_ROWS, 3), "bool")
        self.sources: list[tuple[int, str]] = []

    def add(self, time: int, source: str, flags: list) -> None:
        for i, flag in enumerate(flags):
            self.flags[len(self.sources), i] = flag
        self.sources.append((time, source))

    def read(self) -> list[Check]:
        with self.backend.on_device(self.device):
            rows = self.backend.to_numpy(self.flags).tolist()
        return [Check(*source, *flags) for source, flags in zip(self.sources, rows, strict=False)]


class NanDetector:
    """Checks what ops, pullbacks and updates compute."""

    def __init__(self) -> None:
        self.stack: list[Module] = []  # the modules whose forward is running
        self.roots: dict[int, Module] = {}
        self.flags: dict[Any, DeviceFlags] = {}
        self.infinity_source = ""  # of the first infinity computed from finite inputs
        self.time = 0

    def call(self, module: Module, args: tuple, kwargs: dict, run: Callable) -> Any:
        if not self.stack:
            self.roots[id(module)] = module
        self.stack.append(module)
        try:
            return run(module, args, kwargs)
        finally:
            self.stack.pop()

    def inspect(self, spec: Spec, backend: Backend, run: Callable) -> Callable:
        """An inspector of ops: check the outputs of `run` and the gradients of its pullbacks."""
        names = [p.name for p in spec.arrays]

        def checked(xp: Any, *arrays: Any, **constants: Any) -> tuple:
            layer = f" in {module_path(self.stack)}" if self.stack else ""
            out, pullback = run(xp, *arrays, **constants)
            first = out[0] if type(out) is tuple else out
            name = spec.label(getattr(first, "shape", None))
            self.check(backend, out, arrays, f"the forward pass of {name}{layer}")

            def checked_pullback(f: Callable, array: str = "") -> Callable:
                gradient = f" (gradient of {array!r})" if array else ""
                source = f"the backward pass of {name}{gradient}{layer}"
                return functools.wraps(f)(lambda d: self.check(backend, f(d), d, source))

            if type(pullback) is not tuple:
                return out, pullback and checked_pullback(pullback)
            labels = names
            if spec.variadic:
                labels = [f"{names[0]}[{i}]" for i in range(len(pullback))]
            pairs = zip(pullback, labels, strict=False)
            return out, tuple(f and checked_pullback(f, label) for f, label in pairs)

        return checked

    def update(self, p: Parameter) -> None:
        """Check a parameter after its update."""
        names = (name for root in self.roots.values() for name, q in root.named_parameters()
                 if q is p)
        name = next(names, f"a parameter of shape {p.shape}")
        self.check(backend_of(p.array), p.array, p.gradient, f"the update of {name}")

    def check(self, backend: Backend, outputs: Any, inputs: Any, source: str) -> Any:
        """Check whether `outputs` and `inputs` are finite, and return `outputs`."""
        xp = backend.xp
        floats = _floats(outputs)
        if floats:
            flags = [
                _any(xp.isnan(a).any() for a in floats),
                _any(~xp.isfinite(a).all() for a in floats),
                _any(~xp.isfinite(a).all() for a in _floats(inputs)),
            ]
            self.time += 1
            if backend.array_type is np.ndarray:
                _raise(self.describe([Check(self.time, source, *flags)]))
            else:
                self.flags_of(backend).add(self.time, source, flags)
        return outputs

    def flags_of(self, backend: Backend) -> DeviceFlags:
        key = backend, backend.device()
        if key in self.flags and len(self.flags[key].sources) == FLAG_ROWS:
            _raise(self.read())
        if key not in self.flags:
            self.flags[key] = DeviceFlags(backend)
        return self.flags[key]

    def read(self) -> str:
        """Describe the first NaN on any device, or "", and clear all flags."""
        checks = sorted(check for flags in self.flags.values() for check in flags.read())
        self.flags.clear()
        return self.describe(checks)

    def describe(self, checks: list[Check]) -> str:
        """Describe the first NaN among these checks, or ""."""
        for check in checks:
            if check.has_nan:
                return f"first NaN in {check.source}, computed from {self._inputs(check)}"
            if check.has_nonfinite and not check.nonfinite_inputs:
                self.infinity_source = self.infinity_source or check.source
        return ""

    def _inputs(self, check: Check) -> str:
        if not check.nonfinite_inputs:
            return "finite inputs"
        if self.infinity_source:
            return f"an infinity, which is from {self.infinity_source}"
        return "inputs that already contained NaN or infinity"


def _raise(message: str) -> None:
    if message:
        raise FloatingPointError(message)


def _any(flags: Iterable) -> Any:
    return functools.reduce(operator.or_, flags, False)


def _floats(values: Any) -> list[Any]:
    """The floating arrays among the arguments or results of a body, NumPy's scalars included."""
    flat = values if isinstance(values, list | tuple) else (values,)
    return [a for a in flat if hasattr(a, "dtype") and is_float(a.dtype)]
