"""PyTorch's test cases that are not compared, by name and reason.

An entry excludes the samples of a function or layer for which `when` is true.  At least one of them
must fail if it is compared; otherwise the test fails.  What gpuprop lacks needs no entry: the tests
count it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Exclusion(NamedTuple):
    name: str
    reason: str
    when: Callable[[Any], bool]
    tolerance: float | None  # if given, excluded samples must agree to it


def exclude(reason: str, *names: str, when: Callable[[Any], bool] = lambda sample: True,
            tolerance: float | None = None) -> list[Exclusion]:
    return [Exclusion(name, reason, when, tolerance) for name in names]


def with_methods(names: str) -> list[str]:
    """Functions and the methods of the same names."""
    return [label for name in names.split() for label in (name, f"Tensor.{name}")]


def methods(names: str) -> list[str]:
    return [f"Tensor.{name}" for name in names.split()]


# ---- op_db: `when` gets the call; a method's name is "Tensor.name" -------------------------------

is_0d = lambda call: call.args[0].ndim == 0
is_0d_with_dim = lambda call: is_0d(call) and (len(call.args) > 1 or "dim" in call.kwargs)
has_option = lambda *names: lambda call: any(n in call.kwargs for n in names)
has_positional = lambda n: lambda call: len(call.args) > n
is_integer = lambda call: not call.args[0].is_floating_point()


def squeezed_sizes(call: Any) -> list[int]:
    """The sizes of the axes that `squeeze` removes."""
    axes = call.args[1] if isinstance(call.args[1], tuple) else (call.args[1],)
    return [call.args[0].shape[i] for i in axes]


OPS = [
    *exclude("a negative eps is refused", "nn.functional.group_norm", "nn.functional.layer_norm",
             "nn.functional.rms_norm", when=lambda call: (call.kwargs.get("eps") or 0) < 0),
    # random: the numbers are not PyTorch's
    *exclude("random", "nn.functional.alpha_dropout", "nn.functional.dropout",
             "nn.functional.dropout2d", "nn.functional.dropout3d",
             "nn.functional.feature_alpha_dropout",
             when=lambda call: (call.kwargs.get("training", True)
                                and 0 < call.kwargs.get("p", 0.5) < 1)),
    *exclude("random", "nn.functional.scaled_dot_product_attention",
             when=lambda call: call.kwargs.get("dropout_p")),
    *exclude("random", "nn.functional.rrelu", when=lambda call: call.kwargs.get("training")),
    *exclude("random; without dropout it is compared in test_multi_head.py",
             "nn.functional.multi_head_attention_forward",
             when=lambda call: call.kwargs["training"]),
    # array functions and methods follow NumPy
    *exclude("a 0-d array has no axes", *with_methods("argsort topk"), "sort", when=is_0d),
    *exclude("a 0-d array has no axes",
             *with_methods("cumprod cumsum gather index_select logsumexp mean prod scatter_add"),
             *with_methods("squeeze"), "index_add", "transpose", when=is_0d_with_dim),
    *exclude("an axis to squeeze must have size 1", *with_methods("squeeze"),
             when=lambda call: len(call.args) > 1 and {*squeezed_sizes(call)} != {1}),
    *exclude("arrays to concatenate must have the same number of axes", "cat",
             when=lambda call: len({t.ndim for t in call.args[0]}) > 1),
    *exclude("an index must have as many axes as the array", *with_methods("gather"),
             when=lambda call: call.args[0].ndim != call.args[2].ndim),
    *exclude("axes to sum over must have the same size", "tensordot",
             when=lambda call: 1 in call.args[0].shape),
    *exclude("max(axis) returns values only; maximum() takes two arrays", *methods("max min"),
             when=has_positional(1)),
    *exclude("ddof is 0 unless correction= is given", *methods("std var"),
             when=lambda call: call.kwargs.get("correction") is None),
    *exclude("raises, because NumPy and PyTorch differ", *methods("repeat sort transpose")),
    # integers
    *exclude("PyTorch does not specify the order of equal elements", *with_methods("topk"),
             when=is_integer),
    *exclude("a Python float makes the result a float", "nn.functional.hardtanh", when=is_integer),
    *exclude("a quotient is a float", "div",
             when=lambda call: is_integer(call) and call.kwargs.get("rounding_mode") == "trunc"),
    *exclude("a mean is a float", *[f"nn.functional.avg_pool{n}d" for n in (1, 2, 3)],
             "nn.functional.local_response_norm", when=is_integer),
    *exclude("integers cannot be raised to negative powers", "Tensor.__rpow__", when=is_integer),
    # options
    *exclude("the backend chooses the memory layout",
             *methods("bool double float half int long to"), when=has_option("memory_format")),
    *exclude("written as an expression: x + alpha * y", *methods("add sub index_add"),
             when=has_option("alpha")),
    *exclude("written as an expression: trunc(x / y), x // y", "Tensor.div",
             when=has_option("rounding_mode")),
    *exclude("written as an expression: x.astype(dtype).sum()", *methods("cumprod cumsum prod"),
             when=has_option("dtype")),
    *exclude("no nuclear norm", *with_methods("norm"), when=lambda call: "nuc" in call.args),
    *exclude("in place, which autograd does not record", "Tensor.zero_"),
    # derivatives
    *exclude("PyTorch has no second derivative", "nn.functional.ctc_loss",
             when=lambda sample: sample.second),
    *exclude("PyTorch's chunked version has second derivative 0",
             "nn.functional.linear_cross_entropy",
             when=lambda sample: sample.second and sample.kwargs.get("options")),
    # precision
    *exclude("PyTorch computes 1/6 in float32", "nn.functional.hardsigmoid", tolerance=1e-7,
             when=lambda call: call.args[0].shape == (20,)),
]

ERRORS = [  # PyTorch raises, NumPy does not
    *exclude("Python numbers are accepted as arrays",
             *"""atan2 bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor
             copysign eq fmax fmin fmod ge gt hypot le logaddexp logical_and logical_or logical_xor
             lt max maximum min minimum ne pow remainder rsub""".split(),
             when=lambda call: not all(hasattr(v, "ndim") for v in call.args)),
    *exclude("the mean of integers is a float", "mean"),
    *exclude("values broadcast and are cast", "masked_fill", "scatter_add"),
    *exclude("shifts and axes broadcast", "roll"),
    *exclude("an empty input gives an empty output", "nn.functional.max_pool1d",
             "nn.functional.max_pool3d", when=lambda call: 0 in call.args[0].shape),
    *exclude("stacks of matrices are accepted, and vectors as one row", "trace", "tril", "triu"),
]

# ---- module_db: `when` gets the sample -----------------------------------------------------------


def dropout_of(sample: Any) -> float:
    """The dropout given to an attention or Transformer layer, 0 if not given."""
    given = (*sample.constructor.args, sample.constructor.kwargs.get("dropout"))
    return next((v for v in given if isinstance(v, float)), 0.0)


MODULES = [
    *exclude("PyTorch computes 1/6 in float32", "Hardsigmoid", tolerance=1e-7,
             when=lambda sample: sample.forward.args[0].ndim > 0),
    *exclude("random", "AlphaDropout", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d",
             "FeatureAlphaDropout", "RReLU", when=lambda sample: sample.training),
    *exclude("random", "MultiheadAttention", "Transformer", "TransformerDecoderLayer",
             "TransformerEncoderLayer",
             when=lambda sample: sample.training and 0 < dropout_of(sample) < 1),
]

MODULE_ERRORS = [
    *exclude("a weight of a narrower dtype is accepted", "NLLLoss"),
    *exclude("options are checked by the constructor", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d",
             when=lambda case: case[0].constructor.kwargs.get("eps") == -1.0),
    *exclude("options are checked by the constructor", "CrossEntropyLoss",
             when=lambda case: "label_smoothing" in case[0].constructor.kwargs),
    *exclude("a nonlinearity given as bias raises in the constructor", "GRUCell", "RNNCell",
             when=lambda case: isinstance(case[0].constructor.args[-1], str)),
    *exclude("0 and 1 are flags", "RNN", "GRU", "LSTM",
             when=lambda case: {*case[0].constructor.kwargs} & {"bias", "batch_first"}),
]

# ---- optim_db: `when` gets the options, or the parameters, options and stage of the error --------

OPTIMIZERS = [
    *exclude("with a small lr, rounding grows in differences of gradients", "LBFGS",
             tolerance=1e-9, when=lambda kwargs: hasattr(kwargs.get("lr"), "shape")),
]

OPTIMIZER_ERRORS = [
    *exclude("foreach=True has no effect, so any combination is accepted", "Adam", "AdamW",
             when=lambda case: case[1].get("foreach")),
]

# ---- names without a case, and differences of parameters -----------------------------------------

# Functions of gpuprop without a case in op_db: reason.
NOT_IN_OP_DB = {
    "functional.alibi_slopes": "PyTorch has no ALiBi",
    "astype": "PyTorch has one method per dtype, such as Tensor.double",
    "cbrt": "not in PyTorch",
    "functional.dropout1d": "random; in eval mode it is compared as nn.Dropout1d",
    "functional.affine_grid": "PyTorch has no case",
    "functional.fold": "compared as nn.Fold",
    "functional.gumbel_softmax": "random",
    **{f"functional.lp_pool{n}d": f"compared as nn.LPPool{n}d" for n in (1, 2, 3)},
    "functional.rotary_embedding": "not in PyTorch",
    "functional.upsample": "PyTorch's deprecated name of interpolate",
    "pad": "NumPy's; PyTorch's is functional.pad",
    "rint": "NumPy's second name for round",
    **{f"functional.{name}": "torchvision's: tests/test_boxes.py" for name in """
        anchor_boxes batched_nms box_area box_convert box_iou clip_boxes_to_image
        generalized_box_iou nms roi_align roi_pool""".split()},
    **{f"functional.{name}": "not in PyTorch" for name in """
        arcface_logits cosface_logits dice_loss info_nce_loss lovasz_hinge_loss
        lovasz_softmax_loss nt_xent_loss sigmoid_focal_loss tversky_loss""".split()},
}

# Layers of gpuprop without a sample in module_db and in MORE of test_modules.py: reason.
NOT_IN_MODULE_DB = {
    "Sequential": "a container: these are tested in test_nn.py",
    "ModuleDict": "a container",
    "ModuleList": "a container",
    "ParameterDict": "a container",
    "ParameterList": "a container",
    **{f"MaxUnpool{n}d": f"compared as functional.max_unpool{n}d" for n in (1, 2, 3)},
    "AdaptiveLogSoftmaxWithLoss": "compared in test_sequence_losses.py: its targets are integers",
    "EmbeddingBag": "compared in test_embedding.py: its inputs are integers",
    "RNNBase": "abstract: the base class of RNN, LSTM and GRU",
}

# Parameters of PyTorch that gpuprop lacks: reason.  "nn.Layer.parameter" is that of one layer only.
LEFT_OUT = {
    "size_average": "deprecated: use reduction",
    "reduce": "deprecated: use reduction",
    "_stacklevel": "private",
    "out": "results are returned",
    "nn.Hardtanh.min_value": "deprecated: min_val",
    "nn.Hardtanh.max_value": "deprecated: max_val",
    "nn.ModuleDict.modules": "a mapping, given by position",
    "nn.ModuleList.modules": "an iterable, given by position",
    "nn.ParameterDict.parameters": "a mapping, given by position",
    "nn.ParameterList.values": "an iterable, given by position",
}

# Parameters of gpuprop that PyTorch lacks: reason.
OURS_ONLY = {
    "functional.scaled_dot_product_attention.window":
        "flash-attn's window_size: PyTorch needs a quadratic mask",
    "functional.scaled_dot_product_attention.alibi_slopes":
        "flash-attn's: PyTorch needs a quadratic mask",
    "functional.multi_head_attention_forward.batch_first":
        "PyTorch's layer transposes before and after the function",
    "rng": "the generator: PyTorch's layers use the default one only",
    "entries": "one name in all containers, given by position",
}

# Parameters of array functions that differ from NumPy's: reason.
DIFFERENT_FROM_NUMPY = {
    "pad.constant_values": "one of NumPy's **kwargs",
    "take_along_axis.axis": "without a default, as before NumPy 2.3",
}
