"""Backpropagation by hand: how a network learns, one step at a time, in plain array code for the CPU and the GPU.

A network with one hidden layer learns to tell two interleaved half-moons apart.  Nothing is hidden in a library: the
forward pass, the loss, the backward pass by the chain rule layer by layer, and the update are written out, and every
gradient is checked against `gpuprop.grad`, which finds them by itself.

    python examples/backprop_by_hand.py [--backend cpu|cuda|auto] [--steps 300] [--seed 0]
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import numpy as np

import gpuprop


def two_moons(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """n points (n, 2) on two half-circles with some noise, and which of the two each is on (n,)."""
    rng = np.random.default_rng(seed)
    moon, angle = np.arange(n) % 2, rng.uniform(0, math.pi, n)
    x = np.where(moon, 1 - np.cos(angle), np.cos(angle))
    y = np.where(moon, 0.5 - np.sin(angle), np.sin(angle))
    return np.stack([x, y], axis=1) + 0.1 * rng.standard_normal((n, 2)), moon


def forward(xp: Any, params: dict, x: Any) -> dict:
    """The forward pass: from points to probabilities, keeping what the backward pass will read."""
    z1 = xp.matmul(x, params["W1"]) + params["b1"]   # (N, H)   a weighted sum of the inputs for every hidden unit
    h = xp.tanh(z1)                                  # (N, H)   bent, or two layers would be no more than one
    z2 = xp.matmul(h, params["W2"]) + params["b2"]   # (N, 1)   a weighted sum of the hidden units: the score of moon 1
    p = 1 / (1 + xp.exp(-z2))                        # (N, 1)   the score as a probability
    return {"x": x, "h": h, "p": p}


def loss(xp: Any, p: Any, t: Any) -> Any:
    """Cross-entropy: how surprised the network is by the truth t, on average, in nats."""
    return -(t * xp.log(p) + (1 - t) * xp.log(1 - p)).mean()


def backward(xp: Any, params: dict, kept: dict, t: Any) -> dict:
    """The backward pass: the chain rule from the loss back to every parameter, one layer after the other."""
    x, h, p = kept["x"], kept["h"], kept["p"]
    dz2 = (p - t) / len(t)                           # (N, 1)   d loss/d z2: all that sigmoid and cross-entropy leave
    dW2 = xp.matmul(h.T, dz2)                        # (H, 1)   z2 = h W2 + b2: a weight's factor, times dz2
    db2 = dz2.sum(axis=0)                            # (1,)     the bias reaches every point, so their gradients add up
    dh = xp.matmul(dz2, params["W2"].T)              # (N, H)   back through the same weights
    dz1 = dh * (1 - h * h)                           # (N, H)   tanh' = 1 - tanh²
    dW1 = xp.matmul(x.T, dz1)                        # (2, H)
    db1 = dz1.sum(axis=0)                            # (H,)
    return {"W1": dW1, "b1": db1, "W2": dW2, "b2": db2}


def show(name: str, array: Any) -> None:
    """A name, a shape and the first few numbers."""
    host = gpuprop.asnumpy(array)
    print(f"    {name:4s} {host.shape!s:9s} {np.array2string(host.reshape(-1)[:4], precision=5, suppress_small=True)}"
          f"{' ...' if host.size > 4 else ''}")


def check(params: dict, grads: dict, x: Any, t: Any) -> float:
    """The largest difference between the gradients by hand and those `gpuprop.grad` finds."""
    by_engine = gpuprop.grad(lambda q: loss(gpuprop, forward(gpuprop, q, x)["p"], t))(params)
    return max(float(abs(grads[name] - by_engine[name]).max()) for name in params)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="auto", help="cpu, cuda, or auto: the GPU if one answers (auto)")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    with gpuprop.use(args.backend) as backend:
        xp = backend.xp  # NumPy's functions on this backend's arrays: the code above is the same on every backend
        points, moons = two_moons(200, args.seed)
        x, t = backend.asarray(points), backend.asarray(moons[:, None].astype("float64"))
        rng, hidden, rate = np.random.default_rng(args.seed), 16, 2.0
        params = {
            "W1": backend.asarray(rng.standard_normal((2, hidden))), "b1": xp.zeros(hidden),
            "W2": backend.asarray(rng.standard_normal((hidden, 1)) / math.sqrt(hidden)), "b2": xp.zeros(1),
        }
        print(f"200 points on two half-moons; a network 2 -> {hidden} -> 1 on backend {backend.name!r}\n")

        for step in range(args.steps + 1):
            kept = forward(xp, params, x)
            value = loss(xp, kept["p"], t)
            grads = backward(xp, params, kept, t)
            if step == 0:
                print("Step 0, in numbers.\n\n  1. Forward pass: from points to probabilities")
                for name in ("x", "h", "p"):
                    show(name, kept[name])
                print(f"\n  2. Loss: {float(value):.5f} nats (knowing nothing costs log 2 = {math.log(2):.5f})\n")
                print("  3. Backward pass: the gradient of the loss with respect to every parameter")
                for name, g in grads.items():
                    show("d" + name, g)
                difference = check(params, grads, x, t)
                print(f"\n     checked against gpuprop.grad: the largest difference is {difference:.1e}")
                print(f"\n  4. Update: each parameter a step of {rate} times its gradient downhill, for example b2")
                show("b2", params["b2"])
            params = {name: params[name] - rate * grads[name] for name in params}
            if step == 0:
                show("b2", params["b2"])
                print("\n  5. Iteration: again from 1, until the loss stays where it is\n")
                print("     step      loss  accuracy  difference from gpuprop.grad")
            if step % max(args.steps // 10, 1) == 0:
                difference = check(params, backward(xp, params, forward(xp, params, x), t), x, t)
                right = float(((kept["p"] > 0.5) == (t > 0.5)).mean())
                print(f"    {step:5d}  {float(value):8.5f}  {right:8.3f}  {difference:.1e}")
                if difference > 1e-12:
                    raise SystemExit("the gradients by hand and by the engine differ: one of them is wrong")


if __name__ == "__main__":
    main()
