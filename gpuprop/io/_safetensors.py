"""The safetensors format, https://huggingface.co/docs/safetensors

A file holds the size of the header (8 bytes), the header in JSON, and the bytes of the arrays, all
little-endian.  gpuprop implements the format because it is small, and NumPy is its only dependency.
The tests exchange files with the safetensors package in both directions.
"""

from __future__ import annotations

import json
import math
import os
from io import BufferedReader
from typing import IO, Any

import numpy as np

from gpuprop._core.dtypes import extension_dtype

METADATA = "__metadata__"  # the only key of the header that is not the name of an array
DTYPES = {"BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16",
          "U32": "uint32", "I32": "int32", "U64": "uint64", "I64": "int64", "F16": "float16",
          "BF16": "bfloat16", "F32": "float32", "F64": "float64", "C64": "complex64"}
CODES = {name: code for code, name in DTYPES.items()}


def write(file: IO[bytes], arrays: dict[str, np.ndarray], metadata: str | None) -> None:
    """Write arrays and metadata.

    Arrays with larger items come first, so that every array is aligned.  Raises TypeError for
    dtypes that the format does not have.
    """
    header: dict[str, Any] = {}
    if metadata is not None:
        header[METADATA] = {"gpuprop": metadata}
    for name, array in arrays.items():
        if array.dtype.name not in CODES:
            raise TypeError(f"{name!r} has dtype {array.dtype}, which safetensors does not "
                            f"support: convert it, or save as .npz")
        header[name] = {"dtype": CODES[array.dtype.name], "shape": array.shape}
    order = sorted(arrays, key=lambda name: -arrays[name].itemsize)
    end = 0
    for name in order:
        begin = end
        end += arrays[name].nbytes
        header[name]["data_offsets"] = begin, end
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    file.write(len(head).to_bytes(8, "little") + head)
    for name in order:
        array = arrays[name]
        if array.dtype.name != "bfloat16":  # NumPy cannot change the byte order of bfloat16
            array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        file.write(array.reshape(-1).view("uint8").data)


def read(file: BufferedReader) -> tuple[dict[str, np.ndarray], str | None]:
    """Read the arrays by name, each into its own memory, and the metadata.

    Raises ValueError unless the arrays cover every byte after the header exactly once.
    """
    header_size = int.from_bytes(file.read(8), "little")
    available = os.fstat(file.fileno()).st_size - 8
    size = available - header_size
    if size < 0:
        raise ValueError(f"expected a header of {header_size} bytes, got {max(available, 0)}")
    header = json.loads(file.read(header_size))
    metadata = header.pop(METADATA, {}).get("gpuprop")
    arrays: dict[str, Any] = dict.fromkeys(header)
    offset = 0
    for name in sorted(header, key=lambda name: header[name]["data_offsets"]):
        begin, end = header[name]["data_offsets"]
        shape = header[name]["shape"]
        code = header[name]["dtype"]
        if code not in DTYPES:
            raise ValueError(f"{name!r} has unknown dtype {code!r}")
        dtype = np.dtype("<u2") if code == "BF16" else np.dtype(DTYPES[code]).newbyteorder("<")
        expected = [offset, offset + math.prod(shape) * dtype.itemsize]
        if [begin, end] != expected:
            raise ValueError(f"{name!r} of shape {shape} and dtype {code}: expected data_offsets "
                             f"{expected}, got {[begin, end]}")
        if end > size:
            raise ValueError(f"{name!r} ends at byte {end} of the data, which have {size} bytes")
        data = np.empty(end - begin, "uint8")
        file.readinto(data.data)
        array = data.view(dtype).reshape(shape)
        native = array.astype(array.dtype.newbyteorder("="), copy=False)
        arrays[name] = _bfloat16(native) if code == "BF16" else native
        offset = end
    if offset != size:
        raise ValueError(f"{size - offset} of {size} bytes of data belong to no array")
    return arrays, metadata


def _bfloat16(bits: np.ndarray) -> np.ndarray:
    """The bfloat16 numbers with these uint16 bits; float32 if ml_dtypes is not installed.

    A bfloat16 has the upper 16 bits of the float32 of the same value.
    """
    dtype = extension_dtype("bfloat16")
    if dtype is not None:
        return bits.view(dtype)
    return (bits.astype("uint32") << 16).view("float32")
