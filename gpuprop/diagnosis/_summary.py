"""A table of a model's layers: what goes through them, and how many parameters they have."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from gpuprop._array.creation import zeros
from gpuprop._core.instruments import around_modules
from gpuprop._core.mode import no_grad
from gpuprop._core.namespace import namespace
from gpuprop._core.placement import place_of, write
from gpuprop._core.registry import default_backend, making_on
from gpuprop.nn._module import Module
from gpuprop.random import Generator, default_generator


class Row(NamedTuple):
    """A layer: path, class, shape or shapes of its output (None if it was not called), number of its own parameters."""

    path: str
    kind: str
    output: Any
    parameters: int


class Summary(NamedTuple):
    """The layers of a model in the order of their names; its text is a table."""

    rows: list[Row]
    parameters: int  # each once, though it may be tied
    trained: int
    bytes: int  # of parameters and buffers

    def __repr__(self) -> str:
        head = ("layer", "class", "output", "parameters")
        cells = [(r.path, r.kind, "-" if r.output is None else str(r.output), f"{r.parameters:,}") for r in self.rows]
        widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
        align = [str.ljust, str.ljust, str.ljust, str.rjust]
        line = lambda row: "  ".join(fill(c, w) for fill, c, w in zip(align, row, widths, strict=True))
        rule = "-" * (sum(widths) + 6)
        total = f"{self.parameters:,} parameters, {self.trained:,} trained, {self.bytes / 1e6:.3g} MB with buffers"
        return "\n".join([line(head), rule, *map(line, cells), rule, total])


def summary(model: Module, *input_shapes: Sequence[int], dtype: Any = None) -> Summary:
    """What goes through each layer of `model` for inputs of these shapes, batch size included, in eval mode.

    The inputs are zeros on the model's backend, in its own dtype or in `dtype`, of which there may be one for each.
    Modes, buffers and random numbers are left as they were; hooks are called.
    """
    first = next((p for p in model.parameters()), None)
    place = default_backend().name if first is None else place_of(first.data)
    dtypes = dtype if isinstance(dtype, list | tuple) else [dtype] * len(input_shapes)
    own = "float32" if first is None else first.dtype
    outputs: dict[int, Any] = {}

    def note(module: Module, args: tuple, kwargs: dict, run: Callable) -> Any:
        outputs[id(module)] = run(module, args, kwargs)
        return outputs[id(module)]

    with making_on(place), no_grad(), _left_as_it_was(model), around_modules(note):
        inputs = zip(input_shapes, dtypes, strict=True)
        model.eval()(*(zeros(tuple(shape), dtype=dtype or own) for shape, dtype in inputs))
    rows = [Row(name or type(model).__name__, type(module).__name__, _shapes(outputs.get(id(module))),
                sum(p.size for p in module.parameters(recurse=False))) for name, module in model.named_modules()]
    sizes = [(p.size, p.requires_grad) for p in model.parameters()]
    held = sum(t.data.nbytes for t in (*model.parameters(), *model.buffers()))
    return Summary(rows, sum(n for n, _ in sizes), sum(n for n, wanted in sizes if wanted), held)


def _shapes(output: Any) -> Any:
    if isinstance(output, dict):
        return {k: _shapes(v) for k, v in output.items()}
    if isinstance(output, list | tuple):
        return [_shapes(v) for v in output]
    return getattr(output, "shape", None)


@contextlib.contextmanager
def _left_as_it_was(model: Module) -> Iterator[None]:
    """Whatever a forward in the block does to modes, buffers and random numbers is undone."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(b, b.data, namespace(b.data).copy(b.data)) for b in model.buffers()]
    generators = {id(g): g for m in model.modules() for g in vars(m).values() if isinstance(g, Generator)}
    draws = [(g, list(g._draws), {key: namespace(a).copy(a) for key, a in g._devices.items()})
             for g in (default_generator, *generators.values())]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for buffer, data, values in buffers:
            write(data, values)
            buffer.data = data
        for generator, counts, counted in draws:
            generator._draws = counts
            for key, array in list(generator._devices.items()):
                if key in counted:
                    write(array, counted[key])  # in place, where captured steps read it
                else:
                    del generator._devices[key]
