"""The base class of schedules, and what they do with the groups of an optimizer."""

from __future__ import annotations

import functools
import types
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar, cast

from gpuprop._core.checks import as_bool, as_instance
from gpuprop._core.graph import raw
from gpuprop._core.loading import as_entries
from gpuprop._core.tensor import Tensor
from gpuprop.optim._optimizer import Optimizer
from gpuprop.optim.lr_scheduler._checks import Check, integer, list_of, number, same_kind

_Step = TypeVar("_Step", bound=Callable)
# Attributes and arguments that, as a list, have one value per group.
PER_GROUP = {"base_lrs", "_last_lr", "base_lr", "max_lr", "max_lrs", "min_lr", "base_momentum",
             "base_momentums", "max_momentum", "max_momentums", "swa_lr"}
# The types of attributes that a state dict must have; a function, for example, may be left out.
PLAIN = (bool, int, float, str, list, tuple, dict, type(None))


def lrs_of(optimizer: Optimizer, name: str = "lr") -> list[float]:
    """The learning rate of each group; `name` may be another option, such as "initial_lr"."""
    values = [group[name] for group in optimizer.param_groups]
    return [float(value) if isinstance(value, Tensor) else value for value in values]


def set_lr(group: dict, lr: float) -> None:
    if isinstance(group["lr"], Tensor):
        raw(group["lr"])[...] = lr
    else:
        group["lr"] = lr


def set_momentum(group: dict, momentum: float) -> None:
    """Set the momentum, or the first of Adam's betas."""
    if "betas" in group:
        group["betas"] = momentum, *group["betas"][1:]
    else:
        group["momentum"] = momentum


def check_has_momentum(owner: str, optimizer: Optimizer) -> None:
    if not optimizer.defaults.keys() & {"momentum", "betas"}:
        raise ValueError(f"{owner}: {type(optimizer).__name__} has no option momentum or betas: "
                         f"set cycle_momentum=False")


def per_group(what: str, value: Any, optimizer: Optimizer) -> list:
    """A list with one value per group; a single value is repeated for all groups."""
    n = len(optimizer.param_groups)
    if not isinstance(value, list | tuple):
        return [value] * n
    if len(value) != n:
        raise ValueError(f"{what} has {len(value)} values, expected one for each of the "
                         f"optimizer's {n} parameter groups")
    return list(value)


def whole(step: _Step) -> _Step:
    """A step that, if it raises, leaves the schedule and the optimizer's options as they were."""

    @functools.wraps(step)
    def whole_step(self: Any, *args: Any, **kwargs: Any) -> None:
        groups = self.optimizer.param_groups
        options = [{n: v for n, v in group.items() if n != "params"} for group in groups]
        lrs = lrs_of(self.optimizer)
        attributes = [(part, dict(vars(part))) for part in self._parts()]
        try:
            step(self, *args, **kwargs)
        except BaseException:
            for part, own in attributes:
                vars(part).clear()
                vars(part).update(own)
            for group, own, lr in zip(groups, options, lrs, strict=True):
                group.update(own)
                set_lr(group, lr)
            raise

    return cast(_Step, whole_step)


def saved_callable(f: Any) -> dict[str, Any] | None:
    """What a state dict has of a function: None, or the attributes of a callable object."""
    is_plain = f is None or isinstance(f, types.FunctionType)
    return None if is_plain else dict(getattr(f, "__dict__", {}))


def loaded_callables(what: str, functions: list, saved: list) -> Callable[[], None]:
    """Check the attributes of callable objects, and return a function that writes them."""
    for i, (f, state) in enumerate(zip(functions, saved, strict=True)):
        own = saved_callable(f)
        fits = state is None if own is None else (
            isinstance(state, dict) and state.keys() == own.keys())
        if not fits:
            raise ValueError(f"{what}[{i}] must be the attributes of the function of this "
                             f"schedule, {own!r}, got {state!r}")

    def write() -> None:
        for f, state in zip(functions, saved, strict=True):
            if state:
                vars(f).update(state)

    return write


