"""Parameters as one vector, and back."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from gpuprop._array.shape import concatenate, reshape
from gpuprop._core.graph import raw
from gpuprop._core.placement import write
from gpuprop._core.tensor import Parameter, Tensor


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All elements of all parameters in one vector, with history."""
    return concatenate([reshape(p, (-1,)) for p in parameters])


def vector_to_parameters(vec: Tensor, parameters: Iterable[Parameter]) -> None:
    """Write the elements of one vector into parameters, where they are."""
    if not isinstance(vec, Tensor):
        raise TypeError(f"expected a Tensor, but got {type(vec).__name__}")
    parameters = list(parameters)
    ends = list(itertools.accumulate((p.size for p in parameters), initial=0))
    if vec.shape != (ends[-1],):
        raise ValueError(f"the vector has shape {vec.shape}, and the parameters {ends[-1]} elements")
    for p, start, end in zip(parameters, ends, ends[1:], strict=False):
        write(p.data, raw(vec[start:end].reshape(p.shape)))
        p.touch()
