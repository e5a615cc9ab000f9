"""PyTorch's names and words as ours: which function and which method of a Tensor a case of op_db is about.

Functions of `gpuprop.functional` and methods take PyTorch's arguments as they are.  Array functions speak NumPy: most
are found by an alias or in `NUMPY`, and take PyTorch's keywords by `WORDS`; where the meanings differ, a function
below, with PyTorch's own signature, says its meaning in our words.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gpuprop as gp
import gpuprop.functional as F
from gpuprop._core.namespace import Differentiable

ARRAY_FUNCTIONS = Differentiable.ops


class Ours(NamedTuple):
    """A callable that takes PyTorch's arguments, and the functions of ours that it stands for."""

    call: Callable
    names: set[str]


# PyTorch's name -> NumPy's, where PyTorch knows no such alias or means another thing by its own.
NUMPY = {
    "amax": "max", "amin": "min", "bitwise_left_shift": "left_shift", "bitwise_not": "invert",
    "bitwise_right_shift": "right_shift", "clone": "copy", "eq": "equal", "equal": "array_equal",
    "permute": "transpose", "pow": "power", "repeat": "tile", "sgn": "sign", "transpose": "swapaxes",
    "unbind": "unstack", "unsqueeze": "expand_dims",
}

# PyTorch's parameter -> NumPy's, the first of them that the function has.
WORDS = {"dim": ["axis"], "dims": ["axis", "axes"], "keepdim": ["keepdims"], "dim1": ["axis1"], "dim2": ["axis2"],
         "start_dim": ["start_axis"], "end_dim": ["end_axis"]}


def find(op: Any) -> Iterator[tuple[str, Ours]]:
    """What an OpInfo is about here: a function, under PyTorch's name, a method, as "Tensor.name", both or neither."""
    function = MEANINGS.get(op.name) or _function(op)
    if function:
        yield op.name, function
    if hasattr(gp.Tensor, op.name):
        yield f"Tensor.{op.name}", Ours(functools.partial(_method, op.name), set())


def _method(name: str, self: Any, *args: Any, **kwargs: Any) -> Any:
    found = getattr(self, name)
    return found(*args, **kwargs) if callable(found) else found


def _function(op: Any) -> Ours | None:
    space, _, name = op.name.rpartition(".")
    if space == "nn.functional":
        return _functional(name)
    aliases = [a.name for a in op.aliases]
    for name in (NUMPY.get(op.name, op.name), *aliases):
        if name in ARRAY_FUNCTIONS:
            f = ARRAY_FUNCTIONS[name]
            return Ours(in_numpys_words(f), {n for n, v in ARRAY_FUNCTIONS.items() if v is f})
    return _functional(op.name) if f"nn.functional.{op.name}" in aliases else None


def _functional(name: str) -> Ours | None:
    if not public(name):
        return None
    return Ours(on_copies(getattr(F, name)) if name in WRITING else getattr(F, name), {f"functional.{name}"})


WRITING = ("batch_norm", "instance_norm")  # into the running statistics they are given


def on_copies(f: Callable) -> Callable:
    """`f`, called with copies of the tensors that are not differentiated."""
    own = lambda v: gp.tensor(v) if isinstance(v, gp.Tensor) and not v.requires_grad else v
    return lambda *args, **kwargs: f(*map(own, args), **{k: own(v) for k, v in kwargs.items()})


def public(name: str) -> bool:
    """A function of `gpuprop.functional` alone."""
    f = getattr(F, name, None)
    return inspect.isfunction(f) and f is not ARRAY_FUNCTIONS.get(name) and not name.startswith("_")


def in_numpys_words(f: Callable) -> Callable:
    """`f`, called with PyTorch's keywords; axes are tuples, and a `dtype` is what the input is cast to first."""
    own = inspect.signature(f).parameters

    def call(input: Any, *args: Any, **kwargs: Any) -> Any:
        if "dtype" in kwargs and "dtype" not in own:
            input = input.astype(kwargs.pop("dtype"))
        words = {next((w for w in WORDS.get(k, ()) if w in own), k): v for k, v in kwargs.items()}
        return f(input, *map(_tupled, args), **{k: _tupled(v) for k, v in words.items()})

    return call


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _on_copies(f: Callable) -> Callable:
    """`f` of copies of the running statistics, which it writes to; the layers' cases compare what is written."""
    @functools.wraps(f)
    def call(input: Any, running_mean: Any = None, running_var: Any = None, *args: Any, **kwargs: Any) -> Any:
        copies = [None if a is None else gp.copy(a) for a in (running_mean, running_var)]
        return f(input, *copies, *args, **kwargs)

    return call


# ---- where the meanings differ --------------------------------------------------------------------------------------

