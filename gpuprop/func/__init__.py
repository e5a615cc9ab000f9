"""Derivatives of functions: Jacobians, Hessians, products with them, gradients of each sample.

The functions work on arrays and Tensors, in tuples, lists and dicts too, and can be nested in each
other and in `gpuprop.grad`.
"""

from gpuprop.func._derivatives import hessian, hvp, jacobian, jvp, vjp
from gpuprop.func._functional_call import functional_call
from gpuprop.func._per_sample import per_sample_gradients

__all__ = ["functional_call", "hessian", "hvp", "jacobian", "jvp", "per_sample_gradients", "vjp"]
