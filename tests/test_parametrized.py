"""Weight and spectral normalization, and fused batch normalization."""

import copy
import pickle

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import nn, optim
from gpuprop.nn import utils
from gpuprop.nn.utils._spectral_norm import singular_vectors

NORMS = {"weight_norm": (utils.weight_norm, utils.remove_weight_norm),
         "spectral_norm": (utils.spectral_norm, utils.remove_spectral_norm)}
by_norm = pytest.mark.parametrize("name", NORMS)


def layer_and_input(name, backend):
    x = gp.Tensor(backend.asarray(np.linspace(-1, 1, 15, dtype="float32").reshape(3, 5)))
    return NORMS[name][0](nn.Linear(5, 4)), x


@by_norm
def test_training_reduces_the_loss(name, backend):
    layer, x = layer_and_input(name, backend)
    optimizer, losses = optim.SGD(layer.parameters(), lr=0.1), []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (layer(x) ** 2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(p.grad is not None for p in layer.parameters())


@by_norm
def test_captured_and_eager_steps_agree(name, backend):
    layer, x = layer_and_input(name, backend)
    layers = layer, copy.deepcopy(layer)
    ends = []
    for layer, decorator in zip(layers, (gp.capture, lambda f: f), strict=True):
        optimizer = optim.SGD(layer.parameters(), lr=0.1)

        @decorator
        def step(x, layer=layer, optimizer=optimizer):
            optimizer.zero_grad()
            loss = (layer(x) ** 2).mean()
            loss.backward()
            optimizer.step()
            return loss

        losses = [step(x).item() for _ in range(6)]
        ends.append((losses, layer.state_dict()))
    assert ends[0][0] == ends[1][0]
    for key, value in ends[0][1].items():
        np.testing.assert_array_equal(value, ends[1][1][key], err_msg=key)


@by_norm
@pytest.mark.parametrize("again", [
    copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))], ids=["copy", "pickle"])
def test_a_copy_is_independent(name, again, backend):
    layer, x = layer_and_input(name, backend)
    before = layer.eval()(x)  # gives the weight a history
    other = again(layer)
    np.testing.assert_array_equal(other.weight.numpy(), layer.weight.numpy())
    layer.bias.data[...] = 7
    for p in layer.parameters():
        p.data[...] *= 2
    (other(x) ** 2).sum().backward()
    np.testing.assert_array_equal(other(x).numpy(), before.numpy())
    assert all(p.grad is not None for p in other.parameters())
    assert all(p.grad is None for p in layer.parameters())


@by_norm
def test_removal_restores_a_parameter(name, backend):
    layer, x = layer_and_input(name, backend)
    y = layer.eval()(x).numpy()
    assert NORMS[name][1](layer) is layer
    np.testing.assert_array_equal(layer(x).numpy(), y)
    assert isinstance(layer.weight, nn.Parameter)
    assert sorted(layer.state_dict()) == ["bias", "weight"]
    assert list(layer.buffers()) == []
    NORMS[name][0](layer)  # may be applied again
    assert "weight" not in dict(layer.named_parameters())


@by_norm
def test_errors(name):
    normalize, remove = NORMS[name]
    layer = normalize(nn.Linear(3, 3))
    for second, _ in NORMS.values():
        with pytest.raises(RuntimeError, match=r"Linear\.weight .*already"):
            second(layer)
    with pytest.raises(ValueError, match=r"Linear .*no parameter 'scale'"):
        normalize(layer, "scale")
    with pytest.raises(ValueError, match=f"{name} .*'bias' not found"):
        remove(layer, "bias")
    with pytest.raises(ValueError, match=r"n_power_iterations .*at least 1.* 0"):
        utils.spectral_norm(nn.Linear(3, 3), n_power_iterations=0)


def test_a_frozen_weight_stays_frozen():
    layer = nn.Linear(3, 3).requires_grad_(False)
    utils.weight_norm(layer)
    assert not layer(gp.tensor(np.ones((2, 3), "float32"))).requires_grad


