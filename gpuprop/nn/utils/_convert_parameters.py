"""Conversion between parameters and one vector."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from gpuprop._array.shape import concatenate, reshape
from gpuprop._core.graph import raw
from gpuprop._core.placement import write
from gpuprop._core.tensor import Parameter, Tensor


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """The elements of all parameters in one vector, differentiably.

    >>> from gpuprop import nn
    >>> nn.utils.parameters_to_vector(nn.Linear(3, 2).parameters()).shape
    (8,)
    """
    return concatenate([reshape(p, (-1,)) for p in parameters])


def vector_to_parameters(vec: Tensor, parameters: Iterable[Parameter]) -> None:
    """Write the elements of a vector into parameters, in place."""
    if not isinstance(vec, Tensor):
        raise TypeError(f"vector_to_parameters: expected a Tensor, got {type(vec).__name__}")
    parameters = list(parameters)
    ends = list(itertools.accumulate((p.size for p in parameters), initial=0))
    if vec.shape != (ends[-1],):
        raise ValueError(f"vector_to_parameters: vec must have shape ({ends[-1]},), one for each "
                         f"of the parameters' elements, got {vec.shape}")
    for p, start, end in zip(parameters, ends, ends[1:], strict=False):
        write(p.data, raw(vec[start:end].reshape(p.shape)))
        p.touch()
