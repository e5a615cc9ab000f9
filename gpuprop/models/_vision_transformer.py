"""ViT: a Transformer encoder that classifies images.

An image is cut into square patches; a linear map of each patch is one element of a sequence, to
which a class token and learned positions are added.  The class token's output is classified.

A. Dosovitskiy et al., "An image is worth 16x16 words", ICLR 2021.

Names and shapes of the entries of `state_dict` are torchvision's, whose published weights load.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import gpuprop.functional as F
import gpuprop.nn as nn
from gpuprop._array.shape import broadcast_to, concatenate
from gpuprop._core.options import checks_options
from gpuprop._core.tensor import tensor
from gpuprop.nn._module import new_tensor


def keep_variance(layer: nn.Linear | nn.Conv2d) -> None:
    """Initialize so that outputs have the variance of the inputs: N(0, 1 / fan_in), and no bias."""
    fan_in = math.prod(layer.weight.shape[1:])
    nn.init.trunc_normal_(layer.weight, std=math.sqrt(1 / fan_in))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class MLP(nn.Sequential):
    """``dropout(linear2(dropout(gelu(linear1(x)))))``"""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout),
                         nn.Linear(hidden, width), nn.Dropout(dropout))
        for linear in (self[0], self[3]):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.normal_(linear.bias, std=1e-6)


class EncoderBlock(nn.Module):
    """``x = x + dropout(attention(ln_1(x)))``, then ``x + mlp(ln_2(x))``."""

    def __init__(self, num_heads: int, width: int, mlp_dim: int, dropout: float,
                 attention_dropout: float) -> None:
        self.ln_1 = nn.LayerNorm(width, eps=1e-6)
        self.self_attention = nn.MultiheadAttention(width, num_heads, attention_dropout,
                                                    batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.ln_2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLP(width, mlp_dim, dropout)

    def forward(self, x: Any) -> Any:
        y = self.ln_1(x)
        y, _ = self.self_attention(y, y, y, need_weights=False)
        x = x + self.dropout(y)
        return x + self.mlp(self.ln_2(x))


class Encoder(nn.Module):
    """Blocks on a sequence (N, length, width) with learned positions, and a final norm."""

    def __init__(self, length: int, num_layers: int, num_heads: int, width: int, mlp_dim: int,
                 dropout: float, attention_dropout: float) -> None:
        self.pos_embedding = nn.Parameter(new_tensor((1, length, width)))
        nn.init.normal_(self.pos_embedding, std=0.02)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.Sequential({
            f"encoder_layer_{i}": EncoderBlock(num_heads, width, mlp_dim, dropout,
                                               attention_dropout)
            for i in range(num_layers)})
        self.ln = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Any) -> Any:
        return self.ln(self.layers(self.dropout(x + self.pos_embedding)))


class VisionTransformer(nn.Module):
    """ViT: images (N, 3, image_size, image_size) to logits (N, num_classes).

    `patch_size` must divide `image_size`.  With `representation_size`, the head has a hidden layer
    with tanh.  Weights for another image size load with `interpolate_embeddings`.

    >>> from gpuprop import models
    >>> model = models.VisionTransformer(32, 8, num_layers=2, num_heads=2, hidden_dim=16,
    ...                                  mlp_dim=32, num_classes=10)
    >>> model(gpuprop.ones(2, 3, 32, 32)).shape
    (2, 10)
    """

    @checks_options(image_size=1, patch_size=1, hidden_dim=1, mlp_dim=1,
                    attention_dropout="[0, 1]", num_classes=1, representation_size=1)
    def __init__(self, image_size: int, patch_size: int, num_layers: int, num_heads: int,
                 hidden_dim: int, mlp_dim: int, dropout: float = 0.0,
                 attention_dropout: float = 0.0, num_classes: int = 1000,
                 representation_size: int | None = None) -> None:
        if image_size % patch_size:
            raise ValueError(f"VisionTransformer: patch_size={patch_size} must divide "
                             f"image_size={image_size}")
        self.image_size = image_size
        self.patch_size = patch_size
        self.class_token = nn.Parameter(new_tensor((1, 1, hidden_dim)))
        self.conv_proj = nn.Conv2d(3, hidden_dim, patch_size, stride=patch_size)
        length = (image_size // patch_size)**2 + 1
        self.encoder = Encoder(length, num_layers, num_heads, hidden_dim, mlp_dim, dropout,
                               attention_dropout)
        self.heads = nn.Sequential()
        if representation_size is not None:
            self.heads.add_module("pre_logits", nn.Linear(hidden_dim, representation_size))
            self.heads.add_module("act", nn.Tanh())
        self.heads.add_module("head", nn.Linear(representation_size or hidden_dim, num_classes))
        keep_variance(self.conv_proj)
        keep_variance(self.heads[0])
        for p in self.heads[-1].parameters():
            nn.init.zeros_(p)

    def forward(self, x: Any) -> Any:
        size = (self.image_size, self.image_size)
        if x.ndim != 4 or x.shape[2:] != size:
            raise ValueError(f"VisionTransformer: x must be (N, 3, {size[0]}, {size[1]}), "
                             f"got {x.shape}")
        patches = self.conv_proj(x).flatten(2).swapaxes(1, 2)  # (N, length - 1, width)
        n, _, width = patches.shape
        x = concatenate([broadcast_to(self.class_token, (n, 1, width)), patches], 1)
        return self.heads(self.encoder(x)[:, 0])

    def load_state_dict(self, state_dict: dict[str, Any], strict: bool = True) -> Any:
        """As `Module.load_state_dict`, also from files with torchvision's old names.

        The published files call the linear layers of an MLP linear_1 and linear_2.
        """
        if isinstance(state_dict, Mapping):
            new = {"1": "0", "2": "3"}
            state_dict = {re.sub(r"mlp\.linear_([12])\.", lambda m: f"mlp.{new[m[1]]}.", name):
                          value for name, value in state_dict.items()}
        return super().load_state_dict(state_dict, strict)


def interpolate_embeddings(image_size: int, patch_size: int, model_state: dict[str, Any],
                           interpolation_mode: str = "bicubic",
                           reset_heads: bool = False) -> dict[str, Any]:
    """A copy of the state dict of a ViT for images of another size.

    The learned positions of the patches, a square image with a channel for each feature, are
    resized.  With `reset_heads` the entries of the head are left out, for a task with other
    classes (load the rest with ``strict=False``).
    """
    positions = tensor(model_state["encoder.pos_embedding"])
    size = math.isqrt(positions.shape[1] - 1)
    if positions.ndim != 3 or len(positions) != 1 or size**2 + 1 != positions.shape[1]:
        raise ValueError(f"interpolate_embeddings: encoder.pos_embedding must have shape "
                         f"(1, size**2 + 1, width), got {positions.shape}")
    grid = positions[:, 1:].swapaxes(1, 2).reshape(1, -1, size, size)
    grid = F.interpolate(grid, image_size // patch_size, mode=interpolation_mode,
                         align_corners=True)
    resized = concatenate([positions[:, :1], grid.flatten(2).swapaxes(1, 2)], 1)
    state = {**model_state, "encoder.pos_embedding": resized}
    return {name: value for name, value in state.items()
            if not (reset_heads and name.startswith("heads"))}


def vit_b_16(num_classes: int = 1000, image_size: int = 224, **options: Any) -> VisionTransformer:
    """ViT-B/16: 12 layers, patches of 16x16.  `options` are those of `VisionTransformer`."""
    return VisionTransformer(image_size, 16, 12, 12, 768, 3072, num_classes=num_classes, **options)


def vit_b_32(num_classes: int = 1000, image_size: int = 224, **options: Any) -> VisionTransformer:
    """ViT-B/32: 12 layers, patches of 32x32.  `options` are those of `VisionTransformer`."""
    return VisionTransformer(image_size, 32, 12, 12, 768, 3072, num_classes=num_classes, **options)


def vit_l_16(num_classes: int = 1000, image_size: int = 224, **options: Any) -> VisionTransformer:
    """ViT-L/16: 24 layers, patches of 16x16.  `options` are those of `VisionTransformer`."""
    return VisionTransformer(image_size, 16, 24, 16, 1024, 4096, num_classes=num_classes,
                             **options)


def vit_l_32(num_classes: int = 1000, image_size: int = 224, **options: Any) -> VisionTransformer:
    """ViT-L/32: 24 layers, patches of 32x32.  `options` are those of `VisionTransformer`."""
    return VisionTransformer(image_size, 32, 24, 16, 1024, 4096, num_classes=num_classes,
                             **options)


def vit_h_14(num_classes: int = 1000, image_size: int = 224, **options: Any) -> VisionTransformer:
    """ViT-H/14: 32 layers, patches of 14x14.  `options` are those of `VisionTransformer`."""
    return VisionTransformer(image_size, 14, 32, 16, 1280, 5120, num_classes=num_classes,
                             **options)
