"""Schedule-free AdamW."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from gpuprop._core.arena import Arena
from gpuprop._core.graph import extent
from gpuprop._core.pointwise import pointwise
from gpuprop._core.tensor import Tensor, mark_changed
from gpuprop.optim._optimizer import Optimizer
from gpuprop.optim._rules import TINY, bias_correction, decay_switches


def schedule_free_coefficients(xp, step, lr, beta1, beta2, eps, weight_decay, warmup_steps, r,
                               weight_lr_power, weight_sum, lr_max):
    lr = (lr * xp.minimum(1.0, step / xp.maximum(warmup_steps, 1.0))
          * xp.sqrt(bias_correction(xp, step, beta2)))
    lr_max = xp.maximum(lr, lr_max)
    weight = step ** r * lr_max ** weight_lr_power
    weight_sum = weight_sum + weight
    share = xp.where(weight_sum > 0, weight / xp.maximum(weight_sum, TINY), 0.0)
    return (xp.where(step == 1, 1.0, 0.0), beta2, 1 - beta2, xp.maximum(eps, TINY), weight_decay,
            share, lr * (1 - beta1 * (1 - share)), lr, weight_sum, lr_max)


@pointwise
def schedule_free_update(xp, p, g, is_first, beta2, one_minus_beta2, eps, weight_decay, share,
                         lr_of_p, lr, z, v, *, decay=False, maximize=False):
    if maximize:
        g = -g
    z[...] = xp.where(is_first == 1, p, z)
    v *= beta2
    v += one_minus_beta2 * g * g
    update = g / (xp.sqrt(v) + eps)
    if decay:
        update = update + weight_decay * p
    p += share * (z - p)
    p -= lr_of_p * update
    z -= lr * update


@pointwise
def towards(xp, p, z, step, weight):
    p += xp.where(step > 0, weight, 0.0) * (z - p)


@pointwise
def restore(xp, p, x, y, z, step, weight):
    """p becomes y where it is x, and otherwise goes towards z."""
    p[...] = xp.where(p == x, y, p + xp.where(step > 0, weight, 0.0) * (z - p))


class AdamWScheduleFree(Optimizer):
    """AdamW whose average of the values replaces a schedule (Defazio et al. 2024, algorithm 1).

        v = beta2 v + (1 - beta2) g^2
        z = z - lr_t (g / (sqrt(v) + eps) + weight_decay y)
        x = x + c (z - x)                        c = w_t / (w_1 + ... + w_t)
        y = beta1 x + (1 - beta1) z

        lr_t = lr min(1, t / warmup_steps) sqrt(1 - beta2^t)
        w_t = t^r max(lr_1 ... lr_t)^weight_lr_power

    t is the number of the step, from 1.  g is the gradient at y, negated if `maximize`.  The
    parameters hold y during training, and x, the result, after `eval`; call `train` before the next
    step, which gives the parameters y back, bit for bit.  `Trainer` calls both.

    >>> import gpuprop
    >>> p = gpuprop.Parameter([2.0])
    >>> optimizer = gpuprop.optim.AdamWScheduleFree([p], lr=0.5)
    >>> (p * p).sum().backward()
    >>> optimizer.step()
    >>> optimizer.eval()  # before the model is evaluated or saved
    >>> optimizer.train()  # before training goes on

    Statistics of batch norms belong to y: after `eval`, update them by
    `gpuprop.optim.swa_utils.update_bn`.  Names and defaults are those of the authors' package
    ``schedulefree``.
    """

    scalar_options = {"lr": "[0, inf)", "betas": ("(0, 1)", "[0, 1)"),
                      **dict.fromkeys(("eps", "weight_decay", "warmup_steps", "r",
                                       "weight_lr_power"), "[0, inf)")}
    scalar_states = ("weight_sum", "lr_max")
    flags = ("foreach", "maximize", "train_mode")
    kernel_coefficients = staticmethod(schedule_free_coefficients)
    kernel_constants = staticmethod(decay_switches)
    update_kernel = staticmethod(schedule_free_update)

    def __init__(self, params: Iterable, lr: Any = 0.0025, betas: tuple = (0.9, 0.999),
                 eps: float = 1e-8, weight_decay: float = 0, warmup_steps: float = 0,
                 r: float = 0.0, weight_lr_power: float = 2.0, foreach: bool | None = True, *,
                 maximize: bool = False) -> None:
        super().__init__(params, {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
            "warmup_steps": warmup_steps, "r": r, "weight_lr_power": weight_lr_power,
            "foreach": foreach, "maximize": maximize, "train_mode": True,
        })

    @staticmethod
    def state_names(group: dict) -> tuple[str, ...]:
        return "z", "exp_avg_sq"

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient, in train mode."""
        if not all(group["train_mode"] for group in self.param_groups):
            raise RuntimeError("AdamWScheduleFree: the parameters hold the averages since eval(): "
                               "call optimizer.train() before the gradients are computed")
        return super().step(closure)

    def eval(self) -> None:
        """Set the parameters to the averages x; the state keeps y until `train`."""
        self._set_mode(False)

    def train(self) -> None:
        """Set the parameters to y, where gradients are computed.

        Elements that were changed since `eval` become ``x + (1 - beta1) (z - x)``.
        """
        self._set_mode(True)

    def _set_mode(self, train: bool) -> None:
        self._sync_arenas()
        for group in self.param_groups:
            if bool(group["train_mode"]) == train:
                continue
            beta1 = group["betas"][0]
            beta1 = beta1.item() if isinstance(beta1, Tensor) else beta1
            for arena in group.arenas:
                with arena.on_device():
                    self._move(arena, train, beta1)
            group["train_mode"] = train
        self._drop_values()

    @staticmethod
    def _move(arena: Arena, train: bool, beta1: float) -> None:
        """Set the parameters that have a state to x or y."""
        to_x, to_y = 1 - 1 / beta1, 1 - beta1
        if not train:
            arena.add_states(["y"])
        for i, p in enumerate(arena.params):
            if not arena.has_state[i]:
                continue
            state, step = arena.state_of(i), arena.step_counts[i:i + 1].reshape(())
            z, y = state["z"], state.get("y")  # without y: loaded from another library's state
            if y is None:
                towards(arena.xp, p.array, z, step, to_y)
            elif not train:
                y[...] = p.array
                towards(arena.xp, p.array, z, step, to_x)  # step is 0 if it was skipped
            else:
                x = y.copy()
                towards(arena.xp, x, z, step, to_x)
                restore(arena.xp, p.array, x, y, z, step, to_y)
            mark_changed([p], extent(p.array))

    def _drop_values(self) -> None:
        """Free the memory of y in train mode."""
        for group in self.param_groups:
            if group["train_mode"]:
                for arena in group.arenas:
                    arena.drop_state("y")

    def _possible_states(self, options: dict[str, Any]) -> tuple[str, ...]:
        return (*super()._possible_states(options), "y")

    def _prepare_load(self, state_dict: dict[str, Any]) -> Callable[[], None]:
        write = super()._prepare_load(state_dict)

        def write_all() -> None:
            write()
            self._drop_values()

        return write_all
