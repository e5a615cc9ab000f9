"""The strict backend raises where CuPy raises, and its recordings replay as CUDA graphs do."""

import copy
import pickle
import re

import ml_dtypes
import numpy as np
import pytest

from gpuprop._core.registry import get_backend, use
from gpuprop.testing import CaptureError, StrictArray

strict = get_backend("strict")
xp = strict.xp


def device(*values, dtype=None):
    return strict.asarray(np.array(values, dtype))


def host(a):
    return a._a


@pytest.fixture
def a():
    return strict.asarray(np.random.default_rng(0).normal(size=(3, 4)).astype("float32"))


HOST = np.ones((3, 4), "float32")
BF16 = ml_dtypes.bfloat16
OtherArray = type("OtherArray", (StrictArray,), {})

TYPE_ERRORS = {
    "conversion to NumPy": lambda a: np.asarray(a),
    "NumPy array on the right": lambda a: a + HOST,
    "NumPy array on the left": lambda a: HOST + a,
    "NumPy's ufunc with a NumPy array": lambda a: np.add(HOST, a),
    "NumPy's ufunc with out= of NumPy": lambda a: np.exp(a, out=HOST),
    "NumPy array of one element": lambda a: a * np.ones(()),
    "list in arithmetic": lambda a: a * [1, 2, 3, 4],
    "string in arithmetic": lambda a: a + "1",
    "comparison with a NumPy array": lambda a: a < HOST,
    "in-place operator with a NumPy array": lambda a: a.__iadd__(HOST),
    "concatenate with a NumPy array": lambda a: xp.concatenate([a, HOST]),
    "where with a NumPy array": lambda a: xp.where(a > 0, a, HOST),
    "ufunc of a NumPy array": lambda a: xp.exp(HOST),
    "sum of a list": lambda a: xp.sum([1, 2]),
    "sum of a number": lambda a: xp.sum(1.0),
    "take with a list": lambda a: xp.take(a, [0, 1]),
    "assignment of a NumPy array": lambda a: a.__setitem__(0, HOST[0]),
    "assignment of a list": lambda a: a.__setitem__(0, [1, 2, 3, 4]),
    "list as an index": lambda a: a[[0, 1]],
    "NumPy array as an index": lambda a: a[np.array([0])],
    "assignment to a list of indices": lambda a: a.__setitem__([0, 1], 0),
    "argument of range()": lambda a: range(a.argmax()),
    "shape": lambda a: xp.zeros(a.argmax()),
    "where= of a ufunc": lambda a: xp.add(a, a, where=a > 0),
    "initial= of a reduction": lambda a: a.sum(initial=0),
    "where of a number": lambda a: xp.where(True, a, a),
    "min= of clip": lambda a: xp.clip(a, min=0),
    "part of a shape": lambda a: xp.broadcast_to(a[0], (a.argmax(), 4)),
    "dot with a number": lambda a: a.dot(2),
    "add.at without atomics": lambda a: xp.add.at(a.astype("uint8"), device(0), 1),
    "maximum.at of float16": lambda a: xp.maximum.at(a.astype("float16"), device(0), 1),
    "@ of 3-d bfloat16": lambda a: a.astype(BF16)[None] @ a.astype(BF16).T,
    "cumsum of bfloat16": lambda a: a.astype(BF16).cumsum(0),
    "array of another library": lambda a: a + OtherArray._of(HOST, 0),
    "hash": lambda a: {a},
}


@pytest.mark.parametrize("case", TYPE_ERRORS)
def test_type_errors(case, a):
    with pytest.raises(TypeError):
        TYPE_ERRORS[case](a)


@pytest.mark.parametrize("name", [
    "block", "geomspace", "insert", "nditer", "errstate", "random", "nosuchname"])
def test_absent_names(name):
    with pytest.raises(AttributeError, match=name):
        getattr(xp, name)
    assert not hasattr(xp.linalg, "multi_dot")
    assert not hasattr(xp.empty(1), "__array_interface__")
    with pytest.raises(AttributeError, match="ctypes"):
        _ = xp.empty(1).ctypes


