"""float16 and bfloat16 are computed in float32 and rounded once: ops, modules and gradients."""

import contextlib
import itertools
import math
import warnings

import ml_dtypes
import numpy as np
import pytest

import gpuprop
import gpuprop.functional as F
from gpuprop import Tensor, nn, optim
from gpuprop._core.dtypes import as_dtype
from gpuprop._core.tree import tree_leaves
from gpuprop.testing._types import distinct
from gpuprop.testing.rows import all_rows
from gpuprop.training import Trainer

HALVES = ["float16", "bfloat16"]
halves = pytest.mark.parametrize("dtype", HALVES)


def half(values, dtype, requires_grad=False):
    return Tensor(gpuprop.tensor(np.asarray(values, "float32")).astype(dtype).data, requires_grad)


@halves
def test_long_sums_and_means(backend, dtype):
    x = half(np.ones(70_000), dtype, requires_grad=True)
    x.mean().backward()
    assert x.mean().item() == 1
    assert backend.to_numpy(x.grad).astype("float32").sum() == pytest.approx(1, rel=1e-2)
    assert half(np.ones((4096, 2)), dtype).sum(axis=0).tolist() == [4096, 4096]
    assert F.l1_loss(half(np.ones(5000), dtype), half(np.zeros(5000), dtype)).item() == 1


@pytest.mark.parametrize("factor", [1, 3000])
def test_casts_that_overflow_do_not_warn(factor):
    """In any op, forward and backward; overflows of an operation in float16 do."""
    with warnings.catch_warnings(record=True) as caught, np.errstate(all="ignore", over="warn"):
        warnings.simplefilter("always")
        passes = 0
        for row in all_rows():
            row = row.map_arrays(lambda a: a if a.dtype.kind != "f" else Tensor(
                gpuprop.asnumpy(half(a * factor, "float16")), requires_grad=True))
            try:
                outputs = [t for t in tree_leaves(row()) if isinstance(t, Tensor)]
                for t in filter(lambda t: t.requires_grad, outputs):
                    t.backward(np.full(t.shape, 1e9), retain_graph=True)
                    passes += 1
            except (ValueError, TypeError, IndexError,  # a number that an op refuses
                    NotImplementedError):  # a gradient that no op has
                continue
        x = half([1, 2], "float16", requires_grad=True)
        x.register_hook(lambda g: g.astype("float32") * 1e9)
        x.sum().backward()
        assert np.isinf(x.grad).all()
    assert passes > 2000
    assert [str(w.message) for w in caught if "cast" in str(w.message)] == []


@halves
def test_the_gradient_of_a_bias_is_summed_in_float32(backend, dtype):
    """The sum of 4096 ones; added one by one it would stop at 256 (bfloat16) or 2048 (float16)."""
    for layer, shape in (
            (nn.Linear(3, 2), (4096, 3)),
            (nn.Conv1d(1, 2, 1), (64, 1, 64)),
            (nn.ConvTranspose1d(1, 2, 1), (64, 1, 64))):
        layer.to(dtype)
        layer(half(np.ones(shape), dtype)).sum().backward()
        assert layer.bias.grad.tolist() == [4096, 4096], layer
    layer = nn.Linear(3, 2)
    with gpuprop.autocast(dtype):
        y = layer(gpuprop.ones((4096, 3)))
    assert y.dtype == as_dtype(dtype)
    y.sum().backward()
    assert layer.bias.grad.tolist() == [4096, 4096]


