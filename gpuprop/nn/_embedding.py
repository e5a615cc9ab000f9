"""Embedding layers."""

from __future__ import annotations

from typing import Any, ClassVar

import gpuprop.functional as F
from gpuprop._core.checks import as_bool
from gpuprop._core.options import as_array_option, checks_options
from gpuprop._core.tensor import Parameter, Tensor
from gpuprop.functional._embedding import nonnegative_padding_idx
from gpuprop.nn._module import Module, initialize, new_tensor
from gpuprop.nn.init import normal_
from gpuprop.random import Generator


class EmbeddingTable(Module):
    """Abstract: `weight` (num_embeddings, embedding_dim), initialized from N(0, 1)."""

    _repr_defaults: ClassVar[dict[str, Any]]  # repr shows options that differ from these values

    def _create_weight(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None,
                       weight: Any, frozen: bool, device: str | None, dtype: Any,
                       rng: Generator | None) -> None:
        """Set `self.weight` to the given `weight`, or to a new one for None."""
        name = type(self).__name__
        shape = (num_embeddings, embedding_dim)
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.padding_idx = nonnegative_padding_idx(name, padding_idx, num_embeddings)
        if weight is None:
            self.weight = Parameter(new_tensor(shape, device, dtype), not frozen)
            initialize(self, rng)
        elif weight.shape == shape:
            self.weight = Parameter(weight, not frozen)
        else:
            raise ValueError(f"{name}: _weight must be (num_embeddings, embedding_dim) = {shape}, "
                             f"got {weight.shape}")

    @classmethod
    def _from_weight(cls: type[Any], embeddings: Any, freeze: bool, **options: Any) -> Any:
        name = f"{cls.__name__}.from_pretrained"
        as_array_option(f"{name}: embeddings", embeddings)
        freeze = as_bool(f"{name}: freeze", freeze)
        if len(embeddings.shape) != 2:
            raise ValueError(f"{name}: embeddings must be "
                             f"(num_embeddings, embedding_dim), got shape {embeddings.shape}")
        layer = cls(*embeddings.shape, _weight=embeddings, **options)
        layer.weight.requires_grad = not freeze
        return layer

    def reset_parameters(self, rng: Generator | None = None) -> None:
        """Initialize `weight` again, with new random numbers; the row `padding_idx` is 0."""
        normal_(self.weight, generator=rng)
        if self.padding_idx is not None:
            self.weight.array[self.padding_idx] = 0

    def extra_repr(self) -> str:
        options = [f"{name}={getattr(self, name)!r}"
                   for name, default in self._repr_defaults.items()
                   if getattr(self, name) != default]
        return ", ".join([f"{self.num_embeddings}, {self.embedding_dim}", *options])


class Embedding(EmbeddingTable):
    """``y = weight[input]``: one row of `weight` for each index.

    Input: integers of any shape (...); output (..., embedding_dim).  `weight` (num_embeddings,
    embedding_dim) is initialized from N(0, 1).

    The row `padding_idx` is initialized with 0 and gets no gradient.  With `max_norm`, the rows in
    `input` are first rescaled, in place, to a norm of order `norm_type` of at most `max_norm`.
    `scale_grad_by_freq` divides the gradient of a row by the number of its uses in the batch.
    `sparse` is accepted, but the gradient is dense.

    >>> from gpuprop import nn
    >>> embedding = nn.Embedding(num_embeddings=10, embedding_dim=4)
    >>> embedding(gpuprop.tensor([[1, 2, 3], [4, 5, 6]])).shape
    (2, 3, 4)
    """

    _repr_defaults = {"padding_idx": None, "max_norm": None, "norm_type": 2,
                      "scale_grad_by_freq": False, "sparse": False}

    @checks_options
    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None,
                 max_norm: float | None = None, norm_type: float = 2.0,
                 scale_grad_by_freq: bool = False, sparse: bool = False,
                 _weight: Tensor | None = None, _freeze: bool = False,
                 device: str | None = None, dtype: Any = None,
                 rng: Generator | None = None) -> None:
        self.max_norm = max_norm
        self.norm_type = norm_type
        self.scale_grad_by_freq = scale_grad_by_freq
        self.sparse = sparse
        self._create_weight(num_embeddings, embedding_dim, padding_idx, _weight, _freeze, device,
                            dtype, rng)

    @classmethod
    def from_pretrained(cls, embeddings: Any, freeze: bool = True,
                        padding_idx: int | None = None, max_norm: float | None = None,
                        norm_type: float = 2.0, scale_grad_by_freq: bool = False,
                        sparse: bool = False) -> Embedding:
        """A layer whose `weight` is `embeddings`, frozen by default.

        A Tensor is not copied: the layer shares its memory.
        """
        return cls._from_weight(embeddings, freeze, padding_idx=padding_idx, max_norm=max_norm,
                                norm_type=norm_type, scale_grad_by_freq=scale_grad_by_freq,
                                sparse=sparse)

    def forward(self, input: Any) -> Any:
        return F.embedding(input, self.weight, self.padding_idx, self.max_norm, self.norm_type,
                           self.scale_grad_by_freq, self.sparse)


