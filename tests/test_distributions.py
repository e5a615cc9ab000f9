"""Samples of distributions: their distribution, bits, gradients and devices; validation."""

import math

import numpy as np
import pytest
from scipy import stats
from tested_backends import BACKENDS

import gpuprop as gp
import gpuprop.distributions as D
from gpuprop import asnumpy, no_sync, use
from gpuprop.distributions import _noise, constraints
from gpuprop.distributions._linalg import cholesky, solve_triangular
from gpuprop.random import Generator

N = 4000
LIMIT = 1e-4  # of p-values: the seeds are fixed, so a test that passes keeps passing

UNIVARIATE = {  # distribution -> SciPy's
    "Normal": (lambda: D.Normal(0.5, 2.0), stats.norm(0.5, 2)),
    "Laplace": (lambda: D.Laplace(0.5, 2.0), stats.laplace(0.5, 2)),
    "Cauchy": (lambda: D.Cauchy(0.5, 2.0), stats.cauchy(0.5, 2)),
    "Gumbel": (lambda: D.Gumbel(0.5, 2.0), stats.gumbel_r(0.5, 2)),
    "HalfNormal": (lambda: D.HalfNormal(2.0), stats.halfnorm(0, 2)),
    "HalfCauchy": (lambda: D.HalfCauchy(2.0), stats.halfcauchy(0, 2)),
    "LogNormal": (lambda: D.LogNormal(0.5, 0.7), stats.lognorm(0.7, scale=math.exp(0.5))),
    "Exponential": (lambda: D.Exponential(2.0), stats.expon(scale=0.5)),
    "Uniform": (lambda: D.Uniform(-1.0, 2.0), stats.uniform(-1, 3)),
    "Gamma": (lambda: D.Gamma(2.5, 2.0), stats.gamma(2.5, scale=0.5)),
    "Gamma, 0.2": (lambda: D.Gamma(0.2, 2.0), stats.gamma(0.2, scale=0.5)),
    "Gamma, 100": (lambda: D.Gamma(100.0, 2.0), stats.gamma(100, scale=0.5)),
    "InverseGamma": (lambda: D.InverseGamma(2.5, 2.0), stats.invgamma(2.5, scale=2)),
    "Chi2": (lambda: D.Chi2(3.0), stats.chi2(3)),
    "Beta": (lambda: D.Beta(0.5, 2.0), stats.beta(0.5, 2)),
    "StudentT": (lambda: D.StudentT(3.0, 0.5, 2.0), stats.t(3, 0.5, 2)),
    "FisherSnedecor": (lambda: D.FisherSnedecor(5.0, 7.0), stats.f(5, 7)),
    "Pareto": (lambda: D.Pareto(2.0, 3.0), stats.pareto(3, scale=2)),
    "GeneralizedPareto": (lambda: D.GeneralizedPareto(1.0, 2.0, 0.3),
                          stats.genpareto(0.3, 1, 2)),
    "Weibull": (lambda: D.Weibull(2.0, 1.5), stats.weibull_min(1.5, scale=2)),
    "RelaxedBernoulli": (lambda: D.RelaxedBernoulli(1.0, 0.5), stats.uniform()),
}
DISCRETE = {
    "Bernoulli": (lambda: D.Bernoulli(0.3), stats.bernoulli(0.3)),
    "Geometric": (lambda: D.Geometric(0.3), stats.geom(0.3, loc=-1)),
    "Binomial": (lambda: D.Binomial(12, 0.3), stats.binom(12, 0.3)),
    "Binomial, 0.9": (lambda: D.Binomial(12, 0.9), stats.binom(12, 0.9)),
    "Binomial, 200": (lambda: D.Binomial(200, 0.7), stats.binom(200, 0.7)),
    "Poisson": (lambda: D.Poisson(2.5), stats.poisson(2.5)),
    "Poisson, 10": (lambda: D.Poisson(10.0), stats.poisson(10)),
    "Poisson, 11": (lambda: D.Poisson(11.0), stats.poisson(11)),
    "Poisson, 300": (lambda: D.Poisson(300.0), stats.poisson(300)),
    "NegativeBinomial": (lambda: D.NegativeBinomial(4.0, 0.3), stats.nbinom(4, 0.7)),
    "Categorical": (lambda: D.Categorical(gp.tensor([0.1, 0.0, 0.7, 0.2])),
                    stats.rv_discrete(values=([0, 1, 2, 3], [0.1, 0, 0.7, 0.2]))),
}


