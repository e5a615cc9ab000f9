"""What must hold of every op, on every backend, in every version and memory layout, and of every training step.

Each check takes a `Row` or the call itself, ``check_grad(F.gelu, x)``, and raises AssertionError saying what differs.
"""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from gpuprop._capture import capture
from gpuprop._core.backend import Backend
from gpuprop._core.dtypes import HALF, as_dtype, is_float
from gpuprop._core.gradient import grad
from gpuprop._core.graph import raw
from gpuprop._core.mode import generic
from gpuprop._core.ops import definitions, forget_choices
from gpuprop._core.registry import get_backend, use
from gpuprop._core.tensor import Parameter, Tensor
from gpuprop.random import manual_seed
from gpuprop.testing.rows import Row, all_rows

# How far a result may be from float64's, in units of its largest element.
TOLERANCE = {"float64": 1e-11, "float32": 3e-5, "float16": 2e-3, "bfloat16": 1.6e-2}
STEPS = 4  # times as far half types may be, where one call is several ops or products


class Layout(NamedTuple):
    """The same call with its arrays lying otherwise in memory: `values` of the host's array, `place` on a backend."""

    values: Callable[[np.ndarray], np.ndarray]
    place: Callable[[Backend, np.ndarray], Any]


def _as_is(a: np.ndarray) -> np.ndarray:
    return a


def _spread(a: np.ndarray) -> np.ndarray:
    return np.repeat(a, 2, axis=-1)


def _repeated(a: np.ndarray) -> np.ndarray:
    return np.array(np.broadcast_to(a[:1], a.shape)) if a.ndim else a


def _place(b: Backend, a: np.ndarray) -> Any:
    return b.asarray(a.copy(order="C"))


def _backwards(b: Backend, a: np.ndarray) -> Any:
    return _place(b, np.flip(a))[(..., *(slice(None, None, -1),) * a.ndim)]


LAYOUTS = {
    "contiguous": Layout(_as_is, _place),
    "transposed": Layout(_as_is, lambda b, a: _place(b, a.T).T),
    "sliced": Layout(_as_is, lambda b, a: _place(b, _spread(a))[..., ::2] if a.ndim else _place(b, a)),
    "negative strides": Layout(_as_is, _backwards),
    "broadcast": Layout(_repeated, lambda b, a: b.xp.broadcast_to(_place(b, a[:1] if a.ndim else a), a.shape)),
}


class Result(NamedTuple):
    """What a call gave: outputs and the gradients of its floating inputs, in host memory, and what each is in."""

    outputs: list[np.ndarray]
    gradients: list[np.ndarray | None]
    raw_dtypes: list[Any]  # of the gradients as the pullbacks returned them


def run(row: Row, backend: Backend, dtype: str = "float64", layout: str = "contiguous",
        gradients: bool = True) -> Result:
    """Call a row on a backend with its floats in `dtype`, and pull a fixed gradient back through all its outputs."""
    how, inputs = LAYOUTS[layout], []
    before: list[np.ndarray] = []

    def place(a: np.ndarray) -> Tensor:
        host = how.values(a.astype(as_dtype(dtype)) if a.dtype.kind == "f" else a)
        before.append(host.copy())
        inputs.append(Tensor(how.place(backend, host), requires_grad=gradients and a.dtype.kind == "f"))
        return inputs[-1]

    call = row.replaced(place)
    with use(backend.name), no_syncs(backend, repr(row)):
        outputs = _flat(call())
        wanted = [o for o in outputs if o.requires_grad]
        dtypes = [d for o in wanted for d in _pullback_dtypes(o, backend)]
        if wanted:
            parts: list[Any] = [(o * Tensor(backend.asarray(_seed(o)))).sum() for o in wanted]
            functools.reduce(operator.add, parts).backward()
    for tensor, host in zip(inputs, before, strict=True):
        _near(tensor.numpy(), host, "float64", f"{row} changed its input", steps=0)
    to_host = lambda a: None if a is None else backend.to_numpy(a)
    return Result([o.numpy() for o in outputs], [to_host(t.grad) for t in inputs if t.requires_grad], dtypes)


def _flat(out: Any) -> list[Tensor]:
    if isinstance(out, list | tuple):
        return [t for o in out for t in _flat(o)]
    return [] if out is None else [out if isinstance(out, Tensor) else Tensor(out)]


