"""What of PyTorch's cases is not compared, by name and reason; an entry that is no longer needed fails its test.

A case is refused where `when` says so of the sample.  Each refusal has to have at least one case that exists and that
would fail, so nothing stays here by habit.  What PyTorch has and gpuprop has not is no refusal: the tests count it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Refusal(NamedTuple):
    name: str
    reason: str
    when: Callable[[Any], bool]
    tolerance: float | None  # to which the refused samples agree all the same


def refuse(reason: str, *names: str, when: Callable[[Any], bool] = lambda sample: True,
           tolerance: float | None = None) -> list[Refusal]:
    return [Refusal(name, reason, when, tolerance) for name in names]


def both(names: str) -> list[str]:
    """Functions and the methods of the same name."""
    return [label for name in names.split() for label in (name, f"Tensor.{name}")]


def methods(names: str) -> list[str]:
    return [f"Tensor.{name}" for name in names.split()]


# ---- op_db: `when` sees the call; a method's name is "Tensor.name" ---------------------------------------------------

no_axes = lambda call: call.args[0].ndim == 0
axis_of_none = lambda call: no_axes(call) and (len(call.args) > 1 or "dim" in call.kwargs)
option = lambda *names: lambda call: any(n in call.kwargs for n in names)
positional = lambda n: lambda call: len(call.args) > n

integers = lambda call: not call.args[0].is_floating_point()


def sizes(call: Any) -> list[int]:
    """Of the axes that are squeezed."""
    axes = call.args[1] if isinstance(call.args[1], tuple) else (call.args[1],)
    return [call.args[0].shape[i] for i in axes]


OPS = [
    # random
    *refuse("its random numbers are not PyTorch's", "nn.functional.alpha_dropout", "nn.functional.dropout",
            "nn.functional.dropout2d", "nn.functional.dropout3d", "nn.functional.feature_alpha_dropout",
            when=lambda call: call.kwargs.get("training", True) and 0 < call.kwargs.get("p", 0.5) < 1),
    *refuse("its random numbers are not PyTorch's", "nn.functional.scaled_dot_product_attention",
            when=lambda call: call.kwargs.get("dropout_p")),
    *refuse("its random numbers are not PyTorch's", "nn.functional.rrelu",
            when=lambda call: call.kwargs.get("training")),
    *refuse("its random numbers are not PyTorch's; without chance it is compared in test_multi_head.py",
            "nn.functional.multi_head_attention_forward", when=lambda call: call.kwargs["training"]),
    # array functions and methods speak NumPy
    *refuse("a 0-d array has no axes", *both("argsort topk"), "sort", when=no_axes),
    *refuse("a 0-d array has no axes",
            *both("cumprod cumsum gather index_select logsumexp mean prod scatter_add squeeze"), "index_add",
            "transpose", when=axis_of_none),
    *refuse("an axis that is squeezed has size 1", *both("squeeze"),
            when=lambda call: len(call.args) > 1 and {*sizes(call)} != {1}),
    *refuse("arrays that are joined have as many axes", "cat",
            when=lambda call: len({t.ndim for t in call.args[0]}) > 1),
    *refuse("an index has as many axes as the array", *both("gather"),
            when=lambda call: call.args[0].ndim != call.args[2].ndim),
    *refuse("axes that are summed have one size", "tensordot", when=lambda call: 1 in call.args[0].shape),
    *refuse("max(axis) gives values only, and two arrays are for maximum()", *methods("max min"), when=positional(1)),
    *refuse("ddof=0, or said by correction=", *methods("std var"),
            when=lambda call: call.kwargs.get("correction") is None),
    *refuse("two meanings, so it raises", *methods("repeat sort transpose")),
    # integers
    *refuse("which of equal elements comes first PyTorch does not promise", *both("topk"), when=integers),
    *refuse("a number with a point makes a float", "nn.functional.hardtanh", when=integers),
    *refuse("a quotient is a float", "div",
            when=lambda call: integers(call) and call.kwargs.get("rounding_mode") == "trunc"),
    *refuse("a mean is a float", *[f"nn.functional.avg_pool{n}d" for n in (1, 2, 3)],
            "nn.functional.local_response_norm", when=integers),
    *refuse("an integer has no negative powers", "Tensor.__rpow__", when=integers),
    # options
    *refuse("memory order belongs to the backend", *methods("bool double float half int long to"),
            when=option("memory_format")),
    *refuse("written as an expression: x + alpha * y", *methods("add sub index_add"), when=option("alpha")),
    *refuse("written as an expression: trunc(x / y), x // y", "Tensor.div", when=option("rounding_mode")),
    *refuse("written as an expression: x.astype(dtype).sum()", *methods("cumprod cumsum prod"), when=option("dtype")),
    *refuse("the nuclear norm is of singular values", *both("norm"), when=lambda call: "nuc" in call.args),
    *refuse("it writes in place, which is not recorded", "Tensor.zero_"),
    # scalars
    *refuse("scores of one sample are (C,) with a label ()", "nn.functional.multi_margin_loss",
            when=lambda call: no_axes(call) or call.args[0].ndim == call.args[1].ndim),
    *refuse("scores of one sample are (C,) with targets (C,)", "nn.functional.multilabel_margin_loss", when=no_axes),
    *refuse("what is normalized has channels", "nn.functional.batch_norm", when=lambda call: call.args[0].ndim < 2),
    # derivatives
    *refuse("PyTorch has none of the second order", "nn.functional.ctc_loss", when=lambda sample: sample.second),
    *refuse("PyTorch's chunks say 0 for the second order", "nn.functional.linear_cross_entropy",
            when=lambda sample: sample.second and sample.kwargs.get("options")),
    # precision
    *refuse("PyTorch's 1/6 is a float32", "nn.functional.hardsigmoid", tolerance=1e-7,
            when=lambda call: call.args[0].shape == (20,)),
]

ERRORS = [  # what PyTorch refuses and NumPy defines
    *refuse("numbers are as good as arrays", *"""atan2 bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift
            bitwise_xor copysign eq fmax fmin fmod ge gt hypot le logaddexp logical_and logical_or logical_xor lt max
            maximum min minimum ne pow remainder rsub""".split(),
            when=lambda call: not all(hasattr(v, "ndim") for v in call.args)),
    *refuse("the mean of integers is a float", "mean"),
    *refuse("values broadcast and mix dtypes", "masked_fill", "scatter_add"),
    *refuse("shifts and axes broadcast", "roll"),
    *refuse("nothing comes of nothing", "nn.functional.max_pool1d", "nn.functional.max_pool3d",
            when=lambda call: 0 in call.args[0].shape),
    *refuse("stacks of matrices, and vectors as one row", "trace", "tril", "triu"),
]

# ---- module_db: `when` sees the sample ------------------------------------------------------------------------------



def dropout_of(sample: Any) -> float:
    """Of attention and Transformers; it is no word of the samples that leave it at PyTorch's 0 or 0.1."""
    return next((v for v in (*sample.made.args, sample.made.kwargs.get("dropout")) if isinstance(v, float)), 0.0)


