"""Batches of sequences of several lengths: packed, without padding, as recurrent layers run them, and padded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from gpuprop._array.indexing import take
from gpuprop._core.graph import raw
from gpuprop._core.placement import place
from gpuprop._core.registry import backend_of
from gpuprop._core.tensor import Tensor
from gpuprop.functional import _recurrent as recurrent
from gpuprop.nn._module import Movable

Lengths = Tensor | np.ndarray | Sequence[int]


class Packed(NamedTuple):
    """The parts of a `PackedSequence`."""

    data: Any
    batch_sizes: Any
    sorted_indices: Any
    unsorted_indices: Any


class PackedSequence(Packed, Movable):
    """Sequences without padding: the rows of all at step 0, then of those that have a step 1, and so on.

    `data` are the rows, ``batch_sizes[t]`` says how many there are at step t and lies in host memory, for it decides
    shapes.  The longest sequence comes first: ``sorted_indices[i]`` is the place in the batch of the i-th longest, and
    `unsorted_indices` is the inverse; both are None where the batch is in this order.
    """

    def __new__(cls, data: Any, batch_sizes: Any, sorted_indices: Any = None, unsorted_indices: Any = None) -> Self:
        if unsorted_indices is None:
            unsorted_indices = invert_permutation(sorted_indices)
        return super().__new__(cls, data, batch_sizes, sorted_indices, unsorted_indices)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """With the data in another dtype, or on another device, where the indices follow; see `Tensor.to`."""
        data = self.data.to(*args, **kwargs)
        if data is self.data:
            return self
        moved = (None if i is None else i.to(data.device) for i in self[2:])
        return type(self)(data, self.batch_sizes, *moved)

    def long(self) -> Self:
        return self.to(dtype="int64")

    def int(self) -> Self:
        return self.to(dtype="int32")


def on_host(name: str, values: Lengths) -> np.ndarray:
    """A vector of integers that decides shapes, and so is in host memory."""
    array = raw(values)
    if hasattr(array, "shape") and backend_of(array).name != "numpy":
        raise ValueError(f"{name} decides shapes, so it stays in host memory, and is on {backend_of(array).name!r}: "
                         f"give a list, or {name}.cpu()")
    array = np.asarray(array)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"{name} is a vector of integers, not of dtype {array.dtype} and shape {array.shape}")
    return array.astype("int64")


def invert_permutation(permutation: Any) -> Any:
    """The permutation that takes back `permutation`, a vector of integers; None of None."""
    return None if permutation is None else permutation.argsort()


def pack_padded_sequence(input: Any, lengths: Lengths, batch_first: bool = False,
                         enforce_sorted: bool = True) -> PackedSequence:
    """Sequences (T, N, ...), or (N, T, ...) with `batch_first`, packed: of sequence i the first ``lengths[i]`` steps.

    Unless `enforce_sorted` is False the longest comes first, the others in descending order, as a captured step needs
    them: an order made here is copied from the host.
    """
    lengths = on_host("lengths", lengths)
    if input.ndim < 2 or not input.size:
        raise ValueError(f"pack_padded_sequence: input is (T, N, ...), and not empty, but has shape {input.shape}")
    padded = input.swapaxes(0, 1) if batch_first else input
    if len(lengths) != padded.shape[1]:
        raise ValueError(f"pack_padded_sequence: input has {padded.shape[1]} sequences, and lengths {len(lengths)}")
    if lengths.min() <= 0 or lengths.max() > len(padded):
        raise ValueError(f"pack_padded_sequence: lengths are from 1 to {len(padded)}, as many steps as input "
                         f"{input.shape} has, and not {next(n for n in lengths if not 0 < n <= len(padded))}")
    order = None
    if not enforce_sorted:
        places = np.argsort(-lengths, stable=True)
        order, lengths = Tensor(place(places, Tensor(raw(input)).device)), lengths[places]
        padded = take(padded, order, 1)
    elif np.any(lengths[1:] > lengths[:-1]):
        raise ValueError("pack_padded_sequence: lengths descend, the longest sequence first, unless enforce_sorted is "
                         f"False, and are {lengths.tolist()}")
    sizes = np.sum(lengths > np.arange(lengths[0])[:, None], axis=1)
    return PackedSequence(recurrent.pack(padded, tuple(sizes.tolist())), Tensor(sizes), order)


def pad_packed_sequence(sequence: PackedSequence, batch_first: bool = False, padding_value: float = 0.0,
                        total_length: int | None = None) -> tuple[Any, Tensor]:
    """Packed sequences as (T, N, ...), or (N, T, ...) with `batch_first`, and their lengths, in host memory.

    `padding_value` follows the end of each; T is the largest length, or `total_length`.  Where the batch was not in
    descending order, it waits for the device, to give the lengths in the order that was.
    """
    data, order, batch_sizes = sequence.data, sequence.unsorted_indices, on_host("batch_sizes", sequence.batch_sizes)
    sizes = batch_sizes.tolist()
    total = len(sizes) if total_length is None else total_length
    if total < len(sizes):
        raise ValueError(f"pad_packed_sequence: total_length is at least that of the longest sequence, {len(sizes)}, "
                         f"and not {total_length}")
    padded = recurrent.unpack(data, tuple(sizes), total, padding_value)
    lengths = np.sum(batch_sizes[:, None] > np.arange(sizes[0]), axis=0)
    if order is not None:
        padded, lengths = take(padded, order, 1), lengths[order.numpy()]
    return padded.swapaxes(0, 1) if batch_first else padded, Tensor(lengths)


def pad_sequence(sequences: Iterable, batch_first: bool = False, padding_value: float = 0.0,
                 padding_side: str = "right") -> Any:
    """Sequences (L, ...) of several lengths L as (T, N, ...), or (N, T, ...) with `batch_first`; T is the largest.

    `padding_value` follows the shorter ones, or with `padding_side` "left" precedes them.
    """
    sequences = list(sequences)
    if padding_side not in ("left", "right"):
        raise ValueError(f"pad_sequence: padding_side is 'left' or 'right', not {padding_side!r}")
    if not sequences or any(s.ndim == 0 or s.shape[1:] != sequences[0].shape[1:] for s in sequences):
        raise ValueError(f"pad_sequence: sequences are at least one, (L, ...), alike but for the length L, and are "
                         f"{', '.join(str(s.shape) for s in sequences) or 'none'}")
    return recurrent.stack_padded(sequences, batch_first, padding_value, padding_side == "left")


def unpad_sequence(padded_sequences: Any, lengths: Lengths, batch_first: bool = False) -> list:
    """The sequences of (T, N, ...), or (N, T, ...) with `batch_first`, each without what follows its length."""
    rows = padded_sequences if batch_first else padded_sequences.swapaxes(0, 1)
    ends = on_host("lengths", lengths)
    if len(ends) != len(rows):
        raise ValueError(f"unpad_sequence: there are {len(rows)} sequences and {len(ends)} lengths")
    return [rows[i, :max(n, 0)] for i, n in enumerate(ends.tolist())]


def pack_sequence(sequences: Sequence, enforce_sorted: bool = True) -> PackedSequence:
    """Sequences (L, ...) packed; unless `enforce_sorted` is False they come in descending order of their lengths."""
    return pack_padded_sequence(pad_sequence(sequences), [len(s) for s in sequences], enforce_sorted=enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list:
    """The sequences that were packed, in the order they had."""
    return unpad_sequence(*pad_packed_sequence(packed_sequences, batch_first=True), batch_first=True)
