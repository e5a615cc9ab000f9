"""Utilities for the parameters and gradients of modules, and for sequences (`rnn`).

`parametrize` computes parameters from others; `parametrizations` are normalizations and orthogonal
matrices by it.
"""

from gpuprop.nn.utils import parametrizations, parametrize, rnn
from gpuprop.nn.utils._checkpoint import checkpoint, checkpoint_sequential
from gpuprop.nn.utils._clip_grad import (
    clip_grad_norm_,
    clip_grad_value_,
    clip_grads_with_norm_,
    get_total_norm,
)
from gpuprop.nn.utils._convert_parameters import parameters_to_vector, vector_to_parameters
from gpuprop.nn.utils._fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from gpuprop.nn.utils._spectral_norm import remove_spectral_norm, spectral_norm
from gpuprop.nn.utils._weight_norm import remove_weight_norm, weight_norm

__all__ = [
    "checkpoint",
    "checkpoint_sequential",
    "clip_grad_norm_",
    "clip_grad_value_",
    "clip_grads_with_norm_",
    "fuse_conv_bn_eval",
    "fuse_linear_bn_eval",
    "get_total_norm",
    "parameters_to_vector",
    "parametrizations",
    "parametrize",
    "remove_spectral_norm",
    "remove_weight_norm",
    "rnn",
    "spectral_norm",
    "vector_to_parameters",
    "weight_norm",
]
