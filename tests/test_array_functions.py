"""Array functions: kinks, ties, poles, memory kept by pullbacks, dtypes, errors, einsum.

The other properties are checked by tests/test_ops.py.  The gradients at kinks, ties and poles are
PyTorch's.
"""

import math
import weakref

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import Tensor
from gpuprop._array import products

inf, nan = math.inf, math.nan


@pytest.fixture
def gradients(backend):
    """The value of a function, and the gradients of its sum for each argument."""

    def of(f, *inputs):
        arrays = [backend.asarray(np.array(x, "float64")) for x in inputs]
        tensors = [Tensor(a, requires_grad=True) for a in arrays]
        with np.errstate(all="ignore"):
            y = f(*tensors)
            y.sum().backward()
        return y.tolist(), [backend.to_numpy(t.grad).tolist() for t in tensors]

    return of


def same(got, want):
    np.testing.assert_allclose(np.array(got, "float64"), np.array(want, "float64"), rtol=1e-12)


# ---- kinks, ties and poles ---------------------------------------------------------------------

ONE = {  # function, arguments, gradients
    "abs": (gp.abs, [0.0, -0.0, -2.0], [0, 0, -1]),
    "sign": (gp.sign, [0.0, 2.0], [0, 0]),
    "floor": (gp.floor, [0.5, 1.0], [0, 0]),
    "round": (gp.round, [0.5, 1.5], [0, 0]),
    "sqrt": (gp.sqrt, [0.0, 4.0], [inf, 0.25]),
    "rsqrt": (gp.rsqrt, [0.0, 4.0], [-inf, -1 / 16]),
    "log": (gp.log, [0.0, 2.0], [inf, 0.5]),
    "reciprocal": (gp.reciprocal, [0.0], [-inf]),
    "arcsin": (gp.arcsin, [1.0], [inf]),
    "arccosh": (gp.arccosh, [1.0], [inf]),
    "arctanh": (gp.arctanh, [1.0], [inf]),
    "erfinv": (gp.erfinv, [1.0, -1.0], [inf, inf]),
    "sinc": (gp.sinc, [0.0, 0.5], [0, -4 / math.pi]),
    "x ** 0": (lambda x: x**0, [0.0, 4.0], [0, 0]),
    "x ** 0.5": (lambda x: x**0.5, [0.0, 4.0], [inf, 0.25]),
    "0 ** x": (lambda x: 0**x, [0.0, 1.0, 2.0], [0, 0, 0]),
    "nan_to_num": (gp.nan_to_num, [nan, inf, -inf, 1.0], [0, 0, 0, 1]),
    "clip": (lambda x: gp.clip(x, 0, 1), [0.0, 1.0, 0.5, -1.0, 2.0, nan], [1, 1, 1, 0, 0, 0]),
    "clip below": (lambda x: gp.clip(x, 1), [0.0, 1.0, 2.0], [0, 1, 1]),
    "max": (gp.max, [3.0, 1.0, 3.0, 3.0], [1 / 3, 0, 1 / 3, 1 / 3]),
    "min along an axis": (
        lambda x: gp.min(x, 1), [[2.0, 1, 1], [3, 4, 5]], [[0, 0.5, 0.5], [1, 0, 0]]),
    "prod, one 0": (gp.prod, [2.0, 0, 3], [0, 6, 0]),
    "prod, two": (gp.prod, [2.0, 0, 0], [0, 0, 0]),
    "cumprod": (lambda x: gp.cumprod(x, 0), [2.0, 0, 3, 0, 5], [1, 8, 0, 0, 0]),
    "std": (gp.std, [1.0, 1.0], [0, 0]),
    "std of one": (lambda x: gp.std(x, ddof=1), [1.0], [nan]),
    "logsumexp": (lambda x: gp.logsumexp(x, 0), [-inf, 0.0], [0, 1]),
    "sort": (lambda x: gp.sort(x) * gp.tensor([1, 10, 100]), [2.0, 1.0, 1.0], [100, 1, 10]),
    "norm 2 at 0": (gp.norm, [0.0, 0.0], [0, 0]),
    "norm 2": (gp.norm, [3.0, 0, -4], [0.6, 0, -0.8]),
    "norm 1": (lambda x: gp.norm(x, 1), [3.0, 0, -4], [1, 0, -1]),
    "norm 0": (lambda x: gp.norm(x, 0), [3.0, 0, -4], [0, 0, 0]),
    "norm 1/2 at 0": (lambda x: gp.norm(x, 0.5), [0.0, 0.0], [0, 0]),
    "norm 3/2": (lambda x: gp.norm(x, 1.5), [0.0, -4.0], [0, -1]),
    "norm inf": (lambda x: gp.norm(x, inf), [3.0, 4, -4], [0, 0.5, -0.5]),
    "norm -inf": (lambda x: gp.norm(x, -inf), [3.0, 0, 0], [0, 0, 0]),
}
TWO = {
    "maximum": (gp.maximum, [1.0, nan, 2, 1], [nan, 1.0, 2, 3], [1, 1, 0.5, 0], [1, 1, 0.5, 1]),
    "minimum": (gp.minimum, [1.0, nan, 2, 1], [nan, 1.0, 2, 3], [1, 1, 0.5, 1], [1, 1, 0.5, 0]),
    "fmax": (gp.fmax, [1.0, nan, 2, 1], [nan, 1.0, 2, 3], [1, 0, 1, 0], [0, 1, 0, 1]),
    "fmin": (gp.fmin, [1.0, nan, 2, 1], [nan, 1.0, 2, 3], [1, 0, 1, 1], [0, 1, 0, 0]),
    "arctan2": (gp.arctan2, [0.0, 0], [0.0, 1], [0, 1], [0, 0]),
    "copysign": (gp.copysign, [0.0, -2, 3], [-1.0, 1, -0.0], [0, -1, -1], [0, 0, 0]),
    "logaddexp": (gp.logaddexp, [1.0, 0], [-inf, 0.0], [1, 0.5], [0, 0.5]),
    "remainder": (gp.remainder, [5.0, -5], [3.0, 3], [1, 1], [-1, 2]),
    "fmod": (gp.fmod, [5.0, -5], [3.0, 3], [1, 1], [-1, 1]),
    "power": (gp.power, [0.0, 0, 0, -2, 0], [0.0, 1, 2, 2, -1],
              [0, 1, 0, -4, -inf], [0, 0, 0, nan, -inf]),
    "divide": (gp.divide, [1.0, 0], [0.0, 0], [inf, inf], [-inf, nan]),
    "clip, crossed": (lambda x, low: gp.clip(x, low, 1), [0.5, -1.0], [2.0, 0.0], [0, 0], [0, 1]),
}


