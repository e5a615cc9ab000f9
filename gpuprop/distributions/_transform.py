"""`Transform`: a function of samples with an inverse and the logarithm of its Jacobian determinant.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from gpuprop._core.checks import as_choice, as_instance
from gpuprop._core.graph import raw
from gpuprop._core.options import names_class

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

    @names_class
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


def as_transforms(what: str, values: Any) -> list[Transform]:
    """`values`, a list of Transforms.  Raises TypeError for anything else."""
    described = "a list of Transforms"
    return [as_instance(what, value, Transform, described)
            for value in as_instance(what, values, Iterable, described)]
