"""The checks of arguments that are no arrays."""

import inspect
import io
import math
import re
from pathlib import Path

import numpy as np
import pytest

import gpuprop
import gpuprop.testing
from gpuprop._core.checks import (
    as_bool,
    as_callable,
    as_choice,
    as_instance,
    as_integer,
    as_number,
    as_path,
)


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array(3),
                                   gpuprop.tensor(3)])
def test_as_integer_returns_an_int(value):
    assert as_integer("f: n", value, 0) == 3
    assert type(as_integer("f: n", value, 0)) is int


@pytest.mark.parametrize("value", [1.0, "1", None, True, np.bool_(True), np.float32(1), [1],
                                   np.array(1.0), np.array(True), np.array([1]), math.nan])
def test_as_integer_refuses_other_types(value):
    message = f"f: n must be an integer of at least 0, got {value!r}"
    with pytest.raises(TypeError, match=re.escape(message)):
        as_integer("f: n", value, minimum=0)


@pytest.mark.parametrize(("limits", "words"), [
    ({"minimum": 5}, "of at least 5"), ({"maximum": 3}, "of at most 3"),
    ({"minimum": 1, "maximum": 3}, "from 1 to 3")])
def test_as_integer_checks_the_range(limits, words):
    with pytest.raises(ValueError, match=f"f: n must be an integer {words}, got 4"):
        as_integer("f: n", 4, **limits)


@pytest.mark.parametrize(("interval", "inside", "outside"), [
    ("[0, 1)", [0, 0.5, np.float32(0.5)], [1, -1e-9, math.nan, math.inf]),
    ("(0, 1]", [1, 1e-9], [0, 1.1]),
    ("(-inf, inf)", [0, -1e300], [math.inf, -math.inf, math.nan, 10**400]),
    ("[0, inf]", [math.inf], [-1]),
])
def test_as_number_checks_the_interval(interval, inside, outside):
    for value in inside:
        assert as_number("f: x", value, interval) == value
        assert type(as_number("f: x", value, interval)) in (int, float)
    for value in outside:
        with pytest.raises(ValueError, match=r"f: x must be a .*number.*, got"):
            as_number("f: x", value, interval)


@pytest.mark.parametrize("value", ["1", None, True, 1j, [1.0], np.array(1.0)])
def test_as_number_refuses_other_types(value):
    with pytest.raises(TypeError, match=re.escape(f"f: x must be a finite number, got {value!r}")):
        as_number("f: x", value)


def test_as_bool():
    for true, false in ((True, False), (1, 0), (np.bool_(True), np.bool_(False)),
                        (np.int8(1), np.int8(0))):
        assert as_bool("f: x", true) is True and as_bool("f: x", false) is False
    for value in (2, -1, 1.0, "no", None, np.array(True), math.nan):
        with pytest.raises(TypeError, match="f: x must be True or False, got"):
            as_bool("f: x", value)


@pytest.mark.parametrize("value", ["sums", 1, None, np.zeros(2), True])
def test_as_choice(value):
    assert as_choice("f: reduction", "sum", ("mean", "sum", "none")) == "sum"
    with pytest.raises(ValueError, match="f: reduction must be 'mean', 'sum' or 'none', got"):
        as_choice("f: reduction", value, ("mean", "sum", "none"))


def test_as_instance():
    assert as_instance("f: x", [1], list, "a list") == [1]
    with pytest.raises(TypeError, match=r"f: x must be a list, got 5$"):
        as_instance("f: x", 5, list, "a list")
    with pytest.raises(TypeError, match=r"construct it, as in list\(\.\.\.\)"):
        as_instance("f: x", list, list, "a list")


def test_as_callable():
    assert as_callable("f: g", len) is len
    with pytest.raises(TypeError, match="f: g must be a function, got 5"):
        as_callable("f: g", 5)


class TestFunctionsOfFunctions:
    """What takes a function refuses other objects in that call, not when it would call them."""

    CALLS = {
        "grad: f": gpuprop.grad,
        "value_and_grad: f": gpuprop.value_and_grad,
        "capture: step": gpuprop.capture,
        "pointwise: the body": gpuprop.pointwise,
        "the body of an op": gpuprop.op,
        "the body of an op ": gpuprop.kernel,
        "verify: make_run": gpuprop.verify,
        "check: op": gpuprop.testing.check_grad,
        "check: op ": lambda f: gpuprop.testing.check_parity(f, backend="numpy"),
        "register_hook: hook": gpuprop.Parameter([1.0]).register_hook,
        "Linear: hook": gpuprop.nn.Linear(1, 1).register_forward_hook,
        "Linear: hook ": gpuprop.nn.Linear(1, 1).register_forward_pre_hook,
        "Linear: the function to apply": gpuprop.nn.Linear(1, 1).apply,
    }

    @pytest.mark.parametrize("what", CALLS)
    @pytest.mark.parametrize("value", [None, "text", 5, math.nan, [len]], ids=repr)
    def test_refuses(self, what, value):
        if value is None and self.CALLS[what] is gpuprop.op:
            return  # op(None) is op(), a decorator with options
        with pytest.raises(TypeError, match=f"{what.strip()} must be a .*got "):
            self.CALLS[what](value)

    def test_the_list_is_complete(self):
        """Every public function of the root whose first parameter is annotated as a Callable."""
        missing = []
        for name in gpuprop.__all__:
            function = getattr(gpuprop, name)
            if not callable(function) or isinstance(function, type):
                continue
            first = next(iter(inspect.signature(function).parameters.values()), None)
            takes_function = first is not None and "Callable" in str(first.annotation)
            if takes_function and not any(call is function for call in self.CALLS.values()):
                missing.append(name)
        assert not missing


def test_as_path():
    assert as_path("f: path", "a/b.csv") == as_path("f: path", Path("a/b.csv")) == Path("a/b.csv")
    for value, error in [(None, TypeError), (b"a", TypeError), (3, TypeError), (["a"], TypeError),
                         (io.BytesIO(), TypeError), ("", ValueError), ("a\0", ValueError)]:
        with pytest.raises(error, match=f"f: path must be a path.*{re.escape(repr(value))}"):
            as_path("f: path", value)