def _seed(o: Any) -> np.ndarray:
    """Odd multiples of 1 / 128 between -1 and 1, which every type holds exactly."""
    return np.asarray(((np.floor(np.cos(np.arange(o.size)) * 64) + 0.5) / 64).reshape(o.shape), o.dtype)


def _pullback_dtypes(o: Tensor, backend: Backend) -> list[Any]:
    """The dtypes in which the last op's pullbacks answer, before the engine casts: a leak of float64 is one here."""
    node = o.node
    if node is None or node.shape is None or type(node.pullback) is not tuple:
        return []
    answers = [f(backend.xp.zeros(node.shape, node.dtype)) for f in node.pullback if f is not None]
    inputs = [e if hasattr(e, "edges") else e.data for e in node.edges]
    return [(a.dtype, i.dtype) for a, i in zip(answers, inputs, strict=True) if a is not None]


def _row(row: Any, args: tuple, kwargs: dict) -> Row:
    return row if isinstance(row, Row) else Row(row, *args, **kwargs)


def _near(got: Any, want: Any, dtype: str, what: str, steps: int = 1) -> None:
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape, f"{what} has shape {got.shape}, not {want.shape}"
    if want.dtype.kind not in "fV":
        np.testing.assert_array_equal(got, want, err_msg=what)
        return
    got, want = got.astype("float64"), want.astype("float64")
    finite = want[np.isfinite(want)]
    terms = 2e-2 if dtype in ("float64", "float32") else 0.25  # what cancels to nothing keeps the error of its terms
    scale = np.abs(finite).max(initial=terms)
    tolerance = TOLERANCE[dtype] * steps
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * scale, err_msg=what)


# ---- one op ---------------------------------------------------------------------------------------------------------


def check_grad(row: Any, *args: Any, backend: str = "numpy", step: float = 1e-6, tolerance: float = 1e-6,
               **kwargs: Any) -> None:
    """The gradient along one random direction is the slope there, in float64, of the definition."""
    row, b = _row(row, args, kwargs), get_backend(backend)
    with generic():
        _slope(row, lambda r: _total(run(r, b, gradients=False)), lambda r: run(r, b).gradients, step, tolerance)


def check_second(row: Any, *args: Any, backend: str = "numpy", step: float = 1e-5, tolerance: float = 1e-5,
                 **kwargs: Any) -> None:
    """The gradient of the gradient, from the same bodies run on Tensors, along one random direction, in float64."""
    row, b = _row(row, args, kwargs), get_backend(backend)
    directions = _directions(row, 1)

    def along(*tensors: Any) -> Any:
        """<gradient, directions> as a function of the floating arrays."""
        found = grad(lambda *inner: _weighted(row, inner), tuple(range(len(tensors))))(*tensors)
        parts = [(g * b.asarray(d)).sum() for g, d in zip(found, directions, strict=True)]
        return functools.reduce(operator.add, parts)

    def floats(r: Row) -> list[Any]:
        return [b.asarray(a.copy()) for a in r.arrays() if a.dtype.kind == "f"]

    with generic(), use(backend):
        value = lambda r: float(b.to_numpy(raw(along(*map(Tensor, floats(r))))))
        gradients = lambda r: [b.to_numpy(g) for g in grad(along, tuple(range(len(directions))))(*floats(r))]
        _slope(row, value, gradients, step, tolerance)


def _weighted(row: Row, floats: Iterable[Any]) -> Any:
    """All outputs, weighted and summed, with the floating arrays replaced by `floats`."""
    rest = iter(floats)
    outputs = _flat(row.replaced(lambda a: next(rest) if a.dtype.kind == "f" else a)())
    parts = [(o * _seed(o)).sum() for o in outputs if is_float(o.dtype)]
    return functools.reduce(operator.add, parts)


def _total(result: Result) -> float:
    return float(sum((o * _seed(o)).sum() for o in result.outputs if o.dtype.kind == "f"))


def _directions(row: Row, seed: int) -> list[np.ndarray]:
    """One random direction for all floating arrays together, of length 1 and without components near 0."""
    rng = np.random.default_rng(seed)
    shapes = [a.shape for a in row.arrays() if a.dtype.kind == "f"]
    u = [np.asarray(rng.choice([-1.0, 1.0], s) * rng.uniform(0.5, 1.5, s)) for s in shapes]
    length = np.sqrt(sum((d * d).sum() for d in u)) or 1.0
    return [d / length for d in u]


