"""L-BFGS, with a line search that fulfils the strong Wolfe conditions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpuprop._core.arena import to_backend
from gpuprop._core.checks import as_callable, as_instance, as_integer
from gpuprop._core.dtypes import compute_dtype, widened
from gpuprop._core.graph import extent
from gpuprop._core.instruments import optimizer_stepped
from gpuprop._core.loading import as_array, as_entries
from gpuprop._core.mode import enable_grad
from gpuprop._core.registry import backend_of
from gpuprop._core.tensor import Tensor, mark_changed
from gpuprop.optim._fixed import State
from gpuprop.optim._optimizer import Optimizer

COUNTS = ("func_evals", "n_iter")
VECTORS = ("d", "prev_flat_grad")
NUMBERS = ("t", "H_diag", "prev_loss")
LISTS = ("old_dirs", "old_stps", "ro")


class LBFGS(Optimizer):
    """L-BFGS (Liu and Nocedal 1989), PyTorch's algorithm.

        d = -H g
        p = p + t d

    H is the approximate inverse of the Hessian matrix that the last `history_size` changes of p and
    g give.  A step makes up to `max_iter` iterations, and calls the closure up to `max_eval` times,
    by default ``max_iter * 5 // 4``.  It ends early if all elements of the gradient are at most
    `tolerance_grad`, or if the loss, or every element of p, changes by less than
    `tolerance_change`.

    t is `lr`; with ``line_search_fn="strong_wolfe"`` it starts as `lr`, and a line search finds one
    that fulfils the strong Wolfe conditions (Nocedal and Wright 2006, algorithms 3.5 and 3.6).

    >>> import gpuprop
    >>> p = gpuprop.Parameter([3.0, -2.0])
    >>> optimizer = gpuprop.optim.LBFGS([p], line_search_fn="strong_wolfe")
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     loss = ((p - 1) ** 2).sum()
    ...     loss.backward()
    ...     return loss
    >>> optimizer.step(closure).item()
    13.0
    >>> p.numpy().round(3).tolist()
    [1.0, 1.0]

    `step` needs the closure, which computes the loss and its gradients anew, and returns the first
    loss.  All parameters are in one group and have one dtype and device.  Each iteration waits for
    the device, so a step is not captured.  If the closure raises, parameters and state are as
    before.  Defaults are PyTorch's.
    """

    scalar_options = {"lr": "[0, inf)", "tolerance_grad": "[0, inf)",
                      "tolerance_change": "[0, inf)"}
    choices = {**dict.fromkeys(("max_iter", "max_eval", "history_size"), range(1, 2**31)),
               "line_search_fn": (None, "strong_wolfe")}
    waits_for_device = True

    def __init__(self, params: Iterable, lr: Any = 1, max_iter: int = 20,
                 max_eval: int | None = None, tolerance_grad: float = 1e-7,
                 tolerance_change: float = 1e-9, history_size: int = 100,
                 line_search_fn: str | None = None) -> None:
        if max_eval is None:
            max_eval = as_integer("LBFGS: max_iter", max_iter, 1, 2**30) * 5 // 4
        self._memory: dict[str, Any] = {}
        super().__init__(params, {
            "lr": lr, "max_iter": max_iter, "max_eval": max_eval,
            "tolerance_grad": tolerance_grad, "tolerance_change": tolerance_change,
            "history_size": history_size, "line_search_fn": line_search_fn,
        })

    def _checked_group(self, group: Any, others: Sequence[dict]) -> dict[str, Any]:
        options = super()._checked_group(group, others)
        if others:
            raise ValueError("LBFGS: all parameters must be in one parameter group")
        return options

    # ---- a step

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Minimize the loss that `closure` returns, and return its first value."""
        as_callable("LBFGS.step: closure", closure)
        optimizer_stepped(self)
        self._sync_arenas()
        arenas = list(self._arenas())
        if len(arenas) != 1:
            raise ValueError("LBFGS: the parameters that require a gradient must have one dtype "
                             f"and device, but are of {len(arenas)} kinds")
        with arenas[0].on_device():
            start = self._values()
            try:
                loss, memory = self._minimize(closure, start)
            except BaseException:
                self._move(start)
                raise
        self._memory = memory
        return loss

    def _minimize(self, closure: Any, x: Any) -> tuple[Any, dict[str, Any]]:
        """The first loss, and the new state."""
        group = self.param_groups[0]
        lr = float(group["lr"].item() if isinstance(group["lr"], Tensor) else group["lr"])
        tolerance = group["tolerance_change"]
        m = self._current_memory(x)
        first_loss, loss, g = self._evaluate(closure)
        m["func_evals"] += 1
        evaluations = 1
        if largest(g) <= group["tolerance_grad"]:
            return first_loss, m
        for i in range(1, group["max_iter"] + 1):
            m["n_iter"] += 1
            if m["n_iter"] == 1:
                m |= {"old_dirs": [], "old_stps": [], "ro": [], "H_diag": 1.0, "d": -g}
                t = min(1.0, 1.0 / float(abs(g).sum())) * lr
            else:
                remember(m, g, group["history_size"])
                m["d"] = direction(m, g)
                t = lr
            d = m["d"]
            m |= {"t": t, "prev_flat_grad": g, "prev_loss": loss}
            slope = float(dot(g, d))
            if slope > -tolerance:
                break
            n = 0
            x = self._values()  # the closure may have changed them, such as clipped an image
            if group["line_search_fn"] is not None:
                def at(t: float, x: Any = x, d: Any = d) -> Point:
                    self._move(x, t, d)
                    _, loss, g = self._evaluate(closure)
                    return Point(t, loss, g, float(dot(g, d)))

                start = Point(0.0, loss, g, slope)
                point, n = strong_wolfe(at, start, t, largest(d), group["max_eval"] - evaluations)
                t, loss, g, _ = point
                m["t"] = t
            self._move(x, t, d)
            if group["line_search_fn"] is None and i < group["max_iter"]:
                _, loss, g = self._evaluate(closure)
                n = 1
            evaluations += n
            m["func_evals"] += n
            if (evaluations >= group["max_eval"] or largest(g) <= group["tolerance_grad"]
                    or largest(d) * t <= tolerance or abs(loss - m["prev_loss"]) < tolerance):
                break
        return first_loss, m

    def _evaluate(self, closure: Any) -> tuple[Any, float, Any]:
        """The loss as it is returned, the loss, and the flat gradient."""
        with enable_grad():
            result = closure()
        loss = float(result)
        self._sync_arenas()
        xp = backend_of(self._first().array).xp
        parts = [xp.zeros_like(p.array) if p.gradient is None else p.gradient
                 for p in self._params()]
        return result, loss, xp.concatenate([widened(part).reshape(-1) for part in parts])

    def _values(self) -> Any:
        """The values of all parameters as one flat array, a copy."""
        xp = backend_of(self._first().array).xp
        return xp.concatenate([widened(p.array).reshape(-1) for p in self._params()])

    def _move(self, x: Any, t: float = 0.0, d: Any = None) -> None:
        """Set the parameters to ``x + t d``."""
        if d is not None:
            x = x + t * d
        first = 0
        for p in self._params():
            p.array[...] = x[first:first + p.size].reshape(p.shape)
            first += p.size
            mark_changed([p], extent(p.array))

    def _first(self) -> Any:
        return self.param_groups[0]["params"][0]

    # ---- state

    def _current_memory(self, x: Any) -> dict[str, Any]:
        """A copy of the state, whose arrays have the dtype and device of x."""
        def moved(value: Any) -> Any:
            if isinstance(value, list):
                return [moved(v) for v in value]
            if not hasattr(value, "dtype"):
                return value
            return to_backend(backend_of(x), value).astype(x.dtype)

        return {**dict.fromkeys(COUNTS, 0), **{k: moved(v) for k, v in self._memory.items()}}

    def _state_entry(self) -> dict[str, Any]:
        def plain(value: Any) -> Any:
            if isinstance(value, list):
                return [plain(v) for v in value]
            if not hasattr(value, "dtype"):
                return value
            host = backend_of(value).to_numpy(value)
            return host if host.ndim else host.item()

        return {name: plain(value) for name, value in self._memory.items()}

    @property
    def state(self) -> dict[Any, dict[str, Any]]:
        """The state, as that of the first parameter.  To change it, use `load_state_dict`."""
        return State({self._first(): State(self._state_entry())} if self._memory else {})

    def state_dict(self) -> dict[str, Any]:
        """The state and options in PyTorch's layout: the state is that of the first parameter."""
        saved = super().state_dict()
        return {**saved, "state": {0: self._state_entry()} if self._memory else {}}

    def _prepare_load(self, state_dict: dict[str, Any]) -> Callable[[], None]:
        saved = as_entries("LBFGS: the state dict", state_dict, ("state", "param_groups"), ())
        write_options = super()._prepare_load({**saved, "state": {}})
        state: dict[Any, Any] = dict(
            as_instance("LBFGS: state", saved["state"], Mapping, "a dict"))
        if state.keys() - {0}:
            raise ValueError(f"LBFGS: the state is that of parameter 0, but there are entries of "
                             f"{sorted(state, key=str)}")
        memory = self._loaded_memory(state[0]) if state.get(0) else {}

        def write() -> None:
            write_options()
            self._memory = memory

        return write

    def _loaded_memory(self, saved: Any) -> dict[str, Any]:
        what = "LBFGS: state[0]"
        saved = as_instance(what, saved, Mapping, "a dict")
        as_entries(what, saved, COUNTS)
        here = lambda name: f"{what}[{name!r}]"
        found: dict[str, Any] = {
            name: as_integer(here(name), as_array(here(name), saved[name], (), "int64").item(), 0)
            for name in COUNTS}
        names = (*VECTORS, *NUMBERS, *LISTS) if found["n_iter"] else ()
        as_entries(what, saved, [*COUNTS, *names], ("al",))  # "al" is PyTorch's scratch memory
        dtype = compute_dtype(self._first().dtype)
        vector = lambda name, v: as_array(name, v, (sum(p.size for p in self._params()),), dtype)
        number = lambda name, v: as_array(name, v, (), "float64").item()
        for name in names:
            if name in LISTS:
                values = as_instance(here(name), saved[name], (list, tuple), "a list")
                convert = number if name == "ro" else vector
                found[name] = [convert(f"{here(name)}[{i}]", v) for i, v in enumerate(values)]
            else:
                found[name] = (vector if name in VECTORS else number)(here(name), saved[name])
        if len({len(found[name]) for name in LISTS if name in found}) > 1:
            raise ValueError(f"{what}: {', '.join(LISTS)} must have equal lengths")
        return found


