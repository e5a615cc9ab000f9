"""Constants of PyTorch that are objects of their own."""

from __future__ import annotations


class Word:
    """A constant that prints as its name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"torch.{self.name}"

    def __reduce__(self) -> tuple:
        return type(self), (self.name,)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)


class memory_format(Word):
    """A memory layout: the backend chooses it, whatever a program asks for."""


class layout(Word):
    """The kind of a tensor's memory: strided."""


strided = layout("strided")
channels_last = memory_format("channels_last")
channels_last_3d = memory_format("channels_last_3d")
contiguous_format = memory_format("contiguous_format")
preserve_format = memory_format("preserve_format")
