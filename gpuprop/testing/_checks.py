"""Checks that hold for every op, on every backend and memory layout, and for every training step.

A check takes a `Row` or the call itself, ``check_grad(F.gelu, x)``.  It raises AssertionError with
a description of what differs.
"""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from gpuprop._capture import capture
from gpuprop._core.backend import NO_SWITCH, Backend, forget_choices
from gpuprop._core.checks import as_callable
from gpuprop._core.dtypes import HALF, as_dtype, is_float
from gpuprop._core.gradient import grad
from gpuprop._core.graph import raw
from gpuprop._core.mode import generic
from gpuprop._core.ops import definitions
from gpuprop._core.registry import get_backend, use
from gpuprop._core.tensor import Parameter, Tensor
from gpuprop._core.tree import tree_map
from gpuprop.nn._module import state_tensors
from gpuprop.random import manual_seed
from gpuprop.testing.rows import Row

# The tolerance of a result in each dtype, relative to its largest element.
TOLERANCE = {"float64": 1e-11, "float32": 3e-5, "float16": 2e-3, "bfloat16": 1.6e-2}
HALF_FACTOR = 4  # multiplies the tolerance of half types for ops that round more than once


class Layout(NamedTuple):
    """A memory layout of the arguments of a call."""

    values: Callable[[np.ndarray], np.ndarray]  # an array -> its values if it had this layout
    place: Callable[[Backend, np.ndarray], Any]  # these values -> an array of a backend


def _unchanged(a: np.ndarray) -> np.ndarray:
    return a


def _first_repeated(a: np.ndarray) -> np.ndarray:
    return np.array(np.broadcast_to(a[:1], a.shape)) if a.ndim else a


def _contiguous(b: Backend, a: np.ndarray) -> Any:
    return b.asarray(a.copy(order="C"))


def _transposed(b: Backend, a: np.ndarray) -> Any:
    return _contiguous(b, a.T).T


def _sliced(b: Backend, a: np.ndarray) -> Any:
    return _contiguous(b, np.repeat(a, 2, axis=-1))[..., ::2] if a.ndim else _contiguous(b, a)


def _negative_strides(b: Backend, a: np.ndarray) -> Any:
    return _contiguous(b, np.flip(a))[(..., *(slice(None, None, -1),) * a.ndim)]


def _broadcast(b: Backend, a: np.ndarray) -> Any:
    return b.xp.broadcast_to(_contiguous(b, a[:1] if a.ndim else a), a.shape)


LAYOUTS = {
    "contiguous": Layout(_unchanged, _contiguous),
    "transposed": Layout(_unchanged, _transposed),
    "sliced": Layout(_unchanged, _sliced),
    "negative strides": Layout(_unchanged, _negative_strides),
    "broadcast": Layout(_first_repeated, _broadcast),
}


class Result(NamedTuple):
    """The outputs of a call and the gradients of its floating inputs, in host memory."""

    outputs: list[np.ndarray]
    gradients: list[np.ndarray | None]
    pullback_dtypes: list[tuple[Any, Any]]  # (dtype a pullback returned, dtype of its input)


