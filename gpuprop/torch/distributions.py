"""Distributions, as `torch.distributions`: those of `gpuprop.distributions`.

Their parameters, samples and results are Tensors of this dialect.
"""

from __future__ import annotations

import inspect as _inspect
import re as _re
import sys as _sys
from types import ModuleType as _ModuleType
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any

import gpuprop.distributions as _distributions
from gpuprop.distributions import biject_to, constraints, register_kl, transform_to, transforms
from gpuprop.distributions.transforms import *  # noqa: F403
from gpuprop.torch._absent import explained as _explained
from gpuprop.torch._constructors import ConstructorSignature as _ConstructorSignature
from gpuprop.torch._functions._arguments import default_dtype
from gpuprop.torch._functions._creation import tensor
from gpuprop.torch._tensor import Size, as_torch

__all__ = ["biject_to", "constraints", "kl_divergence", "register_kl", "transform_to",
           "transforms", *transforms.__all__]


class _Converting(type):
    """Parameters are converted when the constructor is done."""

    __signature__ = _ConstructorSignature()

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if default_dtype() != "float32":
            args, kwargs = cls._in_default_dtype(args, kwargs)
        distribution = super().__call__(*args, **kwargs)
        for value in vars(distribution).values():
            as_torch(value)
        return distribution

    def _in_default_dtype(cls, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Parameters that are Python numbers, as Tensors."""
        given = _inspect.signature(cls.__init__).bind(None, *args, **kwargs)  # type: ignore[misc]
        declared = getattr(cls, "arg_constraints", None)
        for name, constraint in declared.items() if isinstance(declared, dict) else ():
            number = given.arguments.get(name)
            if isinstance(number, int | float) and not constraint.is_discrete:
                given.arguments[name] = tensor(float(number))
        return given.args[1:], given.kwargs

    def __instancecheck__(cls, value: Any) -> bool:
        return type.__instancecheck__(cls, value) or (
            cls.__name__ == "Distribution" and isinstance(value, _distributions.Distribution))

    def __subclasscheck__(cls, other: type) -> bool:
        return type.__subclasscheck__(cls, other) or (
            cls.__name__ == "Distribution" and issubclass(other, _distributions.Distribution))


def _result(name: str) -> Any:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return as_torch(getattr(super(self._words, self), name)(*args, **kwargs))

    method.__name__ = name
    return method


def _property(name: str) -> Any:
    return property(lambda self: as_torch(getattr(super(self._words, self), name)))


class _Words:
    """What a distribution returns, in this dialect."""

    batch_shape = property(lambda self: Size(self._batch_shape))
    event_shape = property(lambda self: Size(self._event_shape))

    def _validate_sample(self: Any, value: Any) -> None:
        """What distributions of programs call in `log_prob`."""
        self._value(value)


for _name in ("sample", "rsample", "log_prob", "cdf", "icdf", "entropy", "perplexity",
              "enumerate_support"):
    setattr(_Words, _name, _result(_name))
for _name in ("mean", "mode", "variance", "stddev"):
    setattr(_Words, _name, _property(_name))
_Words._words = _Words  # type: ignore[attr-defined]  # `super` of it is gpuprop's class


def _class_for(plain: type) -> type:
    """The class of this dialect for a public class of `gpuprop.distributions`."""
    name = plain.__name__
    if name not in globals():
        public = (b for b in plain.__mro__[1:] if b.__name__ in _distributions.__all__)
        above = next(map(_class_for, public), _Words)
        globals()[name] = _Converting(name, (above, plain), {
            "__module__": __name__, "__doc__": plain.__doc__})
        __all__.append(name)
    return globals()[name]


for _name in _distributions.__all__:
    _value = getattr(_distributions, _name)
    if isinstance(_value, type) and issubclass(_value, _distributions.Distribution):
        _class_for(_value)


def kl_divergence(p: Any, q: Any) -> Any:
    """``KL(p || q)``: see `gpuprop.distributions.kl_divergence`."""
    return as_torch(_distributions.kl_divergence(p, q))


# ---- PyTorch's modules -------------------------------------------------------------------------
# Programs write `from torch.distributions.categorical import Categorical`.  Python finds a module
# that its parent has put into sys.modules.

_MODULE_OF = {
    "ExponentialFamily": "exp_family", "FisherSnedecor": "fishersnedecor",
    "LowRankMultivariateNormal": "lowrank_multivariate_normal",
    "OneHotCategoricalStraightThrough": "one_hot_categorical",
    "RelaxedOneHotCategorical": "relaxed_categorical", "StudentT": "studentT",
    "kl_divergence": "kl", "register_kl": "kl",
    "biject_to": "constraint_registry", "transform_to": "constraint_registry",
}


def _add_modules() -> None:
    for name in __all__:
        if name in _MODULE_OF or isinstance(globals()[name], _Converting):
            snake = _re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
            path = f"{__name__}.{_MODULE_OF.get(name, snake)}"
            module = _sys.modules.setdefault(path, _ModuleType(path))
            setattr(module, name, globals()[name])
            globals()[path.rpartition(".")[2]] = module
    for module in (constraints, transforms):
        _sys.modules[f"{__name__}.{module.__name__.rpartition('.')[2]}"] = module


_add_modules()

if not _TYPE_CHECKING:  # with a __getattr__, type checkers accept every name
    __getattr__ = _explained(__name__)
