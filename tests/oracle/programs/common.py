"""Numbers that are the same for both libraries."""

import numpy as np


def numbers(*shape, seed=0):
    """Normally distributed numbers in float64."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def labels(n, classes, seed=0):
    return np.random.default_rng([seed, n]).integers(0, classes, n)


def filled(model, scale=0.3):
    """The model in float64, with parameters that are the same in both libraries."""
    model.double()
    for i, p in enumerate(model.parameters()):
        p.data.copy_(p.data.new_tensor(numbers(*p.shape, seed=i) * scale))
    return model
