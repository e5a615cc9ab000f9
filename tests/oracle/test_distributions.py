"""gpuprop.distributions against torch.distributions, in float64.

Samples are tested in tests/test_distributions.py; here, PyTorch's samples are the values at which
densities are compared.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributions as T
from absent import ABSENT
from compare import Difference, assert_close, numpy_warnings, without_warnings

import gpuprop as gp
import gpuprop.distributions as G
import gpuprop.torch as dialect

TOLERANCE = 1e-12
RNG = np.random.default_rng(0)


def positive(*shape: int) -> np.ndarray:
    return RNG.uniform(0.3, 4.0, shape)


def real(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape)


def unit(*shape: int) -> np.ndarray:
    return RNG.uniform(0.05, 0.95, shape)


def covariance(*shape: int) -> np.ndarray:
    a = real(*shape, shape[-1])
    return a @ a.swapaxes(-1, -2) + np.eye(shape[-1])


# class -> keyword arguments of several instances
CASES: dict[str, list[dict[str, Any]]] = {
    **{name: [{"loc": real(3), "scale": positive(2, 1)}, {"loc": 0.5, "scale": positive(4)}]
       for name in ("Normal", "Laplace", "Cauchy", "Gumbel", "LogNormal")},
    "LogisticNormal": [{"loc": real(2, 3), "scale": positive(3)}],
    "HalfNormal": [{"scale": positive(2, 3)}],
    "HalfCauchy": [{"scale": positive(2, 3)}],
    "Exponential": [{"rate": positive(2, 3)}],
    "Uniform": [{"low": -positive(3), "high": positive(2, 1)}],
    "Gamma": [{"concentration": positive(2, 3), "rate": positive(3)},
              {"concentration": np.array([1e-2, 1.0, 50.0, 1e3]), "rate": 1.0}],
    "InverseGamma": [{"concentration": positive(2, 3), "rate": positive(3)}],
    "Chi2": [{"df": positive(2, 3)}],
    "Beta": [{"concentration1": positive(2, 3), "concentration0": positive(3)},
             {"concentration1": unit(3), "concentration0": unit(3)}],
    "Dirichlet": [{"concentration": positive(2, 3)}, {"concentration": unit(4)},
                  {"concentration": 1 + positive(4)}],
    "StudentT": [{"df": positive(2, 3), "loc": real(3), "scale": positive(3)}],
    "FisherSnedecor": [{"df1": 2 * positive(2, 3), "df2": 3 * positive(3)}],
    "Pareto": [{"scale": positive(2, 3), "alpha": positive(3)}],
    "Weibull": [{"scale": positive(2, 3), "concentration": 1 + positive(3)}],
    "Kumaraswamy": [{"concentration1": positive(2, 3), "concentration0": positive(3)}],
    "Bernoulli": [{"probs": unit(2, 3)}, {"logits": real(3)}, {"probs": np.array([0.0, 0.5, 1.0])}],
    "ContinuousBernoulli": [{"probs": unit(2, 3)}, {"logits": real(3)},
                            {"probs": np.array([0.4995, 0.5, 0.5005])}],
    "GeneralizedPareto": [
        {"loc": real(3), "scale": positive(2, 1), "concentration": np.array([0.3, -0.4, 0.0])},
        {"loc": real(3), "scale": positive(3), "concentration": np.array([0.6, 1.5, 0.45])}],
    "Geometric": [{"probs": unit(2, 3)}, {"logits": real(3)}],
    "Binomial": [{"total_count": 7, "probs": unit(2, 3)}, {"total_count": 7, "logits": real(3)}],
    "NegativeBinomial": [{"total_count": positive(3), "probs": unit(2, 3)},
                         {"total_count": positive(3), "logits": real(2, 3)}],
    "Poisson": [{"rate": positive(2, 3)}, {"rate": 20 * positive(3)}],
    **{name: [{"probs": unit(2, 4)}, {"logits": real(4)}] for name in (
        "Categorical", "OneHotCategorical", "OneHotCategoricalStraightThrough")},
    "Multinomial": [{"total_count": 5, "probs": unit(2, 4)}, {"total_count": 3, "logits": real(4)}],
    "RelaxedBernoulli": [{"temperature": np.array(0.7), "probs": unit(2, 3)},
                         {"temperature": np.array(2.0), "logits": real(3)}],
    "RelaxedOneHotCategorical": [{"temperature": np.array(0.7), "probs": unit(2, 3)},
                                 {"temperature": np.array(2.0), "logits": real(3)}],
    "MultivariateNormal": [
        {"loc": real(2, 3), "covariance_matrix": covariance(3)},
        {"loc": real(3), "precision_matrix": covariance(2, 3)},
        {"loc": real(3), "scale_tril": np.linalg.cholesky(covariance(3))}],
    "LowRankMultivariateNormal": [
        {"loc": real(2, 3), "cov_factor": real(3, 2), "cov_diag": positive(3)},
        {"loc": real(3), "cov_factor": real(2, 3, 1), "cov_diag": positive(2, 3)}],
}
INSTANCES = [(name, i) for name, cases in CASES.items() for i in range(len(cases))]
PROPERTIES = ("mean", "mode", "variance", "stddev")
WITHOUT_NUMBERS = {  # (class, what) -> why PyTorch's result is not compared
    ("Kumaraswamy", "mode"): "PyTorch's formula gives NaN where b > 1",
}
# of PyTorch's results: its trigamma has 9 digits, and it computes some terms in float32
TOLERANCES = {"entropy": 1e-9, "perplexity": 1e-9, "Multinomial": 1e-6,
              "RelaxedOneHotCategorical": 1e-10, "LogisticNormal": 1e-10}


def tolerance(name: str, what: str) -> float:
    return max(TOLERANCE, TOLERANCES.get(name, 0), TOLERANCES.get(what, 0))


@pytest.fixture(autouse=True)
def float64_constants(request: Any) -> Iterator[None]:
    """PyTorch's GeneralizedPareto compares float64 with a constant of the default dtype."""
    if "GeneralizedPareto" in request.node.name:
        torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def to_torch(value: Any) -> Any:
    return torch.tensor(value, requires_grad=True) if isinstance(value, np.ndarray) else value


