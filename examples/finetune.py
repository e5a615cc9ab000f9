"""Teach a trained network new digits by adapters, from a few labelled images.

A convolutional network learns the digits 0 to 4 of MNIST.  Then it is to tell 5 to 9 apart, of
which only a few images are labelled.  LoRA (Hu et al., "Low-Rank Adaptation of Large Language
Models", 2021) freezes each weight W and trains two narrow matrices beside it: the layer computes
with W + B A.  The new head, the last layer, is trained too.

Four ways take the same steps on the same images: the adapters; the new head alone, on features that
stay as they are; all weights, from those of the trained network; all weights, from random ones.

    python examples/finetune.py [--data DIR] [--epochs 2] [--steps 200] [--draws 3] [--seed 0]
                                [--backend cpu|cuda|auto] [--out out]

The script finds or downloads MNIST as examples/mnist.py does.  It prints the accuracy on the test
images of 5 to 9 for several numbers of labelled images, each for several draws of these images.  It
draws the accuracies, `out`/finetune.png, and saves the network of the digits 0 to 4,
`out`/finetune_base.safetensors.  Of the last adapted network it saves what was trained, 7 % of its
numbers, `out`/finetune_adapters.safetensors.  `with_adapters(base)` makes a network for which
``load_state_dict(gpuprop.load(path), strict=False)`` reads this file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from command_line import parse_arguments
from figures import Figure, record
from mnist import load_mnist
from runs import accuracy, training_run

import gpuprop
import gpuprop.functional as F
from gpuprop import nn, optim
from gpuprop.data import ArrayDataset, DataLoader, RandomSampler

CLASSES = 5  # before and after
LABELLED = (5, 10, 20, 50, 100)  # images of each new digit
SHOWN = 20  # of which the figures are recorded
RANK = 4
BATCH = 50
BASE_RATE = 3e-3  # the highest learning rate of the first training


def network() -> nn.Sequential:
    """Maps images (N, 784) to logits (N, CLASSES): a body, which is kept, and a head."""
    body = nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),      # (N, 16, 14, 14)
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),     # (N, 32, 7, 7)
        nn.Flatten(), nn.Linear(32 * 7 * 7, 64), nn.ReLU())
    return nn.Sequential(body, nn.Linear(64, CLASSES))


class LowRank(nn.Module):
    """Adds a matrix of rank `RANK` to a weight: ``W + B A``, which is W at first.

    The weight of a convolution is a matrix too, with a row for each channel of the output.
    """

    def __init__(self, weight: Any) -> None:
        super().__init__()
        rows, columns = len(weight), weight[0].size
        self.a = gpuprop.Parameter(gpuprop.random.normal((RANK, columns), std=columns**-0.5))
        self.b = gpuprop.Parameter(gpuprop.zeros((rows, RANK)))

    def forward(self, weight: Any) -> Any:
        return weight + (self.b @ self.a).reshape(weight.shape)


# ---- four ways to a network for the new digits ---------------------------------------------------


def from_random_weights(base: nn.Sequential) -> nn.Sequential:
    return network()


def with_all_weights(base: nn.Sequential) -> nn.Sequential:
    """The body of `base`, and a new head."""
    model = network()
    model[0].load_state_dict(base[0].state_dict())
    return model


def with_new_head(base: nn.Sequential) -> nn.Sequential:
    """The body of `base`, frozen, and a new head."""
    model = with_all_weights(base)
    model[0].requires_grad_(False)
    return model


def with_adapters(base: nn.Sequential) -> nn.Sequential:
    """The body of `base`, frozen, with an adapter at each weight, and a new head."""
    model = with_new_head(base)
    for layer in model[0]:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.utils.parametrize.register_parametrization(layer, "weight", LowRank(layer.weight))
    return model


class Way(NamedTuple):
    name: str
    make: Callable[[nn.Sequential], nn.Sequential]
    rate: float  # the highest learning rate, chosen on training images that were held back


WAYS = (Way("adapters", with_adapters, 2e-2), Way("new head alone", with_new_head, 1e-1),
        Way("all weights", with_all_weights, 2e-2),
        Way("from random weights", from_random_weights, 1e-2))


def trained(model: nn.Module) -> dict[str, np.ndarray]:
    """The entries of the state that are trained."""
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {name: array for name, array in model.state_dict().items() if name in names}


# ---- training ------------------------------------------------------------------------------------


def run(model: nn.Module | None = None, data: ArrayDataset | None = None, steps: int = 4,
        rate: float = 1e-2) -> tuple:
    """(model, step, batches) of the training, as `gpuprop verify` takes it."""
    model = model or with_adapters(network())
    if data is None:  # noise
        data = ArrayDataset(gpuprop.random.uniform((60, 784)).numpy(), np.arange(60) % CLASSES)
    batches = DataLoader(data, BATCH, sampler=RandomSampler(data, num_samples=steps * BATCH))
    optimizer = optim.AdamW([p for p in model.parameters() if p.requires_grad])
    scheduler = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps)
    loss_of = lambda model, x, labels: F.cross_entropy(model(x), labels)
    return training_run(model, loss_of, optimizer, batches, scheduler)


def train(model: nn.Module, data: ArrayDataset, steps: int, rate: float) -> None:
    _, step, batches = run(model, data, steps, rate)
    for batch in batches:
        step(*batch)


def digits_from(first: int, data: ArrayDataset) -> ArrayDataset:
    """The images of CLASSES digits, which are labelled from 0 on."""
    images, labels = data.arrays
    rows = (labels >= first) & (labels < first + CLASSES)
    return ArrayDataset(images[rows], labels[rows] - first)


def draw_labelled(data: ArrayDataset, count: int, rng: np.random.Generator) -> ArrayDataset:
    """`count` images of each digit, at random."""
    labels = data.arrays[1]
    rows = [rng.choice(np.flatnonzero(labels == digit), count, replace=False)
            for digit in range(CLASSES)]
    return ArrayDataset(*data.take_batch(np.concatenate(rows)))


# ---- results -------------------------------------------------------------------------------------


def draw(path: Path, found: dict[str, np.ndarray], sizes: dict[str, int]) -> None:
    """The accuracies (numbers of labelled images, draws), and how many numbers are trained."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    for name, rows in found.items():
        line, = left.plot(LABELLED, rows.mean(axis=1), marker="o", label=name)
        left.fill_between(LABELLED, rows.min(axis=1), rows.max(axis=1), color=line.get_color(),
                          alpha=0.15)
        shown = rows[LABELLED.index(SHOWN)]
        right.plot([sizes[name]] * len(shown), shown, "o", color=line.get_color())
    left.set(xscale="log", xlabel="labelled images of each new digit", ylabel="test accuracy, %")
    left.set_xticks(LABELLED, map(str, LABELLED))
    left.minorticks_off()
    left.legend(loc="lower right")
    right.set(xscale="log", xlabel="trained numbers",
              title=f"with {SHOWN} labelled images of each new digit")
    figure.savefig(path, dpi=110)


