"""Wrong arguments of every public function and method: a call succeeds or names what is wrong.

Each argument of a valid call is replaced in turn by values that it hardly takes.
"""

import gc
import inspect
import math
import re
import weakref

import numpy as np
import pytest
from time_limit import time_limit

import gpuprop
import gpuprop.functional as F
from gpuprop.nn import utils
from gpuprop.testing import all_rows

WRONG = {"None": None, "text": "text", "object": object(), "-1": -1, "nan": math.nan,
         "10**30": 10**30, "empty": [], "True": True, "dict": {"a": 1}}
REFUSALS = (TypeError, ValueError, IndexError, OverflowError, MemoryError, RuntimeError)
RAW = re.compile(r"object has no attribute|object is not|'NoneType'|unsupported operand|has no len|"
                 r"must be an iterable|missing \d required|unexpected keyword")
OTHER_NAMES = {  # in messages, of the function that does the work
    "abs": "absolute", "true_divide": "divide", "mod": "remainder", "tensor": "tensor|dtype",
    "value_and_grad": "(value_and_)?grad", "manual_seed": "Generator", "use": "backend|device",
    "set_default_backend": "backend|device", "to": "backend|device|dtype", "permute": "transpose",
    "view": "view|reshape", "view_as": "reshape_as", "repeat_interleave": "repeat",
    "expand": "expand|broadcast_to", "__getitem__": "indices|index",
    "summary": "summary|linear|zeros",
    **dict.fromkeys(("copy_", "fill_", "__setitem__"), "write|broadcast|indices|index"),
}


def check(name, argument, call):
    """Run a call with a wrong argument: it succeeds, or its error names the call.

    A TypeError also names the argument; other errors may be about several arguments.
    """
    try:
        with time_limit(), np.errstate(all="ignore"):
            call()
        return
    except REFUSALS as error:
        refused = error
    if isinstance(refused, MemoryError):
        return
    message = str(refused)
    assert not RAW.search(message), message
    assert re.search(rf"\b({OTHER_NAMES.get(name, name)})\b", message), message
    if isinstance(refused, TypeError):
        assert argument in message, message


# ---- functions -----------------------------------------------------------------------------------


def functions_with_rows():
    rows = {}
    for row in all_rows():
        if all(a.size for a in row.arrays()):
            rows.setdefault(id(row.op), []).append(row)
    for package in (F, gpuprop):
        for name in package.__all__:
            for i, row in enumerate(rows.get(id(getattr(package, name)), ())[:2]):
                yield pytest.param(name, row, id=f"{name}-{i}")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "row"), [*functions_with_rows()])
def test_functions(name, row):
    bound = inspect.signature(row.op).bind(*row.args, **row.kwargs)
    bound.apply_defaults()
    for argument in bound.arguments:
        for wrong in WRONG.values():
            given = {**bound.arguments, argument: wrong}
            operands = given.pop("operands", ())  # of einsum
            if name == "einsum":
                operands = operands if isinstance(operands, tuple) else (wrong,)
                given = {"subscripts": given["subscripts"]}
                check(name, argument, lambda g=given, o=operands: row.op(*g.values(), *o))
            else:
                check(name, argument, lambda g=given: row.op(**g))


T = gpuprop.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
A = T.numpy()
LABELS = np.array([0, 1])
WITHOUT_ROWS = {  # valid calls of the functions that no row calls
    "alibi_slopes": (F.alibi_slopes, {"num_heads": 2}),
    "arange": (gpuprop.arange, {"start": 1, "stop": 5, "step": 2, "dtype": "int64",
                                "device": None}),
    "linspace": (gpuprop.linspace, {"start": 0, "stop": 1, "num": 3, "dtype": "float32",
                                    "device": None}),
    "eye": (gpuprop.eye, {"n": 2, "m": 3, "dtype": "float32", "device": None}),
    "full": (gpuprop.full, {"shape": (2, 3), "value": 1.0, "dtype": None, "device": None,
                            "requires_grad": False}),
    **{name: (lambda shape, name=name, **options: getattr(gpuprop, name)(shape, **options),
              {"shape": (2, 3), "dtype": "float32", "device": None, "requires_grad": False})
       for name in ("zeros", "ones", "empty")},
    **{name: (getattr(gpuprop, name), {"x": A, "dtype": None})
       for name in ("zeros_like", "ones_like")},
    "full_like": (gpuprop.full_like, {"x": A, "value": 1.0, "dtype": None}),
    "tensor": (gpuprop.tensor, {"value": A, "dtype": None, "requires_grad": False}),
    "asnumpy": (gpuprop.asnumpy, {"value": T}),
    "from_dlpack": (gpuprop.from_dlpack, {"x": A}),
    "get_array_module": (lambda values: gpuprop.get_array_module(values), {"values": A}),
    "autocast": (gpuprop.autocast, {"dtype": "bfloat16", "enabled": True}),
    "grad": (gpuprop.grad, {"f": gpuprop.sum, "argnum": 0}),
    "value_and_grad": (gpuprop.value_and_grad, {"f": gpuprop.sum, "argnum": 0}),
    "capture": (gpuprop.capture, {"step": lambda x: x}),
    "debug": (gpuprop.debug, {"nan": False}),
    "summary": (lambda model, input_shapes, dtype=None: gpuprop.summary(
        model, input_shapes, dtype=dtype),
        {"model": gpuprop.nn.Linear(3, 2), "input_shapes": (1, 3), "dtype": None}),
    "load": (gpuprop.load, {"path": "no_such_file.npz"}),
    "manual_seed": (gpuprop.manual_seed, {"seed": 0}),
    "set_default_backend": (gpuprop.set_default_backend, {"name": "numpy", "device": None}),
    "use": (lambda name, device: gpuprop.use(name, device=device),
            {"name": "numpy", "device": None}),
    "set_num_threads": (gpuprop.set_num_threads, {"n": gpuprop.get_num_threads()}),
    "verify": (gpuprop.verify, {"make_run": lambda: None, "steps": 1, "seed": 0}),
    "anchor_boxes": (F.anchor_boxes, {"image_size": (8, 8), "grid_size": (2, 2),
                                      "sizes": (4.0,), "aspect_ratios": (1.0,)}),
    "clip_grad_norm_": (utils.clip_grad_norm_, {
        "parameters": [T], "max_norm": 1.0, "norm_type": 2.0, "error_if_nonfinite": False}),
}
NO_ARGUMENTS = {"backends", "generic", "get_num_threads", "is_grad_enabled", "no_sync",
                "show_config"}