def to_ours(value: Any) -> Any:
    return gp.tensor(value, requires_grad=True) if isinstance(value, np.ndarray) else value


def pair(name: str, i: int) -> tuple[Any, Any, dict, dict]:
    """A distribution of PyTorch and ours, and their arguments."""
    arguments = CASES[name][i]
    theirs = {k: to_torch(v) for k, v in arguments.items()}
    ours = {k: to_ours(v) for k, v in arguments.items()}
    return getattr(T, name)(**theirs), getattr(G, name)(**ours), theirs, ours


def compare(what: str, theirs: torch.Tensor, ours: Any, arguments: dict, own: dict,
            tolerance: float = TOLERANCE) -> None:
    """Compare values, and gradients in all arguments."""
    assert_close(what, ours.detach(), theirs, tolerance)
    leaves = {k: v for k, v in arguments.items() if isinstance(v, torch.Tensor)}
    if not theirs.requires_grad or not theirs.dtype.is_floating_point:
        return
    weights = np.random.default_rng(1).standard_normal(tuple(theirs.shape))
    finite = torch.where(theirs.isfinite(), theirs * torch.tensor(weights), 0).sum()
    grads = torch.autograd.grad(finite, list(leaves.values()), allow_unused=True,
                                materialize_grads=True)
    for v in own.values():
        if isinstance(v, gp.Tensor):
            v.grad = None
    if ours.requires_grad:
        finite_here = np.isfinite(ours.detach().numpy())
        with numpy_warnings((theirs.detach(), *grads)):
            gp.where(finite_here, ours * weights, 0).sum().backward()
    for name, grad in zip(leaves, grads, strict=True):
        leaf = own[name]
        result = np.zeros(leaf.shape) if leaf.grad is None else leaf.grad
        if bool(grad.isfinite().all()):
            assert_close(f"{what}: gradient of {name}", result, grad, 100 * tolerance)


@pytest.mark.parametrize("name, i", INSTANCES)
def test_shapes_and_attributes(name: str, i: int) -> None:
    theirs, ours, *_ = pair(name, i)
    assert ours.batch_shape == tuple(theirs.batch_shape)
    assert ours.event_shape == tuple(theirs.event_shape)
    assert ours.has_rsample == theirs.has_rsample
    assert ours.has_enumerate_support == theirs.has_enumerate_support
    assert {*theirs.arg_constraints} == {*ours.arg_constraints}
    assert ours.support.is_discrete == theirs.support.is_discrete
    assert ours.support.event_dim == theirs.support.event_dim
    shape = (5, *theirs.batch_shape)
    assert ours.expand(shape).sample((2,)).shape == tuple(theirs.expand(shape).sample((2,)).shape)


@pytest.mark.parametrize("name, i", INSTANCES)
def test_log_prob(name: str, i: int) -> None:
    theirs, ours, arguments, own = pair(name, i)
    torch.manual_seed(0)
    value = theirs.sample((6,))
    compare("log_prob", theirs.log_prob(value), ours.log_prob(value.numpy()), arguments, own,
            tolerance(name, "log_prob"))


