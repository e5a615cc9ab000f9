"""Gradients clipped as a whole, and parameters as a vector."""

import math

import numpy as np
import pytest
from stepping import GRADS, VALUES, equal, feed, make

import gpuprop
from gpuprop import Parameter, nn, optim


@pytest.mark.parametrize("norm_type", [2, 1, 3.5, math.inf, -math.inf, -1])
@pytest.mark.parametrize("homes", ["one arena", "two arenas", "none", "some"])
def test_clipping_by_norm(backend, norm_type, homes):
    params = make(backend)
    if homes == "two arenas":
        optim.SGD([{"params": params[:2]}, {"params": params[2:]}])
    elif homes != "none":
        optim.SGD(params if homes == "one arena" else params[1:4])
    feed(params, 0, (3,))
    whole = np.concatenate([np.ravel(g) for n, g in enumerate(GRADS[0]) if n != 3])
    expected = np.linalg.norm(whole, norm_type)
    for max_norm in (2 * expected, expected / 2):
        norm = nn.utils.clip_grad_norm_(iter(params), max_norm, norm_type)
        np.testing.assert_allclose(norm.item(), expected, rtol=1e-12)
    share = min(expected / 2 / (expected + 1e-6), 1)
    for n, p in enumerate(params):
        if n != 3:
            np.testing.assert_allclose(gpuprop.asnumpy(p.grad), GRADS[0][n] * share, rtol=1e-12)


def test_clipping_low_precision_and_nothing(backend):
    p = Parameter(backend.asarray(np.ones(3, "float16")))
    assert nn.utils.clip_grad_norm_(p, 1.0).item() == 0
    p.grad = backend.asarray(np.full(3, 40000, "float16"))  # whose squares float16 cannot hold
    np.testing.assert_allclose(nn.utils.clip_grad_norm_(p, 1.0).item(), 40000 * 3 ** 0.5, rtol=1e-3)
    np.testing.assert_allclose(gpuprop.asnumpy(p.grad), 3 ** -0.5, rtol=1e-3)
    with pytest.raises(ValueError):
        nn.utils.clip_grad_norm_(p, 1.0, norm_type=0)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_clipping_what_is_not_finite_leaves_no_trace(backend, value):
    params = make(backend)
    optimizer = optim.SGD(params, lr=1.0)
    feed(params, 0)
    params[0].grad[...] = value
    with pytest.raises(RuntimeError, match="non-finite"):
        nn.utils.clip_grad_norm_(params, 1.0, error_if_nonfinite=True)
    with np.errstate(invalid="ignore"):
        nn.utils.clip_grad_norm_(params, 1.0)
    assert np.isnan(gpuprop.asnumpy(params[0].grad)).all()
    optimizer.zero_grad()
    feed(params, 1)
    assert math.isfinite(nn.utils.clip_grad_norm_(params, 1.0).item())  # the padding, too, is clean


def test_clipping_by_value(backend):
    params = make(backend)
    optim.SGD(params[1:])
    feed(params, 0)
    nn.utils.clip_grad_value_(params, 0.3)
    for p, g in zip(params, GRADS[0], strict=True):
        np.testing.assert_allclose(gpuprop.asnumpy(p.grad), np.clip(g, -0.3, 0.3))
    with pytest.raises(ValueError):
        nn.utils.clip_grad_value_(params, -1)


def test_parameters_as_a_vector(backend):
    params = make(backend)
    optimizer = optim.SGD(params, lr=1.0)
    vector = nn.utils.parameters_to_vector(params)
    np.testing.assert_array_equal(vector.numpy(), np.concatenate(list(map(np.ravel, VALUES))))
    (vector * vector).sum().backward()
    optimizer.step()
    equal(params, [-v for v in VALUES])
    homes = [id(p.data) for p in params]
    nn.utils.vector_to_parameters(vector.detach() * 0 + 1, params)
    equal(params, list(map(np.ones_like, VALUES)))
    assert homes == [id(p.data) for p in params]
    with pytest.raises(ValueError, match="elements"):
        nn.utils.vector_to_parameters(vector[1:], params)
    with pytest.raises(TypeError):
        nn.utils.vector_to_parameters(VALUES[0], params)
