"""`GradScaler`: losses are scaled, so that float16 keeps small gradients."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any

import numpy as np

from gpuprop._core.arena import gradient_arrays
from gpuprop._core.checks import as_instance, as_integer, as_number
from gpuprop._core.graph import extent, raw, written
from gpuprop._core.instruments import as_one_call
from gpuprop._core.loading import as_entries
from gpuprop._core.mode import loss_scaling_ops
from gpuprop._core.ops import op
from gpuprop._core.placement import place, place_of, write
from gpuprop._core.pointwise import pointwise
from gpuprop._core.registry import backend_of
from gpuprop._core.signature import Array
from gpuprop._core.tensor import Tensor
from gpuprop.optim import Optimizer

SMALLEST = 2.0**-127  # its reciprocal is still a finite float32


class GradScaler:
    """Scales losses, so that gradients that float16 would round to zero are kept.

    The scale is doubled after 2000 steps without an overflow (`growth_factor`, `growth_interval`).
    A step whose gradients overflow is skipped, and the scale is halved (`backoff_factor`).

    >>> import gpuprop
    >>> from gpuprop import nn, optim
    >>> model = nn.Linear(2, 1)
    >>> optimizer = optim.SGD(model.parameters(), lr=0.1)
    >>> scaler = gpuprop.amp.GradScaler(init_scale=1024.0)
    >>> with gpuprop.autocast("float16"):
    ...     loss = model(gpuprop.ones(4, 2)).sum()
    >>> scaler.scale(loss).backward()
    >>> scaler.step(optimizer)
    >>> scaler.update()
    >>> scaler.get_scale()
    1024.0

    To use the gradients before the step, such as to clip them, call ``unscale_(optimizer)`` first.
    With several optimizers, call `step` for each and `update` once.  If the step is captured,
    call all of them inside of it.

    On a device, the host never waits: the step is computed, and a flag on the device decides
    whether its results or the values before it are kept.  This takes a copy of the parameters and
    of the optimizer's states for the time of the step.  If the first step is skipped there,
    ``optimizer.state`` has its states already, all zero; its `state_dict` does not.

    With ``enabled=False``, `scale` returns its argument, `step` calls ``optimizer.step()``, and the
    other methods do nothing.
    """

    def __init__(self, init_scale: float = 2.0**16, growth_factor: float = 2.0,
                 backoff_factor: float = 0.5, growth_interval: int = 2000,
                 enabled: bool = True) -> None:
        self._enabled = as_instance("GradScaler: enabled", enabled, bool, "True or False")
        self._values: dict[str, Any] = _checked("GradScaler: ", {
            "scale": init_scale, "growth_factor": growth_factor, "backoff_factor": backoff_factor,
            "growth_interval": growth_interval, "_growth_tracker": 0})
        # the same as 0-d arrays on the device of the first loss: captured steps read these
        self._arrays: dict[str, Any] = {}
        self._optimizers: dict[int, _State] = {}  # by id, since the last update

    def is_enabled(self) -> bool:
        """True unless the scaler was constructed with ``enabled=False``."""
        return self._enabled

    # ---- a step

    def scale(self, outputs: Any) -> Any:
        """Multiply a loss, or each of an iterable of losses, by the scale."""
        if not self._enabled:
            return outputs
        if isinstance(outputs, Tensor):
            if not self._arrays:
                self._make_arrays(raw(outputs))
            return scale_loss(outputs, _beside(self._arrays["scale"], raw(outputs)))
        is_array = isinstance(outputs, str) or hasattr(outputs, "shape")
        if is_array or not isinstance(outputs, Iterable):
            raise TypeError(f"GradScaler.scale: outputs must be a Tensor or an iterable of "
                            f"Tensors, got a {type(outputs).__name__}")
        scaled = map(self.scale, outputs)
        return type(outputs)(scaled) if isinstance(outputs, list | tuple) else scaled

    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide the gradients of an optimizer's parameters by the scale, in place."""
        if self._enabled:
            self._unscale(optimizer)

    def _written(self, *args: Any) -> list[Any]:
        """The arrays that a call may change, beside parameters and gradients."""
        optimizers = [a for a in args if isinstance(a, Optimizer)]
        return [*self._arrays.values(), *(a for o in optimizers for a in o._written())]

    @as_one_call(_written)
    def _unscale(self, optimizer: Optimizer) -> None:
        state = self._state_of("unscale_", optimizer)
        if state.stage is Stage.UNSCALED:
            raise RuntimeError("unscale_() has already been called on this optimizer since the "
                               "last update()")
        if state.stage is Stage.STEPPED:
            raise RuntimeError("unscale_() is being called after step(): call it before")
        params = [p for group in optimizer.param_groups for p in group["params"]]
        if any(p.gradient is not None and p.dtype == "float16" for p in params):
            raise ValueError("Attempting to unscale FP16 gradients: keep the parameters in float32 "
                             "and run the model inside autocast")
        optimizer._sync_arenas()
        scale = self._arrays["scale"]
        with backend_of(scale).at(scale):
            inverse = backend_of(scale).own(reciprocal(backend_of(scale).xp, scale))
        for gradient in gradient_arrays(params)[0]:
            backend = backend_of(gradient)
            with backend.at(gradient):
                finite = unscale(backend.xp, gradient, _beside(inverse, gradient))
                found = backend.own(~finite.all())
            state.found = _any([state.found, _beside(found, scale)], scale)
        state.stage = Stage.UNSCALED

    def step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        """Call ``optimizer.step(*args, **kwargs)``, unless a gradient is infinite or NaN.

        The gradients are unscaled first, if `unscale_` was not called.
        """
        if not self._enabled:
            return optimizer.step(*args, **kwargs)
        if args or "closure" in kwargs:
            raise RuntimeError("closure use is not supported by an enabled GradScaler: call "
                               "backward() before step()")
        return self._step(optimizer, kwargs)

    @as_one_call(_written)
    def _step(self, optimizer: Optimizer, kwargs: dict[str, Any]) -> Any:
        state = self._state_of("step", optimizer)
        if state.stage is Stage.STEPPED:
            raise RuntimeError("step() has already been called since the last update(): call "
                               "update() at the end of each iteration, in a captured step too")
        if state.stage is Stage.READY:
            self.unscale_(optimizer)
        if state.found is None:
            raise AssertionError("No inf checks were recorded for this optimizer: none of its "
                                 "parameters has a gradient")
        if isinstance(state.found, np.ndarray | np.generic):
            result = None if state.found else optimizer.step(**kwargs)
        else:
            result = _step_unless(state.found, optimizer, lambda: optimizer.step(**kwargs))
        state.stage = Stage.STEPPED
        return result

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """Change the scale as the gradients since the last update require, or to `new_scale`."""
        if self._enabled:
            self._update(new_scale)

    @as_one_call(_written)
    def _update(self, new_scale: float | Tensor | None) -> None:
        self._check_scaled("update")
        arrays = self._arrays
        if new_scale is not None:
            _write(arrays["scale"], _new_scale(new_scale))
        else:
            found = [s.found for s in self._optimizers.values() if s.found is not None]
            if not found:
                raise AssertionError("No inf checks were recorded prior to update(): call step() "
                                     "or unscale_() first")
            scale = arrays["scale"]
            any_found = _any(found, scale)
            written(extent(scale))  # backward of losses that were scaled before now raises
            with backend_of(scale).at(scale), np.errstate(over="ignore"):
                scale[...], arrays["_growth_tracker"][...] = updated(
                    backend_of(scale).xp, scale, arrays["_growth_tracker"], any_found,
                    arrays["growth_factor"], arrays["growth_interval"], arrays["backoff_factor"])
        self._optimizers.clear()

    def _make_arrays(self, like: Any) -> None:
        backend = backend_of(like)
        with backend.at(like):
            for name, value in self._values.items():
                self._arrays[name] = backend.asarray(np.array(value, DTYPES[name]))

    def _check_scaled(self, method: str) -> None:
        if not self._arrays:
            raise AssertionError(f"Attempted {method} but _scale is None: call scale(loss) earlier "
                                 f"in the iteration")

    def _state_of(self, method: str, optimizer: Any) -> _State:
        as_instance(f"GradScaler.{method}: optimizer", optimizer, Optimizer, "an Optimizer")
        self._check_scaled(method)
        return self._optimizers.setdefault(id(optimizer), _State(optimizer))

    # ---- the scale and its options

    def get_scale(self) -> float:
        """The scale, 1 if the scaler is not enabled; waits for the device."""
        return self._get("scale") if self._enabled else 1.0

    def get_growth_factor(self) -> float:
        return self._values["growth_factor"]

    def set_growth_factor(self, new_factor: float) -> None:
        self._set("growth_factor", new_factor)

    def get_backoff_factor(self) -> float:
        return self._values["backoff_factor"]

    def set_backoff_factor(self, new_factor: float) -> None:
        self._set("backoff_factor", new_factor)

    def get_growth_interval(self) -> int:
        return self._values["growth_interval"]

    def set_growth_interval(self, new_interval: int) -> None:
        self._set("growth_interval", new_interval)

    def _get(self, name: str) -> Any:
        return Tensor(self._arrays[name]).item() if self._arrays else self._values[name]

    def _set(self, name: str, value: Any) -> None:
        self._write(_checked(f"GradScaler.set_{name}: ", {name: value}))

    def _write(self, values: dict[str, Any]) -> None:
        self._values |= values
        for name, array in self._arrays.items():
            if name in values:
                _write(array, values[name])

    # ---- state

    def state_dict(self) -> dict[str, Any]:
        """The scale, the options and the number of steps since the last change, as in PyTorch.

        It is empty if the scaler is not enabled.  Waits for the device.
        """
        return {name: self._get(name) for name in self._values} if self._enabled else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a `state_dict`, of this library or of PyTorch.

        If an entry is missing or wrong, raises an error and changes nothing.
        """
        self._prepare_load(state_dict)()

    def _prepare_load(self, state_dict: dict[str, Any]) -> Callable[[], None]:
        """Check a whole state dict, and return a function that writes it."""
        if not self._enabled:
            return lambda: None
        if isinstance(state_dict, dict) and not state_dict:
            raise RuntimeError("GradScaler: the source state dict is empty, possibly because it "
                               "was saved from a disabled instance of GradScaler")
        what = "GradScaler: the state dict"
        values = _checked("GradScaler: ", as_entries(what, state_dict, self._values, ()))
        return lambda: self._write(values)

    def __getstate__(self) -> dict[str, Any]:
        if self._optimizers:
            raise AssertionError("a GradScaler may only be copied or pickled at the beginning of "
                                 "an iteration, or at its end after update()")
        values = {name: self._get(name) for name in self._values}
        return {**vars(self), "_values": values, "_arrays": {}}

    def __repr__(self) -> str:
        return f"GradScaler(enabled={self._enabled})"


class Stage(Enum):
    """What has happened to an optimizer since the last update."""

    READY = 0
    UNSCALED = 1
    STEPPED = 2


class _State:
    """An optimizer since the last update; `found` is a 0-d bool, true if its gradients overflow."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer  # kept alive, because its id is a key
        self.stage = Stage.READY
        self.found: Any = None