@pytest.mark.parametrize("name, i", INSTANCES)
@pytest.mark.parametrize("what", [*PROPERTIES, "entropy", "perplexity"])
def test_moments(name: str, i: int, what: str) -> None:
    if (name, what) in WITHOUT_NUMBERS:
        return
    theirs, ours, arguments, own = pair(name, i)
    value = lambda d: getattr(d, what) if what in PROPERTIES else getattr(d, what)()
    try:
        expected = without_warnings(value, theirs)
    except NotImplementedError:
        with pytest.raises(NotImplementedError, match=name):
            value(ours)
        return
    compare(what, expected, value(ours), arguments, own, tolerance(name, what))


@pytest.mark.parametrize("name, i", INSTANCES)
def test_cdf_and_icdf(name: str, i: int) -> None:
    theirs, ours, arguments, own = pair(name, i)
    torch.manual_seed(0)
    value = theirs.sample((6,))
    try:
        expected = theirs.cdf(value)
    except NotImplementedError:
        return  # ours may have more
    if name in ("Gamma", "Chi2", "InverseGamma"):  # PyTorch has no gradient in the concentration
        # its values have 9 digits; the next test compares with SciPy
        assert_close("cdf", ours.cdf(value.numpy()).detach(), expected.detach(), 1e-8)
    else:
        compare("cdf", expected, ours.cdf(value.numpy()), arguments, own)
    theirs, ours, arguments, own = pair(name, i)
    q = torch.tensor(RNG.uniform(0.01, 0.99, tuple(value.shape)))
    try:
        expected = theirs.icdf(q)
    except NotImplementedError:
        with pytest.raises(NotImplementedError):
            ours.icdf(q.numpy())
        return
    compare("icdf", expected, ours.icdf(q.numpy()), arguments, own)


@pytest.mark.parametrize("name, i", [
    (name, i) for name, i in INSTANCES if getattr(T, name).has_enumerate_support is True])
@pytest.mark.parametrize("expand", [False, True])
def test_enumerate_support(name: str, i: int, expand: bool) -> None:
    theirs, ours, *_ = pair(name, i)
    assert_close("support", ours.enumerate_support(expand).detach(),
                 theirs.enumerate_support(expand).detach())


@pytest.mark.parametrize("a", [1e-3, 0.3, 1.0, 3.0, 21.0, 50.0, 1e3, 1e5])
def test_incomplete_gamma_function(a: float) -> None:
    special = pytest.importorskip("scipy.special")
    x = special.gammaincinv(a, np.array([1e-9, 0.01, 0.3, 0.5, 0.7, 0.99, 1 - 1e-9]))
    x = np.concatenate([x, [0.0, 1e3 * a + 100, np.inf]])
    result = G.Gamma(gp.tensor(np.full(x.shape, a)), 1.0, validate_args=False).cdf(x)
    np.testing.assert_allclose(result.numpy(), special.gammainc(a, x), rtol=1e-11)


