"""Segment white blood cells: find their pixels, though only boxes are given to learn from.

BCCD's pictures of stained blood (see examples/blood_cells.py) have boxes around the cells, no
outlines.  Here the ellipse in the box of a white cell stands for its pixels: a weak label, which is
wrong where a cell is not an ellipse or another lies on it.  The measure is agreement with these
ellipses: true outlines would not reach 1.

The network is a small U-Net (Ronneberger, Fischer and Brox, 2015), `gpuprop.models.UNet`, which
learns from each picture and its three mirror images.  The baselines have no network.  Otsu's
threshold (1979) of blue minus red divides stained pixels from the others: in a white cell these are
the nucleus, and platelets are stained too.  The second removes regions that are small and adds a
rim to the others; the pictures that choose the epoch choose both sizes.

    python examples/segment.py [--data DIR] [--epochs 4] [--seed 0] [--backend cpu|cuda|auto]
                               [--out out]

The script prints the intersection over union (IoU) of the found pixels and of the ellipses, of all
pictures of the test set together.  It draws some of them, `out`/segment.png, and saves the network,
`out`/segment.safetensors.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np
from blood_cells import KINDS, PUBLISHER, Pictures, read_pictures
from command_line import parse_arguments
from figures import Figure, record
from runs import train_best, training_run
from scipy import ndimage
from sklearn.metrics import jaccard_score
from texts import find_given

import gpuprop
import gpuprop.functional as F
from gpuprop import models, nn, optim
from gpuprop.data import ArrayDataset, DataLoader, ToFloat

REDUCED = 4  # the pictures, to 120 x 160 pixels
SIZES = [50, 100, 200, 300]  # pixels of regions, to choose from
RIMS = range(2, 13)  # pixels, to choose from


class Masks(NamedTuple):
    """Pictures (N, 3, H, W), uint8, and which pixels are of white cells (N, 1, H, W)."""

    images: np.ndarray
    inside: np.ndarray


def ellipses(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """The pixels (height, width) in the ellipses that touch the sides of the boxes (N, 4)."""
    x, y = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
    left, top, right, bottom = boxes.T[:, :, None, None]
    squares = (((2 * x - left - right) / (right - left))**2
               + ((2 * y - top - bottom) / (bottom - top))**2)
    return (squares <= 1).any(axis=0)


def with_ellipses(pictures: Pictures) -> Masks:
    size = pictures.images.shape[2:]
    white = [own.boxes[own.kinds == KINDS.index("WBC")] for own in pictures.cells]
    return Masks(pictures.images, np.stack([ellipses(boxes, *size) for boxes in white])[:, None])


def agreement(inside: np.ndarray, found: np.ndarray) -> float:
    """The intersection over union."""
    return jaccard_score(inside.ravel(), found.ravel())


# ---- the baselines -------------------------------------------------------------------------------


def otsu(values: np.ndarray) -> float:
    """The threshold of integers that makes the variance between the two classes the largest."""
    number = np.bincount(values.ravel() - values.min())
    below = np.cumsum(number)[:-1]
    above = number.sum() - below
    sums = np.cumsum(number * np.arange(len(number)))
    difference = sums[:-1] / below - (sums[-1] - sums[:-1]) / above
    return values.min() + np.argmax(below * above * difference**2) + 0.5


def blueness(images: np.ndarray) -> np.ndarray:
    """Blue minus red (N, 1, H, W)."""
    return images[:, 2:].astype(int) - images[:, :1]


def large_regions(mask: np.ndarray, size: int) -> np.ndarray:
    """The connected regions (H, W) of at least `size` pixels, without holes."""
    regions, _ = ndimage.label(mask)
    is_large = np.bincount(regions.ravel()) >= size
    is_large[0] = False  # the pixels outside
    return ndimage.binary_fill_holes(is_large[regions])


def with_rim(mask: np.ndarray, rim: int) -> np.ndarray:
    """The pixels at most `rim` from the mask."""
    return (ndimage.distance_transform_edt(~mask) <= rim) & mask.any()


def cells_around(stained: np.ndarray, size: int, rim: int) -> np.ndarray:
    """The large regions of stained pixels (N, 1, H, W) with a rim."""
    return np.stack([with_rim(large_regions(mask, size), rim) for mask, in stained])[:, None]


def best_choice(stained: np.ndarray, inside: np.ndarray) -> tuple[int, int]:
    """The size and the rim of the highest IoU."""
    return max(itertools.product(SIZES, RIMS),
               key=lambda choice: agreement(inside, cells_around(stained, *choice)))


# ---- the network ---------------------------------------------------------------------------------


def run(data: Masks | None = None, epochs: int = 1) -> tuple:
    """(model, step, batches) of the training, as `gpuprop verify` takes it."""
    if data is None:  # noise
        images = gpuprop.random.integers(0, 256, (8, 3, 32, 48)).numpy().astype("uint8")
        data = Masks(images, images[:, :1] > 200)
    for axis in (2, 3):
        data = Masks(*(np.concatenate([a, np.flip(a, axis)]) for a in data))
    loader = DataLoader(ArrayDataset(*data), 8, shuffle=True, transform=ToFloat())
    model = models.UNet(3, 1, bilinear=True, width=8)
    optimizer = optim.AdamW(model.parameters(), weight_decay=0.01)
    scheduler = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, epochs=epochs,
                                              steps_per_epoch=len(loader))
    loss_of = lambda model, images, inside: F.binary_cross_entropy_with_logits(
        model(images), inside.astype(images.dtype))
    return training_run(model, loss_of, optimizer, loader, scheduler)


def predict(model: nn.Module, images: np.ndarray) -> np.ndarray:
    """The pixels (N, 1, H, W) that are more likely inside than not."""
    model.eval()
    with gpuprop.no_grad():
        parts = [model(gpuprop.tensor(ToFloat()(images[i:i + 8]))).numpy() > 0
                 for i in range(0, len(images), 8)]
    return np.concatenate(parts)


def fitted(data: Masks, held: Masks, epochs: int) -> nn.Module:
    """A network with the weights of the epoch with the highest IoU of the held pictures."""
    model, *others = run(data, epochs)

    def measure() -> tuple[float, str]:
        value = agreement(held.inside, predict(model, held.images))
        return value, f"IoU of held pictures {value:.3f}"

    return train_best((model, *others), epochs, measure)


# ---- results -------------------------------------------------------------------------------------


def draw(path: Path, test: Masks, found: dict[str, np.ndarray]) -> None:
    """Pictures of the test set, the ellipses, and what each method found."""
    from matplotlib.figure import Figure

    columns = {"picture": test.images, "ellipses": test.inside, **found}
    rows = np.linspace(0, len(test.images), 4, endpoint=False).astype(int)
    figure = Figure(figsize=(11, 6.8), layout="constrained")
    grid = figure.subplots(len(rows), len(columns))
    for i, line in zip(rows, grid, strict=True):
        for axes, (name, images) in zip(line, columns.items(), strict=True):
            axes.imshow(images[i].transpose(1, 2, 0), cmap="gray")
            axes.set_axis_off()
            if i == 0:
                axes.set_title(name, fontsize=10)
    figure.savefig(path, dpi=90)


def main() -> None:
    args = parse_arguments(__doc__, epochs=4)
    folder = find_given(args.data, "bccd", "BCCD", PUBLISHER)
    train, held, test = (with_ellipses(read_pictures(folder, part, REDUCED))
                         for part in ("train", "val", "test"))
    backend = gpuprop.use(args.backend).backend
    gpuprop.manual_seed(args.seed)
    print(f"{len(train.images)} pictures for training, {len(test.images)} for the test, backend "
          f"{backend.name!r}", flush=True)
    model = fitted(train, held, args.epochs)
    args.out.mkdir(parents=True, exist_ok=True)
    gpuprop.save(args.out / "segment.safetensors", model.state_dict())
    threshold = otsu(blueness(train.images))
    choice = best_choice(blueness(held.images) > threshold, held.inside)
    stained = blueness(test.images) > threshold
    found = {"network": predict(model, test.images), "Otsu's threshold": stained,
             "Otsu, regions with a rim": cells_around(stained, *choice)}
    draw(args.out / "segment.png", test, found)
    values = {name: agreement(test.inside, own) for name, own in found.items()}
    for name, value in values.items():
        print(f"{name}: IoU {value:.3f}")
    record(args.record, Figure("IoU with the ellipses in the boxes of white cells",
                               values.pop("network"), 3, values))


if __name__ == "__main__":
    main()
