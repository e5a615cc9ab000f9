"""Built-in runs for `gpuprop verify`, by name, and runs in files.

Each returns (model, step, batches), as `gpuprop.verify` wants it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpuprop
from gpuprop import functional as F
from gpuprop import nn, optim
from gpuprop.data import ArrayDataset, DataLoader

RUNS: dict[str, Callable] = {}


def builtin(make_run: Callable) -> Callable:
    """Make a run known by its function's name."""
    RUNS[make_run.__name__] = make_run
    return make_run


def find(name: str) -> Callable:
    """The run of this name: a built-in one, or ``file.py:function``; the function may be left out if it is make_run."""
    path, _, function = name.rpartition(":") if ".py:" in name else (name, "", "make_run")
    if name in RUNS:
        return RUNS[name]
    if not path.endswith(".py"):
        raise ValueError(f"there is no run {name!r}; known are {', '.join(RUNS)}, and file.py:function")
    spec: Any = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, function)


def trained(model: nn.Module, loss: Callable, optimizer: optim.Optimizer, dataset: Any, batch_size: int) -> tuple:
    """A run of the usual kind."""

    def step(input: Any, target: Any) -> Any:
        optimizer.zero_grad()
        value = loss(model(input), target)
        value.backward()
        optimizer.step()
        return value

    return model, step, DataLoader(dataset, batch_size, shuffle=True)


@builtin
def mlp() -> tuple:
    """Two hidden layers, dropout, AdamW; classes."""
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 48), nn.GELU(), nn.Dropout(0.1),
                          nn.Linear(48, 10))
    dataset = ArrayDataset(gpuprop.random.normal((256, 20)).numpy(), gpuprop.random.integers(0, 10, 256).numpy())
    return trained(model, F.cross_entropy, optim.AdamW(model.parameters()), dataset, 32)


@builtin
def cnn() -> tuple:
    """Two convolutions with batch normalisation, pooling and dropout, SGD with momentum; images in classes."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
                          nn.Conv2d(8, 12, 3, stride=2), nn.GroupNorm(3, 12), nn.SiLU(), nn.AdaptiveAvgPool2d(2),
                          nn.Flatten(), nn.Dropout(0.2), nn.Linear(48, 10))
    images = gpuprop.random.normal((96, 3, 12, 12)).numpy()
    dataset = ArrayDataset(images, gpuprop.random.integers(0, 10, 96).numpy())
    return trained(model, F.cross_entropy, optim.SGD(model.parameters(), lr=0.05, momentum=0.9), dataset, 16)