@pytest.mark.parametrize("f, x, want", ONE.values(), ids=ONE)
def test_gradient_at_a_kink(gradients, f, x, want):
    same(gradients(f, x)[1][0], want)


@pytest.mark.parametrize("f, x1, x2, want1, want2", TWO.values(), ids=TWO)
def test_gradients_at_a_tie(gradients, f, x1, x2, want1, want2):
    same(gradients(f, x1, x2)[1], [want1, want2])


def test_bounds_of_clip_get_the_gradient_of_clipped_elements(gradients):
    x = [0.0, 1, 0.5, -1, 2, 0.5]
    y, (dx, dlow, dhigh) = gradients(gp.clip, x, [0.0, 0, 0, 0, 0, 2], [1.0] * 6)
    assert y == [0, 1, 0.5, 0, 1, 1]
    same([dx, dlow, dhigh], [[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 1, 1]])


def test_second_derivatives_of_products_with_zeros(backend):
    """d2/dx dy of x*y*z at y = 0: dividing the product by an element would give NaN."""
    x = backend.asarray(np.array([2.0, 0.0, 3.0, 0.0]))
    for product in (gp.prod, lambda x: gp.cumprod(x, 0)[-1]):
        row = gp.grad(lambda x, product=product: gp.grad(lambda x: product(x))(x)[1])(x)
        assert backend.to_numpy(row).tolist() == [0, 0, 0, 6]


