"""Conversion of parameters to one vector, and back."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from gpuprop._array.shape import concatenate, reshape
from gpuprop._core.graph import raw
from gpuprop._core.options import checks_options
from gpuprop._core.placement import write
from gpuprop._core.tensor import Parameter, Tensor


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """Concatenate the elements of all parameters to one vector; gradients flow to the parameters.

    >>> from gpuprop import nn
    >>> nn.utils.parameters_to_vector(nn.Linear(3, 2).parameters()).shape
    (8,)
    """
    return concatenate([reshape(p, (-1,)) for p in parameters])


@checks_options
def vector_to_parameters(vec: Tensor, parameters: Iterable[Parameter]) -> None:
    """Copy consecutive elements of a vector into the parameters, in place."""
    parameters = list(parameters)
    ends = list(itertools.accumulate((p.size for p in parameters), initial=0))
    if vec.shape != (ends[-1],):
        raise ValueError(f"vector_to_parameters: vec must have shape ({ends[-1]},), with all "
                         f"elements of the parameters, got {vec.shape}")
    for p, start, end in zip(parameters, ends, ends[1:], strict=False):
        write(p.array, raw(vec[start:end].reshape(p.shape)))
        p.touch()