# ---- the distribution of samples ---------------------------------------------------------------


@pytest.mark.parametrize("name", UNIVARIATE)
def test_continuous_samples(name, backend):
    make, expected = UNIVARIATE[name]
    samples = asnumpy(make().sample((N,), rng=Generator(1)))
    assert samples.dtype == np.float32
    assert stats.kstest(samples, expected.cdf).pvalue > LIMIT


@pytest.mark.parametrize("name", DISCRETE)
def test_discrete_samples(name, backend):
    make, expected = DISCRETE[name]
    samples = asnumpy(make().sample((N,), rng=Generator(1)))
    assert (samples % 1 == 0).all()
    # a few ranges of about the same probability
    ends = np.unique(expected.ppf(np.linspace(0, 1, 12)[1:-1]))
    probability = np.diff([0, *expected.cdf(ends), 1])
    counts = np.bincount(np.searchsorted(ends, samples), minlength=len(ends) + 1)
    assert not counts[probability < 1e-12].any()
    possible = probability >= 1e-12
    assert stats.chisquare(counts[possible], probability[possible] * N).pvalue > LIMIT


def vectors():
    lower = gp.tensor([[1.0, 0.0, 0.0], [0.5, 2.0, 0.0], [-1.0, 0.3, 0.5]])
    loc = gp.tensor([1.0, 2.0, 3.0])
    weights = gp.tensor([0.2, 0.3, 0.5])
    yield D.MultivariateNormal(loc, scale_tril=lower), lower @ lower.T
    yield D.MultivariateNormal(loc, lower @ lower.T), lower @ lower.T
    low_rank = D.LowRankMultivariateNormal(loc, lower[:, :1], weights)
    yield low_rank, low_rank.covariance_matrix
    yield D.Dirichlet(2 * weights), None
    yield D.Multinomial(6, weights), None
    yield D.OneHotCategorical(weights), None
    mixture = D.MixtureSameFamily(D.Categorical(weights), D.Independent(
        D.Normal(gp.arange(9.0).reshape(3, 3), 1.0), 1))
    yield mixture, None


@pytest.mark.parametrize("i", range(7))
def test_moments_of_vectors(i, backend):
    distribution, covariance = list(vectors())[i]
    samples = asnumpy(distribution.sample((N,), rng=Generator(1))).astype("float64")
    mean, variance = asnumpy(distribution.mean), asnumpy(distribution.variance)
    assert (abs(samples.mean(0) - mean) < 5 * np.sqrt(variance / N)).all()
    np.testing.assert_allclose(samples.var(0), variance, rtol=0.15)
    if covariance is not None:
        np.testing.assert_allclose(np.cov(samples.T), asnumpy(covariance), atol=0.3)


@pytest.mark.parametrize("seed", range(3))
def test_relaxed_one_hot_samples(seed):
    """The largest element is where the category of Gumbel's method is."""
    probs = np.array([0.1, 0.2, 0.7])
    samples = D.RelaxedOneHotCategorical(0.1, gp.tensor(probs)).sample((N,), rng=Generator(seed))
    counts = np.bincount(samples.numpy().argmax(-1), minlength=3)
    assert stats.chisquare(counts, probs * N).pvalue > LIMIT
    np.testing.assert_allclose(samples.numpy().sum(-1), 1, rtol=1e-6)


# ---- bits --------------------------------------------------------------------------------------

EXACT = ["Normal", "Laplace", "Cauchy", "Gumbel", "HalfNormal", "Exponential", "Uniform", "Gamma",
         "Gamma, 100", "Bernoulli", "Categorical"]


@pytest.mark.parametrize("name", [*UNIVARIATE, *DISCRETE])
def test_backends_agree(name):
    """The host stops its rounds early, and has the numbers of a device."""
    make, _ = (UNIVARIATE | DISCRETE)[name]
    samples = {}
    for backend in {"numpy", *BACKENDS}:
        with use(backend):
            samples[backend] = asnumpy(make().sample((300,), rng=Generator(2)))
    for values in samples.values():
        if name in EXACT or name in DISCRETE:
            np.testing.assert_array_equal(values, samples["numpy"])
        else:
            np.testing.assert_allclose(values, samples["numpy"], rtol=2e-6, atol=1e-30)