MEANINGS: dict[str, Ours] = {
    f"nn.functional.{name}": Ours(_on_copies(getattr(F, name)), {f"functional.{name}"})
    for name in ("batch_norm", "instance_norm")
}


def swapped(f: Callable) -> Callable:
    """`f` with its first two arguments as op_db has them: the table, and what it is asked for."""
    return lambda weight, input, **kwargs: f(input, weight, **kwargs)


MEANINGS |= {f"nn.functional.{name}": Ours(swapped(getattr(F, name)), {f"functional.{name}"})
             for name in ("embedding", "embedding_bag")}


def means(*names: str) -> Callable:
    """Register a function with PyTorch's name and signature, written with these of ours; all of them have to exist."""

    def register(f: Callable) -> Callable:
        if {*names} <= {*ARRAY_FUNCTIONS}:
            MEANINGS[f.__name__.rstrip("_")] = Ours(f, {*names})
        return f

    return register


@means("add")
def add(input, other, alpha=1):
    return gp.add(input, other if alpha == 1 else other * alpha)


@means("subtract")
def sub(input, other, alpha=1):
    return gp.subtract(input, other if alpha == 1 else other * alpha)


@means("subtract")
def rsub(input, other, alpha=1):
    return sub(other, input, alpha)


@means("divide", "floor_divide", "trunc")
def div(input, other, rounding_mode=None):
    quotient = gp.floor_divide if rounding_mode == "floor" else gp.divide
    return gp.trunc(quotient(input, other)) if rounding_mode == "trunc" else quotient(input, other)


@means("polygamma")
def polygamma(input, n):
    return gp.polygamma(n, input)


@means("where")
def where(input, condition, other):
    return gp.where(condition, input, other)


@means("einsum")
def einsum(operands, equation):
    return gp.einsum(equation, *operands)


def _extreme(elementwise, value, place):
    def extreme(input, dim=None, keepdim=False):
        if isinstance(dim, gp.Tensor):
            return elementwise(input, dim)
        return value(input) if dim is None else (value(input, dim, keepdim), place(input, dim, keepdim))
    return extreme


@means("max", "argmax", "maximum")
def max(*args, **kwargs):
    return _extreme(gp.maximum, gp.max, gp.argmax)(*args, **kwargs)


@means("min", "argmin", "minimum")
def min(*args, **kwargs):
    return _extreme(gp.minimum, gp.min, gp.argmin)(*args, **kwargs)


def _spread(f, input, dim=None, unbiased=True, keepdim=False, correction=None):
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    return f(input, dim, int(unbiased) if correction is None else correction, keepdim)


@means("var")
def var(*args, **kwargs):
    return _spread(gp.var, *args, **kwargs)


@means("std")
def std(*args, **kwargs):
    return _spread(gp.std, *args, **kwargs)


@means("var", "mean")
def var_mean(input, *args, **kwargs):
    dim = kwargs.get("dim")
    return var(input, *args, **kwargs), gp.mean(input, dim, kwargs.get("keepdim", False))


@means("std", "mean")
def std_mean(input, *args, **kwargs):
    return std(input, *args, **kwargs), var_mean(input, *args, **kwargs)[1]


@means("sort", "argsort", "flip")
def sort(input, dim=-1, descending=False, stable=False):
    order = (lambda x: gp.flip(x, dim)) if descending else (lambda x: x)
    return order(gp.sort(input, dim)), order(gp.argsort(input, dim))


@means("argsort", "flip")
def argsort(input, dim=-1, descending=False, stable=False):
    return sort(input, dim, descending)[1]


@means("topk")
def topk(input, k, dim=-1, largest=True, sorted=True):
    return gp.topk(input, k, dim, largest)


@means("take_along_axis")
def take_along_dim(input, indices, dim=None):
    if dim is None:
        input, indices, dim = input.ravel(), indices.ravel(), 0
    return gp.take_along_axis(input, indices, dim)


@means("index_add")
def index_add(input, dim, index, source, alpha=1):
    return gp.index_add(input, dim, index, source * alpha)


@means("repeat")
def repeat_interleave(input, repeats, dim=None, output_size=None):
    return gp.repeat(input, repeats.numpy() if isinstance(repeats, gp.Tensor) else repeats, dim)


@means("split")
def split(input, split_size_or_sections, dim=0):
    sizes, n = split_size_or_sections, input.shape[dim]
    ends = range(sizes, n, sizes) if isinstance(sizes, int) else [*itertools.accumulate(sizes)][:-1]
    return gp.split(input, ends, dim)


@means("split")
def tensor_split(input, indices_or_sections, dim=0):
    ends, n = indices_or_sections, input.shape[dim]
    if isinstance(ends, int):
        ends = [*itertools.accumulate(n // ends + (i < n % ends) for i in range(ends))][:-1]
    return gp.split(input, ends.tolist() if isinstance(ends, gp.Tensor) else ends, dim)
