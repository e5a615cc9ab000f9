"""Add notes to errors in a model: the layer, the shapes of its tensors, and the ops before it.

All information comes from the traceback and the graph, so a call without an error costs nothing.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from gpuprop._core.graph import Node
from gpuprop._core.signature import caused_by_none, none_argument, none_error
from gpuprop._core.tensor import Parameter, Tensor

MAX_OPS = 12  # ops listed in a note


class ModuleFrame(NamedTuple):
    """A module whose forward raised an error, and the shapes of the tensors in it by name."""

    module: Any
    shapes: dict[str, tuple]


class OpRecord(NamedTuple):
    """An op of the graph: its name, the parameters among its inputs, and its output's shape."""

    name: str
    parameters: list[Parameter]
    shape: tuple


class Trace(NamedTuple):
    """The contents of an error's note so far, and its index in `__notes__`."""

    frames: list[ModuleFrame]  # from the outermost module to the innermost
    ops: list[OpRecord]  # in the order of execution
    note: int


def locate(error: Exception, module: Any, args: tuple) -> None:
    """Add the module's path, the shapes of its tensors and the last ops to the error's note.

    The error propagates from inner to outer modules, which all add to the same note.
    """
    tensors = _tensors(error, module, args)
    trace = vars(error).get("_gpuprop_trace")
    if trace is None:
        error.add_note("")
        trace = Trace([], _history(tensors.values()), len(error.__notes__) - 1)
        vars(error)["_gpuprop_trace"] = trace
    trace.frames.insert(0, ModuleFrame(module, {name: t.shape for name, t in tensors.items()}))
    error.__notes__[trace.note] = "\n  ".join(_lines(trace))


def missing_input(error: Exception, module: Any, args: tuple, kwargs: dict) -> TypeError | None:
    """A clearer error if a layer of gpuprop failed because a required input is None."""
    if not caused_by_none(error) or "_gpuprop_trace" in vars(error):  # an inner layer failed
        return None
    called = module.forward
    if not str(getattr(called, "__module__", "")).startswith("gpuprop."):
        return None
    if called.__qualname__ == "Function.forward":  # it passes all inputs to this function
        called = type(module).function
    name = none_argument(called, args, kwargs)
    return None if name is None else none_error(type(module).__name__, name)


def module_path(modules: Sequence[Any]) -> str:
    """The path of the last module, such as ``MLP.body.0``; each module contains the next one."""
    names = [type(modules[0]).__name__]
    for outer, inner in itertools.pairwise(modules):
        names.append(next((name for name, m in outer.named_modules() if m is inner), "?"))
    return ".".join(names)


def _lines(trace: Trace) -> Iterator[str]:
    modules = [frame.module for frame in trace.frames]
    innermost = modules[-1]
    options = "..."
    with contextlib.suppress(Exception):  # it must not replace the error that the note explains
        options = innermost.extra_repr()
    yield f"in {module_path(modules)}: {type(innermost).__name__}({options})"
    for depth, frame in enumerate(trace.frames, 1):
        if frame.shapes:
            shapes = ", ".join(f"{name} {shape}" for name, shape in frame.shapes.items())
            yield f"tensors in {module_path(modules[:depth])}: {shapes}"
    if trace.ops:
        owners = {id(p): name.rpartition(".")[0] for name, p in modules[0].named_parameters()}
        yield f"computed by: {', '.join(_describe(op, owners) for op in trace.ops)}"


def _describe(op: OpRecord, owners: dict[int, str]) -> str:
    """Text like ``body.0 linear (2, 5)``; `owners` is {id(parameter): name of its layer}."""
    layer = next((owners[id(p)] for p in op.parameters if id(p) in owners), "")
    return " ".join(filter(None, [layer, op.name, str(op.shape)]))


def _tensors(error: Exception, module: Any, args: tuple) -> dict[str, Tensor]:
    """The Tensors among the local variables of the module's forward, if the error was raised in it.

    Otherwise those among the positional arguments of the call.
    """
    tb = error.__traceback__
    while tb is not None:
        code = tb.tb_frame.f_code
        variables = tb.tb_frame.f_locals
        is_forward = code.co_name == "forward" and code.co_varnames
        if is_forward and variables.get(code.co_varnames[0]) is module:  # its `self`
            return {name: value for name, value in variables.items() if isinstance(value, Tensor)}
        tb = tb.tb_next
    return {f"argument {i}": a for i, a in enumerate(args) if isinstance(a, Tensor)}


def _history(tensors: Iterable[Tensor]) -> list[OpRecord]:
    """The last ops that led to the newest tensor, in order of execution.

    The search follows the newest input of each op.
    """
    node = _newest(t.node for t in tensors)
    ops: list[OpRecord] = []
    while node is not None and len(ops) < MAX_OPS:
        # A node without edges was freed by backward; one without a shape only joins outputs.
        if node.edges and node.shape is not None:
            name = "" if node.name.startswith("_") else node.name
            parameters = [edge for edge in node.edges if type(edge) is Parameter]
            ops.append(OpRecord(name, parameters, node.shape))
        node = _newest(node.edges)
    return ops[::-1]


def _newest(edges: Iterable[Any]) -> Node | None:
    """The node that was created last, or None if there are no nodes."""
    nodes = (edge for edge in edges if type(edge) is Node)
    return max(nodes, key=lambda node: node.order, default=None)