def test_generators():
    normal = D.Normal(gp.zeros(3), 1.0)
    first = normal.sample((2,), rng=Generator(5))
    assert (first == normal.sample((2,), rng=Generator(5))).all()
    generator = Generator(5)
    draws = [normal.sample((2,), rng=generator) for _ in range(2)]
    assert (draws[0] == first).all() and (draws[1] != first).all()
    gp.manual_seed(5)
    assert (normal.sample((2,)) == first).all()


@pytest.mark.parametrize("kind", _noise.KINDS)
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_noise_has_the_dtype_of_the_parameters(kind, dtype):
    like = gp.zeros(1, dtype=dtype)
    samples = _noise.noise(kind, (2, 500), like, Generator(0))
    assert samples.dtype == like.dtype and samples.shape == (2, 500)
    assert samples.isfinite().all()
    if kind == "uniform":
        assert samples.min().item() >= 0 and samples.max().item() < 1


def test_first_accepted_takes_the_first_round():
    key = np.array([3, 4], "uint64")

    def propose(xp, word0, word1, threshold):
        u = _noise.philox.unit_interval(word0)
        return u, u < threshold

    for name in BACKENDS:
        with use(name) as backend:
            values = asnumpy(_noise.first_accepted(
                backend.xp, backend.asarray(key), propose,
                [backend.asarray(np.array([0.5, 0.1, 0.9, 0.0]))], 7.0, 20))
        rounds = np.array([_noise.philox.unit_interval(_noise._words(
            np, key, r, np.arange(4, dtype="uint64"))[0]) for r in range(20)])
        for column, limit, value in zip(rounds.T, (0.5, 0.1, 0.9, 0.0), values, strict=True):
            accepted = column[column < limit]
            assert value == (accepted[0] if len(accepted) else 7.0)


def test_the_end_of_the_tables_of_counts():
    """The largest uniform number has a count within the table."""
    last = np.array([2**64 - 1], "uint64")
    assert _noise.count_poisson(np, last, np.array([10.0])) < 50
    count = _noise.count_binomial(np, last, np.array([1e9]), np.array([1e-8]))
    assert count < 50


# ---- devices and captured steps ----------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in UNIVARIATE | DISCRETE if name != "Binomial"])
def test_the_host_does_not_wait(name, backend):
    make, _ = (UNIVARIATE | DISCRETE)[name]
    distribution = make()
    distribution.sample((3,))  # what is made at first use
    if backend.name == "numpy":
        return
    with no_sync():
        distribution = make()
        sample = distribution.rsample((3,)) if distribution.has_rsample else (
            distribution.sample((3,)))
        distribution.log_prob(sample)


def test_a_captured_step_draws_new_numbers(recorder):
    with use(recorder):
        rate = gp.tensor([0.5, 3.0, 40.0])

        def step(rate):
            gamma = D.Gamma(rate, 1.0, validate_args=False)
            return (D.Normal(rate, 1.0, validate_args=False).sample((4,)), gamma.sample(),
                    D.Poisson(rate, validate_args=False).sample(),
                    D.Categorical(rate, validate_args=False).sample((8,)))

        captured = gp.capture(step)
        gp.manual_seed(3)
        eager = [[asnumpy(x) for x in step(rate)] for _ in range(6)]
        gp.manual_seed(3)
        replayed = [[asnumpy(x) for x in captured(rate)] for _ in range(6)]
    for expected, result in zip(eager, replayed, strict=True):
        for a, b in zip(expected, result, strict=True):
            np.testing.assert_array_equal(a, b)
    assert len({x[0].tobytes() for x in replayed}) == 6


def test_invalid_parameters_on_a_device_are_reported_later():
    with use("strict"):
        D.Normal(gp.zeros(2), gp.tensor([1.0, -1.0]))
        with pytest.raises(IndexError, match="Normal: parameter scale must satisfy GreaterThan"):
            gp.zeros(1).numpy()


