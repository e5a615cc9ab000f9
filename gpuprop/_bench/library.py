"""What a workload needs of a library: gpuprop, gpuprop.torch, or PyTorch itself."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import gpuprop.data as data
import gpuprop.functional as functional
import gpuprop.nn as nn
import gpuprop.optim as optim
from gpuprop._array.shape import concatenate
from gpuprop._capture import capture
from gpuprop._core.mode import no_grad
from gpuprop._core.registry import default_backend
from gpuprop._core.tensor import tensor


class Library:
    """gpuprop's own words.

    `nn`, `F` and `optim` have the names and meanings of PyTorch.
    """

    def __init__(self) -> None:
        self.nn: Any = nn
        self.F: Any = functional
        self.optim: Any = optim
        self.DataLoader: Any = data.DataLoader
        self.tensor: Callable = tensor
        self.concat: Callable = concatenate
        self.no_grad: Callable[[], contextlib.AbstractContextManager] = no_grad
        self.capture: Callable = capture if default_backend().records else _as_it_is
        self.compile: Callable = _as_it_is

    def dataset(self, images: np.ndarray, labels: np.ndarray) -> Any:
        """The library's own dataset of arrays in memory."""
        return data.ArrayDataset(images, labels)

    def load(self, model: Any, weights: Mapping[str, np.ndarray]) -> None:
        """Give the model these weights."""
        model.load_state_dict({name: self.tensor(w) for name, w in weights.items()})


class TorchLibrary(Library):
    """PyTorch's words, of the module `torch` or `gpuprop.torch`."""

    def __init__(self, torch: Any, compile: Callable | None = None) -> None:
        self.torch = torch
        self.nn = torch.nn
        self.F = torch.nn.functional
        self.optim = torch.optim
        self.DataLoader = importlib.import_module(f"{torch.__name__}.utils.data").DataLoader
        self.tensor = torch.tensor
        self.concat = torch.cat
        self.no_grad = torch.no_grad
        self.capture = _as_it_is
        self.compile = compile or _as_it_is

    def dataset(self, images: np.ndarray, labels: np.ndarray) -> Any:
        return self.torch.utils.data.TensorDataset(
            self.torch.from_numpy(images), self.torch.from_numpy(labels))


def _as_it_is(function: Callable) -> Callable:
    return function
