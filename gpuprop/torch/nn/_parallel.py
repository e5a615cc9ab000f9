"""`DataParallel`, on the one device that there is."""

from __future__ import annotations

from typing import Any

from gpuprop.torch.nn._module import Module


class DataParallel(Module):
    """A model that programs wrap for several GPUs: it runs on the device where it is.

    The entries of its state dict begin with "module.", as in PyTorch.
    """

    def __init__(self, module: Any, device_ids: Any = None, output_device: Any = None,
                 dim: int = 0) -> None:
        self.module = module

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        return self.module(*inputs, **kwargs)
