"""The base class of distributions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from gpuprop._array.shape import broadcast_to
from gpuprop._core.checks import as_bool, as_integer
from gpuprop._core.graph import raw
from gpuprop._core.mode import no_grad
from gpuprop._core.registry import HOST, backend_of
from gpuprop._core.tensor import Tensor
from gpuprop.distributions._noise import noise
from gpuprop.distributions._utils import as_tensors, broadcast_parameters, broadcast_shapes
from gpuprop.distributions.constraints import Constraint, is_dependent
from gpuprop.random import Generator

D = TypeVar("D", bound="Distribution")
Shape = tuple[int, ...]


class Distribution:
    """The base class of probability distributions: PyTorch's names and meanings.

    A distribution is a batch of `batch_shape` independent distributions of events of `event_shape`.
    A sample has the shape ``sample_shape + batch_shape + event_shape``, and `log_prob` of it
    ``sample_shape + batch_shape``.  Parameters are Tensors, arrays or numbers, which broadcast
    together; results are Tensors in their dtype and on their device, also for plain arrays.

    `sample` and `rsample` draw from `rng` or the default generator, on the device and without
    waiting for it; `rsample` has a gradient in the parameters.

    `arg_constraints` maps parameters to constraints (`constraints`), and `support` is the
    constraint of samples.  Unless `validate_args` is False, parameters and values that violate them
    raise ValueError, on the host at once; a device is not waited for: it raises IndexError when the
    next value is read.
    """

    has_rsample: Any = False
    has_enumerate_support: Any = False
    arg_constraints: Any = {}
    support: Any
    _validate_args = __debug__

    def __init__(self, batch_shape: Sequence[int] = (), event_shape: Sequence[int] = (),
                 validate_args: bool | None = None) -> None:
        self._batch_shape = tuple(batch_shape)
        self._event_shape = tuple(event_shape)
        if validate_args is not None:
            self._validate_args = as_bool(f"{type(self).__name__}: validate_args", validate_args)
        if self._validate_args:
            for name, constraint in self.arg_constraints.items():
                if name in vars(self) and not is_dependent(constraint):
                    self._require(f"parameter {name}", constraint, vars(self)[name])

    @staticmethod
    def set_default_validate_args(value: bool) -> None:
        """Choose whether distributions are validated if `validate_args` is None."""
        Distribution._validate_args = as_bool("set_default_validate_args: value", value)

    @property
    def batch_shape(self) -> Shape:
        """The shape of the batch of distributions."""
        return self._batch_shape

    @property
    def event_shape(self) -> Shape:
        """The shape of one event."""
        return self._event_shape

    # ---- for subclasses

    def _parameters(self, **values: Any) -> Shape:
        """Set these parameters as attributes, as Tensors of one shape, which is returned."""
        tensors = broadcast_parameters(type(self).__name__, **values)
        vars(self).update(zip(values, tensors, strict=True))
        return tensors[0].shape

    def _require(self, what: str, constraint: Constraint, value: Any) -> None:
        """Raise ValueError, or on a device IndexError later, unless the constraint holds."""
        with no_grad():
            valid = raw(constraint.check(value))
        backend = backend_of(valid)
        message = f"{type(self).__name__}: {what} must satisfy {_described(constraint)}"
        if backend.name != HOST:
            with backend.at(valid):
                backend.check(valid, message)
        elif not valid.all():
            event = value.ndim - valid.ndim
            index = tuple(map(int, np.argwhere(~np.broadcast_to(valid, valid.shape))[0]))
            wrong = np.asarray(raw(value))[index[:max(value.ndim - event, 0)]]
            shown = wrong.tolist() if wrong.ndim else wrong.item()
            where = f" at index {index} of shape {tuple(value.shape)}" if index else ""
            raise ValueError(f"{message}, got {shown}{where}")

    def _value(self, value: Any, validate: bool = True) -> Tensor:
        """A value of `log_prob` or `cdf` as a Tensor, validated against shape and support."""
        name = type(self).__name__
        reference = self._reference()
        if reference is None:
            value, = as_tensors(name, value=value)
        elif hasattr(value, "shape") and hasattr(value, "dtype"):
            value = value if isinstance(value, Tensor) else Tensor(value)
        else:
            value, _ = as_tensors(name, value=value, parameters=reference)
        if not (validate and self._validate_args):
            return value
        n = len(self._event_shape)
        if value.shape[value.ndim - n:] != self._event_shape or value.ndim < n:
            raise ValueError(f"{name}: the value must end with the event_shape "
                             f"{self._event_shape}, got shape {value.shape}")
        broadcast_shapes(name, value=value.shape, distribution=self._extended_shape())
        support = getattr(self, "support", None)
        if support is not None:
            self._require("the value", support, value)
        return value

    def _reference(self) -> Tensor | None:
        """A parameter: its dtype and device are those of results."""
        return next((v for name in self.arg_constraints
                     if isinstance(v := vars(self).get(name), Tensor)), None)

    def _extended_shape(self, sample_shape: Sequence[int] = ()) -> Shape:
        """The shape of a sample."""
        if not isinstance(sample_shape, Sequence):
            raise TypeError(f"{type(self).__name__}: sample_shape must be a tuple of sizes such as "
                            f"(10,), got {sample_shape!r}")
        sizes = [as_integer(f"{type(self).__name__}: sample_shape", n, 0) for n in sample_shape]
        return (*sizes, *self._batch_shape, *self._event_shape)

    def _noise(self, kind: str, sample_shape: Sequence[int], like: Tensor,
               rng: Generator | None) -> Tensor:
        """Standard noise in the shape of a sample."""
        return noise(kind, self._extended_shape(sample_shape), like, rng)

    def _missing(self, what: str) -> NotImplementedError:
        return NotImplementedError(f"{type(self).__name__} has no {what}")

    # ---- the interface

    def expand(self: D, batch_shape: Sequence[int]) -> D:
        """The distribution with parameters that are broadcast to another `batch_shape`."""
        shape = tuple(batch_shape)
        try:
            fits = np.broadcast_shapes(shape, self._batch_shape) == shape
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(f"{type(self).__name__}: batch_shape {self._batch_shape} cannot be "
                             f"expanded to {shape}")
        new = object.__new__(type(self))
        vars(new).update(vars(self))
        new._batch_shape = shape
        new._expand_parts(shape)
        return new

    def _expand_parts(self, batch_shape: Shape) -> None:
        """Broadcast the parameters in place."""
        constraints: Mapping[str, Constraint] = self.arg_constraints
        for name, constraint in constraints.items():
            if name in vars(self):
                t = vars(self)[name]
                event = t.shape[t.ndim - constraint.event_dim:]
                vars(self)[name] = broadcast_to(t, batch_shape + event)

    def sample(self, sample_shape: Sequence[int] = (), rng: Generator | None = None) -> Tensor:
        """Samples, without a gradient: ``sample_shape + batch_shape + event_shape``."""
        with no_grad():
            return self.rsample(sample_shape, rng)

    def rsample(self, sample_shape: Sequence[int] = (), rng: Generator | None = None) -> Tensor:
        """Samples with a gradient in the parameters, if `has_rsample` is True."""
        raise self._missing("rsample, a sample with a gradient: use sample and log_prob")

    def log_prob(self, value: Any) -> Tensor:
        """The logarithm of the density, or of the probability, at a value."""
        raise self._missing("log_prob")

    def cdf(self, value: Any) -> Tensor:
        """The probability that a sample is at most `value`."""
        raise self._missing("cdf")

    def icdf(self, value: Any) -> Tensor:
        """The inverse of `cdf`: the quantile at a probability."""
        raise self._missing("icdf")

    def entropy(self) -> Tensor:
        """The expected ``-log_prob``, in nats."""
        raise self._missing("entropy in closed form")

    def perplexity(self) -> Tensor:
        """``exp(entropy())``."""
        return self.entropy().exp()

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All values of a discrete distribution, along a new first axis.

        With `expand` each is repeated for the whole batch, otherwise the batch axes have size 1.
        """
        raise self._missing("finite support")

    def _enumerated(self, values: Tensor, expand: bool) -> Tensor:
        values = values.reshape(-1, *(1,) * len(self._batch_shape))
        return broadcast_to(values, (len(values), *self._batch_shape)) if expand else values

    @property
    def mean(self) -> Tensor:
        """The expected value."""
        raise self._missing("mean")

    @property
    def mode(self) -> Tensor:
        """The value of the highest density or probability."""
        raise self._missing("mode")

    @property
    def variance(self) -> Tensor:
        """The expected squared distance from the mean."""
        raise self._missing("variance")

    @property
    def stddev(self) -> Tensor:
        """The square root of the variance."""
        return self.variance.sqrt()

    def __repr__(self) -> str:
        parameters = []
        for name in self.arg_constraints:
            if name in vars(self) or isinstance(getattr(type(self), name, None), property):
                t = getattr(self, name)
                parameters.append(f"{name}: {tuple(t.shape) if t.numel() != 1 else t.item()}")
        return f"{type(self).__name__}({', '.join(parameters)})"


class ExponentialFamily(Distribution):
    """A distribution of an exponential family.

    Its density is ``exp(sum(t_i(x) * theta_i) - log_normalizer(theta) + k(x))``.
    """


def _described(constraint: Constraint) -> str:
    """The constraint with its bounds, unless these are arrays, which may be on a device."""
    if any(hasattr(getattr(constraint, name), "shape") for name in constraint.bounds):
        return type(constraint).__name__.removeprefix("_") + " of the distribution's parameters"
    return repr(constraint)
