"""The strict backend refuses what a device refuses, one planted case each; its recordings replay as a device's do."""

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


HOST, BF16 = np.ones((3, 4), "float32"), ml_dtypes.bfloat16

REFUSED = {
    "a NumPy array of it": lambda a: np.asarray(a),
    "NumPy on the right": lambda a: a + HOST,
    "NumPy on the left": lambda a: HOST + a,
    "NumPy's ufunc with a NumPy array": lambda a: np.add(HOST, a),
    "NumPy's ufunc into a NumPy array": lambda a: np.exp(a, out=HOST),
    "a NumPy array of one element": lambda a: a * np.ones(()),
    "a list in arithmetic": lambda a: a * [1, 2, 3, 4],
    "a string in arithmetic": lambda a: a + "1",
    "a comparison with a NumPy array": lambda a: a < HOST,
    "an update by a NumPy array": lambda a: a.__iadd__(HOST),
    "NumPy among what is joined": lambda a: xp.concatenate([a, HOST]),
    "NumPy in a function": lambda a: xp.where(a > 0, a, HOST),
    "a function of a NumPy array": lambda a: xp.exp(HOST),
    "a function of a list": lambda a: xp.sum([1, 2]),
    "a function of a number": lambda a: xp.sum(1.0),
    "a list where arrays go": lambda a: xp.take(a, [0, 1]),
    "writing a NumPy array": lambda a: a.__setitem__(0, HOST[0]),
    "writing a list": lambda a: a.__setitem__(0, [1, 2, 3, 4]),
    "a list as an index": lambda a: a[[0, 1]],
    "a NumPy array as an index": lambda a: a[np.array([0])],
    "writing at a list": lambda a: a.__setitem__([0, 1], 0),
    "a count for range()": lambda a: range(a.argmax()),
    "a shape": lambda a: xp.zeros(a.argmax()),
    "a ufunc's where=": lambda a: xp.add(a, a, where=a > 0),
    "a reduction's initial=": lambda a: a.sum(initial=0),
    "where() of a number": lambda a: xp.where(True, a, a),
    "NumPy's argument of clip": lambda a: xp.clip(a, min=0),
    "an array of the device in a shape": lambda a: xp.broadcast_to(a[0], (a.argmax(), 4)),
    "a product with a number": lambda a: a.dot(2),
    "adding at places in a type without atomics": lambda a: xp.add.at(a.astype("uint8"), device(0), 1),
    "comparing at places in half a type": lambda a: xp.maximum.at(a.astype("float16"), device(0), 1),
    "@ of many bfloat16": lambda a: a.astype(BF16)[None] @ a.astype(BF16).T,
    "a running sum of bfloat16": lambda a: a.astype(BF16).cumsum(0),
    "another device library's array": lambda a: a + type("Other", (StrictArray,), {})._of(HOST, 0),
    "in": lambda a: {a},
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case, a):
    with pytest.raises(TypeError):
        REFUSED[case](a)


@pytest.mark.parametrize("name", ["block", "geomspace", "insert", "nditer", "errstate", "random", "nosuchname"])
def test_names_that_are_not_there(name):
    with pytest.raises(AttributeError, match=name):
        getattr(xp, name)
    assert not hasattr(xp.linalg, "multi_dot")
    assert not hasattr(xp.empty(1), "__array_interface__")
    with pytest.raises(AttributeError, match="ctypes"):
        _ = xp.empty(1).ctypes


def test_indices_wrap_silently():
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
        a[3]  # a number is looked at by the host


def test_new_memory_is_poisoned(a):
    assert np.isnan(host(xp.empty((2, 2)))).all() and np.isnan(host(xp.empty_like(a))).all()
    assert (host(xp.empty(3, "int64")) > 2**62).all()


def test_reductions_and_elements_are_arrays(a):
    for y in (a.sum(), a.mean(), a.max(), a.argmax(), xp.any(a), a[0, 0], a[0, device(1)[0]], xp.count_nonzero(a)):
        assert type(y) is StrictArray and y.shape == ()
    y = a[1, 1]  # and an element is a view
    y[...] = 5
    assert host(a)[1, 1] == 5


@pytest.mark.parametrize("reduce", [
    lambda xp, x: x.sum(), lambda xp, x: xp.sum(x, (0, 2)), lambda xp, x: x.mean(1), lambda xp, x: x.var((0, 1)),
    lambda xp, x: xp.prod(1 + x / 9, 1), lambda xp, x: xp.cumsum(x, 1), lambda xp, x: xp.add.reduce(x, 1),
    lambda xp, x: xp.matmul(x, x.swapaxes(1, 2))])
def test_sums_are_right_but_not_numpys(reduce):
    x = np.random.default_rng(0).normal(size=(9, 33, 17)).astype("float32")
    mine, numpys, exact = host(reduce(xp, strict.asarray(x))), reduce(np, x), reduce(np, x.astype(float))
    assert mine.dtype == numpys.dtype and mine.shape == numpys.shape
    np.testing.assert_allclose(mine, exact, rtol=2e-3, atol=2e-4)
    assert (mine != numpys).any()


