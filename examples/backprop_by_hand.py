"""Backpropagation by hand: how a network learns, step by step, in plain array code.

A network with one hidden layer learns to separate two interleaved half-moons.  The script computes
everything explicitly: the forward pass, the loss, the backward pass by the chain rule, and the
update.  It compares every gradient with that of `gpuprop.grad`, which differentiates the loss
automatically.  The same code runs on the CPU and on an NVIDIA GPU.

    python examples/backprop_by_hand.py [--backend cpu|cuda|auto] [--steps 300] [--seed 0]
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import numpy as np

import gpuprop

HIDDEN = 16
LEARNING_RATE = 2.0


def two_moons(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """n points (n, 2) on two noisy half-circles, and the label of each (n,): moon 0 or moon 1."""
    rng = np.random.default_rng(seed)
    moon = np.arange(n) % 2
    angle = rng.uniform(0, math.pi, n)
    x = np.where(moon, 1 - np.cos(angle), np.cos(angle))
    y = np.where(moon, 0.5 - np.sin(angle), np.sin(angle))
    return np.stack([x, y], axis=1) + 0.1 * rng.standard_normal((n, 2)), moon


def forward(xp: Any, params: dict, x: Any) -> dict:
    """The forward pass: the probability p of moon 1, and the values that `backward` needs."""
    z1 = xp.matmul(x, params["W1"]) + params["b1"]   # (N, H)  a weighted sum per hidden unit
    h = xp.tanh(z1)                                  # (N, H)  nonlinear: else two layers equal one
    z2 = xp.matmul(h, params["W2"]) + params["b2"]   # (N, 1)  the score of moon 1
    p = 1 / (1 + xp.exp(-z2))                        # (N, 1)  sigmoid: the score as a probability
    return {"x": x, "h": h, "p": p}


def cross_entropy(xp: Any, p: Any, t: Any) -> Any:
    """The mean cross-entropy of the probabilities p, given the labels t, in nats."""
    return -(t * xp.log(p) + (1 - t) * xp.log(1 - p)).mean()


def backward(xp: Any, params: dict, values: dict, t: Any) -> dict:
    """The backward pass: the gradient of the loss in every parameter, from the last to the first.

    dz2 is the derivative of the loss with respect to z2, and so on.
    """
    x, h, p = values["x"], values["h"], values["p"]
    dz2 = (p - t) / len(t)                           # (N, 1)  through cross-entropy and sigmoid
    dW2 = xp.matmul(h.T, dz2)                        # (H, 1)  because z2 = h W2 + b2
    db2 = dz2.sum(axis=0)                            # (1,)    every point adds its gradient
    dh = xp.matmul(dz2, params["W2"].T)              # (N, H)
    dz1 = dh * (1 - h * h)                           # (N, H)  because tanh' = 1 - tanh²
    dW1 = xp.matmul(x.T, dz1)                        # (2, H)
    db1 = dz1.sum(axis=0)                            # (H,)
    return {"W1": dW1, "b1": db1, "W2": dW2, "b2": db2}


def show(name: str, array: Any) -> None:
    """Print a name, the shape of the array and its first four elements."""
    host = gpuprop.asnumpy(array)
    numbers = np.array2string(host.reshape(-1)[:4], precision=5, suppress_small=True)
    print(f"    {name:4s} {host.shape!s:9s} {numbers}{' ...' if host.size > 4 else ''}")


def max_difference(params: dict, grads: dict, x: Any, t: Any) -> float:
    """The largest difference between these gradients and those of `gpuprop.grad`."""
    loss = lambda params: cross_entropy(gpuprop, forward(gpuprop, params, x)["p"], t)
    expected = gpuprop.grad(loss)(params)
    return max(float(abs(grads[name] - expected[name]).max()) for name in params)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="auto",
                        help="cpu, cuda, or auto: a GPU if one is available (default: auto)")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    with gpuprop.use(args.backend) as backend:
        xp = backend.xp  # NumPy's functions for this backend: NumPy itself on the CPU
        points, moons = two_moons(200, args.seed)
        x = backend.asarray(points)
        t = backend.asarray(moons[:, None].astype("float64"))
        rng = np.random.default_rng(args.seed)
        params = {
            "W1": backend.asarray(rng.standard_normal((2, HIDDEN))),
            "b1": xp.zeros(HIDDEN),
            "W2": backend.asarray(rng.standard_normal((HIDDEN, 1)) / math.sqrt(HIDDEN)),
            "b2": xp.zeros(1),
        }
        print("200 points on two half-moons; a network with 2 inputs, "
              f"{HIDDEN} hidden units and 1 output on backend {backend.name!r}\n")

        for step in range(args.steps + 1):
            values = forward(xp, params, x)
            loss = float(cross_entropy(xp, values["p"], t))
            grads = backward(xp, params, values, t)
            new_params = {name: params[name] - LEARNING_RATE * grads[name] for name in params}
            if step == 0:
                print("Step 0 in numbers\n\n  1. Forward pass: from the points x to the "
                      "probabilities p")
                for name in ("x", "h", "p"):
                    show(name, values[name])
                print(f"\n  2. Loss: {loss:.5f} nats "
                      f"(probability 0.5 for every point would give log 2 = {math.log(2):.5f})")
                print("\n  3. Backward pass: the gradient of the loss in every parameter")
                for name in grads:
                    show("d" + name, grads[name])
                difference = max_difference(params, grads, x, t)
                print(f"\n     largest difference from gpuprop.grad: {difference:.1e}")
                print(f"\n  4. Update: subtract {LEARNING_RATE} times the gradient, "
                      "for example b2 before and after:")
                show("b2", params["b2"])
                show("b2", new_params["b2"])
                print("\n  5. Repeat from 1.\n")
                print("     step      loss  accuracy  difference from gpuprop.grad")
            if step % max(args.steps // 10, 1) == 0:
                difference = max_difference(params, grads, x, t)
                accuracy = float(((values["p"] > 0.5) == (t > 0.5)).mean())
                print(f"    {step:5d}  {loss:8.5f}  {accuracy:8.3f}  {difference:.1e}")
                if difference > 1e-12:
                    raise SystemExit("the gradients differ from those of gpuprop.grad")
            params = new_params


if __name__ == "__main__":
    main()