# ---- the direction -------------------------------------------------------------------------------


def dot(a: Any, b: Any) -> Any:
    """The inner product, a 0-d array or NumPy scalar."""
    return (a * b).sum()


def largest(a: Any) -> float:
    """The largest magnitude, 0 of no elements."""
    return float(abs(a).max()) if a.size else 0.0


def remember(m: dict[str, Any], g: Any, history_size: int) -> None:
    """Add the last changes of the gradient, y, and of the parameters, s, to the state."""
    y = g - m["prev_flat_grad"]
    s = m["d"] * m["t"]
    ys = dot(y, s)
    if float(ys) > 1e-10:  # else H would not be positive definite
        for name, value in (("old_dirs", y), ("old_stps", s), ("ro", 1.0 / ys)):
            m[name] = [*m[name], value][-history_size:]
        m["H_diag"] = ys / dot(y, y)


def direction(m: dict[str, Any], g: Any) -> Any:
    """``-H g`` by the two-loop recursion (Nocedal and Wright 2006, algorithm 7.4)."""
    memory = list(zip(m["old_dirs"], m["old_stps"], m["ro"], strict=True))
    d = -g
    weights = []
    for y, s, rho in reversed(memory):
        weights.append(dot(s, d) * rho)
        d = d - weights[-1] * y
    d = d * m["H_diag"]
    for (y, s, rho), weight in zip(memory, reversed(weights), strict=True):
        d = d + (weight - dot(y, d) * rho) * s
    return d


