"""Array functions where rows do not reach: kinks, ties, poles, what is kept for the pullback, dtypes, errors, einsum.

The gradients at kinks, ties and poles are PyTorch's, written down.
"""

import math
import weakref

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import Tensor

inf, nan = math.inf, math.nan


@pytest.fixture
def gradients(backend):
    """The value of a function, and the gradients of its sum for each argument."""
    def of(f, *inputs):
        tensors = [Tensor(backend.asarray(np.array(x, "float64")), requires_grad=True) for x in inputs]
        with np.errstate(all="ignore"):
            y = f(*tensors)
            y.sum().backward()
        return y.tolist(), [t.grad if t.grad is None else backend.to_numpy(t.grad).tolist() for t in tensors]

    return of


def same(got, want):
    np.testing.assert_allclose(np.array(got, "float64"), np.array(want, "float64"), rtol=1e-12)


# ---- kinks, ties and poles ------------------------------------------------------------------------------------------

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
    "min along an axis": (lambda x: gp.min(x, 1), [[2.0, 1, 1], [3, 4, 5]], [[0, 0.5, 0.5], [1, 0, 0]]),
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
    "power": (gp.power, [0.0, 0, 0, -2, 0], [0.0, 1, 2, 2, -1], [0, 1, 0, -4, -inf], [0, 0, 0, nan, -inf]),
    "divide": (gp.divide, [1.0, 0], [0.0, 0], [inf, inf], [-inf, nan]),
    "clip, crossed": (lambda x, low: gp.clip(x, low, 1), [0.5, -1.0], [2.0, 0.0], [0, 0], [0, 1]),
}


@pytest.mark.parametrize("f, x, want", ONE.values(), ids=ONE)
def test_gradient_at_a_kink(gradients, f, x, want):
    same(gradients(f, x)[1][0], want)


@pytest.mark.parametrize("f, x1, x2, want1, want2", TWO.values(), ids=TWO)
def test_gradients_at_a_tie(gradients, f, x1, x2, want1, want2):
    same(gradients(f, x1, x2)[1], [want1, want2])


def test_bounds_of_clip_take_the_gradient_of_what_they_hold(gradients):
    x = [0.0, 1, 0.5, -1, 2, 0.5]
    y, (dx, dlow, dhigh) = gradients(gp.clip, x, [0.0, 0, 0, 0, 0, 2], [1.0] * 6)
    assert y == [0, 1, 0.5, 0, 1, 1]
    same([dx, dlow, dhigh], [[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 1, 1]])


def test_the_second_order_sees_products_over_zeros(backend):
    """d2/dx dy of x*y*z at y = 0, where the product of the others divided by an element would have no limit."""
    x = backend.asarray(np.array([2.0, 0.0, 3.0, 0.0]))
    for product in (gp.prod, lambda x: gp.cumprod(x, 0)[-1]):
        row = gp.grad(lambda x, product=product: gp.grad(lambda x: product(x))(x)[1])(x)
        assert backend.to_numpy(row).tolist() == [0, 0, 0, 6]


def test_nan_and_order(backend):
    x = gp.tensor([3.0, nan, 3.0, 5.0])
    values, places = gp.topk(x, 3)
    assert places.tolist() == [1, 3, 0] and values.tolist()[1:] == [5, 3]
    assert gp.topk(x, 2, largest=False)[1].tolist() == [0, 2]
    assert gp.argsort(x).tolist() == [0, 2, 3, 1]
    assert gp.sort(x).tolist()[:3] == [3, 3, 5]
    assert math.isnan(gp.max(x).item()) and math.isnan(gp.maximum(x, 9).tolist()[1])


def test_indices_named_twice_add_up(gradients):
    x = [[1.0, 2, 3], [4, 5, 6]]
    same(gradients(lambda x: x[[0, 0, 1]], x)[1], [[[2, 2, 2], [1, 1, 1]]])
    same(gradients(lambda x: x[[0, 0, 1], [2, 2, 0]], x)[1], [[[0, 0, 2], [1, 0, 0]]])
    same(gradients(lambda x: gp.gather(x, 1, gp.tensor([[0, 0], [2, 1]])), x)[1], [[[2, 0, 0], [0, 1, 1]]])
    same(gradients(lambda x: gp.take(x, gp.tensor([5, 5, 0])), x)[1], [[[1, 0, 0], [0, 0, 2]]])


# ---- what is kept ---------------------------------------------------------------------------------------------------

