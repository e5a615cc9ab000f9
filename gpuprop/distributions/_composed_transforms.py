"""Transforms of other transforms, and of the shape of a sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gpuprop._array.creation import full_like
from gpuprop._array.shape import concatenate, reshape, stack, unstack
from gpuprop._core.checks import as_instance, as_integer
from gpuprop.distributions import constraints
from gpuprop.distributions._transform import Shape, Transform, as_transforms
from gpuprop.distributions._utils import sum_rightmost


class ComposeTransform(Transform):
    """The transforms `parts`, one after the other."""

    def __init__(self, parts: Sequence[Transform], cache_size: int = 0) -> None:
        super().__init__(cache_size)
        parts = as_transforms("ComposeTransform: parts", parts)
        self.parts = [part.with_cache(cache_size) if cache_size else part for part in parts]

    @constraints.dependent_property(is_discrete=False)
    def domain(self) -> constraints.Constraint:
        if not self.parts:
            return constraints.real
        event_dim = self.parts[-1].codomain.event_dim
        for part in reversed(self.parts):
            event_dim += part.domain.event_dim - part.codomain.event_dim
            event_dim = max(event_dim, part.domain.event_dim)
        return with_event_dim(self.parts[0].domain, event_dim)

    @constraints.dependent_property(is_discrete=False)
    def codomain(self) -> constraints.Constraint:
        if not self.parts:
            return constraints.real
        event_dim = self.parts[0].domain.event_dim
        for part in self.parts:
            event_dim += part.codomain.event_dim - part.domain.event_dim
            event_dim = max(event_dim, part.codomain.event_dim)
        return with_event_dim(self.parts[-1].codomain, event_dim)

    @property
    def bijective(self) -> bool:
        return all(part.bijective for part in self.parts)

    @property
    def sign(self) -> Any:
        return math.prod([part.sign for part in self.parts])

    @property
    def inv(self) -> Transform:
        if self._inv is None:
            self._inv = ComposeTransform([part.inv for part in reversed(self.parts)])
            self._inv._inv = self
        return self._inv

    def with_cache(self, cache_size: int = 1) -> Transform:
        if self._cache_size == cache_size:
            return self
        return ComposeTransform(self.parts, cache_size)

    def __call__(self, x: Any) -> Any:
        for part in self.parts:
            x = part(x)
        return x

    def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:
        if not self.parts:
            return full_like(x, 0)
        values = [x]
        for part in self.parts[:-1]:
            values.append(part(values[-1]))
        values.append(y)
        event_dim = self.domain.event_dim
        total: Any = 0
        for part, before, after in zip(self.parts, values[:-1], values[1:], strict=True):
            total = total + sum_rightmost(part.log_abs_det_jacobian(before, after),
                                          event_dim - part.domain.event_dim)
            event_dim += part.codomain.event_dim - part.domain.event_dim
        return total

    def forward_shape(self, shape: Shape) -> Shape:
        for part in self.parts:
            shape = part.forward_shape(shape)
        return shape

    def inverse_shape(self, shape: Shape) -> Shape:
        for part in reversed(self.parts):
            shape = part.inverse_shape(shape)
        return shape

    def _parts(self) -> tuple:
        return (self.parts,)

    def __repr__(self) -> str:
        return f"ComposeTransform({self.parts!r})"


def with_event_dim(constraint: constraints.Constraint, event_dim: int) -> constraints.Constraint:
    more = event_dim - constraint.event_dim
    return constraints.independent(constraint, more) if more else constraint


identity_transform = ComposeTransform([])


class IndependentTransform(Transform):
    """`base_transform`, with the last `reinterpreted_batch_ndims` batch axes as part of an event.

    The Jacobian's logarithm is summed over these axes.
    """

    def __init__(self, base_transform: Transform, reinterpreted_batch_ndims: int,
                 cache_size: int = 0) -> None:
        super().__init__(cache_size)
        as_instance("IndependentTransform: base_transform", base_transform, Transform,
                    "a Transform")
        self.base_transform = base_transform.with_cache(cache_size)
        self.reinterpreted_batch_ndims = as_integer(
            "IndependentTransform: reinterpreted_batch_ndims", reinterpreted_batch_ndims, 0)

    domain = property(lambda self: constraints.independent(
        self.base_transform.domain, self.reinterpreted_batch_ndims))
    codomain = property(lambda self: constraints.independent(
        self.base_transform.codomain, self.reinterpreted_batch_ndims))
    bijective = property(lambda self: self.base_transform.bijective)
    sign = property(lambda self: self.base_transform.sign)

    def _call(self, x: Any) -> Any:
        return self.base_transform(_with_axes(self, x, self.domain.event_dim))

    def _inverse(self, y: Any) -> Any:
        return self.base_transform.inv(_with_axes(self, y, self.codomain.event_dim))

    def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:
        result = self.base_transform.log_abs_det_jacobian(x, y)
        return sum_rightmost(result, self.reinterpreted_batch_ndims)

    def forward_shape(self, shape: Shape) -> Shape:
        return self.base_transform.forward_shape(shape)

    def inverse_shape(self, shape: Shape) -> Shape:
        return self.base_transform.inverse_shape(shape)

    def _parts(self) -> tuple:
        return self.base_transform, self.reinterpreted_batch_ndims

    def __repr__(self) -> str:
        return f"IndependentTransform({self.base_transform!r}, {self.reinterpreted_batch_ndims})"


def _with_axes(transform: Transform, x: Any, n: int) -> Any:
    if x.ndim < n:
        raise ValueError(f"{transform!r} needs at least {n} axes, got shape {x.shape}")
    return x


def _as_shape(what: str, value: Any) -> Shape:
    sizes = as_instance(what, value, Sequence, "a shape such as (2, 3)")
    return tuple(as_integer(what, n, 0) for n in sizes)


class ReshapeTransform(Transform):
    """The last axes, of shape `in_shape`, reshaped to `out_shape`."""

    bijective = True

    def __init__(self, in_shape: Shape, out_shape: Shape, cache_size: int = 0) -> None:
        super().__init__(cache_size)
        self.in_shape = _as_shape("ReshapeTransform: in_shape", in_shape)
        self.out_shape = _as_shape("ReshapeTransform: out_shape", out_shape)
        if math.prod(self.in_shape) != math.prod(self.out_shape):
            raise ValueError(f"ReshapeTransform: in_shape {self.in_shape} and out_shape "
                             f"{self.out_shape} have different numbers of elements")

    domain = property(lambda self: constraints.independent(constraints.real, len(self.in_shape)))
    codomain = property(lambda self: constraints.independent(constraints.real,
                                                             len(self.out_shape)))

    def _call(self, x: Any) -> Any:
        return reshape(x, self.forward_shape(x.shape))

    def _inverse(self, y: Any) -> Any:
        return reshape(y, self.inverse_shape(y.shape))

    def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:
        return full_like(x, 0) if not self.in_shape else full_like(
            x.detach().reshape(*x.shape[:x.ndim - len(self.in_shape)], -1)[..., :0].sum(-1), 0)

    def forward_shape(self, shape: Shape) -> Shape:
        return self._exchanged(shape, self.in_shape, self.out_shape)

    def inverse_shape(self, shape: Shape) -> Shape:
        return self._exchanged(shape, self.out_shape, self.in_shape)

    def _exchanged(self, shape: Shape, old: Shape, new: Shape) -> Shape:
        cut = len(shape) - len(old)
        if cut < 0 or tuple(shape[cut:]) != old:
            raise ValueError(f"ReshapeTransform: expected a shape that ends with {old}, got "
                             f"{tuple(shape)}")
        return (*shape[:cut], *new)

    def _parts(self) -> tuple:
        return self.in_shape, self.out_shape


class _PartsTransform(Transform):
    """A transform for each part of a value along the axis `dim`."""

    transforms: list[Transform]
    dim: int
    bijective = property(lambda self: all(t.bijective for t in self.transforms))

    def _split(self, x: Any) -> Sequence[Any]:
        raise NotImplementedError

    def _join(self, parts: Sequence[Any]) -> Any:
        raise NotImplementedError

    def _size(self) -> int:
        return len(self.transforms)

    def _parts_of(self, x: Any) -> Any:
        if not -x.ndim <= self.dim < x.ndim or x.shape[self.dim] != self._size():
            raise ValueError(f"{type(self).__name__}: axis {self.dim} must have size "
                             f"{self._size()}, got shape {tuple(x.shape)}")
        return zip(self.transforms, self._split(x), strict=True)

    def _call(self, x: Any) -> Any:
        return self._join([t(part) for t, part in self._parts_of(x)])

    def _inverse(self, y: Any) -> Any:
        return self._join([t.inv(part) for t, part in self._parts_of(y)])

    def _parts(self) -> tuple:
        return self.transforms, self.dim


class CatTransform(_PartsTransform):
    """`tseq`, each applied to a part of the axis `dim`; the sizes are `lengths`, by default 1."""

    def __init__(self, tseq: Sequence[Transform], dim: int = 0,
                 lengths: Sequence[int] | None = None, cache_size: int = 0) -> None:
        super().__init__(cache_size)
        parts = as_transforms("CatTransform: tseq", tseq)
        self.transforms = [t.with_cache(cache_size) if cache_size else t for t in parts]
        self.dim = dim
        self.lengths = ([1] * len(parts) if lengths is None
                        else list(_as_shape("CatTransform: lengths", lengths)))
        if len(self.lengths) != len(self.transforms):
            raise ValueError(f"CatTransform: lengths must have a size for each of the "
                             f"{len(self.transforms)} transforms, got {self.lengths}")

    event_dim = property(lambda self: max(t.event_dim for t in self.transforms))
    length = property(lambda self: sum(self.lengths))
    domain = property(lambda self: constraints.cat(
        [t.domain for t in self.transforms], self.dim, self.lengths))
    codomain = property(lambda self: constraints.cat(
        [t.codomain for t in self.transforms], self.dim, self.lengths))

    def _size(self) -> int:
        return self.length

    def _split(self, x: Any) -> Sequence[Any]:
        return x.split(self.lengths, self.dim)

    def _join(self, parts: Sequence[Any]) -> Any:
        return concatenate(parts, self.dim)

    def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:
        logs = [sum_rightmost(t.log_abs_det_jacobian(a, b), self.event_dim - t.event_dim)
                for (t, a), (_, b) in zip(self._parts_of(x), self._parts_of(y), strict=True)]
        axis = self.dim - (x.ndim if self.dim >= 0 else 0) + self.event_dim
        return concatenate(logs, axis) if axis < 0 else sum(logs[1:], logs[0])

    def _parts(self) -> tuple:
        return self.transforms, self.dim, self.lengths


class StackTransform(_PartsTransform):
    """`tseq`, each applied to one element of the axis `dim`."""

    def __init__(self, tseq: Sequence[Transform], dim: int = 0, cache_size: int = 0) -> None:
        super().__init__(cache_size)
        parts = as_transforms("StackTransform: tseq", tseq)
        self.transforms = [t.with_cache(cache_size) if cache_size else t for t in parts]
        self.dim = dim

    domain = property(lambda self: constraints.stack(
        [t.domain for t in self.transforms], self.dim))
    codomain = property(lambda self: constraints.stack(
        [t.codomain for t in self.transforms], self.dim))

    def _split(self, x: Any) -> Sequence[Any]:
        return unstack(x, self.dim)

    def _join(self, parts: Sequence[Any]) -> Any:
        return stack(parts, self.dim)

    def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:
        return self._join([t.log_abs_det_jacobian(a, b) for (t, a), (_, b) in zip(
            self._parts_of(x), self._parts_of(y), strict=True)])
