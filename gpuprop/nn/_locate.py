"""Add notes to errors in a model: the layer, the shapes of its tensors, and the ops before it.

All information comes from the traceback and the graph, so a call without an error costs nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from types import FrameType
from typing import Any, NamedTuple

from gpuprop._core.failures import array_error, bound
from gpuprop._core.graph import Node
from gpuprop._core.tensor import Parameter, Tensor

MAX_OPS = 12  # ops listed in a note
MAX_LAYERS = 12  # layers whose tensors are listed
CALLS = "__call__", "call_method"  # the functions that call a module's forward


class ModuleFrame(NamedTuple):
    """A running module, and the tensors in its forward by name."""

    module: Any
    tensors: dict[str, Tensor]


class OpRecord(NamedTuple):
    """An op of the graph: its name, the parameters among its inputs, and its output's shape."""

    name: str
    parameters: list[Parameter]
    shape: tuple


def locate(error: Exception, module: Any, args: tuple) -> None:
    """Add the module's path, the shapes of tensors in it and around it, and the last ops as a note.

    The innermost module does this once.  The modules around it, which the error then reaches, are
    found on the stack.
    """
    if vars(error).get("_gpuprop_located"):
        return
    vars(error)["_gpuprop_located"] = True
    tensors = _local_tensors(module, _traceback_frames(error))
    if tensors is None:
        tensors = {f"argument {i}": a for i, a in enumerate(args) if isinstance(a, Tensor)}
    frames = [*_outer_modules(sys._getframe(1), module), ModuleFrame(module, tensors)]
    error.add_note("\n  ".join(_lines(frames)))


def wrong_input(error: Exception, module: Any, args: tuple, kwargs: dict) -> TypeError | None:
    """A clearer error if a layer of gpuprop failed because an input is no array."""
    if "_gpuprop_located" in vars(error):  # an inner layer failed
        return None
    called = module.forward
    if not str(getattr(called, "__module__", "")).startswith("gpuprop."):
        return None
    if called.__qualname__ == "Function.forward":  # it passes all inputs to this function
        called = type(module).function
    arguments = bound(called, args, kwargs) or {}
    return array_error(error, type(module).__name__, called, arguments)


def module_path(modules: Sequence[Any]) -> str:
    """The path of the last module, such as ``MLP.body.0``; each module contains the next one."""
    return ".".join(_path_parts(modules))


def _path_parts(modules: Sequence[Any]) -> list[str]:
    names = [type(modules[0]).__name__]
    known: dict[tuple[int, int], str] = {}  # modules that call each other are looked up once
    for outer, inner in itertools.pairwise(modules):
        pair = id(outer), id(inner)
        if pair not in known:
            known[pair] = _name_within(outer, inner)
        names.append(known[pair])
    return names


def _name_within(outer: Any, inner: Any) -> str:
    """The dotted name of a submodule, which most often is a direct one; "?" if it is none."""
    pairs = itertools.chain(outer.named_children(), outer.named_modules())
    return next((name for name, module in pairs if module is inner), "?")


def _lines(frames: Sequence[ModuleFrame]) -> Iterator[str]:
    modules = [frame.module for frame in frames]
    innermost = modules[-1]
    options = "..."
    with contextlib.suppress(Exception):  # it must not replace the error that the note explains
        options = innermost.extra_repr()
    parts = _path_parts(modules)
    yield f"in {'.'.join(parts)}: {type(innermost).__name__}({options})"
    for depth, frame in list(enumerate(frames, 1))[-MAX_LAYERS:]:
        if frame.tensors:
            shapes = ", ".join(f"{name} {t.shape}" for name, t in frame.tensors.items())
            yield f"tensors in {'.'.join(parts[:depth])}: {shapes}"
    ops = _history(frames[-1].tensors.values())
    if ops:
        owners = {id(p): name.rpartition(".")[0] for name, p in modules[0].named_parameters()}
        yield f"computed by: {', '.join(_describe(op, owners) for op in ops)}"


def _describe(op: OpRecord, owners: dict[int, str]) -> str:
    """Text like ``body.0 linear (2, 5)``; `owners` is {id(parameter): name of its layer}."""
    layer = next((owners[id(p)] for p in op.parameters if id(p) in owners), "")
    return " ".join(filter(None, [layer, op.name, str(op.shape)]))


def _outer_modules(call: FrameType, module: Any) -> list[ModuleFrame]:
    """The modules around `module` whose forward is running, from the outermost; `call` calls it."""
    found: list[ModuleFrame] = []
    inner: list[FrameType] = []  # the frames between two calls of modules
    frame: FrameType | None = call
    while frame is not None:
        code = frame.f_code
        if code.co_name in CALLS and code.co_filename == call.f_code.co_filename:
            outer = frame.f_locals[code.co_varnames[0]]
            if outer is not (found[-1].module if found else module):
                found.append(ModuleFrame(outer, _local_tensors(outer, inner) or {}))
            inner = []
        else:
            inner.append(frame)
        frame = frame.f_back
    return found[::-1]


def _traceback_frames(error: Exception) -> Iterator[FrameType]:
    tb = error.__traceback__
    while tb is not None:
        yield tb.tb_frame
        tb = tb.tb_next


def _local_tensors(module: Any, frames: Iterable[FrameType]) -> dict[str, Tensor] | None:
    """The Tensors among the local variables of the module's forward; None if it is no frame."""
    for frame in frames:
        code = frame.f_code
        if code.co_name == "forward" and code.co_varnames:
            variables = frame.f_locals
            if variables.get(code.co_varnames[0]) is module:  # its `self`
                return {name: v for name, v in variables.items() if isinstance(v, Tensor)}
    return None


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
