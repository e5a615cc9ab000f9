"""Padding where rows do not reach: values against NumPy's, negative widths, errors, layers."""

import numpy as np
import pytest

import gpuprop.functional as F
from gpuprop import nn

X = np.arange(24.0).reshape(2, 3, 4)


@pytest.mark.parametrize(("mode", "numpys"), [
    ("constant", "constant"), ("reflect", "reflect"), ("replicate", "edge"), ("circular", "wrap")])
def test_the_last_axis_comes_first(mode, numpys):
    np.testing.assert_array_equal(F.pad(X, (1, 2, 0, 1), mode), np.pad(X, ((0, 0), (0, 1), (1, 2)), numpys))


def test_constant_values():
    assert (F.pad(X, (1, 0), value=7.0)[..., 0] == 7).all() and F.pad(X, ()) is X
    assert F.pad(X.astype("int64"), (1, 0)).dtype == "int64"


NEGATIVE = [  # PyTorch's
    ("constant", [0, 0, 1, 2]), ("reflect", [1, 2, 3, 2, 1]), ("replicate", [1, 2, 3, 3, 3]),
    ("circular", [1, 2, 3, 1, 2])]


@pytest.mark.parametrize(("mode", "expected"), NEGATIVE)
def test_negative_widths_take_away(mode, expected):
    widths = (1, -1) if mode == "constant" else (-1, 2)
    np.testing.assert_array_equal(F.pad(np.arange(4.0)[None], widths, mode)[0], expected)


ERRORS = [
    (lambda: F.pad(X, (1, 2), "mirror"), "mode is 'constant', 'reflect', 'replicate', 'circular', not 'mirror'"),
    (lambda: F.pad(X, (1, 2, 3)), r"a pair \(before, after\) for each of at most 3 axes, not \(1, 2, 3\)"),
    (lambda: F.pad(X, (1,) * 8), "at most 3 axes"),
    (lambda: F.pad(X, (1, 2), "reflect", 1.0), "mode 'reflect' takes no value"),
    (lambda: F.pad(X, (-3, -2)), r"\(-3, -2\) takes more from axis 2 of input \(2, 3, 4\) than it has"),
    (lambda: F.pad(X, (4, 0), "reflect"), "'reflect' adds at most 3 elements on a side of axis 2"),
    (lambda: F.pad(X, (0, 5), "circular"), "'circular' adds at most 4 elements"),
    (lambda: nn.ReflectionPad2d((1, 2)), r"padding is a number or 4, not \(1, 2\)"),
    (lambda: nn.CircularPad2d(1)(X[0]), "CircularPad2d: input has 3 or 4 axes, not 2"),
]


@pytest.mark.parametrize(("call", "text"), ERRORS, ids=range(len(ERRORS)))
def test_errors(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_layers():
    np.testing.assert_array_equal(nn.ZeroPad1d(1)(X), F.pad(X, (1, 1)))
    np.testing.assert_array_equal(nn.ConstantPad2d((1, 0, 2, 0), 3.5)(X), F.pad(X, (1, 0, 2, 0), "constant", 3.5))
    assert repr(nn.ZeroPad1d(1)) == "ZeroPad1d((1, 1))"
    assert repr(nn.ConstantPad1d(1, 2)) == "ConstantPad1d(padding=(1, 1), value=2)"
