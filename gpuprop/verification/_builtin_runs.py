"""The built-in runs of `gpuprop verify`, and runs in files.

Each run is a function that returns (model, step, batches), as `gpuprop.verify` expects it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpuprop.functional as F
import gpuprop.nn as nn
import gpuprop.optim as optim
import gpuprop.random as random
from gpuprop._core.tensor import Tensor
from gpuprop.data import ArrayDataset, DataLoader

RUNS: dict[str, Callable] = {}


def builtin(make_run: Callable) -> Callable:
    """Add a run to `RUNS` under the name of its function."""
    RUNS[make_run.__name__] = make_run
    return make_run


class UnknownRunError(ValueError):
    """There is no such built-in run, file or function."""


def find_run(name: str) -> Callable:
    """The built-in run of this name, or a function in a file: ``file.py:function``.

    ``file.py`` means ``file.py:make_run``.  As in ``python file.py``, the file can import others in
    its folder.  Raises UnknownRunError, and what the file raises.
    """
    if name in RUNS:
        return RUNS[name]
    path, function = name, "make_run"
    if ".py:" in name:
        path, _, function = name.rpartition(":")
    if not path.endswith(".py"):
        raise UnknownRunError(f"unknown run {name!r}: it must be one of {', '.join(RUNS)}, or "
                              f"file.py:function")
    if not Path(path).is_file():
        raise UnknownRunError(f"no file {path!r}")
    found = getattr(_imported(Path(path)), function, None)
    if not callable(found):
        raise UnknownRunError(f"{path} has no function {function!r}, which must return "
                              f"(model, step, batches)")
    return found


def _imported(path: Path) -> Any:
    """The file as a module, which finds the modules beside it, as a script does."""
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec: Any = importlib.util.spec_from_file_location(f"gpuprop_run_{path.stem}", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def supervised_run(model: nn.Module, loss: Callable, optimizer: optim.Optimizer, dataset: Any,
                   batch_size: int) -> tuple:
    """(model, step, batches) of ``loss(model(input), target)`` on shuffled batches."""

    def step(input: Any, target: Any) -> Any:
        optimizer.zero_grad()
        value = loss(model(input), target)
        value.backward()
        optimizer.step()
        return value

    return model, step, DataLoader(dataset, batch_size, shuffle=True)


@builtin
def mlp() -> tuple:
    """Classification with two hidden layers, dropout and AdamW."""
    model = nn.Sequential(
        nn.Linear(20, 64), nn.ReLU(), nn.Dropout(0.2),
        nn.Linear(64, 48), nn.GELU(), nn.Dropout(0.1),
        nn.Linear(48, 10),
    )
    inputs = random.normal((256, 20)).numpy()
    labels = random.integers(0, 10, 256).numpy()
    optimizer = optim.AdamW(model.parameters())
    return supervised_run(model, F.cross_entropy, optimizer, ArrayDataset(inputs, labels), 32)


@builtin
def cnn() -> tuple:
    """Image classification with two convolutions, normalization, pooling, dropout and SGD."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, stride=2), nn.GroupNorm(3, 12), nn.SiLU(), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Dropout(0.2), nn.Linear(48, 10),
    )
    images = random.normal((96, 3, 12, 12)).numpy()
    labels = random.integers(0, 10, 96).numpy()
    optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return supervised_run(model, F.cross_entropy, optimizer, ArrayDataset(images, labels), 16)


class CharacterModel(nn.Module):
    """A causal Transformer of two layers: symbols (N, L) to logits (N, L, `symbols`)."""

    causal_mask: Tensor

    def __init__(self, symbols: int, length: int, width: int) -> None:
        self.embedding = nn.Embedding(symbols, width)
        self.positions = nn.SinusoidalPositionalEncoding(width, length, batch_first=True)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.1, "gelu", batch_first=True,
                                           norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, nn.LayerNorm(width))
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        self.register_buffer("causal_mask", mask, persistent=False)

    def forward(self, symbols: Any) -> Any:
        x = self.positions(self.embedding(symbols))
        x = self.layers(x, self.causal_mask, is_causal=True)
        return F.linear(x, self.embedding.weight)


@builtin
def gpt() -> tuple:
    """Next-symbol prediction by a Transformer with attention, dropout, tied weights and AdamW."""
    model = CharacterModel(24, 16, 32)
    text = random.integers(0, 24, (128, 17)).numpy()

    def loss(logits: Any, target: Any) -> Any:
        return F.cross_entropy(logits.reshape(-1, 24), target.reshape(-1))

    optimizer = optim.AdamW(model.parameters(), lr=1e-3)
    return supervised_run(model, loss, optimizer, ArrayDataset(text[:, :-1], text[:, 1:]), 16)


class LastStep(nn.Module):
    """The last time step of a recurrent layer's output, with the batch first."""

    def forward(self, returned: tuple) -> Any:
        return returned[0][:, -1]


@builtin
def lstm() -> tuple:
    """Sequence classification by a bidirectional LSTM of two layers with dropout and Adam."""
    model = nn.Sequential(
        nn.LSTM(6, 16, 2, batch_first=True, dropout=0.2, bidirectional=True), LastStep(),
        nn.Linear(32, 4),
    )
    inputs = random.normal((96, 12, 6)).numpy()
    labels = random.integers(0, 4, 96).numpy()
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    return supervised_run(model, F.cross_entropy, optimizer, ArrayDataset(inputs, labels), 16)
