"""The safetensors format, https://huggingface.co/docs/safetensors

A file holds the size of the header (8 bytes), the header in JSON, and the bytes of the arrays, all
little-endian.  gpuprop implements the format because it is small, and NumPy is its only dependency.
The tests exchange files with the safetensors package in both directions.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from io import BufferedReader
from typing import IO, Any

import numpy as np

from gpuprop._core.checks import as_integer
from gpuprop._core.dtypes import extension_dtype
from gpuprop.io._digest import PREFIX, check_digest, digest

METADATA = "__metadata__"  # the only key of the header that is not the name of an array
DIGEST = "gpuprop.digest"
HEADER_LIMIT = 100_000_000  # bytes, the limit of the safetensors package
MAX_NDIM = 64  # the limit of NumPy
DTYPES = {"BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16",
          "U32": "uint32", "I32": "int32", "U64": "uint64", "I64": "int64", "F16": "float16",
          "BF16": "bfloat16", "F32": "float32", "F64": "float64", "C64": "complex64"}
CODES = {name: code for code, name in DTYPES.items()}
# of the arrays in a file; those of bfloat16 are read as the integers with these bits
STORED = {code: np.dtype("<u2" if code == "BF16" else name).newbyteorder("<")
          for code, name in DTYPES.items()}
LARGE = 1 << 18  # bytes, for which another thread computes a checksum while this one reads on


def write(file: IO[bytes], arrays: dict[str, np.ndarray], metadata: str | None) -> None:
    """Write arrays and metadata.

    Arrays with larger items come first, so that every array is aligned.  Raises TypeError for
    dtypes that the format does not have.
    """
    header: dict[str, Any] = {METADATA: {} if metadata is None else {"gpuprop": metadata}}
    for name, array in arrays.items():
        if array.dtype.name not in CODES:
            raise TypeError(f"{name!r} has dtype {array.dtype}, which safetensors does not "
                            f"support: convert it, or save as .npz")
        header[name] = {"dtype": CODES[array.dtype.name], "shape": list(array.shape)}
    order = sorted(arrays, key=lambda name: -arrays[name].itemsize)
    end = 0
    for name in order:
        begin = end
        end += arrays[name].nbytes
        header[name]["data_offsets"] = [begin, end]
    checksums = {name: zlib.crc32(_data(array)) for name, array in arrays.items()}
    header[METADATA][DIGEST] = digest(_content(header, checksums))
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    file.write(len(head).to_bytes(8, "little") + head)
    for name in order:
        file.write(_data(arrays[name]))


def _data(array: np.ndarray) -> memoryview:
    """The bytes of an array in the file."""
    if array.dtype.name != "bfloat16":  # NumPy cannot change the byte order of bfloat16
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return array.reshape(-1).view("uint8").data


def _content(header: dict[str, Any], checksums: dict[str, int]) -> list:
    """All that the digest covers: the values in the file, but not their order."""
    return [header[METADATA].get("gpuprop"),
            [[name, header[name]["dtype"], header[name]["shape"], checksums[name]]
             for name in sorted(checksums)]]


def read(file: BufferedReader) -> tuple[dict[str, np.ndarray], str | None]:
    """Read the arrays by name, each into its own memory, and the metadata.

    Raises ValueError unless the arrays cover every byte after the header exactly once.  No array is
    allocated before all sizes are checked.
    """
    header, size = _read_header(file)
    order = _checked_order(header, size)
    arrays: dict[str, Any] = dict.fromkeys(name for name in header if name != METADATA)
    metadata = header.get(METADATA, {})
    # either the key or the prefix of the value tells that there is a digest, if one is damaged
    digests = [value for key, value in metadata.items()
               if key == DIGEST or value.startswith(PREFIX)]
    checksums: dict[str, int] = {}
    large: dict[str, Future[int]] = {}
    with ThreadPoolExecutor() as pool:
        for name in order:
            begin, end = header[name]["data_offsets"]
            data = np.empty(end - begin, "uint8")
            if file.readinto(data.data) != len(data):
                raise ValueError(f"it was cut while it was read, within {name!r}: use another copy")
            if not digests:
                pass
            elif len(data) < LARGE:
                checksums[name] = zlib.crc32(data.data)
            else:
                large[name] = pool.submit(zlib.crc32, data.data)
            code = header[name]["dtype"]
            array = data.view(STORED[code]).reshape(header[name]["shape"])
            if not array.dtype.isnative:
                array = array.astype(array.dtype.newbyteorder("="))
            arrays[name] = _bfloat16(array) if code == "BF16" else array
        checksums |= {name: future.result() for name, future in large.items()}
    for value in digests:
        check_digest(value, _content(header, checksums))
    return arrays, metadata.get("gpuprop")


def _read_header(file: BufferedReader) -> tuple[dict[str, Any], int]:
    """The header, and the number of bytes that follow it."""
    header_size = int.from_bytes(file.read(8), "little")
    available = os.fstat(file.fileno()).st_size - 8
    if header_size > available:
        raise ValueError(f"expected a header of {header_size} bytes, got {max(available, 0)}")
    if header_size > HEADER_LIMIT:
        raise ValueError(f"a header of {header_size} bytes is longer than {HEADER_LIMIT}")
    header = json.loads(file.read(header_size).decode(), object_pairs_hook=_distinct)
    metadata = header.get(METADATA, {})
    if not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"{METADATA} must hold strings, got {metadata}")
    return header, available - header_size


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("the header has two entries of one name")
    return found


def _checked_order(header: dict[str, Any], size: int) -> list[str]:
    """The names of the arrays in the order of their data, if these are `size` bytes in all."""
    names = [name for name in header if name != METADATA]
    for name in names:
        code, shape = header[name]["dtype"], header[name]["shape"]
        if code not in DTYPES:
            raise ValueError(f"{name!r} has unknown dtype {code!r}; known are {', '.join(DTYPES)}")
        for number in (*shape, *header[name]["data_offsets"]):
            if type(number) is not int or number < 0:
                as_integer(f"{name!r}: each number of shape and data_offsets", number, 0)
        if len(shape) > MAX_NDIM:
            raise ValueError(f"{name!r} has {len(shape)} dimensions, more than {MAX_NDIM}")
    order = sorted(names, key=lambda name: header[name]["data_offsets"])
    offset = 0
    for name in order:
        shape, code = header[name]["shape"], header[name]["dtype"]
        end = offset + math.prod(shape) * STORED[code].itemsize
        if header[name]["data_offsets"] != [offset, end]:
            raise ValueError(f"{name!r} of shape {shape} and dtype {code}: expected data_offsets "
                             f"{[offset, end]}, got {header[name]['data_offsets']}")
        if end > size:
            raise ValueError(f"{name!r} ends at byte {end} of the data, which have {size} bytes")
        offset = end
    if offset != size:
        raise ValueError(f"{size - offset} of {size} bytes of data belong to no array")
    return order


def _bfloat16(bits: np.ndarray) -> np.ndarray:
    """The bfloat16 numbers with these uint16 bits; float32 if ml_dtypes is not installed.

    A bfloat16 has the upper 16 bits of the float32 of the same value.
    """
    dtype = extension_dtype("bfloat16")
    if dtype is not None:
        return bits.view(dtype)
    return (bits.astype("uint32") << 16).view("float32")