def test_gradient_of_the_incomplete_gamma_function() -> None:
    """In the concentration, which PyTorch lacks, against SciPy's values at near points."""
    special = pytest.importorskip("scipy.special")
    a = np.array([0.05, 0.4, 1.0, 1.6, 3.0, 12.0, 200.0])[:, None]
    x = a * np.array([0.01, 0.3, 0.9, 1.0, 1.4, 3.0])
    alpha = gp.tensor(np.broadcast_to(a, x.shape).copy(), requires_grad=True)
    G.Gamma(alpha, 1.0).cdf(x).sum().backward()
    h = 1e-5 * a
    slope = (special.gammainc(a - 2 * h, x) - 8 * special.gammainc(a - h, x)
             + 8 * special.gammainc(a + h, x) - special.gammainc(a + 2 * h, x)) / (12 * h)
    np.testing.assert_allclose(alpha.grad, slope, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("alpha", [1e-3, 0.02, 0.3, 1.0, 1.7, 2.2, 5.0, 40.0, 1e3, 1e5])
def test_implicit_gradient_of_gamma(alpha: float) -> None:
    """Against PyTorch's approximation, whose error is up to 1e-3, and SciPy's quantiles."""
    special = pytest.importorskip("scipy.special")
    from gpuprop.distributions._gamma_functions import gamma_slope

    q = np.array([1e-3, 0.03, 0.2, 0.5, 0.8, 0.97, 0.999])
    x = special.gammaincinv(alpha, q)
    slope = gamma_slope(np.full(7, alpha), x)
    theirs = torch._standard_gamma_grad(torch.full((7,), alpha, dtype=torch.float64),
                                        torch.tensor(x))
    visible = x > 1e-300
    np.testing.assert_allclose(slope[visible], theirs.numpy()[visible], rtol=2e-3)
    h = 1e-4 * alpha
    quantile = lambda k: special.gammaincinv(alpha + k * h, q)
    numeric = (quantile(-2) - 8 * quantile(-1) + 8 * quantile(1) - quantile(2)) / (12 * h)
    visible = x > 1e-200
    np.testing.assert_allclose(slope[visible], numeric[visible], rtol=1e-6)


@pytest.mark.parametrize("a", [1e-3, 0.3, 1.0, 2.2, 40.0, 1e4])
@pytest.mark.parametrize("b", [1e-3, 0.3, 1.0, 3.7, 1e3])
def test_implicit_gradient_of_beta(a: float, b: float) -> None:
    """Against SciPy's quantiles, in the logit, and PyTorch's approximation."""
    special = pytest.importorskip("scipy.special")
    from gpuprop.distributions._beta_functions import beta_slope

    q = np.array([1e-3, 0.03, 0.2, 0.5, 0.8, 0.97, 0.999])
    x, rest = special.betaincinv(a, b, q), special.betaincinv(b, a, 1 - q)
    visible = (x > 1e-200) & (rest > 1e-200)
    q, x, rest = q[visible], x[visible], rest[visible]
    z = np.log(x) - np.log(rest)
    slope = beta_slope(np.full(x.shape, a), np.full(x.shape, b), z)
    h = 1e-4 * a

    def logit(k: int) -> np.ndarray:
        return (np.log(special.betaincinv(a + k * h, b, q))
                - np.log(special.betaincinv(b, a + k * h, 1 - q)))

    numeric = (logit(-2) - 8 * logit(-1) + 8 * logit(1) - logit(2)) / (12 * h)
    np.testing.assert_allclose(slope, numeric, rtol=2e-5)
    near = (x > 1e-3) & (rest > 1e-3)  # where PyTorch's approximation is meant to hold
    theirs = torch._dirichlet_grad(torch.tensor(x), torch.full(x.shape, a, dtype=torch.float64),
                                   torch.full(x.shape, a + b, dtype=torch.float64))
    np.testing.assert_allclose((slope * x)[near], theirs.numpy()[near], rtol=5e-3)


def test_gradient_of_dirichlet() -> None:
    """PyTorch's formula for the gradient, at our sample."""
    alpha = np.array([[0.5, 2.0, 7.0], [3.0, 1.0, 0.2]])
    own = gp.tensor(alpha, requires_grad=True)
    x = G.Dirichlet(own).rsample((50,), rng=gp.random.Generator(0))
    weights = np.random.default_rng(0).standard_normal(x.shape)
    (x * weights).sum().backward()
    value, total = torch.tensor(x.detach().numpy()), torch.tensor(alpha.sum(-1, keepdims=True))
    shape = value.shape
    slope = torch._dirichlet_grad(value, torch.tensor(alpha).expand(shape), total.expand(shape))
    w = torch.tensor(weights)
    expected = (slope * (w - (value * w).sum(-1, keepdim=True))).sum(0)
    np.testing.assert_allclose(own.grad, expected.numpy(), rtol=2e-3)


# ---- pathwise gradients ------------------------------------------------------------------------

PATHWISE = ["Normal", "Laplace", "Cauchy", "Gumbel", "LogNormal", "HalfNormal", "HalfCauchy",
            "Exponential", "Uniform", "Pareto", "Weibull", "Kumaraswamy", "ContinuousBernoulli",
            "GeneralizedPareto"]


@pytest.mark.parametrize("name", PATHWISE)
def test_gradient_of_rsample(name: str) -> None:
    """``dx = -(dcdf(x)/dparameter) / p(x)``, by PyTorch's cdf and density."""
    theirs, ours, arguments, own = pair(name, 0)
    x = ours.rsample((4,), rng=gp.random.Generator(0))
    x.sum().backward()
    value = torch.tensor(x.detach().numpy())
    density = theirs.log_prob(value).exp().detach()
    leaves = [v for v in arguments.values() if isinstance(v, torch.Tensor)]
    grads = torch.autograd.grad(-(theirs.cdf(value) / density).sum(), leaves)
    for key, grad in zip(arguments, grads, strict=True):
        assert_close(f"gradient of {key}", own[key].grad, grad, 1e-8)


# ---- divergences -------------------------------------------------------------------------------

FOR_KL = {  # more than one parameter so that both branches of a formula occur
    "Pareto": [{"scale": np.array([0.5, 1.0, 2.0]), "alpha": np.array([0.8, 1.5, 3.0])}],
    "Uniform": [{"low": np.array([-1.0, 0.2, 0.6]), "high": np.array([0.5, 0.9, 3.0])}],
    "Binomial": [{"total_count": 7, "probs": unit(3)}],
    "Independent": [{}], "TransformedDistribution": [{}],
}
SKIPPED_KL = {"ExponentialFamily"}  # by derivatives of the normalizer; ours have closed forms
PAIRS = sorted((p.__name__, q.__name__) for p, q in T.kl._KL_REGISTRY
               if not {p.__name__, q.__name__} & SKIPPED_KL)


def instance(module: Any, name: str, seed: int) -> Any:
    convert = (lambda a: torch.tensor(a)) if module is T else gp.tensor
    rng = np.random.default_rng(seed)
    if name in ("Independent", "TransformedDistribution"):
        normal = module.Normal(convert(rng.standard_normal(3)), convert(rng.uniform(1, 2, 3)))
        return (module.Independent(normal, 1) if name == "Independent" else
                module.TransformedDistribution(normal, [module.ExpTransform()]))
    given = FOR_KL.get(name, CASES.get(name, [{}]))[0]
    arguments = {}
    for key, value in given.items():
        if isinstance(value, np.ndarray):
            value = value if name in ("Pareto", "Uniform") else value * (1 + 0.01 * seed)
            is_vector = name == "Categorical" or getattr(T, name).support.event_dim
            value = convert(value if is_vector else np.broadcast_to(value, (2, 3)).copy())
        arguments[key] = value
    return getattr(module, name)(**arguments)


@pytest.mark.parametrize("p, q", PAIRS)
def test_kl_divergence(p: str, q: str) -> None:
    expected = T.kl_divergence(instance(T, p, 0), instance(T, q, 1))
    result = G.kl_divergence(instance(G, p, 0), instance(G, q, 1))
    assert_close(f"KL({p}, {q})", result, expected, 1e-11)


def test_the_same_divergences_are_registered() -> None:
    ours = sorted((p.__name__, q.__name__) for p, q in G.kl._registered)
    assert ours == PAIRS


@pytest.mark.parametrize("name", ["MultivariateNormal", "LowRankMultivariateNormal"])
def test_matrices(name: str) -> None:
    for i in range(len(CASES[name])):
        theirs, ours, *_ = pair(name, i)
        for what in ("covariance_matrix", "precision_matrix", "scale_tril"):
            assert_close(what, getattr(ours, what).detach(), getattr(theirs, what), 1e-11)


# ---- transforms and constraints ----------------------------------------------------------------


def transforms(module: Any) -> Iterator[tuple[str, Any, tuple]]:
    convert = (lambda a: torch.tensor(a)) if module is T else gp.tensor
    number = np.array([0.5, 2.0, -1.5])
    yield "Exp", module.ExpTransform(), (2, 3)
    yield "Sigmoid", module.SigmoidTransform(), (2, 3)
    yield "Tanh", module.TanhTransform(), (2, 3)
    yield "Softplus", module.SoftplusTransform(), (2, 3)
    yield "Affine", module.AffineTransform(convert(number), convert(number + 3)), (2, 3)
    yield "Affine number", module.AffineTransform(0.5, -2.0), (2, 3)
    yield "Affine event", module.AffineTransform(0.5, convert(number), event_dim=1), (2, 3)
    yield "Power", module.ComposeTransform([
        module.ExpTransform(), module.PowerTransform(convert(number))]), (2, 3)
    yield "StickBreaking", module.StickBreakingTransform(), (2, 3)
    yield "Compose", module.ComposeTransform([
        module.AffineTransform(1.0, 2.0), module.TanhTransform(), module.ExpTransform()]), (2, 3)
    yield "Compose event", module.ComposeTransform([
        module.ExpTransform(), module.AffineTransform(0.0, 2.0, event_dim=1)]), (2, 3)
    yield "Independent", module.IndependentTransform(module.ExpTransform(), 1), (2, 3)
    yield "Reshape", module.ReshapeTransform((6,), (2, 3)), (4, 6)
    yield "Cat", module.CatTransform([
        module.ExpTransform(), module.AffineTransform(0.5, 2.0)], 1, [1, 2]), (2, 3)
    yield "Cat of events", module.CatTransform([
        module.AffineTransform(0.5, 2.0, event_dim=1), module.ExpTransform()], -1, [1, 2]), (2, 3)
    yield "Stack", module.StackTransform([
        module.ExpTransform(), module.AffineTransform(0.5, 2.0)], 0), (2, 3)
    yield "inverse", module.ExpTransform().inv.inv, (2, 3)
    yield "Cumulative", module.CumulativeDistributionTransform(module.Normal(0.0, 1.0)), (2, 3)


@pytest.mark.parametrize("index", range(sum(1 for _ in transforms(T))))
def test_transform(index: int) -> None:
    name, theirs, shape = next(itertools.islice(transforms(T), index, None))
    _, ours, _ = next(itertools.islice(transforms(G), index, None))
    x = np.random.default_rng(0).standard_normal(shape)
    expected = theirs(torch.tensor(x))
    result = ours(gp.tensor(x))
    assert_close(name, result, expected)
    assert_close(f"{name}: inverse", ours.inv(result), theirs.inv(expected))
    assert_close(f"{name}: Jacobian", ours.log_abs_det_jacobian(gp.tensor(x), result),
                 theirs.log_abs_det_jacobian(torch.tensor(x), expected))
    assert_close(f"{name}: Jacobian of the inverse",
                 ours.inv.log_abs_det_jacobian(result, gp.tensor(x)),
                 theirs.inv.log_abs_det_jacobian(expected, torch.tensor(x)))
    assert ours.bijective == theirs.bijective
    assert ours.domain.event_dim == theirs.domain.event_dim
    assert ours.codomain.event_dim == theirs.codomain.event_dim
    assert ours.forward_shape(shape) == tuple(theirs.forward_shape(shape))
    assert ours.inverse_shape(result.shape) == tuple(theirs.inverse_shape(expected.shape))
    assert ours.inv.inv is ours and ours == ours.with_cache().with_cache(0)
    cached = ours.with_cache()
    y = cached(t := gp.tensor(x))
    assert cached.inv(y) is t or name == "Compose" or "event" in name or "Power" in name


@pytest.mark.parametrize("name", ["Softmax", "Abs", "LowerCholesky", "PositiveDefinite"])
def test_transform_that_is_not_bijective(name: str) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 3))
    theirs, ours = (getattr(module, f"{name}Transform")() for module in (T, G))
    expected, result = theirs(torch.tensor(x)), ours(gp.tensor(x))
    assert_close(name, result, expected)
    assert_close(f"{name}: inverse", ours.inv(result), theirs.inv(expected))
    assert ours.bijective == theirs.bijective


