"""Embedding: see the functions of the same names in `gpuprop.functional`."""

from __future__ import annotations

from typing import Any, ClassVar

import gpuprop.functional as F
from gpuprop._core.tensor import Parameter
from gpuprop.functional._embedding import within
from gpuprop.nn._module import Module
from gpuprop.nn.init import new, normal_
from gpuprop.random import Generator


class Table(Module):
    """Abstract: a `weight` (num_embeddings, embedding_dim), which starts normal, with zeros in row `padding_idx`."""

    options: ClassVar[dict[str, Any]]  # what stands in its line if it is not this

    def make(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None, weight: Any, frozen: bool,
             device: str | None, dtype: Any, rng: Generator | None) -> None:
        """What the constructors have in common."""
        shape = self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx = within(type(self).__name__, padding_idx, num_embeddings)
        if weight is not None and weight.shape != shape:
            raise ValueError(f"{type(self).__name__}: _weight is (num_embeddings, embedding_dim), {shape}, "
                             f"not {weight.shape}")
        self.weight = Parameter(new(shape, device, dtype) if weight is None else weight, not frozen)
        if weight is None:
            self.reset_parameters(rng)

    @classmethod
    def pretrained(cls: type[Any], embeddings: Any, freeze: bool, **options: Any) -> Any:
        """A layer with these (num_embeddings, embedding_dim) as its `weight`."""
        if len(embeddings.shape) != 2:
            raise ValueError(f"{cls.__name__}.from_pretrained: embeddings are (num_embeddings, embedding_dim), "
                             f"not of shape {embeddings.shape}")
        layer = cls(*embeddings.shape, _weight=embeddings, **options)
        layer.weight.requires_grad = not freeze
        return layer

    def reset_parameters(self, rng: Generator | None = None) -> None:
        """Draw the weight anew."""
        normal_(self.weight, generator=rng)
        if self.padding_idx is not None:
            self.weight.data[self.padding_idx] = 0

    def extra_repr(self) -> str:
        own = {name: getattr(self, name) for name in self.options}
        words = [f"{name}={value!r}" for name, value in own.items() if value != self.options[name]]
        return ", ".join([f"{self.num_embeddings}, {self.embedding_dim}", *words])


class Embedding(Table):
    """The rows of `weight` (num_embeddings, embedding_dim) that the input's integers name: (...) -> (..., dim).

    Row `padding_idx` starts as 0 and gets no gradient.
    """

    options = {"padding_idx": None, "max_norm": None, "norm_type": 2, "scale_grad_by_freq": False, "sparse": False}

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None,
                 max_norm: float | None = None, norm_type: float = 2.0, scale_grad_by_freq: bool = False,
                 sparse: bool = False, _weight: Any = None, _freeze: bool = False, device: str | None = None,
                 dtype: Any = None, rng: Generator | None = None) -> None:
        self.max_norm, self.norm_type = max_norm, norm_type
        self.scale_grad_by_freq, self.sparse = scale_grad_by_freq, sparse
        self.make(num_embeddings, embedding_dim, padding_idx, _weight, _freeze, device, dtype, rng)

    @classmethod
    def from_pretrained(cls, embeddings: Any, freeze: bool = True, padding_idx: int | None = None,
                        max_norm: float | None = None, norm_type: float = 2.0, scale_grad_by_freq: bool = False,
                        sparse: bool = False) -> Embedding:
        """A layer with these rows, in memory shared with a Tensor that is given; trained if not `freeze`."""
        return cls.pretrained(embeddings, freeze, padding_idx=padding_idx, max_norm=max_norm, norm_type=norm_type,
                              scale_grad_by_freq=scale_grad_by_freq, sparse=sparse)

    def forward(self, input: Any) -> Any:
        return F.embedding(input, self.weight, self.padding_idx, self.max_norm, self.norm_type,
                           self.scale_grad_by_freq, self.sparse)


class EmbeddingBag(Table):
    """The sum, mean or max of each bag of rows of `weight` (num_embeddings, embedding_dim): -> (bags, dim).

    Bags are the rows of the input, or, if it is 1-D, begin at `offsets`.
    """

    options = {"max_norm": None, "norm_type": 2, "scale_grad_by_freq": False, "mode": None, "padding_idx": None}

    def __init__(self, num_embeddings: int, embedding_dim: int, max_norm: float | None = None, norm_type: float = 2.0,
                 scale_grad_by_freq: bool = False, mode: str = "mean", sparse: bool = False, _weight: Any = None,
                 include_last_offset: bool = False, padding_idx: int | None = None, device: str | None = None,
                 dtype: Any = None, rng: Generator | None = None) -> None:
        self.max_norm, self.norm_type, self.mode = max_norm, norm_type, mode
        self.scale_grad_by_freq, self.sparse = scale_grad_by_freq, sparse
        self.include_last_offset = include_last_offset
        self.make(num_embeddings, embedding_dim, padding_idx, _weight, False, device, dtype, rng)

    @classmethod
    def from_pretrained(cls, embeddings: Any, freeze: bool = True, max_norm: float | None = None,
                        norm_type: float = 2.0, scale_grad_by_freq: bool = False, mode: str = "mean",
                        sparse: bool = False, include_last_offset: bool = False,
                        padding_idx: int | None = None) -> EmbeddingBag:
        """A layer with these rows, in memory shared with a Tensor that is given; trained if not `freeze`."""
        return cls.pretrained(embeddings, freeze, max_norm=max_norm, norm_type=norm_type, mode=mode, sparse=sparse,
                              scale_grad_by_freq=scale_grad_by_freq, include_last_offset=include_last_offset,
                              padding_idx=padding_idx)

    def forward(self, input: Any, offsets: Any = None, per_sample_weights: Any = None) -> Any:
        return F.embedding_bag(input, self.weight, offsets, self.max_norm, self.norm_type, self.scale_grad_by_freq,
                               self.mode, self.sparse, per_sample_weights, self.include_last_offset, self.padding_idx)
