"""Transforms from unconstrained numbers into the region of a constraint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpuprop.distributions import constraints
from gpuprop.distributions import transforms as t
from gpuprop.distributions._utils import is_number


class ConstraintRegistry:
    """Functions that make a transform for a constraint, by the constraint's class."""

    def __init__(self) -> None:
        self._factories: dict[type, Callable] = {}

    def register(self, constraint: Any, factory: Callable | None = None) -> Any:
        """Register a function of a constraint of this class; also a decorator."""
        if factory is None:
            return lambda factory: self.register(constraint, factory)
        kind = constraint if isinstance(constraint, type) else type(constraint)
        if not issubclass(kind, constraints.Constraint):
            raise TypeError(f"register: constraint must be a constraint or its class, got "
                            f"{constraint!r}")
        self._factories[kind] = factory
        return factory

    def __call__(self, constraint: constraints.Constraint) -> t.Transform:
        """The transform of unconstrained numbers into the region of `constraint`."""
        factory = self._factories.get(type(constraint))
        if factory is None:
            raise NotImplementedError(f"no transform is registered for the constraint "
                                      f"{constraint!r}: use transform_to.register or "
                                      f"biject_to.register")
        return factory(constraint)


biject_to = ConstraintRegistry()
transform_to = ConstraintRegistry()


def _for(*kinds: Any, registries: tuple = (biject_to, transform_to)) -> Callable:
    def decorate(factory: Callable) -> Callable:
        for registry in registries:
            for kind in kinds:
                registry.register(kind, factory)
        return factory

    return decorate


_for(constraints.real)(lambda constraint: t.identity_transform)
_for(constraints.simplex, registries=(biject_to,))(lambda _: t.StickBreakingTransform())
_for(constraints.simplex, registries=(transform_to,))(lambda _: t.SoftmaxTransform())
_for(constraints.lower_cholesky, registries=(transform_to,))(lambda _: t.LowerCholeskyTransform())
_for(constraints.positive_definite, registries=(transform_to,))(
    lambda _: t.PositiveDefiniteTransform())


@_for(constraints.greater_than, constraints.greater_than_eq)
def _above(constraint):
    if is_number(constraint.lower_bound) and constraint.lower_bound == 0:
        return t.ExpTransform()
    return t.ComposeTransform([t.ExpTransform(), t.AffineTransform(constraint.lower_bound, 1)])


@_for(constraints.less_than)
def _below(constraint):
    return t.ComposeTransform([t.ExpTransform(), t.AffineTransform(constraint.upper_bound, -1)])


@_for(constraints.interval, constraints.half_open_interval)
def _between(constraint):
    low, high = constraint.lower_bound, constraint.upper_bound
    if is_number(low) and is_number(high) and (low, high) == (0, 1):
        return t.SigmoidTransform()
    return t.ComposeTransform([t.SigmoidTransform(), t.AffineTransform(low, high - low)])


def _register_composite(registry: ConstraintRegistry) -> None:
    registry.register(constraints.independent, lambda constraint: t.IndependentTransform(
        registry(constraint.base_constraint), constraint.reinterpreted_batch_ndims))
    registry.register(constraints.cat, lambda constraint: t.CatTransform(
        [registry(c) for c in constraint.cseq], constraint.dim, constraint.lengths))
    registry.register(constraints.stack, lambda constraint: t.StackTransform(
        [registry(c) for c in constraint.cseq], constraint.dim))


_register_composite(biject_to)
_register_composite(transform_to)