def test_array_indices_wrap_around():
    a = device(0.0, 1.0, 2.0)
    assert host(a[device(3, -4)]).tolist() == [0, 2]
    assert host(xp.take(a, device(7))) == 1
    assert host(xp.take_along_axis(a, device(5, 0), 0)).tolist() == [2, 0]
    a[device(4)] = 9
    xp.add.at(a, device(3, 3), 1.0)
    assert host(a).tolist() == [2, 9, 2]
    b = strict.asarray(np.arange(24.0).reshape(2, 3, 4))
    assert host(b[:, device(3), ..., device(5)]).tolist() == host(b)[:, [0], ..., [1]].tolist()
    with pytest.raises(IndexError):
        a[3]  # the host checks numbers


def test_new_memory_is_poisoned(a):
    assert np.isnan(host(xp.empty((2, 2)))).all() and np.isnan(host(xp.empty_like(a))).all()
    assert (host(xp.empty(3, "int64")) > 2**62).all()


def test_reductions_and_elements_are_arrays(a):
    reductions = (a.sum(), a.mean(), a.max(), a.argmax(), xp.any(a), xp.count_nonzero(a))
    elements = (a[0, 0], a[0, device(1)[0]])
    for y in (*reductions, *elements):
        assert type(y) is StrictArray and y.shape == ()
    y = a[1, 1]  # a view
    y[...] = 5
    assert host(a)[1, 1] == 5


@pytest.mark.parametrize("reduce", [
    lambda xp, x: x.sum(),
    lambda xp, x: xp.sum(x, (0, 2)),
    lambda xp, x: x.mean(1),
    lambda xp, x: x.var((0, 1)),
    lambda xp, x: xp.prod(1 + x / 9, 1),
    lambda xp, x: xp.cumsum(x, 1),
    lambda xp, x: xp.add.reduce(x, 1),
    lambda xp, x: xp.matmul(x, x.swapaxes(1, 2)),
])
def test_sums_are_correct_but_in_another_order(reduce):
    x = np.random.default_rng(0).normal(size=(9, 33, 17)).astype("float32")
    on_strict = host(reduce(xp, strict.asarray(x)))
    on_numpy = reduce(np, x)
    exact = reduce(np, x.astype(float))
    assert on_strict.dtype == on_numpy.dtype and on_strict.shape == on_numpy.shape
    np.testing.assert_allclose(on_strict, exact, rtol=2e-3, atol=2e-4)
    assert (on_strict != on_numpy).any()


NOT_IMPLEMENTED = {
    "sort of bfloat16": lambda a: xp.sort(a.astype(BF16)),
    "sort of a view": lambda a: a.T.sort(),
    "maximum.reduce": lambda a: xp.maximum.reduce(a),
    "exp.at": lambda a: xp.exp.at(a, device(0)),
}


@pytest.mark.parametrize("case", NOT_IMPLEMENTED)
def test_not_implemented(case, a):
    with pytest.raises(NotImplementedError):
        NOT_IMPLEMENTED[case](a)


@pytest.mark.parametrize("call", [
    lambda a: xp.zeros(3, object),
    lambda a: xp.asarray("a"),
    lambda a: a.astype("S4"),
    lambda a: xp.sort(a, kind="quicksort"),
    lambda a: xp.where(a > 0, a, None),
])
def test_value_errors(call, a):
    with pytest.raises(ValueError):
        call(a)


@pytest.mark.parametrize("call", [
    lambda a: xp.where(a > 0, a.astype("uint8"), 300),
    lambda a: xp.clip(a.astype("uint8"), -1, 1),
])
def test_overflow_errors(call, a):
    with pytest.raises(OverflowError):
        call(a)


