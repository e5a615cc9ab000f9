"""Normalization layers: values, running statistics, names, reprs and errors; dropout variants."""

import copy

import numpy as np
import pytest

import gpuprop as gp
import gpuprop.functional as F
from gpuprop import nn, optim

DRAW = np.random.default_rng(0).standard_normal


def batch(*shape, dtype="float32"):
    return gp.tensor(DRAW(shape).astype(dtype) * 3 + 2)


class TestStatistics:
    def test_train_mode_uses_and_updates_batch_statistics(self, backend):
        layer, x = nn.BatchNorm2d(3), batch(4, 3, 5, 2)
        y, host = layer(x).numpy(), x.numpy()
        np.testing.assert_allclose(y.mean(axis=(0, 2, 3)), 0, atol=1e-6)
        np.testing.assert_allclose(y.var(axis=(0, 2, 3)), 1, atol=1e-4)
        mean = host.mean(axis=(0, 2, 3))
        np.testing.assert_allclose(layer.running_mean.numpy(), 0.1 * mean, rtol=1e-5)
        variance = host.var(axis=(0, 2, 3), ddof=1)
        np.testing.assert_allclose(layer.running_var.numpy(), 0.9 + 0.1 * variance, rtol=1e-5)
        assert layer.num_batches_tracked.numpy() == 1 and layer.running_mean.dtype == "float32"

    def test_eval_mode_uses_running_statistics_unchanged(self, backend):
        layer, x = nn.BatchNorm1d(3, affine=False).eval(), batch(4, 3)
        layer.running_mean.data[...] = 1
        layer.running_var.data[...] = 4
        before = layer.state_dict()
        np.testing.assert_allclose(layer(x).numpy(), (x.numpy() - 1) / 2, rtol=1e-4, atol=1e-5)
        assert all((layer.state_dict()[k] == v).all() for k, v in before.items())

    def test_buffers_are_updated_in_place(self, backend):
        layer = nn.BatchNorm1d(3)
        arrays = [b.data for b in layer.buffers()]
        layer(batch(4, 3))
        assert all(b.data is a for b, a in zip(layer.buffers(), arrays, strict=True))

    def test_momentum_none_averages_all_batches(self, backend):
        layer = nn.BatchNorm1d(3, momentum=None)
        batches = [batch(4, 3) for _ in range(3)]
        for x in batches:
            layer(x)
        means = np.mean([x.numpy().mean(axis=0) for x in batches], axis=0)
        np.testing.assert_allclose(layer.running_mean.numpy(), means, rtol=1e-5)
        layer.reset_running_stats()
        assert (layer.running_mean.numpy() == 0).all() and layer.num_batches_tracked.numpy() == 0

    def test_without_running_statistics_eval_mode_uses_the_batch(self, backend):
        layer, x = nn.BatchNorm1d(3, track_running_stats=False), batch(4, 3)
        assert [*layer.state_dict()] == ["weight", "bias"]
        np.testing.assert_array_equal(layer(x).numpy(), layer.eval()(x).numpy())

    def test_no_grad_updates_running_statistics_too(self, backend):
        layer, x = nn.BatchNorm1d(3), batch(4, 3)
        other = copy.deepcopy(layer)
        layer(x).sum().backward()
        with gp.no_grad():
            other(x)
        np.testing.assert_array_equal(layer.running_var.numpy(), other.running_var.numpy())

    def test_empty_batch_updates_nothing(self, backend):
        layer = nn.BatchNorm2d(3)
        assert layer(gp.zeros((0, 3, 2, 2))).shape == (0, 3, 2, 2)
        assert (layer.running_mean.numpy() == 0).all()
        assert (layer.running_var.numpy() == 1).all()

    def test_instance_norm_averages_over_samples(self, backend):
        layer, x = nn.InstanceNorm1d(3, track_running_stats=True), batch(4, 3, 6)
        layer(x)
        host = x.numpy()
        mean = host.mean(axis=(0, 2))
        np.testing.assert_allclose(layer.running_mean.numpy(), 0.1 * mean, rtol=1e-5)
        variance = host.var(axis=2, ddof=1).mean(axis=0)
        np.testing.assert_allclose(layer.running_var.numpy(), 0.9 + 0.1 * variance, rtol=1e-5)
        assert layer.num_batches_tracked.numpy() == 0  # as in PyTorch

    def test_captured_step_updates_running_statistics(self, backend):
        norm = nn.BatchNorm1d(4, momentum=None)
        model = nn.Sequential(nn.Linear(3, 4), norm, nn.Linear(4, 1))
        captured_model = copy.deepcopy(model)

        def stepper(m):
            opt = optim.SGD(m.parameters(), lr=0.1)

            def step(x):
                opt.zero_grad()
                loss = (m(x) ** 2).mean()
                loss.backward()
                opt.step()
                return loss
            return step

        eager, captured = stepper(model), gp.capture(stepper(captured_model))
        for _ in range(5):
            x = batch(4, 3)
            eager(x)
            captured(x)
        state = captured_model.state_dict()
        for name, value in model.state_dict().items():
            np.testing.assert_allclose(state[name], value, rtol=1e-6, atol=1e-7, err_msg=name)