def run_row(row: Row, backend: Backend, dtype: str = "float64", layout: str = "contiguous",
            gradients: bool = True, weights: Callable | None = None,
            pullbacks: bool = True) -> Result:
    """Call a row on a backend with its floats in `dtype`, then `backward` of a weighted sum.

    `weights` is by default `_weights`.  With `pullbacks`, their dtypes are found.
    """
    weights = weights or _weights
    inputs: list[Tensor] = []
    before: list[np.ndarray] = []

    def place(a: np.ndarray) -> Tensor:
        floating = a.dtype.kind == "f"
        host = LAYOUTS[layout].values(a.astype(as_dtype(dtype)) if floating else a)
        before.append(host.copy())
        array = LAYOUTS[layout].place(backend, host)
        inputs.append(Tensor(array, requires_grad=gradients and floating))
        return inputs[-1]

    call = row.map_arrays(place)
    may_wait = "waits" in row.skipped
    with use(backend.name), NO_SWITCH if may_wait else no_syncs(backend, repr(row)):
        outputs = _tensors(call())
        differentiable = [o for o in outputs if o.requires_grad]
        dtypes = [pair for o in differentiable if pullbacks
                  for pair in _pullback_dtypes(o, backend)]
        if differentiable:
            weighted = [(o * Tensor(backend.asarray(weights(o)))).sum() for o in differentiable]
            _sum(weighted).backward()
    for tensor, host in zip(inputs, before, strict=True):
        _assert_close(tensor.numpy(), host, "float64", f"{row} modified its input", factor=0)
    return Result(
        [o.numpy() for o in outputs],
        [t.gradient if t.gradient is None else backend.to_numpy(t.gradient)
         for t in inputs if t.requires_grad],
        dtypes,
    )


def _tensors(out: Any) -> list[Tensor]:
    """The outputs of a call as a flat list."""
    if isinstance(out, list | tuple):
        return [t for o in out for t in _tensors(o)]
    if out is None:
        return []
    return [out if isinstance(out, Tensor) else Tensor(out)]


def _sum(values: list[Any]) -> Any:
    return functools.reduce(operator.add, values)


def _weights(o: Any) -> np.ndarray:
    """Fixed weights for the elements of an output: odd multiples of 1/128, at most 129/128.

    Every floating dtype represents them exactly.
    """
    values = (np.floor(np.cos(np.arange(o.size)) * 64) + 0.5) / 64
    return np.asarray(values.reshape(o.shape), o.dtype)


def _pullback_dtypes(o: Tensor, backend: Backend) -> list[tuple[Any, Any]]:
    """For each pullback of the last op: the dtype it returns before any cast, its input's dtype."""
    node = o.node
    if node is None or node.shape is None or type(node.pullback) is not tuple:
        return []
    d = backend.xp.zeros(node.shape, node.dtype)
    gradients = [f(d) for f in node.pullback if f is not None]
    inputs = [edge if hasattr(edge, "edges") else edge.array for edge in node.edges]
    pairs = zip(gradients, inputs, strict=True)
    return [(g.dtype, i.dtype) for g, i in pairs if g is not None]


def _row(op: Any, args: tuple, kwargs: dict) -> Row:
    """The row of a call: its Tensors become arrays, and floating arrays become float64."""
    if isinstance(op, Row):
        return op
    as_callable("check: op", op)

    def host(value: Any) -> Any:
        if isinstance(value, Tensor):
            value = value.numpy()
        floating = isinstance(value, np.ndarray) and is_float(value.dtype)
        return value.astype("float64") if floating else value

    return Row(op, *tree_map(host, args), **tree_map(host, kwargs))


def _is_floating(a: np.ndarray) -> bool:
    return a.dtype.kind == "f"


def _with_arrays(row: Row, arrays: Iterable[np.ndarray]) -> Row:
    """The same call with other arrays."""
    remaining = iter(arrays)
    return row.map_arrays(lambda _: next(remaining))


def _assert_close(got: Any, want: Any, dtype: str, what: str, factor: int = 1) -> None:
    got = np.asarray(got)
    want = np.asarray(want)
    assert got.shape == want.shape, f"{what} has shape {got.shape}, expected {want.shape}"
    if want.dtype.kind not in "fV":
        np.testing.assert_array_equal(got, want, err_msg=what)
        return
    got = got.astype("float64")
    want = want.astype("float64")
    # The scale has a minimum: a sum that cancels to nearly 0 has the rounding errors of its terms.
    smallest = 2e-2 if dtype in ("float64", "float32") else 0.25
    scale = np.abs(want[np.isfinite(want)]).max(initial=smallest)
    tolerance = TOLERANCE[dtype] * factor
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * scale, err_msg=what)