def test_sums_of_half_types_are_in_float32():
    x = strict.asarray(np.full(4096, 0.1, "float16"))
    assert x.sum().dtype == "float16" and abs(float(x.sum()) - 409.6) < 0.5
    x = strict.asarray(np.ones((4, 4), BF16))
    for y in (xp.matmul(x, x), x.sum(), x.mean(0), xp.sinc(x), xp.degrees(x)):
        assert y.dtype == BF16
    x = strict.asarray(np.float16(1000) + np.zeros(4096, "float16"))
    assert float(x.mean()) == 1000 and float(x.var()) == np.inf  # its mean is a sum in float16


WIDENS = np.result_type(np.ones(1, BF16), 1.0) != BF16  # a Python float: ml_dtypes before 0.7
RESULTS_OF_BFLOAT16 = {
    "float": (lambda x: x * 2.5, "float32" if WIDENS else BF16),
    "whole float": (lambda x: x / 1.0, "float32" if WIDENS else BF16),
    "int": (lambda x: 2 * x, BF16),
    "bool": (lambda x: x + True, BF16),
    "scalar of float32": (lambda x: x * np.float32(2), "float32"),
    "scalar of float64": (lambda x: x * np.float64(2), "float64"),
    "scalar of int64": (lambda x: x * np.int64(2), "float64"),
    "scalar of uint8": (lambda x: x * np.uint8(2), BF16),
    "scalar of bfloat16": (lambda x: x * BF16(2), BF16),
    "0-d array": (lambda x: x * x[0, 0], BF16),
    "array of float16": (lambda x: x + xp.ones(4, "float16"), "float32"),
    "array of float32": (lambda x: x + xp.ones(4, "float32"), "float32"),
    "array of int32": (lambda x: x + xp.ones(4, "int32"), "float64"),
    "array of bool": (lambda x: x * (x > 0), BF16),
    "array of bfloat16": (lambda x: x + x, BF16),
    "float in place": (lambda x: x.__iadd__(2.5), BF16),
    "where with a number": (lambda x: xp.where(x > 0, x, 2.5), BF16),
    "clip": (lambda x: xp.clip(x, 0, 1), "float32"),
    "round": (lambda x: x.round(), "float32"),
    "var": (lambda x: x.var(), "float64"),
    "** 0.5": (lambda x: x ** 0.5, "float64" if WIDENS else BF16),
    "** 1.5": (lambda x: x ** 1.5, "float32" if WIDENS else BF16),
    "** 2": (lambda x: x ** 2, BF16),
}


@pytest.mark.parametrize("case", RESULTS_OF_BFLOAT16)
def test_dtype_of_bfloat16_with(case):
    call, dtype = RESULTS_OF_BFLOAT16[case]
    assert call(strict.asarray(np.ones((4, 4), BF16))).dtype == dtype


def test_maximum_at_compares_float64_as_float32():
    x = device(1.0 + 1e-12, 5.0, np.nan)
    xp.maximum.at(x, device(0, 0, 2), device(1.0, 0.5, 3.0))
    assert host(x).tolist() == [1.0, 5.0, 3.0]


@pytest.mark.parametrize("call", [
    lambda a: float(a[0, 0]),
    lambda a: int(a.argmax()),
    lambda a: bool(a.any()),
    lambda a: a.sum().item(),
    lambda a: a.tolist(),
    lambda a: repr(a),
    lambda a: f"{a.sum()}",
    lambda a: strict.to_numpy(a),
    lambda a: strict.synchronize(),
    lambda a: pickle.dumps(a),
    lambda a: a[a > 0],
    lambda a: a.__setitem__(a > 0, 0),
    lambda a: a.fill(a.sum()),
    lambda a: xp.nonzero(a),
    lambda a: xp.where(a > 0),
    lambda a: xp.unique(a),
    lambda a: xp.add.at(a, a > 0, 1.0),
    lambda a: xp.repeat(a, device(1, 2, 3), 0),
    lambda a: xp.triu_indices(3),
    lambda a: xp.delete(a, 0),
])
def test_waits_are_counted(call, a):
    strict.syncs.clear()
    call(a)
    assert len(strict.syncs) == 1