def test_order_with_nan(backend):
    x = gp.tensor([3.0, nan, 3.0, 5.0])
    values, indices = gp.topk(x, 3)
    assert indices.tolist() == [1, 3, 0] and values.tolist()[1:] == [5, 3]
    assert gp.topk(x, 2, largest=False)[1].tolist() == [0, 2]
    assert gp.argsort(x).tolist() == [0, 2, 3, 1]
    assert gp.sort(x).tolist()[:3] == [3, 3, 5]
    assert math.isnan(gp.max(x).item()) and math.isnan(gp.maximum(x, 9).tolist()[1])


def test_gradients_of_repeated_indices_are_summed(gradients):
    x = [[1.0, 2, 3], [4, 5, 6]]
    same(gradients(lambda x: x[[0, 0, 1]], x)[1], [[[2, 2, 2], [1, 1, 1]]])
    same(gradients(lambda x: x[[0, 0, 1], [2, 2, 0]], x)[1], [[[0, 0, 2], [1, 0, 0]]])
    index = gp.tensor([[0, 0], [2, 1]])
    same(gradients(lambda x: gp.gather(x, 1, index), x)[1], [[[2, 0, 0], [0, 1, 1]]])
    same(gradients(lambda x: gp.take(x, gp.tensor([5, 5, 0])), x)[1], [[[1, 0, 0], [0, 0, 2]]])


# ---- memory kept by pullbacks ------------------------------------------------------------------

NO_INPUT_KEPT = {
    "add": lambda x: x + 1,
    "multiply by a number": lambda x: x * 2,
    "floor": gp.floor,
    "sum": gp.sum,
    "mean": gp.mean,
    "cumsum": gp.cumsum,
    "take": lambda x: gp.take(x, 1, 0),
    "gather": lambda x: gp.gather(x, 0, gp.tensor([[0, 1]])),
    "pad": lambda x: gp.pad(x, 1, "edge"),
    "roll": lambda x: gp.roll(x, 1),
    "tile": lambda x: gp.tile(x, 2),
    "repeat": lambda x: gp.repeat(x, 2),
    "concatenate": lambda x: gp.concatenate([x, x]),
    "stack": lambda x: gp.stack([x, x]),
    "tril": gp.tril,
    "sort": gp.sort,
    "topk": lambda x: gp.topk(x, 2)[0],
    "where": lambda x: gp.where(gp.tensor(True), x, 0),
    "masked_fill": lambda x: gp.masked_fill(x, gp.tensor(True), 0),
    "index_add": lambda x: gp.index_add(x, 0, gp.tensor([0]), gp.ones((1, 3))),
    "exp": gp.exp,
    "tanh": gp.tanh,
    "sqrt": gp.sqrt,
    "sigmoid": gp.sigmoid,
    "comparison": lambda x: x > 0,
    "a product with a constant": lambda x: gp.matmul(x, gp.ones((3, 2))),
}


@pytest.mark.parametrize("f", NO_INPUT_KEPT.values(), ids=NO_INPUT_KEPT)
def test_the_pullback_keeps_no_array_that_it_does_not_need(f):
    x = gp.ones((3, 3), requires_grad=True) + 1
    array = weakref.ref(x.data)
    y = f(x)
    del x
    assert array() is None, "the input's array is still held"
    assert y is not None


