"""Loss layers.  Most are the layer form of a function in `gpuprop.functional`."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import KW_ONLY
from typing import Any, ClassVar

import numpy as np

import gpuprop.functional as F
from gpuprop._core.dtypes import widened
from gpuprop._core.graph import raw
from gpuprop._core.options import checks_options
from gpuprop._core.tensor import Tensor
from gpuprop.nn._function import Function, as_tensor, option_values
from gpuprop.nn._linear import Linear
from gpuprop.nn._module import Module, call_method
from gpuprop.random import Generator


def element_count(input: Any, *others: Any, weight: Any = None, pos_weight: Any = None,
                  **options: Any) -> int:
    """The number of elements, after broadcasting the input with the weights."""
    if weight is None and pos_weight is None:
        return math.prod(input.shape)
    weight_shapes = [w.shape for w in (weight, pos_weight) if w is not None]
    return math.prod(np.broadcast_shapes(input.shape, *weight_shapes))


def element_weight(input: Any, target: Any, weight: Any = None, **options: Any) -> Any:
    """The sum of the elements' weights; the number of elements if there are none."""
    return math.prod(input.shape) if weight is None else widened(raw(weight)).sum()


def sample_count(input: Any, *others: Any, **options: Any) -> int:
    """The number of samples, each of which is a row along the last axis of `input`."""
    return math.prod(input.shape[:-1])


def label_weight(input: Any, target: Any, weight: Any = None, ignore_index: int = -100,
                 **options: Any) -> Any:
    """The number of labels that are not ignored, or the sum of their class weights.

    If the target has probabilities instead of labels, the number of samples.
    """
    if target.dtype.kind not in "iu":
        class_axis = min(input.ndim - 1, 1)
        return math.prod(input.shape[:class_axis] + input.shape[class_axis + 1:])
    is_counted = target != ignore_index
    if weight is None:
        return is_counted.sum()
    labels = target * is_counted  # 0 for ignored labels, which are no valid indices
    return (widened(raw(weight))[labels] * is_counted).sum()


def divergence_count(input: Any, target: Any, reduction: str = "mean", **options: Any) -> int:
    """The number of elements; for reduction="batchmean" the length of the first axis."""
    if reduction == "batchmean":
        return len(input) if input.ndim else 1
    return math.prod(input.shape)


class Loss(Function):
    """Abstract: a loss whose mean is sum / count, where sum and count can be added over batches.

    A subclass sets `function` and `mean_divisor`.  The latter takes the same arguments as
    `function`, and returns the count by which its mean divides the sum.
    """

    mean_divisor: ClassVar[Callable] = staticmethod(element_count)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = vars(cls).keys()
        # A function that replaces that of a base class may divide by another count.
        has_new_function = "function" in own and hasattr(super(cls, cls), "function")
        is_unknown = has_new_function and "mean_divisor" not in own
        if "function" in own and not is_unknown:
            LOSSES.setdefault(cls.function, cls)
        if "sum_and_count" not in own and (is_unknown or "forward" in own):
            cls.sum_and_count = None  # type: ignore[assignment]

    def sum_and_count(self, *inputs: Any) -> tuple[Tensor, Any]:
        """The sum of the losses of a batch, and the count by which their mean divides it.

        The sum of half types is float32.  The count is a number or a 0-d array.  Depending on the
        loss, it is the number of elements, of samples or of labels that are not ignored, or the sum
        of weights.  The mean over several batches is the total of the sums divided by the total of
        the counts.

        Raises ValueError unless the reduction is a mean.
        """
        return function_sum_and_count(type(self), option_values(self), *inputs)


LOSSES: dict[Callable, type[Loss]] = {}  # by `function`


def check_mean(reduction: str) -> None:
    """Raise ValueError unless the reduction is a mean."""
    if reduction not in ("mean", "batchmean"):
        raise ValueError(f"a training loss must be a mean, but has reduction={reduction!r}: use "
                         f"reduction='mean', or a function that returns a pair (sum, count)")


def function_sum_and_count(cls: type[Loss], options: dict[str, Any],
                           *inputs: Any) -> tuple[Tensor, Any]:
    """`Loss.sum_and_count` for the function of a class and these options."""
    check_mean(options.get("reduction", "mean"))
    wide = [widened(a) if hasattr(a, "dtype") else a for a in inputs]
    total = cls.function(*wide, **{**options, "reduction": "sum"})
    return total, cls.mean_divisor(*map(raw, inputs), **options)


