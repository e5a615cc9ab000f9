"""Pad or pack batches of sequences that have different lengths."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from gpuprop._array.indexing import take
from gpuprop._core.dialects import spoken
from gpuprop._core.graph import raw, unwrapped
from gpuprop._core.options import checks_options
from gpuprop._core.placement import place
from gpuprop._core.registry import backend_of
from gpuprop._core.tensor import Tensor, asnumpy
from gpuprop.functional import _recurrent as recurrent
from gpuprop.nn._module import Convertible

__all__ = [
    "PackedSequence",
    "invert_permutation",
    "pack_padded_sequence",
    "pack_sequence",
    "pad_packed_sequence",
    "pad_sequence",
    "unpack_sequence",
    "unpad_sequence",
]

Lengths = Tensor | np.ndarray | Sequence[int]


class _PackedFields(NamedTuple):
    """The fields of a `PackedSequence`."""

    data: Any
    batch_sizes: Any
    sorted_indices: Any
    unsorted_indices: Any


class PackedSequence(_PackedFields, Convertible):
    """A batch of sequences of different lengths, stored without padding.

    `data` has the elements of all sequences at step 0, then those at step 1, and so on.
    ``batch_sizes[t]`` is the number of sequences with more than t steps; it is in host memory,
    because shapes depend on it.  The sequences are sorted by descending length:
    ``sorted_indices[i]`` is the index, in the batch, of the i-th longest, and `unsorted_indices` is
    the inverse permutation.  Both are None if the batch was already sorted.
    """

    def __new__(cls, data: Any, batch_sizes: Any, sorted_indices: Any = None,
                unsorted_indices: Any = None) -> Self:
        if unsorted_indices is None:
            unsorted_indices = invert_permutation(sorted_indices)
        return super().__new__(cls, data, batch_sizes, sorted_indices, unsorted_indices)

    def _host_batch_sizes(self) -> np.ndarray:
        return _host_lengths("batch_sizes", self.batch_sizes)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Cast the data to a dtype, or move data and indices to a device, as `Tensor.to` does."""
        data = self.data.to(*args, **kwargs)
        if data is self.data:
            return self
        indices = (self.sorted_indices, self.unsorted_indices)
        moved = [None if i is None else i.to(data.device) for i in indices]
        return type(self)(data, self.batch_sizes, *moved)

    def long(self) -> Self:
        """Cast the data to int64."""
        return self.to(dtype="int64")

    def int(self) -> Self:
        """Cast the data to int32."""
        return self.to(dtype="int32")


def _host_lengths(name: str, values: Lengths) -> np.ndarray:
    """`values` as an int64 vector in host memory; `name` is for messages."""
    array = unwrapped(values)  # not raw: a captured step may read it, as a constant
    if hasattr(array, "shape") and backend_of(array).name != "numpy":
        raise ValueError(f"{name} must be in host memory, because shapes depend on it, but is on "
                         f"{backend_of(array).name!r}: pass a list or {name}.cpu()")
    array = np.asarray(array)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"{name} must be a vector of integers, got dtype {array.dtype} and shape "
                         f"{array.shape}")
    return array.astype("int64")


def invert_permutation(permutation: Any) -> Any:
    """The inverse of `permutation`, a vector of integers; None for None."""
    return None if permutation is None else permutation.argsort()


@checks_options
def pack_padded_sequence(input: Any, lengths: Lengths, batch_first: bool = False,
                         enforce_sorted: bool = True) -> PackedSequence:
    """Pack padded sequences (T, N, ...), or (N, T, ...) with `batch_first`.

    The first ``lengths[i]`` steps of sequence i are packed.  With `enforce_sorted`, lengths must be
    descending, which a captured step requires.  Otherwise the sequences are sorted first, and their
    order is copied from the host to the device.

    >>> from gpuprop.nn.utils import rnn
    >>> packed = rnn.pack_padded_sequence(gpuprop.ones(3, 2, 4), lengths=[3, 1])
    >>> packed.data.shape, packed.batch_sizes.tolist()
    ((4, 4), [2, 1, 1])
    """
    lengths = _host_lengths("lengths", lengths)
    if input.ndim < 2 or not input.size:
        raise ValueError(f"pack_padded_sequence: input must be (T, N, ...) and not empty, got "
                         f"shape {input.shape}")
    padded = input.swapaxes(0, 1) if batch_first else input
    steps, sequences = padded.shape[:2]
    if len(lengths) != sequences:
        raise ValueError(f"pack_padded_sequence: input {input.shape} has {sequences} sequences, "
                         f"but there are {len(lengths)} lengths")
    if lengths.min() <= 0 or lengths.max() > steps:
        wrong = next(n for n in lengths if not 0 < n <= steps)
        raise ValueError(f"pack_padded_sequence: lengths must be from 1 to {steps}, the number of "
                         f"steps of input {input.shape}, got {wrong}")
    order = None
    if not enforce_sorted:
        indices = np.argsort(-lengths, stable=True)
        lengths = lengths[indices]
        order = Tensor(place(indices, Tensor(raw(input)).device))
        padded = take(padded, order, 1)
    elif np.any(lengths[1:] > lengths[:-1]):
        raise ValueError(f"pack_padded_sequence: lengths must be descending, got "
                         f"{lengths.tolist()}: sort the sequences or set enforce_sorted=False")
    sizes = np.sum(lengths > np.arange(lengths[0])[:, None], axis=1)
    data = recurrent.pack(padded, tuple(sizes.tolist()))
    return PackedSequence(data, *spoken((Tensor(sizes), order), (data,)))