class LRScheduler:
    """Base class of learning rate schedules.

    A subclass defines ``get_lr()``, which returns the learning rate of each group in epoch
    ``self.last_epoch``.  As in PyTorch, most schedules scale the current learning rate, so that
    several can be combined.

    `last_epoch` is the epoch from which to resume, or -1 for a new schedule.

    >>> import gpuprop
    >>> optimizer = gpuprop.optim.SGD([gpuprop.Parameter([1.0])], lr=1.0)
    >>> scheduler = gpuprop.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    >>> scheduler.step()
    >>> optimizer.param_groups[0]["lr"]
    0.5
    """

    # The checks of attributes, in the constructor and in a state dict.
    _checks: dict[str, Check] = {
        "last_epoch": integer(-1), "_step_count": integer(0), "_is_initial": as_bool,
        "base_lrs": list_of(number()), "_last_lr": list_of(number())}
    # Attributes in PyTorch's state dicts: their names here, and those that have no meaning here.
    _names_in_pytorch: dict[str, str] = {}
    _only_in_pytorch = {"verbose", "_get_lr_called_within_step"}

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        self.optimizer = self._checked("optimizer", optimizer)
        last_epoch = self._checked("last_epoch", last_epoch)
        lrs = lrs_of(optimizer)
        for i, (group, lr) in enumerate(zip(optimizer.param_groups, lrs, strict=True)):
            if last_epoch == -1:
                group.setdefault("initial_lr", lr)
            elif "initial_lr" not in group:
                raise KeyError(f"cannot resume from last_epoch={last_epoch}: param_groups[{i}] has "
                               f"no 'initial_lr'; load the optimizer's state_dict first, or omit "
                               f"last_epoch")
        self.base_lrs = lrs_of(optimizer, "initial_lr")
        self.last_epoch = last_epoch
        self._initial_step()

    def _checked(self, name: str, value: Any) -> Any:
        what = f"{type(self).__name__}: {name}"
        if name == "optimizer":
            return as_instance(what, value, Optimizer, "an Optimizer of gpuprop.optim")
        checks = ChainMap(*[vars(cls).get("_checks", {}) for cls in type(self).__mro__])
        if name not in checks:
            return same_kind(what, value, getattr(self, name, None))
        value = checks[name](what, value)
        if name in PER_GROUP and isinstance(value, list):
            return per_group(what, value, self.optimizer)
        return value

    def _initial_step(self) -> None:
        self._step_count = 0
        self._is_initial = True
        self.step()
        self._is_initial = False

    def _restart(self) -> None:
        """Return to epoch 0."""
        self.last_epoch = -1
        self._initial_step()

    def _parts(self) -> Iterator[LRScheduler]:
        """This schedule and those that it combines."""
        yield self

    def get_lr(self) -> list[float]:
        """The learning rate of each group in epoch ``self.last_epoch``."""
        raise NotImplementedError

    def get_last_lr(self) -> list[float]:
        """The learning rate of each group, as set by the last step."""
        return self._last_lr

    @whole
    def step(self) -> None:
        """Advance to the next epoch and set the learning rates."""
        self._advance(self.last_epoch + 1)

    def _advance(self, epoch: int) -> None:
        """Set the learning rates of an epoch."""
        self._step_count += 1
        self.last_epoch = epoch
        lrs = as_instance(f"{type(self).__name__}: get_lr()", self.get_lr(), Iterable, "a list")
        lrs = per_group(f"{type(self).__name__}: get_lr()", list(lrs), self.optimizer)
        for i, (group, lr) in enumerate(zip(self.optimizer.param_groups, lrs, strict=True)):
            what = (f"{type(self).__name__}: the lr that the schedule gave for param_groups[{i}] "
                    f"in epoch {self.last_epoch}")
            set_lr(group, number()(what, lr))
        self._last_lr = lrs_of(self.optimizer)

    def _scaled(self, factor: float) -> list[float]:
        """The current learning rates times `factor`."""
        return [lr * factor for lr in lrs_of(self.optimizer)]

    def state_dict(self) -> dict[str, Any]:
        """All attributes except the optimizer."""
        return {name: value for name, value in vars(self).items() if name != "optimizer"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the attributes from a `state_dict`, of this library or of PyTorch's schedule.

        Raises ValueError or TypeError, before anything is changed, for attributes that are missing,
        unknown, or that the constructor would refuse.
        """
        self._prepare_load(state_dict)()

    def _prepare_load(self, state_dict: dict[str, Any]) -> Callable[[], None]:
        """Check a whole state dict, and return a function that writes it."""
        attributes = self._loaded(state_dict)
        return lambda: vars(self).update(attributes)

    def _loaded(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """The checked attributes of a state dict."""
        what = f"{type(self).__name__}: the state dict"
        given = as_instance(what, state_dict, Mapping, "a dict, as state_dict() returns it")
        renamed = {self._names_in_pytorch.get(name, name): value for name, value in given.items()
                   if name not in self._only_in_pytorch}
        own = self.state_dict()
        required = [name for name, value in own.items()
                    if isinstance(value, PLAIN) and name != "_is_initial"]  # new in PyTorch 2.7
        saved = as_entries(what, renamed, required, own)
        attributes = {name: self._checked(name, value) for name, value in saved.items()}
        self._check_together(attributes)
        return attributes

    def _check_together(self, attributes: dict[str, Any]) -> None:
        """Raise ValueError for attributes of a state dict that do not match each other."""