CONSTRAINTS: list[Callable] = [
    lambda c: c.boolean, lambda c: c.nonnegative_integer, lambda c: c.positive_integer,
    lambda c: c.integer_interval(-1, 2), lambda c: c.real, lambda c: c.positive,
    lambda c: c.nonnegative, lambda c: c.greater_than(1), lambda c: c.greater_than_eq(1),
    lambda c: c.less_than(1), lambda c: c.unit_interval, lambda c: c.interval(-1, 1),
    lambda c: c.half_open_interval(-1, 1), lambda c: c.real_vector, lambda c: c.one_hot,
    lambda c: c.simplex, lambda c: c.multinomial(2), lambda c: c.lower_triangular,
    lambda c: c.lower_cholesky, lambda c: c.corr_cholesky, lambda c: c.square,
    lambda c: c.cat([c.positive, c.real], -1, [1, 2]), lambda c: c.stack([c.positive] * 3, -1),
    lambda c: c.symmetric, lambda c: c.positive_definite, lambda c: c.independent(c.positive, 2),
]
VALUES = {
    "numbers": np.array([[-2.0, -1.0, -0.5], [0.0, 0.5, 1.0], [1.5, 2.0, math.nan]]),
    "one-hot": np.eye(3),
    "simplex": np.array([[0.2, 0.3, 0.5], [0.5, 0.5, 0.5], [-0.5, 1.0, 0.5]]),
    "covariance": covariance(3),
    "indefinite": -covariance(3),
    "factors": np.linalg.cholesky(covariance(2, 3)),
    "correlation": np.array([[1.0, 0.0], [0.6, 0.8]]),
}


