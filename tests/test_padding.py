"""F.pad against np.pad, negative widths, error messages, layers.  Gradients: test_ops.py."""

import numpy as np
import pytest

import gpuprop.functional as F
from gpuprop import nn

X = np.arange(24.0).reshape(2, 3, 4)


@pytest.mark.parametrize(("mode", "numpy_mode"), [
    ("constant", "constant"),
    ("reflect", "reflect"),
    ("replicate", "edge"),
    ("circular", "wrap"),
])
def test_widths_start_with_the_last_axis(mode, numpy_mode):
    expected = np.pad(X, ((0, 0), (0, 1), (1, 2)), numpy_mode)
    np.testing.assert_array_equal(F.pad(X, (1, 2, 0, 1), mode), expected)


def test_constant_values():
    assert (F.pad(X, (1, 0), value=7.0)[..., 0] == 7).all()
    assert F.pad(X, ()) is X
    assert F.pad(X.astype("int64"), (1, 0)).dtype == "int64"


NEGATIVE = [  # computed with PyTorch
    ("constant", [0, 0, 1, 2]),
    ("reflect", [1, 2, 3, 2, 1]),
    ("replicate", [1, 2, 3, 3, 3]),
    ("circular", [1, 2, 3, 1, 2]),
]


@pytest.mark.parametrize(("mode", "expected"), NEGATIVE)
def test_negative_widths_remove_elements(mode, expected):
    widths = (1, -1) if mode == "constant" else (-1, 2)
    np.testing.assert_array_equal(F.pad(np.arange(4.0)[None], widths, mode)[0], expected)


ERRORS = [
    (lambda: F.pad(X, (1, 2), "mirror"), "'constant', 'reflect', .*, 'circular'.*'mirror'"),
    (lambda: F.pad(X, (1, 2, 3)), r"\(before, after\).*at most 3 axes.*\(1, 2, 3\)"),
    (lambda: F.pad(X, (1,) * 8), "at most 3 axes"),
    (lambda: F.pad(X, (1, 2), "reflect", 1.0), "mode 'reflect' takes no value"),
    (lambda: F.pad(X, (-3, -2)), r"\(-3, -2\).*axis 2.*\(2, 3, 4\)"),
    (lambda: F.pad(X, (4, 0), "reflect"), "'reflect'.*at most 3 elements.*axis 2"),
    (lambda: F.pad(X, (0, 5), "circular"), "'circular'.*at most 4 elements"),
    (lambda: nn.ReflectionPad2d((1, 2)), r"padding.*4.*\(1, 2\)"),
    (lambda: nn.CircularPad2d(1)(X[0]), "CircularPad2d.*3 or 4 axes"),
]


@pytest.mark.parametrize(("call", "text"), ERRORS, ids=range(len(ERRORS)))
def test_errors(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_layers():
    np.testing.assert_array_equal(nn.ZeroPad1d(1)(X), F.pad(X, (1, 1)))
    expected = F.pad(X, (1, 0, 2, 0), "constant", 3.5)
    np.testing.assert_array_equal(nn.ConstantPad2d((1, 0, 2, 0), 3.5)(X), expected)
    assert repr(nn.ZeroPad1d(1)) == "ZeroPad1d((1, 1))"
    assert repr(nn.ConstantPad1d(1, 2)) == "ConstantPad1d(padding=(1, 1), value=2)"
