"""The operators and methods of Tensor, creation functions, and the type stub of the methods."""

import operator
import pickle

import declared_methods
import numpy as np
import pytest

import gpuprop as gp
from gpuprop import BackendMismatchError, Parameter, Tensor, _array, no_grad
from gpuprop._core.tree import tree_leaves
from gpuprop.testing.rows import all_rows

A = np.array([[1.0, -2.0, 3.0], [4.0, 5.0, -6.0]], "float32")


@pytest.fixture
def x(backend):
    return gp.tensor(A)


def equal(got, want):
    got = gp.asnumpy(got)
    assert got.dtype == np.asarray(want).dtype
    np.testing.assert_allclose(got, want, rtol=1e-6)


# ---- operators ---------------------------------------------------------------------------------


@pytest.mark.parametrize("op", [
    operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod])
@pytest.mark.parametrize("other", [2, 2.5, np.float32(2.5), np.array([2.0, 3.0, 4.0], "float32")])
def test_arithmetic_from_both_sides(x, op, other):
    on_device = gp.tensor(other).data if hasattr(other, "shape") and other.shape else other
    equal(op(x, on_device), op(A, other))
    equal(op(on_device, x), op(other, A))
    equal(op(x, gp.tensor(other, "float32")), op(A, np.float32(1) * other))


def test_powers(x):
    equal(x**2, A**2)
    equal(abs(x) ** 0.5, np.abs(A) ** 0.5)
    equal(2**x, 2**A)
    equal(abs(x) ** x, np.abs(A) ** A)


@pytest.mark.parametrize("op", [
    operator.and_, operator.or_, operator.xor, operator.lshift, operator.rshift])
def test_bits_from_both_sides(backend, op):
    i, j = np.array([1, 2, 7]), np.array([3, 1, 2])
    equal(op(gp.tensor(i), gp.tensor(j)), op(i, j))
    equal(op(gp.tensor(i), 2), op(i, 2))
    equal(op(5, gp.tensor(j)), op(5, j))


def test_signs_rounding_and_inversion(x):
    equal(-x, -A)
    equal(+x, A)
    equal(abs(x), abs(A))
    equal(round(x / 3, 1), np.round(A / 3, 1))
    equal(~(x > 0), ~(A > 0))
    for got, want in zip(divmod(x, 4), divmod(A, 4), strict=True):
        equal(got, want)
    for got, want in zip(divmod(4, x), divmod(4, A), strict=True):
        equal(got, want)


@pytest.mark.parametrize("op", [
    operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne])
def test_comparison(x, op):
    equal(op(x, 3), op(A, 3))
    equal(op(3, x), op(3, A))
    equal(op(x, -x), op(A, -A))
    assert not op(x, 3).requires_grad


def test_comparison_with_none_and_str_is_by_identity(x):
    assert (x == None) is False  # noqa: E711
    assert (x != "words") is True
    assert hash(x) != hash(gp.tensor(A))
    assert 5 in x and 7 not in x


def test_products(x):
    equal(x @ x.T, A @ A.T)
    equal(x.data.T @ x, A.T @ A)
    equal(x @ gp.tensor([1.0, 2.0, 3.0]), A @ np.array([1, 2, 3], "float32"))


def test_operators_are_recorded(backend):
    p = gp.tensor([2.0, 3.0], requires_grad=True)
    y = (1 - p) / (p + 1) * 2**p - p**-1
    (y % 10).sum().backward()
    a = np.array([2.0, 3.0])
    grad = -2 / (a + 1) ** 2 * 2**a + (1 - a) / (a + 1) * np.log(2) * 2**a + a**-2
    np.testing.assert_allclose(backend.to_numpy(p.grad), grad, rtol=1e-5)


def test_conversion_to_text_and_numbers(x):
    assert f"{x.sum():.2f}" == "5.00"
    assert f"{x[0]}".startswith("Tensor([ 1., -2.,  3.]")
    assert [int(row.sum()) for row in x] == [2, 3]


# ---- in place ----------------------------------------------------------------------------------


def test_augmented_assignment_makes_a_new_tensor(x):
    y = x
    y += 1
    y *= 2
    y -= 1
    y /= 2
    y **= 2
    equal(x, A)
    equal(y, ((A + 1) * 2 - 1) ** 2 / 4)