NOT_THERE = {
    "sorting bfloat16": lambda a: xp.sort(a.astype(BF16)), "sorting a view": lambda a: a.T.sort(),
    "the largest by a ufunc": lambda a: xp.maximum.reduce(a), "a ufunc's at": lambda a: xp.exp.at(a, device(0)),
}


@pytest.mark.parametrize("case", NOT_THERE)
def test_not_implemented(case, a):
    with pytest.raises(NotImplementedError):
        NOT_THERE[case](a)


def test_values_that_do_not_fit(a):
    for refused in (lambda: xp.zeros(3, object), lambda: xp.asarray("a"), lambda: a.astype("S4"),
                    lambda: xp.sort(a, kind="quicksort"), lambda: xp.where(a > 0, a, None)):
        with pytest.raises(ValueError):
            refused()
    for refused in (lambda: xp.where(a > 0, a.astype("uint8"), 300), lambda: xp.clip(a.astype("uint8"), -1, 1)):
        with pytest.raises(OverflowError):
            refused()


def test_half_types_are_accumulated_in_float32():
    x = strict.asarray(np.full(4096, 0.1, "float16"))
    assert x.sum().dtype == "float16" and abs(float(x.sum()) - 409.6) < 0.5
    x = strict.asarray(np.ones((4, 4), BF16))
    for y in (xp.matmul(x, x), x.sum(), x.mean(0), xp.sinc(x), xp.degrees(x)):
        assert y.dtype == BF16
    x = strict.asarray(np.float16(1000) + np.zeros(4096, "float16"))
    assert float(x.mean()) == 1000 and float(x.var()) == np.inf  # the mean in it is a sum in float16


BFLOAT16_MEETS = {
    "a Python float": (lambda x: x * 2.5, "float32"), "a whole float": (lambda x: x / 1.0, "float32"),
    "an int": (lambda x: 2 * x, BF16), "a bool": (lambda x: x + True, BF16),
    "a scalar of float32": (lambda x: x * np.float32(2), "float32"),
    "a scalar of float64": (lambda x: x * np.float64(2), "float64"),
    "a scalar of int64": (lambda x: x * np.int64(2), "float64"), "a scalar of uint8": (lambda x: x * np.uint8(2), BF16),
    "its own scalar": (lambda x: x * BF16(2), BF16), "a 0-d array": (lambda x: x * x[0, 0], BF16),
    "float16": (lambda x: x + xp.ones(4, "float16"), "float32"),
    "float32": (lambda x: x + xp.ones(4, "float32"), "float32"),
    "int32": (lambda x: x + xp.ones(4, "int32"), "float64"), "bool": (lambda x: x * (x > 0), BF16),
    "itself": (lambda x: x + x, BF16), "a float in place": (lambda x: x.__iadd__(2.5), BF16),
    "where() beside a number": (lambda x: xp.where(x > 0, x, 2.5), BF16),
    "clip()": (lambda x: xp.clip(x, 0, 1), "float32"), "round()": (lambda x: x.round(), "float32"),
    "var()": (lambda x: x.var(), "float64"), "** 0.5": (lambda x: x ** 0.5, "float64"),
    "** 1.5": (lambda x: x ** 1.5, "float32"), "** 2": (lambda x: x ** 2, BF16),
}


@pytest.mark.parametrize("case", BFLOAT16_MEETS)
def test_types_of_bfloat16(case):
    call, dtype = BFLOAT16_MEETS[case]
    assert call(strict.asarray(np.ones((4, 4), BF16))).dtype == dtype


def test_float64_is_compared_as_float32_at_places():
    x = device(1.0 + 1e-12, 5.0, np.nan)
    xp.maximum.at(x, device(0, 0, 2), device(1.0, 0.5, 3.0))
    assert host(x).tolist() == [1.0, 5.0, 3.0]


def test_waiting_is_counted(a):
    strict.syncs.clear()
    float(a[0, 0]), int(a.argmax()), bool(a.any()), a.sum().item(), a.tolist(), repr(a), strict.to_numpy(a)
    strict.synchronize(), a[a > 0], xp.nonzero(a), xp.where(a > 0), xp.unique(a), pickle.dumps(a), f"{a.sum()}"
    a[a > 0] = 0
    xp.add.at(a, a > 0, 1.0), a.fill(a.sum()), xp.repeat(a, device(1, 2, 3), 0), xp.triu_indices(3), xp.delete(a, 0)
    assert len(strict.syncs) == 20
    assert strict.syncs[0].startswith("float() in test_waiting_is_counted (test_strict.py:")
    strict.syncs.clear()
    a += 1
    xp.repeat(a, [1, 2, 3], 0), xp.average(a), xp.copyto(a, 0, where=a > 0)
    xp.where(a > 0, a, 0).sum(), len(a), a.shape, a.T[0], [row.max() for row in a], copy.deepcopy(a)
    xp.result_type(a, 1), xp.asarray(3.0)
    assert strict.syncs == []


