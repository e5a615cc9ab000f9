"""A table of a model's layers with their output shapes and parameters."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from gpuprop._array.creation import zeros
from gpuprop._core.checks import as_instance, as_integer
from gpuprop._core.instruments import around_modules
from gpuprop._core.mode import no_grad
from gpuprop._core.namespace import namespace
from gpuprop._core.placement import place_of, write
from gpuprop._core.registry import default_backend, making_on
from gpuprop.nn import Module
from gpuprop.random import Generator, default_generator


class LayerSummary(NamedTuple):
    """One layer: a row of the table."""

    path: str  # its name in the model, such as "head.0"; for the model itself, its class
    kind: str  # the name of its class
    output: Any  # shape, or nested shapes, of its output; None if it was not called
    parameters: int  # the number of its own parameters, without its submodules'


class Summary(NamedTuple):
    """The layers of a model in the order of their definition.  `print` shows a table."""

    rows: list[LayerSummary]
    parameters: int  # tied parameters count once
    trainable: int
    bytes: int  # of parameters and buffers

    def __repr__(self) -> str:
        head = ("layer", "class", "output", "parameters")
        cells = [
            (r.path, r.kind, "-" if r.output is None else str(r.output), f"{r.parameters:,}")
            for r in self.rows
        ]
        widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
        pads = [str.ljust, str.ljust, str.ljust, str.rjust]

        def line(row: Sequence[str]) -> str:
            columns = zip(pads, row, widths, strict=True)
            return "  ".join(pad(text, width) for pad, text, width in columns)

        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        total = (f"{self.parameters:,} parameters, {self.trainable:,} trainable, "
                 f"{self.bytes / 1e6:.3g} MB with buffers")
        return "\n".join([line(head), rule, *map(line, cells), rule, total])


def summary(model: Module, *input_shapes: Sequence[int], dtype: Any = None) -> Summary:
    """The output shape and the number of parameters of each layer of `model`.

    The model is called once, in eval mode and on its own backend, with zeros of `input_shapes`,
    which include the batch dimension.  The dtype of the zeros is that of the model's first
    parameter, or `dtype`, which may be a list with a dtype for each input.  The call leaves
    training modes, buffers and random generators unchanged.  It runs hooks.

    >>> from gpuprop import nn
    >>> gpuprop.summary(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), (1, 4))
    layer       class       output  parameters
    ------------------------------------------
    Sequential  Sequential  (1, 2)           0
    0           Linear      (1, 8)          40
    1           ReLU        (1, 8)           0
    2           Linear      (1, 2)          18
    ------------------------------------------
    58 parameters, 58 trainable, 0.000232 MB with buffers
    """
    as_instance("summary: model", model, Module, "a Module")
    shapes = [_shape(s) for s in input_shapes]
    first = next((p for p in model.parameters()), None)
    place = default_backend().name if first is None else place_of(first.array)
    default_dtype = "float32" if first is None else first.dtype
    dtypes = dtype if isinstance(dtype, list | tuple) else [dtype] * len(input_shapes)
    if len(dtypes) != len(shapes):
        raise ValueError(f"summary: dtype must have one dtype for each of the {len(shapes)} input "
                         f"shapes, got {dtype!r}")
    outputs: dict[int, Any] = {}

    def record(module: Module, args: tuple, kwargs: dict, run: Callable) -> Any:
        outputs[id(module)] = run(module, args, kwargs)
        return outputs[id(module)]

    with making_on(place), no_grad(), _preserve_state(model), around_modules(record):
        pairs = zip(shapes, dtypes, strict=True)
        model.eval()(*(zeros(shape, dtype=dt or default_dtype) for shape, dt in pairs))
    rows = []
    for name, module in model.named_modules():
        kind = type(module).__name__
        own = sum(p.size for p in module.parameters(recurse=False))
        rows.append(LayerSummary(name or kind, kind, _shapes(outputs.get(id(module))), own))
    parameters = list(model.parameters())
    return Summary(
        rows,
        parameters=sum(p.size for p in parameters),
        trainable=sum(p.size for p in parameters if p.requires_grad),
        bytes=sum(t.array.nbytes for t in (*parameters, *model.buffers())),
    )


def _shape(given: Any) -> tuple[int, ...]:
    """A shape given by the user, as a tuple of ints."""
    if not isinstance(given, list | tuple):
        raise TypeError(f"summary: input_shapes must be tuples such as (1, 28, 28), got {given!r}: "
                        f"give the shape of each input with its batch dimension")
    return tuple(as_integer("summary: a size in input_shapes", n, 0) for n in given)


def _shapes(output: Any) -> Any:
    """The shape of each array, in dicts and lists like those of `output`."""
    if isinstance(output, dict):
        return {k: _shapes(v) for k, v in output.items()}
    if isinstance(output, list | tuple):
        return [_shapes(v) for v in output]
    return getattr(output, "shape", None)


@contextlib.contextmanager
def _preserve_state(model: Module) -> Iterator[None]:
    """Undo what a forward pass in the block does to modes, buffers and random generators."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(b, b.array, namespace(b.array).copy(b.array)) for b in model.buffers()]
    generators = {id(default_generator): default_generator}
    for module in model.modules():
        generators |= {id(g): g for g in vars(module).values() if isinstance(g, Generator)}
    draws = []
    for generator in generators.values():
        device_counts = {key: namespace(a).copy(a) for key, a in generator._devices.items()}
        draws.append((generator, list(generator._draws), device_counts))
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for buffer, data, values in buffers:
            write(data, values)
            buffer.array = data
        for generator, counts, device_counts in draws:
            generator._draws = counts
            for key, array in list(generator._devices.items()):
                if key in device_counts:
                    write(array, device_counts[key])  # in place: captured steps read this array
                else:
                    del generator._devices[key]
