"""Notes on errors: the layer that raised, the shapes it saw, and the ops that computed them.

Everything is read from the traceback and the graph, so a call without an error costs nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from gpuprop._core.graph import Node
from gpuprop._core.tensor import Parameter, Tensor

MAX_OPS = 12  # ops listed in a note


class ModuleFrame(NamedTuple):
    """A module that an error passed through, and the shapes of the tensors in its forward."""

    module: Any
    shapes: dict[str, tuple]


class OpRecord(NamedTuple):
    """An op in the graph: its name, the parameters it read and the shape of its output."""

    name: str
    parameters: list[Parameter]
    shape: tuple


class Trace(NamedTuple):
    """What is known of an error so far: modules, outermost first, ops, and the note's index."""

    frames: list[ModuleFrame]
    ops: list[OpRecord]
    note: int


def locate(error: Exception, module: Any, args: tuple) -> None:
    """Write the module's path, shapes and ops to the error's note.

    Each module that the error passes through adds its part to the same note.
    """
    tensors = _tensors(error, module, args)
    trace = vars(error).get("_gpuprop_trace")
    if trace is None:
        error.add_note("")
        trace = Trace([], _history(tensors.values()), len(error.__notes__) - 1)
        vars(error)["_gpuprop_trace"] = trace
    trace.frames.insert(0, ModuleFrame(module, {name: t.shape for name, t in tensors.items()}))
    error.__notes__[trace.note] = "\n  ".join(_lines(trace))


def module_path(modules: Sequence[Any]) -> str:
    """The path of the last module, each inside the previous one: ``MLP.body.0``."""
    names = [type(modules[0]).__name__]
    for outer, inner in itertools.pairwise(modules):
        names.append(next((name for name, m in outer._walk("") if m is inner), "?"))
    return ".".join(names)


def _lines(trace: Trace) -> Iterator[str]:
    modules = [frame.module for frame in trace.frames]
    innermost = modules[-1]
    yield f"in {module_path(modules)}: {type(innermost).__name__}({innermost.extra_repr()})"
    for depth, frame in enumerate(trace.frames, 1):
        if frame.shapes:
            shapes = ", ".join(f"{name} {shape}" for name, shape in frame.shapes.items())
            yield f"tensors in {module_path(modules[:depth])}: {shapes}"
    if trace.ops:
        owners = {id(p): name.rpartition(".")[0] for name, p in modules[0].named_parameters()}
        yield f"computed by: {', '.join(_describe(op, owners) for op in trace.ops)}"


def _describe(op: OpRecord, owners: dict[int, str]) -> str:
    """The op as ``body.0 linear (2, 5)``, where `owners` maps parameters to their layers."""
    layer = next((owners[id(p)] for p in op.parameters if id(p) in owners), "")
    return " ".join(filter(None, [layer, op.name, str(op.shape)]))


def _tensors(error: Exception, module: Any, args: tuple) -> dict[str, Tensor]:
    """The local variables of the failed forward that are tensors, else the call's arguments."""
    tb = error.__traceback__
    while tb is not None:
        code, variables = tb.tb_frame.f_code, tb.tb_frame.f_locals
        is_forward = code.co_name == "forward" and code.co_varnames
        if is_forward and variables.get(code.co_varnames[0]) is module:
            return {name: value for name, value in variables.items() if isinstance(value, Tensor)}
        tb = tb.tb_next
    return {f"argument {i}": a for i, a in enumerate(args) if isinstance(a, Tensor)}


def _history(tensors: Iterable[Tensor]) -> list[OpRecord]:
    """The last ops, in order, that led to the newest tensor, along each op's newest input."""
    node = _newest(t.node for t in tensors)
    ops: list[OpRecord] = []
    while node is not None and len(ops) < MAX_OPS:
        # Without edges backward has freed the node; without a shape it only joins outputs.
        if node.edges and node.shape is not None:
            name = "" if node.name.startswith("_") else node.name
            parameters = [edge for edge in node.edges if type(edge) is Parameter]
            ops.append(OpRecord(name, parameters, node.shape))
        node = _newest(node.edges)
    return ops[::-1]


def _newest(edges: Iterable[Any]) -> Node | None:
    nodes = (edge for edge in edges if type(edge) is Node)
    return max(nodes, key=lambda node: node.order, default=None)