DTYPES = {"scale": "float32", "growth_factor": "float64", "backoff_factor": "float64",
          "growth_interval": "int32", "_growth_tracker": "int32"}


def _checked(where: str, values: dict[str, Any]) -> dict[str, Any]:
    """The options by name, as Python numbers."""
    checks: dict[str, Callable] = {
        "scale": lambda what, v: as_number(what, v, "[0, inf)"),
        "growth_factor": lambda what, v: as_number(what, v, "(1, inf)"),
        "backoff_factor": lambda what, v: as_number(what, v, "(0, 1)"),
        "growth_interval": lambda what, v: as_integer(what, v, 1, 2**31 - 1),
        "_growth_tracker": lambda what, v: as_integer(what, v, 0, 2**31 - 1),
    }
    return {name: checks[name](where + name, value) for name, value in values.items()}


def _new_scale(value: Any) -> Any:
    what = "GradScaler.update: new_scale"
    if not isinstance(value, Tensor):
        return as_number(what, value, "(0, inf)")
    if value.size != 1 or value.requires_grad:
        raise ValueError(f"{what} must be a number or a Tensor of one element that requires no "
                         f"gradient, got shape {value.shape}")
    return raw(value).reshape(())


def _write(array: Any, value: Any) -> None:
    if hasattr(value, "shape"):
        value = _beside(value, array)
    write(array, value)


