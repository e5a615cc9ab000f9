"""Transformations of samples with the logarithm of their Jacobian determinant.

PyTorch's `torch.distributions.transforms`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpuprop._array.activation import softmax
from gpuprop._array.creation import full_like
from gpuprop._array.shape import broadcast_to, concatenate, reshape, stack, unstack
from gpuprop._core.checks import as_choice
from gpuprop._core.graph import raw
from gpuprop.distributions import constraints
from gpuprop.distributions._linalg import cholesky
from gpuprop.distributions._utils import (
    arange_like,
    as_tensors,
    diagonal_matrix,
    epsilon,
    is_number,
    sum_rightmost,
    tiny,
)
from gpuprop.functional import logsigmoid, softplus

__all__ = [
    "AbsTransform",
    "AffineTransform",
    "CatTransform",
    "ComposeTransform",
    "CumulativeDistributionTransform",
    "ExpTransform",
    "IndependentTransform",
    "LowerCholeskyTransform",
    "PositiveDefiniteTransform",
    "PowerTransform",
    "ReshapeTransform",
    "SigmoidTransform",
    "SoftmaxTransform",
    "SoftplusTransform",
    "StackTransform",
    "StickBreakingTransform",
    "TanhTransform",
    "Transform",
    "identity_transform",
]

Shape = tuple[int, ...]


class Transform:
    """A function y of x with an inverse, and the logarithm of the determinant of its Jacobian.

    ``t(x)`` is y, ``t.inv`` the inverse transform, and ``t.log_abs_det_jacobian(x, y)`` is ``log
    abs det(dy/dx)``.  Subclasses define `_call`, `_inverse` and the latter, the constraints
    `domain` and `codomain`, `bijective`, and the `sign` of the derivative.  With ``cache_size=1``
    the inverse of the last y is the x that it was computed from.
    """

    bijective: Any = False
    domain: Any
    codomain: Any
    sign: Any

    def __init__(self, cache_size: int = 0) -> None:
        self._cache_size = as_choice(f"{type(self).__name__}: cache_size", cache_size, (0, 1))
        self._inv: Transform | None = None
        self._cached: tuple[Any, Any] = (None, None)

    @property
    def event_dim(self) -> int:
        """The number of last axes that are transformed together."""
        if self.domain.event_dim == self.codomain.event_dim:
            return self.domain.event_dim
        raise ValueError(f"{type(self).__name__}: use domain.event_dim or codomain.event_dim")

    @property
    def inv(self) -> Transform:
        """The inverse transform: ``t.inv.inv is t``."""
        if self._inv is None:
            self._inv = _InverseTransform(self)
        return self._inv

    def with_cache(self, cache_size: int = 1) -> Transform:
        """This transform with another `cache_size`."""
        if self._cache_size == cache_size:
            return self
        new = object.__new__(type(self))
        vars(new).update(vars(self), _inv=None, _cached=(None, None))
        new._cache_size = as_choice(f"{type(self).__name__}: cache_size", cache_size, (0, 1))
        return new

    def __call__(self, x: Any) -> Any:
        if not self._cache_size:
            return self._call(x)
        if x is not self._cached[0]:
            self._cached = x, self._call(x)
        return self._cached[1]

    def _inv_call(self, y: Any) -> Any:
        if not self._cache_size:
            return self._inverse(y)
        if y is not self._cached[1]:
            self._cached = self._inverse(y), y
        return self._cached[0]

    def _call(self, x: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__}: _call")

    def _inverse(self, y: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no inverse")

    def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:
        """``log abs det(dy/dx)`` for ``y = t(x)``, without the axes of an event."""
        raise NotImplementedError(f"{type(self).__name__} has no Jacobian determinant")

    def forward_shape(self, shape: Shape) -> Shape:
        """The shape of ``t(x)`` for an x of this shape."""
        return tuple(shape)

    def inverse_shape(self, shape: Shape) -> Shape:
        """The shape of ``t.inv(y)`` for a y of this shape."""
        return tuple(shape)

    def _parts(self) -> tuple:
        """What distinguishes transforms of this class."""
        return ()

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return False
        pairs = zip(self._parts(), other._parts(), strict=True)
        return all(a is b or _same(a, b) for a, b in pairs)

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def _same(a: Any, b: Any) -> bool:
    if hasattr(a, "shape") or hasattr(b, "shape"):
        return np.shape(raw(a)) == np.shape(raw(b)) and bool((a == b).all())
    return a == b


class _InverseTransform(Transform):
    def __init__(self, transform: Transform) -> None:
        super().__init__(transform._cache_size)
        self._inv: Transform = transform

    @property
    def inv(self) -> Transform:
        return self._inv

    domain = property(lambda self: self._inv.codomain)
    codomain = property(lambda self: self._inv.domain)
    bijective = property(lambda self: self._inv.bijective)
    sign = property(lambda self: self._inv.sign)

    def with_cache(self, cache_size: int = 1) -> Transform:
        return self._inv.with_cache(cache_size).inv

    def __call__(self, x: Any) -> Any:
        return self._inv._inv_call(x)

    def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:
        return -self._inv.log_abs_det_jacobian(y, x)

    def forward_shape(self, shape: Shape) -> Shape:
        return self._inv.inverse_shape(shape)

    def inverse_shape(self, shape: Shape) -> Shape:
        return self._inv.forward_shape(shape)

    def _parts(self) -> tuple:
        return (self._inv,)

    def __repr__(self) -> str:
        return f"InverseTransform({self._inv!r})"


class ComposeTransform(Transform):
    """The transforms `parts`, one after the other."""

    def __init__(self, parts: Sequence[Transform], cache_size: int = 0) -> None:
        super().__init__(cache_size)
        self.parts = [part.with_cache(cache_size) if cache_size else part for part in parts]

    @constraints.dependent_property(is_discrete=False)
    def domain(self) -> constraints.Constraint:
        if not self.parts:
            return constraints.real
        event_dim = self.parts[-1].codomain.event_dim
        for part in reversed(self.parts):
            event_dim += part.domain.event_dim - part.codomain.event_dim
            event_dim = max(event_dim, part.domain.event_dim)
        return _with_event_dim(self.parts[0].domain, event_dim)

    @constraints.dependent_property(is_discrete=False)
    def codomain(self) -> constraints.Constraint:
        if not self.parts:
            return constraints.real
        event_dim = self.parts[0].domain.event_dim
        for part in self.parts:
            event_dim += part.codomain.event_dim - part.domain.event_dim
            event_dim = max(event_dim, part.codomain.event_dim)
        return _with_event_dim(self.parts[-1].codomain, event_dim)

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


def _with_event_dim(constraint: constraints.Constraint, event_dim: int) -> constraints.Constraint:
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
        self.base_transform = base_transform.with_cache(cache_size)
        self.reinterpreted_batch_ndims = reinterpreted_batch_ndims

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


class ReshapeTransform(Transform):
    """The last axes, of shape `in_shape`, reshaped to `out_shape`."""

    bijective = True

    def __init__(self, in_shape: Shape, out_shape: Shape, cache_size: int = 0) -> None:
        super().__init__(cache_size)
        self.in_shape = tuple(in_shape)
        self.out_shape = tuple(out_shape)
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
        self.transforms = [t.with_cache(cache_size) if cache_size else t for t in tseq]
        self.dim = dim
        self.lengths = [1] * len(self.transforms) if lengths is None else list(lengths)
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
        self.transforms = [t.with_cache(cache_size) if cache_size else t for t in tseq]
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


# ---- elementwise -------------------------------------------------------------------------------


class ExpTransform(Transform):
    """``y = exp(x)``."""

    domain = constraints.real
    codomain = constraints.positive
    bijective = True
    sign = 1

    def _call(self, x: Any) -> Any:
        return x.exp()

    def _inverse(self, y: Any) -> Any:
        return y.log()

    def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:
        return x


class _WithParameters(Transform):
    """A transform whose parameters broadcast with x."""

    def _parameter_shapes(self) -> list[Shape]:
        return [getattr(value, "shape", ()) for value in self._parts()]

    def forward_shape(self, shape: Shape) -> Shape:
        return np.broadcast_shapes(tuple(shape), *self._parameter_shapes())

    inverse_shape = forward_shape


class PowerTransform(_WithParameters):
    """``y = x**exponent`` for x > 0."""

    domain = constraints.positive
    codomain = constraints.positive
    bijective = True

    def __init__(self, exponent: Any, cache_size: int = 0) -> None:
        super().__init__(cache_size)
        self.exponent, = as_tensors("PowerTransform", exponent=exponent)

    sign = property(lambda self: self.exponent.sign())

    def _call(self, x: Any) -> Any:
        return x ** self.exponent.astype(x.dtype)

    def _inverse(self, y: Any) -> Any:
        return y ** (1 / self.exponent.astype(y.dtype))

    def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:
        return (self.exponent.astype(x.dtype) * y / x).abs().log()

    def _parts(self) -> tuple:
        return (self.exponent,)


def _clipped_sigmoid(x: Any) -> Any:
    return x.sigmoid().clip(tiny(x.dtype), 1 - epsilon(x.dtype))


class SigmoidTransform(Transform):
    """``y = 1 / (1 + exp(-x))``."""

    domain = constraints.real
    codomain = constraints.unit_interval
    bijective = True
    sign = 1

    def _call(self, x: Any) -> Any:
        return _clipped_sigmoid(x)

    def _inverse(self, y: Any) -> Any:
        y = y.clip(tiny(y.dtype), 1 - epsilon(y.dtype))
        return y.log() - (-y).log1p()

    def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:
        return -softplus(-x) - softplus(x)


class SoftplusTransform(Transform):
    """``y = log(1 + exp(x))``."""

    domain = constraints.real
    codomain = constraints.positive
    bijective = True
    sign = 1

    def _call(self, x: Any) -> Any:
        return softplus(x)

    def _inverse(self, y: Any) -> Any:
        return (-(-y).expm1()).log() + y

    def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:
        return -softplus(-x)


class TanhTransform(Transform):
    """``y = tanh(x)``.  With ``cache_size=1`` the inverse is exact near -1 and 1 too."""

    domain = constraints.real
    codomain = constraints.interval(-1.0, 1.0)
    bijective = True
    sign = 1

    def _call(self, x: Any) -> Any:
        return x.tanh()

    def _inverse(self, y: Any) -> Any:
        return y.arctanh()

    def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:
        return 2 * (math.log(2) - x - softplus(-2 * x))  # log(1 - tanh(x)**2) without cancellation


class AbsTransform(Transform):
    """``y = abs(x)``, which is not bijective."""

    domain = constraints.real
    codomain = constraints.positive

    def _call(self, x: Any) -> Any:
        return x.abs()

    def _inverse(self, y: Any) -> Any:
        return y


class AffineTransform(_WithParameters):
    """``y = loc + scale * x``; the last `event_dim` axes are one event."""

    bijective = True

    def __init__(self, loc: Any, scale: Any, event_dim: int = 0, cache_size: int = 0) -> None:
        super().__init__(cache_size)
        self.loc = loc
        self.scale = scale
        self._event_dim = event_dim

    event_dim = property(lambda self: self._event_dim)
    domain = property(lambda self: _with_event_dim(constraints.real, self._event_dim))
    codomain = domain

    @property
    def sign(self) -> Any:
        if is_number(self.scale):
            return (self.scale > 0) - (self.scale < 0)
        return self.scale.sign()

    def _call(self, x: Any) -> Any:
        return self.loc + self.scale * x

    def _inverse(self, y: Any) -> Any:
        return (y - self.loc) / self.scale

    def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:
        if is_number(self.scale):
            logs = full_like(x.detach(), math.log(abs(self.scale)))
        else:
            logs = broadcast_to(as_tensors("AffineTransform", scale=self.scale)[0].abs().log(),
                                np.broadcast_shapes(x.shape, self.scale.shape))
        return sum_rightmost(logs, self._event_dim)

    def _parts(self) -> tuple:
        return self.loc, self.scale, self._event_dim


class CumulativeDistributionTransform(Transform):
    """The cumulative distribution function of a distribution."""

    bijective = True
    codomain = constraints.unit_interval
    sign = 1

    def __init__(self, distribution: Any, cache_size: int = 0) -> None:
        super().__init__(cache_size)
        self.distribution = distribution

    domain = property(lambda self: self.distribution.support)

    def _call(self, x: Any) -> Any:
        return self.distribution.cdf(x)

    def _inverse(self, y: Any) -> Any:
        return self.distribution.icdf(y)

    def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:
        return self.distribution.log_prob(x)

    def _parts(self) -> tuple:
        return (id(self.distribution),)


# ---- vectors and matrices ----------------------------------------------------------------------


class SoftmaxTransform(Transform):
    """``y = softmax(x)`` over the last axis, which is not bijective."""

    domain = constraints.real_vector
    codomain = constraints.simplex

    def _call(self, x: Any) -> Any:
        return softmax(x, -1)

    def _inverse(self, y: Any) -> Any:
        return y.log()


class StickBreakingTransform(Transform):
    """A vector of K numbers to K + 1 numbers of at least 0 that add up to 1.

    Element k is the part ``sigmoid(x[k] - log(K - k))`` of what the elements before it leave of a
    stick of length 1.
    """

    domain = constraints.real_vector
    codomain = constraints.simplex
    bijective = True

    def _shifted(self, x: Any) -> Any:
        n = x.shape[-1]
        return x - (n - arange_like(x, n)).log()

    def _call(self, x: Any) -> Any:
        z = _clipped_sigmoid(self._shifted(x))
        one = full_like(z[..., :1].detach(), 1)
        left = (1 - z).cumprod(-1)
        return concatenate([z, one], -1) * concatenate([one, left], -1)

    def _inverse(self, y: Any) -> Any:
        parts = y[..., :-1]
        n = parts.shape[-1]
        left = (1 - parts.cumsum(-1)).clip(tiny(y.dtype), None)
        return parts.log() - left.log() + (n - arange_like(y, n)).log()

    def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:
        x = self._shifted(x)
        return (-x + logsigmoid(x) + y[..., :-1].log()).sum(-1)

    def forward_shape(self, shape: Shape) -> Shape:
        return (*shape[:-1], _vector(self, shape) + 1)

    def inverse_shape(self, shape: Shape) -> Shape:
        return (*shape[:-1], _vector(self, shape) - 1)


def _vector(transform: Transform, shape: Shape) -> int:
    if not shape:
        raise ValueError(f"{transform!r} needs at least one axis, got shape ()")
    return shape[-1]


class LowerCholeskyTransform(Transform):
    """A matrix to a lower triangular one, whose diagonal is ``exp`` of the matrix's."""

    domain = constraints.independent(constraints.real, 2)
    codomain = constraints.lower_cholesky

    def _call(self, x: Any) -> Any:
        return x.tril(-1) + diagonal_matrix(x.diagonal(0, -2, -1).exp())

    def _inverse(self, y: Any) -> Any:
        return y.tril(-1) + diagonal_matrix(y.diagonal(0, -2, -1).log())


class PositiveDefiniteTransform(Transform):
    """A matrix to ``L @ L.T``, where L is its `LowerCholeskyTransform`."""

    domain = constraints.independent(constraints.real, 2)
    codomain = constraints.positive_definite

    def _call(self, x: Any) -> Any:
        lower = LowerCholeskyTransform()(x)
        return lower @ lower.swapaxes(-1, -2)

    def _inverse(self, y: Any) -> Any:
        return LowerCholeskyTransform().inv(cholesky(y))