@pytest.mark.parametrize("make", CONSTRAINTS)
@pytest.mark.parametrize("value", VALUES)
def test_constraint(make: Callable, value: str) -> None:
    theirs, ours = make(T.constraints), make(G.constraints)
    if value == "correlation" and hasattr(ours, "cseq"):  # of three parts, not two
        with pytest.raises(ValueError):
            ours.check(gp.tensor(VALUES[value]))
        return
    assert_close(repr(ours), ours.check(gp.tensor(VALUES[value])),
                 theirs.check(torch.tensor(VALUES[value])))
    assert (ours.is_discrete, ours.event_dim) == (theirs.is_discrete, theirs.event_dim)
    assert repr(ours).split("(")[0] == repr(theirs).split("(")[0].replace(
        "IndependentConstraint", "Independent")


@pytest.mark.parametrize("make", CONSTRAINTS)
@pytest.mark.parametrize("registry", ["biject_to", "transform_to"])
def test_constraint_registry(make: Callable, registry: str) -> None:
    try:
        theirs = getattr(T, registry)(make(T.constraints))
    except NotImplementedError:
        with pytest.raises(NotImplementedError):
            getattr(G, registry)(make(G.constraints))
        return
    if "corr_cholesky" in str(make(T.constraints)).lower() or "Corr" in repr(theirs):
        return  # CorrCholeskyTransform is absent
    ours = getattr(G, registry)(make(G.constraints))
    x = np.random.default_rng(0).standard_normal((3, 3))
    assert_close(registry, ours(gp.tensor(x)), theirs(torch.tensor(x)))


