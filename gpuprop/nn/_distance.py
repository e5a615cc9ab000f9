"""Distances: see the function of the same name in `gpuprop.functional`."""

from __future__ import annotations

import gpuprop.functional as F
from gpuprop.nn._function import Function


class CosineSimilarity(Function):
    function = staticmethod(F.cosine_similarity)
    inputs = 2


class PairwiseDistance(Function):
    function = staticmethod(F.pairwise_distance)
    inputs = 2
