"""File readers: IDX, CSV, and images in one folder for each class."""

from __future__ import annotations

import csv
import gzip
import io
import math
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpuprop._core.checks import as_callable, as_choice, as_integer, as_path
from gpuprop.data._dataset import Dataset

# ---- IDX ----------------------------------------------------------------------------------------

DEFLATE_RATIO = 1032  # the most that gzip can compress
MAX_NDIM = 64  # the limit of NumPy
IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | os.PathLike) -> np.ndarray:
    """Read the array in an IDX file, the format of MNIST, gzip-compressed or not.

    Raises ValueError if the file is damaged or not IDX.  Y. LeCun, "The MNIST database of
    handwritten digits".
    """
    data = as_path("read_idx: path", path).read_bytes()
    is_compressed = data[:2] == b"\x1f\x8b"
    limit = len(data) * (DEFLATE_RATIO if is_compressed else 1)
    try:
        file = gzip.GzipFile(fileobj=io.BytesIO(data)) if is_compressed else io.BytesIO(data)
        head = file.read(4)
        magic, type_code, ndim = struct.unpack(">HBB", head)
        if magic != 0 or type_code not in IDX_TYPES or ndim > MAX_NDIM:
            raise ValueError(f"{path}: not an IDX file: it starts with {head.hex(' ')}")
        shape = struct.unpack(f">{ndim}I", file.read(4 * ndim))
        dtype = np.dtype(IDX_TYPES[type_code])
        expected = math.prod(shape) * dtype.itemsize
        content = file.read(min(expected, limit) + 1)  # one byte more than there should be
    except (EOFError, OSError, struct.error, zlib.error) as e:
        raise ValueError(f"{path}: damaged IDX file: {e}") from e
    if len(content) != expected:
        found = f"{len(content)}{' or more' if len(content) > expected else ''}"
        raise ValueError(f"{path}: damaged IDX file: expected {expected} bytes for an array of "
                         f"shape {shape}, got {found}")
    return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="))


# ---- CSV ----------------------------------------------------------------------------------------

MISSING = {"", "na", "nan", "n/a", "null", "none", "?"}
SEPARATED_NUMBER = re.compile(r"[+-]?\d+(,\d+)+(\.\d*)?")  # 1,000.5 and, in other languages, 1,5


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
    """Read a CSV file into arrays; missing inputs (empty, NA, NaN, null, none, ?) become NaN.

    `target` is the column to predict, by name or index.  `columns` are the input columns, by
    default all others.  A target of strings becomes int64 indices into `classes`, the sorted
    distinct strings; a target of whole numbers becomes int64; any other numeric target becomes
    float64.  By default the first line is a header if none of its cells is a number.  Raises
    ValueError, with the line and column, if an input is not a number, or if a target is missing.
    """
    path = as_path("read_csv: path", path)
    as_choice("read_csv: header", header, (None, True, False))
    if not isinstance(delimiter, str) or len(delimiter) != 1:
        raise ValueError(f"read_csv: delimiter must be one character, got {delimiter!r}")
    if target is not None:
        _check_column("target", target)
    if columns is not None:
        if isinstance(columns, str | bytes) or not isinstance(columns, Iterable):
            raise TypeError(f"read_csv: columns must be a list of names and indices, got "
                            f"{columns!r}")
        columns = list(columns)
        for column in columns:
            _check_column("each of columns", column)
    lines, rows = _read_rows(path, delimiter)
    names = [str(i) for i in range(len(rows[0]))]
    if _has_header(rows) if header is None else header:
        names = [name.strip() for name in rows[0]]
        lines, rows = lines[1:], rows[1:]
    for line, row in zip(lines, rows, strict=True):
        if len(row) != len(names):
            raise ValueError(f"{path}, line {line}: expected {len(names)} cells, got {len(row)}")
    target_column = None if target is None else _column_index(target, names, path)
    if columns is None:
        columns = [i for i in range(len(names)) if i != target_column]
    input_columns = [_column_index(column, names, path) for column in columns]

    def where(n: int, i: int) -> str:
        return f"{path}, line {lines[n]}, column {names[i]!r}"

    inputs = np.empty((len(rows), len(input_columns)))
    for k, i in enumerate(input_columns):
        for n, row in enumerate(rows):
            if not _is_number(row[i]):
                raise ValueError(f"{where(n, i)}: {row[i]!r} is not a number; choose the columns "
                                 f"to read with columns=")
            inputs[n, k] = _number(row[i])
    target_values = None
    classes: list[str] = []
    if target_column is not None:
        cells = [row[target_column].strip() for row in rows]
        are_labels = not all(map(_is_number, cells))
        for n, cell in enumerate(cells):
            _check_target(where(n, target_column), cell, are_labels)
        target_values, classes = _read_target(cells)
    return Table(inputs, target_values, [names[i] for i in input_columns], classes)


