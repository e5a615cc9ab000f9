"""`Function`: the base class of layers that apply one function, such as activations and losses."""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping
from types import FunctionType
from typing import Any, ClassVar, dataclass_transform

import numpy as np

from gpuprop._core.backend import BY_TYPE
from gpuprop._core.options import Check, Limits, check_options, option_checks
from gpuprop._core.tensor import Parameter, Tensor, tensor
from gpuprop.nn._module import Module

NO_FIELD = re.compile(r"ClassVar|KW_ONLY")  # annotations that declare no field
ARRAY = re.compile(r"\b(Array|ArrayLike|NDArray|ndarray|Tensor)\b")


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
    is that of the function, and so is the default of an option to which no class assigns a value.
    A field that is no parameter of the function raises TypeError, unless its class defines
    ``__init__``.

    An option that is a Tensor, such as the class weights of a loss, becomes a buffer; so does an
    array, if the option is annotated as a Tensor or an array.  A subclass without a docstring gets
    that of its function.
    """

    function: ClassVar[Callable]
    _function_options: ClassVar[dict[str, bool]] = {}  # name -> whether arrays become buffers
    _limits: ClassVar[Limits] = {}  # those of options, where they differ from `options.LIMITS`
    _option_checks: ClassVar[dict[str, Check]] = {}
    __signature__: ClassVar[inspect.Signature]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not hasattr(cls, "function"):  # an abstract base class
            return
        parameters = inspect.signature(cls.function).parameters
        fields = _fields(cls, parameters)
        defaults = _own_defaults(cls, fields)
        options = []
        takes_arrays = {}
        for name, parameter in parameters.items():
            if name in fields:
                default = defaults.get(name, parameter.default)
                options.append(parameter.replace(annotation=fields[name], default=default))
                annotations = f"{fields[name]} {parameter.annotation}"
                takes_arrays[name] = ARRAY.search(annotations) is not None
        cls._function_options = takes_arrays
        cls._option_checks = {}
        for name, annotation in fields.items():  # names a class that its own module has imported
            declaring = next(b for b in cls.__mro__ if name in inspect.get_annotations(b))
            variables = vars(sys.modules[declaring.__module__])
            cls._option_checks |= option_checks({name: annotation}, cls._limits, variables,
                                                takes_arrays=True)
        try:
            cls.__signature__ = inspect.Signature(options)
        except ValueError as error:  # an option with a default before one without
            raise TypeError(f"{cls.__name__}: {error}") from None
        if not cls.__doc__:
            inputs = [p.name for p in parameters.values()
                      if p.default is p.empty and p.name not in takes_arrays]
            cls.__doc__ = _layer_doc(cls.function, takes_arrays, inputs)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        signature = type(self).__signature__
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{type(self).__name__}{signature}: {error}") from None
        check_options(type(self).__name__, bound.arguments, self._option_checks)
        bound.apply_defaults()
        for name, value in bound.arguments.items():
            setattr(self, name, value.detach() if isinstance(value, Tensor) else value)
        self._check_combination()

    def _check_combination(self) -> None:
        """Raise ValueError for options that are not possible together."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._function_options:
            if self._function_options[name]:
                value = as_tensor(value)
            registered = self._buffer_persistence
            is_buffer = isinstance(value, Tensor) and not isinstance(value, Parameter)
            if is_buffer and name not in registered:
                self._buffer_persistence = {**registered, name: True}
            elif name in registered and not is_buffer:
                self._buffer_persistence = {n: v for n, v in registered.items() if n != name}
        super().__setattr__(name, value)

    def forward(self, *inputs: Any, **named_inputs: Any) -> Any:
        return type(self).function(*inputs, **named_inputs, **option_values(self))

    def extra_repr(self) -> str:
        parts = []
        for name, value in option_values(self).items():
            if name != "inplace":
                text = str(value.shape) if isinstance(value, Tensor) else repr(value)
                parts.append(f"{name}={text}")
        return ", ".join(parts)


def option_values(layer: Function) -> dict[str, Any]:
    """The options of a layer as keyword arguments of its function."""
    return {name: getattr(layer, name) for name in layer._function_options}


def as_tensor(value: Any) -> Any:
    """A Tensor of an array: a NumPy array is copied to the default backend.

    Any other value is returned as it is.
    """
    if isinstance(value, np.ndarray):
        return tensor(value)
    return Tensor(value) if type(value) in BY_TYPE else value


def _fields(cls: type[Function], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The annotations of the fields that a class and its bases declare.

    Raises TypeError if a field is no parameter of the function.
    """
    fields: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if not issubclass(base, Function) or base is Function:
            continue
        for name, annotation in inspect.get_annotations(base).items():
            if NO_FIELD.search(str(annotation)):
                continue
            if name in parameters:
                fields[name] = annotation
            elif "__init__" not in vars(base):
                function = getattr(cls.function, "__name__", repr(cls.function))
                raise TypeError(
                    f"{base.__name__}.{name} is declared as an option, but {function} has no "
                    f"parameter {name!r}: its parameters are {', '.join(parameters)}.  Annotate an "
                    f"attribute that is no option with ClassVar, or define __init__")
    return fields


def _own_defaults(cls: type[Function], fields: Iterable[str]) -> dict[str, Any]:
    """The values that a class and its bases up to `Function` assign to fields.

    A method or property that has the name of a field is no value.
    """
    defaults = {}
    for base in reversed(cls.__mro__[:cls.__mro__.index(Function)]):
        for name in vars(base).keys() & set(fields):
            if not isinstance(vars(base)[name], FunctionType | property | classmethod):
                defaults[name] = getattr(base, name)
    return defaults


def _layer_doc(function: Callable, options: Iterable[str], inputs: Iterable[str]) -> str:
    """The function's docstring, and which parameters the constructor and the call take."""
    summary = (f"Layer form of `gpuprop.functional.{function.__name__}`: constructed with "
               f"({', '.join(options)}), called with ({', '.join(inputs)}).")
    return f"{inspect.getdoc(function) or ''}\n\n{textwrap.fill(summary, 96)}\n"