def test_wait_names_the_code_that_waited(a):
    strict.syncs.clear()
    float(a[0, 0])
    assert "float() in test_wait_names_the_code_that_waited (test_strict.py:" in strict.syncs[0]


@pytest.mark.parametrize("call", [
    lambda a: a.__iadd__(1),
    lambda a: xp.repeat(a, [1, 2, 3], 0),
    lambda a: xp.average(a),
    lambda a: xp.copyto(a, 0, where=a > 0),
    lambda a: xp.where(a > 0, a, 0).sum(),
    lambda a: len(a),
    lambda a: a.shape,
    lambda a: a.T[0],
    lambda a: [row.max() for row in a],
    lambda a: copy.deepcopy(a),
    lambda a: xp.result_type(a, 1),
    lambda a: xp.asarray(3.0),
])
def test_calls_that_do_not_wait(call, a):
    strict.syncs.clear()
    call(a)
    assert strict.syncs == []


def test_conversions_and_copies(a):
    assert (strict.to_numpy(a) == host(a)).all()
    assert strict.to_numpy(a) is not host(a)
    assert (host(pickle.loads(pickle.dumps(a))) == host(a)).all()
    assert (host(copy.copy(a)) == host(a)).all()
    assert strict.asarray(a) is a
    assert strict.asarray(a, "float64").dtype == "float64"
    source = np.zeros(3)
    copied = strict.asarray(source)
    source[:] = 1
    assert (host(copied) == 0).all()
    assert type(np.exp(a)) is StrictArray
    b = a
    b += 1
    assert b is a


def test_two_devices_do_not_mix(a):
    try:
        strict.use_device(1)
        there = xp.ones((3, 4))
        assert there.device == strict.device() == 1 and a[0].device == 0
        with pytest.raises(ValueError, match="different from the current device"):
            a + there
        strict.use_device(0)
        with pytest.raises(ValueError, match="different from the current device"):
            xp.exp(there)
        assert strict.to_numpy(there).sum() == 12
    finally:
        strict.use_device(0)
    with use("strict", device=1) as backend:
        assert backend.device() == 1
    assert strict.device() == 0


def test_check_raises_at_the_next_read():
    xp.check(device(0, 5) < 3, "label out of range")
    with pytest.raises(IndexError, match="label out of range"):
        strict.to_numpy(device(1))
    strict.to_numpy(device(1))


# ---- recording -----------------------------------------------------------------------------------


class Momentum:
    """A step of SGD with momentum, whose state changes in place, and steps with errors."""

    def __init__(self, rate=None):
        self.p = device(1.0, 2.0)
        self.m = device(0.0, 0.0)
        self.rate = device(0.5)[0] if rate is None else rate
        self.count = 0

    def __call__(self, g):
        self.count += 1
        self.m *= 0.5
        self.m += g
        self.p -= self.m * self.rate
        return self.p.sum()

    def python_counter(self, g):
        self.count += 1
        return g / self.count

    def state_not_in_place(self, g):
        self.m = self.m * 0.5 + g
        return self.m

    def growing_loop(self, g):
        self.count += 1
        return sum([g] * self.count, g)


def record(step, *args):
    with strict.record() as recording:
        result = step(*args)
    return recording, result


def test_replay_computes_the_step():
    recorded = Momentum()
    eager = Momentum()
    g = device(0.0, 0.0)
    recording, result = record(recorded, g)
    assert host(recorded.p).tolist() == [1, 2]  # recording does not change it
    assert host(recorded.m).tolist() == [0, 0]
    assert np.isnan(host(result))
    for step in range(3):
        g[...] = device(1.0, step)
        recorded.rate[...] = eager.rate[...] = device(1.0 / (step + 1))[0]
        recording.replay()
        expected = eager(g)
        assert host(result) == host(expected)
        assert (host(recorded.p) == host(eager.p)).all()
        assert (host(recorded.m) == host(eager.m)).all()


