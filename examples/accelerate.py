"""Use gpuprop as a library of fast, differentiable functions for arrays of NumPy or CuPy.

Three tasks of which each replaces some lines of a NumPy program, arrays in and arrays out:

1.  The gradient of a user's own function: the Rosenbrock function of 100 variables, beside SciPy's
    formula.
2.  Curve fitting: a damped oscillation through 200 noisy points, by L-BFGS, beside SciPy's
    `curve_fit` and the true parameters.
3.  A physics-informed network (Raissi, Perdikaris and Karniadakis, 2019): a network u(x, t) that
    solves the heat equation ``u_t = a u_xx`` because the loss is what the equation and its boundary
    values lack.  The analytic solution is ``exp(-a pi^2 t) sin(pi x)``.

    python examples/accelerate.py [--steps 2000] [--seed 0] [--backend cpu|cuda|auto] [--out out]

The script writes the picture `out`/accelerate.png and the network `out`/accelerate.safetensors.
"""

from __future__ import annotations

import itertools
import time
from typing import Any

import numpy as np
import scipy.optimize
from command_line import parse_arguments
from figures import Figure, record

import gpuprop
from gpuprop import nn, optim
from gpuprop.data import ArrayDataset, DataLoader

DIFFUSIVITY = 0.1


# ---- the gradient of a function ------------------------------------------------------------------


def rosenbrock(x: Any) -> Any:
    """The test function of H. H. Rosenbrock (1960), as one writes it for NumPy."""
    return (100 * (x[1:] - x[:-1]**2)**2 + (1 - x[:-1])**2).sum()


def gradient_error(xp: Any, rng: np.random.Generator) -> float:
    """The largest difference between `gpuprop.grad` and SciPy's formula, relative to the latter."""
    x = rng.uniform(-2, 2, 100)
    found = gpuprop.asnumpy(gpuprop.grad(rosenbrock)(xp.asarray(x)))
    expected = scipy.optimize.rosen_der(x)
    return np.abs(found - expected).max() / np.abs(expected).max()


# ---- curve fitting -------------------------------------------------------------------------------


def oscillation(t: Any, amplitude: Any, decay: Any, frequency: Any, phase: Any, exp: Any = np.exp,
                cos: Any = np.cos) -> Any:
    return amplitude * exp(-decay * t) * cos(2 * np.pi * frequency * t + phase)


def fit(t: np.ndarray, y: np.ndarray, start: list[float]) -> np.ndarray:
    """The parameters of the least squares, found by L-BFGS with exact gradients."""
    p = gpuprop.Parameter(np.array(start))
    optimizer = optim.LBFGS([p], max_iter=200, line_search_fn="strong_wolfe")
    times, values = gpuprop.tensor(t), gpuprop.tensor(y)

    def closure() -> Any:
        optimizer.zero_grad()
        amplitude, decay, frequency, phase = p
        curve = oscillation(times, amplitude, decay, frequency, phase, gpuprop.exp, gpuprop.cos)
        loss = ((curve - values)**2).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    return p.numpy()


# ---- a physics-informed network ------------------------------------------------------------------


class Solution(nn.Module):
    """u(x, t), whose values at ``x = 0``, ``x = 1`` and ``t = 0`` are exact."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(2, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1))

    def forward(self, points: Any) -> Any:
        x, t = points[:, 0], points[:, 1]
        return gpuprop.sin(np.pi * x) + t * x * (1 - x) * self.net(points)[:, 0]


def analytic(points: np.ndarray) -> np.ndarray:
    x, t = points.T
    return np.exp(-DIFFUSIVITY * np.pi**2 * t) * np.sin(np.pi * x)


def residual(u: Solution, points: Any) -> Any:
    """``u_t - a u_xx`` at the points (N, 2)."""
    first = gpuprop.grad(lambda p: u(p).sum())
    second = gpuprop.grad(lambda p: first(p)[:, 0].sum())
    return first(points)[:, 1] - DIFFUSIVITY * second(points)[:, 0]


def run(steps: int = 2000) -> tuple:
    """(model, step, batches) of the training, as `gpuprop verify` takes it."""
    u = Solution()
    optimizer = optim.Adam(u.parameters(), lr=5e-3)
    scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    points = gpuprop.random.uniform((50 * 256, 2)).numpy()

    def step(points: Any) -> Any:
        optimizer.zero_grad()
        loss = (residual(u, points)**2).mean()
        loss.backward()
        optimizer.step()
        scheduler.step()
        return loss

    return u, step, DataLoader(ArrayDataset(points), 256, shuffle=True)


def solve(steps: int) -> Solution:
    u, step, batches = run(steps)
    start = time.perf_counter()
    points = itertools.chain.from_iterable(itertools.repeat(batches))
    for i, batch in zip(range(1, steps + 1), points, strict=False):
        loss = step(*batch)
        if i % max(1, steps // 10) == 0:
            print(f"step {i:5d}/{steps}: mean squared residual {loss.item():.2e}, "
                  f"{time.perf_counter() - start:.1f} s", flush=True)
    return u


# ---- the picture ---------------------------------------------------------------------------------


def draw(path: Any, t: np.ndarray, y: np.ndarray, fitted: np.ndarray, found: np.ndarray,
         error: np.ndarray) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    curve, solution, difference = figure.subplots(1, 3)
    curve.plot(t, y, ".", color="gray", label="data")
    curve.plot(t, fitted, label="fit")
    curve.set(title="damped oscillation", xlabel="t")
    curve.legend()
    for axes, values, title in ((solution, found, "u(x, t) of the network"),
                                (difference, error, "network minus analytic solution")):
        image = axes.imshow(values, origin="lower", extent=(0, 1, 0, 1), aspect="auto")
        axes.set(title=title, xlabel="x", ylabel="t")
        figure.colorbar(image)
    figure.savefig(path, dpi=120)


def main() -> None:
    args = parse_arguments(__doc__, steps=2000)
    rng = np.random.default_rng(args.seed)
    backend = gpuprop.use(args.backend).backend
    gpuprop.manual_seed(args.seed)
    print(f"backend {backend.name!r}")

    error = gradient_error(backend.xp, rng)
    print(f"gradient of the Rosenbrock function: relative difference from SciPy {error:.1e}")

    true = np.array([2.0, 0.5, 0.8, 0.3])
    t = np.linspace(0, 5, 200)
    y = oscillation(t, *true) + 0.05 * rng.standard_normal(len(t))
    start = [1.0, 0.1, 0.7, 0.0]
    parameters = fit(t, y, start)
    reference, _ = scipy.optimize.curve_fit(oscillation, t, y, start)
    print(f"curve fitting: {np.round(parameters, 3)}, SciPy {np.round(reference, 3)}, "
          f"true {true}")

    u = solve(args.steps)
    axis = np.linspace(0, 1, 101, dtype="float32")
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    with gpuprop.no_grad():
        found = u(gpuprop.tensor(grid)).numpy()
    difference = found - analytic(grid)
    norm = np.linalg.norm(difference) / np.linalg.norm(analytic(grid))

    args.out.mkdir(parents=True, exist_ok=True)
    gpuprop.save(args.out / "accelerate.safetensors", u.state_dict())
    draw(args.out / "accelerate.png", t, y, oscillation(t, *parameters),
         found.reshape(101, 101), difference.reshape(101, 101))
    record(args.record, Figure("heat equation: relative L2 error, %", 100 * float(norm), 3))
    print(f"heat equation: relative L2 error {norm:.1e}, largest error "
          f"{np.abs(difference).max():.1e}")


if __name__ == "__main__":
    main()
