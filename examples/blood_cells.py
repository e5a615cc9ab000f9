"""Find blood cells in pictures from a microscope, and their kinds: object detection.

BCCD has 364 pictures of stained blood with boxes around 372 white cells, 4 155 red cells and 361
platelets: 205 pictures for training, 87 that choose the epoch and all settings, and 72 for the
test.  Boxes are missing: many red cells that lie on others or at the border have none.

The network divides a picture into squares of 8 x 8 pixels.  For each square it gives the
probabilities that a white cell, a red cell or a platelet has its center there (Zhou, Wang and
Kraehenbuehl, "Objects as Points", 2019), and the distances to the sides of this cell's box.  The
loss of the distances is the generalized IoU, mostly of squares near the center (Liu et al.,
"Training-Time-Friendly Network", 2020).  The network learns from each picture and its three mirror
images.  The baseline has no network: it divides the pixels into three colors by k-means, and takes
connected regions for cells.

    python examples/blood_cells.py [--data DIR] [--epochs 10] [--seed 0] [--backend cpu|cuda|auto]
                                   [--out out]

The script prints the average precision of each kind at an IoU of 0.5 as the PASCAL VOC challenge
has defined it since 2010: the area under the curve of precision over recall, where precision is the
highest one at this or a larger recall.  `--data` or GPUPROP_DATA is the unpacked download of
github.com/Shenggan/BCCD_Dataset.  The script draws pictures of the test set with their boxes,
`out`/blood_cells.png, and saves the network, `out`/blood_cells.safetensors.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from command_line import parse_arguments
from figures import Figure, record
from runs import train_best
from scipy import ndimage
from sklearn.cluster import KMeans
from texts import find_given

import gpuprop
import gpuprop.functional as F
from gpuprop import nn, optim
from gpuprop.data import ArrayDataset, DataLoader, ToFloat

PUBLISHER = "github.com/Shenggan/BCCD_Dataset, Code, Download ZIP"
KINDS = ["WBC", "RBC", "Platelets"]
NAMES = ["white cells", "red cells", "platelets"]
COLORS = ["tab:blue", "tab:red", "tab:green"]
REDUCED = 2  # the pictures, to 240 x 320 pixels
STRIDE = 8  # pixels of a square of the grid
LEAST_SCORE = 0.05  # of a found cell
MOST_OVERLAP = 0.5  # the IoU of two found cells of a kind
SHOWN_SCORE = 0.4  # in the drawing
RIM = 5  # pixels of a white cell around its stained nucleus
SHRUNK = 10  # pixels by which red cells become smaller, so that they do not touch


class Cells(NamedTuple):
    """Boxes (N, 4) in pixels of a reduced picture, and their kinds (N,)."""

    boxes: np.ndarray
    kinds: np.ndarray


class Found(NamedTuple):
    """Cells as they were found, those of high scores (N,) first."""

    boxes: np.ndarray
    kinds: np.ndarray
    scores: np.ndarray


def boxes_of_kind(cells: Sequence[Cells | Found], kind: int) -> list[np.ndarray]:
    return [own.boxes[own.kinds == kind] for own in cells]


class Pictures(NamedTuple):
    """Pictures (N, 3, H, W), uint8, and the cells of each."""

    images: np.ndarray
    cells: list[Cells]

    def mirrored(self, axis: int) -> Pictures:
        """Left and right exchanged for axis 0, top and bottom for axis 1."""
        size = self.images.shape[3 - axis]
        order = [2, 1, 0, 3] if axis == 0 else [0, 3, 2, 1]
        sides = np.arange(4) % 2 == axis
        cells = [Cells(np.where(sides, size - boxes, boxes)[:, order], kinds)
                 for boxes, kinds in self.cells]
        return Pictures(np.flip(self.images, 3 - axis), cells)

    def and_mirrored(self, axis: int) -> Pictures:
        images, cells = self.mirrored(axis)
        return Pictures(np.concatenate([self.images, images]), self.cells + cells)


# ---- the files, in the format of PASCAL VOC ------------------------------------------------------


def read_cells(path: Path, reduced: int) -> Cells:
    """The annotations of a picture, without boxes of no area."""
    objects = list(ElementTree.parse(path).getroot().iter("object"))
    corner = lambda item, name: float(item.findtext(f"bndbox/{name}", ""))
    boxes = np.array([[corner(item, name) for name in ("xmin", "ymin", "xmax", "ymax")]
                      for item in objects], "float32").reshape(-1, 4)
    kinds = np.array([KINDS.index(item.findtext("name", "")) for item in objects], int)
    proper = F.box_area(boxes) > 0
    return Cells(boxes[proper] / reduced, kinds[proper])


def read_pictures(folder: Path, part: str, reduced: int = REDUCED) -> Pictures:
    try:
        from PIL import Image
    except ImportError:
        raise SystemExit('Pillow reads JPEG files: pip install "gpuprop[images]"') from None
    names = (folder / "ImageSets" / "Main" / f"{part}.txt").read_text().split()
    images = [np.asarray(Image.open(folder / "JPEGImages" / f"{name}.jpg").reduce(reduced))
              for name in names]
    return Pictures(np.stack(images).transpose(0, 3, 1, 2),
                    [read_cells(folder / "Annotations" / f"{name}.xml", reduced)
                     for name in names])


# ---- average precision ---------------------------------------------------------------------------


def hits(found: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Which of the found boxes (N, 4), best first, are right (N,).

    It is the first with an IoU of 0.5 with the box that it overlaps most.
    """
    right = np.zeros(len(found), bool)
    if len(found) and len(boxes):
        overlap = F.box_iou(found, boxes)
        close = np.flatnonzero(overlap.max(axis=1) >= 0.5)
        _, first = np.unique(overlap.argmax(axis=1)[close], return_index=True)
        right[close[first]] = True
    return right


