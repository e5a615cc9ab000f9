"""gpuprop.functional beyond the rows of ops: kinks, extreme values, errors and random numbers."""

import math
import weakref

import numpy as np
import pytest

import gpuprop as gp
import gpuprop.functional as F
from gpuprop import nn

Generator = gp.random.Generator


def gradient(f, values, *args, **kwargs):
    x = gp.tensor(np.array(values, "float64"), requires_grad=True)
    f(x, *args, **kwargs).sum().backward()
    return gp.asnumpy(x.grad)


# ---- activations ---------------------------------------------------------------------------------

KINKS = [  # PyTorch 2.13's gradients
    (F.relu, (), [-0.0, 0.0], [0, 0]),
    (F.threshold, (0.5, 9.0), [0.5], [0]),
    (F.hardtanh, (), [-1.0, 1.0], [0, 0]),
    (F.relu6, (), [0.0, 6.0], [0, 0]),
    (F.hardswish, (), [-3.0, 0.0, 3.0], [0, 0.5, 1]),
    (F.hardsigmoid, (), [-3.0, 3.0], [0, 0]),
    (F.hardshrink, (), [-0.5, 0.5], [0, 0]),
    (F.softshrink, (), [-0.5, 0.0, 0.5], [0, 0, 0]),
    (F.leaky_relu, (), [-0.0, 0.0], [0.01, 0.01]),
    (F.rrelu, (), [0.0], [11 / 48]),
    (F.elu, (2.0,), [0.0], [2]),
    (F.celu, (2.0,), [0.0], [1]),
    (F.selu, (), [0.0], [1.7580993408473766]),
    (F.softsign, (), [0.0], [1]),
    (F.mish, (), [0.0], [0.6]),
    (F.softplus, (2.0, 20.0), [10.0], [1 - math.exp(-20)]),
    (F.softplus, (2.0, 20.0), [10.1], [1]),
]


@pytest.mark.parametrize(("f", "options", "at", "expected"), KINKS,
                         ids=[f.__name__ for f, *_ in KINKS])
def test_gradients_at_kinks_are_pytorchs(backend, f, options, at, expected):
    np.testing.assert_allclose(gradient(f, at, *options), expected, rtol=1e-12)


def test_gradients_of_prelu_at_the_kink(backend):
    x = gp.tensor(np.array([0.0, -2.0]), requires_grad=True)
    w = gp.tensor(np.array([0.25]), requires_grad=True)
    F.prelu(x, w).sum().backward()
    assert (gp.asnumpy(x.grad) == 0.25).all() and w.grad[0] == -2


ACTIVATIONS = [
    F.relu, F.relu6, F.leaky_relu, F.hardswish, F.elu, F.celu, F.selu, F.gelu,
    lambda x: F.gelu(x, "tanh"), F.silu, F.mish, F.softplus, F.logsigmoid, F.sigmoid, F.tanh,
    F.softsign, F.tanhshrink, F.hardshrink, F.softshrink, F.rrelu, lambda x: F.softmax(x, 0),
    lambda x: F.log_softmax(x, 0), lambda x: F.softmin(x, 0), lambda x: F.normalize(x, dim=0),
]