MODULES = [
    *refuse("PyTorch's 1/6 is a float32", "Hardsigmoid", tolerance=1e-7,
            when=lambda sample: sample.given.args[0].ndim > 0),
    *refuse("its random numbers are not PyTorch's", "AlphaDropout", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d",
            "FeatureAlphaDropout", "RReLU", when=lambda sample: sample.training),
    *refuse("its random numbers are not PyTorch's", "MultiheadAttention", "Transformer", "TransformerDecoderLayer",
            "TransformerEncoderLayer", when=lambda sample: sample.training and 0 < dropout_of(sample) < 1),
]

MODULE_ERRORS = [
    *refuse("a narrower weight leaves the loss in the input's dtype", "NLLLoss"),
    *refuse("the function looks at its options when it is called", "HuberLoss"),
    *refuse("a nonlinearity in the place of bias is refused when the cell is made", "GRUCell", "RNNCell",
            when=lambda case: isinstance(case[0].made.args[-1], str)),
]

# ---- optim_db: `when` sees the options, or the parameters, options and stage of what fails --------------------------

OPTIMIZERS: list[Refusal] = [
]

OPTIMIZER_ERRORS = [
    *refuse("foreach=True changes nothing, so it is in nobody's way", "Adam", "AdamW",
            when=lambda case: case[1].get("foreach")),
]

