"""Batch normalization taken into the layer before it, for use."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from gpuprop._array.mathematics import sqrt
from gpuprop._core.tensor import Parameter
from gpuprop.nn._linear import Linear
from gpuprop.nn._module import Module
from gpuprop.nn._normalization import BatchNorm

Layer = TypeVar("Layer", bound=Module)


def fuse_conv_bn_eval(conv: Layer, bn: BatchNorm, transpose: bool = False) -> Layer:
    """A new convolution that does in use what `conv` and then `bn` do; with `transpose` it is a transposed one."""
    weight = conv.weight  # type: ignore[attr-defined]
    if transpose and conv.groups > 1:  # type: ignore[attr-defined]
        raise ValueError("fuse_conv_bn_eval: a transposed convolution is fused with groups=1 only")
    return _fused("fuse_conv_bn_eval", conv, bn, ((1, -1) if transpose else (-1, 1)) + (1,) * (weight.ndim - 2))


def fuse_linear_bn_eval(linear: Linear, bn: BatchNorm) -> Linear:
    """A new Linear that does in use what `linear` and then `bn`, of as many features or of one, do."""
    if bn.num_features not in (1, linear.out_features):
        raise ValueError(f"fuse_linear_bn_eval: linear has {linear.out_features} outputs, and bn {bn.num_features}")
    return _fused("fuse_linear_bn_eval", linear, bn, (-1, 1))


def _fused(what: str, layer: Any, bn: BatchNorm, shape: tuple[int, ...]) -> Any:
    """A copy of the layer with parameters such that it normalizes its outputs too; they lie along -1 of `shape`."""
    if layer.training or bn.training:
        raise ValueError(f"{what}: fusion is for use: call .eval() on both layers first")
    if bn.running_mean is None or bn.running_var is None:
        raise ValueError(f"{what}: the batch normalization keeps no running statistics")
    fused, part = copy.deepcopy(layer), lambda p, default: default if p is None else p.detach()
    scale = part(bn.weight, 1.0) / sqrt(bn.running_var + bn.eps)
    bias = (part(layer.bias, 0.0) - bn.running_mean) * scale + part(bn.bias, 0.0)
    wanted = layer.weight.requires_grad
    fused.weight = Parameter(layer.weight.detach() * scale.reshape(*shape), wanted)
    fused.bias = Parameter(bias, wanted)
    return fused