# ---- the line search -----------------------------------------------------------------------------

DECREASE, CURVATURE = 1e-4, 0.9  # c1 and c2 of the Wolfe conditions
SHORTEST = 1e-9


class Point(NamedTuple):
    """A point on the line: its position, loss, gradient, and the derivative along the line."""

    t: float
    loss: float
    g: Any
    slope: float


def strong_wolfe(at: Callable[[float], Point], start: Point, t: float, longest: float,
                 max_evaluations: int) -> tuple[Point, int]:
    """A point that fulfils the strong Wolfe conditions, and the number of evaluations.

    `longest` is the largest magnitude in the direction.
    """
    is_high = lambda point: point.loss > start.loss + DECREASE * point.t * start.slope
    is_flat = lambda point: abs(point.slope) <= -CURVATURE * start.slope
    previous, point = start, at(t)
    n = 0  # evaluations after the first one
    while n < max_evaluations:
        if is_high(point) or (n > 1 and point.loss >= previous.loss):
            bracket = [previous, point]
            break
        if is_flat(point):
            return point, n + 1
        if point.slope >= 0:
            bracket = [previous, point]
            break
        bounds = point.t + 0.01 * (point.t - previous.t), 10 * point.t
        previous, point = point, at(interpolate(previous, point, bounds))
        n += 1
    else:
        bracket = [start, point]

    stalled = False
    low = lowest(bracket)
    while n < max_evaluations:
        left, right = sorted((bracket[0].t, bracket[1].t))
        if (right - left) * longest < SHORTEST:
            break
        t = interpolate(bracket[0], bracket[1], (left, right))
        margin = 0.1 * (right - left)
        is_close = min(right - t, t - left) < margin
        if is_close and (stalled or t >= right or t <= left):
            t = right - margin if abs(t - right) < abs(t - left) else left + margin
            is_close = False
        stalled = is_close
        point = at(t)
        n += 1
        if is_high(point) or point.loss >= bracket[low].loss:
            bracket[1 - low] = point
            low = lowest(bracket)
            continue
        if not is_flat(point) and point.slope * (bracket[1 - low].t - bracket[low].t) >= 0:
            bracket[1 - low] = bracket[low]
        bracket[low] = point
        if is_flat(point):
            break
    return bracket[low], n + 1


def lowest(bracket: list[Point]) -> int:
    return 0 if bracket[0].loss <= bracket[1].loss else 1


def interpolate(a: Point, b: Point, bounds: tuple[float, float]) -> float:
    """The minimum between bounds of the cubic polynomial through two points.

    It is the middle if there is no minimum.
    """
    a, b = sorted((a, b), key=lambda point: point.t)
    with np.errstate(all="ignore"):
        d1 = a.slope + b.slope - 3 * np.float64(a.loss - b.loss) / (a.t - b.t)
        d2 = np.sqrt(d1 * d1 - a.slope * b.slope)
        t = b.t - (b.t - a.t) * ((b.slope + d2 - d1) / (b.slope - a.slope + 2 * d2))
    low, high = bounds
    return (low + high) / 2 if np.isnan(t) else float(min(max(t, low), high))
