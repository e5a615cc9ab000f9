"""Find similar images: a network maps digits to points, close together if the digit is the same.

The network learns from triplets: an image, one of the same digit and one of another, which should
be farther away than the second is, by a margin (Schroff, Kalenichenko and Philbin, "FaceNet",
2015).  Each image of a batch of MNIST forms the hardest triplet that the batch offers: with the
farthest image of its digit and the closest of the others (Hermans, Beyer and Leibe, "In Defense of
the Triplet Loss", 2017).

    python examples/similar.py [--data DIR] [--epochs 4] [--images 55000] [--seed 0]
                               [--backend cpu|cuda|auto] [--out out]

The script finds or downloads MNIST as examples/mnist.py does.  Its measure is retrieval@1: the
share of images whose closest other image shows the same digit.  After each epoch it is measured on
the last 5 000 training images, which are held back; at the end on the test images, beside that of
distances between pixels.  The script draws test images with those closest to them,
`out`/similar.png, and saves the network.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from command_line import parse_arguments
from figures import Figure, record
from mnist import hold_back, load_mnist
from runs import training_run
from sklearn.metrics import accuracy_score
from sklearn.neighbors import NearestNeighbors

import gpuprop
import gpuprop.functional as F
from gpuprop import nn, optim
from gpuprop.data import ArrayDataset, DataLoader

MARGIN = 0.3
SHOWN = 6  # neighbours in the picture


class Network(nn.Module):
    """Maps images (N, 784) to points (N, 32) of length 1."""

    def __init__(self) -> None:
        super().__init__()
        block = lambda before, after: [nn.Conv2d(before, after, 3, padding=1, bias=False),
                                       nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
        self.layers = nn.Sequential(
            nn.Unflatten(1, (1, 28, 28)), *block(1, 16), *block(16, 32), *block(32, 64),
            nn.Flatten(), nn.Linear(64 * 3 * 3, 32))

    def forward(self, x: Any) -> Any:
        return F.normalize(self.layers(x))


def hardest_triplets(points: Any, labels: Any) -> tuple:
    """The indices (N,) of the farthest point of each label, and of the closest of another."""
    similar = (points @ points.T).detach()
    same = labels[:, None] == labels
    farthest = gpuprop.where(same, similar, np.inf).argmin(axis=1)
    closest = gpuprop.where(same, -np.inf, similar).argmax(axis=1)
    return farthest, closest


def triplet_loss(model: nn.Module, x: Any, labels: Any) -> Any:
    points = model(x)
    same, other = hardest_triplets(points, labels)
    return F.triplet_margin_loss(points, points[same], points[other], MARGIN)


def run(data: ArrayDataset | None = None, epochs: int = 1) -> tuple:
    """(model, step, batches) of the training, as `gpuprop verify` takes it."""
    if data is None:  # noise
        data = ArrayDataset(gpuprop.random.uniform((160, 784)).numpy(), np.arange(160) % 10)
    loader = DataLoader(data, 128, shuffle=True)
    model = Network()
    optimizer = optim.AdamW(model.parameters())
    scheduler = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, epochs=epochs,
                                              steps_per_epoch=len(loader))
    return training_run(model, triplet_loss, optimizer, loader, scheduler)


def points_of(model: nn.Module, x: np.ndarray) -> np.ndarray:
    model.eval()
    with gpuprop.no_grad():
        parts = [model(gpuprop.tensor(x[i:i + 1000])).numpy() for i in range(0, len(x), 1000)]
    return np.concatenate(parts)


def neighbours(points: np.ndarray) -> np.ndarray:
    """The indices (N, SHOWN) of the other points that are closest to each, nearest first."""
    search = NearestNeighbors(n_neighbors=SHOWN, algorithm="brute").fit(points)
    return search.kneighbors(return_distance=False)


def retrieval(labels: np.ndarray, found: np.ndarray) -> float:
    """The share of images whose nearest neighbour has their label."""
    return accuracy_score(labels, labels[found[:, 0]])


def draw(path: Path, test: ArrayDataset, found: dict[str, np.ndarray]) -> None:
    """Images and their neighbours: each method's first four errors."""
    from matplotlib.figure import Figure

    images, labels = test.arrays
    errors = [np.flatnonzero(labels[own[:, 0]] != labels)[:4] for own in found.values()]
    queries = np.unique(np.concatenate(errors))
    figure = Figure(figsize=(13, 1.05 * len(queries)), layout="constrained")
    grid = figure.subplots(len(queries), 1 + 2 * SHOWN + 1)
    for row, query in zip(grid, queries, strict=True):
        shown = [query, *found["network"][query], None, *found["pixels"][query]]
        for axes, i in zip(row, shown, strict=True):
            axes.set_axis_off()
            if i is not None:
                color = "tab:blue" if labels[i] == labels[query] else "tab:red"
                axes.imshow(255 - images[i].reshape(28, 28), cmap="gray")
                axes.set_title(str(labels[i]), color=color, fontsize=9)
    for column, title in ((0, "image"), (1, "closest for the network"), (SHOWN + 2, "by pixels")):
        grid[0, column].set_title(f"{title}\n", fontsize=9, loc="left")
    figure.savefig(path, dpi=110)


def main() -> None:
    args = parse_arguments(__doc__, epochs=4, images=55000)
    data, test = load_mnist(args.data)
    train, held = hold_back(data, 1 / 12, args.images)
    backend = gpuprop.use(args.backend).backend
    gpuprop.manual_seed(args.seed)
    print(f"{len(train)} training images, {len(test)} test images, backend {backend.name!r}",
          flush=True)
    model, step, batches = run(train, args.epochs)
    for epoch in range(1, args.epochs + 1):
        model.train()
        mean = np.mean([step(*batch).item() for batch in batches])
        share = retrieval(held.arrays[1], neighbours(points_of(model, held.arrays[0])))
        print(f"epoch {epoch}/{args.epochs}: loss {mean:.4f}, retrieval@1 of held images "
              f"{share:.4f}", flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    gpuprop.save(args.out / "similar.safetensors", model.state_dict())
    images, labels = test.arrays
    found = {"network": neighbours(points_of(model, images)), "pixels": neighbours(images)}
    draw(args.out / "similar.png", test, found)
    network, pixels = (100 * retrieval(labels, own) for own in found.values())
    record(args.record, Figure("retrieval@1 of test images, %", network, 2,
                               {"distances between pixels": pixels}))
    print(f"retrieval@1 of test images: network {network:.2f} %, pixels {pixels:.2f} %")


if __name__ == "__main__":
    main()
