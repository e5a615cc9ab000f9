"""What becomes a Tensor, what is refused, and which argument the message names."""

import inspect
import re

import numpy as np
import pytest

import gpuprop
import gpuprop.functional as F
from gpuprop import nn
from gpuprop.nn._transformer import TransformerLayer
from gpuprop.testing import all_rows

ROWS = all_rows()


class TestGradientsAreNotLost:
    """NumPy's functions and `tensor` read the values of a tensor, but not its history."""

    CONVERSIONS = {
        "asarray": np.asarray,
        "array": np.array,
        "stack": lambda t: np.stack([t, t]),
        "concatenate": lambda t: np.concatenate([t, t]),
        "vstack": lambda t: np.vstack([t, t]),
        "list": lambda t: np.asarray([t, t]),
        "tensor": lambda t: gpuprop.tensor([t, t]),
        "nested": lambda t: gpuprop.tensor([[t[0], 1.0], [2.0, 3.0]]),
        "Parameter": lambda t: nn.Parameter([t, t]),
        "full": lambda t: gpuprop.full((2, 2), t),
        "write": lambda t: gpuprop.zeros(2, 2).copy_([t, t]),
    }

    @pytest.mark.parametrize("convert", CONVERSIONS.values(), ids=CONVERSIONS)
    def test_refused(self, convert, backend):
        t = gpuprop.tensor([1.0, 2.0], requires_grad=True) * 2
        with pytest.raises((RuntimeError, TypeError), match=r"gpuprop\.stack") as error:
            convert(t)
        assert "detach" in str(error.value)

    def test_allowed(self):
        t = gpuprop.tensor([1.0, 2.0], requires_grad=True) * 2
        np.testing.assert_array_equal(t.numpy(), [2, 4])
        np.testing.assert_array_equal(np.asarray(t.detach()), [2, 4])
        assert gpuprop.tensor([t.detach(), [1, 2]]).tolist() == [[2, 4], [1, 2]]
        with gpuprop.no_grad():
            np.testing.assert_array_equal(np.stack([t * 1, t * 2]), [[2, 4], [4, 8]])


NO_NUMBERS = {
    "object": np.array([1, None], object),
    "str": np.array(["a", "b"]),
    "bytes": np.array([b"1", b"2"]),
    "datetime": np.array(["2020-01-01"], "M8[D]"),
    "timedelta": np.array([1], "m8[s]"),
    "structured": np.array([(1, 2.0)], [("a", "i4"), ("b", "f4")]),
    "void": np.array([b"ab"], "V2"),
    "complex": np.array([1j]),
    "longdouble": np.array([1.0], np.longdouble),
}
ENTRIES = {
    "Tensor": gpuprop.Tensor,
    "tensor": gpuprop.tensor,
    "tensor(dtype)": lambda a: gpuprop.tensor(a, dtype="float32"),
    "tensor of a list": lambda a: gpuprop.tensor(list(a)),
    "Parameter": nn.Parameter,
    "buffer": lambda a: nn.Module().register_buffer("b", gpuprop.tensor(a)),
    "op": gpuprop.exp,
    "second argument": lambda a: gpuprop.add(gpuprop.ones(1), a),
    "operator": lambda a: gpuprop.ones(1) + a,
    "composed": lambda a: F.mse_loss(a, a),
    "layer": lambda a: nn.Linear(1, 1)(a),
    "option": lambda a: nn.CrossEntropyLoss(weight=a),
    "write": lambda a: gpuprop.zeros(2).copy_(a),
    "item": lambda a: gpuprop.zeros(2).__setitem__(0, a),
    "backward": lambda a: gpuprop.zeros(len(a), requires_grad=True).backward(a),
}


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
@pytest.mark.parametrize("array", NO_NUMBERS.values(), ids=NO_NUMBERS)
def test_arrays_that_are_no_numbers(array, entry):
    with pytest.raises(TypeError) as error:
        entry(array)
    assert "to(dtype=" not in str(error.value)


@pytest.mark.parametrize("array", NO_NUMBERS.values(), ids=NO_NUMBERS)
def test_the_message_names_dtype_and_argument(array):
    with pytest.raises(TypeError, match=r"exp\(\): 'x' has dtype .*bool, integer or floating"):
        gpuprop.exp(array)
    with pytest.raises(TypeError, match=re.escape(str(array.dtype))):
        gpuprop.tensor(array)


@pytest.mark.parametrize("dtype", ["object", "S3", "U3", "M8[s]", "complex64", "V4", object, str,
                                   "longdouble", "float31", 3, [("a", "i4")]])