def main() -> None:
    args = parse_arguments(__doc__, epochs=2, steps=200, draws=3)
    data, test = load_mnist(args.data)
    old, new = (digits_from(first, data) for first in (0, CLASSES))
    old_test, new_test = (DataLoader(digits_from(first, test), 500) for first in (0, CLASSES))
    backend = gpuprop.use(args.backend).backend
    gpuprop.manual_seed(args.seed)
    print(f"{len(old)} images of the digits 0 to 4, backend {backend.name!r}", flush=True)
    base = network()
    train(base, old, args.epochs * len(old) // BATCH, BASE_RATE)
    print(f"digits 0 to 4: test accuracy {accuracy(base, old_test):.2f} %", flush=True)

    rng = np.random.default_rng(args.seed)
    found = {way.name: np.zeros((len(LABELLED), args.draws)) for way in WAYS}
    for j, k in np.ndindex(len(LABELLED), args.draws):
        labelled = draw_labelled(new, LABELLED[j], rng)
        models = {way.name: way.make(base) for way in WAYS}
        for way in WAYS:
            train(models[way.name], labelled, args.steps, way.rate)
            found[way.name][j, k] = accuracy(models[way.name], new_test)
        print(f"{LABELLED[j]} images of each new digit: test accuracy",
              ", ".join(f"{name} {rows[j, k]:.2f} %" for name, rows in found.items()), flush=True)

    args.out.mkdir(parents=True, exist_ok=True)
    gpuprop.save(args.out / "finetune_base.safetensors", base.state_dict())
    gpuprop.save(args.out / "finetune_adapters.safetensors", trained(models["adapters"]))
    sizes = {name: sum(array.size for array in trained(model).values())
             for name, model in models.items()}
    draw(args.out / "finetune.png", found, sizes)
    shown = {name: rows[LABELLED.index(SHOWN)].mean() for name, rows in found.items()}
    for name in found:
        print(f"{name}: {sizes[name]} numbers are trained, test accuracy with {SHOWN} images of "
              f"each new digit {shown[name]:.2f} %")
    record(args.record, *(
        Figure(measure, values.pop("adapters"), decimals, values) for measure, decimals, values in (
            (f"test accuracy, {SHOWN} images a digit, %", 2, shown),
            ("trained numbers", 0, sizes))))


if __name__ == "__main__":
    main()