# ---- one op --------------------------------------------------------------------------------------


def check_grad(op: Any, *args: Any, order: int = 1, backend: str = "numpy", step: float = 1e-6,
               tolerance: float = 1e-6, **kwargs: Any) -> None:
    """Check the gradient of ``op(*args, **kwargs)`` against finite differences.

    The gradient with respect to all floating arrays is compared along a random unit vector ``u``::

        <gradient, u> = (f(x + step * u) - f(x - step * u)) / (2 * step)

    where ``f`` is a fixed weighted sum of the outputs, in float64.  `tolerance` is relative to the
    norm of the gradient, or to 1e-3 if that is larger.  With ``order=2`` the gradient of the
    gradient is checked too, with 10 times `step` and `tolerance`.  `op` may be any function of
    Tensors, or a `Row`.

    The op's own definition runs, never a backend's override: `check_parity` checks overrides.

    >>> from gpuprop.testing import check_grad
    >>> check_grad(lambda x, y: gpuprop.exp(x) * y, np.ones((2, 3)), np.ones(3), order=2)
    """
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, not {order}")
    row = _row(op, args, kwargs)
    if not isinstance(op, Row) and not any(map(_is_floating, row.arrays())):
        raise ValueError(f"{row} has no floating array to differentiate with respect to")
    b = get_backend(backend)

    def value(r: Row) -> float:
        outputs = run_row(r, b, gradients=False).outputs
        return float(sum((o * _weights(o)).sum() for o in outputs if o.dtype.kind == "f"))

    def gradients(r: Row) -> list[np.ndarray | None]:
        return run_row(r, b).gradients

    with generic():
        _check_along_direction(row, value, gradients, step, tolerance, "gradient")
    if order == 2:
        check_second(row, backend=backend, step=10 * step, tolerance=10 * tolerance)


def check_second(op: Any, *args: Any, backend: str = "numpy", step: float = 1e-5,
                 tolerance: float = 1e-5, **kwargs: Any) -> None:
    """Check the gradient of the gradient of ``op(*args, **kwargs)`` against finite differences.

    Like `check_grad`, for the function ``<gradient, v>`` with another random unit vector ``v``.
    """
    row = _row(op, args, kwargs)
    b = get_backend(backend)
    directions = _random_direction(row, 1)
    argnums = tuple(range(len(directions)))

    def weighted_sum(*floats: Any) -> Any:
        remaining = iter(floats)
        outputs = _tensors(row.map_arrays(lambda a: next(remaining) if _is_floating(a) else a)())
        return _sum([(o * _weights(o)).sum() for o in outputs if is_float(o.dtype)])

    def gradient_along_v(*floats: Any) -> Any:
        pairs = zip(grad(weighted_sum, argnums)(*floats), directions, strict=True)
        return _sum([(g * b.asarray(v)).sum() for g, v in pairs])

    def placed(r: Row) -> list[Any]:
        return [b.asarray(a.copy()) for a in r.arrays() if _is_floating(a)]

    def value(r: Row) -> float:
        return float(b.to_numpy(raw(gradient_along_v(*map(Tensor, placed(r))))))

    def gradients(r: Row) -> list[np.ndarray]:
        return [b.to_numpy(g) for g in grad(gradient_along_v, argnums)(*placed(r))]

    with generic(), use(backend):
        _check_along_direction(row, value, gradients, step, tolerance, "second-order gradient")


def _random_direction(row: Row, seed: int) -> list[np.ndarray]:
    """A unit vector over all floating arrays together, with no component near 0."""
    rng = np.random.default_rng(seed)
    shapes = [a.shape for a in row.arrays() if _is_floating(a)]
    u = [np.asarray(rng.choice([-1.0, 1.0], s) * rng.uniform(0.5, 1.5, s)) for s in shapes]
    norm = np.sqrt(sum((d * d).sum() for d in u)) or 1.0
    return [d / norm for d in u]


