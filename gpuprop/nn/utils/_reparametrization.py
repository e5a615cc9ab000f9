"""Base classes for weights that are computed from other parameters before every forward."""

from __future__ import annotations

from typing import Any, ClassVar

from gpuprop._core.tensor import Parameter, Tensor
from gpuprop.nn._module import Module


class ComputedWeight(Tensor):
    """A weight that the last forward computed.

    A copy or a pickle has the same values, but no history.
    """

    __slots__ = ()

    def __getstate__(self) -> tuple:
        return self.detach().__getstate__()


class Reparametrization:
    """Abstract: a forward pre-hook that computes the attribute `name` of a module."""

    function_name: ClassVar[str]  # the function of `nn.utils`, for messages

    def __init__(self, name: str) -> None:
        self.name = name

    def compute(self, module: Module, training: bool) -> Tensor:
        """Compute the weight from the module's parameters."""
        raise NotImplementedError

    def __call__(self, module: Module, args: tuple = ()) -> None:
        self.assign(module, self.compute(module, module.training))

    def assign(self, module: Module, weight: Tensor) -> None:
        """Set the module's weight, with the history of `weight`."""
        computed = ComputedWeight(weight.array, weight.requires_grad, weight.node)
        setattr(module, self.name, computed)

    def pop_parameter(self, module: Module) -> Parameter:
        """Remove the parameter from the module and return it."""
        full_name = f"{type(module).__name__}.{self.name}"
        hooks = module._hook_lists.get("before", ())
        functions = [hook.function for hook in hooks]
        if any(isinstance(f, Reparametrization) and f.name == self.name for f in functions):
            raise RuntimeError(f"{self.function_name}: {full_name} already has a normalization: "
                               f"remove it first")
        parameter = getattr(module, self.name, None)
        if not isinstance(parameter, Parameter):
            raise ValueError(f"{self.function_name}: {type(module).__name__} has no parameter "
                             f"{self.name!r}")
        delattr(module, self.name)
        return parameter

    @classmethod
    def remove(cls, module: Module, name: str, *suffixes: str) -> None:
        """Turn the weight into a Parameter, and delete the attributes ``name + suffix``."""
        hooks = module._hook_lists.get("before", [])
        is_own = lambda f: isinstance(f, cls) and f.name == name
        hook: Any = next((h for h in hooks if is_own(h.function)), None)
        if hook is None:
            raise ValueError(f"{cls.function_name} of {name!r} not found in "
                             f"{type(module).__name__}")
        hooks.remove(hook)
        values = hook.function.compute(module, False).array
        delattr(module, name)
        for suffix in suffixes:
            delattr(module, name + suffix)
        persistence = module._buffer_persistence.items()
        module._buffer_persistence = {n: v for n, v in persistence if hasattr(module, n)}
        setattr(module, name, Parameter(values))
