"""Readers of files: IDX, CSV, and images in a folder for each class."""

from __future__ import annotations

import csv
import gzip
import math
import os
import struct
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpuprop.data._dataset import Dataset

# ---- IDX ------------------------------------------------------------------------------------------------------------

IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | os.PathLike) -> np.ndarray:
    """The array in an IDX file, as MNIST comes in, packed by gzip or not.

    Raises ValueError where the file is not whole or not IDX.  Y. LeCun, "The MNIST database of handwritten digits".
    """
    data = Path(path).read_bytes()
    try:
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        zero, kind, ndim = struct.unpack_from(">HBB", data)
        if zero or kind not in IDX_TYPES:
            raise ValueError(f"{path}: no IDX file, it begins with {data[:4].hex(' ')}")
        shape = struct.unpack_from(f">{ndim}I", data, 4)
    except (EOFError, OSError, struct.error, zlib.error) as e:
        raise ValueError(f"{path}: no whole IDX file: {e}") from e
    dtype = np.dtype(IDX_TYPES[kind])
    expected, start = math.prod(shape) * dtype.itemsize, 4 + 4 * ndim
    if len(data) - start != expected:
        raise ValueError(f"{path}: an array of shape {shape} takes {expected} bytes, and {len(data) - start} are there")
    return np.frombuffer(data, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


# ---- CSV ------------------------------------------------------------------------------------------------------------

MISSING = {"", "na", "nan", "n/a", "null", "none", "?"}


class Table(NamedTuple):
    """Numbers of a CSV file: `inputs` (N, D), float64, and their column names; the `target` (N,), and its classes."""

    inputs: np.ndarray
    target: np.ndarray | None
    columns: list[str]
    classes: list[str]


def read_csv(path: str | os.PathLike, target: str | int | None = None, columns: Iterable[str | int] | None = None,
             header: bool | None = None, delimiter: str = ",") -> Table:
    """A CSV file as numbers; a missing one (empty, NA, NaN, ?) is NaN.

    `target` is the column to predict and `columns` those to predict it from, by name or position, all others if None.
    A target of texts becomes the integers 0 to len(classes) - 1, in the order of the sorted texts; one of whole numbers
    is int64, and any other float64.  The first line is a header if no cell of it is a number, or by `header`.  Raises
    ValueError with the line of a cell that is no number.
    """
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
        rows = [(reader.line_num, row) for row in reader if row]
    if not rows:
        raise ValueError(f"{path}: the file is empty")
    first = rows[0][1]
    if header or (header is None and not any(map(_is_number, first))):
        names, rows = [name.strip() for name in first], rows[1:]
    else:
        names = [str(i) for i in range(len(first))]
    for line, row in rows:
        if len(row) != len(names):
            raise ValueError(f"{path}, line {line}: {len(row)} cells, and there are {len(names)} columns")
    goal = None if target is None else _position(target, names, path)
    wanted = [i for i in range(len(names)) if i != goal] if columns is None else columns
    chosen = [_position(c, names, path) for c in wanted]
    inputs = np.empty((len(rows), len(chosen)))
    for k, i in enumerate(chosen):
        for n, (line, row) in enumerate(rows):
            if not _is_number(row[i]):
                raise ValueError(f"{path}, line {line}, column {names[i]!r}: {row[i]!r} is no number; name the columns "
                                 f"to read by columns=")
            inputs[n, k] = _number(row[i])
    found, classes = (None, []) if goal is None else _target([row[goal].strip() for _, row in rows])
    return Table(inputs, found, [names[i] for i in chosen], classes)


def _target(cells: list[str]) -> tuple[np.ndarray, list[str]]:
    if not all(map(_is_number, cells)):
        classes, labels = np.unique(cells, return_inverse=True)
        return labels.astype(np.int64), classes.tolist()
    values = np.array([_number(cell) for cell in cells])
    whole = np.isfinite(values).all() and (values == np.floor(values)).all() and (abs(values) < 2.0**53).all()
    return values.astype(np.int64) if whole else values, []


def _is_number(cell: str) -> bool:
    try:
        _number(cell)
        return True
    except ValueError:
        return False


def _number(cell: str) -> float:
    cell = cell.strip()
    return math.nan if cell.lower() in MISSING else float(cell)


def _position(column: Any, names: list[str], path: Any) -> int:
    if isinstance(column, int) and -len(names) <= column < len(names):
        return column % len(names)
    if column not in names:
        raise ValueError(f"{path}: no column {column!r}; there are {', '.join(names)}")
    return names.index(column)


# ---- images ---------------------------------------------------------------------------------------------------------

IMAGES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


class ImageFolder(Dataset):
    """Images in a folder for each class, ``root/class/.../image.png``: a sample is (uint8 array (C, H, W), label).

    Labels number the `classes`, which are the folders in sorted order.  `mode` is Pillow's, "RGB" or "L"; `size`
    (height, width) scales every image, as a batch needs them equal; `transform` changes each array.  Needs Pillow.
    """

    def __init__(self, root: str | os.PathLike, transform: Callable | None = None, mode: str = "RGB",
                 size: tuple[int, int] | None = None) -> None:
        self.root, self.transform, self.mode, self.size = Path(root), transform, mode, size
        self.classes = sorted(p.name for p in self.root.iterdir() if p.is_dir() and not p.name.startswith("."))
        if not self.classes:
            raise ValueError(f"{root}: there is no folder in it; ImageFolder needs one for each class")
        self.class_to_idx = {name: i for i, name in enumerate(self.classes)}
        self.samples = [(path, label) for name, label in self.class_to_idx.items()
                        for path in sorted((self.root / name).rglob("*")) if path.suffix.lower() in IMAGES]
        self.targets = [label for _, label in self.samples]
        empty = sorted({*range(len(self.classes))} - {*self.targets})
        if empty:
            raise ValueError(f"{root}: no images in {', '.join(self.classes[i] for i in empty)}; they end in "
                             f"{' '.join(sorted(IMAGES))}")

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        path, label = self.samples[index]
        image = read_image(path, self.mode, self.size)
        return image if self.transform is None else self.transform(image), label


def read_image(path: str | os.PathLike, mode: str = "RGB", size: tuple[int, int] | None = None) -> np.ndarray:
    """The image in a file, uint8 (C, H, W), converted to Pillow's `mode` and scaled to `size` (height, width)."""
    try:
        from PIL import Image
    except ImportError as e:
        raise ImportError("images are read by Pillow, which is not installed: pip install \"gpuprop[images]\"") from e
    try:
        with Image.open(path) as file:
            image = file.convert(mode)
    except Exception as e:
        e.add_note(f"while reading the image {path}")
        raise
    if size is not None and image.size != size[::-1]:
        image = image.resize(size[::-1], Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))
