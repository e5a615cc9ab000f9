"""Gradient clipping, and conversion of parameters to a vector."""

import math

import numpy as np
import pytest
from stepping import GRADS, VALUES, equal, feed, make

import gpuprop
from gpuprop import Parameter, nn, optim


@pytest.mark.parametrize("norm_type", [2, 1, 3.5, math.inf, -math.inf, -1])
@pytest.mark.parametrize("arenas", ["one arena", "two arenas", "none", "some"])
def test_clipping_by_norm(backend, norm_type, arenas):
    params = make(backend)
    if arenas == "two arenas":
        optim.SGD([{"params": params[:2]}, {"params": params[2:]}])
    elif arenas != "none":
        optim.SGD(params if arenas == "one arena" else params[1:4])
    feed(params, 0, (3,))
    whole = np.concatenate([np.ravel(g) for n, g in enumerate(GRADS[0]) if n != 3])
    expected = np.linalg.norm(whole, norm_type)
    for max_norm in (2 * expected, expected / 2):
        norm = nn.utils.clip_grad_norm_(iter(params), max_norm, norm_type)
        np.testing.assert_allclose(norm.item(), expected, rtol=1e-12)
    factor = min(expected / 2 / (expected + 1e-6), 1)
    for n, p in enumerate(params):
        if n != 3:
            np.testing.assert_allclose(gpuprop.asnumpy(p.grad), GRADS[0][n] * factor, rtol=1e-12)


def test_clipping_float16_and_no_gradients(backend):
    p = Parameter(backend.asarray(np.ones(3, "float16")))
    assert nn.utils.clip_grad_norm_(p, 1.0).item() == 0
    p.grad = backend.asarray(np.full(3, 40000, "float16"))  # the squares overflow float16
    np.testing.assert_allclose(nn.utils.clip_grad_norm_(p, 1.0).item(), 40000 * 3 ** 0.5, rtol=1e-3)
    np.testing.assert_allclose(gpuprop.asnumpy(p.grad), 3 ** -0.5, rtol=1e-3)
    with pytest.raises(ValueError, match="norm_type 0"):
        nn.utils.clip_grad_norm_(p, 1.0, norm_type=0)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_non_finite_gradients_do_not_affect_the_next_step(backend, value):
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
    assert math.isfinite(nn.utils.clip_grad_norm_(params, 1.0).item())  # the padding is cleared too


def test_clipping_by_value(backend):
    params = make(backend)
    optim.SGD(params[1:])
    feed(params, 0)
    nn.utils.clip_grad_value_(params, 0.3)
    for p, g in zip(params, GRADS[0], strict=True):
        np.testing.assert_allclose(gpuprop.asnumpy(p.grad), np.clip(g, -0.3, 0.3))
    with pytest.raises(ValueError, match=r"clip_value.*-1"):
        nn.utils.clip_grad_value_(params, -1)


def test_parameters_as_a_vector(backend):
    params = make(backend)
    optimizer = optim.SGD(params, lr=1.0)
    vector = nn.utils.parameters_to_vector(params)
    np.testing.assert_array_equal(vector.numpy(), np.concatenate(list(map(np.ravel, VALUES))))
    (vector * vector).sum().backward()
    optimizer.step()
    equal(params, [-v for v in VALUES])
    arrays = [id(p.data) for p in params]
    nn.utils.vector_to_parameters(vector.detach() * 0 + 1, params)
    equal(params, list(map(np.ones_like, VALUES)))
    assert arrays == [id(p.data) for p in params]
    with pytest.raises(ValueError, match=r"shape.*elements"):
        nn.utils.vector_to_parameters(vector[1:], params)
    with pytest.raises(TypeError, match="Tensor"):
        nn.utils.vector_to_parameters(VALUES[0], params)