@pytest.mark.parametrize("update", [
    operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv,
    operator.imod, operator.ipow, operator.imatmul])
def test_augmented_assignment_to_a_leaf_with_a_gradient_raises(x, update):
    for leaf in (x.requires_grad_(), Parameter(A)):
        with pytest.raises(TypeError, match=r"\.data\[\.\.\.\]"):
            update(leaf, 2.0)


def test_asarray_without_a_copy_raises():
    equal(gp.tensor(A), np.asarray(gp.tensor(A)))
    with pytest.raises(ValueError, match="copy=False"):
        np.asarray(gp.tensor(A), copy=False)


def test_writing(x):
    x[0, 1] = 9
    x[1] = gp.tensor([7.0, 8.0, 9.0])
    x[:, 0] = np.array([-1.0, -2.0])
    x[x > 8.5] = np.float32(0)
    equal(x, np.array([[-1, 0, 3], [-2, 8, 0]], "float32"))
    equal(x.fill_(2), np.full_like(A, 2))
    equal(x.zero_(), np.zeros_like(A))
    equal(x.copy_(np.ones((2, 3))), np.ones_like(A))
    equal(x.copy_(gp.tensor(A).to("numpy")), A)


@pytest.mark.parametrize("write", [
    lambda t, v: t.__setitem__(0, v),
    lambda t, v: t.fill_(v),
    lambda t, v: t.zero_(),
    lambda t, v: t.copy_(v),
])
def test_writing_into_a_graph_raises(x, write):
    p = Parameter(A)
    for t, value in ((p, 1.0), (p * 2, 1.0), (gp.ones(3, requires_grad=True), 1.0)):
        with pytest.raises(TypeError, match=r"gpuprop\.where.*\.data\[\.\.\.\]"):
            write(t, value)
    with pytest.raises(TypeError, match="part of a graph"):
        x[0] = p[0]
    with no_grad():
        write(p, 1.0)


def test_writing_into_a_parameter_invalidates_graphs_that_read_it(backend):
    p = Parameter([1.0, 2.0])
    y = (p * p).sum()
    with no_grad():
        p.fill_(3.0)
    with pytest.raises(RuntimeError, match="changed by a step or a load"):
        y.backward()


# ---- indexing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [
    0, -1, (0, 2), slice(1, None), (..., 1), (None, 1), [1, 0, 1], (slice(None), [2, 0]),
    ([0, 1], [2, 2]), [], np.int64(1), ([0, 1], slice(None, None, -1)), (np.int32(1), 2), [-1],
])
def test_reading(x, key):
    equal(x[key], A[key])


def test_reading_by_tensors(x):
    rows, columns = gp.tensor([1, 0, 1]), gp.tensor([2, 2, 0])
    equal(x[rows], A[[1, 0, 1]])
    equal(x[rows, columns], A[[1, 0, 1], [2, 2, 0]])
    equal(x[:, columns], A[:, [2, 2, 0]])
    equal(x[x > 0], A[A > 0])
    equal(x[[True, False]], A[[True, False]])
    equal(x[range(2)], A)


def test_an_index_on_another_backend_raises():
    index = np.array([0, 1])
    with gp.use("strict"):
        x = gp.tensor(A)
        message = r"on 'strict:0'.*index.*on 'numpy'.*\.to\('strict:0'\)"
        with pytest.raises(BackendMismatchError, match=message):
            x[index]
        equal(x[gp.tensor(index)], A[index])


# ---- methods -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [
    "sum", "mean", "var", "std", "max", "min", "prod", "argmax", "argmin", "any", "all", "cumsum",
    "cumprod",
])
def test_reductions_agree_with_numpy(x, name):
    method, numpy_method = getattr(x, name), getattr(A, name)
    for axis in (0, -1):
        equal(method(axis), numpy_method(axis))
        equal(method(dim=axis), numpy_method(axis))
    equal(method(), numpy_method())
    if "cum" not in name:
        equal(method(1, keepdim=True), numpy_method(1, keepdims=True))


