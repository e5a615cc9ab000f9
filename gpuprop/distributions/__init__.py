"""Probability distributions with PyTorch's names, signatures and meanings.

Densities, moments and divergences are functions of Tensors, with gradients in values and
parameters.  Samples come from gpuprop's generators (`rng=`), on the device of the parameters.

>>> import gpuprop as gp
>>> policy = gp.distributions.Categorical(logits=gp.zeros((5, 2)))
>>> action = policy.sample()
>>> policy.log_prob(action).shape
(5,)
"""

from gpuprop.distributions import constraints, kl, transforms
from gpuprop.distributions._composite import (
    Independent,
    InverseGamma,
    Kumaraswamy,
    LogisticNormal,
    LogNormal,
    MixtureSameFamily,
    Pareto,
    TransformedDistribution,
    Weibull,
)
from gpuprop.distributions._constraint_registry import biject_to, transform_to
from gpuprop.distributions._continuous_bernoulli import ContinuousBernoulli
from gpuprop.distributions._discrete import (
    Bernoulli,
    Binomial,
    Categorical,
    Geometric,
    Multinomial,
    NegativeBinomial,
    OneHotCategorical,
    OneHotCategoricalStraightThrough,
    Poisson,
)
from gpuprop.distributions._distribution import Distribution, ExponentialFamily
from gpuprop.distributions._gamma import Beta, Chi2, Dirichlet, FisherSnedecor, Gamma, StudentT
from gpuprop.distributions._location_scale import (
    Cauchy,
    Exponential,
    GeneralizedPareto,
    Gumbel,
    HalfCauchy,
    HalfNormal,
    Laplace,
    Normal,
    Uniform,
)
from gpuprop.distributions._multivariate_normal import (
    LowRankMultivariateNormal,
    MultivariateNormal,
)
from gpuprop.distributions._relaxed import RelaxedBernoulli, RelaxedOneHotCategorical
from gpuprop.distributions.kl import kl_divergence, register_kl
from gpuprop.distributions.transforms import *

__all__ = [
    "Bernoulli", "Beta", "Binomial", "Categorical", "Cauchy", "Chi2", "ContinuousBernoulli",
    "Dirichlet", "Distribution", "Exponential", "ExponentialFamily", "FisherSnedecor", "Gamma",
    "GeneralizedPareto", "Geometric", "Gumbel", "HalfCauchy", "HalfNormal", "Independent",
    "InverseGamma", "Kumaraswamy", "Laplace", "LogNormal", "LogisticNormal",
    "LowRankMultivariateNormal", "MixtureSameFamily",
    "Multinomial", "MultivariateNormal", "NegativeBinomial", "Normal", "OneHotCategorical",
    "OneHotCategoricalStraightThrough", "Pareto", "Poisson", "RelaxedBernoulli",
    "RelaxedOneHotCategorical", "StudentT", "TransformedDistribution", "Uniform", "Weibull",
    "biject_to", "constraints", "kl", "kl_divergence", "register_kl", "transform_to", "transforms",
]
__all__ += transforms.__all__