def sum_and_count(loss: Callable) -> Callable | None:
    """A function that returns (sum, count) like `Loss.sum_and_count`, or None if there is none.

    `loss` may be a layer or another object with this method, or a function of `gpuprop.functional`,
    also as a ``functools.partial`` with keyword options.  The method must be defined by the class
    that defines what the call computes, or by a subclass.  A layer that has hooks or a forward of
    its own is called instead, so that the result is then the layer's output.  Raises ValueError if
    the reduction of a gpuprop loss is not a mean.
    """
    if callable(getattr(loss, "sum_and_count", None)):
        method = method_in_place_of_call(loss)
        is_gpuprops = isinstance(loss, Loss | LinearCrossEntropyLoss)
        if is_gpuprops and method is not None and not computes_its_own(loss):
            check_mean(getattr(loss, "reduction", "mean"))
        return method
    function, options = loss, {}
    if isinstance(loss, functools.partial) and not loss.args:
        function, options = loss.func, loss.keywords
    cls = next((cls for known, cls in LOSSES.items() if known is function), None)
    if cls is None:
        return None
    check_mean(options.get("reduction", "mean"))
    return functools.partial(function_sum_and_count, cls, options)


def method_in_place_of_call(loss: Any) -> Callable | None:
    """The method `sum_and_count` of a loss; None if a class overrides what the call computes."""
    if "sum_and_count" not in getattr(loss, "__dict__", ()):
        names = {"sum_and_count", "forward", "__call__"}
        first = next(cls for cls in type(loss).__mro__ if vars(cls).keys() & names)
        if "sum_and_count" not in vars(first):
            return None
    return functools.partial(_call_layer, loss) if isinstance(loss, Module) else loss.sum_and_count


def computes_its_own(layer: Any) -> bool:
    """True if a layer has hooks, or an attribute `forward`: only the call knows its output."""
    return any(layer._hook_lists.values()) or "forward" in vars(layer)


def _call_layer(layer: Any, *inputs: Any) -> Any:
    """(sum, count) of a layer; its output if it has hooks or a forward of its own."""
    if computes_its_own(layer):
        return layer(*inputs)
    return call_method(layer, layer.sum_and_count, inputs)


class L1Loss(Loss):
    function = staticmethod(F.l1_loss)
    mean_divisor = staticmethod(element_weight)
    reduction: str = "mean"


class MSELoss(Loss):
    function = staticmethod(F.mse_loss)
    mean_divisor = staticmethod(element_weight)
    reduction: str = "mean"


class SmoothL1Loss(Loss):
    _limits = {"beta": "[0, inf)"}
    function = staticmethod(F.smooth_l1_loss)
    reduction: str = "mean"
    beta: float = 1.0


class HuberLoss(Loss):
    function = staticmethod(F.huber_loss)
    reduction: str = "mean"
    delta: float = 1.0


class CrossEntropyLoss(Loss):
    function = staticmethod(F.cross_entropy)
    mean_divisor = staticmethod(label_weight)
    weight: Tensor | None = None
    ignore_index: int = -100
    reduction: str = "mean"
    label_smoothing: float = 0.0


class NLLLoss(Loss):
    function = staticmethod(F.nll_loss)
    mean_divisor = staticmethod(label_weight)
    weight: Tensor | None = None
    ignore_index: int = -100
    reduction: str = "mean"


class BCELoss(Loss):
    function = staticmethod(F.binary_cross_entropy)
    weight: Tensor | None = None
    reduction: str = "mean"


class BCEWithLogitsLoss(Loss):
    function = staticmethod(F.binary_cross_entropy_with_logits)
    weight: Tensor | None = None
    reduction: str = "mean"
    pos_weight: Tensor | None = None


class KLDivLoss(Loss):
    _limits = {"reduction": ("none", "mean", "sum", "batchmean")}
    function = staticmethod(F.kl_div)
    mean_divisor = staticmethod(divergence_count)
    reduction: str = "mean"
    log_target: bool = False


class SoftMarginLoss(Loss):
    function = staticmethod(F.soft_margin_loss)
    reduction: str = "mean"


class PoissonNLLLoss(Loss):
    function = staticmethod(F.poisson_nll_loss)
    log_input: bool = True
    full: bool = False
    eps: float = 1e-8
    reduction: str = "mean"


class GaussianNLLLoss(Loss):
    function = staticmethod(F.gaussian_nll_loss)
    full: bool = False
    eps: float = 1e-6
    reduction: str = "mean"


class HingeEmbeddingLoss(Loss):
    function = staticmethod(F.hinge_embedding_loss)
    margin: float = 1.0
    reduction: str = "mean"


class CosineEmbeddingLoss(Loss):
    function = staticmethod(F.cosine_embedding_loss)
    mean_divisor = staticmethod(sample_count)
    margin: float = 0.0
    reduction: str = "mean"


