"""Distance layers: the layer form of functions in `gpuprop.functional`."""

from __future__ import annotations

import gpuprop.functional as F
from gpuprop.nn._function import Function


class CosineSimilarity(Function):
    function = staticmethod(F.cosine_similarity)
    dim: int = 1
    eps: float = 1e-8


class PairwiseDistance(Function):
    function = staticmethod(F.pairwise_distance)
    p: float = 2.0
    eps: float = 1e-6
    keepdim: bool = False
