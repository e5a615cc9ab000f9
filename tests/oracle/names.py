"""Find the functions and Tensor methods of gpuprop that an OpInfo of PyTorch's op_db describes.

Functions of `gpuprop.functional` and methods accept PyTorch's arguments.  Array functions follow
NumPy: most are found by an alias of the OpInfo or in `NUMPY_NAMES`, and `PARAMETERS` renames
keyword arguments.  If the parameters differ more, an adapter below has PyTorch's signature and
calls array functions.
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


class Counterpart(NamedTuple):
    """A function with PyTorch's parameters, and the names of gpuprop's functions that it tests."""

    call: Callable
    names: set[str]


# PyTorch's name -> NumPy's, where PyTorch lacks the alias or uses NumPy's name otherwise.
NUMPY_NAMES = {
    "amax": "max", "amin": "min", "bitwise_left_shift": "left_shift", "bitwise_not": "invert",
    "bitwise_right_shift": "right_shift", "clone": "copy", "eq": "equal", "equal": "array_equal",
    "permute": "transpose", "pow": "power", "repeat": "tile", "sgn": "sign",
    "transpose": "swapaxes", "unbind": "unstack", "unsqueeze": "expand_dims",
}

# PyTorch's parameter -> NumPy's: the first that the function has.
PARAMETERS = {
    "dim": ["axis"], "dims": ["axis", "axes"], "keepdim": ["keepdims"], "dim1": ["axis1"],
    "dim2": ["axis2"], "start_dim": ["start_axis"], "end_dim": ["end_axis"],
}


def find(op: Any) -> Iterator[tuple[str, Counterpart]]:
    """The function and the method for an OpInfo, if they exist.

    The function has PyTorch's name, the method the name "Tensor.name".
    """
    function = ADAPTERS.get(op.name) or _function(op)
    if function:
        yield op.name, function
    is_slot = inspect.ismemberdescriptor(getattr(gp.Tensor, op.name, None))
    if hasattr(gp.Tensor, op.name) and not is_slot:
        yield f"Tensor.{op.name}", Counterpart(functools.partial(_method, op.name), set())


def _method(name: str, self: Any, *args: Any, **kwargs: Any) -> Any:
    """The value of an attribute, or the result of a method."""
    value = getattr(self, name)
    return value(*args, **kwargs) if callable(value) else value


def _function(op: Any) -> Counterpart | None:
    module, _, name = op.name.rpartition(".")
    if module == "nn.functional":
        return _functional(name)
    aliases = [alias.name for alias in op.aliases]
    for name in (NUMPY_NAMES.get(op.name, op.name), *aliases):
        if name in ARRAY_FUNCTIONS:
            f = ARRAY_FUNCTIONS[name]
            names = {n for n, value in ARRAY_FUNCTIONS.items() if value is f}
            return Counterpart(with_torch_keywords(f), names)
    return _functional(op.name) if f"nn.functional.{op.name}" in aliases else None


def _functional(name: str) -> Counterpart | None:
    if not is_functional(name):
        return None
    return Counterpart(getattr(F, name), {f"functional.{name}"})


def is_functional(name: str) -> bool:
    """Whether `gpuprop.functional` has a function of this name that is not an array function."""
    f = getattr(F, name, None)
    return (inspect.isfunction(f) and f is not ARRAY_FUNCTIONS.get(name)
            and not name.startswith("_"))


def with_torch_keywords(f: Callable) -> Callable:
    """`f` with PyTorch's keywords.

    Lists of axes become tuples, and the input is cast first if `f` has no parameter `dtype`.
    """
    parameters = inspect.signature(f).parameters

    def renamed(keyword: str) -> str:
        candidates = [name for name in PARAMETERS.get(keyword, ()) if name in parameters]
        return candidates[0] if candidates else keyword

    def call(input: Any, *args: Any, **kwargs: Any) -> Any:
        if "dtype" in kwargs and "dtype" not in parameters:
            input = input.astype(kwargs.pop("dtype"))
        options = {renamed(name): _as_tuple(value) for name, value in kwargs.items()}
        return f(input, *map(_as_tuple, args), **options)

    return call


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _with_copied_statistics(f: Callable) -> Callable:
    """`f` with copies of the running statistics, which it updates in place.

    test_modules.py compares the updates.
    """

    @functools.wraps(f)
    def call(input: Any, running_mean: Any = None, running_var: Any = None, *args: Any,
             **kwargs: Any) -> Any:
        copies = [None if a is None else gp.copy(a) for a in (running_mean, running_var)]
        return f(input, *copies, *args, **kwargs)

    return call


# ---- adapters: PyTorch's signature, gpuprop's functions ------------------------------------------

ADAPTERS: dict[str, Counterpart] = {
    f"nn.functional.{name}":
        Counterpart(_with_copied_statistics(getattr(F, name)), {f"functional.{name}"})
    for name in ("batch_norm", "instance_norm")
}


def with_weight_first(f: Callable) -> Callable:
    """`f` with its first two arguments in the order of op_db's samples."""
    return lambda weight, input, **kwargs: f(input, weight, **kwargs)