class MarginRankingLoss(Loss):
    function = staticmethod(F.margin_ranking_loss)
    margin: float = 0.0
    reduction: str = "mean"


class MultiMarginLoss(Loss):
    _limits = {"p": 1}
    function = staticmethod(F.multi_margin_loss)
    mean_divisor = staticmethod(sample_count)
    p: int = 1
    margin: float = 1.0
    weight: Tensor | None = None
    reduction: str = "mean"


class MultiLabelMarginLoss(Loss):
    function = staticmethod(F.multilabel_margin_loss)
    mean_divisor = staticmethod(sample_count)
    reduction: str = "mean"


class MultiLabelSoftMarginLoss(Loss):
    function = staticmethod(F.multilabel_soft_margin_loss)
    mean_divisor = staticmethod(sample_count)
    weight: Tensor | None = None
    reduction: str = "mean"


class TripletMarginLoss(Loss):
    function = staticmethod(F.triplet_margin_loss)
    mean_divisor = staticmethod(sample_count)
    margin: float = 1.0
    p: float = 2.0
    eps: float = 1e-6
    swap: bool = False
    reduction: str = "mean"


class TripletMarginWithDistanceLoss(Function):
    function = staticmethod(F.triplet_margin_with_distance_loss)
    _: KW_ONLY
    distance_function: Callable | None = None
    margin: float = 1.0
    swap: bool = False
    reduction: str = "mean"


class CTCLoss(Function):
    function = staticmethod(F.ctc_loss)
    blank: int = 0
    reduction: str = "mean"
    zero_infinity: bool = False


class LinearCrossEntropyLoss(Module):
    """``cross_entropy(linear(input), target)``, computed without storing all logits.

    Input (N, in_features), target (N, *out_features) with class labels; or, without
    `out_features`, one sample (in_features,) and ().  The layer `linear` has num_classes *
    prod(out_features) outputs.  `weight` (num_classes,) are class weights.  `options`, with which
    PyTorch configures chunks, is accepted and ignored.  See
    `gpuprop.functional.linear_cross_entropy`.
    """

    weight: Tensor | None

    @checks_options(num_classes=1)
    def __init__(self, in_features: int, num_classes: int, *, out_features: tuple[int, ...] = (),
                 bias: bool = False, device: str | None = None, dtype: Any = None,
                 reduction: str = "mean", weight: Tensor | None = None,
                 ignore_index: int | None = None, label_smoothing: float = 0.0,
                 options: Any = None, rng: Generator | None = None) -> None:
        name = type(self).__name__
        if weight is not None and weight.shape != (num_classes,):
            raise ValueError(f"{name}: weight must have shape (num_classes,) = ({num_classes},), "
                             f"got {weight.shape}")
        self.num_classes = num_classes
        if isinstance(out_features, int):
            out_features = (out_features,)
        self.out_features = tuple(out_features)
        self.reduction = reduction
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing
        self.options = options
        weight = weight.detach() if isinstance(weight, Tensor) else as_tensor(weight)
        self.register_buffer("weight", weight)
        outputs = num_classes * math.prod(self.out_features)
        self.linear = Linear(in_features, outputs, bias, device, dtype, rng)

    def forward(self, input: Any, target: Any) -> Any:
        return _linear_cross_entropy(self, input, target, self.reduction)

    def sum_and_count(self, input: Any, target: Any) -> tuple[Tensor, Any]:
        """The sum of the losses of a batch, and the count by which their mean divides it."""
        check_mean(self.reduction)
        labels = raw(target)
        ignore_index = -100 if self.ignore_index is None else self.ignore_index
        count = label_weight(labels, labels, self.weight, ignore_index)
        return widened(_linear_cross_entropy(self, input, target, "none")).sum(), count

    def extra_repr(self) -> str:
        return (f"num_classes={self.num_classes}, out_features={self.out_features}, "
                f"reduction={self.reduction!r}, ignore_index={self.ignore_index}, "
                f"label_smoothing={self.label_smoothing}")


def _linear_cross_entropy(layer: LinearCrossEntropyLoss, input: Any, target: Any,
                          reduction: str) -> Any:
    shape = (layer.num_classes, *layer.out_features)
    weight = layer.linear.weight.reshape(*shape, layer.linear.in_features)
    bias = layer.linear.bias
    return F.linear_cross_entropy(
        input, weight, target, weight=layer.weight,
        linear_bias=None if bias is None else bias.reshape(shape), reduction=reduction,
        ignore_index=layer.ignore_index, label_smoothing=layer.label_smoothing)