def _check_along_direction(row: Row, value: Callable, gradients: Callable, step: float,
                           tolerance: float, what: str) -> None:
    u = _random_direction(row, 0)

    def moved(distance: float) -> Row:
        remaining = iter(u)
        return row.map_arrays(
            lambda a: np.asarray(a + distance * next(remaining)) if _is_floating(a) else a)

    want = (value(moved(step)) - value(moved(-step))) / (2 * step)
    found = gradients(row)
    pairs = [(g, d) for g, d in zip(found, u, strict=True) if g is not None]
    got = sum(float((g * d).sum()) for g, d in pairs)
    norm = np.sqrt(sum(float((g * g).sum()) for g, _ in pairs))
    scale = max(abs(want), norm, 1e-3)
    assert abs(got - want) <= tolerance * scale, (
        f"{row}: the {what} along a random direction is {got}, finite differences give {want}")


def check_hidden(op: Any, *args: Any, backend: str = "numpy", **kwargs: Any) -> None:
    """Check that infinite gradients pass no input that ``op(*args, **kwargs)`` hides.

    The gradient of one element of an output is 1, then infinite, then NaN; that of all others is 0.
    Where the gradient of an input is 0 in the first case, it must be 0 in the others: a pullback
    must choose the gradients that it passes, since ``inf * 0`` is NaN.  Inputs of one element are
    not checked: the gradient of a function that normalizes one element is a difference of equal
    terms.  The versions that `backend` chooses and the definitions are checked, in float64, for
    some elements of each output.

    >>> from gpuprop.testing import check_hidden
    >>> check_hidden(gpuprop.maximum, np.array([0.0, 1.0]), np.array([1.0, 0.0]))
    """
    row = _row(op, args, kwargs)
    b = get_backend(backend)
    inputs: list[Tensor] = []

    def place(a: np.ndarray) -> Tensor:
        inputs.append(Tensor(_contiguous(b, a), requires_grad=_is_floating(a)))
        return inputs[-1]

    def gradients(output: Tensor, element: int, value: float) -> list[np.ndarray]:
        d = np.zeros(output.size)
        d[element] = value
        for t in inputs:
            t.gradient = None
        output.backward(b.asarray(d.reshape(output.shape)), retain_graph=True)
        return [b.to_numpy(t.gradient) for t in inputs if t.gradient is not None and t.size > 1]

    for version in (contextlib.nullcontext(), generic()):
        inputs.clear()
        with use(b.name), version, np.errstate(invalid="ignore"):
            outputs = [o for o in _tensors(row.map_arrays(place)()) if o.requires_grad and o.size]
            for i, output in enumerate(outputs):
                for element in {0, output.size // 2, output.size - 1}:
                    finite = gradients(output, element, 1.0)
                    for value in (np.inf, np.nan):
                        pairs = zip(gradients(output, element, value), finite, strict=True)
                        assert not any(((f == 0) & (g != 0)).any() for g, f in pairs), (
                            f"{row} on {backend!r}: the gradient {value} of element {element} of "
                            f"output {i} reaches an input that is hidden from it: choose the "
                            f"gradient, as in xp.where(mask, dy, 0), in place of dy * mask")


def check_parity(op: Any, *args: Any, backend: str, dtype: str = "float32", **kwargs: Any) -> None:
    """Check that ``op(*args, **kwargs)`` on a backend agrees with NumPy's definition in float64.

    Outputs, gradients and their dtypes are compared; in float32 in every memory layout, and in the
    other dtypes in one, since no version depends on both.  The host must not wait for a device.

    >>> from gpuprop.testing import check_parity
    >>> check_parity(gpuprop.tanh, np.array([0.5, -1.0]), backend="strict", dtype="float16")
    """
    row = _row(op, args, kwargs)
    b = get_backend(backend)
    numpy = get_backend("numpy")
    half = as_dtype(dtype).char in HALF
    rounds_once = hasattr(row.op, "spec") and row.op.spec.precision != "low"
    factor = HALF_FACTOR if half and not rounds_once else 1
    layouts = LAYOUTS if dtype == "float32" and "layouts" not in row.skipped else ["contiguous"]

    def rounded(a: np.ndarray) -> np.ndarray:
        return a.astype(as_dtype(dtype)).astype("float64") if _is_floating(a) else a

    with generic():
        typed = run_row(row, numpy, dtype, gradients=False).outputs
    expected: dict[Any, Result] = {}
    for layout in layouts:
        values = LAYOUTS[layout].values
        if values not in expected:
            with generic():
                exact = row.map_arrays(values).map_arrays(rounded)
                expected[values] = run_row(exact, numpy, pullbacks=False)
        want = expected[values]
        where = f"{row} on {backend!r}, {layout}, {dtype}"
        got = run_row(row, b, dtype, layout, pullbacks=layout == "contiguous")
        for i, (o, w, t) in enumerate(zip(got.outputs, want.outputs, typed, strict=True)):
            assert o.dtype == t.dtype, (
                f"{where}: output {i} has dtype {o.dtype}, NumPy's has {t.dtype}")
            _assert_close(o, w, dtype, f"{where}: output {i}", factor)
        for i, (g, expected_g) in enumerate(zip(got.gradients, want.gradients, strict=True)):
            is_none = "is None" if g is None else "is not None"
            assert (g is None) == (expected_g is None), (
                f"{where}: gradient {i} {is_none}, unlike NumPy's")
            if g is not None:
                _assert_close(g, expected_g, dtype, f"{where}: gradient {i}", factor)
        for returned, of_input in got.pullback_dtypes:
            rounded_later = half and returned == "float32"  # the engine rounds it
            assert returned == of_input or rounded_later, (
                f"{where}: a pullback returns {returned} for an input of dtype {of_input}")


@contextlib.contextmanager
def no_syncs(backend: Backend, where: str) -> Iterator[None]:
    """Assert that the host does not wait for the device, if the backend counts waits in `syncs`."""
    syncs = getattr(backend, "syncs", [])
    before = len(syncs)
    yield
    assert len(syncs) == before, (
        f"{where}: the host waited for the device: {'; '.join(syncs[before:])}")


def check_capture(op: Any, *args: Any, backend: str = "strict", **kwargs: Any) -> None:
    """Check that ``op(*args, **kwargs)`` and its backward pass are recorded and replayed correctly.

    The replay must give the same bits as a run without recording.
    `backend` must support recording.
    """
    row = _row(op, args, kwargs)
    b = get_backend(backend)
    inputs: list[Tensor] = []

    def place(a: np.ndarray) -> Tensor:
        array = _contiguous(b, a.astype("float32") if _is_floating(a) else a)
        inputs.append(Tensor(array, requires_grad=_is_floating(a)))
        return inputs[-1]

    call = row.map_arrays(place)
    weights: list[Tensor] = []

    def forward_and_backward() -> list[Any]:
        outputs = _tensors(call())
        differentiable = [o for o in outputs if o.requires_grad]
        for t in inputs:
            t.gradient = None
        weights.extend(Tensor(b.asarray(_weights(o))) for o in differentiable[len(weights):])
        if differentiable:
            pairs = zip(differentiable, weights, strict=True)
            _sum([(o * w).sum() for o, w in pairs]).backward()
        gradients = [t.gradient for t in inputs if t.gradient is not None]
        return [*(o.array for o in outputs), *gradients]

    with use(backend):
        expected = [b.to_numpy(a) for a in forward_and_backward()]
        with b.record() as recording:
            recorded = forward_and_backward()
        recording.replay()
        for got, want in zip(recorded, expected, strict=True):
            np.testing.assert_array_equal(b.to_numpy(got), want,
                                          err_msg=f"{row} replayed on {backend!r}")


def check_kernel(backend: str, name: str, rows: Iterable[Row],
                 override: Callable | None = None) -> None:
    """Check that a backend's override of an op or kernel agrees with its definition.

    `name` is qualified, such as "gpuprop.functional:gelu".  `override` is by default the one that
    the backend registers.  `check_parity` checks each of `rows` that calls this op, in float64 and
    float32.

    ::

        check_kernel("mine", "gpuprop.functional:gelu", all_rows())
    """
    b = get_backend(backend)
    fn: Any = override or b.kernels.get(name)
    if name not in definitions:
        raise ValueError(f"there is no op or kernel {name!r}")
    if fn is None:
        raise ValueError(f"backend {backend!r} has no override of {name!r}")
    before = b.kernels
    b.kernels = {**before, name: fn}
    forget_choices()
    try:
        own = [row for row in rows if row.name == name]
        assert own, f"none of the rows calls {name}"
        for row in own:
            for dtype in ("float64", "float32"):
                check_parity(row, backend=backend, dtype=dtype)
            if "hidden" not in row.skipped:
                check_hidden(row, backend=backend)
    finally:
        b.kernels = before
        forget_choices()


# ---- a training step -----------------------------------------------------------------------------


def check_training(make: Callable[[], tuple], batches: list[tuple[np.ndarray, ...]],
                   backend: str = "strict", tolerance: float = 1e-4) -> None:
    """Check that a training run is the same on NumPy, on `backend`, and there with a captured step.

    ``make()`` returns (model, optimizer, step), and ``step(*batch)`` returns the loss.  Four runs
    are compared.  Two runs on `backend` and a third with a captured step must give the same losses
    and final state, bit for bit.  The losses of a run on NumPy must agree to a relative
    `tolerance`.  The learning rate is halved half-way, which a captured step must follow.  Tied
    parameters must stay tied, and the host must never wait for the device.
    """
    reference = _train(make, batches, "numpy", captured=False)
    first = _train(make, batches, backend, captured=False)
    second = _train(make, batches, backend, captured=False)
    replayed = _train(make, batches, backend, captured=True)
    np.testing.assert_allclose(first.losses, reference.losses, rtol=tolerance,
                               err_msg=f"losses on {backend!r} and on NumPy")
    for what, other in (("a second run", second), ("the captured step", replayed)):
        np.testing.assert_array_equal(other.losses, first.losses,
                                      err_msg=f"losses of {what} on {backend!r}")
        for name, value in first.state.items():
            np.testing.assert_array_equal(other.state[name], value,
                                          err_msg=f"{name} after {what} on {backend!r}")


class TrainingResult(NamedTuple):
    """The losses of a run, and the state of its model after the last step."""

    losses: list[float]
    state: dict[str, np.ndarray]


def _train(make: Callable, batches: list, backend: str, captured: bool) -> TrainingResult:
    b = get_backend(backend)
    losses = []
    with use(backend):
        manual_seed(7)
        model, optimizer, step = make()
        tied = _tied_parameters(model)
        run_step = capture(step) if captured else step
        for i, batch in enumerate(batches):
            if i == len(batches) // 2:
                for group in optimizer.param_groups:
                    group["lr"] = group["lr"] / 2
            placed = [Tensor(b.asarray(a)) for a in batch]
            with no_syncs(b, f"step {i} on {backend!r}{', captured' * captured}"):
                losses.append(run_step(*placed))
    state = model.state_dict()
    for first, *others in tied:
        for name in others:
            np.testing.assert_array_equal(state[name], state[first],
                                          err_msg=f"{name} is no longer tied to {first}")
    return TrainingResult([loss.item() for loss in losses], state)


def _tied_parameters(model: Any) -> list[list[str]]:
    """Groups of two or more names of the same parameter."""
    names: dict[int, list[str]] = {}
    for name, value in state_tensors(model).items():
        if isinstance(value, Parameter):
            names.setdefault(id(value), []).append(name)
    return [group for group in names.values() if len(group) > 1]
