"""Fuse batch normalization into the preceding layer, for inference."""

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
    """A new convolution that computes ``bn(conv(x))`` in eval mode.

    `transpose` must be True if `conv` is a transposed convolution.  Both layers must be in eval
    mode.
    """
    layer: Any = conv
    if transpose and layer.groups > 1:
        raise ValueError(f"fuse_conv_bn_eval: a transposed convolution must have groups=1, "
                         f"got groups={layer.groups}")
    spatial = (1,) * (layer.weight.ndim - 2)
    shape = (1, -1, *spatial) if transpose else (-1, 1, *spatial)
    return _fuse("fuse_conv_bn_eval", layer, bn, shape)


def fuse_linear_bn_eval(linear: Linear, bn: BatchNorm) -> Linear:
    """A new Linear that computes ``bn(linear(x))`` in eval mode.

    `bn` must have one feature, or as many as `linear` has outputs.  Both layers must be in eval
    mode.
    """
    if bn.num_features not in (1, linear.out_features):
        raise ValueError(f"fuse_linear_bn_eval: linear has {linear.out_features} outputs, but bn "
                         f"has {bn.num_features} features: expected the same number, or one")
    return _fuse("fuse_linear_bn_eval", linear, bn, (-1, 1))


def _fuse(function: str, layer: Any, bn: BatchNorm, shape: tuple[int, ...]) -> Any:
    """A copy of the layer that also applies `bn`.

    The scale of each output channel, reshaped to `shape`, broadcasts with the layer's weight.
    """
    if layer.training or bn.training:
        raise ValueError(f"{function}: both layers must be in eval mode: call their eval() first")
    if bn.running_mean is None or bn.running_var is None:
        raise ValueError(f"{function}: bn has no running statistics: create it with "
                         f"track_running_stats=True")

    def value(parameter: Any, default: float) -> Any:
        return default if parameter is None else parameter.detach()

    scale = value(bn.weight, 1.0) / sqrt(bn.running_var + bn.eps)
    bias = (value(layer.bias, 0.0) - bn.running_mean) * scale + value(bn.bias, 0.0)
    requires_grad = layer.weight.requires_grad
    fused = copy.deepcopy(layer)
    fused.weight = Parameter(layer.weight.detach() * scale.reshape(*shape), requires_grad)
    fused.bias = Parameter(bias, requires_grad)
    return fused