# ---- dtypes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("compute, dtype", [
    (lambda x, i, b: x + i, "float32"),
    (lambda x, i, b: i / x, "float32"),
    (lambda x, i, b: x * b, "float32"),
    (lambda x, i, b: i**x, "float32"),
    (lambda x, i, b: gp.where(b, x, i), "float32"),
    (lambda x, i, b: x > i, "bool"),
    (lambda x, i, b: gp.maximum(i, x), "float32"),
    (lambda x, i, b: x @ i, "float32"),
    (lambda x, i, b: 2.5 * x, "float32"),
    (lambda x, i, b: np.float64(2.5) * x, "float32"),
    (lambda x, i, b: gp.clip(x, 0.5, None), "float32"),
    (lambda x, i, b: x / x.size, "float32"),
    (lambda x, i, b: x.var(), "float32"),
    (lambda x, i, b: x.norm(3), "float32"),
    (lambda x, i, b: i + 1, "int64"),
    (lambda x, i, b: i / 2, "float64"),
    (lambda x, i, b: b.sum(), "int64"),
    (lambda x, i, b: x.argmax(), "int64"),
    (lambda x, i, b: gp.floor_divide(i, 2), "int64"),
    (lambda x, i, b: gp.where(b, 1.0, 0), "float32"),
])
def test_integers_and_numbers_do_not_widen(backend, compute, dtype):
    x, i, b = gp.tensor([1.0, 2.0, 4.0]), gp.tensor([1, 2, 3]), gp.tensor([True, False, True])
    assert compute(x, i, b).dtype == dtype


def test_plain_arrays_in_plain_arrays_out(backend):
    x = backend.asarray(np.arange(6.0).reshape(2, 3))
    several = *gp.topk(x, 2), *gp.split(x, 3, 1), *gp.chunk(x, 2)
    for y in (gp.exp(x), gp.einsum("ij->j", x), gp.pad(x, 1), gp.diag(x), gp.trace(x), *several):
        assert type(y) is backend.array_type


# ---- errors ------------------------------------------------------------------------------------

ERRORS = {  # of x, of shape (2, 3)
    "a list as an operand": (lambda x: gp.add(x, [1.0]), TypeError, "'x2'.*Tensor.*array.*number"),
    "joining nothing": (lambda x: gp.concatenate([]), TypeError, "concatenate.*at least one"),
    "joining numbers": (lambda x: gp.stack([x, 1.0]), TypeError, "stack.*without numbers"),
    "overlapping parts": (lambda x: gp.split(x, [2, 1], 1), ValueError, r"ascending.*\[2, 1\]"),
    "unequal parts": (lambda x: gp.split(x, 2, 1), ValueError, "size 3.*2 equal parts.*chunk"),
    "an axis too many": (lambda x: gp.take(x, 0, 2), ValueError, "axis 2 is out of bounds"),
    "transpose": (lambda x: gp.transpose(x, (0, 2)), ValueError, "axis 2 is out of bounds"),
    "flatten": (lambda x: gp.flatten(x, 1, 0), ValueError, "start_axis 1.*end_axis 0"),
    "an index too large": (
        lambda x: gp.take(x, gp.tensor([3]), 1), IndexError, "take.*out of range.*size 3"),
    "an index too small": (
        lambda x: gp.gather(x, 1, gp.tensor([[-4]])), IndexError, "gather.*out of range"),
    "topk": (lambda x: gp.topk(x, 4), ValueError, "k must.*<= 3.*got 4"),
    "a mode of pad": (lambda x: gp.pad(x, 1, "mirror"), ValueError, "mode.*constant.*'mirror'"),
    "padding nothing": (lambda x: gp.pad(gp.ones((0,)), 1, "edge"), ValueError, "'edge'.*empty"),
    "pairs of pad": (lambda x: gp.pad(x, ((1, 1),) * 3), ValueError, "3 pairs.*2 axes"),
    "bmm of matrices": (lambda x: gp.bmm(x, x), ValueError, r"bmm.*\(B, N, K\).*\(2, 3\)"),
    "diag of a stack": (lambda x: gp.diag(gp.ones((2, 2, 2))), ValueError, "vector.*got 3 axes"),
    "tensordot": (lambda x: gp.tensordot(x, x, 1), ValueError, "different sizes"),
    "einsum, operands": (lambda x: gp.einsum("ij,jk", x), ValueError, "2 operands, got 1"),
    "einsum, axes": (lambda x: gp.einsum("ijk", x), ValueError, "'ijk'.*2 axes"),
    "einsum, too few": (lambda x: gp.einsum("i", x), ValueError, "'i'.*2 axes"),
    "einsum, output": (lambda x: gp.einsum("ij->ik", x), ValueError, "label that no operand has"),
    "einsum, output twice": (lambda x: gp.einsum("ij->ii", x), ValueError, "repeated.*output"),
    "einsum, sizes": (
        lambda x: gp.einsum("ij,ij", x, gp.ones((2, 2))), ValueError, "'j'.*sizes 3 and 2"),
    "einsum, sizes of three": (
        lambda x: gp.einsum("ij,jk,kl", x, x, x), ValueError, "'j'.*sizes 3 and 2"),
    "einsum, diagonal": (lambda x: gp.einsum("ii", x), ValueError, "'i'.*sizes 2 and 3"),
    "einsum, signs": (lambda x: gp.einsum("i?", x), ValueError, "letters.*i\\?"),
}