def precision_at_hits(found: Sequence[Found], cells: Sequence[Cells], kind: int) -> np.ndarray:
    """The highest precision at the recall of each right box, in ascending order of recall."""
    pairs = zip(boxes_of_kind(found, kind), boxes_of_kind(cells, kind), strict=True)
    right = np.concatenate([hits(*pair) for pair in pairs])
    scores = np.concatenate([own.scores[own.kinds == kind] for own in found])
    right = right[np.argsort(-scores, kind="stable")]
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    return np.maximum.accumulate(precision[::-1])[::-1][right]


def number(cells: Sequence[Cells], kind: int) -> int:
    return sum(map(len, boxes_of_kind(cells, kind)))


def average_precision(found: Sequence[Found], cells: Sequence[Cells], kind: int) -> float:
    """The area under precision over recall: each right box adds one part of the recall."""
    return precision_at_hits(found, cells, kind).sum() / number(cells, kind)


def average_precisions(found: Sequence[Found], cells: Sequence[Cells]) -> np.ndarray:
    return np.array([average_precision(found, cells, kind) for kind in range(len(KINDS))])


# ---- the network ---------------------------------------------------------------------------------


class Residual(nn.Module):
    """``x + layers(x)``, with taps that are `dilation` apart."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False),
            nn.BatchNorm2d(width), nn.ReLU())

    def forward(self, x: Any) -> Any:
        return x + self.layers(x)


class Detector(nn.Module):
    """Maps pictures (N, 3, H, W) to logits (N, 3, H / 8, W / 8) of the kinds, and to distances
    (N, 4, H / 8, W / 8) from the middles of the squares to the left, top, right and bottom.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        half = lambda before, after: [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
                                      nn.BatchNorm2d(after), nn.ReLU()]
        self.layers = nn.Sequential(
            *half(3, width // 4), *half(width // 4, width // 2), *half(width // 2, width),
            *(Residual(width, dilation) for dilation in (1, 2, 4, 1)))
        self.logits = nn.Conv2d(width, len(KINDS), 1)
        self.distances = nn.Conv2d(width, 4, 1)

    def forward(self, x: Any) -> tuple[Any, Any]:
        h = self.layers(x)
        return self.logits(h) - 4, STRIDE * gpuprop.exp(self.distances(h))


def middles(size: int) -> np.ndarray:
    """The middles of the squares along an axis of this many pixels."""
    return np.arange(STRIDE / 2, size, STRIDE, dtype="float32")


def targets(cells: Cells, height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the grid (Y, X) shall give for a picture: heat (3, Y, X), which is 1 at the centers of
    cells and falls off around them; the distances (4, Y, X) to the sides of the cell with the most
    heat; and the share (Y, X) of this cell's heat.
    """
    x, y = middles(width), middles(height)[:, None]
    left, top, right, bottom = cells.boxes.T[:, :, None, None]
    snapped = lambda low, high: ((low + high) / 2 // STRIDE + 0.5) * STRIDE
    squared = (((x - snapped(left, right)) / (right - left))**2
               + ((y - snapped(top, bottom)) / (bottom - top))**2)
    inside = (x > left) & (x < right) & (y > top) & (y < bottom)
    heat = np.where(inside, np.exp(-18 * squared), 0)  # sigma: a sixth of the size
    of_kinds = [heat[cells.kinds == kind].max(axis=0, initial=0) for kind in range(len(KINDS))]
    sides = np.stack(np.broadcast_arrays(x - left, y - top, right - x, bottom - y))
    nearest = heat.argmax(axis=0)
    distances = np.take_along_axis(sides, nearest[None, None], axis=1)[:, 0]
    share = heat.max(axis=0) / np.maximum(heat.sum(axis=(1, 2)), 1)[nearest]
    return np.stack(of_kinds), np.maximum(distances, 1), share


def focal_loss(logits: Any, heat: Any) -> Any:
    """The loss of all probabilities per center, in which kinds have equal weight.

    Probabilities that are right already count little.
    """
    p = F.sigmoid(logits)
    is_center = heat == 1
    at_centers = (1 - p)**2 * F.logsigmoid(logits)
    elsewhere = (1 - heat)**4 * p**2 * F.logsigmoid(-logits)
    of_kinds = gpuprop.where(is_center, at_centers, elsewhere).sum(axis=(0, 2, 3))
    return -(of_kinds / gpuprop.maximum(is_center.sum(axis=(0, 2, 3)), 1)).mean()


def area(distances: Any) -> Any:
    left, top, right, bottom = (distances[:, i] for i in range(4))
    return (left + right) * (top + bottom)


def overlap_loss(found: Any, given: Any, weight: Any) -> Any:
    """The weighted mean of ``1 - generalized IoU`` of two boxes around each square.

    It is 2 - intersection / union - union / area of the smallest box around both.
    """
    inner, hull = area(gpuprop.minimum(found, given)), area(gpuprop.maximum(found, given))
    union = area(found) + area(given) - inner
    return (weight * (2 - inner / union - union / hull)).sum() / weight.sum()


def noise_pictures() -> Pictures:
    """Pictures without cells, and boxes, for runs without data."""
    images = gpuprop.random.integers(0, 256, (16, 3, 64, 80)).numpy().astype("uint8")
    return Pictures(images, [Cells(np.array([[8, 8, 40, 40], [40, 20, 60, 50]], "float32"),
                                   np.array([i % 3, 1])) for i in range(16)])


def run(data: Pictures | None = None, epochs: int = 1) -> tuple:
    """(model, step, batches) of the training, as `gpuprop verify` takes it."""
    images, cells = (data or noise_pictures()).and_mirrored(0).and_mirrored(1)
    grids = zip(*(targets(own, *images.shape[2:]) for own in cells), strict=True)
    arrays = [np.stack(own).astype("float32") for own in grids]
    loader = DataLoader(ArrayDataset(images, *arrays), 8, shuffle=True, transform=ToFloat())
    model = Detector()
    optimizer = optim.AdamW(model.parameters(), weight_decay=0.01)
    scheduler = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, epochs=epochs,
                                              steps_per_epoch=len(loader))

    def step(images: Any, heat: Any, distances: Any, weight: Any) -> Any:
        optimizer.zero_grad()
        logits, found = model(images)
        loss = focal_loss(logits, heat) + overlap_loss(found, distances, weight)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        scheduler.step()
        return loss

    return model, step, loader


def decode(logits: np.ndarray, distances: np.ndarray) -> Found:
    """The cells of the outputs (3, Y, X) and (4, Y, X), without those that overlap a better one."""
    scores = 1 / (1 + np.exp(-logits))
    kinds, row, column = np.nonzero(scores > LEAST_SCORE)
    height, width = (STRIDE * n for n in logits.shape[1:])
    middle = np.stack([middles(width)[column], middles(height)[row]], axis=1)
    sides = distances[:, row, column].T
    boxes = np.concatenate([middle - sides[:, :2], middle + sides[:, 2:]], axis=1)
    boxes = F.clip_boxes_to_image(boxes, (height, width))
    found = Found(boxes, kinds, scores[kinds, row, column])
    kept = F.batched_nms(found.boxes, found.scores, found.kinds, MOST_OVERLAP)
    return Found(*(a[kept] for a in found))


def detect(model: nn.Module, images: np.ndarray) -> list[Found]:
    model.eval()
    found: list[Found] = []
    with gpuprop.no_grad():
        for i in range(0, len(images), 8):
            outputs = model(gpuprop.tensor(ToFloat()(images[i:i + 8])))
            found += map(decode, *(a.numpy() for a in outputs))
    return found


def fitted(data: Pictures, held: Pictures, epochs: int) -> nn.Module:
    """A network with the weights of the epoch that is best for the held pictures."""
    model, *others = run(data, epochs)

    def measure() -> tuple[float, str]:
        precision = average_precisions(detect(model, held.images), held.cells)
        return precision.mean(), f"average precision of held pictures: {described(precision)}"

    return train_best((model, *others), epochs, measure)


# ---- the baseline --------------------------------------------------------------------------------


class Colors:
    """Finds connected regions of the colors of white cells and platelets, and of red cells."""

    def __init__(self, data: Pictures) -> None:
        pixels = data.images[:, :, ::8, ::8].transpose(0, 2, 3, 1).reshape(-1, 3)
        self.means = KMeans(3, n_init=1, random_state=0).fit(pixels)
        from_blue_to_red = np.argsort(self.means.cluster_centers_ @ [1, 0, -1])
        self.stained, _, self.red = from_blue_to_red
        areas = [F.box_area(np.concatenate(boxes_of_kind(data.cells, kind)))
                 for kind in range(len(KINDS))]
        self.areas = np.array([np.median(own) for own in areas])

    def __call__(self, image: np.ndarray) -> Found:
        """The regions of a picture; those of the usual size have the highest scores."""
        colors = self.means.predict(image.reshape(3, -1).T).reshape(image.shape[1:])
        nuclei = ndimage.binary_opening(colors == self.stained)
        discs = ndimage.binary_fill_holes(colors == self.red)
        found = []
        for boxes, kinds in (
                (boxes_around(ndimage.binary_dilation(nuclei, iterations=RIM)), [0, 2]),
                (boxes_around(ndimage.binary_erosion(discs, iterations=SHRUNK), SHRUNK), [1])):
            unusual = abs(np.log(F.box_area(boxes)[:, None] / self.areas[kinds]))
            found.append((boxes, np.array(kinds)[unusual.argmin(axis=1)], -unusual.min(axis=1)))
        together = list(map(np.concatenate, zip(*found, strict=True)))
        order = np.argsort(-together[2], kind="stable")
        return Found(*(a[order] for a in together))


def boxes_around(mask: np.ndarray, margin: int = 0) -> np.ndarray:
    """The boxes (N, 4) around the connected regions of a mask, enlarged by a margin."""
    regions, _ = ndimage.label(mask)
    boxes = [(x.start - margin, y.start - margin, x.stop + margin, y.stop + margin)
             for y, x in ndimage.find_objects(regions)]
    return F.clip_boxes_to_image(np.array(boxes, "float32").reshape(-1, 4), mask.shape)


# ---- results -------------------------------------------------------------------------------------


def described(precision: np.ndarray) -> str:
    parts = [f"{name} {value:.3f}" for name, value in zip(NAMES, precision, strict=True)]
    return f"{', '.join(parts)}, mean {precision.mean():.3f}"


def draw_boxes(axes: Any, boxes: np.ndarray, **style: Any) -> None:
    from matplotlib.patches import Rectangle

    for x1, y1, x2, y2 in boxes:
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, **style))


def draw_curves(axes: Any, found: list[Found], cells: list[Cells]) -> None:
    for kind, (name, color) in enumerate(zip(NAMES, COLORS, strict=True)):
        precision = precision_at_hits(found, cells, kind)
        total = number(cells, kind)
        recall = np.arange(1, len(precision) + 1) / total
        axes.plot(recall, precision, color=color, label=f"{name}, {total} boxes")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.01))
    axes.legend(loc="lower left")


def draw(path: Path, test: Pictures, found: list[Found]) -> None:
    """Pictures of the test set with given and found boxes, and precision over recall."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.1), layout="constrained")
    *panels, curves = figure.subplots(1, 3)
    most_kinds = np.argsort([-len(np.unique(own.kinds)) for own in test.cells], kind="stable")
    for axes, i in zip(panels, most_kinds, strict=False):
        axes.imshow(test.images[i].transpose(1, 2, 0))
        draw_boxes(axes, test.cells[i].boxes, edgecolor="white", linewidth=1, linestyle="--")
        for kind, color in enumerate(COLORS):
            shown = (found[i].kinds == kind) & (found[i].scores > SHOWN_SCORE)
            draw_boxes(axes, found[i].boxes[shown], edgecolor=color, linewidth=1.5)
        axes.set_axis_off()
    panels[0].set_title("dashed: given boxes; colors: found by the network", fontsize=9, loc="left")
    draw_curves(curves, found, test.cells)
    figure.savefig(path, dpi=100)


def main() -> None:
    args = parse_arguments(__doc__, epochs=10)
    folder = find_given(args.data, "bccd", "BCCD", PUBLISHER)
    train, held, test = (read_pictures(folder, part) for part in ("train", "val", "test"))
    backend = gpuprop.use(args.backend).backend
    gpuprop.manual_seed(args.seed)
    print(f"{len(train.images)} pictures for training, {len(test.images)} for the test, backend "
          f"{backend.name!r}", flush=True)
    model = fitted(train, held, args.epochs)
    args.out.mkdir(parents=True, exist_ok=True)
    gpuprop.save(args.out / "blood_cells.safetensors", model.state_dict())
    found = detect(model, test.images)
    draw(args.out / "blood_cells.png", test, found)
    network = average_precisions(found, test.cells)
    colors = average_precisions(list(map(Colors(train), test.images)), test.cells)
    record(args.record, *(
        Figure(f"{name}: average precision at an IoU of 0.5, %", 100 * own, 1,
               {"colors and regions": 100 * other})
        for name, own, other in zip([*NAMES, "mean"], [*network, network.mean()],
                                    [*colors, colors.mean()], strict=True)))
    print(f"average precision of the network: {described(network)}")
    print(f"average precision of colors and regions: {described(colors)}")


if __name__ == "__main__":
    main()
