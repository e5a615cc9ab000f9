"""NumPy's npz format: a zip archive with one npy file per array."""

from __future__ import annotations

import json
import math
import os
import zipfile
from typing import IO

import numpy as np
from numpy.lib import format as npy

from gpuprop._core.dtypes import extension_dtype, is_extension
from gpuprop.io._digest import PREFIX, check_digest, digest

# two entries of the archive hold a string instead of an array of the state
METADATA = "__metadata__"
EXTENSION_DTYPES = "__types__"  # JSON: {array name: dtype name} of extension dtypes like bfloat16

LOCAL_HEADER = 30  # bytes before an entry, and its name
DEFLATE_RATIO = 1032  # the most that deflate can compress

READ_HEADER = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
BLOCK = 2**20


def write(file: IO[bytes], arrays: dict[str, np.ndarray], metadata: str | None) -> None:
    """Write arrays and metadata; arrays of extension dtypes are stored as float32."""
    entries = dict(arrays)
    extensions = {n: a.dtype.name for n, a in arrays.items() if is_extension(a.dtype)}
    for name in extensions:
        entries[name] = arrays[name].astype("float32")
    if metadata is not None:
        entries[METADATA] = np.array(metadata)
    if extensions:
        entries[EXTENSION_DTYPES] = np.array(json.dumps(extensions))
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in entries.items():
            # ZipInfo's date is fixed, so that equal states give identical files
            info = zipfile.ZipInfo(f"{name}.npy")
            with archive.open(info, "w", force_zip64=True) as entry:
                npy.write_array(entry, array, allow_pickle=False)
        # a comment, so that NumPy sees nothing but the arrays
        archive.comment = digest(_content(archive)).encode()


def read(file: IO[bytes]) -> tuple[dict[str, np.ndarray], str | None]:
    """Read the arrays by name, and the metadata.

    An archive may hold what NumPy writes: entries that are stored or deflated, and that do not
    overlap.  Its arrays therefore have at most 1032 times the size of the file, and none is
    allocated before its size is checked.
    """
    arrays: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(file) as archive:
        # zipfile accepts a cut comment; a length of 2 bytes precedes it
        file.seek(-2 - len(archive.comment), os.SEEK_END)
        if file.read(2) != len(archive.comment).to_bytes(2, "little"):
            raise ValueError("it was cut, or something was appended: use another copy")
        if archive.comment.startswith(PREFIX.encode()):
            check_digest(archive.comment.decode(), _content(archive))
        _check_entries(archive)
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if name in arrays:
                raise ValueError(f"two entries have the name {name!r}")
            try:
                arrays[name] = _read_array(archive, info)
            except Exception as e:
                raise ValueError(f"entry {name!r}: {e}") from e
    metadata = _pop_string(arrays, METADATA)
    extensions = json.loads(_pop_string(arrays, EXTENSION_DTYPES) or "{}")
    for name, dtype_name in extensions.items():
        dtype = extension_dtype(dtype_name)
        if dtype is not None:
            if not is_extension(dtype):
                raise ValueError(f"{dtype_name!r} is no dtype of ml_dtypes")
            arrays[name] = arrays[name].astype(dtype)
    return arrays, metadata


def _content(archive: zipfile.ZipFile) -> list:
    return [[info.filename, info.file_size, info.CRC] for info in archive.infolist()]


def _check_entries(archive: zipfile.ZipFile) -> None:
    """Raise ValueError if entries overlap, or claim to have more bytes than they can have."""
    entries = sorted(archive.infolist(), key=lambda info: info.header_offset)
    ends = [*(info.header_offset for info in entries[1:]), archive.start_dir]
    for info, end in zip(entries, ends, strict=False):
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"entry {info.filename!r} has compression {info.compress_type}, which "
                             f"NumPy does not write")
        if info.header_offset + LOCAL_HEADER + info.compress_size > end:
            raise ValueError(f"entry {info.filename!r} overlaps what follows it")
        ratio = 1 if info.compress_type == zipfile.ZIP_STORED else DEFLATE_RATIO
        if info.file_size > info.compress_size * ratio:
            raise ValueError(f"entry {info.filename!r} claims to have {info.file_size} bytes, "
                             f"which {info.compress_size} bytes in the file cannot hold")


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """The array of an entry, in this machine's byte order, the only one that devices support."""
    with archive.open(info) as entry:
        version = npy.read_magic(entry)
        if version not in READ_HEADER:
            raise ValueError(f"version {version} of the npy format is not supported")
        try:
            shape, is_fortran, dtype = READ_HEADER[version](entry)
        except (MemoryError, RecursionError) as e:
            raise ValueError("the header is nested too deeply") from e
        if dtype.hasobject:
            raise ValueError("it holds Python objects, as a pickle, which can run any code: "
                             "convert it to an array of numbers")
        available = info.file_size - entry.tell()
        expected = math.prod(shape) * dtype.itemsize
        if expected != available or min(shape, default=0) < 0:
            raise ValueError(f"shape {shape} and dtype {dtype} need {expected} bytes, but the "
                             f"entry has {available}")
        data = np.empty(available, np.uint8)
        for start in range(0, available, BLOCK):
            block = entry.read(min(BLOCK, available - start))
            data.data[start:start + BLOCK] = block  # raises if the block is shorter
        entry.read()  # reaches the end, where zipfile checks the CRC-32
    array = np.ndarray(shape, dtype, data, order="F" if is_fortran else "C")
    return array.astype(dtype.newbyteorder("="), copy=False)


def _pop_string(arrays: dict[str, np.ndarray], name: str) -> str | None:
    return str(arrays.pop(name)) if name in arrays else None
