"""Train on a set that does not fit into memory: the system reads the file when a batch needs it.

The script writes images into a file that it maps into memory: versions of MNIST's training images,
turned, scaled and moved at random.  All versions of an image follow each other, and all images of a
digit: in this order nothing could be learned.  For training, ``np.load(path, mmap_mode="r")`` makes
an array of the file, which ArrayDataset and DataLoader take as any other.  The system reads the
pages of the file that are used, and drops them when somebody needs the memory.

A random order of single images would read a page of the disk, 4 096 bytes, for each image of 784,
as soon as the file is larger than the memory.  So the sampler reads blocks of 128 neighbours, puts
the blocks in random order, and shuffles 512 of them at a time.

    python examples/stream.py [--data DIR] [--gigabytes 1.5] [--batch-size 256] [--keep] [--seed 0]
                              [--backend cpu|cuda|auto] [--out out]

The script finds or downloads MNIST as examples/mnist.py does, and holds its last 5 000 training
images back.  It reads the set once.  Beside what it has read, it prints how much memory the process
has of its own (macOS: the most so far, with the pages of files; Windows: nan, unknown) and the
accuracy on the held images; at the end that on the test images.  It draws the memory and the
accuracy, `out`/stream.png, and saves the network.  It deletes the set, `out`/stream, unless --keep
is given.
"""

from __future__ import annotations

import math
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from command_line import parse_arguments
from figures import Figure, record
from mnist import download_files, find_files, hold_back
from runs import accuracy, training_run

import gpuprop
import gpuprop.functional as F
from gpuprop import nn, optim
from gpuprop.data import ArrayDataset, DataLoader, Sampler, ToFloat, read_idx
from gpuprop.random import Generator

SIZE = 28
CHUNK = 256  # images that are written at a time
BLOCK = 128  # neighbours in the file that are read at about the same time: 100 kB
MIXED = 512  # blocks that are shuffled together
PARTS = 20  # of the set, after which the progress is printed


# ---- the set -------------------------------------------------------------------------------------


def load_mnist(folder: str | None) -> tuple[ArrayDataset, ArrayDataset]:
    """Images (N, 1, SIZE, SIZE), uint8, and labels (N,): for training, and for the test."""
    paths = find_files(folder) if folder else download_files()
    images, labels, test_images, test_labels = map(read_idx, paths)
    return ArrayDataset(images[:, None], labels), ArrayDataset(test_images[:, None], test_labels)