NAMES = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]


@pytest.mark.parametrize(("layer", "names"), [
    (nn.BatchNorm2d(3), NAMES),
    (nn.BatchNorm1d(3, affine=False), NAMES[2:]),
    (nn.BatchNorm1d(3, bias=False), [NAMES[0], *NAMES[2:]]),
    (nn.InstanceNorm2d(3), []),
    (nn.InstanceNorm3d(3, affine=True), NAMES[:2]),
    (nn.LayerNorm(3), NAMES[:2]),
    (nn.LayerNorm(3, bias=False), NAMES[:1]),
    (nn.LayerNorm(3, elementwise_affine=False), []),
    (nn.GroupNorm(1, 3), NAMES[:2]),
    (nn.RMSNorm(3), NAMES[:1]),
    (nn.LocalResponseNorm(3), []),
])
def test_state_dict_names_are_those_of_pytorch(layer, names):
    assert [*layer.state_dict()] == names


def test_repr():
    options = "eps=1e-05, momentum=0.1, affine=True, track_running_stats=True"
    assert repr(nn.BatchNorm2d(3)) == f"BatchNorm2d(3, {options})"
    assert repr(nn.LayerNorm(3)) == "LayerNorm((3,), eps=1e-05, elementwise_affine=True)"
    assert repr(nn.AlphaDropout(0.2)) == "AlphaDropout(p=0.2)"


def test_reset_parameters():
    layer = nn.BatchNorm1d(2)
    layer.weight.data[...] = 5
    layer(batch(4, 2))
    layer.reset_parameters()
    assert (layer.weight.data == 1).all() and (layer.running_var.data == 1).all()


def test_large_mean_keeps_variance_accurate():
    x = DRAW((64, 3)).astype("float32") + 1e4
    exact = (x.astype("float64") - x.mean(axis=0, dtype="float64")) / x.std(axis=0, dtype="float64")
    for y in F.layer_norm(x.T, 64).T, F.batch_norm(x, None, None, training=True):
        np.testing.assert_allclose(y, exact, atol=5e-3)  # float32 resolves the mean to 1e-3