def test_values_arrive(a):
    assert (strict.to_numpy(a) == host(a)).all() and strict.to_numpy(a) is not host(a)
    assert (host(pickle.loads(pickle.dumps(a))) == host(a)).all() and (host(copy.copy(a)) == host(a)).all()
    assert strict.asarray(a) is a and strict.asarray(a, "float64").dtype == "float64"
    given = np.zeros(3)
    kept = strict.asarray(given)
    given[:] = 1
    assert (host(kept) == 0).all()
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


def test_require_is_looked_at_with_the_next_value():
    xp.check(device(0, 5) < 3, "a label is out of range")
    with pytest.raises(IndexError, match="a label is out of range"):
        strict.to_numpy(device(1))
    strict.to_numpy(device(1))


# ---- recording ----


class Momentum:
    """A step with state in place, a rate on the device, and what a test wants wrong about it."""

    def __init__(self, rate=None):
        self.p, self.m, self.rate = device(1.0, 2.0), device(0.0, 0.0), device(0.5)[0] if rate is None else rate
        self.count = 0

    def __call__(self, g):
        self.count += 1
        self.m *= 0.5
        self.m += g
        self.p -= self.m * self.rate
        return self.p.sum()

    def baked(self, g):
        self.count += 1
        return g / self.count

    def rebound(self, g):
        self.m = self.m * 0.5 + g
        return self.m

    def growing(self, g):
        self.count += 1
        return sum([g] * self.count, g)


def record(step, *args):
    with strict.record() as recording:
        result = step(*args)
    return recording, result


def test_a_replay_is_the_step():
    recorded, eager, g = Momentum(), Momentum(), device(0.0, 0.0)
    recording, result = record(recorded, g)
    assert host(recorded.p).tolist() == [1, 2] and host(recorded.m).tolist() == [0, 0]  # recording left things alone
    assert np.isnan(host(result))
    for step in range(3):
        g[...] = device(1.0, step)
        recorded.rate[...] = eager.rate[...] = device(1.0 / (step + 1))[0]
        recording.replay()
        expected = eager(g)
        assert host(result) == host(expected)
        assert (host(recorded.p) == host(eager.p)).all() and (host(recorded.m) == host(eager.m)).all()


def test_views_masks_scatters_and_reshapes_replay():
    x, i = device(1.0, -2.0, 3.0, -4.0), device(0, 0, 2)

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


def test_two_recordings_of_a_sound_step_are_the_same():
    step, g = Momentum(), device(1.0, 1.0)
    assert record(step, g)[0].difference(record(step, g)[0]) is None
    matrix = lambda g: xp.matmul(xp.stack([g, g]), g) + xp.asarray(2.0)
    assert record(matrix, g)[0].difference(record(matrix, g)[0]) is None


@pytest.mark.parametrize("step, says", [
    ("baked", r"divide in Momentum.baked \(test_strict.py:\d+\): argument 1 was 1, then 2"),
    ("rebound", r"multiply in Momentum.rebound \(test_strict.py:\d+\): argument 0 was .* must change in place"),
    ("growing", r"2 array calls became 3|1 array calls became 2")])
def test_a_step_that_cannot_be_replayed_is_found(step, says):
    step, g = getattr(Momentum(), step), device(1.0, 1.0)
    first, second = record(step, g)[0], record(step, g)[0]
    assert re.search(says, first.difference(second))


def test_a_baked_number_stays_baked():
    step, g = Momentum(rate=0.5), device(1.0, 1.0)
    recording, _ = record(step, g)
    step.rate = 100.0
    recording.replay()
    assert host(step.p).tolist() == [0.5, 1.5]


FORBIDDEN = {
    "float()": float, "bool()": bool, "repr()": repr, "to_numpy()": strict.to_numpy, "pickling": pickle.dumps,
    "get by mask": lambda x: x[x > 0], "set by mask": lambda x: x.__setitem__(x > 0, 1),
    "more than eight arrays in a list": lambda x: xp.array([x] * 9),
    "NumPy's numbers": lambda x: strict.asarray(np.ones(3)), "nonzero": lambda x: xp.nonzero(x),
    "a copy from the host": lambda x: strict.asarray([1.0]),
    "@": lambda x: x @ x, "dot": lambda x: x.dot(x), "tensordot": lambda x: xp.tensordot(x, x, 1),
    "einsum": lambda x: xp.einsum("i,i", x, x), "NumPy's matmul": lambda x: np.matmul(x, x),
    "inv": lambda x: xp.linalg.inv(x), "synchronize()": lambda x: strict.synchronize(),
    "another recording": lambda x: record(abs, x),
}


@pytest.mark.parametrize("case", FORBIDDEN)
def test_forbidden_while_recording(case):
    x = device(1.0)
    with pytest.raises(CaptureError), strict.record():
        FORBIDDEN[case](x)
    with strict.record() as recording:  # the next one is not disturbed
        y = xp.matmul(x, x) + xp.asarray(3.0) + xp.linalg.norm(x)
    recording.replay()
    assert host(y) == 5


def test_a_recording_that_was_broken_off_is_not_replayed():
    with strict.record() as recording, pytest.raises(CaptureError, match="waits for the device"):
        float(xp.asarray(1.0))
    assert "float() in test_a_recording" in recording.refused[0]
    with pytest.raises(CaptureError, match="nothing to replay"):
        recording.replay()
