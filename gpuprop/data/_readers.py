"""File readers: IDX, CSV, and images in one folder for each class."""

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

# ---- IDX ----------------------------------------------------------------------------------------

IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | os.PathLike) -> np.ndarray:
    """Read the array in an IDX file, the format of MNIST, gzip-compressed or not.

    Raises ValueError if the file is damaged or not IDX.  Y. LeCun, "The MNIST database of
    handwritten digits".
    """
    data = Path(path).read_bytes()
    try:
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        magic, type_code, ndim = struct.unpack_from(">HBB", data)
        if magic != 0 or type_code not in IDX_TYPES:
            raise ValueError(f"{path}: not an IDX file: it starts with {data[:4].hex(' ')}")
        shape = struct.unpack_from(f">{ndim}I", data, 4)
    except (EOFError, OSError, struct.error, zlib.error) as e:
        raise ValueError(f"{path}: damaged IDX file: {e}") from e
    dtype = np.dtype(IDX_TYPES[type_code])
    start = 4 + 4 * ndim
    expected = math.prod(shape) * dtype.itemsize
    available = len(data) - start
    if available != expected:
        raise ValueError(f"{path}: damaged IDX file: expected {expected} bytes for an array of "
                         f"shape {shape}, got {available}")
    array = np.frombuffer(data, dtype, offset=start).reshape(shape)
    return array.astype(dtype.newbyteorder("="))


# ---- CSV ----------------------------------------------------------------------------------------

MISSING = {"", "na", "nan", "n/a", "null", "none", "?"}


class Table(NamedTuple):
    """The content of a CSV file as arrays.

    - `inputs`: (N, D), float64.
    - `target`: (N,), or None if no target was selected.
    - `columns`: the names of the D input columns.
    - `classes`: the names of the target's classes, empty for a numeric target.
    """

    inputs: np.ndarray
    target: np.ndarray | None
    columns: list[str]
    classes: list[str]


def read_csv(
    path: str | os.PathLike, target: str | int | None = None,
    columns: Iterable[str | int] | None = None, header: bool | None = None, delimiter: str = ",",
) -> Table:
    """Read a CSV file into arrays; missing values (empty, NA, NaN, null, none, ?) become NaN.

    `target` is the column to predict, by name or index.  `columns` are the input columns, by
    default all others.  A target of strings becomes int64 indices into `classes`, the sorted
    distinct strings; a target of whole numbers becomes int64; any other numeric target becomes
    float64.  By default the first line is a header if none of its cells is a number.  Raises
    ValueError, with the line and column, if an input is not a number.
    """
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
        rows = [(reader.line_num, row) for row in reader if row]
    if not rows:
        raise ValueError(f"{path}: the file is empty")
    first = rows[0][1]
    if header is None:
        header = not any(map(_is_number, first))
    if header:
        names = [name.strip() for name in first]
        rows = rows[1:]
    else:
        names = [str(i) for i in range(len(first))]
    for line, row in rows:
        if len(row) != len(names):
            raise ValueError(f"{path}, line {line}: expected {len(names)} cells, got {len(row)}")
    target_column = None if target is None else _column_index(target, names, path)
    if columns is None:
        columns = [i for i in range(len(names)) if i != target_column]
    input_columns = [_column_index(column, names, path) for column in columns]
    inputs = np.empty((len(rows), len(input_columns)))
    for k, i in enumerate(input_columns):
        for n, (line, row) in enumerate(rows):
            if not _is_number(row[i]):
                raise ValueError(f"{path}, line {line}, column {names[i]!r}: {row[i]!r} is not a "
                                 f"number; choose the columns to read with columns=")
            inputs[n, k] = _number(row[i])
    target_values = None
    classes: list[str] = []
    if target_column is not None:
        target_values, classes = _read_target([row[target_column].strip() for _, row in rows])
    return Table(inputs, target_values, [names[i] for i in input_columns], classes)


def _read_target(cells: list[str]) -> tuple[np.ndarray, list[str]]:
    """The values of the target column and, if they are labels, the names of the classes."""
    if not all(map(_is_number, cells)):
        classes, labels = np.unique(cells, return_inverse=True)
        return labels.astype(np.int64), classes.tolist()
    values = np.array([_number(cell) for cell in cells])
    # float64 does not represent every integer beyond 2**53
    is_exact = np.isfinite(values).all() and (abs(values) < 2.0**53).all()
    if is_exact and (values == np.floor(values)).all():
        values = values.astype(np.int64)
    return values, []


def _is_number(cell: str) -> bool:
    try:
        _number(cell)
        return True
    except ValueError:
        return False


def _number(cell: str) -> float:
    """The number in a cell, NaN if it is missing; raises ValueError if there is none."""
    cell = cell.strip()
    return math.nan if cell.lower() in MISSING else float(cell)


def _column_index(column: Any, names: list[str], path: Any) -> int:
    if isinstance(column, int) and -len(names) <= column < len(names):
        return column % len(names)
    if column not in names:
        raise ValueError(f"{path}: no column {column!r}: the file has {', '.join(names)}")
    return names.index(column)


# ---- images -------------------------------------------------------------------------------------

IMAGE_SUFFIXES = {
    ".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp",
}


class ImageFolder(Dataset):
    """Images in one folder for each class, ``root/class/.../image.png``.

    A sample is (uint8 array (C, H, W), label).  A label is an index into `classes`, the sorted
    names of the folders.  `mode` is Pillow's, "RGB" or "L".  `size`, (height, width), resizes every
    image: the images of a batch must have the same size.  `transform` is applied to each image
    array.  Needs Pillow.
    """

    def __init__(self, root: str | os.PathLike, transform: Callable | None = None,
                 mode: str = "RGB", size: tuple[int, int] | None = None) -> None:
        self.root = Path(root)
        self.transform = transform
        self.mode = mode
        self.size = size
        folders = [p for p in self.root.iterdir() if p.is_dir() and not p.name.startswith(".")]
        self.classes = sorted(p.name for p in folders)
        if not self.classes:
            raise ValueError(f"ImageFolder: no folders in {root}: expected one for each class")
        self.class_to_idx = {name: i for i, name in enumerate(self.classes)}
        self.samples: list[tuple[Path, int]] = []
        for name, label in self.class_to_idx.items():
            paths = sorted((self.root / name).rglob("*"))
            self.samples += [(p, label) for p in paths if p.suffix.lower() in IMAGE_SUFFIXES]
        self.targets = [label for _, label in self.samples]
        empty = sorted({*range(len(self.classes))} - {*self.targets})
        if empty:
            names = ", ".join(self.classes[i] for i in empty)
            raise ValueError(f"ImageFolder: no images in {names} of {root}: expected files that "
                             f"end in {' '.join(sorted(IMAGE_SUFFIXES))}")

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        path, label = self.samples[index]
        image = read_image(path, self.mode, self.size)
        if self.transform is not None:
            image = self.transform(image)
        return image, label


def read_image(
    path: str | os.PathLike, mode: str = "RGB", size: tuple[int, int] | None = None
) -> np.ndarray:
    """Read an image file as a uint8 array (C, H, W).

    The image is converted to Pillow's `mode` and, with `size`, resized to (height, width).
    """
    try:
        from PIL import Image
    except ImportError as e:
        raise ImportError('reading images needs Pillow: pip install "gpuprop[images]"') from e
    try:
        with Image.open(path) as file:
            image = file.convert(mode)
    except Exception as e:
        e.add_note(f"while reading the image {path}")
        raise
    if size is not None and image.size != size[::-1]:
        image = image.resize(size[::-1], Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(pixels)