def _read_rows(path: Path, delimiter: str) -> tuple[list[int], list[list[str]]]:
    """The rows of a CSV file that are not empty, and their line numbers."""
    lines, rows = [], []
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True, strict=True)
        try:
            for row in reader:
                if row:
                    lines.append(reader.line_num)
                    rows.append(row)
        except csv.Error as e:
            raise ValueError(f"{path}, line {reader.line_num}: {e}") from e
        except UnicodeDecodeError as e:
            raise ValueError(f"{path}: the text is not UTF-8, convert it: {e}") from e
    if not rows:
        raise ValueError(f"{path}: the file is empty")
    return lines, rows


def _has_header(rows: list[list[str]]) -> bool:
    """True if the first row has no number, and is not a row with missing values.

    A header often has no name for the numbers of the rows, but a name above another number.
    """
    first, *others = rows
    if not any(map(_is_number, first)):
        return True
    if any(cell.strip() and _is_number(cell) for cell in first):
        return False
    return any(not _is_number(name) and _is_number(cell)
               for row in others[:1] for name, cell in zip(first, row, strict=False))


def _check_target(where: str, cell: str, is_label: bool) -> None:
    if cell.lower() in MISSING:
        others = ", ".join(sorted(MISSING - {""}))
        raise ValueError(f"{where}: the target is missing, got {cell!r}: remove the line, or write "
                         f"a value; the name of a class is none of {others}")
    if is_label and SEPARATED_NUMBER.fullmatch(cell):
        raise ValueError(f"{where}: {cell!r} is not a number, and hardly a label: write numbers "
                         f"with a decimal point and without separators")


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
    if "_" in cell:  # a separator in Python
        raise ValueError
    return math.nan if cell.lower() in MISSING else float(cell)


def _check_column(argument: str, column: Any) -> None:
    if not isinstance(column, str):
        as_integer(f"read_csv: {argument}, unless it is a name,", column)


def _column_index(column: str | int, names: list[str], path: Path) -> int:
    if not isinstance(column, str) and -len(names) <= column < len(names):
        return column % len(names)
    if column not in names:
        raise ValueError(f"{path}: no column {column!r}: the file has {', '.join(names)}")
    if names.count(column) > 1:
        raise ValueError(f"{path}: {names.count(column)} columns have the name {column!r}: choose "
                         f"one by its index")
    return names.index(column)


# ---- images -------------------------------------------------------------------------------------

IMAGE_SUFFIXES = {
    ".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp",
}
MODES = ("L", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV")  # of 8 bits per channel


class ImageFolder(Dataset):
    """Images in one folder for each class, ``root/class/.../image.png``.

    A sample is (uint8 array (C, H, W), label).  A label is an index into `classes`, the sorted
    names of the folders.  `mode` is Pillow's, "RGB" or "L".  `size`, (height, width), resizes every
    image: the images of a batch must have the same size.  `transform` is applied to each image
    array.  Needs Pillow.
    """

    def __init__(self, root: str | os.PathLike, transform: Callable | None = None,
                 mode: str = "RGB", size: tuple[int, int] | None = None) -> None:
        self.root = as_path("ImageFolder: root", root)
        self.transform = None if transform is None else as_callable("ImageFolder: transform",
                                                                    transform)
        self.mode, self.size = _mode_and_size("ImageFolder", mode, size)
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
    path = as_path("read_image: path", path)
    mode, size = _mode_and_size("read_image", mode, size)
    try:
        from PIL import Image
    except ImportError as e:
        raise ImportError('reading images needs Pillow: pip install "gpuprop[images]"') from e
    try:
        with Image.open(path) as file:
            if file.mode[0] in "IF":
                raise ValueError(f"its pixels have more than 8 bits (Pillow's mode {file.mode}), "
                                 f"which would be cut off: convert it to 8 bits")
            image = file.convert(mode)
    except Exception as e:
        e.add_note(f"while reading the image {path}")
        raise
    if size is not None and image.size != size[::-1]:
        image = image.resize(size[::-1], Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(pixels)


def _mode_and_size(call: str, mode: Any, size: Any) -> tuple[str, tuple[int, int] | None]:
    as_choice(f"{call}: mode", mode, MODES)
    if size is not None:
        if not isinstance(size, tuple | list) or len(size) != 2:
            raise TypeError(f"{call}: size must be (height, width), got {size!r}")
        size = tuple(as_integer(f"{call}: each number of size", number, 1) for number in size)
    return mode, size
