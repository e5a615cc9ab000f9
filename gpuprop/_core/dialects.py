"""Dialects: subclasses of Tensor whose methods mean something else, as in `gpuprop.torch`.

An op on a Tensor of such a class returns Tensors of the class.  Functions of the library that call
methods of Tensors run on Tensors that speak NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any


class Dialect:
    """How Tensors of one class enter and leave code of the library."""

    def __init__(self, finish: Callable[..., Any], enter: Callable[[Any], Any],
                 leave: Callable[[Any], Any]) -> None:
        self.finish = finish  # the result of an op, in the class of its arguments
        self.enter = enter  # the same Tensor, in NumPy's words
        self.leave = leave  # the Tensors of a result, in the words of the dialect


# By class.  Empty unless a package with such a class is imported, so that plain Tensors pay for one
# test in each op.
dialects: dict[type, Dialect] = {}


def finished(result: Any, args: tuple, spec: Any, edges: Sequence, arrays: Sequence,
             constants: dict) -> Any:
    """The result of an op in the class of its arguments.

    `edges`, `arrays` and `constants` are the op's inputs: see `ops.op`.
    """
    for a in args:
        dialect = dialects.get(type(a))
        if dialect is not None:
            return dialect.finish(result, args, spec, edges, arrays, constants)
    return result


def spoken(result: Any, args: Iterable) -> Any:
    """The Tensors of a result that is no op's, in the words of the arguments."""
    for a in args if dialects else ():
        dialect = dialects.get(type(a))
        if dialect is not None:
            return dialect.leave(result)
    return result