ADAPTERS |= {
    f"nn.functional.{name}": Counterpart(with_weight_first(getattr(F, name)),
                                         {f"functional.{name}"})
    for name in ("embedding", "embedding_bag")
}


def adapter(*names: str) -> Callable:
    """Register a function with PyTorch's name and signature that calls these array functions.

    It is ignored unless all of them exist.
    """

    def register(f: Callable) -> Callable:
        if {*names} <= {*ARRAY_FUNCTIONS}:
            ADAPTERS[f.__name__.rstrip("_")] = Counterpart(f, {*names})
        return f

    return register


@adapter("add")
def add(input, other, alpha=1):
    return gp.add(input, other if alpha == 1 else other * alpha)


@adapter("subtract")
def sub(input, other, alpha=1):
    return gp.subtract(input, other if alpha == 1 else other * alpha)


@adapter("subtract")
def rsub(input, other, alpha=1):
    return sub(other, input, alpha)


@adapter("divide", "floor_divide", "trunc")
def div(input, other, rounding_mode=None):
    if rounding_mode == "floor":
        return gp.floor_divide(input, other)
    quotient = gp.divide(input, other)
    return gp.trunc(quotient) if rounding_mode == "trunc" else quotient


@adapter("polygamma")
def polygamma(input, n):
    return gp.polygamma(n, input)


@adapter("where")
def where(input, condition, other):
    return gp.where(condition, input, other)


@adapter("einsum")
def einsum(operands, equation):
    return gp.einsum(equation, *operands)


def _extreme(elementwise, reduce, arg_reduce):
    def extreme(input, dim=None, keepdim=False):
        if isinstance(dim, gp.Tensor):
            return elementwise(input, dim)
        if dim is None:
            return reduce(input)
        return reduce(input, dim, keepdim), arg_reduce(input, dim, keepdim)

    return extreme


@adapter("max", "argmax", "maximum")
def max(*args, **kwargs):
    return _extreme(gp.maximum, gp.max, gp.argmax)(*args, **kwargs)


@adapter("min", "argmin", "minimum")
def min(*args, **kwargs):
    return _extreme(gp.minimum, gp.min, gp.argmin)(*args, **kwargs)


def _with_correction(f, input, dim=None, unbiased=True, keepdim=False, correction=None):
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    return f(input, dim, int(unbiased) if correction is None else correction, keepdim)


@adapter("var")
def var(*args, **kwargs):
    return _with_correction(gp.var, *args, **kwargs)


@adapter("std")
def std(*args, **kwargs):
    return _with_correction(gp.std, *args, **kwargs)


@adapter("var", "mean")
def var_mean(input, *args, **kwargs):
    mean = gp.mean(input, kwargs.get("dim"), kwargs.get("keepdim", False))
    return var(input, *args, **kwargs), mean


@adapter("std", "mean")
def std_mean(input, *args, **kwargs):
    return std(input, *args, **kwargs), var_mean(input, *args, **kwargs)[1]


@adapter("sort", "argsort", "flip")
def sort(input, dim=-1, descending=False, stable=False):
    values = gp.sort(input, dim)
    indices = gp.argsort(input, dim)
    return (gp.flip(values, dim), gp.flip(indices, dim)) if descending else (values, indices)


@adapter("argsort", "flip")
def argsort(input, dim=-1, descending=False, stable=False):
    return sort(input, dim, descending)[1]


@adapter("topk")
def topk(input, k, dim=-1, largest=True, sorted=True):
    return gp.topk(input, k, dim, largest)


@adapter("take_along_axis")
def take_along_dim(input, indices, dim=None):
    if dim is None:
        return gp.take_along_axis(input.ravel(), indices.ravel(), 0)
    return gp.take_along_axis(input, indices, dim)


@adapter("index_add")
def index_add(input, dim, index, source, alpha=1):
    return gp.index_add(input, dim, index, source * alpha)


@adapter("repeat")
def repeat_interleave(input, repeats, dim=None, output_size=None):
    return gp.repeat(input, repeats.numpy() if isinstance(repeats, gp.Tensor) else repeats, dim)


@adapter("split")
def split(input, split_size_or_sections, dim=0):
    if isinstance(split_size_or_sections, int):
        boundaries = range(split_size_or_sections, input.shape[dim], split_size_or_sections)
    else:
        boundaries = [*itertools.accumulate(split_size_or_sections)][:-1]
    return gp.split(input, boundaries, dim)


@adapter("split")
def tensor_split(input, indices_or_sections, dim=0):
    boundaries = indices_or_sections
    if isinstance(boundaries, int):
        size, remainder = divmod(input.shape[dim], boundaries)
        sizes = [size + (i < remainder) for i in range(boundaries)]
        boundaries = [*itertools.accumulate(sizes)][:-1]
    elif isinstance(boundaries, gp.Tensor):
        boundaries = boundaries.tolist()
    return gp.split(input, boundaries, dim)