def test_replay_of_views_masks_scatters_and_reshapes():
    x = device(1.0, -2.0, 3.0, -4.0)
    i = device(0, 0, 2)

    def step():
        y = xp.zeros(4)
        xp.add.at(y, i, 1.0)
        y[...] = xp.where(x < 0, 7, y)
        square = y.reshape(2, 2).T.reshape(4)
        parts = xp.split(square * x, 2)
        return xp.concatenate([xp.sort(parts[0]), parts[1][::-1]])

    recording, result = record(step)
    for values in ([1, -2, 3, -4], [-1, 2, -3, 4]):
        x[...] = strict.asarray(np.array(values, float))
        recording.replay()
        assert host(result).tolist() == host(step()).tolist()


def test_recordings_of_a_correct_step_are_equal():
    step = Momentum()
    g = device(1.0, 1.0)
    assert record(step, g)[0].difference(record(step, g)[0]) is None
    matrix = lambda g: xp.matmul(xp.stack([g, g]), g) + xp.asarray(2.0)
    assert record(matrix, g)[0].difference(record(matrix, g)[0]) is None


@pytest.mark.parametrize("name, difference", [
    ("python_counter", r"divide in Momentum.python_counter \(test_strict.py:\d+\): "
                       r"argument 1 was 1, then 2.*0-d array"),
    ("state_not_in_place", r"multiply in Momentum.state_not_in_place \(test_strict.py:\d+\): "
                           r"argument 0 was .* must change in place"),
    ("growing_loop", r"2 array calls became 3|1 array calls became 2"),
])
def test_difference_between_two_recordings(name, difference):
    step = getattr(Momentum(), name)
    g = device(1.0, 1.0)
    first = record(step, g)[0]
    second = record(step, g)[0]
    assert re.search(difference, first.difference(second))


def test_python_number_is_a_constant_of_the_recording():
    step = Momentum(rate=0.5)
    recording, _ = record(step, device(1.0, 1.0))
    step.rate = 100.0
    recording.replay()
    assert host(step.p).tolist() == [0.5, 1.5]


NOT_RECORDABLE = {
    "float()": float,
    "bool()": bool,
    "repr()": repr,
    "to_numpy()": strict.to_numpy,
    "pickling": pickle.dumps,
    "reading by a mask": lambda x: x[x > 0],
    "writing by a mask": lambda x: x.__setitem__(x > 0, 1),
    "more than eight arrays in a list": lambda x: xp.array([x] * 9),
    "copy of a NumPy array": lambda x: strict.asarray(np.ones(3)),
    "copy of a list": lambda x: strict.asarray([1.0]),
    "nonzero": lambda x: xp.nonzero(x),
    "@": lambda x: x @ x,
    "dot": lambda x: x.dot(x),
    "tensordot": lambda x: xp.tensordot(x, x, 1),
    "einsum": lambda x: xp.einsum("i,i", x, x),
    "NumPy's matmul": lambda x: np.matmul(x, x),
    "inv": lambda x: xp.linalg.inv(x),
    "synchronize()": lambda x: strict.synchronize(),
    "another recording": lambda x: record(abs, x),
}


@pytest.mark.parametrize("case", NOT_RECORDABLE)
def test_errors_while_recording(case):
    x = device(1.0)
    with pytest.raises(CaptureError), strict.record():
        NOT_RECORDABLE[case](x)
    with strict.record() as recording:  # the next recording succeeds
        y = xp.matmul(x, x) + xp.asarray(3.0) + xp.linalg.norm(x)
    recording.replay()
    assert host(y) == 5


def test_failed_recording_cannot_be_replayed():
    with strict.record() as recording, pytest.raises(CaptureError, match="waits for the device"):
        float(xp.asarray(1.0))
    assert "float() in test_failed_recording" in recording.errors[0]
    with pytest.raises(CaptureError, match="cannot be replayed"):
        recording.replay()
