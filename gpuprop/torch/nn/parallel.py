"""`DataParallel` and `DistributedDataParallel`, on the one device that there is."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any

from gpuprop.torch import distributed as _distributed
from gpuprop.torch._absent import explained as _explained
from gpuprop.torch._paths import also_at
from gpuprop.torch.nn._module import Module

__all__ = ["DataParallel", "DistributedDataParallel"]


class DataParallel(Module):
    """A model that programs wrap for several GPUs: it runs on the device where it is.

    The entries of its state dict begin with "module.", as in PyTorch.
    """

    def __init__(self, module: Any, device_ids: Any = None, output_device: Any = None,
                 dim: int = 0) -> None:
        self.module = module

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        return self.module(*inputs, **kwargs)


class DistributedDataParallel(DataParallel):
    """A model that programs wrap in each of their processes, of which there is one.

    Raises ValueError if `torch.distributed.init_process_group` has not been called.
    """

    require_backward_grad_sync = True

    def __init__(self, module: Any, device_ids: Any = None, output_device: Any = None,
                 dim: int = 0, broadcast_buffers: bool = True, init_sync: bool = True,
                 process_group: Any = None, bucket_cap_mb: Any = None,
                 find_unused_parameters: bool = False, check_reduction: bool = False,
                 gradient_as_bucket_view: bool = False, static_graph: bool = False,
                 **options: Any) -> None:
        _distributed.get_world_size(process_group)
        super().__init__(module, device_ids, output_device, dim)

    def no_sync(self) -> Any:
        """A block whose gradients are not averaged over the processes."""
        return contextlib.nullcontext()


also_at(__name__, "data_parallel distributed")

if not _TYPE_CHECKING:  # with a __getattr__, type checkers accept every name
    __getattr__ = _explained(__name__)
