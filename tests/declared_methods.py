"""Writes gpuprop/_core/declared.pyi: what type checkers know of a Tensor's operators and methods.

They are ops, defined above the class they are given to, so no checker could find them by itself.  Run this file after a
change of gpuprop/_array/methods.py; a test compares the two.
"""

import inspect
from pathlib import Path

import gpuprop
from gpuprop._array.methods import Methods

STUB = Path(gpuprop.__file__).parent / "_core" / "declared.pyi"
HEAD = '''"""Written by tests/declared_methods.py: the operators and methods that gpuprop._array.methods gives to Tensor."""

import builtins
from typing import Any

from gpuprop._core.tensor import Tensor

class Methods:
'''
KNOWN = {"Tensor", "Tensors", "str", "int", "float", "bool", "builtins.bool", "builtins.int", "Any", "None"}
IN_WORDS = {"Tensors": "tuple[Tensor, ...]", "bool": "builtins.bool", "int": "builtins.int", "float": "builtins.float"}


def kind(annotation, default):
    words = str(annotation)
    return IN_WORDS.get(words, words) if words in KNOWN else default


def parameter(p):
    text = str(p.replace(annotation=p.empty, default=p.empty))
    if p.name == "self":
        return text
    return f"{text}: {kind(p.annotation, 'Any')}" + " = ..." * (p.default is not p.empty)


def declaration(name, value):
    if isinstance(value, property):
        returned = kind(getattr(value.fget, "__annotations__", {}).get("return"), "Any")
        return f"    @property\n    def {name}(self) -> {returned}: ..."
    if hasattr(value, "takes_dim"):
        return f"    def {name}(self, *args: Any, **kwargs: Any) -> {value.takes_dim}: ..."
    signature = inspect.signature(value)
    first, *rest = signature.parameters.values()
    params = [first.replace(name="self", kind=first.POSITIONAL_OR_KEYWORD), *rest]
    comment = "  # type: ignore[override]" * (name in ("__eq__", "__ne__"))
    listed = ", ".join(map(parameter, params[:2] if name.startswith("__") else params))
    return f"    def {name}({listed}) -> {kind(signature.return_annotation, 'Tensor')}: ...{comment}"


def stub():
    members = {n: v for n, v in vars(Methods).items() if callable(v) or isinstance(v, property)}
    return HEAD + "\n".join(declaration(n, v) for n, v in members.items() if n != "__hash__") + "\n"


if __name__ == "__main__":
    STUB.write_text(stub())