def _any(flags: list[Any], scale: Any) -> Any:
    """True on the device of `scale` if one of the flags there is; None is no flag."""
    with backend_of(scale).at(scale):
        return functools.reduce(operator.or_, [flag for flag in flags if flag is not None])


def _beside(array: Any, other: Any) -> Any:
    """`array` on the device of `other`."""
    here = place_of(other)
    return array if place_of(array) == here else place(array, here)


def _step_unless(found: Any, optimizer: Optimizer, step: Callable[[], Any]) -> Any:
    """Step, then restore all that the optimizer changed if `found`, a flag on a device, is true."""
    optimizer._sync_arenas()
    saved = [(arena, arena.written_by_a_step()) for arena in optimizer._arenas()]
    before = [{name: array.copy() for name, array in arrays.items()} for _, arrays in saved]
    result = step()
    optimizer._sync_arenas()  # a rule may have assigned to `p.data`
    for (arena, _), copies in zip(saved, before, strict=True):
        with arena.on_device():
            flag = _beside(found, arena.data)
            for name, array in arena.written_by_a_step().items():
                # the step made the states that are new: they start as zeros
                array[...] = arena.xp.where(flag, copies.get(name, 0), array)
    return result


# ---- what runs on the device ---------------------------------------------------------------------


@op
def scale_loss(xp, loss: Array, scale: Array):
    """``loss * scale``; `scale` has no gradient."""
    return loss * scale, (lambda dy: dy * scale, None)


loss_scaling_ops.add(scale_loss.spec)


@pointwise
def reciprocal(xp, scale):
    return (1 / xp.maximum(scale.astype("float64"), SMALLEST)).astype("float32")


@pointwise
def unscale(xp, gradient, inverse):
    finite = xp.isfinite(gradient)
    gradient *= inverse
    return finite


@pointwise
def updated(xp, scale, growth_tracker, found, growth_factor, growth_interval, backoff_factor):
    """The next scale and growth tracker, as PyTorch computes them."""
    wide = scale.astype("float64")
    grown = (wide * growth_factor).astype("float32")
    successful = growth_tracker + 1
    is_full = successful == growth_interval
    increased = xp.where(is_full & xp.isfinite(grown), grown, scale)
    reduced = (wide * backoff_factor).astype("float32")
    return (xp.where(found, reduced, increased),
            xp.where(found | is_full, 0, successful).astype("int32"))
