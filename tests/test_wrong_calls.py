"""Wrong arguments of every public function: a call succeeds or names what is wrong.

Each argument of a valid call is replaced in turn by values that it hardly takes.
"""

import contextlib
import gc
import inspect
import math
import re
import signal
import weakref

import numpy as np
import pytest

import gpuprop
import gpuprop.functional as F
from gpuprop.testing import all_rows

WRONG = {"None": None, "text": "text", "object": object(), "-1": -1, "nan": math.nan,
         "10**30": 10**30, "empty": [], "True": True, "dict": {"a": 1}}
REFUSALS = (TypeError, ValueError, IndexError, OverflowError, MemoryError, RuntimeError)
RAW = re.compile(r"object has no attribute|object is not|'NoneType'|unsupported operand|has no len|"
                 r"must be an iterable|missing \d required|unexpected keyword")
OTHER_NAMES = {"abs": "absolute", "true_divide": "divide", "mod": "remainder"}  # the same function
SECONDS = 5  # a call that takes longer hangs


@contextlib.contextmanager
def time_limit():
    def stop(*_):
        raise AssertionError("the call hangs")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


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
    assert re.search(rf"\b{OTHER_NAMES.get(name, name)}\b", message), message
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
    (lambda: gpuprop.mean(X, axis=5), r"mean\(x: float32 \(1, 2, 4, 4\), axis: 5\): axis 5 is out"),
    (lambda: gpuprop.reshape([X], (2,)), "reshape.*: 'x' must be a Tensor, an array or a number"),
    (lambda: F.softmax(X, 9), r"softmax\(input: float32 \(1, 2, 4, 4\), dim: 9\): axis 9 is out"),
    (lambda: F.adaptive_avg_pool2d(X, 10**30), r"adaptive_avg_pool2d\(.*output_size: 10+"),
])
def test_messages(call, message):
    with pytest.raises((TypeError, ValueError, IndexError, OverflowError), match=message):
        call()


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