def _slope(row: Row, value: Callable, gradients: Callable, step: float, tolerance: float) -> None:
    u = _directions(row, 0)

    def moved(s: float) -> Row:
        rest = iter(u)
        return _substituted(row, [np.asarray(a + s * next(rest)) if a.dtype.kind == "f" else a for a in row.arrays()])

    want = (value(moved(step)) - value(moved(-step))) / (2 * step)
    answers = gradients(row)
    got = sum(float((g * d).sum()) for g, d in zip(answers, u, strict=True) if g is not None)
    size = max(abs(want), np.sqrt(sum(float((g * g).sum()) for g in answers if g is not None)), 1e-3)
    assert abs(got - want) <= tolerance * size, (
        f"{row}: the gradient along a direction is {got}, the slope there {want}")


def _substituted(row: Row, arrays: list[np.ndarray]) -> Row:
    rest = iter(arrays)
    args, kwargs = row.substituted(lambda _: next(rest))
    return Row(row.op, *args, **kwargs)


def check_parity(row: Any, *args: Any, backend: str, dtype: str = "float32", **kwargs: Any) -> None:
    """A backend's outputs and gradients are those of NumPy's definition in float64, dtypes too, in every memory layout.

    Half types are checked in one layout, since layouts do not depend on the type.  On a device nothing may wait for
    the host.
    """
    row, b, numpy = _row(row, args, kwargs), get_backend(backend), get_backend("numpy")
    half = as_dtype(dtype).char in HALF
    single = getattr(getattr(row.op, "spec", None), "precision", "low") != "low"
    steps = STEPS if half and not single else 1
    layouts = ["contiguous"] if half or "layouts" in row.reasons else LAYOUTS
    wants: dict[Any, tuple[Result, Result]] = {}
    for layout in layouts:
        values = LAYOUTS[layout].values
        if values not in wants:
            like = _substituted(row, [values(a) for a in row.arrays()])
            rounded = lambda a: a.astype(as_dtype(dtype)).astype("float64") if a.dtype.kind == "f" else a
            narrow = _substituted(like, [rounded(a) for a in like.arrays()])
            with generic():
                wants[values] = run(narrow, numpy), run(like, numpy, dtype)
        want, kind = wants[values]
        where = f"{row} on {backend!r}, {layout}, {dtype}"
        got = run(row, b, dtype, layout)
        for i, (g, w, k) in enumerate(zip(got.outputs, want.outputs, kind.outputs, strict=True)):
            assert g.dtype == k.dtype, f"{where}: output {i} is {g.dtype}, NumPy's {k.dtype}"
            _near(g, w, dtype, f"{where}: output {i}", steps)
        for i, (dx, wanted_dx) in enumerate(zip(got.gradients, want.gradients, strict=True)):
            absent = "absent" if dx is None else "there"
            assert (dx is None) == (wanted_dx is None), f"{where}: gradient {i} is {absent}"
            if dx is not None:
                _near(dx, wanted_dx, dtype, f"{where}: gradient {i}", steps)
        for own, wanted in got.raw_dtypes:
            right = own == wanted or (half and own == "float32")  # which the engine rounds
            assert right, f"{where}: a pullback answers in {own} where its input is {wanted}"


@contextlib.contextmanager
def no_syncs(backend: Backend, where: str) -> Iterator[None]:
    """Inside, the host must not wait for the device, on a backend that counts when it does."""
    counted = getattr(backend, "syncs", [])
    before = len(counted)
    yield
    assert len(counted) == before, f"{where}: the host waited for the device: {'; '.join(counted[before:])}"


def check_capture(row: Any, *args: Any, backend: str = "strict", **kwargs: Any) -> None:
    """Forward and backward, recorded and replayed, give the bits they give as they are, on a backend that records."""
    row, b = _row(row, args, kwargs), get_backend(backend)
    inputs: list[Tensor] = []

    def place(a: np.ndarray) -> Tensor:
        floating = a.dtype.kind == "f"
        inputs.append(Tensor(_place(b, a.astype("float32") if floating else a), requires_grad=floating))
        return inputs[-1]

    call, seeds = row.replaced(place), []  # type: ignore[var-annotated]

    def go() -> list[Any]:
        outputs = _flat(call())
        wanted = [o for o in outputs if o.requires_grad]
        for t in inputs:
            t.grad = None
        seeds.extend(Tensor(b.asarray(_seed(o))) for o in wanted[len(seeds):])
        if wanted:
            functools.reduce(operator.add, [(o * s).sum() for o, s in zip(wanted, seeds, strict=True)]).backward()
        return [*(o.data for o in outputs), *(t.grad for t in inputs if t.grad is not None)]

    with use(backend):
        want = [b.to_numpy(a) for a in go()]
        with b.record() as recording:
            made = go()
        recording.replay()
        for got, expected in zip(made, want, strict=True):
            np.testing.assert_array_equal(b.to_numpy(got), expected, err_msg=f"{row} replayed on {backend!r}")