FORGETFUL = {
    "add": lambda x: x + 1, "multiply by a number": lambda x: x * 2, "floor": gp.floor, "sum": gp.sum, "mean": gp.mean,
    "cumsum": gp.cumsum, "take": lambda x: gp.take(x, 1, 0), "gather": lambda x: gp.gather(x, 0, gp.tensor([[0, 1]])),
    "pad": lambda x: gp.pad(x, 1, "edge"), "roll": lambda x: gp.roll(x, 1), "tile": lambda x: gp.tile(x, 2),
    "repeat": lambda x: gp.repeat(x, 2), "concatenate": lambda x: gp.concatenate([x, x]),
    "stack": lambda x: gp.stack([x, x]), "tril": gp.tril, "sort": gp.sort, "topk": lambda x: gp.topk(x, 2)[0],
    "where": lambda x: gp.where(gp.tensor(True), x, 0), "masked_fill": lambda x: gp.masked_fill(x, gp.tensor(True), 0),
    "index_add": lambda x: gp.index_add(x, 0, gp.tensor([0]), gp.ones((1, 3))), "exp": gp.exp, "tanh": gp.tanh,
    "sqrt": gp.sqrt, "sigmoid": gp.sigmoid, "comparison": lambda x: x > 0,
    "a product with a constant": lambda x: gp.matmul(x, gp.ones((3, 2))),
}


@pytest.mark.parametrize("f", FORGETFUL.values(), ids=FORGETFUL)
def test_the_pullback_keeps_no_array_that_it_does_not_read(f):
    x = gp.ones((3, 3), requires_grad=True) + 1
    array = weakref.ref(x.data)
    y = f(x)
    del x
    assert array() is None, "the input's array is still held"
    assert y is not None


# ---- dtypes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compute, dtype", [
    (lambda x, i, b: x + i, "float32"), (lambda x, i, b: i / x, "float32"), (lambda x, i, b: x * b, "float32"),
    (lambda x, i, b: i**x, "float32"), (lambda x, i, b: gp.where(b, x, i), "float32"), (lambda x, i, b: x > i, "bool"),
    (lambda x, i, b: gp.maximum(i, x), "float32"), (lambda x, i, b: x @ i, "float32"),
    (lambda x, i, b: 2.5 * x, "float32"), (lambda x, i, b: np.float64(2.5) * x, "float32"),
    (lambda x, i, b: gp.clip(x, 0.5, None), "float32"), (lambda x, i, b: x / x.size, "float32"),
    (lambda x, i, b: x.var(), "float32"), (lambda x, i, b: x.norm(3), "float32"), (lambda x, i, b: i + 1, "int64"),
    (lambda x, i, b: i / 2, "float64"), (lambda x, i, b: b.sum(), "int64"), (lambda x, i, b: x.argmax(), "int64"),
    (lambda x, i, b: gp.floor_divide(i, 2), "int64"), (lambda x, i, b: gp.where(b, 1.0, 0), "float32"),
])
def test_integers_and_numbers_do_not_widen(backend, compute, dtype):
    x, i, b = gp.tensor([1.0, 2.0, 4.0]), gp.tensor([1, 2, 3]), gp.tensor([True, False, True])
    assert compute(x, i, b).dtype == dtype


def test_plain_arrays_in_plain_arrays_out(backend):
    x = backend.asarray(np.arange(6.0).reshape(2, 3))
    several = *gp.topk(x, 2), *gp.split(x, 3, 1), *gp.chunk(x, 2)
    for y in (gp.exp(x), gp.einsum("ij->j", x), gp.pad(x, 1), gp.diag(x), gp.trace(x), *several):
        assert type(y) is backend.array_type


# ---- errors ---------------------------------------------------------------------------------------------------------

