"""Averages of a model's values over the steps of training: SWA and EMA, with PyTorch's names."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from gpuprop._core.arena import storage_key, to_backend
from gpuprop._core.checks import as_bool, as_callable, as_instance, as_number
from gpuprop._core.dialects import spoken
from gpuprop._core.dtypes import compute_dtype, is_float
from gpuprop._core.graph import extent, raw, written
from gpuprop._core.instruments import as_one_call
from gpuprop._core.mode import no_grad
from gpuprop._core.placement import write
from gpuprop._core.pointwise import pointwise
from gpuprop._core.registry import backend_of, default_backend
from gpuprop._core.tensor import Parameter, Tensor
from gpuprop.nn import Module
from gpuprop.nn._normalization import BatchNorm
from gpuprop.optim._optimizer import Optimizer
from gpuprop.optim.lr_scheduler import LRScheduler
from gpuprop.optim.lr_scheduler._base import lrs_of, per_group
from gpuprop.optim.lr_scheduler._checks import choice, integer, number, one_or_list_of

__all__ = ["SWALR", "AveragedModel", "get_ema_avg_fn", "get_ema_multi_avg_fn", "get_swa_avg_fn",
           "get_swa_multi_avg_fn", "update_bn"]


# ---- averages ------------------------------------------------------------------------------------


def get_swa_avg_fn() -> Callable:
    """The average of all values: ``averaged + (current - averaged) / (num_averaged + 1)``.

    A function of the averaged and current values of a parameter and of the number of values before.
    """
    return _Average(None)


def get_ema_avg_fn(decay: float = 0.999) -> Callable:
    """The exponential moving average: ``decay * averaged + (1 - decay) * current``.

    A function of the averaged and current values of a parameter and of the number of values before.
    """
    return _Average(as_number("get_ema_avg_fn: decay", decay, "[0, 1]"))


def get_swa_multi_avg_fn() -> Callable:
    """As `get_swa_avg_fn`, a function that updates a list of averaged values in place."""
    return _MultiAverage(None)


def get_ema_multi_avg_fn(decay: float = 0.999) -> Callable:
    """As `get_ema_avg_fn`, a function that updates a list of averaged values in place."""
    return _MultiAverage(as_number("get_ema_multi_avg_fn: decay", decay, "[0, 1]"))


@pointwise
def _weight_of_current(xp, n, *, decay, dtype):
    """The weight of the current values; it is 1 if there were no values before."""
    weight = 1 / (n + 1.0) if decay is None else xp.where(n == 0, 1.0, 1 - decay)
    return weight.astype(dtype)


@pointwise
def _move_towards(xp, averaged, current, weight):
    averaged[...] = xp.where(weight == 1, current, averaged + weight * (current - averaged))


class _Average:
    """A weighted average of the values before and the current ones; the weight depends on n."""

    def __init__(self, decay: float | None) -> None:
        self.decay = decay

    def __call__(self, averaged_param: Any, current_param: Any, num_averaged: Any) -> Any:
        n = num_averaged
        with no_grad():
            weight = 1 / (n + 1) if self.decay is None else 1 - self.decay
            return averaged_param + (current_param - averaged_param) * weight

    def update(self, pairs: Iterable[tuple[Any, Any]], n: Any) -> None:
        """Update the first array of each pair in place."""
        weights: dict[tuple, Any] = {}  # by place and dtype
        for averaged, current in pairs:
            backend = backend_of(averaged)
            key = storage_key(averaged)
            with backend.at(averaged):
                if key not in weights:
                    dtype = compute_dtype(averaged.dtype) if is_float(averaged.dtype) else "float64"
                    weights[key] = backend.own(_weight_of_current(
                        backend.xp, _beside(n, averaged), decay=self.decay, dtype=dtype))
                _move_towards(backend.xp, averaged, current, weights[key])


class _MultiAverage(_Average):
    def __call__(self, averaged_param_list: Sequence, current_param_list: Sequence,
                 num_averaged: Any) -> None:
        for averaged, current in zip(averaged_param_list, current_param_list, strict=True):
            write(raw(averaged), raw(super().__call__(averaged, current, num_averaged)))


class AveragedModel(Module):
    """A copy of a model that holds an average of its values over the steps of training.

    Call ``update_parameters(model)`` after each step, or each epoch.  By default the values have
    equal weights (stochastic weight averaging, Izmailov et al. 2018); ``avg_fn=get_ema_avg_fn()``
    or ``multi_avg_fn=get_ema_multi_avg_fn()`` is an exponential moving average (Polyak and Juditsky
    1992).  The first call copies the values.

    >>> import gpuprop
    >>> from gpuprop.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
    >>> model = gpuprop.nn.Linear(2, 1)
    >>> ema_model = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    >>> ema_model.update_parameters(model)

    ``avg_fn(averaged, current, num_averaged)`` returns the new average of a parameter;
    ``multi_avg_fn`` updates a list of them in place.  They are not part of the state.  With
    `use_buffers`, buffers are averaged too, else copied; `update_bn` computes the statistics of
    batch norms anew.  `device` is that of the copy, by default the model's.

    The functions of this module run on the device without a wait, in captured steps too; other
    functions wait for the number of values.
    """

    n_averaged: Tensor

    def __init__(self, model: Module, device: str | None = None, avg_fn: Callable | None = None,
                 multi_avg_fn: Callable | None = None, use_buffers: bool = False) -> None:
        super().__init__()
        as_instance("AveragedModel: model", model, Module, "a Module")
        for name, fn in (("avg_fn", avg_fn), ("multi_avg_fn", multi_avg_fn)):
            if fn is not None:
                as_callable(f"AveragedModel: {name}", fn)
        if avg_fn is not None and multi_avg_fn is not None:
            raise ValueError("AveragedModel: only one of avg_fn and multi_avg_fn can be given")
        self.use_buffers = as_bool("AveragedModel: use_buffers", use_buffers)
        self.module = copy.deepcopy(model)
        if device is not None:
            self.module.to(device)
        first = next((p.array for p in self.module.parameters()), None)
        backend = default_backend() if first is None else backend_of(first)
        with backend.at(first):
            self.register_buffer("n_averaged", Tensor(backend.xp.zeros((), "int64")))
        self.avg_fn = avg_fn
        self.multi_avg_fn = multi_avg_fn

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def update_parameters(self, model: Module) -> None:
        """Add the current values of a model to the average."""
        self._update(model)

    @as_one_call(lambda self, model: [t.array for t in (*self.parameters(), *self.buffers())])
    def _update(self, model: Module) -> None:
        averaged, copied = _pairs(self.module, model)
        if self.use_buffers:
            averaged, copied = averaged + copied, []
        self._average(averaged)
        for buffer, current in copied:
            write(buffer.array, current)
        for tensor, _ in averaged:
            written(extent(tensor.array))
            if isinstance(tensor, Parameter):
                tensor.touch()
        n = self.n_averaged.array
        with backend_of(n).at(n):
            n += 1

    def _average(self, pairs: list[tuple[Tensor, Any]]) -> None:
        rule = self.avg_fn or self.multi_avg_fn or _Average(None)
        n = self.n_averaged
        if isinstance(rule, _Average):
            rule.update([(tensor.array, current) for tensor, current in pairs], n.array)
        elif n.item() == 0:
            for tensor, current in pairs:
                write(tensor.array, current)
        elif self.avg_fn is not None:
            for tensor, current in pairs:
                values = spoken((Tensor(tensor.array), Tensor(current)), (tensor,))
                with no_grad():
                    write(tensor.array, raw(self.avg_fn(*values, n.clone())))
        else:
            groups: dict[Any, list] = {}
            for tensor, current in pairs:
                groups.setdefault(storage_key(tensor.array), []).append(
                    spoken((Tensor(tensor.array), Tensor(current)), (tensor,)))
            for group in groups.values():
                with no_grad():
                    rule([averaged for averaged, _ in group], [new for _, new in group], n.clone())


def _pairs(averaged: Module, model: Module) -> tuple[list, list]:
    """(Tensor of the averaged model, current array beside it), of parameters and of buffers."""
    as_instance("AveragedModel.update_parameters: model", model, Module, "a Module")
    found = []
    for kind in ("parameters", "buffers"):
        own, given = (dict(getattr(m, f"named_{kind}")()) for m in (averaged, model))
        if [(n, t.shape) for n, t in own.items()] != [(n, t.shape) for n, t in given.items()]:
            raise ValueError(f"AveragedModel.update_parameters: the {kind} of the model are not "
                             f"those of the model that was copied")
        found.append([(t, _beside(given[n].array, t.array)) for n, t in own.items()])
    return found[0], found[1]


def _beside(array: Any, other: Any) -> Any:
    """`array` on the backend and device of `other`."""
    backend = backend_of(other)
    with backend.at(other):
        return to_backend(backend, array)


# ---- statistics of batch norms -------------------------------------------------------------------


def update_bn(loader: Iterable, model: Module, device: str | None = None) -> None:
    """Compute the running statistics of all batch norms anew, as averages over the batches.

    A batch of `loader` is the input of the model, or a list or tuple that starts with it.  It is
    moved to `device` if that is given.
    """
    as_instance("update_bn: loader", loader, Iterable, "an iterable of batches")
    as_instance("update_bn: model", model, Module, "a Module")
    norms = [module for module in model.modules() if isinstance(module, BatchNorm)]
    if not norms:
        return
    was_training = [(module, module.training) for module in model.modules()]
    momenta = [norm.momentum for norm in norms]
    try:
        model.train()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
        with no_grad():
            for batch in loader:
                x = batch[0] if isinstance(batch, list | tuple) else batch
                model(x if device is None else x.to(device))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in was_training:
            module.training = training


# ---- the schedule --------------------------------------------------------------------------------


class SWALR(LRScheduler):
    """Anneal the learning rate to `swa_lr` in `anneal_epochs` epochs, and keep it there.

    It starts from the learning rate that the group has: step another schedule before, and this one
    from the epoch in which averaging starts.  `anneal_strategy` is "cos" or "linear".  `swa_lr` may
    be a list with one number per group.

    P. Izmailov et al., UAI 2018.
    """

    _checks = {"swa_lr": one_or_list_of(number()), "anneal_epochs": integer(0),
               "anneal_strategy": choice("cos", "linear")}
    _names_in_pytorch = {"_anneal_strategy": "anneal_strategy"}
    _only_in_pytorch = {"verbose", "_get_lr_called_within_step", "anneal_func"}

    def __init__(self, optimizer: Optimizer, swa_lr: Any, anneal_epochs: int = 10,
                 anneal_strategy: str = "cos", last_epoch: int = -1) -> None:
        self.optimizer = self._checked("optimizer", optimizer)
        last_epoch = self._checked("last_epoch", last_epoch)
        self.anneal_strategy = self._checked("anneal_strategy", anneal_strategy)
        self.anneal_epochs = self._checked("anneal_epochs", anneal_epochs)
        lrs = per_group("SWALR: swa_lr", self._checked("swa_lr", swa_lr), optimizer)
        for group, lr in zip(optimizer.param_groups, lrs, strict=True):
            group["swa_lr"] = lr
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        step = self._step_count - 1
        if self.anneal_epochs == 0:
            step = max(1, step)
        before, now = self._share(step - 1), self._share(step)
        lrs = []
        for lr, group in zip(lrs_of(self.optimizer), self.optimizer.param_groups, strict=True):
            swa_lr = group["swa_lr"]
            start = swa_lr if before == 1 else (lr - before * swa_lr) / (1 - before)
            lrs.append(swa_lr * now + start * (1 - now))
        return lrs

    def _share(self, step: int) -> float:
        """The share of `swa_lr` in the learning rate of a step."""
        t = max(0.0, min(1.0, step / max(1, self.anneal_epochs)))
        return t if self.anneal_strategy == "linear" else (1 - math.cos(math.pi * t)) / 2
