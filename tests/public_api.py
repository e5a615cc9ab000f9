"""Writes tests/public_api.txt: every public name of gpuprop with its signature.

A module is public if no part of its name starts with an underscore; its names are those of
`__all__`.  A test compares the file, so that no change of the surface goes unnoticed.  Run this
script if a change is meant, and review the difference.
"""

import importlib
import inspect
import pkgutil
from enum import Enum
from pathlib import Path

import gpuprop

FILE = Path(__file__).with_suffix(".txt")


def modules():
    """The public modules by name."""
    yield gpuprop
    for found in pkgutil.walk_packages(gpuprop.__path__, "gpuprop."):
        if not any(part.startswith("_") for part in found.name.split(".")):
            yield importlib.import_module(found.name)


def signature(value):
    """The parameters without annotations, which type checkers look after."""
    if inspect.isclass(value) and issubclass(value, Enum):  # it depends on Python's version
        return "(value)"
    try:
        found = inspect.signature(value)
    except ValueError:  # of builtins
        return "(...)"
    plain = [p.replace(annotation=p.empty, default=default(p)) for p in found.parameters.values()]
    return str(found.replace(parameters=plain, return_annotation=found.empty))


def default(p):
    """A default as text that is the same in every run."""
    simple = p.default is p.empty or isinstance(p.default, bool | int | float | str | tuple | None)
    return p.default if simple else type(p.default).__name__


def members(cls, public):
    """The public methods and properties of a class, by name, but those of public base classes."""
    found = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("gpuprop") and (base is cls or base not in public):
            found.update({n: v for n, v in vars(base).items() if not n.startswith("_")})
    return dict(sorted(found.items()))


def lines(module, public):
    for name in sorted(module.__all__):
        value = getattr(module, name)
        if inspect.ismodule(value):
            yield f"  {name}: module"
        elif inspect.isclass(value) and value.__module__.startswith("gpuprop"):
            yield f"  class {name}{signature(value)}"
            for method, inner in members(value, public).items():
                inner = getattr(inner, "__func__", inner)
                text = signature(inner) if inspect.isfunction(inner) else ""
                yield f"    {method}{text}"
        elif callable(value) and not inspect.isclass(value):
            yield f"  {name}{signature(value)}"
        else:
            yield f"  {name}"


def text():
    ordered = sorted(modules(), key=lambda module: module.__name__)
    public = {v for m in ordered for n in m.__all__ if inspect.isclass(v := getattr(m, n))}
    parts = ["\n".join([module.__name__, *lines(module, public)]) for module in ordered]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
