"""`Spec`: the signature of an op or kernel, the versions of its body, and the choice of one."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Sequence
from typing import Any

from gpuprop._core.backend import (
    BY_TYPE,
    MULTI_DEVICE,
    Backend,
    BackendMismatchError,
    choices,
    forget_choices,
)
from gpuprop._core.mode import Mode, current, current_recorder
from gpuprop._core.namespace import Differentiable
from gpuprop._core.registry import backend_checks
from gpuprop._core.signature import module_of, parameters, public_module, signature_text

definitions: dict[str, Callable] = {}  # the body of every op and kernel, by its name
portables: dict[str, Callable] = {}  # the faster versions of some of them on `xp`


class Spec:
    """The signature of an op or kernel, and the versions of its body."""

    def __init__(self, fn: Callable, registered: bool = True, label: str | None = None) -> None:
        self.fn = fn  # the definition
        self.portable: Callable | None = None  # a faster version on `xp`
        self.parameters = parameters(fn)
        self.name = f"{public_module(module_of(fn))}:{fn.__qualname__}"
        self.arrays = [p for p in self.parameters if p.is_array]
        if not self.arrays:
            raise TypeError(f"{self.name}: annotate the parameters that are arrays "
                            f"with gpuprop.Array")
        self.variadic = self.arrays[0].variadic
        self.required = [i for i, p in enumerate(self.arrays) if p.must_be_given]
        self.n_required = max(self.required, default=-1) + 1  # all required ones are among these
        leading = self.parameters[: len(self.arrays)] == self.arrays
        by_name = any(p.keyword_only for p in self.arrays)
        self.arrays_first = self.variadic or (leading and not by_name)
        self.chosen: dict[type, tuple[Any, Callable]] = {}  # array type -> (backend, version)
        self.is_op = False  # True for an op, False for a kernel
        self.precision: str | None = None  # the argument of `ops.op`
        self.half: str | None = None  # the argument of `ops.op`
        self.promotes = False  # True if arrays are operands of one expression
        self.of_integers: Callable | None = None  # an argument of `ops.make_op`
        self.is_users = not module_of(fn).startswith("gpuprop.")
        self.guards: Sequence[tuple] = ()  # the checks of constants (`options.option_guards`)
        self._label = label or fn.__name__
        choices.append(self.chosen)
        if registered:
            definitions[self.name] = fn
        else:
            self.name = ""  # backends cannot override it: its body calls `version_for` itself

    def label(self, shape: tuple | None) -> str:
        """The name of the op for messages; "{n}" in it becomes the number of spatial dimensions.

        `shape` is the shape of the output, (N, C, *space), or None: then "{n}" becomes "n".
        """
        return self._label.format(n="n" if shape is None else len(shape) - 2)

    def argument_name(self, i: int) -> str:
        """The name of the i-th array argument, "arrays[i]" if the op is variadic."""
        return f"{self.arrays[0].name}[{i}]" if self.variadic else self.arrays[i].name

    def arguments(self, args: tuple) -> dict[str, Any]:
        """The array arguments by name."""
        if self.variadic:
            return {self.arrays[0].name: args}
        return {p.name: a for p, a in zip(self.arrays, args, strict=True)}

    # ---- versions

    def faster(self, version: Callable) -> Callable:
        """Use a portable faster version of the body; it may write into arrays that it creates.

        It must have the definition's parameters.
        """
        expected = [(p.name, repr(p.default)) for p in self.parameters]
        given = [(p.name, repr(p.default)) for p in parameters(version)]
        if expected != given:
            raise TypeError(f"{self.name}: a faster version must have the parameters "
                            f"{signature_text(self.fn)}, not {signature_text(version)}")
        self.portable = portables[self.name] = version
        forget_choices()
        return version

    def version_for(self, backend: Backend) -> Callable:
        """The body for a backend: its override, else the portable version, else the definition."""
        if current.get().generic:
            return self.fn
        return backend.kernels.get(self.name) or self.portable or self.fn

    def choose(self, owner: type, mode: Mode) -> tuple[Any, Callable]:
        """(backend, function to run) for `owner`, an array type or the namespace of Tensors."""
        if isinstance(owner, Differentiable):
            return owner, self.arrays_first_version(self.fn)
        recorder = current_recorder()
        if recorder is not None:
            return self._recorded(recorder)
        backend = BY_TYPE[owner]
        run = self.arrays_first_version(self.version_for(backend))
        inspect = mode.inspect if self.is_op else None
        if inspect is not None:
            run = inspect(self, backend, run)
        if backend in MULTI_DEVICE:
            run = _on_device_of_arrays(self, backend, run)
        if not mode.generic and inspect is None:
            self.chosen[owner] = backend, run
        return backend, run

    def _recorded(self, recorder: Any) -> tuple[Any, Callable]:
        """(backend, function to run) while a step is recorded; a kernel is one call."""
        if not self.is_op:
            run = self.arrays_first_version(self.version_for(recorder.host))
            return recorder, recorder.one_call(run)
        run = self.arrays_first_version(self.version_for(recorder))

        def run_recorded(xp: Any, *arrays: Any, **constants: Any) -> Any:
            arrays = tuple([recorder.asarray(a) if type(a) in recorder.guests else a
                            for a in arrays])
            result = run(xp, *arrays, **constants)
            if type(result) is tuple and type(result[0]) is recorder.array_type:
                return recorder.own(result[0]), *result[1:]
            return result

        return recorder, run_recorded

    def arrays_first_version(self, run: Callable) -> Callable:
        """`run` with all arrays as positional arguments, and the constants by name."""
        if self.arrays_first:
            return run
        names = [p.name for p in self.arrays]

        def call(xp: Any, *arrays: Any, **constants: Any) -> Any:
            return run(xp, **dict(zip(names, arrays, strict=True)), **constants)

        return call


def definition(name: str) -> Callable:
    """The body of an op or kernel by its name, such as "gpuprop.functional:gelu".

    An override calls it for arguments that it does not support.
    """
    return definitions[name]


def portable(name: str) -> Callable:
    """The faster version on `xp` of an op or kernel, or its body; the name is as for `definition`.

    An override calls it for arguments for which it is not faster.
    """
    return portables.get(name) or definitions[name]


def check_overrides(name: str, backend: Backend) -> None:
    """Check that each of `backend.kernels` overrides a known op and has the same parameters.

    Raises TypeError otherwise.
    """
    for key, override in backend.kernels.items():
        with contextlib.suppress(ImportError):
            importlib.import_module(key.partition(":")[0])  # the module that defines the op
        if key not in definitions:
            raise TypeError(f"backend {name!r} overrides {key!r}, which is no op or kernel")
        expected = [p.name for p in parameters(definitions[key])]
        given = [p.name for p in parameters(override)]
        if expected != given:
            raise TypeError(f"backend {name!r}: the override of {key!r} has the parameters "
                            f"(xp, {', '.join(given)}), but must have (xp, {', '.join(expected)})")


backend_checks.append(check_overrides)


def _on_device_of_arrays(spec: Spec, backend: Backend, run: Callable) -> Callable:
    """`run` on the device of its arrays, even if another one is current."""

    def run_there(xp: Any, *arrays: Any, **constants: Any) -> Any:
        devices = {i: backend.device_of(a) for i, a in enumerate(arrays)
                   if type(a) is backend.array_type}
        first, *others = devices
        for other in others:
            if devices[other] != devices[first]:
                here = f"{backend.name}:{devices[first]}"
                there = f"{backend.name}:{devices[other]}"
                name = spec.argument_name(other)
                raise BackendMismatchError(
                    f"{spec.label(None)}(): {spec.argument_name(first)!r} is on {here!r} and "
                    f"{name!r} on {there!r}: move one of them, for example with "
                    f"{name}.to({here!r})")
        with backend.at(arrays[first]):
            return run(xp, *arrays, **constants)

    return run_there