# ---- matrices ----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch, right", [((), ()), ((3,), (3,)), ((), (4, 2)), ((3,), ())])
@pytest.mark.parametrize("upper", [False, True])
def test_lapack_agrees_with_the_definition(batch, right, upper):
    """For larger matrices than the rows of the kit have."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((*batch, 40, 40))
    a = a @ a.swapaxes(-1, -2) + 40 * np.eye(40)
    b = rng.standard_normal((*right, 40, 2))
    results = []
    for mode in (gp.enable_grad, gp.generic):
        with mode():
            leaves = [gp.tensor(v, requires_grad=True) for v in (a, b)]
            lower = cholesky(leaves[0])
            x = solve_triangular(lower.swapaxes(-1, -2) if upper else lower, leaves[1], upper)
            (x * x).sum().backward()
            results.append([x.detach().numpy(), *(leaf.grad for leaf in leaves)])
    for result, expected in zip(*results, strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-9, atol=1e-12)
    triangle = np.linalg.cholesky(a)
    triangle = triangle.swapaxes(-1, -2) if upper else triangle
    np.testing.assert_allclose(results[0][0], np.linalg.solve(triangle, b), rtol=1e-9)


def test_matrices_without_a_factor_give_nan():
    with np.errstate(all="ignore"):
        assert np.isnan(cholesky(-np.eye(3))).any()
        assert not np.isfinite(solve_triangular(np.zeros((2, 2)), np.ones((2, 1)))).any()


# ---- gradients ---------------------------------------------------------------------------------


def gradient_of_mean(make, alpha, n=20000):
    """The gradient of the mean of samples, and its standard error."""
    leaf = gp.tensor(np.full((n, len(alpha)), alpha), requires_grad=True)
    samples = make(leaf).rsample(rng=Generator(0))
    samples.sum().backward()
    return leaf.grad.mean(0), leaf.grad.std(0) / math.sqrt(n)


@pytest.mark.parametrize("alpha", [[0.3, 0.8], [2.0, 5.0], [30.0, 0.5]])
def test_gradient_of_beta(alpha):
    a, b = alpha
    mean, error = gradient_of_mean(lambda t: D.Beta(t[:, 0], t[:, 1]), alpha)
    total = a + b
    expected = [b / total**2, -a / total**2]
    assert (abs(mean - expected) < 5 * error).all()


def test_gradient_of_dirichlet():
    alpha = np.array([0.3, 2.0, 5.0])
    leaf = gp.tensor(np.full((20000, 3), alpha), requires_grad=True)
    samples = D.Dirichlet(leaf).rsample(rng=Generator(0))
    samples[:, 1].sum().backward()
    total = alpha.sum()
    expected = (np.array([0, 1, 0]) * total - alpha[1]) / total**2
    error = leaf.grad.std(0) / math.sqrt(20000)
    assert (abs(leaf.grad.mean(0) - expected) < 5 * error).all()


def test_gradient_of_gamma_is_the_slope_of_the_quantile():
    alpha = gp.tensor(np.array([0.05, 0.6, 1.0, 2.5, 9.0, 150.0]), requires_grad=True)
    x = D.Gamma(alpha, 1.0).rsample(rng=Generator(3))
    x.sum().backward()
    a, samples = alpha.numpy(), x.detach().numpy()
    q = stats.gamma(a).cdf(samples)
    h = 1e-5 * a
    slope = (stats.gamma(a + h).ppf(q) - stats.gamma(a - h).ppf(q)) / (2 * h)
    np.testing.assert_allclose(alpha.grad, slope, rtol=1e-5)


def test_gradient_of_beta_is_the_slope_of_the_quantile():
    a = np.array([0.3, 1.0, 2.5, 9.0, 150.0])
    b = np.array([0.8, 0.1, 2.5, 70.0, 3.0])
    leaves = [gp.tensor(v, requires_grad=True) for v in (a, b)]
    x = D.Beta(*leaves).rsample(rng=Generator(3))
    x.sum().backward()
    q = stats.beta(a, b).cdf(x.detach().numpy())
    for leaf, i in zip(leaves, (1, 0), strict=True):
        step = 1e-5 * np.stack([a, b]) * np.array([[i], [1 - i]])
        more, less = (stats.beta(a + s[0], b + s[1]).ppf(q) for s in (step, -step))
        np.testing.assert_allclose(leaf.grad, (more - less) / (2 * step.sum(0)), rtol=1e-5)


def test_small_concentrations():
    """Samples that float32 cannot hold are its smallest number, and have finite gradients."""
    for make in (lambda t: D.Gamma(t, 1.0), lambda t: D.Beta(t, t),
                 lambda t: D.Dirichlet(t.reshape(10, 5))):
        alpha = gp.full((50,), 1e-4, requires_grad=True)
        x = make(alpha).rsample(rng=Generator(0))
        x.sum().backward()
        assert (x > 0).all() and x.isfinite().all() and np.isfinite(alpha.grad).all()


def test_samples_of_gamma_have_no_second_derivative():
    def loss(alpha):
        return (D.Gamma(alpha, 1.0).rsample(rng=Generator(0)) ** 2).sum()

    alpha = np.array([0.5, 2.0])
    assert gp.grad(loss)(alpha).shape == (2,)
    with pytest.raises(NotImplementedError, match="second derivative of samples of a gamma"):
        gp.grad(lambda a: gp.grad(loss)(a).sum())(alpha)


def test_sample_has_no_gradient_and_rsample_has():
    loc = gp.tensor([1.0], requires_grad=True)
    normal = D.Normal(loc, 1.0)
    assert not normal.sample().requires_grad and normal.rsample().requires_grad
    straight = D.OneHotCategoricalStraightThrough(logits=gp.zeros(3, requires_grad=True))
    assert not straight.sample().requires_grad and straight.rsample().requires_grad
    with pytest.raises(NotImplementedError, match="Poisson has no rsample"):
        D.Poisson(1.0).rsample()


def test_a_property_that_is_computed_once_has_a_gradient():
    logits = gp.zeros(3, requires_grad=True)
    distribution = D.Categorical(logits=logits)
    with gp.no_grad():
        assert distribution.probs.requires_grad
    assert distribution.probs is distribution.probs


# ---- arguments ---------------------------------------------------------------------------------


def test_parameters_are_numbers_arrays_or_tensors():
    assert D.Normal(0, 1).loc.dtype == np.float32
    normal = D.Normal(gp.zeros(3, dtype="float64"), 1)
    assert normal.scale.dtype == np.float64 and normal.scale.shape == (3,)
    assert D.Normal(np.zeros((2, 1)), np.ones(3)).batch_shape == (2, 3)
    assert D.Poisson(gp.tensor([1, 2])).rate.dtype == np.float32
    assert isinstance(D.Normal(np.zeros(2), 1.0).log_prob(np.zeros(2)), gp.Tensor)
    with pytest.raises(TypeError, match=r"Normal: loc must be a Tensor, an array or a number"):
        D.Normal([0.0], 1.0)
    with pytest.raises(ValueError, match=r"Normal: .* do not broadcast together: loc \(2,\), "):
        D.Normal(gp.zeros(2), gp.ones(3))


INVALID = [
    (lambda: D.Normal(0.0, -1.0),
     r"Normal: parameter scale must satisfy GreaterThan\(lower_bound=0.0\), got -1.0"),
    (lambda: D.Normal(gp.zeros(2), gp.tensor([1.0, 0.0])),
     r"scale .* got 0.0 at index \(1,\) of shape \(2,\)"),
    (lambda: D.Normal(math.nan, 1.0), r"parameter loc must satisfy Real\(\), got nan"),
    (lambda: D.Bernoulli(1.5), r"Bernoulli: parameter probs must satisfy Interval\(.*\), got 1.5"),
    (lambda: D.Bernoulli(), "Bernoulli: give exactly one of probs, logits"),
    (lambda: D.Bernoulli(0.5, 0.5), "Bernoulli: give exactly one of probs, logits"),
    (lambda: D.Categorical(gp.tensor([0.5, -0.5, 1.0])), r"Categorical: .* probs .* Simplex"),
    (lambda: D.Categorical(0.5), "Categorical: probs must have at least one axis"),
    (lambda: D.Uniform(1.0, 0.0), "Uniform: parameter high must satisfy GreaterThan"),
    (lambda: D.Geometric(0.0), "Geometric: parameter probs must satisfy GreaterThan"),
    (lambda: D.Binomial(2.5, 0.5), "Binomial: parameter total_count must satisfy Integer"),
    (lambda: D.Multinomial(2, gp.ones(3)).log_prob(gp.tensor([1.0, 2.0, 3.0])),
     r"Multinomial: the value must satisfy Multinomial\(upper_bound=2\)"),
    (lambda: D.Exponential(1.0).log_prob(-1.0), "the value must satisfy GreaterThanEq"),
    (lambda: D.Poisson(1.0).log_prob(0.5), "Poisson: the value must satisfy IntegerGreaterThan"),
    (lambda: D.Categorical(gp.ones(3)).log_prob(gp.tensor(3)), "the value must satisfy Integer"),
    (lambda: D.Dirichlet(gp.ones(3)).log_prob(gp.ones(2) / 2),
     r"Dirichlet: the value must end with the event_shape \(3,\), got shape \(2,\)"),
    (lambda: D.Normal(gp.zeros(3), 1.0).log_prob(gp.zeros(2)), "value .* distribution"),
    (lambda: D.MultivariateNormal(gp.zeros(2)), "give exactly one of covariance_matrix"),
    (lambda: D.MultivariateNormal(gp.zeros(2), -gp.eye(2)),
     r"parameter covariance_matrix must satisfy PositiveDefinite\(\)"),
    (lambda: D.MultivariateNormal(gp.zeros(2), gp.eye(3)), "last axis of covariance_matrix"),
    (lambda: D.Independent(D.Normal(gp.zeros(2), 1.0), 2), "reinterpreted_batch_ndims .* 0 to 1"),
    (lambda: D.MixtureSameFamily(D.Categorical(gp.ones(3)), D.Normal(gp.zeros(2), 1.0)),
     r"3 categories, .* got \(2,\)"),
    (lambda: D.Normal(gp.zeros(2), 1.0).expand((3,)), r"batch_shape \(2,\) cannot be expanded"),
    (lambda: D.ExpTransform(cache_size=2), "cache_size must be 0 or 1"),
    (lambda: D.ReshapeTransform((2,), (3,)), "different numbers of elements"),
]


@pytest.mark.parametrize("make, message", INVALID)
def test_invalid_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_validation_can_be_turned_off():
    assert math.isnan(D.Normal(math.nan, 1.0, validate_args=False).mean.item())
    D.Exponential(1.0, validate_args=False).log_prob(-1.0)
    D.Distribution.set_default_validate_args(False)
    try:
        assert D.Normal(0.0, -1.0).scale.item() == -1
    finally:
        D.Distribution.set_default_validate_args(True)


@pytest.mark.parametrize("shape, error", [(3, TypeError), ((-1,), ValueError), ((1.5,), TypeError)])
def test_sample_shape(shape, error):
    with pytest.raises(error, match="Normal: sample_shape"):
        D.Normal(0.0, 1.0).sample(shape)


def test_repr():
    assert repr(D.Normal(0.0, gp.ones(2))) == "Normal(loc: (2,), scale: (2,))"
    assert repr(D.Chi2(3.0)) == "Chi2(df: 3.0)"
    assert repr(D.LogNormal(0.0, 1.0)) == "LogNormal(loc: 0.0, scale: 1.0)"
    independent = D.Independent(D.Normal(gp.zeros(2), 1.0), 1)
    assert repr(independent) == "Independent(Normal(loc: (2,), scale: (2,)), 1)"
    assert repr(D.transforms.ExpTransform().inv) == "InverseTransform(ExpTransform())"


# ---- an own distribution -----------------------------------------------------------------------


class Triangular(D.Distribution):
    """Without `support` and `rsample`, as a user may write it."""

    arg_constraints = {"width": constraints.positive}

    def __init__(self, width, validate_args=None):
        super().__init__(self._parameters(width=width), validate_args=validate_args)

    def log_prob(self, value):
        return (1 - self._value(value).abs() / self.width).log() - self.width.log()


def test_a_distribution_of_a_user():
    own = Triangular(gp.ones(3))
    assert own.log_prob(gp.zeros(3)).tolist() == [0, 0, 0]
    assert own.expand((2, 3)).width.shape == (2, 3)
    with pytest.raises(NotImplementedError, match="Triangular has no mean"):
        own.mean  # noqa: B018
    with pytest.raises(NotImplementedError, match="no formula is registered for Triangular and"):
        D.kl_divergence(own, own)


def test_register_kl():
    class First(D.Normal):
        pass

    class Second(D.Normal):
        pass

    normal, first, second = D.Normal(0.0, 1.0), First(1.0, 1.0), Second(1.0, 1.0)
    assert D.kl_divergence(first, second).item() == 0
    registered = dict(D.kl._registered)
    try:
        D.register_kl(First, D.Normal)(lambda p, q: 1)
        assert D.kl_divergence(first, second) == 1
        assert D.kl_divergence(normal, second).item() == 0.5
        D.register_kl(D.Normal, Second)(lambda p, q: 2)
        with pytest.warns(RuntimeWarning, match=r"register_kl\(First, Second\) decides it"):
            D.kl_divergence(first, second)
    finally:
        D.kl._registered.clear()
        D.kl._registered.update(registered)
    with pytest.raises(TypeError, match="type_p must be a class of distributions"):
        D.register_kl(normal, D.Normal)