def distorted(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Images (N, 1, SIZE, SIZE), turned by up to 15°, scaled by up to 15 %, moved by 2 pixels."""
    n = len(images)
    angle, scale = rng.uniform(-np.pi / 12, np.pi / 12, n), rng.uniform(0.85, 1.15, n)
    shift = rng.uniform(-2, 2, (n, 2)) * 2 / SIZE  # the image is from -1 to 1
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    maps = np.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], axis=1).reshape(n, 2, 3)
    grid = F.affine_grid(maps.astype("float32"), images.shape)
    return np.rint(F.grid_sample(images.astype("float32"), grid))


def check_size(folder: Path, size: int) -> None:
    if size < SIZE**2:
        raise SystemExit(f"--gigabytes: expected the size of at least one image, {SIZE**2} bytes")
    free = shutil.disk_usage(folder).free
    if free < 1.1 * size:
        raise SystemExit(f"the set needs {size / 1e9:.1f} GB, but {folder} has {free / 1e9:.1f} GB "
                         "left: choose another folder with --out, or a size with --gigabytes")


def write_set(folder: Path, source: ArrayDataset, rows: int, seed: int) -> None:
    """Write images.npy (rows, 1, SIZE, SIZE) and labels.npy (rows,), both uint8, part by part."""
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", "uint8", (rows, 1, SIZE, SIZE))
    labels = np.lib.format.open_memmap(folder / "labels.npy", "w+", "uint8", (rows,))
    order = np.argsort(source.arrays[1], kind="stable")
    rng = np.random.default_rng(seed)
    for first in range(0, rows, CHUNK):
        part = slice(first, min(first + CHUNK, rows))
        x, y = source.take_batch(order[np.arange(part.start, part.stop) * len(order) // rows])
        images[part] = distorted(x, rng)
        labels[part] = y


def open_set(folder: Path) -> ArrayDataset:
    return ArrayDataset(*(np.load(folder / f"{name}.npy", mmap_mode="r")
                          for name in ("images", "labels")))


class MixedBlocks(Sampler):
    """All rows of a file: blocks of neighbours in random order, up to MIXED shuffled at a time.

    It keeps the numbers of the blocks, and of the rows that are shuffled together.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    def epoch_indices(self, rng: Generator) -> Iterator[int]:
        return self._indices(np.random.default_rng(int(rng.integers(0, 2**63))))

    def _indices(self, rng: np.random.Generator) -> Iterator[int]:
        blocks = rng.permutation(-(-self.rows // BLOCK))
        for part in np.array_split(blocks, -(-len(blocks) // MIXED)):
            rows = (part[:, None] * BLOCK + np.arange(BLOCK)).ravel()
            yield from rng.permutation(rows[rows < self.rows]).tolist()


# ---- memory --------------------------------------------------------------------------------------


STATUS = Path("/proc/self/status")


class Memory(NamedTuple):
    """The bytes of a process that are in memory: its own, and pages of files."""

    own: float
    files: float


def memory() -> Memory:
    """The memory of this process; without Linux's /proc the most so far, all of it as its own."""
    if STATUS.exists():
        kilobytes = dict(re.findall(r"^(Rss\w+):\s+(\d+) kB", STATUS.read_text(), re.M))
        return Memory(1024 * int(kilobytes["RssAnon"]), 1024 * int(kilobytes["RssFile"]))
    try:
        import resource
    except ImportError:  # Windows
        return Memory(math.nan, 0)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Memory(most if sys.platform == "darwin" else 1024 * most, 0)


# ---- training ------------------------------------------------------------------------------------


def network() -> nn.Sequential:
    """Maps images (N, 1, SIZE, SIZE) to the logits (N, 10) of the digits."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.ReLU(),   # (N, 16, 14, 14)
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),  # (N, 32, 7, 7)
        nn.Flatten(), nn.Linear(32 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, 10))


def run(data: ArrayDataset | None = None, batch_size: int = 64) -> tuple:
    """(model, step, batches) of the training, as `gpuprop verify` takes it."""
    if data is None:  # noise
        rng = np.random.default_rng(0)
        data = ArrayDataset(rng.integers(0, 256, (200, 1, SIZE, SIZE), "uint8"),
                            np.arange(200, dtype="uint8") % 10)
    batches = DataLoader(data, batch_size, sampler=MixedBlocks(len(data)), num_workers=2,
                         transform=ToFloat())
    model = network()
    optimizer = optim.AdamW(model.parameters())
    scheduler = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=len(batches))
    loss_of = lambda model, x, labels: F.cross_entropy(model(x), labels)
    return training_run(model, loss_of, optimizer, batches, scheduler)


class Progress(NamedTuple):
    """The bytes of images that were read, the most memory since the last row, and the accuracy."""

    read: int
    memory: Memory
    accuracy: float


def train(folder: Path, batch_size: int, held: DataLoader) -> tuple[nn.Module, list[Progress]]:
    """A network that has read the set once, and its progress.

    The memory is measured at the end of each forward, when it is largest.  At the end no array maps
    the files: Windows would not delete them.
    """
    model, step, batches = run(open_set(folder), batch_size)
    every = -(-len(batches) // PARTS)
    read, measured = 0, []
    remove = model.register_forward_hook(lambda *_: measured.append(memory()))
    rows = []
    for number, (x, labels) in enumerate(batches, 1):
        step(x, labels)
        read += len(x) * SIZE**2
        if number % every == 0 or number == len(batches):
            row = Progress(read, max(measured), accuracy(model, held))
            print(f"{row.read / 1e6:6.0f} MB read, memory {row.memory.own / 1e6:.0f} MB and "
                  f"{row.memory.files / 1e6:.0f} MB of files, held images {row.accuracy:.2f} %",
                  flush=True)
            rows.append(row)
            measured.clear()
    remove()
    return model, rows


# ---- results -------------------------------------------------------------------------------------


def draw(path: Path, rows: list[Progress], size: int) -> None:
    """The memory, and the accuracy on the held images, beside what was read."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    read = [row.read / 1e9 for row in rows]
    left.plot(read, [row.memory.own / 1e9 for row in rows], label="memory of the process")
    left.plot(read, [row.memory.files / 1e9 for row in rows], color="tab:gray", linestyle=":",
              label="pages of files, which the system may drop")
    left.axhline(size / 1e9, color="tab:red", linestyle="--", label="size of the set")
    left.set(xlabel="read, GB", ylabel="GB", ylim=(0, None))
    left.legend()
    right.plot(read, [row.accuracy for row in rows])
    right.set(xlabel="read, GB", ylabel="accuracy on held images, %")
    figure.savefig(path, dpi=110)


def main() -> None:
    args = parse_arguments(__doc__, gigabytes=1.5, batch_size=256, keep=False)
    data, test = load_mnist(args.data)
    source, held = hold_back(data, 1 / 12, len(data))
    held_batches, test_batches = (DataLoader(part, 500, transform=ToFloat())
                                  for part in (held, test))
    backend = gpuprop.use(args.backend).backend
    gpuprop.manual_seed(args.seed)
    rows = int(args.gigabytes * 1e9) // SIZE**2
    size = rows * (SIZE**2 + 1)  # a label is one byte
    folder = args.out / "stream"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        check_size(folder, size)
        write_set(folder, source, rows, args.seed)
        print(f"{rows} images, {size / 1e6:.0f} MB, are written; backend {backend.name!r}",
              flush=True)
        model, progress = train(folder, args.batch_size, held_batches)
    finally:
        if not args.keep:
            shutil.rmtree(folder)
    gpuprop.save(args.out / "stream.safetensors", model.state_dict())
    draw(args.out / "stream.png", progress, size)
    most = max(row.memory.own for row in progress)
    right = accuracy(model, test_batches)
    record(args.record,
           Figure("memory of the process, MB", most / 1e6, 0, {"size of the set": size / 1e6}),
           Figure("test accuracy, %", right, 2))
    print(f"memory of the process: at most {most / 1e6:.0f} MB, for a set of {size / 1e6:.0f} MB")
    print(f"test accuracy: {right:.2f} %")


if __name__ == "__main__":
    main()
