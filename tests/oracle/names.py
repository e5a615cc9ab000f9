"""PyTorch's names and words as ours: which function of gpuprop a case of op_db is about, and how it is called.

Functions of `gpuprop.functional` take PyTorch's arguments as they are.  Array functions speak NumPy: most are found by an
alias or by `NUMPY`, and their keywords by `WORDS`; where the meanings differ, a function below with PyTorch's own signature
says PyTorch's meaning in our words.
"""

from __future__ import annotations

import builtins
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import gpuprop as gp
import gpuprop.functional as F

ARRAY_FUNCTIONS = F.ARRAY_FUNCTIONS


class Ours(NamedTuple):
    """A callable that takes PyTorch's arguments, and the functions of ours it stands for."""

    call: Callable
    names: tuple[str, ...]


# PyTorch's name -> NumPy's, where PyTorch knows no such alias.
NUMPY = {
    "amax": "max", "amin": "min", "bitwise_left_shift": "left_shift", "bitwise_not": "invert", "bitwise_right_shift": "right_shift",
    "broadcast_to": "broadcast_to", "clone": "copy", "eq": "equal", "expand": "broadcast_to", "permute": "transpose", "pow": "power",
    "repeat": "tile", "repeat_interleave": "repeat", "sgn": "sign", "take_along_dim": "take_along_axis", "transpose": "swapaxes",
    "unbind": "unstack", "unsqueeze": "expand_dims",
}

# PyTorch's parameter -> NumPy's, the first that the function has.
WORDS = {"dim": ("axis",), "dims": ("axis", "axes"), "keepdim": ("keepdims",), "repeats": ("repeats",), "correction": ("ddof",)}


def find(op: Any) -> Ours | None:
    """What the OpInfo is about here, or None."""
    if op.name in MEANINGS:
        return MEANINGS[op.name]
    space, _, name = op.name.rpartition(".")
    if space == "nn.functional":
        return Ours(getattr(F, name), (f"functional.{name}",)) if public(name) else None
    if space:
        return None
    for name in (NUMPY.get(op.name, op.name), *(a.name for a in op.aliases if "." not in a.name)):
        if name in ARRAY_FUNCTIONS:
            return Ours(in_numpys_words(ARRAY_FUNCTIONS[name]), (name,))
    return Ours(getattr(F, op.name), (f"functional.{op.name}",)) if public(op.name) else None


def public(name: str) -> bool:
    return inspect.isfunction(getattr(F, name, None)) and name not in ARRAY_FUNCTIONS and not name.startswith("_")


def in_numpys_words(f: Callable) -> Callable:
    """`f`, called with PyTorch's keywords."""
    own = inspect.signature(f).parameters

    def call(*args: Any, **kwargs: Any) -> Any:
        return f(*args, **{next((w for w in WORDS.get(k, ()) if w in own), k): v for k, v in kwargs.items()})

    return call


# ---- where the meanings differ --------------------------------------------------------------------------------------

MEANINGS: dict[str, Ours] = {}


def means(*names: str, of: str = "") -> Callable:
    """Register a function with PyTorch's signature that is written with these of ours; it counts if all of them exist."""

    def register(f: Callable) -> Callable:
        if builtins.all(name.removeprefix("functional.") in (ARRAY_FUNCTIONS if "." not in name else vars(F)) for name in names):
            MEANINGS[of or f.__name__.removesuffix("_")] = Ours(f, names)
        return f

    return register


@means("add")
def add(input: Any, other: Any, alpha: Any = 1) -> Any:
    return gp.add(input, other if alpha == 1 else other * alpha)


@means("subtract")
def sub(input: Any, other: Any, alpha: Any = 1) -> Any:
    return gp.subtract(input, other if alpha == 1 else other * alpha)


@means("subtract")
def rsub(input: Any, other: Any, alpha: Any = 1) -> Any:
    return gp.subtract(other, input if alpha == 1 else input * alpha)


@means("divide", "floor_divide", "trunc")
def div(input: Any, other: Any, rounding_mode: str | None = None) -> Any:
    return {None: gp.divide, "floor": gp.floor_divide, "trunc": lambda a, b: gp.trunc(gp.divide(a, b))}[rounding_mode](input, other)