def test_pytorch_names(x):
    equal(x.sum(dim=(0, 1)), A.sum())
    equal(x.sum(dim=[0, 1]), A.sum())
    equal(x.std(1, correction=1), A.std(1, ddof=1))
    equal(x.view(3, 2), A.reshape(3, 2))
    equal(x.view((-1,)), A.ravel())
    equal(x.view(3, -1).reshape(2, 3), A)
    equal(x.permute(1, 0), A.T)
    equal(x.permute((1, 0)), A.T)
    equal(x.t(), A.T)
    equal(x.mT, A.T)
    equal(x.unsqueeze(1), A[:, None])
    equal(x.unsqueeze(dim=-1).squeeze(dim=-1), A)
    equal(x[:, None].expand(-1, 4, -1), np.broadcast_to(A[:, None], (2, 4, 3)))
    equal(x[0].expand_as(x), np.broadcast_to(A[0], (2, 3)))
    equal(x.reshape_as(x.T), A.reshape(3, 2))
    equal(x.flatten(), A.ravel())
    equal(x[None].flatten(start_dim=1), A.reshape(1, 6))
    equal(x.clamp(-1, 2), A.clip(-1, 2))
    equal(x.clamp(max=2), A.clip(None, 2))
    equal(x.masked_fill(x < 0, 0), np.where(A < 0, 0, A))
    equal(x.where(x > 0, -x), np.abs(A))
    equal(x.index_select(1, gp.tensor([2, 0])), A[:, [2, 0]])
    equal(x.gather(dim=1, index=gp.tensor([[0], [2]])), np.array([[1], [-6]], "float32"))
    added = np.eye(3, dtype="float32")[[0, 2]]
    equal(x.scatter_add(1, gp.tensor([[0], [2]]), gp.ones((2, 1))), A + added)
    equal(x.topk(2, dim=0, largest=False)[1], np.array([[0, 0, 1], [1, 1, 0]]))
    equal(x.argsort(descending=True), np.argsort(-A))
    equal(x.norm(dim=1), np.linalg.norm(A, axis=1))
    equal(x.flip(0), A[::-1])
    equal(x.flip(dims=(0, 1)), A[::-1, ::-1])
    equal(x.roll(1, dims=0), A[::-1])
    equal(x.repeat_interleave(2, dim=0), A.repeat(2, 0))
    equal(x.repeat_interleave(gp.tensor([1, 2]), 0), A.repeat([1, 2], 0))
    equal(x.mul(2).add(1).sub(1).div(2).pow(2), A**2)
    equal(x.mm(x.T), A @ A.T)
    equal(x.relu(), A.clip(0))
    assert (x.dim(), x.numel(), x.is_leaf, x.contiguous() is x) == (2, 6, True, True)


def test_parts(x):
    for got, want in (
        (x.unbind(), A),
        (x.unbind(dim=1), A.T),
        (x.chunk(2, dim=1), (A[:, :2], A[:, 2:])),
        (x.split(2, 1), (A[:, :2], A[:, 2:])),
        (x.split([1, 2], dim=1), (A[:, :1], A[:, 1:])),
    ):
        for g, w in zip(got, want, strict=True):
            equal(g, w)
    with pytest.raises(ValueError, match="do not add up"):
        x.split([1, 1], 1)