ERRORS = {  # of x, of shape (2, 3)
    "a list as an operand": (lambda x: gp.add(x, [1.0]), TypeError, "'x2' must be a Tensor, an array or a number"),
    "joining nothing": (lambda x: gp.concatenate([]), TypeError, "at least one"),
    "joining numbers": (lambda x: gp.stack([x, 1.0]), TypeError, "no numbers"),
    "overlapping parts": (lambda x: gp.split(x, [2, 1], 1), ValueError, "do not ascend"),
    "unequal parts": (lambda x: gp.split(x, 2, 1), ValueError, "size 3 has no 2 equal parts; see chunk"),
    "an axis too many": (lambda x: gp.take(x, 0, 2), ValueError, "axis 2 is out of bounds"),
    "an axis of transpose": (lambda x: gp.transpose(x, (0, 2)), ValueError, "axis 2 is out of bounds"),
    "an index outside": (lambda x: gp.take(x, gp.tensor([3]), 1), IndexError, "take: an index lies outside.*size 3"),
    "an index before": (lambda x: gp.gather(x, 1, gp.tensor([[-4]])), IndexError, "gather: an index lies outside"),
    "too many of the largest": (lambda x: gp.topk(x, 4), ValueError, "size 3 has no 4 elements"),
    "a mode of pad": (lambda x: gp.pad(x, 1, "mirror"), ValueError, "none of constant, edge"),
    "padding nothing": (lambda x: gp.pad(gp.ones((0,)), 1, "edge"), ValueError, "no element to pad it with"),
    "pairs of pad": (lambda x: gp.pad(x, ((1, 1),) * 3), ValueError, "3 pairs for an array of 2 axes"),
    "bmm of matrices": (lambda x: gp.bmm(x, x), ValueError, r"bmm takes \(B, N, K\)"),
    "diag of a stack": (lambda x: gp.diag(gp.ones((2, 2, 2))), ValueError, "a vector or a matrix, not 3 axes"),
    "tensordot": (lambda x: gp.tensordot(x, x, 1), ValueError, "different sizes"),
    "einsum, operands": (lambda x: gp.einsum("ij,jk", x), ValueError, "speaks of 2 operands, and 1 are given"),
    "einsum, axes": (lambda x: gp.einsum("ijk", x), ValueError, "'ijk'.*does not fit an array of 2 axes"),
    "einsum, too few": (lambda x: gp.einsum("i", x), ValueError, "does not fit"),
    "einsum, output": (lambda x: gp.einsum("ij->ik", x), ValueError, "one that no operand has"),
    "einsum, output twice": (lambda x: gp.einsum("ij->ii", x), ValueError, "names an axis twice"),
    "einsum, sizes": (lambda x: gp.einsum("ij,ij", x, gp.ones((2, 2))), ValueError, "'j' names axes of sizes 3 and 2"),
    "einsum, diagonal": (lambda x: gp.einsum("ii", x), ValueError, "'i' names axes of sizes 2 and 3"),
    "einsum, signs": (lambda x: gp.einsum("i?", x), ValueError, "does not fit"),
}


@pytest.mark.parametrize("call, error, message", ERRORS.values(), ids=ERRORS)
def test_errors_say_what_was_wrong(call, error, message):
    with pytest.raises(error, match=message):
        call(gp.ones((2, 3)))


def test_a_device_says_with_the_next_value_that_an_index_lay_outside(backend):
    x, index = gp.ones((2, 3)), gp.tensor([3])
    with pytest.raises(IndexError, match="take: an index lies outside"):
        gp.take(x, index, 1).numpy()


# ---- einsum ---------------------------------------------------------------------------------------------------------

SIZES = dict(zip("abcdij", (2, 3, 4, 5, 3, 2), strict=True))


@pytest.mark.parametrize("subscripts", [
    "ab->ba", "ab", "ba", "aa", "aab->b", "aba->ab", "ab->", "ab,bc", "ab,bc->ca", "ab,cd->adbc", "ab,ab", "ab,ab->a",
    "ab,b->a", "ab,cb,db->acd", "a,b,c->cab", "abc,abd->acd", "abc,dba->dc", "ab,bc,ca", "aab,bcc->ac", "bi,bj->ij",
    "ab,bc,cd,da->", "abcd,abcd,ab->cd", "a,a,a", "ab,ab,ab->ba",
])
def test_einsum(backend, subscripts, rng):
    shapes = [[SIZES[a] for a in term] for term in subscripts.partition("->")[0].split(",")]
    operands = [rng.standard_normal(s) for s in shapes]
    got = gp.einsum(subscripts, *map(backend.asarray, operands))
    np.testing.assert_allclose(backend.to_numpy(got), np.einsum(subscripts, *operands), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("subscripts, shapes", [
    ("...", [(2, 3)]), ("...a->a...", [(2, 3, 4)]), ("a...b->b...", [(2, 5, 3)]), ("...a->...", [(3,)]),
    ("...ab,...bc", [(2, 3, 4), (2, 4, 5)]), ("...ab,bc->...ca", [(2, 1, 3, 4), (4, 5)]), ("...,...", [(2, 3), (3,)]),
    ("...a,...a->...", [(2, 1, 3), (4, 3)]), ("a...,a...->...", [(2, 3), (2, 1)]), ("a,a", [(1,), (4,)]),
    ("ab,b...->a...", [(2, 3), (3, 4, 5)]), ("ab...,ab->...", [(2, 3), (2, 3)]), ("ab,ab->ab", [(2, 1), (1, 3)]),
])
def test_einsum_with_an_ellipsis_and_broadcasting(backend, subscripts, shapes, rng):
    operands = [rng.standard_normal(s) for s in shapes]
    got = gp.einsum(subscripts, *map(backend.asarray, operands))
    np.testing.assert_allclose(backend.to_numpy(got), np.einsum(subscripts, *operands), rtol=1e-12, atol=1e-12)


def test_einsum_can_be_captured():
    strict = gp.backend.get_backend("strict")
    a, b = (np.random.default_rng(i).standard_normal((2, 3, 3)) for i in range(2))
    on_device = strict.asarray(a), strict.asarray(b)
    with strict.record() as recording:
        y = gp.einsum("bij,bjk->bik", *on_device)
    recording.replay()
    np.testing.assert_allclose(strict.to_numpy(y), a @ b, rtol=1e-12)
