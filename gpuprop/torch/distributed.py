"""Process groups of one process, as `torch.distributed`: there is one device to train on.

A program for several devices runs as its only process.  Collective functions then find every
tensor where it belongs already, or copy it there.
"""

from __future__ import annotations

import os
from enum import Enum
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any

from gpuprop.torch._absent import explained as _explained

__all__ = [
    "ReduceOp", "Work", "all_gather", "all_gather_into_tensor", "all_gather_object", "all_reduce",
    "barrier", "broadcast", "broadcast_object_list", "destroy_process_group", "gather",
    "get_backend", "get_rank", "get_world_size", "group", "init_process_group", "is_available",
    "is_gloo_available", "is_initialized", "is_mpi_available", "is_nccl_available",
    "is_torchelastic_launched", "new_group", "reduce",
]


class ReduceOp(Enum):
    """How `all_reduce` combines the tensors of all processes."""

    SUM = 0
    AVG = 1
    PRODUCT = 2
    MIN = 3
    MAX = 4
    BAND = 5
    BOR = 6
    BXOR = 7


class Work:
    """What a collective function with ``async_op=True`` returns: it is done."""

    def wait(self, timeout: Any = None) -> bool:
        return True

    def is_completed(self) -> bool:
        return True


class _Group:
    """The process group, and every subgroup of it."""

    WORLD: Any = None  # the group of all processes, once there is one

    def __init__(self, backend: str) -> None:
        self.backend = backend

    def rank(self) -> int:
        return 0

    def size(self) -> int:
        return 1


group = _Group


def is_available() -> bool:
    """Whether there are process groups: those of one process."""
    return True


def is_initialized() -> bool:
    """Whether `init_process_group` has been called."""
    return _Group.WORLD is not None


def is_torchelastic_launched() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_nccl_available() -> bool:
    """Whether NCCL connects several GPUs: never."""
    return False


is_gloo_available = is_mpi_available = is_nccl_available


def init_process_group(backend: str | None = None, init_method: str | None = None,
                       timeout: Any = None, world_size: int = -1, rank: int = -1,
                       store: Any = None, group_name: str = "", pg_options: Any = None,
                       device_id: Any = None) -> None:
    """Make the group of all processes, which is this one.

    Raises RuntimeError if there is one already, and if `world_size`, or the variable WORLD_SIZE of
    the environment, is not 1.
    """
    if is_initialized():
        raise RuntimeError("init_process_group: there is a process group already: call "
                           "destroy_process_group() first")
    size = int(os.environ.get("WORLD_SIZE", 1)) if world_size == -1 else world_size
    number = int(os.environ.get("RANK", 0)) if rank == -1 else rank
    if (size, number) != (1, 0):
        raise RuntimeError(
            f"init_process_group: expected one process, world_size=1 and rank=0, got "
            f"world_size={size} and rank={number}: there is no training on several devices; "
            f"start one process, with larger batches by accumulated gradients")
    _Group.WORLD = _Group(backend or "gloo")


def destroy_process_group(group: Any = None) -> None:
    """Drop a process group: that of all processes, if none is given."""
    if _of(group) is _Group.WORLD:
        _Group.WORLD = None


def new_group(ranks: Any = None, timeout: Any = None, backend: str | None = None,
              **options: Any) -> _Group:
    """A group of some of the processes."""
    return _Group(backend or _of(None).backend)


def _of(group: Any) -> _Group:
    """The group, or that of all processes."""
    found = _Group.WORLD if group is None else group
    if found is None:
        raise ValueError("there is no process group: call "
                         "torch.distributed.init_process_group(backend) first")
    return found


def get_rank(group: Any = None) -> int:
    """The number of this process: 0."""
    return _of(group).rank()


def get_world_size(group: Any = None) -> int:
    """The number of processes: 1."""
    return _of(group).size()


def get_backend(group: Any = None) -> str:
    """The backend that `init_process_group` was given."""
    return _of(group).backend


def _done(group: Any, is_async: bool, rank: Any = None) -> Work | None:
    """The end of a collective function, whose tensors are at their places."""
    _of(group)
    if rank not in (None, 0):
        raise ValueError(f"expected the number of a process as src or dst, and 0 is the only one, "
                         f"got {rank!r}")
    return Work() if is_async else None


def _one(what: str, values: Any) -> Any:
    """The only element of a list with one element for each process."""
    if not isinstance(values, list | tuple) or len(values) != 1:
        raise ValueError(f"{what} must be a list with one element for each process, [x], "
                         f"got {values!r}")
    return values[0]


def barrier(group: Any = None, async_op: bool = False, device_ids: Any = None) -> Work | None:
    """Wait for all processes."""
    return _done(group, async_op)


def all_reduce(tensor: Any, op: ReduceOp = ReduceOp.SUM, group: Any = None,
               async_op: bool = False) -> Work | None:
    """Write the sum over all processes, or what else `op` is, into `tensor`."""
    return _done(group, async_op)


def reduce(tensor: Any, dst: int | None = None, op: ReduceOp = ReduceOp.SUM, group: Any = None,
           async_op: bool = False, group_dst: int | None = None) -> Work | None:
    """Write the sum over all processes into the tensor of the process `dst`."""
    return _done(group, async_op, dst)


def broadcast(tensor: Any, src: int | None = None, group: Any = None, async_op: bool = False,
              group_src: int | None = None) -> Work | None:
    """Write the tensor of the process `src` into those of all."""
    return _done(group, async_op, src)


def broadcast_object_list(object_list: list, src: int | None = None, group: Any = None,
                          device: Any = None, group_src: int | None = None) -> None:
    """Write the objects of the process `src` into the lists of all."""
    _done(group, False, src)


def all_gather(tensor_list: list, tensor: Any, group: Any = None,
               async_op: bool = False) -> Work | None:
    """Write the tensors of all processes into those of `tensor_list`."""
    done = _done(group, async_op)
    _one("all_gather: tensor_list", tensor_list).copy_(tensor)
    return done


def gather(tensor: Any, gather_list: list | None = None, dst: int | None = None, group: Any = None,
           async_op: bool = False, group_dst: int | None = None) -> Work | None:
    """Write the tensors of all processes into those of `gather_list` on the process `dst`."""
    done = _done(group, async_op, dst)
    _one("gather: gather_list", gather_list).copy_(tensor)
    return done


def all_gather_into_tensor(output_tensor: Any, input_tensor: Any, group: Any = None,
                           async_op: bool = False) -> Work | None:
    """Write the tensors of all processes, one after the other, into `output_tensor`."""
    done = _done(group, async_op)
    output_tensor.copy_(input_tensor.reshape(output_tensor.shape))
    return done


def all_gather_object(object_list: list, obj: Any, group: Any = None) -> None:
    """Write the objects of all processes into `object_list`."""
    _done(group, False)
    _one("all_gather_object: object_list", object_list)
    object_list[0] = obj


if not _TYPE_CHECKING:  # with a __getattr__, type checkers accept every name
    __getattr__ = _explained(__name__)