@checks_options
def pad_packed_sequence(sequence: PackedSequence, batch_first: bool = False,
                        padding_value: float = 0.0,
                        total_length: int | None = None) -> tuple[Any, Tensor]:
    """Pad packed sequences to (T, N, ...), or (N, T, ...) with `batch_first`.

    Returns the sequences and their lengths, which are in host memory.  T is `total_length`, by
    default the largest length.  If the batch was not sorted, this waits for the device, which has
    the original order.
    """
    order = sequence.unsorted_indices
    batch_sizes = sequence._host_batch_sizes()
    sizes = batch_sizes.tolist()
    steps = len(sizes) if total_length is None else total_length
    if steps < len(sizes):
        raise ValueError(f"pad_packed_sequence: total_length must be at least {len(sizes)}, the "
                         f"length of the longest sequence, got {total_length}")
    padded = recurrent.unpack(sequence.data, tuple(sizes), steps, padding_value)
    lengths = np.sum(batch_sizes[:, None] > np.arange(sizes[0]), axis=0)
    if order is not None:
        padded = take(padded, order, 1)
        lengths = lengths[asnumpy(order)]
    lengths = spoken(Tensor(lengths), (padded,))
    return padded.swapaxes(0, 1) if batch_first else padded, lengths


@checks_options
def pad_sequence(sequences: Iterable, batch_first: bool = False, padding_value: float = 0.0,
                 padding_side: str = "right") -> Any:
    """Pad N sequences (L, ...) to the largest length T, and stack them to (T, N, ...).

    With `batch_first`, the result is (N, T, ...).  `padding_side` is "right" (after the sequence)
    or "left".

    >>> from gpuprop.nn.utils import rnn
    >>> rnn.pad_sequence([gpuprop.ones(2), gpuprop.ones(3)], batch_first=True).tolist()
    [[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]
    """
    sequences = list(sequences)
    if padding_side not in ("left", "right"):
        raise ValueError(f"pad_sequence: padding_side must be 'left' or 'right', "
                         f"got {padding_side!r}")
    if not sequences:
        raise ValueError("pad_sequence: expected at least one sequence, got none")
    if any(s.ndim == 0 or s.shape[1:] != sequences[0].shape[1:] for s in sequences):
        shapes = ", ".join(str(s.shape) for s in sequences)
        raise ValueError(f"pad_sequence: sequences must be (L, ...) and differ in L only, "
                         f"got {shapes}")
    is_left = padding_side == "left"
    return recurrent.stack_padded(sequences, batch_first, padding_value, is_left)


@checks_options
def unpad_sequence(padded_sequences: Any, lengths: Lengths, batch_first: bool = False) -> list:
    """Undo `pad_sequence`: the list of N sequences (L, ...), with the given lengths."""
    rows = padded_sequences if batch_first else padded_sequences.swapaxes(0, 1)
    ends = _host_lengths("lengths", lengths)
    if len(ends) != len(rows):
        raise ValueError(f"unpad_sequence: there are {len(rows)} sequences, but {len(ends)} "
                         f"lengths")
    return [rows[i, :max(n, 0)] for i, n in enumerate(ends.tolist())]


@checks_options
def pack_sequence(sequences: Sequence, enforce_sorted: bool = True) -> PackedSequence:
    """Pack sequences (L, ...); their lengths must be descending if `enforce_sorted`."""
    lengths = [len(s) for s in sequences]
    return pack_padded_sequence(pad_sequence(sequences), lengths, enforce_sorted=enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list:
    """Undo `pack_sequence`: the list of the sequences, in their original order."""
    padded, lengths = pad_packed_sequence(packed_sequences, batch_first=True)
    return unpad_sequence(padded, lengths, batch_first=True)