@pytest.mark.parametrize("f", ACTIVATIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_extreme_values_give_finite_results_without_warnings(f, dtype):
    values = [-1e10, -1e4, -90.0, -1e-30, 0.0, 1e-30, 90.0, 1e4, 1e10]
    x = gp.tensor(np.array(values, dtype), requires_grad=True)
    y = f(x)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == dtype
    assert np.isfinite(y.numpy()).all() and np.isfinite(x.grad).all()


def test_tails_are_accurate():
    np.testing.assert_allclose(F.logsigmoid(np.array([-50.0, 50.0])), [-50, -math.exp(-50)])
    np.testing.assert_allclose(F.softplus(np.array([-50.0, 19.0])),
                               [math.exp(-50), 19 + math.exp(-19)])
    np.testing.assert_allclose(F.log_softmax(np.array([0.0, 1e4]), 0), [-1e4, 0])
    assert F.elu(np.array([-1e-12]))[0] == math.expm1(-1e-12)


def test_nan_propagates():
    for f in ACTIVATIONS:
        assert np.isnan(gp.asnumpy(f(np.array([np.nan])))).all(), f


def test_relu_keeps_its_output_but_not_its_input():
    x = gp.tensor(np.ones(3), requires_grad=True) * 2
    input_array = weakref.ref(x.data)
    y = F.relu(x)
    del x
    assert input_array() is None and y.requires_grad


def test_softmax_casts_to_dtype_first():
    x = gp.tensor(np.ones(3, "float16"), requires_grad=True)
    y = F.softmax(x, 0, dtype="float64")
    y.sum().backward()
    assert y.dtype == "float64" and x.grad.dtype == "float16"


@pytest.mark.parametrize(("shape", "dim"), [((2, 3), 1), ((2, 3, 4), 0), ((3,), 0)])
def test_softmax_without_dim_warns_and_uses_pytorchs_choice(shape, dim):
    x = np.random.default_rng(0).standard_normal(shape)
    with pytest.warns(UserWarning, match=f"softmax: .*dim={dim}"):
        y = F.softmax(x)
    np.testing.assert_array_equal(y, F.softmax(x, dim))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("f", [
    F.softmax, F.softmin, F.log_softmax, nn.Softmax(), nn.Softmin(), lambda x: x.softmax(),
    lambda x: F.softmax(x, dtype="float64")])
def test_softmax_without_dim_warns_at_the_callers_line(f, dtype):
    x = gp.tensor(np.ones((2, 3), dtype), requires_grad=True)
    with pytest.warns(UserWarning, match="dim=1") as caught:
        f(x)
    assert [w.filename for w in caught] == [__file__]


def test_inplace_has_no_effect():
    for f in (F.relu, F.relu6, F.hardtanh, F.hardswish, F.hardsigmoid, F.elu, F.selu, F.celu,
              F.leaky_relu, F.rrelu, F.silu, F.mish):
        x = np.array([-1.0, 1.0])
        np.testing.assert_array_equal(f(x, inplace=True), f(x))
        assert x[0] == -1


def test_names_of_in_place_functions_raise():
    with pytest.raises(AttributeError, match=r"in place.*use relu"):
        F.relu_  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'nonsense_'"):
        F.nonsense_  # noqa: B018


def test_star_import_and_dir_have_the_public_functions():
    names = {}
    exec("from gpuprop.functional import *", names)
    del names["__builtins__"]
    assert [*names] == F.__all__ == dir(F) == sorted(names)
    assert all(callable(f) and f.__doc__ for f in names.values())


@pytest.mark.parametrize(("f", "arguments", "name"), [
    (F.leaky_relu, (), "leaky_relu"), (F.elu, (), "elu"), (F.relu6, (), "hardtanh"),
    (F.dropout, (), "dropout"), (F.nll_loss, (np.array([0, 1]), None, -100, "none"), "nll_loss"),
    (F.cross_entropy, (np.array([0, 1]), None, -100, "none"), "cross_entropy")])
def test_nodes_have_the_names_of_public_functions(f, arguments, name):
    x = gp.tensor(np.ones((2, 3)), requires_grad=True)
    assert f(x, *arguments).node.name == name


def test_errors_name_the_public_function():
    with pytest.raises(TypeError, match=r"leaky_relu\(\): input must be"):
        F.leaky_relu([1.0])


ERRORS = [
    (lambda x: F.hardtanh(x, 1, 0), ValueError, "hardtanh: min_val 1.*max_val 0"),
    (lambda x: F.softshrink(x, -1), ValueError, "lambd.*negative.*-1"),
    (lambda x: F.rrelu(x, 0.5, 0.25), ValueError, "lower 0.5.*upper 0.25"),
    (lambda x: F.gelu(x, "exact"), ValueError, "'none' or 'tanh'.*'exact'"),
    (lambda x: F.glu(x, 0), ValueError, r"axis 0.*\(3, 4\).*even"),
    (lambda x: F.prelu(x, np.ones(3)), ValueError, r"weight.*\(4,\).*\(3,\)"),
    (lambda x: F.dropout(x, 1.5), ValueError, "dropout: .*probability.*1.5"),
    (lambda x: F.linear(x, np.ones((2, 5))), ValueError,
     r"linear: input \(3, 4\) has 4 features.*\(2, 5\) takes 5"),
    (lambda x: F.bilinear(x, x, np.ones((2, 4, 5))), ValueError,
     r"\(3, 4\) and .*\(3, 4\).*weight \(2, 4, 5\)"),
    (lambda x: F.linear(x, np.ones((2, 4), "float32")), TypeError,
     r"float64 .*float32: use input.astype\('float32'\) or model.to\(dtype='float64'\)"),
    (lambda x: F.linear(x.astype("int64"), np.ones((2, 4), "float32")), TypeError,
     r"use input.astype\('float32'\)$"),
    (lambda x: F.linear(x, np.ones((2, 4)), np.ones(2, "float32")), TypeError,
     "input is float64.*weight is float32"),
    (lambda x: F.bilinear(x, x, np.ones((2, 4, 4), "float32")), TypeError,
     "bilinear: input is float64"),
    (lambda x: F.mse_loss(x, x[:, :1]), ValueError,
     r"input \(3, 4\).*target \(3, 1\).*same shape"),
    (lambda x: F.mse_loss(x.astype("float32"), x), TypeError, r"use target.astype\('float32'\)"),
    (lambda x: F.mse_loss(x, x, weight=x[:, :1]), ValueError, r"\(3, 4\).*weight \(3, 1\)"),
    (lambda x: F.binary_cross_entropy_with_logits(*(2 * [x.astype("float32")]), pos_weight=x),
     TypeError, r"pos_weight float64: use pos_weight.astype\('float32'\)"),
    (lambda x: F.mse_loss(x, x, "avg"), ValueError, "reduction.*'none', 'mean' or 'sum'.*'avg'"),
    (lambda x: F.cross_entropy(x, np.zeros(3, int), reduction="batchmean"), ValueError,
     "reduction.*'batchmean'"),
    (lambda x: F.huber_loss(x, x, delta=0), ValueError, r"delta.*\(0, inf\)"),
    (lambda x: F.smooth_l1_loss(x, x, beta=-1), ValueError, "beta.*negative"),
    (lambda x: F.cross_entropy(x, np.zeros(4, int)), ValueError,
     r"target.*\(3,\).*input \(3, 4\).*got \(4,\)"),
    (lambda x: F.cross_entropy(x, np.zeros(3)), TypeError, "target.*integer labels.*float64"),
    (lambda x: F.nll_loss(x, np.zeros(3, bool)), TypeError, "nll_loss: target.*labels.*bool"),
    (lambda x: F.cross_entropy(x, np.zeros((3, 4), int)), TypeError, "probabilities.*int64"),
    (lambda x: F.cross_entropy(x, x, ignore_index=2), TypeError, "probabilities.*ignore_index=2"),
    (lambda x: F.cross_entropy(x, np.zeros(3, int), np.ones(3)), ValueError,
     r"weight.*\(4,\), one per class.*\(3,\)"),
    (lambda x: F.cross_entropy(x, np.zeros(3, int), label_smoothing=2), ValueError,
     r"label_smoothing.*\[0, 1\].*2"),
    (lambda x: F.gaussian_nll_loss(x, x, np.ones(4)), ValueError, r"var \(4,\).*\(3, 4\)"),
    (lambda x: F.multi_margin_loss(x, np.zeros(3, int), 3), ValueError, "p .*1 or 2.*3"),
    (lambda x: F.triplet_margin_loss(x, x, x, 0), ValueError, "margin.*positive"),
    (lambda x: F.cosine_embedding_loss(x, x, np.ones(4)), ValueError, r"target.*\(4,\)"),
    (lambda x: F.one_hot(x), TypeError, "integer labels.*float64"),
    (lambda x: F.one_hot(np.zeros(0, int)), ValueError, "empty.*num_classes"),
]


@pytest.mark.parametrize(("call", "error", "message"), ERRORS, ids=[m for _, _, m in ERRORS])
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call(np.ones((3, 4)))


# ---- losses --------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", [-1, 4, 100])
@pytest.mark.parametrize("loss", [F.cross_entropy, F.nll_loss, F.multi_margin_loss])
def test_labels_out_of_range(backend, loss, label):
    x, y = gp.tensor(np.zeros((2, 4))), gp.tensor(np.array([1, label]))
    with pytest.raises(IndexError, match=f"{loss.__name__}: label out of range.* < 4"):
        loss(x, y).item()


@pytest.mark.parametrize("call", [
    lambda: F.one_hot(gp.tensor([3]), 3),
    lambda: F.multilabel_margin_loss(gp.ones((2, 3)), gp.tensor([[0, -1, -1], [3, -1, -1]]))])
def test_labels_out_of_range_without_ignore_index(backend, call):
    with pytest.raises(IndexError, match=r"label out of range: .* label < 3(, got 3.*)?$"):
        call().numpy()


def test_message_of_labels_out_of_range_has_ignore_index(backend):
    with pytest.raises(IndexError, match=r"0 <= label < 4 or label == 7 \(ignore_index\)"):
        F.cross_entropy(gp.ones((1, 4)), gp.tensor([-100]), ignore_index=7).item()


def test_inputs_out_of_range(backend):
    with pytest.raises(IndexError, match=r"input.*between 0 and 1"):
        F.binary_cross_entropy(gp.tensor([0.5, 1.5]), gp.tensor([0.0, 1.0])).item()
    with pytest.raises(IndexError, match=r"var.*negative"):
        F.gaussian_nll_loss(gp.tensor([1.0]), gp.tensor([1.0]), gp.tensor([-1.0])).item()


def test_losses_of_extreme_logits_are_finite_without_warnings():
    for dtype in ("float32", "float64"):
        logits = [[1e4, -1e4, 0], [-1e4, 1e4, 90], [1e10, -1e10, 1e-30]]
        x = gp.tensor(np.array(logits, dtype), requires_grad=True)
        for target in (np.array([0, 0, 1]), np.full((3, 3), 1 / 3, dtype)):
            for smoothing in (0.0, 0.1):
                F.cross_entropy(x, target, label_smoothing=smoothing).backward()
        ones = np.ones((3, 3), dtype)
        for t in (0, 1):
            F.binary_cross_entropy_with_logits(x, t * ones, pos_weight=2 * ones).backward()
            F.soft_margin_loss(x, 2 * t * ones - 1).backward()
            F.multilabel_soft_margin_loss(x, t * ones).backward()
        for loss in (F.l1_loss, F.smooth_l1_loss, F.huber_loss):
            loss(x, ones).backward()
        assert x.grad.dtype == dtype and np.isfinite(x.grad).all()


def test_logarithms_are_clamped_to_minus_100():
    for dtype in ("float32", "float64"):
        x = gp.tensor(np.array([0, 1, 0, 1], dtype), requires_grad=True)
        loss = F.binary_cross_entropy(x, np.array([0, 1, 1, 0]), reduction="none")
        assert loss.tolist() == [0, 0, 100, 100] and loss.dtype == dtype
        loss.sum().backward()
        np.testing.assert_allclose(x.grad, [0, 0, -1e12, 1e12])


def test_masked_classes(backend):
    """A class with logit -inf has probability 0 and gradient 0."""
    x = gp.tensor(np.array([[0.0, -np.inf, 0.0], [0.0, 1.0, -np.inf]]), requires_grad=True)
    loss = F.cross_entropy(x, gp.tensor(np.array([0, -100])))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    np.testing.assert_allclose(gp.asnumpy(x.grad), [[-0.5, 0, 0.5], [0, 0, 0]])


@pytest.mark.parametrize("weight", [None, np.array([1.0, 2.0])])
@pytest.mark.parametrize("loss", [F.cross_entropy, F.nll_loss])
def test_if_all_labels_are_ignored_the_loss_is_nan_and_the_gradient_0(backend, loss, weight):
    x = gp.tensor(np.zeros((3, 2)), requires_grad=True)
    y = loss(x, gp.tensor(np.full(3, -100)), weight if weight is None else gp.tensor(weight))
    y.backward()
    assert math.isnan(y.item()) and not gp.asnumpy(x.grad).any()


def test_the_mean_of_no_elements_is_nan(backend):
    empty = gp.tensor(np.zeros((0, 3)))
    assert math.isnan(F.mse_loss(empty, empty).item())
    assert math.isnan(F.cross_entropy(empty, gp.tensor(np.zeros(0, int))).item())


def test_gradients_of_losses_at_kinks_are_pytorchs():
    zeros, one = np.zeros(2), np.array([1.0, -1.0])
    assert gradient(F.l1_loss, zeros, zeros).tolist() == [0, 0]
    assert gradient(F.huber_loss, one, zeros, "sum").tolist() == [1, -1]
    assert gradient(F.hinge_embedding_loss, [1.0, 1.0], one, reduction="sum").tolist() == [1, -1]
    ranking = lambda x: F.margin_ranking_loss(x, zeros, one, reduction="sum")
    assert gradient(ranking, zeros).tolist() == [-1, 1]
    assert gradient(F.pairwise_distance, zeros, zeros, eps=0).tolist() == [0, 0]
    assert gradient(lambda x: F.normalize(x, dim=0), zeros).tolist() == [1e12, 1e12]


def test_integer_targets_do_not_widen_the_dtype():
    x = np.full((2, 3), 0.5, "float32")
    for loss in (F.mse_loss, F.l1_loss, F.binary_cross_entropy,
                 F.binary_cross_entropy_with_logits, F.kl_div, F.poisson_nll_loss):
        for dtype in ("int64", "uint8", "bool"):
            assert loss(x, np.ones((2, 3), dtype)).dtype == "float32"


def test_plain_arrays_give_plain_arrays():
    x, y = np.ones((2, 3)), np.array([0, 1])
    for out in (F.cross_entropy(x, y), F.cross_entropy(x, x), F.mse_loss(x, x), F.normalize(x),
                F.dropout(x), F.triplet_margin_loss(x, x, x)):
        assert type(out) is np.ndarray and out.dtype == "float64"
    assert isinstance(F.mse_loss(x, gp.tensor(x)), gp.Tensor)


def test_one_hot_counts_the_classes(backend):
    y = F.one_hot(gp.tensor(np.array([[0, 2], [1, 0]])))
    assert y.dtype == "int64" and y.tolist() == [[[1, 0, 0], [0, 0, 1]], [[0, 1, 0], [1, 0, 0]]]


def test_autocast():
    x, w = gp.tensor(np.ones((2, 3), "f")), gp.tensor(np.ones((4, 3), "f"))
    y = gp.tensor(np.array([0, 3]))
    with gp.autocast():
        logits = F.linear(x, w)
        product = F.bilinear(logits, logits, gp.tensor(np.ones((2, 4, 4), "f")))
        assert logits.dtype == product.dtype == F.relu(logits).dtype == "float16"
        squares = F.mse_loss(logits, gp.tensor(np.ones((2, 4), "f")))
        assert squares.dtype == F.cross_entropy(logits, y).dtype == "float32"
        assert F.softmax(logits, 1).dtype == "float32"


# ---- random --------------------------------------------------------------------------------------


def test_dropout(backend):
    x = gp.tensor(np.ones((200, 300), "float32"), requires_grad=True)
    y = F.dropout(x, 0.25)
    (3 * y).sum().backward()
    kept = y.numpy() != 0
    assert kept.mean() == pytest.approx(0.75, abs=0.01)
    np.testing.assert_allclose(y.numpy()[kept], 4 / 3, rtol=1e-6)
    np.testing.assert_allclose(gp.asnumpy(x.grad), 3 * y.numpy())
    assert (F.dropout(x, 0.25).numpy() != y.numpy()).any()
    assert F.dropout(x, 0.25, training=False) is x and F.dropout(x, 0) is x
    assert not F.dropout(x, 1).numpy().any()


def test_dropout_draws_from_the_generator_given(backend):
    x = gp.tensor(np.ones(100))
    draw = lambda rng: F.dropout(x, rng=rng).numpy()
    rng = Generator(3)
    first, second = draw(rng), draw(rng)
    assert (first != second).any()
    np.testing.assert_array_equal(draw(Generator(3)), first)
    gp.manual_seed(3)
    np.testing.assert_array_equal(draw(None), first)
    with gp.generic():
        np.testing.assert_array_equal(draw(Generator(3)), first)


def test_rrelu_draws_one_slope_per_element(backend):
    x = gp.tensor(np.full(1000, -1.0), requires_grad=True)
    y = F.rrelu(x, 0.25, 0.5, training=True)
    y.sum().backward()
    slope = gp.asnumpy(x.grad)
    np.testing.assert_array_equal(-slope, y.numpy())
    assert slope.min() >= 0.25 and slope.max() <= 0.5
    assert slope.mean() == pytest.approx(0.375, abs=0.01)
    first, again = (F.rrelu(x, training=True, rng=Generator(1)).numpy() for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_gumbel_softmax_draws_classes_by_their_probability(backend):
    p = np.array([0.5, 0.3, 0.2])
    x = gp.tensor(np.broadcast_to(np.log(p), (20000, 3)).copy(), requires_grad=True)
    hard = F.gumbel_softmax(x, hard=True, rng=Generator(1))
    assert set(np.unique(hard.numpy())) == {0, 1} and (hard.numpy().sum(axis=1) == 1).all()
    np.testing.assert_allclose(hard.numpy().mean(axis=0), p, atol=0.02)
    soft = F.gumbel_softmax(x, rng=Generator(1))
    weights = np.arange(3.0)
    (hard * gp.tensor(weights)).sum().backward()
    gradient_of_hard = gp.asnumpy(x.grad)
    x.grad = None
    (soft * gp.tensor(weights)).sum().backward()
    np.testing.assert_allclose(gradient_of_hard, gp.asnumpy(x.grad))


# ---- inputs without axes, as in PyTorch ----------------------------------------------------------


@pytest.mark.parametrize("hard", [False, True])
def test_gumbel_softmax_of_one_number(hard):
    x = gp.tensor(0.5, requires_grad=True)
    y = F.gumbel_softmax(x, hard=hard)
    y.backward()
    assert (y.shape, y.item(), x.grad.item()) == ((), 1, 0)
    with pytest.raises(IndexError):
        F.gumbel_softmax(x, hard=hard, dim=1)


@pytest.mark.parametrize("f", [F.softmax, F.log_softmax, F.softmin])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_softmax_along_an_axis_that_does_not_exist(f, shape):
    for dim in (len(shape) + 1, -len(shape) - 2):
        with pytest.raises(IndexError):
            f(gp.zeros(shape), dim)


@pytest.mark.parametrize(("input", "target", "output"), [
    ((), (), ()), ((), (1,), (1,)), ((1,), (), ()), ((1,), (1,), (1,)), ((5,), (1,), (1,))])
def test_multi_margin_loss_of_one_sample(input, target, output):
    labels = gp.zeros(target, "int64")
    assert F.multi_margin_loss(gp.ones(input), labels, reduction="none").shape == output


@pytest.mark.parametrize("input", [(), (1,)])
@pytest.mark.parametrize("target", [(), (1,)])
def test_multilabel_margin_loss_of_one_class(input, target):
    labels = gp.zeros(target, "int64")
    loss = F.multilabel_margin_loss(gp.ones(input), labels, reduction="none")
    assert (loss.shape, loss.item()) == ((), 0)


@pytest.mark.parametrize("training", [False, True])
def test_batch_norm_of_nothing(training):
    x = gp.zeros(0)
    assert F.batch_norm(x, gp.zeros(0), gp.ones(0), training=training).shape == (0,)
    with pytest.raises(ValueError, match=r"batch_norm.*N, C"):
        F.batch_norm(gp.zeros(3), gp.zeros(3), gp.ones(3), training=training)


def test_bias_that_does_not_fit():
    x, w = gp.ones((2, 5)), gp.ones((3, 5))
    for shape in ((), (1,), (3,), (2, 3), (1, 1)):  # as in PyTorch
        b = gp.ones(shape).requires_grad_()
        y = F.linear(x, w, b)
        y.sum().backward()
        assert (y.shape, b.grad.shape) == ((2, 3), shape)
    for shape in ((4,), (2, 1, 3), (3, 1)):
        with pytest.raises(ValueError, match=r"linear: bias.*broadcast"):
            F.linear(x, w, gp.ones(shape))
        with pytest.raises(ValueError, match=r"bilinear: bias.*broadcast"):
            F.bilinear(x, x, gp.ones((3, 5, 5)), gp.ones(shape))