def check_kernel(backend: str, name: str, rows: Iterable[Row], twin: Callable | None = None) -> None:
    """A backend's twin of an op or kernel does what the definition does, in float64 and float32, in every layout.

    `name` is qualified, "gpuprop:relu"; without `twin` it is the one the backend has.
    """
    b = get_backend(backend)
    fn: Any = twin or b.kernels.get(name)
    if name not in definitions or fn is None:
        raise ValueError(f"backend {backend!r} has no twin of {name!r}, or no op has that name")
    before = b.kernels
    b.kernels = {**before, name: fn}
    forget_choices()
    try:
        own = [row for row in rows if row.name == name]
        assert own, f"there is no row for {name}"
        for row in own:
            for dtype in ("float64", "float32"):
                check_parity(row, backend=backend, dtype=dtype)
    finally:
        b.kernels = before
        forget_choices()


# ---- a training step ------------------------------------------------------------------------------------------------


def check_training(make: Callable[[], tuple], batches: list[tuple[np.ndarray, ...]], backend: str = "strict",
                   tolerance: float = 1e-4) -> None:
    """A training step is the same run on NumPy and on `backend`, twice, captured and not, and never waits for it.

    ``make()`` returns (model, optimizer, step), and ``step(*batch)`` returns the loss; the learning rate is halved
    half-way, which a captured step must follow, and parameters that are tied must stay so.
    """
    reference = _trained(make, batches, "numpy", captured=False)
    once = _trained(make, batches, backend, captured=False)
    again = _trained(make, batches, backend, captured=False)
    replayed = _trained(make, batches, backend, captured=True)
    np.testing.assert_allclose(once[0], reference[0], rtol=tolerance, err_msg=f"losses on {backend!r} and on NumPy")
    for what, other in (("a second run", again), ("the captured step", replayed)):
        np.testing.assert_array_equal(other[0], once[0], err_msg=f"losses of {what} on {backend!r}")
        for name, value in once[1].items():
            np.testing.assert_array_equal(other[1][name], value, err_msg=f"{name} after {what} on {backend!r}")


def _trained(make: Callable, batches: list, backend: str, captured: bool) -> tuple[list[float], dict[str, np.ndarray]]:
    b = get_backend(backend)
    with use(backend):
        manual_seed(7)
        model, optimizer, step = make()
        ties = _ties(model)
        run_step = capture(step) if captured else step
        losses = []
        for i, batch in enumerate(batches):
            if i == len(batches) // 2:
                for group in optimizer.param_groups:
                    group["lr"] = group["lr"] / 2
            placed = [Tensor(b.asarray(a)) for a in batch]
            with no_syncs(b, f"step {i} on {backend!r}{', captured' * captured}"):
                loss = run_step(*placed)
            losses.append(loss)
    state = model.state_dict()
    for names in ties:
        for name in names[1:]:
            what = f"{name} was tied to {names[0]} and is no more"
            np.testing.assert_array_equal(state[name], state[names[0]], err_msg=what)
    return [loss.item() for loss in losses], state


def _ties(model: Any) -> list[list[str]]:
    """The groups of names that are one parameter."""
    names: dict[int, list[str]] = {}
    for name, value in model._state().items():
        if isinstance(value, Parameter):
            names.setdefault(id(value), []).append(name)
    return [group for group in names.values() if len(group) > 1]


# ---- all of it, for a backend ----------------------------------------------------------------------------------------


def conformance(backend: str, rows: Iterable[Row] | None = None) -> Callable:
    """A pytest function that puts a backend through every row: ``test_mine = gpuprop.testing.conformance("mine")``."""
    import pytest  # only who runs tests needs it

    table = list(all_rows() if rows is None else rows)

    @pytest.mark.parametrize("row", table, ids=repr)
    @pytest.mark.parametrize("dtype", list(TOLERANCE))
    def test_conformance(row: Row, dtype: str) -> None:
        if "parity" not in row.reasons:
            check_parity(row, backend=backend, dtype=dtype)

    return test_conformance
