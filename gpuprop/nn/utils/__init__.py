"""What is done to the parameters and gradients of layers."""

from gpuprop.nn.utils.clip_grad import clip_grad_norm_, clip_grad_value_
from gpuprop.nn.utils.convert_parameters import parameters_to_vector, vector_to_parameters

__all__ = ["clip_grad_norm_", "clip_grad_value_", "parameters_to_vector", "vector_to_parameters"]
