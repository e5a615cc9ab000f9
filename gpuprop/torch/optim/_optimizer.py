"""The optimizers of `gpuprop.optim`, which train any leaf; and a base for those of programs."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

import gpuprop.optim as optim
from gpuprop._core.tensor import Tensor as Plain
from gpuprop._core.tensor import become_parameter
from gpuprop.optim._fixed import State
from gpuprop.optim._options import SCHEDULED
from gpuprop.torch._tensor import Words, as_torch, take_back, wrap


class _Instances(type):
    """The optimizers of this module are instances and subclasses of `Optimizer`, too."""

    def __instancecheck__(cls, value: Any) -> bool:
        return type.__instancecheck__(cls, value) or (
            cls is Optimizer and isinstance(value, optim.Optimizer))

    def __subclasscheck__(cls, other: type) -> bool:
        return type.__subclasscheck__(cls, other) or (
            cls is Optimizer and issubclass(other, optim.Optimizer))


class Optimizer(metaclass=_Instances):
    """Base class of a program's own optimizer: its `step` reads `param_groups` and `state`."""

    def __init__(self, params: Any, defaults: dict) -> None:
        groups = list(params)
        if not groups:
            raise ValueError("optimizer got an empty parameter list")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        self.defaults = defaults
        self.param_groups: list[dict] = []
        self.state: Any = defaultdict(dict)
        for group in groups:
            self.add_param_group(group)

    def add_param_group(self, param_group: dict) -> None:
        given = param_group["params"]
        params = [given] if isinstance(given, Plain) else list(given)
        self.param_groups.append({**self.defaults, **param_group, "params": params})

    def zero_grad(self, set_to_none: bool = True) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if set_to_none:
                    p.grad = None
                elif p.grad is not None:
                    p.grad.zero_()

    def step(self, closure: Any = None) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no step: define step(self)")


def as_parameter(value: Any) -> Any:
    """A leaf, as a Parameter: an optimizer provides the memory for its gradient."""
    p: Any = as_torch(value)
    if isinstance(p, Words) and p.node is not None:
        raise ValueError("can't optimize a non-leaf Tensor")
    become_parameter(p)
    return p


def class_for(rule: Any) -> type:
    """The class of this dialect for an optimizer of `gpuprop.optim`.

    Its groups may have options of the program, as in PyTorch.
    """

    def _checked_group(self: Any, group: Any, others: Any) -> Any:
        if isinstance(group, dict) and "params" in group:
            given = group["params"]
            params = [given] if isinstance(given, Plain) else list(given)
            for p in params:
                as_parameter(p[1] if isinstance(p, tuple) else p)
            own = {k: v for k, v in group.items() if k not in {"params", "param_names",
                                                               *self.defaults, *SCHEDULED}}
            rest = {k: v for k, v in group.items() if k not in own}
            return {**rule._checked_group(self, {**rest, "params": params}, others), **own}
        return rule._checked_group(self, group, others)

    def _sync_arenas(self: Any) -> None:
        own = []  # gradients in a program's memory: it may write there again, for the next step
        for p in self._params():
            if p.gradient is not p.grad_buffer is not None:
                take_back(p)
                own.append((p, p.gradient))
        rule._sync_arenas(self)
        for p, g in own:
            p.gradient = g

    def state_dict(self: Any) -> dict[str, Any]:
        """The states, all of them as Tensors, and the options."""
        saved = rule.state_dict(self)
        for entry in saved["state"].values():
            for name, value in entry.items():
                if isinstance(value, float) or name == "step":
                    value = np.asarray(value, "float32" if name == "step" else None)
                entry[name] = _as_tensors(value)
        return saved

    def state(self: Any) -> Any:
        """The states of each parameter that has any, as Tensors in the optimizer's memory."""
        return State({p: State({name: _as_tensors(value)
                                for name, value in entry.items()})
                      for p, entry in rule.state.__get__(self).items()})

    body = {"_checked_group": _checked_group, "_sync_arenas": _sync_arenas,
            "state_dict": state_dict, "state": property(state),
            "__module__": "gpuprop.torch.optim", "__doc__": rule.__doc__}
    return type(rule.__name__, (rule,), body)


def _as_tensors(value: Any) -> Any:
    """The arrays of an optimizer's state as Tensors."""
    if isinstance(value, list):
        return [_as_tensors(v) for v in value]
    is_number = isinstance(value, int | float | np.generic)
    return value if is_number else wrap(value)
