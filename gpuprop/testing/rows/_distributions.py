"""Rows of the ops of distributions."""

from __future__ import annotations

import numpy as np

from gpuprop.distributions._beta_functions import beta_logit, beta_slope, dirichlet
from gpuprop.distributions._gamma_functions import gamma_slope, gammainc, standard_gamma
from gpuprop.distributions._linalg import cholesky, solve_triangular
from gpuprop.testing.rows import Row, floats

RNG_KEY = np.array([7, 3], "uint64")
SHAPES = ((3, 4), (1,), (0, 3))
NEEDS_MATRIX = dict.fromkeys(("integers", "layouts"), "other numbers are no such matrix")
SAMPLE = {"gradient": "the derivative at a fixed value of the CDF", "large": "overflows",
          "integers": "not at 0"}
SLOPE = dict.fromkeys(("gradient", "hidden", "parity", "capture"), "it has no derivative")


def positive_definite(*shape: int) -> np.ndarray:
    a = floats(*shape, shape[-1])
    return a @ a.swapaxes(-1, -2) + np.eye(shape[-1])


def matrices():
    for shape in ((3,), (2, 4), (1,), (0,), (0, 2)):
        n = shape[-1]
        # the gradient is that of symmetric changes, and a check changes single elements
        yield Row(cholesky, positive_definite(*shape)).skip(
            gradient="a single element cannot change", half="ill-conditioned",
            hidden="products with elements that are 0", **NEEDS_MATRIX)
        for upper in (False, True):
            triangular = np.tril(floats(*shape, n), -1) + (2 + floats(n)**2) * np.eye(n)
            a = triangular.swapaxes(-1, -2).copy() if upper else triangular
            row = Row(solve_triangular, a, floats(*shape, 2), upper)
            yield row.skip(half="ill-conditioned", hidden="products with elements that are 0",
                           **NEEDS_MATRIX)
    row = Row(solve_triangular, np.tril(floats(3, 3), -1) + 2 * np.eye(3), floats(2, 3, 2))
    yield row.skip(half="ill-conditioned", hidden="products with elements that are 0",
                   **NEEDS_MATRIX)


def gamma():
    for a, x, shapes in (((0.2, 3), (0.05, 4), SHAPES), ((5, 30), (1, 40), [(6,)])):
        for shape in shapes:
            yield Row(gammainc, floats(*shape, low=a[0], high=a[1]),
                      floats(*shape, low=x[0], high=x[1])).skip(
                          large="0 or 1 there", integers="not at 0")
    for shape in SHAPES:
        alpha, beta = (floats(*shape, low=0.05, high=6) for _ in range(2))
        yield Row(standard_gamma, alpha, RNG_KEY).skip(**SAMPLE)
        yield Row(beta_logit, alpha, beta, RNG_KEY).skip(**SAMPLE)
        yield Row(dirichlet, alpha, RNG_KEY).skip(
            hidden="every element changes with every parameter", **SAMPLE)
        yield Row(gamma_slope, alpha, alpha * floats(*shape, low=0.3, high=1.5)).skip(**SLOPE)
        yield Row(beta_slope, alpha, beta, floats(*shape)).skip(**SLOPE)


ROWS = [*matrices(), *gamma()]
