"""Writes gpuprop/_core/declared.pyi: what type checkers know of the methods of Tensor.

gpuprop._array.methods sets them after the class is made, so no checker finds them by itself.  Run
this file after a change of that module; tests/test_tensor.py checks that the stub is up to date.
"""

import inspect
import re
from pathlib import Path

import gpuprop
from gpuprop._array.methods import Methods
from gpuprop._core.signature import PYTORCH_NAMES

STUB = Path(gpuprop.__file__).parent / "_core" / "declared.pyi"
HEAD = '''"""The methods that gpuprop._array.methods sets; written by tests/declared_methods.py."""

import builtins
from collections.abc import Sequence
from typing import Any, NoReturn, overload

from gpuprop._core.tensor import Tensor

class Size(builtins.int):
    @overload
    def __call__(self, dim: None = ...) -> tuple[builtins.int, ...]: ...
    @overload
    def __call__(self, dim: builtins.int) -> builtins.int: ...

class Methods:
'''
PLURAL = {"flip", "roll"}  # methods whose keyword is `dims` in PyTorch, and `dim` in the others
BUILTINS = re.compile(r"(?<!builtins\.)\b(int|float|bool)\b")  # also names of methods


def type_text(annotation, unknown):
    """An annotation as the stub writes it; `unknown` for none, an array or Any."""
    if annotation in (inspect.Parameter.empty, "Array", "Any"):
        return unknown
    text = annotation.replace("Tensors", "tuple[Tensor, ...]")
    return BUILTINS.sub(r"builtins.\1", text)


def parameter(p, accepts_lists=False):
    """A parameter with its type; methods with `accepts_lists` convert lists of axes to tuples."""
    star = "*" if p.kind is p.VAR_POSITIONAL else "**" if p.kind is p.VAR_KEYWORD else ""
    text = type_text(p.annotation, "Any")
    if accepts_lists:
        text = text.replace("tuple[builtins.int, ...]", "Sequence[builtins.int]")
    return f"{star}{p.name}: {text}" + " = ..." * (p.default is not p.empty)


def signatures(name, params):
    """The parameter lists of a method that accepts PyTorch's keywords too.

    An optional parameter gets a second, keyword-only one.  A required one gets an overload.
    """
    aliases = {numpy: pytorch for pytorch, numpy in PYTORCH_NAMES.items() if pytorch != "dims"}
    if name in PLURAL:
        aliases["axis"] = "dims"
    renamed = [p.replace(name=aliases.get(p.name, p.name)) for p in params]
    lists = [[parameter(p, accepts_lists=True) for p in these] for these in (params, renamed)]
    if any(p.name in aliases and p.default is p.empty for p in params):
        return lists
    extra = [new for old, new in zip(*lists, strict=True) if old != new]
    has_keywords = any(p.kind in (p.VAR_POSITIONAL, p.KEYWORD_ONLY) for p in params)
    return [[*lists[0], *["*"][has_keywords:], *extra] if extra else lists[0]]


def declaration(name, value):
    if isinstance(value, property):
        returns = "Size" if inspect.isclass(value.fget) else value.fget.__annotations__["return"]
        return f"    @property\n    def {name}(self) -> {type_text(returns, 'Any')}: ..."
    signature = inspect.signature(value)
    params = list(signature.parameters.values())[1:]
    if name.startswith("__"):  # an operator passes no more
        params = [p for i, p in enumerate(params) if i == 0 or p.default is p.empty]
    returns = type_text(signature.return_annotation, "Tensor")
    declared = re.fullmatch(r"Callable\[\.\.\., (.*)\]", Methods.__annotations__.get(name, ""))
    if declared:
        returns = type_text(declared[1], "Tensor")
    if hasattr(value, "pytorch_names"):
        lists = signatures(name, params)
    else:
        lists = [[parameter(p) for p in params]]
    overload = "    @overload\n" * (len(lists) > 1)
    comment = "  # type: ignore[override]" * (name in ("__eq__", "__ne__"))
    return "\n".join(
        f"{overload}    def {name}({', '.join(['self', *params])}) -> {returns}: ...{comment}"
        for params in lists)


def stub():
    members = {n: v for n, v in vars(Methods).items() if callable(v) or isinstance(v, property)}
    declarations = [declaration(n, v) for n, v in members.items() if n != "__hash__"]
    return HEAD + "\n".join(declarations) + "\n"


if __name__ == "__main__":
    STUB.write_text(stub())
