"""`Function`: the base class of layers that apply one function, such as activations and losses."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, dataclass_transform

from gpuprop._core.tensor import Tensor
from gpuprop.nn._module import Module


@dataclass_transform(eq_default=False)
class Function(Module):
    """Abstract: a layer that applies `function` to its inputs, with options set at construction.

    A subclass sets `function`, and declares its options, which are parameters of the function, like
    the fields of a dataclass::

        class LeakyReLU(Function):
            function = staticmethod(F.leaky_relu)
            negative_slope: float = 0.01
            inplace: bool = False

    Type checkers derive the constructor from these fields.  At run time, the order of the options
    and their defaults are those of the function.  An option that is a Tensor, such as the class
    weights of a loss, becomes a buffer.  A subclass without a docstring gets that of its function.
    """

    function: ClassVar[Callable]
    _option_names: ClassVar[tuple[str, ...]] = ()
    __signature__: ClassVar[inspect.Signature]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not hasattr(cls, "function"):  # an abstract base class
            return
        fields: dict[str, Any] = {}
        for base in reversed(cls.__mro__):
            fields |= inspect.get_annotations(base)
        parameters = inspect.signature(cls.function).parameters.values()
        options = [p.replace(annotation=fields[p.name]) for p in parameters if p.name in fields]
        cls._option_names = tuple(p.name for p in options)
        cls.__signature__ = inspect.Signature(options)
        if not cls.__doc__:
            inputs = [p.name for p in parameters
                      if p.default is p.empty and p.name not in cls._option_names]
            cls.__doc__ = _layer_doc(cls.function, cls._option_names, inputs)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        signature = type(self).__signature__
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{type(self).__name__}{signature}: {error}") from None
        bound.apply_defaults()
        for name, value in bound.arguments.items():
            if isinstance(value, Tensor):
                self.register_buffer(name, value.detach())
            else:
                setattr(self, name, value)

    def _options(self) -> dict[str, Any]:
        """The options as keyword arguments of the function."""
        return {name: getattr(self, name) for name in self._option_names}

    def forward(self, *inputs: Any, **named_inputs: Any) -> Any:
        return type(self).function(*inputs, **named_inputs, **self._options())

    def extra_repr(self) -> str:
        parts = []
        for name, value in self._options().items():
            if name != "inplace":
                text = str(value.shape) if isinstance(value, Tensor) else repr(value)
                parts.append(f"{name}={text}")
        return ", ".join(parts)


def _layer_doc(function: Callable, options: Iterable[str], inputs: Iterable[str]) -> str:
    """The function's docstring, and which parameters the constructor and the call take."""
    summary = (f"Layer form of `gpuprop.functional.{function.__name__}`: constructed with "
               f"({', '.join(options)}), called with ({', '.join(inputs)}).")
    return f"{inspect.getdoc(function) or ''}\n\n{textwrap.fill(summary, 96)}\n"
