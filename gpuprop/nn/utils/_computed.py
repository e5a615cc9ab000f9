"""A layer's weight that is computed from other parameters before every forward."""

from __future__ import annotations

from gpuprop._core.tensor import Parameter, Tensor
from gpuprop.nn._module import Module


class Computed(Tensor):
    """A weight as it was computed last; a copy or a pickle has its values alone, until the next forward."""

    __slots__ = ()

    def __getstate__(self) -> tuple:
        return self.detach().__getstate__()


class Recipe:
    """Abstract: what is called before a module's forward, to put the weight `name` there."""

    word = ""  # the function that the user called

    def __init__(self, name: str) -> None:
        self.name = name

    def weight(self, module: Module, training: bool) -> Tensor:
        raise NotImplementedError

    def __call__(self, module: Module, args: tuple = ()) -> None:
        self.put(module, self.weight(module, module.training))

    def put(self, module: Module, weight: Tensor) -> None:
        setattr(module, self.name, Computed(weight.data, weight.requires_grad, weight.node))

    def take(self, module: Module) -> Parameter:
        """The parameter that is going to be computed, which the module has no longer."""
        if any(isinstance(hook, Recipe) and hook.name == self.name for hook in module._hooks.get("before", ())):
            raise RuntimeError(f"{self.word}: {type(module).__name__}.{self.name} is computed already: remove what "
                               f"computes it first")
        parameter = getattr(module, self.name, None)
        if not isinstance(parameter, Parameter):
            raise ValueError(f"{self.word}: {type(module).__name__} has no parameter {self.name!r}")
        delattr(module, self.name)
        return parameter

    @classmethod
    def leave(cls, module: Module, name: str, *suffixes: str) -> None:
        """Make `name` a parameter again, with its values; what it was computed of, under `suffixes`, goes."""
        hooks = module._hooks.get("before", [])
        hook = next((h for h in hooks if isinstance(h, cls) and h.name == name), None)
        if hook is None:
            raise ValueError(f"{cls.word} of {name!r} not found in {type(module).__name__}")
        hooks.remove(hook)
        values = hook.weight(module, False).data
        for own in (name, *(name + suffix for suffix in suffixes)):
            delattr(module, own)
        module._buffers = {n: saved for n, saved in module._buffers.items() if hasattr(module, n)}
        setattr(module, name, Parameter(values))
