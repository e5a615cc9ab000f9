"""Parameters of several shapes with known gradients, and helpers that step optimizers."""

import numpy as np

import gpuprop
from gpuprop import Parameter
from gpuprop._core.arena import Arena
from gpuprop._core.registry import backend_of

SHAPES = [(3,), (2, 2), (), (0,), (1, 70)]
random = np.random.default_rng(0)
VALUES = [random.standard_normal(s) for s in SHAPES]
GRADS = [[random.standard_normal(s) for s in SHAPES] for _ in range(6)]


def make(backend, dtype="float64", values=VALUES, rule=""):
    """Parameters for the optimizer named `rule`: Muon takes matrices only."""
    values = [matrix(v) if rule == "Muon" else v for v in values]
    return [Parameter(backend.asarray(v.astype(dtype))) for v in values]


def matrix(v):
    return v if v.ndim == 2 else v.reshape(-1, 1)


def feed(params, i, skip=(), scale=1.0):
    """Backward through one product per parameter, so that its gradient is that of step `i`."""
    for n, p in enumerate(params):
        if n not in skip:
            g = backend_of(p.data).asarray((scale * GRADS[i][n]).reshape(p.shape).astype(p.dtype))
            (p * gpuprop.Tensor(g)).sum().backward()


def steps(optimizer, params, numbers, skip=()):
    for i in numbers:
        optimizer.zero_grad()
        feed(params, i, skip)
        optimizer.step()


def host(arrays):
    return [gpuprop.asnumpy(a).astype("float64") for a in arrays]


def equal(params, values, rtol=1e-12):
    for p, v in zip(params, values, strict=True):
        actual = gpuprop.asnumpy(p).astype("float64")
        np.testing.assert_allclose(actual, v, rtol=rtol, atol=rtol)


def arena(optimizer, group=0) -> Arena:
    (found,) = optimizer.param_groups[group].arenas
    return found


def frozen(value):
    """A value that is equal only for equal bits."""
    if isinstance(value, dict):
        return {k: frozen(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [frozen(v) for v in value]
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    return type(value), repr(value)