DECORATORS = {"enable_grad", "kernel", "no_grad", "op", "pointwise"}  # tests of their own
WRITES = {"save"}


def test_every_function_has_a_call():
    known = {p.values[0] for p in functions_with_rows()} | {*WITHOUT_ROWS}
    missing = {name for package in (F, gpuprop) for name in package.__all__
               if inspect.isfunction(getattr(package, name))}
    assert missing - known == NO_ARGUMENTS | DECORATORS | WRITES


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", WITHOUT_ROWS)
def test_functions_without_rows(name, restored_backend):
    function, valid = WITHOUT_ROWS[name]
    for argument in valid:
        for wrong in WRONG.values():
            check(name, argument, lambda a=argument, w=wrong: function(**{**valid, a: w}))


@pytest.fixture
def restored_backend():
    yield
    gpuprop.set_default_backend("numpy")


# ---- methods of Tensor that are not simply one of these functions --------------------------------

METHODS = {  # name -> valid calls: positional arguments
    "__getitem__": [(0,), ((0, slice(1)),)],
    "__setitem__": [(0, 1.0)],
    "argsort": [(0, True)],
    "backward": [(A, False)],
    "copy_": [(A,)],
    "cuda": [],
    "expand": [(2, 3), ((2, 3),)],
    "expand_as": [(A,)],
    "fill_": [(1.0,)],
    "flip": [(0,), ((0, 1),)],
    "permute": [(1, 0), ((1, 0),)],
    "register_hook": [(lambda g: g,)],
    "register_post_accumulate_grad_hook": [(lambda t: None,)],
    "repeat": [],
    "repeat_interleave": [(2, 0)],
    "requires_grad_": [(True,)],
    "reshape": [(3, 2), ((3, 2),)],
    "reshape_as": [(A,)],
    "sort": [],
    "split": [(1, 0), ([1, 1], 0)],
    "to": [("numpy", "float64")],
    "transpose": [(1, 0), ((1, 0),)],
    "type_as": [(T,)],
    "view": [(3, 2), ((3, 2),)],
    "view_as": [(A,)],
    "where": [(A > 1, 0.0)],
}
PRIVATE = {"receive"}