# ---- what PyTorch's tables lack, and other words --------------------------------------------------------------------

# Functions here that op_db has no entry for, by reason.
NOT_IN_OP_DB = {
    "functional.alibi_slopes": "PyTorch has no biases by distance",
    "astype": "PyTorch has a word for each dtype: Tensor.double and its like",
    "cbrt": "NumPy's only",
    "functional.dropout1d": "random; without chance it is compared as nn.Dropout1d",
    "functional.affine_grid": "PyTorch has no case of it",
    "functional.fold": "it is compared as nn.Fold",
    "functional.gumbel_softmax": "random",
    **{f"functional.lp_pool{n}d": f"it is compared as nn.LPPool{n}d" for n in (1, 2, 3)},
    "functional.rotary_embedding": "PyTorch has none",
    "functional.upsample": "PyTorch's deprecated name of interpolate",
    "pad": "NumPy's, with other words: PyTorch's is functional.pad",
    "rint": "NumPy's second name for round",
}

# Layers here that neither module_db nor MORE of test_modules.py has a sample for, by reason.
NOT_IN_MODULE_DB = {
    "Sequential": "a container, as are the next four; they are in test_nn.py",
    "ModuleDict": "a container",
    "ModuleList": "a container",
    "ParameterDict": "a container",
    "ParameterList": "a container",
    **{f"MaxUnpool{n}d": f"it is compared as functional.max_unpool{n}d" for n in (1, 2, 3)},
    "AdaptiveLogSoftmaxWithLoss": "its targets are integers: it is compared in test_sequence_losses.py",
    "EmbeddingBag": "its inputs are integers: it is compared in test_embedding.py",
    "RNNBase": "abstract: what RNN, LSTM and GRU have in common",
}

# Parameters of PyTorch's that ours leave out, by reason; "nn.Layer.parameter" for one place only.
LEFT_OUT = {
    "size_average": "deprecated: reduction says it",
    "reduce": "deprecated: reduction says it",
    "_stacklevel": "private",
    "out": "what is computed is returned",
    "nn.Hardtanh.min_value": "deprecated: min_val",
    "nn.Hardtanh.max_value": "deprecated: max_val",
    "nn.ModuleDict.modules": "a mapping, given by position",
    "nn.ModuleList.modules": "an iterable, given by position",
    "nn.ParameterDict.parameters": "a mapping, given by position",
    "nn.ParameterList.values": "an iterable, given by position",
}

# Parameters of ours that PyTorch's have not, by reason.
OURS_ONLY = {
    "functional.scaled_dot_product_attention.window": "flash-attn's window_size: PyTorch says it by a quadratic mask",
    "functional.scaled_dot_product_attention.alibi_slopes": "flash-attn's: PyTorch says it by a quadratic mask",
    "functional.multi_head_attention_forward.batch_first": "PyTorch's layer exchanges axes before and after it",
    "rng": "the generator: PyTorch's layers draw from the default one only",
    "entries": "one word for all containers, given by position",
}

# Options of array functions that are not NumPy's as they are, by reason.
BESIDE_NUMPY = {
    "pad.constant_values": "among NumPy's keywords",
    "take_along_axis.axis": "without a default, as before NumPy 2.3",
}
