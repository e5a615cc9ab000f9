"""Tensors of `gpuprop.torch` are printed as PyTorch prints them."""

import numpy as np
import pytest
import torch as theirs

import gpuprop.torch as ours

normal = np.random.default_rng(0).standard_normal
VALUES = [
    3.14159, 7, True, 1e-7, 1.5, [1.5], [True], [True, False], [1.0, 2.5], [1e-5, 1.0],
    [[1, 20], [300, 4]], [], [float("nan"), 1.0], [float("inf"), 1.5], [1e9, 1.0], [1e9],
    [1000.0, 1.0], [1001.0, 1.5], [1e-5], [0.0, 0.0], [0.001, 500.0], [12345.678], [-1.0, 2.0],
    normal((3, 4)), normal((2, 2, 3)), list(range(30)), normal(30), normal((5, 7)) * 1000,
    list(range(2000)), normal((40, 40)), [1e8, 2.0], [123456789.0, 1.0], [99999.5, 1.0],
    [[0.1] * 25] * 3, normal((2, 0)),
]


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_text(value):
    dtype = "float32" if isinstance(value, np.ndarray) else None
    value = value if dtype is None else value.astype(dtype)
    assert repr(ours.tensor(value)) == repr(theirs.tensor(value))