def test_dtypes_that_tensors_cannot_have(dtype):
    t = gpuprop.ones(2)
    calls = [
        lambda: gpuprop.tensor([1], dtype=dtype),
        lambda: t.astype(dtype),
        lambda: t.to(dtype=dtype),
        lambda: gpuprop.zeros(2, dtype=dtype),
        lambda: gpuprop.full_like(t, 1, dtype),
        lambda: gpuprop.arange(3, dtype=dtype),
        lambda: nn.Linear(2, 2, dtype=dtype),
        lambda: nn.Linear(2, 2).to(dtype=dtype),
        lambda: gpuprop.random.normal(2, dtype=dtype),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="dtype"):
            call()


def test_lists_without_a_common_shape():
    with pytest.raises(ValueError, match="pad_sequence"):
        gpuprop.tensor([[1.0, 2.0], [3.0]])
    with pytest.raises(TypeError, match="NoneType"):
        gpuprop.tensor([1.0, None])
    with pytest.raises(TypeError, match="dict"):
        gpuprop.tensor({"a": 1})
    with pytest.raises(TypeError, match="64 bits"):
        gpuprop.tensor([2**70])


@pytest.mark.filterwarnings("ignore:the matrix subclass")
def test_subclasses_of_arrays():
    matrix = np.matrix([[1.0, 2.0]])
    assert type(gpuprop.tensor(matrix).data) is np.ndarray
    assert type(gpuprop.Tensor(matrix).data) is np.ndarray
    assert type(gpuprop.exp(matrix)) is np.ndarray
    for make in (gpuprop.tensor, gpuprop.Tensor, gpuprop.exp, nn.Parameter):
        with pytest.raises(TypeError, match="filled"):
            make(np.ma.masked_array([1.0], [True]))


# ---- byte order ----------------------------------------------------------------------------------


KERNELS = {"gpuprop.functional:update_running_stats", "gpuprop.functional:count_batch"}  # in place


def swapped(a):
    return a.astype(a.dtype.newbyteorder()) if a.dtype.itemsize > 1 else a


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value")
@pytest.mark.parametrize("row", [pytest.param(r, id=f"{i}-{r!r}") for i, r in enumerate(ROWS)
                                 if r.name not in KERNELS])
