"""Combinations of several schedules of one optimizer."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from gpuprop._core.checks import as_instance
from gpuprop.optim._optimizer import Optimizer
from gpuprop.optim.lr_scheduler._base import LRScheduler, lrs_of, set_lr, whole
from gpuprop.optim.lr_scheduler._checks import integer, list_of
from gpuprop.optim.lr_scheduler._plateau import ReduceLROnPlateau


class _Composed(LRScheduler):
    """Base class of schedules that combine several schedules of one optimizer."""

    _only_in_pytorch = {"_step_count", "_is_initial"}

    def __init__(self, optimizer: Optimizer, schedulers: Sequence[LRScheduler]) -> None:
        self.optimizer = self._checked("optimizer", optimizer)
        for i, scheduler in enumerate(schedulers):
            self._check_part(scheduler, i, optimizer)
        self._schedulers = list(schedulers)

    def _parts(self) -> Iterator[LRScheduler]:
        yield self
        for scheduler in self._schedulers:
            yield from scheduler._parts()

    def _check_part(self, scheduler: Any, i: int, optimizer: Optimizer) -> None:
        owner = type(self).__name__
        name = type(scheduler).__name__
        if isinstance(scheduler, ReduceLROnPlateau):
            raise ValueError(f"{owner} does not support `ReduceLROnPlateau`, whose step requires a "
                             f"metric: remove the one at index {i}")
        if scheduler.optimizer is not optimizer:
            raise ValueError(f"{owner}: all schedulers must have the same optimizer, but {name} at "
                             f"index {i} has another one")

    def state_dict(self) -> dict[str, Any]:
        """All attributes except the optimizer; the combined schedules as their state dicts."""
        states = [scheduler.state_dict() for scheduler in self._schedulers]
        return {**super().state_dict(), "_schedulers": states}

    def _prepare_load(self, state_dict: dict[str, Any]) -> Callable[[], None]:
        attributes = self._loaded(state_dict)
        states = attributes.pop("_schedulers")
        if len(states) != len(self._schedulers):
            raise ValueError(f"{type(self).__name__}: the state dict has {len(states)} schedulers, "
                             f"expected {len(self._schedulers)}")
        parts = [scheduler._prepare_load(state)
                 for scheduler, state in zip(self._schedulers, states, strict=True)]

        def write() -> None:
            vars(self).update(attributes)
            for part in parts:
                part()

        return write


def _some_schedulers(owner: str, schedulers: Any) -> list:
    found = list(as_instance(f"{owner}: schedulers", schedulers, Iterable, "a list"))
    if not found:
        raise ValueError(f"{owner}: expected at least one scheduler, got none")
    for i, scheduler in enumerate(found):
        if not isinstance(scheduler, LRScheduler):
            raise TypeError(f"{owner}: the item at index {i} must be an LRScheduler, got a "
                            f"{type(scheduler).__name__}")
    return found


def _increasing(what: str, value: Any) -> list[int]:
    epochs = list_of(integer(0))(what, value)
    if epochs != sorted(set(epochs)):
        raise ValueError(f"{what} must increase, got {value!r}")
    return epochs


class ChainedScheduler(_Composed):
    """Step all schedules in each epoch: each scales the learning rate that the previous one set."""

    def __init__(self, schedulers: Sequence[LRScheduler],
                 optimizer: Optimizer | None = None) -> None:
        parts = _some_schedulers("ChainedScheduler", schedulers)
        super().__init__(parts[0].optimizer if optimizer is None else optimizer, parts)
        self._last_lr = lrs_of(self.optimizer)

    @whole
    def step(self) -> None:
        for scheduler in self._schedulers:
            scheduler.step()
        self._last_lr = lrs_of(self.optimizer)

    def _restart(self) -> None:
        for scheduler in self._schedulers:
            scheduler._restart()
        self._last_lr = lrs_of(self.optimizer)


class SequentialLR(_Composed):
    """Run several schedules one after the other.

    At epoch ``milestones[i]``, schedule i + 1 starts at its own epoch 0, from `initial_lr`.
    """

    _checks = {"_milestones": lambda what, value: _increasing(what, value)}

    def __init__(self, optimizer: Optimizer, schedulers: Sequence[LRScheduler],
                 milestones: Sequence[int], last_epoch: int = -1) -> None:
        super().__init__(optimizer, _some_schedulers("SequentialLR", schedulers))
        self._milestones = _increasing(f"{type(self).__name__}: milestones", milestones)
        self.last_epoch = self._checked("last_epoch", last_epoch)
        self._check_together(vars(self))
        self.last_epoch += 1
        self._begin(bisect_right(self._milestones, 0))

    def _check_together(self, attributes: dict[str, Any]) -> None:
        milestones, n = attributes["_milestones"], len(self._schedulers)
        if len(milestones) != n - 1:
            raise ValueError(f"SequentialLR: the number of schedulers must be one more than the "
                             f"number of milestones, but got {n} and {len(milestones)}")

    @whole
    def step(self) -> None:
        self.last_epoch += 1
        i = bisect_right(self._milestones, self.last_epoch)
        if self.last_epoch in self._milestones:
            self._begin(i)
        else:
            self._schedulers[i].step()
            self._last_lr = lrs_of(self.optimizer)

    def _restart(self) -> None:
        self.last_epoch = 0
        self._begin(bisect_right(self._milestones, 0))

    def _begin(self, i: int) -> None:
        """Start schedule `i` from the initial learning rates.

        This undoes the previous schedule and the initial step of every schedule at its creation.
        """
        initial_lrs = lrs_of(self.optimizer, "initial_lr")
        for group, lr in zip(self.optimizer.param_groups, initial_lrs, strict=True):
            set_lr(group, lr)
        self._schedulers[i]._restart()
        self._last_lr = lrs_of(self.optimizer)