ERRORS = [
    (lambda: nn.BatchNorm2d(3)(batch(2, 3)), r"BatchNorm2d: .*\(2, 3\)"),
    (lambda: nn.BatchNorm1d(3)(batch(2, 4)), r"weight .*per channel.*\(4,\).* got \(3,\)"),
    (lambda: nn.BatchNorm1d(3)(batch(1, 3)), r"more than one value per channel.*input \(1, 3\)"),
    (lambda: nn.BatchNorm1d(3, eps=0.0)(batch(2, 3)), "eps must be positive, got 0.0"),
    (lambda: F.batch_norm(batch(2, 3), None, None), "running_mean and running_var are required"),
    (lambda: F.layer_norm(batch(2, 3), 4), r"input \(2, 3\) .*normalized_shape=\(4,\)"),
    (lambda: F.layer_norm(batch(2, 3), 3, batch(2)),
     r"weight .*normalized_shape=\(3,\), got \(2,\)"),
    (lambda: F.rms_norm(batch(2, 3), ()), "normalized_shape"),
    (lambda: nn.GroupNorm(2, 3), "num_channels=3 .*num_groups=2"),
    (lambda: F.group_norm(batch(2, 3, 4), 2), "C divisible by num_groups=2"),
    (lambda: nn.InstanceNorm1d(3)(batch(2, 3, 1)), "more than one value per channel"),
    (lambda: nn.InstanceNorm1d(3, affine=True)(batch(2, 4, 2)), "4 channels.*3"),
    (lambda: F.local_response_norm(batch(2, 3), 2), r"3 axes or more, got \(2, 3\)"),
    (lambda: F.local_response_norm(batch(2, 3, 4), 0), "size .*at least 1, got 0"),
    (lambda: nn.Dropout2d(1.5), r"Dropout2d: p .*\[0, 1\].* 1.5"),
    (lambda: F.dropout3d(batch(2, 3), 0.5), "dropout3d: .*4 or 5.* 2"),
    (lambda: F.alpha_dropout(batch(2, 3), 2.0, True), "alpha_dropout: .*probability.* 2.0"),
    (lambda: F.feature_alpha_dropout(batch(3), 0.5, True), r"\(N, C, ...\).* \(3,\)"),
    (lambda: nn.Softmax2d()(batch(2, 3)), r"Softmax2d: .*\(2, 3\)"),
]


@pytest.mark.parametrize(("call", "text"), ERRORS, ids=range(len(ERRORS)))
def test_errors(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_input_and_weight_need_one_dtype():
    for layer in nn.LayerNorm(3), nn.BatchNorm1d(3), nn.BatchNorm1d(3).eval():
        with pytest.raises(TypeError, match=r"input .*float64.* weight .*float32"):
            layer(batch(2, 3, dtype="float64"))


class TestDropout:
    @pytest.mark.parametrize(("layer", "shape"), [
        (nn.Dropout1d(0.4), (40, 30, 2)),
        (nn.Dropout2d(0.4), (40, 30, 2, 2)),
        (nn.Dropout2d(0.4), (1200, 2, 2)),
        (nn.Dropout3d(0.4), (40, 30, 2, 1, 2)),
    ])
    def test_whole_channels_are_dropped(self, backend, layer, shape):
        x = gp.ones(shape)
        x.requires_grad = True
        y = layer(x)
        y.sum().backward()
        flat = y.numpy().reshape(1200, -1)
        assert (flat == flat[:, :1]).all() and set(np.unique(flat)) == {0, np.float32(1 / 0.6)}
        assert abs((flat[:, 0] == 0).mean() - 0.4) < 0.05
        np.testing.assert_array_equal(gp.asnumpy(x.grad), y.numpy())
        assert layer.eval()(x) is x
        layer.train()

    @pytest.mark.parametrize("f", [F.alpha_dropout, F.feature_alpha_dropout])
    def test_mean_and_variance_are_kept(self, backend, f):
        y = f(gp.tensor(DRAW((200, 200, 2))), 0.3, True).numpy()
        assert abs(y.mean()) < 0.02 and abs(y.var() - 1) < 0.03

    def test_probabilities_zero_and_one(self):
        x = batch(3, 4)
        assert (F.alpha_dropout(x, 1.0, True).numpy() == 0).all()
        assert (F.dropout1d(x, 1.0).numpy() == 0).all()
        assert F.alpha_dropout(x, 0.0, True) is x
        assert F.alpha_dropout(x) is x
