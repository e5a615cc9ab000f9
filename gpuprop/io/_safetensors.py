"""The safetensors format: the length of a header, a JSON header, and the bytes of all arrays, little-endian.

Written out, since the format takes no more than a page and NumPy is to stay the only requirement; tests hold it against
the library safetensors, in both directions.
https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import json
import math
import os
from io import BufferedReader
from typing import IO, Any

import numpy as np

from gpuprop._core.dtypes import extension_dtype

TEXT = "__metadata__"  # the entry of the header that is no array
TYPES = {"BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32",
         "U64": "uint64", "I64": "int64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
         "C64": "complex64"}
SHORT = {name: short for short, name in TYPES.items()}


def write(file: IO[bytes], arrays: dict[str, np.ndarray], text: str | None) -> None:
    """Write arrays, those of wide types first, so that all are aligned, and a text.

    Raises TypeError for types that the format has not.
    """
    header: dict[str, Any] = {} if text is None else {TEXT: {"gpuprop": text}}
    for name, array in arrays.items():
        if array.dtype.name not in SHORT:
            raise TypeError(f"{name!r} is of type {array.dtype}, which safetensors lacks: convert it, or save as .npz")
        header[name] = {"dtype": SHORT[array.dtype.name], "shape": array.shape}
    order, end = sorted(arrays, key=lambda name: -arrays[name].itemsize), 0
    for name in order:
        header[name]["data_offsets"] = end, end + arrays[name].nbytes
        end += arrays[name].nbytes
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    file.write(len(head).to_bytes(8, "little") + head)
    for name in order:
        array = arrays[name]
        little = array if array.dtype.name == "bfloat16" else array.astype(array.dtype.newbyteorder("<"), copy=False)
        file.write(little.reshape(-1).view("uint8").data)


def read(file: BufferedReader) -> tuple[dict[str, np.ndarray], str | None]:
    """Arrays by name, each in memory of its own, and the text; every byte of the file must belong to something."""
    length = int.from_bytes(file.read(8), "little")
    size = os.fstat(file.fileno()).st_size - 8 - length
    if size < 0:
        raise ValueError(f"its header should have {length} bytes, and {max(size + length, 0)} are there")
    header = json.loads(file.read(length))
    text = header.pop(TEXT, {}).get("gpuprop")
    arrays: dict[str, Any] = dict.fromkeys(header)
    place = 0
    for name in sorted(header, key=lambda name: header[name]["data_offsets"]):
        begin, end = header[name]["data_offsets"]
        shape, kind = header[name]["shape"], header[name]["dtype"]
        if kind not in TYPES:
            raise ValueError(f"{name!r} is of a type unknown here, {kind!r}")
        dtype = np.dtype("<u2") if kind == "BF16" else np.dtype(TYPES[kind]).newbyteorder("<")
        if begin != place or end - begin != math.prod(shape) * dtype.itemsize or end > size:
            raise ValueError(f"{name!r}, of shape {shape} and type {kind}, is not at bytes {begin} to {end} of {size}")
        data = np.empty(end - begin, "uint8")
        file.readinto(data.data)
        array = data.view(dtype).reshape(shape)
        native = array.astype(array.dtype.newbyteorder("="), copy=False)
        arrays[name] = _bfloat16(native) if kind == "BF16" else native
        place = end
    if place != size:
        raise ValueError(f"of {size} bytes, {size - place} belong to no array")
    return arrays, text


def _bfloat16(bits: np.ndarray) -> np.ndarray:
    """The numbers with these 16 bits, or, where there is no such type, in float32, whose first half they are."""
    dtype = extension_dtype("bfloat16")
    return bits.view(dtype) if dtype is not None else (bits.astype("uint32") << 16).view("float32")
