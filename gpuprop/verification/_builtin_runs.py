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


class Characters(nn.Module):
    """The scores of what follows each of (N, L) numbers, by two layers that see only what came before."""

    causal: gpuprop.Tensor

    def __init__(self, symbols: int, length: int, width: int) -> None:
        self.symbols = nn.Embedding(symbols, width)
        self.positions = nn.SinusoidalPositionalEncoding(width, length, batch_first=True)
        self.layers = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(width, 4, 2 * width, 0.1, "gelu", batch_first=True, norm_first=True), 2,
            nn.LayerNorm(width))
        self.register_buffer("causal", nn.Transformer.generate_square_subsequent_mask(length), persistent=False)

    def forward(self, numbers: Any) -> Any:
        x = self.layers(self.positions(self.symbols(numbers)), self.causal, is_causal=True)
        return F.linear(x, self.symbols.weight)


@builtin
def gpt() -> tuple:
    """A Transformer that continues sequences: attention, dropout, an embedding that is the head too, AdamW."""
    model = Characters(24, 16, 32)
    text = gpuprop.random.integers(0, 24, (128, 17)).numpy()
    loss = lambda scores, after: F.cross_entropy(scores.reshape(-1, 24), after.reshape(-1))
    return trained(model, loss, optim.AdamW(model.parameters(), lr=1e-3), ArrayDataset(text[:, :-1], text[:, 1:]), 16)


class LastStep(nn.Module):
    """Of what a recurrent layer returns, with the batch first, the outputs of the last step."""

    def forward(self, returned: tuple) -> Any:
        return returned[0][:, -1]


@builtin
def lstm() -> tuple:
    """Two layers of LSTM in both directions with dropout between them, Adam; sequences in classes."""
    model = nn.Sequential(nn.LSTM(6, 16, 2, batch_first=True, dropout=0.2, bidirectional=True), LastStep(),
                          nn.Linear(32, 4))
    dataset = ArrayDataset(gpuprop.random.normal((96, 12, 6)).numpy(), gpuprop.random.integers(0, 4, 96).numpy())
    return trained(model, F.cross_entropy, optim.Adam(model.parameters(), lr=0.01), dataset, 16)