def test_spectral_norm_finds_the_largest_singular_value(backend):
    layer, x = layer_and_input("spectral_norm", backend)
    for _ in range(200):
        layer(x)
    assert np.linalg.norm(layer.weight.numpy(), 2) == pytest.approx(1, abs=1e-5)
    seen = [b.numpy() for b in layer.buffers()]
    layer.eval()(x)
    for was, b in zip(seen, layer.buffers(), strict=True):
        np.testing.assert_array_equal(b.numpy(), was)


def test_a_second_forward_does_not_change_the_first_backward(backend):
    """As for the two batches of a discriminator."""
    layer, x = layer_and_input("spectral_norm", backend)
    one = copy.deepcopy(layer)
    (one(x) ** 2).sum().backward()
    loss = (layer(x) ** 2).sum()
    layer(x)
    loss.backward()
    np.testing.assert_array_equal(gp.asnumpy(layer.weight_orig.grad),
                                  gp.asnumpy(one.weight_orig.grad))


def test_singular_vectors_change_in_place(backend):
    matrix = backend.asarray(np.diag([3.0, 1.0]))
    u = backend.asarray(np.asarray([0.6, 0.8]))
    v = backend.asarray(np.asarray([1.0, 0.0]))
    new_u, new_v = singular_vectors(matrix, u, v, 1, 1e-12)
    expected = np.array([1.8, 0.8]) / np.hypot(1.8, 0.8)
    np.testing.assert_allclose(backend.to_numpy(v), expected)
    np.testing.assert_array_equal(backend.to_numpy(new_v), backend.to_numpy(v))
    np.testing.assert_array_equal(backend.to_numpy(new_u), backend.to_numpy(u))
    assert new_u is not u and new_v is not v


def in_eval_mode(layer):
    """The layer in eval mode, with running statistics that are not the initial ones."""
    if getattr(layer, "running_mean", None) is not None:
        layer.running_mean.data[...] = 0.5
        layer.running_var.data[...] = 2.0
    return layer.eval()


@pytest.mark.parametrize("kind, options, shape", [
    ("Conv2d", {"groups": 2}, (2, 4, 5, 5)), ("ConvTranspose2d", {"bias": False}, (2, 4, 5, 5)),
    ("Linear", {}, (3, 4))])
def test_fused_layers_agree_with_two_layers(kind, options, shape, backend, rng):
    x = gp.Tensor(backend.asarray(rng.standard_normal(shape).astype("float32")))
    sizes = (4, 6) if kind == "Linear" else (4, 6, 3)
    layer = getattr(nn, kind)(*sizes, **options).eval()
    if kind == "Linear":
        bn = in_eval_mode(nn.BatchNorm1d(6))
        fused = utils.fuse_linear_bn_eval(layer, bn)
    else:
        bn = in_eval_mode(nn.BatchNorm2d(6))
        fused = utils.fuse_conv_bn_eval(layer, bn, "Transpose" in kind)
    np.testing.assert_allclose(fused(x).numpy(), bn(layer(x)).numpy(), rtol=1e-5, atol=1e-6)
    assert type(fused) is type(layer) and fused is not layer


def test_fusion_errors():
    bn = in_eval_mode(nn.BatchNorm2d(6))
    untracked = nn.BatchNorm2d(6, track_running_stats=False).eval()
    conv = in_eval_mode(nn.Conv2d(3, 6, 3))
    transposed = in_eval_mode(nn.ConvTranspose2d(4, 6, 3, groups=2))
    linear = in_eval_mode(nn.Linear(3, 6))
    with pytest.raises(ValueError, match="eval mode"):
        utils.fuse_conv_bn_eval(nn.Conv2d(3, 6, 3), bn)
    with pytest.raises(ValueError, match="no running statistics"):
        utils.fuse_conv_bn_eval(conv, untracked)
    with pytest.raises(ValueError, match="groups=1"):
        utils.fuse_conv_bn_eval(transposed, bn, True)
    with pytest.raises(ValueError, match=r"6 outputs.* 5"):
        utils.fuse_linear_bn_eval(linear, in_eval_mode(nn.BatchNorm1d(5)))
