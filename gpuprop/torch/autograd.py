"""Gradients, as `torch.autograd`."""

from gpuprop._core.mode import enable_grad, no_grad
from gpuprop.torch._graph import Function, backward, grad
from gpuprop.torch._tensor import as_torch as Variable

__all__ = ["Function", "Variable", "backward", "enable_grad", "grad", "no_grad"]