def test_size_is_a_number_and_a_method(x):
    assert (x.size, x.size(), x.size(0), x.size(-1)) == (6, (2, 3), 2, 3)
    equal(x / x.size, A / 6)
    equal(x.size * x, 6 * A)
    assert (A / x.size).dtype == "float32" and (x.size * A).dtype == "float32"
    assert type(x.size // 2) is int and type(pickle.loads(pickle.dumps(x.size))) is int
    assert gp.zeros((2, x.size)).shape == gp.zeros(2, x.size).shape == (2, 6)
    assert gp.nn.Linear(x.size, 1).in_features == 6


@pytest.mark.parametrize("call, message", [
    (lambda x: x.transpose(0, 1), r"swapaxes\(0, 1\)"),
    (lambda x: x[None].transpose(1, 2), r"swapaxes\(1, 2\)"),
    (lambda x: x.repeat(2, 1), r"tile\(2, 1\)"),
    (lambda x: x.sort(), r"gpuprop\.sort"),
    (lambda x: x.view("int32"), "astype"),
])
def test_ambiguous_calls_raise_and_name_alternatives(x, call, message):
    with pytest.raises(TypeError, match=message):
        call(x)


def test_unambiguous_calls(x):
    equal(x.transpose(), A.T)
    equal(x.transpose(1, 0), A.T)
    equal(x.transpose((0, 1)), A)
    equal(x[None].transpose(2, 0, 1), A[None].transpose(2, 0, 1))
    equal(x.swapaxes(0, 1), A.T)
    equal(x.repeat(2, axis=1), A.repeat(2, 1))
    equal(x.repeat(2, axis=None), A.repeat(2))


# ---- dtypes and devices ------------------------------------------------------------------------


def test_dtypes(x):
    for method, dtype in (
        ("float", "float32"), ("double", "float64"), ("half", "float16"),
        ("long", "int64"), ("int", "int32"), ("bool", "bool"),
    ):
        assert getattr(x, method)().dtype == dtype
        assert x.to(dtype).dtype == dtype
    for y in (x.astype("float64"), x.to(dtype=np.float64), x.type_as(gp.tensor(1.0, "float64"))):
        assert y.dtype == "float64"
    assert x.to("float32") is x


def test_gradients_pass_casts_and_copies(backend):
    p = gp.tensor([1.5, 2.5], requires_grad=True)
    (p.double().clone() * 3).sum().backward()
    assert p.grad.dtype == "float32" and gp.asnumpy(p.grad).tolist() == [3, 3]
    assert not p.long().requires_grad


def test_gradients_return_from_another_backend(backend):
    p = gp.tensor([1.0, 2.0], requires_grad=True)
    y = (p * 2).to("numpy" if backend.name != "numpy" else "strict")
    assert y.device != p.device
    (y * y).sum().to(p.device).backward()
    assert gp.asnumpy(p.grad).tolist() == [8, 16]
    assert p.to(p.device) is p and p.to(p) is p
    assert p.cpu().device == "numpy" and p.to("cpu", "float64").dtype == "float64"


def test_second_derivatives_pass_a_move(backend):
    other = "numpy" if backend.name != "numpy" else "strict"
    x = backend.asarray(np.array([2.0, 3.0]))
    got = gp.grad(lambda x: gp.grad(lambda x: (x.to(other) ** 3).sum())(x).sum())(x)
    assert backend.to_numpy(got).tolist() == [12, 18]


def test_moving_without_a_graph(backend):
    p = gp.tensor([1.0], requires_grad=True)
    with no_grad():
        assert p.to("strict" if backend.name == "numpy" else "numpy").node is None


# ---- creation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("make, want", [
    (lambda: gp.zeros((2, 3)), np.zeros((2, 3), "float32")),
    (lambda: gp.ones(2), np.ones(2, "float32")),
    (lambda: gp.full((2,), 2.5), np.full(2, 2.5, "float32")),
    (lambda: gp.full((2,), 2), np.full(2, 2)),
    (lambda: gp.full(2, True), np.full(2, True)),
    (lambda: gp.arange(3), np.arange(3)),
    (lambda: gp.arange(1, 2, 0.25), np.arange(1, 2, 0.25, "float32")),
    (lambda: gp.arange(1, 7, 2), np.arange(1, 7, 2)),
    (lambda: gp.eye(2), np.eye(2, dtype="float32")),
    (lambda: gp.linspace(0, 1, 5), np.linspace(0, 1, 5, dtype="float32")),
    (lambda: gp.eye(2, 3, "float64"), np.eye(2, 3)),
    (lambda: gp.zeros((), "int64"), np.zeros((), "int64")),
])
def test_creation(backend, make, want):
    made = make()
    assert type(made.data) is backend.array_type and not made.requires_grad
    equal(made, want)


def test_creation_like_another(x):
    full_like = lambda x, dtype=None: gp.full_like(x, 7, dtype)
    for like, number in ((gp.zeros_like, 0), (gp.ones_like, 1), (full_like, 7)):
        equal(like(x), np.full_like(A, number))
        equal(like(x, "int64"), np.full_like(A, number, "int64"))
        assert type(like(x.data)) is type(x.data)
        assert isinstance(like(x), Tensor)