class EmbeddingBag(EmbeddingTable):
    """The sum, mean or maximum of the rows of `weight` whose indices are in a bag.

    Each row of an input (bags, n) is a bag of indices.  A 1-D input is the concatenation of all
    bags, and bag i starts at ``offsets[i]``; with `include_last_offset`, the last of `offsets` is
    the end of the last bag.  Output (bags, embedding_dim).

    `mode` is "sum", "mean" or "max".  In mode "sum", `per_sample_weights`, of the input's shape,
    are factors of the rows.  Indices equal to `padding_idx` are skipped.  For the other options see
    `Embedding`.

    >>> from gpuprop import nn
    >>> bag = nn.EmbeddingBag(num_embeddings=10, embedding_dim=4, mode="sum")
    >>> bag(gpuprop.tensor([1, 2, 3, 4, 5]), offsets=gpuprop.tensor([0, 2])).shape
    (2, 4)
    """

    _repr_defaults = {"max_norm": None, "norm_type": 2, "scale_grad_by_freq": False,
                      "mode": None, "padding_idx": None}

    @checks_options(mode=("sum", "mean", "max"))
    def __init__(self, num_embeddings: int, embedding_dim: int, max_norm: float | None = None,
                 norm_type: float = 2.0, scale_grad_by_freq: bool = False, mode: str = "mean",
                 sparse: bool = False, _weight: Tensor | None = None,
                 include_last_offset: bool = False, padding_idx: int | None = None,
                 device: str | None = None, dtype: Any = None,
                 rng: Generator | None = None) -> None:
        self.max_norm = max_norm
        self.norm_type = norm_type
        self.scale_grad_by_freq = scale_grad_by_freq
        self.mode = mode
        self.sparse = sparse
        self.include_last_offset = include_last_offset
        self._create_weight(num_embeddings, embedding_dim, padding_idx, _weight, False, device,
                            dtype, rng)

    @classmethod
    def from_pretrained(cls, embeddings: Any, freeze: bool = True, max_norm: float | None = None,
                        norm_type: float = 2.0, scale_grad_by_freq: bool = False,
                        mode: str = "mean", sparse: bool = False,
                        include_last_offset: bool = False,
                        padding_idx: int | None = None) -> EmbeddingBag:
        """A layer whose `weight` is `embeddings`, frozen by default.

        A Tensor is not copied: the layer shares its memory.
        """
        return cls._from_weight(embeddings, freeze, max_norm=max_norm, norm_type=norm_type,
                                mode=mode, sparse=sparse, scale_grad_by_freq=scale_grad_by_freq,
                                include_last_offset=include_last_offset, padding_idx=padding_idx)

    def forward(self, input: Any, offsets: Any = None, per_sample_weights: Any = None) -> Any:
        return F.embedding_bag(input, self.weight, offsets, self.max_norm, self.norm_type,
                               self.scale_grad_by_freq, self.mode, self.sparse,
                               per_sample_weights, self.include_last_offset, self.padding_idx)
