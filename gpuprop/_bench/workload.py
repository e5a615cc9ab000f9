"""What a workload is: a model with its data, and the step that is timed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from gpuprop._bench.library import Library

Sizes = SimpleNamespace
Batch = tuple[np.ndarray, np.ndarray]  # inputs and targets


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Abstract: what all kinds of workloads have."""

    what: str  # one line for people
    sizes: Mapping[str, Any]  # attributes of the argument `s` of functions
    quick: Mapping[str, Any]  # those that the quick mode replaces
    data: Callable[[np.random.Generator, Sizes], list[Batch]]
    steps: int = 20  # whose values must agree between libraries
    tolerance: float = 1e-2  # the relative difference that is allowed between values
    left_out: Mapping[str, str] = field(default_factory=dict)  # contender -> why it does not run
    model: Callable[[Any, Sizes], Any] | None = None

    def sizes_of(self, quick: bool, workers: int = 0) -> Sizes:
        """The sizes as attributes; `workers` is the number of workers of a DataLoader."""
        return Sizes(**{**self.sizes, **(self.quick if quick else {}), "workers": workers})

    def batches(self, s: Sizes) -> list[Batch]:
        """The same batches in every library."""
        return self.data(np.random.default_rng(1), s)

    def initial_weights(self, s: Sizes) -> dict[str, np.ndarray]:
        """The state dict of every library's model, made by NumPy.

        Matrices are uniform in ``(-k, k)`` with ``k = 1 / sqrt(inputs of a unit)``, biases in
        (-0.05, 0.05); normalization layers start as the identity.
        """
        if self.model is None:
            return {}
        rng = np.random.default_rng(0)
        state = self.model(Library(), s).state_dict()
        return {name: _initial(rng, name, np.asarray(w)) for name, w in state.items()}

    def step(self, library: Library, s: Sizes, weights: Mapping[str, np.ndarray],
             setting: Mapping[str, Any]) -> Callable[[], Any]:
        """A function that makes one step and returns its loss, or its output in host memory.

        `setting` has options of the optimizer beside those of the workload.
        """
        raise NotImplementedError

    def loaded_model(self, library: Library, s: Sizes, weights: Mapping[str, np.ndarray]) -> Any:
        """The library's model with these weights."""
        assert self.model is not None
        model = self.model(library, s)
        library.load(model, weights)
        return model


def _initial(rng: np.random.Generator, name: str, w: np.ndarray) -> np.ndarray:
    if w.ndim > 1:
        limit = float(np.prod(w.shape[1:])) ** -0.5
        return rng.uniform(-limit, limit, w.shape).astype(w.dtype)
    if "bias" in name:
        return rng.uniform(-0.05, 0.05, w.shape).astype(w.dtype)
    return w.copy()  # weights and statistics of normalization layers


@dataclass(frozen=True, kw_only=True)
class Training(Workload):
    """A training step: forward, backward, update; the loss is read in each step."""

    loss: str = "cross_entropy"  # of PyTorch's functions
    optimizer: str = "Adam"
    options: Mapping[str, float] = field(default_factory=lambda: {"lr": 1e-3})

    def make_optimizer(self, library: Library, model: Any, setting: Mapping[str, Any]) -> Any:
        make = getattr(library.optim, self.optimizer)
        return make(model.parameters(), **self.options, **setting)

    def step(self, library: Library, s: Sizes, weights: Mapping[str, np.ndarray],
             setting: Mapping[str, Any]) -> Callable[[], Any]:
        model = self.loaded_model(library, s, weights)
        optimizer = self.make_optimizer(library, model, setting)
        loss = getattr(library.F, self.loss)
        batches = itertools.cycle([tuple(map(library.tensor, b)) for b in self.batches(s)])

        def loss_of(x: Any, y: Any) -> Any:
            return loss(model(x), y)

        loss_of = library.compile(loss_of)

        def update(x: Any, y: Any) -> Any:
            optimizer.zero_grad()
            value = loss_of(x, y)
            value.backward()
            optimizer.step()
            return value

        update = library.capture(update)
        return lambda: update(*next(batches)).item()


@dataclass(frozen=True, kw_only=True)
class Inference(Workload):
    """The outputs of a model in eval mode, as an array in host memory."""

    steps: int = 2

    def step(self, library: Library, s: Sizes, weights: Mapping[str, np.ndarray],
             setting: Mapping[str, Any]) -> Callable[[], Any]:
        model = self.loaded_model(library, s, weights)
        model.eval()
        forward = library.capture(library.compile(lambda x: model(x)))
        inputs = itertools.cycle([library.tensor(x) for x, _ in self.batches(s)])

        def step() -> np.ndarray:
            with library.no_grad():
                return forward(next(inputs)).numpy()

        return step


@dataclass(frozen=True, kw_only=True)
class Loading(Workload):
    """One epoch of the library's DataLoader, in order, with ``s.workers`` workers.

    ``dataset(library, images, labels)`` returns the dataset.
    """

    dataset: Callable[[Any, np.ndarray, np.ndarray], Any]
    bytes_per_number: int  # what is read and written of an image, for the floor
    steps: int = 2
    tolerance: float = 1e-5

    def step(self, library: Library, s: Sizes, weights: Mapping[str, np.ndarray],
             setting: Mapping[str, Any]) -> Callable[[], Any]:
        (images, labels), = self.batches(s)
        loader = library.DataLoader(
            self.dataset(library, images, labels), s.batch, num_workers=s.workers,
            persistent_workers=s.workers > 0)

        def step() -> float:
            means = [x[:, :, 0].mean().item() for x, _ in loader]  # a look at each image
            return sum(means) / len(means)

        return step