def test_byte_order(row):
    """Every op computes the same from arrays of another machine's byte order."""
    gpuprop.manual_seed(0)
    expected = row()
    gpuprop.manual_seed(0)
    given = row.map_arrays(swapped)
    assert all(a.dtype.itemsize == 1 or not a.dtype.isnative for a in given.arrays())
    got = given()
    for a, b in zip(*(v if isinstance(v, tuple) else (v,) for v in (expected, got)), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
        is_input = any(b is x for x in given.arrays())  # as of dropout in eval mode
        assert is_input or np.asarray(b).dtype.isnative


@pytest.mark.parametrize("code", ["f2", "f4", "f8", "i2", "i4", "i8", "u8"])
def test_byte_order_of_tensors(code, backend):
    a = np.arange(3).astype(f">{code}")
    makes = [gpuprop.tensor, gpuprop.Tensor] + [nn.Parameter] * (code[0] == "f")
    for make in makes:
        assert make(a).dtype == np.dtype(code) and make(a).dtype.isnative
        assert make(a).tolist() == [0, 1, 2]
    assert gpuprop.zeros(3, dtype=f">{code}").dtype.isnative
    assert gpuprop.tensor([1], dtype=f">{code}").dtype.isnative


# ---- arguments that are no arrays ----------------------------------------------------------------

WRONG = {"None": None, "text": "text", "object": object(), "module": nn.Linear(2, 2),
         "dict": {"a": 1}, "set": {1}}
OTHER_NAMES = {"true_divide": "divide", "mod": "remainder"}  # function -> the op that it calls
NOT_USED = {  # (function, argument): not used in the first row, or a number
    ("instance_norm", "momentum"), ("batch_norm", "momentum"),
    ("instance_norm", "running_var"), *(
        ("multi_head_attention_forward", f"{name}_proj_weight") for name in "qkv")}


def public_functions():
    rows = {}
    for row in ROWS:
        if all(a.size for a in row.arrays()):
            rows.setdefault(row.op, row)
    for package in (F, gpuprop):
        for name in package.__all__:
            if getattr(package, name) in rows:
                yield name, rows[getattr(package, name)]


@pytest.mark.parametrize(("name", "row"), [pytest.param(*p, id=p[0]) for p in public_functions()])
def test_arguments_that_are_no_arrays(name, row):
    signature = inspect.signature(row.op)
    given = signature.bind(*row.args, **row.kwargs).arguments
    for parameter in signature.parameters.values():
        annotation = str(parameter.annotation)
        if "Array" not in annotation or (name, parameter.name) in NOT_USED:
            continue
        may_be_none = parameter.default is None or "None" in annotation
        for wrong in WRONG.values():
            if wrong is None and may_be_none:
                continue
            if name in ("concatenate", "stack") and not isinstance(wrong, str):
                continue  # as any sequence; Python says that it is not iterable
            with pytest.raises(TypeError) as error:
                row.op(**{**given, parameter.name: wrong})
            assert OTHER_NAMES.get(name, name) in str(error.value)
            assert parameter.name in str(error.value)


def rows_with_axes():
    for name, _ in public_functions():
        op = getattr(gpuprop, name, None)
        rows = [row for row in ROWS if row.op is op]
        words = getattr(op, "pytorch_names", {})
        for word, numpy_name in words.items():
            given = [inspect.signature(op).bind(*row.args, **row.kwargs).arguments for row in rows]
            used = next((g for g in given if numpy_name in g), None)
            if used:
                yield pytest.param(op, used, word, numpy_name, id=f"{name}-{word}")


@pytest.mark.parametrize(("op", "given", "word", "numpy_name"), list(rows_with_axes()))
def test_axes_in_the_words_of_pytorch(op, given, word, numpy_name):
    axis = given[numpy_name]
    others = {name: value for name, value in given.items() if name != numpy_name}
    expected = op(**given)
    np.testing.assert_equal(op(**others, **{word: axis}), expected)
    if type(axis) is tuple:
        np.testing.assert_equal(op(**others, **{word: list(axis)}), expected)
    with pytest.raises(TypeError, match=rf"{op.__name__}\(\) .*{numpy_name}.*{word}"):
        op(**given, **{word: axis})


def test_all_functions_with_an_axis_take_the_words_of_pytorch():
    tested = {op for op, *_ in (p.values for p in rows_with_axes())}
    for name in gpuprop.__all__:
        f = getattr(gpuprop, name)
        if callable(f) and not isinstance(f, type) and "axis" in inspect.signature(f).parameters:
            assert f in tested or name in ("chunk", "index_select", "argsort", "argmax", "argmin",
                                           "count_nonzero", "all", "any"), name
            assert f.pytorch_names["dim"] == "axis"


LAYER_ARGUMENTS = ((), (1,), (1, 1), (1, 1, 1), (4, 2, 8))


def layers():
    """All layers of one or more inputs that can be made of ones, by name."""
    for name in nn.__all__:
        cls = getattr(nn, name)
        if not (isinstance(cls, type) and issubclass(cls, nn.Module)) or name in (
                "Module", "Function", "Loss", "Identity", "Sequential"):
            continue
        for arguments in LAYER_ARGUMENTS:
            try:
                layer = cls(*arguments)
            except (AttributeError, TypeError, ValueError):
                continue
            parameters = inspect.signature(
                cls.function if hasattr(cls, "function") else layer.forward).parameters.values()
            inputs = [p for p in parameters if p.default is p.empty and p.kind in (
                p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and not hasattr(layer, p.name)]
            if inputs:
                yield pytest.param(layer, [p.name for p in inputs], id=name)
            break


@pytest.mark.parametrize(("layer", "inputs"), [*layers()])
def test_inputs_of_layers_that_are_no_arrays(layer, inputs):
    for wrong in [*WRONG.values(), [1.0, 2.0]]:
        with pytest.raises(TypeError) as error:
            layer(*[wrong] * len(inputs))
        assert error.value.__notes__[0].startswith(f"in {type(layer).__name__}")
        if isinstance(layer, TransformerLayer):  # its attention fails, and names its own input
            continue
        assert type(layer).__name__ in str(error.value)
        assert any(name in str(error.value) for name in inputs)


@pytest.mark.parametrize("dtype", ["float32", ">f4", np.dtype("f4").newbyteorder("=")], ids=repr)
def test_equal_dtypes_are_one_object(dtype):
    """The engine compares dtypes by `is`, and would cast every gradient otherwise."""
    one = np.dtype("float32")
    assert gpuprop.zeros(2, dtype=dtype).dtype is one
    assert gpuprop.nn.Linear(2, 2, dtype=dtype).weight.dtype is one
    assert gpuprop.tensor(np.zeros(2, ">f4")).dtype is one
    assert gpuprop.relu(np.zeros(2, ">f4")).dtype is one