@halves
def test_gradients_of_many_uses_are_added_in_float32(backend, dtype):
    """Of leaves and of other tensors, with hooks and without, through casts and without."""
    n = {"bfloat16": 600, "float16": 5000}[dtype]
    plain, hooked, other = (half(np.ones(2), dtype, requires_grad=True) for _ in range(3))
    hooked.register_hook(lambda g: g)
    for make in (lambda: plain, lambda: hooked, lambda: other * 1):
        x = make()
        gpuprop.stack([x.sum().astype("float32") for _ in range(n // 2)]).sum().backward()
        gpuprop.stack([make()] * (n // 2)).sum().backward()
    for x in (plain, hooked, other):
        found = backend.to_numpy(x.grad).astype("float32")
        np.testing.assert_allclose(found, n, rtol=1e-2)


@halves
def test_layers_with_long_batches(backend, dtype):
    """Gradients of parameters under autocast are those of float32, rounded once at each cast."""
    for layer, shape in (
            (nn.Linear(3, 2), (4096, 3)),
            (nn.Conv2d(2, 2, 3), (4, 2, 34, 34)),
            (nn.ConvTranspose2d(2, 2, 3), (4, 2, 32, 32)),
            (nn.LSTM(3, 2), (2, 2048, 3)),
            (nn.MultiheadAttention(4, 2), (2, 2048, 4)),
            (nn.LayerNorm(3), (4096, 3)),
            (nn.BatchNorm1d(3), (4096, 3)),
            (nn.Bilinear(3, 3, 2), (4096, 3)),
            (nn.PReLU(), (4096, 3))):
        several = {nn.MultiheadAttention: 3, nn.Bilinear: 2}.get(type(layer), 1)
        x = gpuprop.tensor(np.random.default_rng(0).standard_normal(shape).astype("float32"))
        grads = []
        for context in (contextlib.nullcontext(), gpuprop.autocast(dtype)):
            layer.zero_grad()
            with context:
                y = layer(*[x] * several)
            y = y[0] if isinstance(y, tuple) else y
            y.astype("float32").sum().backward()
            grads.append([backend.to_numpy(p.grad) for p in layer.parameters()])
        for want, found in zip(*grads, strict=True):
            np.testing.assert_allclose(found, want, rtol=2e-2, atol=2e-2 * abs(want).max() + 1e-3,
                                       err_msg=f"{layer}")


@halves
def test_statistics_do_not_overflow(backend, dtype):
    x = half([[300.0, -300.0]], dtype)
    np.testing.assert_allclose(F.layer_norm(x, 2).astype("float32").numpy(), [[1, -1]], rtol=1e-2)
    assert x.std().item() == 300  # its square overflows in float16
    norm = nn.BatchNorm1d(1).to(dtype)
    y = norm(half([[200.0], [-200.0]] * 8, dtype)).astype("float32").numpy()
    np.testing.assert_allclose(y, [[1], [-1]] * 8, rtol=1e-2)


@halves
def test_counts_and_totals_that_half_types_cannot_represent(backend, dtype):
    """In ops, and in the sums that functions compute besides them."""
    n = 70_000
    zero, one = half(np.zeros(n), dtype), half(np.ones(n), dtype)
    assert F.mse_loss(one, zero, weight=one).item() == F.l1_loss(one, zero, weight=one).item() == 1
    index = gpuprop.tensor(np.zeros((1, n), "int64"))
    bag = F.embedding_bag(index, half(np.ones((4, 2)), dtype), mode="mean")
    assert bag.dtype == as_dtype(dtype) and bag.tolist() == [[1, 1]]
    labels = gpuprop.tensor(np.zeros(n, "int64"))
    x, weight = half(np.zeros((n, 2)), dtype), half(np.zeros((3, 2)), dtype)
    loss = F.linear_cross_entropy(x, weight, labels)
    assert loss.item() == pytest.approx(math.log(3), rel=1e-2)
    assert F.avg_pool2d(half(np.full((1, 1, 16, 16), 300), dtype), 16).item() == 300
    loss = F.cross_entropy(half(np.zeros((n, 3)), dtype), labels, weight=half([1, 1, 1], dtype))
    assert loss.item() == pytest.approx(math.log(3), rel=1e-2)


@halves
def test_running_statistics(backend, dtype):
    """Each update is rounded once; the statistics of a batch may overflow in the half type."""
    norm = nn.BatchNorm1d(1).to(dtype)
    norm(half([[300.0], [-300.0]] * 100, dtype))
    assert norm.running_var.item() == pytest.approx(9048, rel=1e-2)
    norm.eval()
    assert norm(half([[95.0]], dtype)).item() == pytest.approx(95 / math.sqrt(9048), rel=2e-2)
    layer = nn.utils.spectral_norm(nn.Linear(64, 64, bias=False).to(dtype))
    with gpuprop.no_grad():
        layer.weight_orig.data[...] = layer.weight_orig.data * 1000
        for _ in range(30):
            layer(half(np.ones((1, 64)), dtype))
    sigma = np.linalg.svd(layer.weight.astype("float32").numpy(), compute_uv=False)[0]
    assert sigma == pytest.approx(1, abs=0.05)


@halves
def test_numbers_that_half_types_cannot_represent(backend, dtype):
    largest = float(ml_dtypes.finfo(as_dtype(dtype)).max)
    x = half([math.nan, math.inf, -math.inf], dtype)
    assert gpuprop.nan_to_num(x).tolist() == [0, largest, -largest]
    y = F.rms_norm(half(np.full((1, 4), 1e-3), dtype), 4)
    assert y.tolist()[0][0] == pytest.approx(0.945, rel=1e-2)
    for number in (70_000, 70_000.0):
        assert (half([1e-3], dtype) * number).item() == pytest.approx(70, rel=1e-2)
    x = half([0.1], dtype)
    for same in (x == 0.1, x <= 0.1, x >= 0.1, gpuprop.where(x == 0.1, True, False)):
        assert same.tolist() == [True]


@halves
def test_pointwise_bodies(backend, dtype):
    """An array that is two arguments is updated once; each result has NumPy's dtype."""

    @gpuprop.pointwise
    def add_in(xp, p, g):
        p += g

    @gpuprop.pointwise
    def mixed(xp, x, y):
        return x * 2.5, x + y, x.astype("float32"), x > 0

    a, y = half([1.0, 2.0], dtype).data, gpuprop.ones(2).data
    for context in (contextlib.nullcontext, gpuprop.generic):
        x = backend.xp.copy(a)
        with context():
            add_in(backend.xp, x, x)
            found = mixed(backend.xp, a, y)
        assert backend.to_numpy(x).astype("float32").tolist() == [2, 4]
        assert [f.dtype for f in found] == [as_dtype(dtype), "float32", "float32", "bool"]


@pytest.mark.parametrize("narrow", ["uint8", "int8"])
def test_lengths_of_narrow_integer_types(backend, narrow):
    rng = np.random.default_rng(0)
    scores = gpuprop.tensor(rng.standard_normal((200, 2, 5)).astype("float32"))
    log_p = F.log_softmax(scores, -1)
    targets = gpuprop.tensor(rng.integers(1, 5, (2, 110)))
    lengths = np.array([110, 100])

    def losses(dtype):
        target_lengths = gpuprop.tensor(lengths.astype(dtype))
        return F.ctc_loss(log_p, targets, [200, 200], target_lengths, reduction="none").tolist()

    assert losses(narrow) == losses("int64")


@halves
def test_python_numbers_are_weak(backend, dtype):
    x = half([1.0, 2.0], dtype)
    for y in (
            x * 2.5, 2.5 * x, x + 1, x / 3.0, x**0.5, x - True,
            gpuprop.where(x > 1, x, 0.0), x.clip(0.5, 1.5), gpuprop.maximum(x, 0.25),
            x.var(keepdims=True), gpuprop.tril(x.reshape(1, 2))):
        assert y.dtype == as_dtype(dtype)
    third = np.asarray(1 / 3, "float32").astype(as_dtype(dtype))
    assert (x * (1 / 3)).numpy()[0] == third


@halves
def test_sorting_and_cumulative_sums(backend, dtype):
    x = half([3.0, -1.0, math.nan, 2.0], dtype)
    assert x.argsort().tolist() == [1, 3, 0, 2]
    assert gpuprop.sort(x).astype("float32").tolist()[:3] == [-1, 2, 3]
    assert half([3.0, -1.0, 2.0], dtype).topk(2)[1].tolist() == [0, 2]
    ones = half(np.ones(300), dtype)
    assert ones.cumsum().astype("float32").tolist()[-1] == 300
    assert half([2.0, 3.0], dtype).prod().item() == 6
    assert half([2.0, 3.0], dtype).cumprod().astype("float32").tolist() == [2, 6]


@halves
def test_a_half_type_promotes_to_a_wider_type(backend, dtype):
    """Two different half types promote to float32, as in NumPy and PyTorch."""
    x = half([1.0], dtype)
    other_half = "float16" if dtype == "bfloat16" else "bfloat16"
    for other in (gpuprop.ones(1), half([1.0], other_half)):
        assert (x + other).dtype == (other * x).dtype == (x / other).dtype == "float32"


class Block(nn.Module):
    """Typical layers of a half-precision model between two products."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.between = nn.Sequential(
            nn.GELU(), nn.Dropout(0.1), nn.LeakyReLU(), nn.SiLU(), nn.ELU(), nn.Softplus())
        self.norm = nn.LayerNorm(8)
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.norm(self.between(self.first(x))) * 0.5)


def transformer():
    return nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Linear(8, 3))


def batch_norm():
    return nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 3))


@halves
@pytest.mark.parametrize("loss", [
    nn.CrossEntropyLoss(),
    F.cross_entropy,
    lambda output, target: F.cross_entropy(output, target),
], ids=["layer", "function", "user's function"])
def test_the_trainer_adds_losses_in_float32(backend, dtype, loss):
    """The sum of the losses of 90,000 labels is above the largest float16."""
    model = nn.Linear(2, 3, bias=False).to(dtype)
    x, labels = np.zeros((90_000, 2), "float32"), np.zeros(90_000, "int64")
    trainer = Trainer(model, loss, optim.SGD(model.parameters(), lr=0.1))
    history = trainer.fit((x, labels), epochs=1, batch_size=90_000)
    assert history["loss"][0] == pytest.approx(math.log(3), rel=1e-2)
    assert trainer.evaluate((x, labels), batch_size=90_000)["loss"] == history["loss"][0]


@halves
@pytest.mark.parametrize(("make", "shape"), [
    (Block, (16, 8)),
    (transformer, (16, 4, 8)),
    (batch_norm, (16, 8)),
], ids=["block", "transformer", "batch norm"])
def test_models_train(backend, make, shape, dtype):
    model = make().to(dtype)
    optimizer = optim.AdamW(model.parameters(), lr=1e-2)
    rng = np.random.default_rng(0)
    x = half(rng.standard_normal(shape), dtype)
    labels = gpuprop.tensor(rng.integers(0, 3, shape[:-1]))
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        y = model(x)
        assert y.dtype == as_dtype(dtype)
        loss = F.cross_entropy(y.reshape(-1, 3), labels.reshape(-1))
        assert loss.dtype == as_dtype(dtype)
        loss.backward()
        assert {p.grad.dtype for p in model.parameters()} == {as_dtype(dtype)}
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(map(math.isfinite, losses))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int32"])
def test_indices_of_narrow_integer_types(backend, dtype):
    """The largest index of the type, in a table that is longer than the type's range."""
    n, last = 400, min(np.iinfo(dtype).max, 399)
    table = gpuprop.tensor(np.arange(2 * n, dtype="float32").reshape(n, 2), requires_grad=True)
    index = gpuprop.tensor(np.array([0, last, last], dtype))
    assert F.embedding(index, table)[1].tolist() == [2 * last, 2 * last + 1]
    F.embedding(index, table).sum().backward()
    grad = backend.to_numpy(table.grad)[:, 0]
    assert (grad[0], grad[last], grad.sum()) == (1, 2, 3)
    x = gpuprop.tensor(np.arange(n, dtype="float32").reshape(1, n), requires_grad=True)
    y = gpuprop.gather(x, 1, index.reshape(1, 3))
    y.sum().backward()
    assert y.tolist() == [[0, last, last]]
    assert backend.to_numpy(x.grad).nonzero()[1].tolist() == [0, last]
    out = gpuprop.index_add(gpuprop.zeros(n), 0, index, gpuprop.ones(3))
    assert out.numpy().nonzero()[0].tolist() == [0, last]
    assert gpuprop.take(table, index, 0)[2].tolist() == [2 * last, 2 * last + 1]


def test_bfloat16_is_the_type_of_ml_dtypes():
    assert as_dtype("bfloat16") == np.dtype(ml_dtypes.bfloat16)


def test_two_half_types_together_give_float32(backend):
    x, y = (gpuprop.tensor([1.5]).astype(dtype) for dtype in ("float16", "bfloat16"))
    for _ in range(3):
        assert gpuprop.functional.mse_loss(x, y).dtype == (x * y).dtype == "float32"


SEVERAL = [row for row in distinct(all_rows()) if "parity" not in row.skipped
           and sum(a.dtype.kind == "f" for a in row.arrays()) > 1]


@pytest.mark.parametrize("row", SEVERAL, ids=repr)
def test_autocast_takes_one_array_of_a_half_type(backend, row):
    """The output of a layer in low precision, and float32 parameters, as of batch normalization."""
    for dtype, chosen in itertools.product(HALVES, range(2)):
        numbers = itertools.count()

        def place(a):
            if a.dtype.kind != "f":
                return gpuprop.tensor(a)
            t = gpuprop.tensor(a.astype("float32"))
            return t.astype(dtype) if next(numbers) == chosen else t  # noqa: B023

        try:
            with gpuprop.autocast(dtype):
                row.map_arrays(place)()
        except Exception as error:
            error.add_note(f"{dtype} for floating array {chosen}")
            raise


@halves
def test_the_plain_average_of_batches(backend, dtype):
    norm = nn.BatchNorm1d(2, momentum=None).to(dtype)
    for values in ([[0, 1], [2, 3]], [[2, 3], [4, 5]]):
        norm(half(values, dtype))
    assert norm.running_mean.astype("float32").tolist() == [2, 3]


NO_INTEGERS = {
    "softmax": lambda x: F.softmax(x, 1), "rms_norm": lambda x: F.rms_norm(x, 4),
    "layer_norm": lambda x: F.layer_norm(x, 4), "normalize": F.normalize, "pdist": F.pdist,
    "avg_pool1d": lambda x: F.avg_pool1d(x, 2), "lp_pool1d": lambda x: F.lp_pool1d(x, 2, 2),
    "pairwise_distance": lambda x: F.pairwise_distance(x, x),
    "interpolate": lambda x: F.interpolate(x[None], 8, mode="linear"),
}


@pytest.mark.parametrize("name", NO_INTEGERS)
@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64"])
def test_means_and_norms_of_integers_are_refused(backend, name, dtype):
    with pytest.raises(TypeError, match=rf"{name}: input must be floating, got {dtype}"):
        NO_INTEGERS[name](gpuprop.ones((3, 4), dtype=dtype))


def test_norm_and_logsumexp_of_narrow_integers(backend):
    x = gpuprop.tensor(np.array([100, 100, 100, 3, 20], "int8"))
    assert gpuprop.norm(x).item() == pytest.approx(math.sqrt(30409))
    assert gpuprop.logsumexp(gpuprop.tensor(np.array([200, 100], "uint8"))).item() == 200


def test_unsigned_targets_of_the_adaptive_softmax(backend):
    layer = nn.AdaptiveLogSoftmaxWithLoss(8, 300, [10, 100])
    x = gpuprop.ones((2, 8))
    losses = {layer(x, gpuprop.tensor(np.array([5, 15], dtype))).loss.item()
              for dtype in ("uint8", "uint16", "int64")}
    assert len(losses) == 1
