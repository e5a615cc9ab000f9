"""100 additions of 4 elements, forward and backward to both operands: overhead of autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

TOLERANCE = 1e-6


def gpuprop_step() -> Callable[[], float]:
    from gpuprop import Tensor, add

    x, w = (Tensor(np.ones(4, "float32"), requires_grad=True) for _ in range(2))
    seed = np.ones(4, "float32")

    def step() -> float:
        y = x
        for _ in range(100):
            y = add(y, w)
        y.backward(seed)
        return float(y.data[0])

    return step


def torch_step() -> Callable[[], float]:
    import torch

    torch.set_num_threads(1)
    x, w = torch.ones(4, requires_grad=True), torch.ones(4, requires_grad=True)
    seed = torch.ones(4)

    def step() -> float:
        y = x
        for _ in range(100):
            y = torch.add(y, w)
        y.backward(seed)
        return float(y.detach()[0])

    return step


CONTENDERS: dict[str, Callable[[], Any]] = {
    "gpuprop": gpuprop_step,
    "PyTorch, 1 thread": torch_step,
}
