"""Layers that are one function with options: every activation and loss."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

from gpuprop._core.tensor import Tensor
from gpuprop.nn._module import Module


class Function(Module):
    """Abstract: `function` of the inputs, with options given at construction, named and defaulted as the function's.

    A subclass names its function; `inputs` says how many of the function's parameters come with the call.  An option
    that is a Tensor (a loss's weights) is a buffer.
    """

    function: ClassVar[Callable]
    inputs: ClassVar[int] = 1
    hidden: ClassVar[tuple[str, ...]] = ("training", "rng", "dtype")  # of the function, not of the layer

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        parameters = list(inspect.signature(cls.function).parameters.values())[cls.inputs:]
        cls.__signature__ = inspect.Signature([p for p in parameters if p.name not in cls.hidden])  # type: ignore

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            bound = type(self).__signature__.bind(*args, **kwargs)  # type: ignore[attr-defined]
        except TypeError as e:
            raise TypeError(f"{type(self).__name__}{type(self).__signature__}: {e}") from None  # type: ignore[attr-defined]
        bound.apply_defaults()
        for name, value in bound.arguments.items():
            if isinstance(value, Tensor):
                self.register_buffer(name, value.detach())
            else:
                setattr(self, name, value)

    def options(self) -> dict[str, Any]:
        """The options by name, as the function takes them."""
        return {name: getattr(self, name) for name in type(self).__signature__.parameters}  # type: ignore[attr-defined]

    def forward(self, *inputs: Any) -> Any:
        return type(self).function(*inputs, **self.options())

    def extra_repr(self) -> str:
        text = lambda v: str(v.shape) if isinstance(v, Tensor) else repr(v)
        return ", ".join(f"{n}={text(v)}" for n, v in self.options().items() if n != "inplace")