def test_creation_on_another_device():
    assert gp.zeros(2, device="strict").device.startswith("strict")
    assert gp.zeros(2).device == "numpy"
    assert gp.ones(2, requires_grad=True).requires_grad
    assert gp.empty((2, 3)).shape == (2, 3)
    with pytest.raises(TypeError, match="only floating-point"):
        gp.zeros(2, "int64", requires_grad=True)


# ---- names and types ---------------------------------------------------------------------------

# ---- 0-d arrays: NumPy's functions return scalars in their place ---------------------------------


SCALARS = {
    "operator": lambda a: a * 2,
    "sign": lambda a: -a,
    "ufunc": lambda a: abs(a),
    "reduction": lambda a: a.sum(),
    "mean": lambda a: a.reshape(1).mean(),
    "index": lambda a: a[()],
    "element": lambda a: a.reshape(1)[0],
    "product": lambda a: a.reshape(1) @ a.reshape(1),
    "astype": lambda a: (a * 2).astype("float32"),
    "extremum": lambda a: a.max(),
}


@pytest.mark.parametrize("how", SCALARS)
def test_data_and_grad_are_arrays(backend, how):
    make = SCALARS[how]
    p = Parameter(np.float32(2.0))
    optimizer = gp.optim.SGD([p], lr=1.0)
    p.data = make(p.data)
    value = p.item()
    assert type(p.data) is backend.array_type and p.shape == ()
    p.touch()
    (p * 3).backward()
    p.grad = make(p.grad)
    assert type(p.grad) is backend.array_type
    p.data[...] -= 1
    p.data -= 0
    gradient = float(gp.asnumpy(p.grad))
    optimizer.step()
    assert p.item() == value - 1 - gradient and type(p.data) is backend.array_type
    p.data = make(p.data)
    optimizer.step()  # copies it into the arena
    p.register_hook(make)
    (p * 1).backward()
    optimizer.step()
    t = Tensor(make(p.data))
    assert type(t.data) is type(t.numpy()) is backend.array_type or backend.name != "numpy"
    assert type(pickle.loads(pickle.dumps(p)).data) is type(p.data) is backend.array_type


def test_ops_of_0d_arrays_return_arrays():
    """Every op, forward and backward, with each of its inputs as it is and with one element."""
    passes = 0
    for row in all_rows():
        for zero_d in (False, True):
            inputs = []

            def convert(a, zero_d=zero_d, inputs=inputs):
                a = a.flat[:1].reshape(()) if zero_d and a.size else np.array(a)
                inputs.append(Tensor(a, requires_grad=a.dtype.kind == "f"))
                return inputs[-1]

            try:
                with np.errstate(all="ignore"):
                    outputs = [t for t in tree_leaves(row.map_arrays(convert)())
                               if isinstance(t, Tensor)]
                    for t in outputs:
                        if t.requires_grad:
                            t.sum().backward(retain_graph=True)
            except Exception:  # a shape that it does not take, or an input without a gradient
                continue
            passes += 1
            found = [t.data for t in (*outputs, *inputs)]
            found += [t.grad for t in inputs if t.grad is not None]
            assert {type(a) for a in found} <= {np.ndarray}, row
    assert passes > 1500, passes


@pytest.mark.filterwarnings("ignore")
def test_methods_of_0d_tensors_return_arrays():
    for name in dir(Tensor):
        if name.startswith("__") and name not in ("__neg__", "__pos__", "__abs__", "__invert__"):
            continue
        for a in (np.array(2.0), np.array(3), np.array(True)):
            t = Tensor(a)
            try:
                result = getattr(t, name)
                result = result() if callable(result) else result
            except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
                continue
            for leaf in tree_leaves(result):
                assert not isinstance(leaf, np.generic), name
                assert not isinstance(leaf, Tensor) or type(leaf.data) is np.ndarray, name



def test_the_type_stub_of_the_methods_is_up_to_date():
    assert declared_methods.STUB.read_text() == declared_methods.stub(), \
        "run tests/declared_methods.py"


def test_the_package_lists_the_names_of_its_modules():
    modules = [vars(_array)[name] for name in (
        "activation", "arithmetic", "comparison", "creation", "indexing", "mathematics",
        "products", "reduction", "shape",
    )]
    assert sorted(_array.__all__) == sorted(name for module in modules for name in module.__all__)
    assert set(_array.__all__) <= set(gp.__all__)