@pytest.mark.parametrize("call, error, message", ERRORS.values(), ids=ERRORS)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call(gp.ones((2, 3)))


def test_devices_report_an_index_out_of_range_at_the_next_read(backend):
    x, index = gp.ones((2, 3)), gp.tensor([3])
    with pytest.raises(IndexError, match=r"take.*out of range"):
        gp.take(x, index, 1).numpy()


# ---- einsum ------------------------------------------------------------------------------------

SIZES = dict(zip("abcdij", (2, 3, 4, 5, 3, 2), strict=True))


@pytest.mark.parametrize("subscripts", [
    "ab->ba", "ab", "ba", "aa", "aab->b", "aba->ab", "ab->",
    "ab,bc", "ab,bc->ca", "ab,cd->adbc", "ab,ab", "ab,ab->a", "ab,b->a", "abc,abd->acd",
    "abc,dba->dc", "aab,bcc->ac", "bi,bj->ij",
    "ab,cb,db->acd", "a,b,c->cab", "ab,bc,ca", "abcd,abcd,ab->cd", "a,a,a", "ab,ab,ab->ba",
    "aab,bcc,c->a", "ab,cd,d->c", "ab,bc,cd,da->", "ab,bc,cd,d", "ab,bc,cd,db,bi,ij->aj",
])
def test_einsum(backend, subscripts, rng):
    shapes = [[SIZES[a] for a in term] for term in subscripts.partition("->")[0].split(",")]
    operands = [rng.standard_normal(s) for s in shapes]
    got = gp.einsum(subscripts, *map(backend.asarray, operands))
    want = np.einsum(subscripts, *operands)
    np.testing.assert_allclose(backend.to_numpy(got), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("subscripts, shapes", [
    ("...", [(2, 3)]),
    ("...a->a...", [(2, 3, 4)]),
    ("a...b->b...", [(2, 5, 3)]),
    ("...a->...", [(3,)]),
    ("...ab,...bc", [(2, 3, 4), (2, 4, 5)]),
    ("...ab,bc->...ca", [(2, 1, 3, 4), (4, 5)]),
    ("...,...", [(2, 3), (3,)]),
    ("...a,...a->...", [(2, 1, 3), (4, 3)]),
    ("a...,a...->...", [(2, 3), (2, 1)]),
    ("a,a", [(1,), (4,)]),
    ("a,a,a", [(1,), (4,), (1,)]),
    ("ab,b...->a...", [(2, 3), (3, 4, 5)]),
    ("ab...,ab->...", [(2, 3), (2, 3)]),
    ("ab,ab->ab", [(2, 1), (1, 3)]),
    ("...ab,bc,cd->...d", [(2, 1, 5, 4), (4, 5), (5, 2)]),
    ("ab,bc,cd", [(0, 3), (3, 4), (4, 5)]),
])
def test_einsum_with_an_ellipsis_and_broadcasting(backend, subscripts, shapes, rng):
    operands = [rng.standard_normal(s) for s in shapes]
    got = gp.einsum(subscripts, *map(backend.asarray, operands))
    want = np.einsum(subscripts, *operands)
    np.testing.assert_allclose(backend.to_numpy(got), want, rtol=1e-12, atol=1e-12)


def products_of(monkeypatch, *args):
    """The shapes of the pairs that einsum multiplies, and its result."""
    pairs, contract_pair = [], products._contract_pair

    def recorded(x, x_labels, y, y_labels, needed):
        pairs.append((x.shape, y.shape))
        return contract_pair(x, x_labels, y, y_labels, needed)

    monkeypatch.setattr(products, "_contract_pair", recorded)
    return pairs, gp.einsum(*args)


@pytest.mark.parametrize("subscripts, shapes, want", [
    ("ij,jk,kl", [(9, 9), (9, 9), (9, 1)], [((9, 9), (9, 1)), ((9, 9), (9, 1))]),
    ("ij,jk,kl", [(1, 9), (9, 9), (9, 9)], [((1, 9), (9, 9)), ((1, 9), (9, 9))]),
    ("ij,jk,kl", [(50, 2), (2, 50), (50, 2)], [((2, 50), (50, 2)), ((50, 2), (2, 2))]),
    ("...ij,jk,kl", [(3, 9, 9), (9, 9), (9, 1)], [((9, 9), (9, 1)), ((3, 9, 9), (9, 1))]),
    ("ij,kl,jk,l", [(9, 9), (9, 9), (9, 9), (9,)],
     [((9, 9), (9,)), ((9,), (9, 9)), ((9, 9), (9,))]),
    ("ab,bc,cd,de,ef,f", [(9, 9)] * 5 + [(9,)], [((9, 9), (9,))] * 5),
])
def test_einsum_contracts_in_the_best_order(monkeypatch, subscripts, shapes, want, rng):
    operands = [rng.standard_normal(s) for s in shapes]
    pairs, y = products_of(monkeypatch, subscripts, *operands)
    assert pairs == want
    np.testing.assert_allclose(y, np.einsum(subscripts, *operands), rtol=1e-10)


def test_einsum_finds_the_order_once_for_all_calls_with_the_same_shapes(rng):
    operands = [rng.standard_normal(s) for s in ((7, 6), (6, 5), (5, 4))]
    gp.einsum("ij,jk,kl", *operands)
    misses = products._best_order.cache_info().misses
    gp.einsum("ij,jk,kl", *map(gp.tensor, operands))
    assert products._best_order.cache_info().misses == misses


def test_einsum_with_more_labels_than_numpy_knows():
    labels = [chr(ord("\u4e00") + i) for i in range(60)]
    assert gp.einsum(",".join(labels), *[np.full(1, 2.0)] * 60).item() == 2.0**60


def test_gradients_of_einsum_do_not_depend_on_the_order(gradients, rng):
    operands = [rng.standard_normal(s) for s in ((5, 3), (3, 6), (6, 2))]
    want = gradients(lambda a, b, c: (a @ b) @ c, *operands)
    got = gradients(lambda a, b, c: gp.einsum("ij,jk,kl", a, b, c), *operands)
    for value, expected in zip((got[0], *got[1]), (want[0], *want[1]), strict=True):
        same(value, expected)


def test_einsum_can_be_captured():
    strict = gp.backend.get_backend("strict")
    a, b = (np.random.default_rng(i).standard_normal((2, 3, 3)) for i in range(2))
    on_device = strict.asarray(a), strict.asarray(b)
    with strict.record() as recording:
        y = gp.einsum("bij,bjk->bik", *on_device)
    recording.replay()
    np.testing.assert_allclose(strict.to_numpy(y), a @ b, rtol=1e-12)


def test_numpy_integers_are_integers():
    one, two = np.int64(1), np.int32(2)
    a = gp.ones(2, 4)
    assert gp.pad(a, one).shape == (4, 6) and gp.pad(a, (one, two)).shape == (5, 7)
    assert [part.shape for part in gp.split(a, two, axis=one)] == [(2, 2)] * 2
    assert gp.tensordot(a, a.T, one).shape == (2, 2)
    assert gp.repeat(a, two, axis=np.int64(0)).shape == (4, 4)
    assert a.split(two, dim=1)[0].shape == (2, 2)