# ---- composite distributions -------------------------------------------------------------------


def composites(module: Any) -> Iterator[Any]:
    convert = (lambda a: torch.tensor(a)) if module is T else gp.tensor
    loc, scale = np.linspace(-1, 1, 6).reshape(2, 3), np.linspace(0.5, 2, 3)
    normal = module.Normal(convert(loc), convert(scale))
    yield module.Independent(normal, 1)
    yield module.Independent(normal, 2)
    yield module.Independent(module.Bernoulli(convert(np.full((2, 3), 0.3))), 1)
    yield module.MixtureSameFamily(module.Categorical(convert(loc + 2)), normal)
    yield module.MixtureSameFamily(module.Categorical(convert(np.abs(loc) + 0.1)),
                                   module.Independent(module.Normal(
                                       convert(np.stack([loc, loc + 1], -1)), 1.0), 1))
    yield module.TransformedDistribution(normal, [module.TanhTransform()])
    yield module.TransformedDistribution(normal, [
        module.AffineTransform(convert(scale), convert(-scale)), module.ExpTransform()])
    yield module.TransformedDistribution(module.Independent(normal, 1), [module.ExpTransform()])
    yield module.TransformedDistribution(normal, module.StickBreakingTransform())
    yield module.TransformedDistribution(normal, [module.ReshapeTransform((2, 3), (6,))])
    yield module.TransformedDistribution(
        module.Normal(convert(np.zeros(())), 1.0), [module.AffineTransform(convert(scale), 2.0)])


@pytest.mark.parametrize("index", range(sum(1 for _ in composites(T))))
def test_composite(index: int) -> None:
    theirs = next(itertools.islice(composites(T), index, None))
    ours = next(itertools.islice(composites(G), index, None))
    assert ours.batch_shape == tuple(theirs.batch_shape)
    assert ours.event_shape == tuple(theirs.event_shape)
    assert ours.has_rsample == theirs.has_rsample
    torch.manual_seed(0)
    value = theirs.sample((4,))
    assert ours.sample((4,)).shape == tuple(value.shape)
    assert_close("log_prob", ours.log_prob(value.numpy()), theirs.log_prob(value))
    for what, arguments in (("mean", None), ("variance", None), ("mode", None), ("entropy", ()),
                            ("cdf", (value,))):
        try:
            expected = getattr(theirs, what)
            expected = expected if arguments is None else expected(*arguments)
        except NotImplementedError:
            continue
        result = getattr(ours, what)
        result = result if arguments is None else result(*(v.numpy() for v in arguments))
        assert_close(what, result, expected)
    shape = (3, *theirs.batch_shape)
    assert ours.expand(shape).batch_shape == shape
    assert ours.expand(shape).log_prob(value.numpy()[0]).shape == shape


# ---- in PyTorch's dialect ----------------------------------------------------------------------


@pytest.mark.parametrize("name, i", INSTANCES)
def test_dialect(name: str, i: int) -> None:
    """Every result of `gpuprop.torch.distributions` is a Tensor of the dialect."""
    ours = getattr(dialect.distributions, name)(**{
        k: dialect.tensor(v) if isinstance(v, np.ndarray) else v
        for k, v in CASES[name][i].items()})
    assert isinstance(ours, dialect.distributions.Distribution)
    sample = ours.sample((2,))
    assert sample.shape.numel() == 2 * ours.batch_shape.numel() * ours.event_shape.numel()
    results = [sample, ours.log_prob(sample), ours.expand((2, *ours.batch_shape)).sample()]
    for what in PROPERTIES:
        with contextlib.suppress(NotImplementedError):
            results.append(getattr(ours, what))
    with contextlib.suppress(NotImplementedError):
        results.append(ours.entropy())
    with contextlib.suppress(NotImplementedError):
        results.append(dialect.distributions.kl_divergence(ours, ours))
    results += [v for v in vars(ours).values() if isinstance(v, gp.Tensor)]
    assert {type(r) for r in results} == {dialect.Tensor}