def test_every_method_has_a_call():
    functions = {id(inspect.unwrap(getattr(package, name)))
                 for package in (F, gpuprop) for name in package.__all__
                 if inspect.isfunction(getattr(package, name))}
    own = {name for name in dir(gpuprop.Tensor) if not name.startswith("_")
           and inspect.isfunction(method := getattr(gpuprop.Tensor, name))
           and id(inspect.unwrap(method)) not in functions
           and len(inspect.signature(method).parameters) > 1}
    assert own - PRIVATE == METHODS.keys() - {"__getitem__", "__setitem__"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", METHODS)
def test_methods(name):
    for valid in METHODS[name]:
        for i in range(len(valid)):
            for wrong in WRONG.values():
                t = gpuprop.tensor(A, requires_grad=name == "backward")
                given = (*valid[:i], wrong, *valid[i + 1:])
                check(name, "", lambda t=t, g=given: getattr(t, name)(*g))


# ---- examples ------------------------------------------------------------------------------------


X = np.ones((1, 2, 4, 4), "float32")
LABELS = np.array([0, 1])


@pytest.mark.parametrize(("call", "message"), [
    (lambda: F.layer_norm(X, 4, weight=1.0), "layer_norm.*: weight must be a Tensor or an array"),
    (lambda: F.binary_cross_entropy_with_logits(X, X, pos_weight=2.0), "pos_weight must be a Ten"),
    (lambda: F.conv2d(X, X, bias=1.0), "conv2d.*: bias must be a Tensor or an array, not float"),
    (lambda: F.conv2d(X, 2.0), "conv2d.*: weight must be a Tensor or an array, not float"),
    (lambda: F.scaled_dot_product_attention(X, X, X, 1.0), "attn_mask must be a Tensor"),
    (lambda: F.cross_entropy(X[0, 0], 1.0), "cross_entropy.*: target must be a Tensor"),
    (lambda: F.layer_norm(X, None), "layer_norm: normalized_shape must be an integer, got None"),
    (lambda: F.pad(X, 1), "pad: pad must be a sequence of integers, got 1"),
    (lambda: F.interpolate(X, size=2.5), "interpolate: size must be an integer, got 2.5"),
    (lambda: gpuprop.dot(None, X), r"dot\(\): a is None, but must be an array"),
    (lambda: gpuprop.split(X, 0), "split: indices_or_sections must be .* at least 1, got 0"),
    (lambda: gpuprop.chunk(X, 0), "chunk: chunks must be an integer of at least 1, got 0"),
    (lambda: gpuprop.concatenate(None), "concatenate.*: arrays must be a sequence of Tensors"),
    (lambda: gpuprop.stack(5), r"stack\(\): arrays must be a sequence .* not int: write stack"),
    (lambda: gpuprop.stack([]), "stack: arrays must be a sequence of at least one array"),
    (lambda: gpuprop.einsum("ij", [1.0]), r"einsum\(\): operands\[0\] must be a Tensor"),
    (lambda: gpuprop.exp(10**30), "exp.*: 'x' is 1000.*0, which needs more than 64 bits"),
    (lambda: gpuprop.pad(X, "text"), "pad: pad_width must be an integer, a pair .* got 'text'"),
    (lambda: gpuprop.mean(X, axis=5), r"mean\(x: float32 \(1, 2, 4, 4\), axis: 5\): axis 5 is"),
    (lambda: gpuprop.reshape([X], (2,)), "reshape.*: 'x' must be a Tensor, an array or a number"),
    (lambda: F.softmax(X, 9), r"softmax\(input: float32 \(1, 2, 4, 4\), dim: 9\): axis 9 is"),
    (lambda: F.adaptive_avg_pool2d(X, 10**30), "adaptive_avg_pool2d: the output size .*more than"),
])
def test_messages(call, message):
    with pytest.raises((TypeError, ValueError, IndexError, OverflowError), match=message):
        call()


@pytest.mark.parametrize(("call", "message"), [
    (lambda: F.grid_sample(X.astype("uint8"), X[..., :2]), "grid_sample: input must be floating.*"
                                                           "input.astype"),
    (lambda: utils.clip_grad_norm_(gpuprop.nn.Linear(2, 2), 1.0), r"write model.parameters\(\)"),
    (lambda: utils.clip_grad_norm_([1.0], 1.0), "clip_grad_norm_: parameters must be Tensors, got"),
    (lambda: gpuprop.full((2,), None), "full: value must be a real number, got None"),
    (lambda: gpuprop.arange(0, "5"), "arange.*: stop must be a finite number, got '5'"),
    (lambda: gpuprop.zeros(2, -1), r"zeros.*: the shape\[1\] must be .* at least 0, got -1"),
    (lambda: T.expand_as(5), r"expand_as\(\): other must be a Tensor or an array, not int"),
    (lambda: T.split(0), "split: size must be an integer of at least 1, got 0"),
    (lambda: T.detach().fill_("1.5"), "value to write must be a number or an array, got '1.5'"),
    (lambda: T.to("text"), "unknown backend 'text'"),
    (lambda: F.interpolate(X, 10**10), "interpolate: the output size .* more than any memory"),
])
def test_messages_of_functions_and_methods(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_other_ways_to_call():
    """PyTorch's names, and arrays as shapes."""
    assert gpuprop.zeros(np.array([2, 3])).shape == (2, 3)
    assert gpuprop.full(np.array([2, 3]), 1).shape == (2, 3)
    np.testing.assert_array_equal(gpuprop.stack([A, A], dim=1), np.stack([A, A], axis=1))
    np.testing.assert_array_equal(gpuprop.concatenate([A, A], dim=1), np.hstack([A, A]))
    p = gpuprop.tensor([3.0, -4.0], requires_grad=True)
    (p * p).sum().backward()
    assert utils.clip_grad_norm_([p], 1.0, norm_type="inf").item() == 8


def test_einsum_takes_a_list():
    a, b = np.ones((2, 3)), np.ones((3, 4))
    np.testing.assert_array_equal(gpuprop.einsum("ij,jk", [a, b]), a @ b)


@pytest.mark.parametrize("call", [lambda a: gpuprop.reshape(a, (7,)), lambda a: gpuprop.sum(a, "0"),
                                  lambda a: F.layer_norm(a, 5), lambda a: F.mse_loss(a, None)])
def test_a_failed_call_keeps_no_array(call):
    """The error is not in a cycle with the frames of its traceback."""
    a = np.ones(3)
    reference = weakref.ref(a)
    gc.disable()
    try:
        with pytest.raises((TypeError, ValueError)):
            call(a)
        del a
        assert reference() is None
    finally:
        gc.enable()
