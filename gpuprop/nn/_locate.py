"""Which layer an error comes from and which shapes led there, told in the error's note.

All of it is read from what the traceback and the graph hold anyway, so a call that goes well pays nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from gpuprop._core.graph import Node
from gpuprop._core.tensor import Parameter, Tensor

LONGEST = 12  # ops of a history that are told


class Level(NamedTuple):
    """A module that an error passed on its way out, and the tensors its forward had by name."""

    module: Any
    tensors: dict[str, tuple]


class Made(NamedTuple):
    """An op of the history: its name, the parameters it read and the shape it gave."""

    op: str
    read: list[Parameter]
    shape: tuple


class Trail(NamedTuple):
    """What an error knows of its way out: outermost module first; and which of its notes tells it."""

    levels: list[Level]
    made: list[Made]
    note: int


def locate(error: Exception, module: Any, args: tuple) -> None:
    """Say in the error's note where it comes from, by the layer's path; each module on the way out adds its step."""
    tensors = _tensors(error, module, args)
    trail = vars(error).get("_gpuprop_trail")
    if trail is None:
        error.add_note("")
        trail = Trail([], _history(tensors.values()), len(error.__notes__) - 1)
        vars(error)["_gpuprop_trail"] = trail
    trail.levels.insert(0, Level(module, {name: t.shape for name, t in tensors.items()}))
    error.__notes__[trail.note] = "\n  ".join(_lines(trail))


def path(modules: Sequence[Any]) -> str:
    """The name of the last of these modules, each inside the one before: ``MLP.body.0``."""
    pairs = itertools.pairwise(modules)
    names = [next((name for name, module in outer._walk("") if module is inner), "?") for outer, inner in pairs]
    return ".".join([type(modules[0]).__name__, *names])


def _lines(trail: Trail) -> Iterator[str]:
    modules = [level.module for level in trail.levels]
    yield f"in {path(modules)}: {type(modules[-1]).__name__}({modules[-1].extra_repr()})"
    for depth, level in enumerate(trail.levels):
        if level.tensors:
            shapes = ", ".join(f"{name} {shape}" for name, shape in level.tensors.items())
            yield f"{path(modules[:depth + 1])} had {shapes}"
    if trail.made:
        owner = {id(p): name.rpartition(".")[0] for name, p in modules[0].named_parameters()}
        layer = lambda m: next((owner[id(p)] for p in m.read if id(p) in owner), "")
        steps = (" ".join(filter(None, [layer(m), m.op, str(m.shape)])) for m in trail.made)
        yield f"which came by {', '.join(steps)}"


def _tensors(error: Exception, module: Any, args: tuple) -> dict[str, Tensor]:
    """The tensors that the module's forward had by name when it failed, or else the call's arguments."""
    tb = error.__traceback__
    while tb is not None:
        code, found = tb.tb_frame.f_code, tb.tb_frame.f_locals
        if code.co_name == "forward" and code.co_varnames and found.get(code.co_varnames[0]) is module:
            return {name: value for name, value in found.items() if isinstance(value, Tensor)}
        tb = tb.tb_next
    return {f"argument {i}": a for i, a in enumerate(args) if isinstance(a, Tensor)}


def _history(tensors: Any) -> list[Made]:
    """The ops that led to the newest of these tensors, the last ones, in order; where paths join, along the newer."""
    newest = lambda edges: max((e for e in edges if type(e) is Node), key=lambda node: node.order, default=None)
    node, made = newest(t.node for t in tensors), list[Made]()
    while node is not None and len(made) < LONGEST:
        if node.edges and node.shape is not None:  # neither spent by a backward nor the common node of several outputs
            op = node.name
            read = [e for e in node.edges if type(e) is Parameter]
            made.append(Made("" if op.startswith("_") else op, read, node.shape))
        node = newest(node.edges)
    return made[::-1]