@pytest.mark.parametrize("name", sorted({*T.__all__} - {*ABSENT["distributions"]}))
def test_modules_of_the_dialect(name: str) -> None:
    """``from torch.distributions.normal import Normal`` works for every name."""
    place = getattr(getattr(T, name), "__module__", "torch.distributions")
    if name in ("biject_to", "transform_to"):
        place = "torch.distributions.constraint_registry"
    elif name == "identity_transform":
        place = "torch.distributions.transforms"
    module = importlib.import_module(f"gpuprop.{place}")
    assert getattr(module, name) is getattr(dialect.distributions, name)


def squashed_normal(module: Any) -> list:
    """An own transform and an own distribution, as programs of reinforcement learning have them."""
    D = module.distributions

    class Tanh(D.transforms.Transform):
        domain = D.constraints.real
        codomain = D.constraints.interval(-1.0, 1.0)
        bijective = True
        sign = +1

        def __init__(self, cache_size: int = 1) -> None:
            super().__init__(cache_size=cache_size)

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Tanh)

        def _call(self, x: Any) -> Any:
            return x.tanh()

        def _inverse(self, y: Any) -> Any:
            return 0.5 * (y.log1p() - (-y).log1p())

        def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:
            return 2 * (math.log(2) - x - module.nn.functional.softplus(-2 * x))

    class SquashedNormal(D.transformed_distribution.TransformedDistribution):
        def __init__(self, loc: Any, scale: Any) -> None:
            self.loc, self.scale = loc, scale
            super().__init__(D.Normal(loc, scale), [Tanh()])

        @property
        def mean(self) -> Any:
            mu = self.loc
            for transform in self.transforms:
                mu = transform(mu)
            return mu

    class Triangular(D.Distribution):
        arg_constraints = {"width": D.constraints.positive}
        support = D.constraints.real

        def __init__(self, width: Any, validate_args: Any = None) -> None:
            self.width = width
            super().__init__(width.shape, validate_args=validate_args)

        def log_prob(self, value: Any) -> Any:
            if self._validate_args:
                self._validate_sample(value)
            return (1 - value.abs() / self.width).log() - self.width.log()

    array = lambda *values: module.tensor(np.array(values))
    squashed = SquashedNormal(array(0.1, -0.3), array(0.5, 2.0))
    own = Triangular(array(1.0, 2.0))
    assert squashed.rsample((3,)).shape == (3, 2)
    return [squashed.mean, squashed.log_prob(array(0.3, -0.9)), own.log_prob(array(0.5, -1.0))]


def policy_gradient(module: Any) -> list:
    """A step of REINFORCE with an entropy bonus, and the loss of a variational autoencoder."""
    generator = np.random.default_rng(0)
    array = lambda *shape: module.tensor(generator.standard_normal(shape))
    logits = array(5, 3).requires_grad_()
    policy = module.distributions.Categorical(logits=logits)
    action = module.tensor([0, 2, 1, 1, 0])
    reward = array(5)
    (-(policy.log_prob(action) * reward).mean() - 0.1 * policy.entropy().mean()).backward()
    loc, log_scale = array(4, 2).requires_grad_(), array(4, 2).requires_grad_()
    posterior = module.distributions.Normal(loc, log_scale.exp())
    prior = module.distributions.Normal(module.zeros_like(loc), module.ones_like(loc))
    divergence = module.distributions.kl_divergence(posterior, prior).sum(1).mean()
    divergence.backward()
    squashed = module.distributions.TransformedDistribution(
        module.distributions.Normal(loc.detach(), 1.0),
        [module.distributions.transforms.TanhTransform(cache_size=1)])
    value = module.tanh(array(4, 2))
    return [logits.grad, divergence, loc.grad, log_scale.grad, squashed.log_prob(value)]


def test_programs_agree() -> None:
    for program in (policy_gradient, squashed_normal):
        for result, expected in zip(program(dialect), program(torch), strict=True):
            assert_close(program.__name__, result, expected)


def test_difference_is_found() -> None:
    with pytest.raises(Difference):
        compare("mean", torch.ones(2, dtype=torch.float64), gp.zeros(2, dtype="float64"), {}, {})
