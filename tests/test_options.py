"""Wrong numbers, flags and names are refused by the call that gives them.

The tests enumerate all options of all public constructors and functions.
"""

import inspect
import math

import numpy as np
import pytest

import gpuprop
import gpuprop.functional as F
from gpuprop import data, decoding, models, nn, random
from gpuprop._core.options import option_guards
from gpuprop._core.signature import unwrapped
from gpuprop.nn import init, utils
from gpuprop.testing import all_rows
from gpuprop.training import metrics

T = gpuprop.zeros
X = np.ones((4, 4), "float32")
REQUIRED = {  # the values of options without a default
    "in_features": 4, "out_features": 4, "in1_features": 3, "in2_features": 3, "in_channels": 4,
    "out_channels": 4, "kernel_size": 2, "num_embeddings": 5, "embedding_dim": 4,
    "num_features": 4, "num_channels": 4, "num_groups": 2, "normalized_shape": 4, "input_size": 4,
    "hidden_size": 4, "embed_dim": 4, "num_heads": 2, "nhead": 2, "d_model": 4, "batch": 2,
    "max_length": 3, "heads": 2, "dim": 4, "num_layers": 2, "upscale_factor": 2,
    "downscale_factor": 2, "groups": 2, "num_classes": 5, "n_classes": 9, "cutoffs": [3],
    "padding": 1, "value": 0.5, "threshold": 0.5, "norm_type": 2, "output_size": 3,
    "unflattened_size": (2, 2), "mode": "LSTM", "size": 2, "alpha": 0.5, "mean": [0.5],
    "std": [0.5], "tensor": T(4, 4), "val": 1.0, "sparsity": 0.5, "nonlinearity": "relu",
    "low": 0, "high": 5, "p": 0.5, "n": 4, "logits": T(2, 5), "top_k": 2, "top_p": 0.5,
    "step": lambda tokens: T(len(tokens), 5), "tokens": [[1, 2]], "max_new_tokens": 2, "beams": 2,
    "encoder_layer": nn.TransformerEncoderLayer(4, 2, 4),
    "decoder_layer": nn.TransformerDecoderLayer(4, 2, 4), "seed": 1, "transforms": [],
    "max_norm": 1.0, "parameters": [T(2)], "total_norm": 1.0, "clip_value": 1.0,
    "tensors": [T(2)], "sequences": [T(2)], "input": T(3, 2, 4), "lengths": [3, 2],
    "sequence": utils.rnn.pack_sequence([T(3, 2), T(2, 2)]), "padded_sequences": T(3, 2),
    "module": nn.Linear(2, 2), "vec": T(2), "k": 2,
    "block": models.BasicBlock, "layers": [1, 1, 1, 1], "setting": [], "last_channels": 8,
    "depths": [1], "widths": [4], "image_size": 8, "patch_size": 4, "hidden_dim": 4, "mlp_dim": 4,
    "n_channels": 1, "num_encoder_layers": 1, "num_decoder_layers": 1, "emb_size": 4,
    "src_vocab_size": 5, "tgt_vocab_size": 5, "vocab_size": 5, "tagset_size": 3,
    "function": gpuprop.relu, "functions": [gpuprop.relu], "segments": 1,
}
OWN = {  # call -> further values
    "dirac_": {"tensor": T(4, 4, 3)}, "TransformerEncoder": {"num_layers": 1},
    "Upsample": {"size": 2}, "UpsamplingNearest2d": {"size": 2},
    "UpsamplingBilinear2d": {"size": 2},
    "RotaryPositionalEmbeddings": {"dim": 4}, "FractionalMaxPool2d": {"output_size": 2},
    "FractionalMaxPool3d": {"output_size": 2}, "Threshold": {"value": 0.0},
}
ABSTRACT = {"Module", "Function", "Loss", "Parameter"}
IGNORED = {"inplace", "sparse", "foreach", "enable_nested_tensor", "mask_check",
           "error_if_nonfinite"}  # without effect, or only tested for truth
PARTS = {"BasicBlock", "Bottleneck"}  # of a model, which checks its options
TAKE_A_LAYER = ("fuse_", "remove_")  # functions without numbers
OTHER_NAMES = {"manual_seed": "Generator"}


def public_calls():
    """(name, function) of all public constructors and functions with options."""
    for package in (nn, init, utils, utils.rnn, random, decoding, data, metrics, models):
        for name in package.__all__:
            found = getattr(package, name)
            is_class = isinstance(found, type)
            if not callable(found) or name in ABSTRACT or (is_class and issubclass(
                    found, BaseException | data.DataLoader | data.Sampler | data.Dataset)):
                continue
            if package is metrics and not (is_class and issubclass(found, metrics.Metric)):
                continue
            if package is models and (name in PARTS or not is_class):
                continue
            if package is data and not issubclass(found if is_class else int, data.Augmentation
                                                  | data.Mixup):
                continue
            yield name, found
    for method in ("uniform", "normal", "truncated_normal", "integers", "bernoulli",
                   "permutation", "manual_seed"):
        yield f"Generator.{method}", getattr(random.Generator(), method)


OTHERS = {"output_size", "output_ratio", "_weight", "scale_factor", "out_features", "activation"}


def wrong_values(parameter):
    """Values that an option with this annotation never takes; () if it says too little."""
    kinds = {kind.strip() for kind in str(parameter.annotation).split("|")}
    is_optional = "None" in kinds
    kinds.discard("None")
    wrong = ["text", object(), {}, math.nan, np.array([1, 2])]
    if not is_optional:
        wrong.append(None)
    if kinds & {"Sizes", "Sequence[int]", "tuple[int, int]"}:
        wrong[4] = np.ones((2, 2), int)
    if kinds <= {"int", "Sizes", "Sequence[int]", "tuple[int, int]"}:
        wrong += [1.5, True, "3"]
    elif kinds == {"Tensor"}:
        wrong = [*wrong[:4], 2.0, [1.0], *wrong[5:]]
    elif kinds == {"Sizes", "str"}:
        wrong = [*wrong[1:], 1.5, True]
    elif parameter.name in OTHERS:
        wrong = wrong[:4]
    elif kinds < {"Generator", "Module", "Callable"}:
        wrong += [5, True, -1]
    elif kinds <= {"float", "int"}:
        wrong += [True, [0.5]]
    elif kinds == {"bool"}:
        wrong += [1.5, 2, "yes"]
    elif kinds == {"str"}:
        wrong = [*wrong[1:], 1, b"text"]
        if parameter.name != "name":  # of a parameter
            wrong.append("text")
    else:
        return []
    return wrong


ALLOWED_NEGATIVE = {  # options that may be -1, with the reason
    "dim": "an axis", "start_dim": "an axis", "end_dim": "an axis", "padding_idx": "from the end",
    "ignore_index": "any number", "padding": "of Pad layers: crops",
    "unflattened_size": "is inferred", "divisor_override": "any number but 0",
    "norm_type": "any number", "low": "any integer", "high": "any integer", "eos": "no token",
    "pad": "no token", "pad_idx": "no token",
}
CALLS = dict(public_calls())


def options():
    for name, call in CALLS.items():
        for parameter in inspect.signature(call).parameters.values():
            has_wrong = len(wrong_values(parameter)) > 0
            if has_wrong and parameter.name not in IGNORED and not name.startswith(TAKE_A_LAYER):
                yield pytest.param(name, parameter, id=f"{name}-{parameter.name}")


def arguments(name, parameter):
    """Arguments that the call accepts, all of them by name."""
    given = {}
    for p in inspect.signature(CALLS[name]).parameters.values():
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            given[p.name] = REQUIRED[p.name]
    return {**given, **OWN.get(name, {})}


@pytest.mark.parametrize(("name", "parameter"), [*options()])
def test_wrong_values(name, parameter):
    given = arguments(name, parameter)
    for wrong in wrong_values(parameter):
        with pytest.raises((TypeError, ValueError)) as error:
            CALLS[name](**{**given, parameter.name: wrong})
        message = str(error.value)
        caller = name.rpartition(".")[2]
        assert OTHER_NAMES.get(caller, caller) in message, message
        assert parameter.name in message
        assert repr(wrong) in message


@pytest.mark.parametrize(("name", "parameter"), [
    p for p in options()
    if str(p.values[1].annotation).startswith(("int", "Sizes"))
    and p.values[1].name not in ALLOWED_NEGATIVE])
def test_negative_counts(name, parameter):
    with pytest.raises(ValueError, match=f"{parameter.name}.*-1"):
        CALLS[name](**{**arguments(name, parameter), parameter.name: -1})


@pytest.mark.parametrize("cls", [c for c in CALLS.values() if isinstance(c, type)
                                 and "dtype" in inspect.signature(c).parameters])
@pytest.mark.parametrize("dtype", ["int32", "bool", "text", "object", 3])
def test_dtypes_of_parameters(cls, dtype):
    with pytest.raises(TypeError, match=f"{cls.__name__}.*dtype"):
        cls(**arguments(cls.__name__, None), dtype=dtype)


@pytest.mark.parametrize("cls", [c for c in CALLS.values() if isinstance(c, type)
                                 and "device" in inspect.signature(c).parameters])
@pytest.mark.parametrize("device", ["nowhere", 5, object()])
def test_devices_of_parameters(cls, device):
    with pytest.raises((TypeError, ValueError), match=f"{cls.__name__}: device"):
        cls(**arguments(cls.__name__, None), device=device)


def test_every_option_is_checked():
    """The options without a mechanical test, with the reason."""
    others = {"dtype": "test_dtypes_of_parameters", "options": "ignored",
              "args": "ignored", "kwargs": "ignored", "modules": "test_nn.py",
              "entries": "test_nn.py", "transforms": "test_data_arguments.py",
              "mean": "test_data_arguments.py", "std": "test_data_arguments.py",
              "block": "a class", "setting": "a table", "inverted_residual_setting": "a table"}
    for name, call in CALLS.items():
        if isinstance(call, type) and name != "PackedSequence":
            for p in inspect.signature(call).parameters.values():
                assert len(wrong_values(p)) or p.name in others, (name, p)


def test_defaults_are_valid():
    """The defaults of options are not checked in calls."""
    ops = {row.op for row in all_rows()}
    found = 0
    for fn in {unwrapped(op) for op in ops} | {unwrapped(getattr(F, name)) for name in F.__all__}:
        for name, unchecked, check in option_guards(fn.__annotations__):
            default = inspect.signature(fn).parameters[name].default
            if default is not inspect.Parameter.empty:
                check(f"{fn.__name__}: {name}", default)
                if isinstance(unchecked, str):
                    found += eval(unchecked.format(name), {name: default})
                else:
                    found += type(default) in unchecked
    assert found > 100


def test_numbers_of_numpy_are_numbers():
    layer = nn.Linear(np.int64(3), np.uint8(2))
    assert type(layer.in_features) is type(layer.out_features) is int
    assert nn.Dropout(np.float32(0.5)).p == 0.5
    assert nn.LeakyReLU(np.float64(0.1)).negative_slope == 0.1
    assert nn.Conv2d(np.int32(3), 4, (np.int64(3), 3)).weight.shape == (4, 3, 3, 3)
    assert nn.Conv2d(1, 1, np.array([3, 3])).kernel_size == (3, 3)
    assert nn.MaxPool2d(np.array([3, 3])).kernel_size == [3, 3]


@pytest.mark.parametrize(("make", "message"), [
    (lambda: nn.Conv2d(3, 4, (3, 3, 3)), r"Conv2d: kernel_size.*2 integers.*\(3, 3, 3\)"),
    (lambda: nn.Conv2d(3, 4, 3, groups=2), "Conv2d.*groups=2.*in_channels=3"),
    (lambda: nn.Embedding(5, 4, padding_idx=5), "Embedding.*padding_idx.*5"),
    (lambda: nn.MultiheadAttention(4, 3), "num_heads=3.*embed_dim=4"),
    (lambda: nn.MSELoss(reduction="avg"), "MSELoss: reduction.*'mean' or 'sum'.*'avg'"),
    (lambda: nn.GELU("fast"), "GELU: approximate.*'fast'"),
    (lambda: nn.BatchNorm1d(4, momentum=2), r"BatchNorm1d: momentum.*\[0, 1\].*2"),
    (lambda: nn.LayerNorm(4, eps=-1), "LayerNorm: eps.*-1"),
    (lambda: nn.Upsample(2, 2), "Upsample: give either size or scale_factor"),
    (lambda: nn.UpsamplingNearest2d(), "UpsamplingNearest2d: give either size or scale_factor"),
    (lambda: nn.Upsample(2, align_corners=True), "Upsample: .*'nearest' takes no align_corners"),
    (lambda: nn.FractionalMaxPool2d(2), "FractionalMaxPool2d: give either output_size or"),
    (lambda: metrics.TopK(0), "TopK: k.*at least 1.*0"),
    (lambda: init.normal_(T(2), std=-1), "normal_: std.*-1"),
    (lambda: decoding.sample(T(5), temperature=0), r"sample: temperature.*\(0, inf\)"),
    (lambda: decoding.sample(T(5), top_p=1.5), "top_p.*1.5"),
    (lambda: utils.clip_grad_norm_([T(2)], -1), "max_norm.*-1"),
])
def test_intervals(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---- functions that are called in every step -----------------------------------------------------


def functional_options():
    """The numbers and flags of all functions, with the arguments of a row."""
    rows = {}
    for row in all_rows():
        if all(a.size for a in row.arrays()):
            rows.setdefault(row.op, row)
    for package, name in ((p, name) for p in (F, gpuprop) for name in p.__all__):
        row = rows.get(getattr(package, name))
        if row is None:
            continue
        signature = inspect.signature(row.op)
        for parameter in signature.parameters.values():
            kinds = set(str(parameter.annotation).split(" | ")) - {"None"}
            if kinds <= {"int", "float", "Sizes"} or kinds == {"bool"}:
                given = signature.bind(*row.args, **row.kwargs).arguments
                yield pytest.param(row.op, dict(given), parameter, id=f"{name}-{parameter.name}")


@pytest.mark.parametrize(("function", "given", "parameter"), [*functional_options()])
def test_wrong_values_in_functions(function, given, parameter):
    for wrong in wrong_values(parameter):
        if isinstance(wrong, np.ndarray):
            wrong = np.array([1, 2])
        with pytest.raises((TypeError, ValueError)) as error:
            function(**{**given, parameter.name: wrong})
        message = str(error.value)
        name = function.__name__
        assert name in message or name.replace("upsample", "interpolate") in message, message
        assert parameter.name in message
        assert repr(wrong).removeprefix("array(").rstrip(")") in message


@pytest.mark.parametrize(("call", "message"), [
    (lambda: F.dropout(X, 2), "dropout: p.*2"),
    (lambda: F.layer_norm(X, 4, eps=-1), r"layer_norm: eps.*\[0, inf\).*-1"),
    (lambda: F.cross_entropy(X, X, label_smoothing=1.5), "cross_entropy: label_smoothing.*1.5"),
    (lambda: F.conv1d(X[None], X[None], stride=0), "conv1d: stride.*0"),
    (lambda: F.max_pool1d(X[None], 0), "max_pool1d: kernel_size.*0"),
    (lambda: F.huber_loss(X, X, delta=0.0), r"huber_loss: delta.*\(0, inf\).*0.0"),
    (lambda: F.scaled_dot_product_attention(X, X, X, dropout_p=-0.5), "dropout_p.*-0.5"),
])
def test_intervals_of_functions(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_numbers_of_numpy_in_functions():
    np.testing.assert_array_equal(F.leaky_relu(X, np.float32(0.5)), F.leaky_relu(X, 0.5))
    np.testing.assert_array_equal(F.softmax(X, np.int64(1)), F.softmax(X, 1))
    assert F.max_pool1d(X[None], (np.int64(2),)).shape == (1, 4, 2)


FLAGS = {
    "requires_grad": lambda flag: gpuprop.tensor(X, requires_grad=flag).requires_grad,
    "Tensor": lambda flag: gpuprop.Tensor(X, flag).requires_grad,
    "Parameter": lambda flag: nn.Parameter(X, flag).requires_grad,
    "zeros": lambda flag: T(2, requires_grad=flag).requires_grad,
    "requires_grad_": lambda flag: T(2).requires_grad_(flag).requires_grad,
    "keepdims": lambda flag: gpuprop.sum(X, 0, keepdims=flag).shape == (1, 4),
    "training": lambda flag: bool(F.dropout(X, 1.0, flag).max() == 0),
    "bias": lambda flag: nn.Linear(2, 2, bias=flag).bias is not None,
}


@pytest.mark.parametrize("read", FLAGS.values(), ids=FLAGS)
def test_flags_are_bools_or_0_or_1(read):
    for true, false in ((True, False), (1, 0), (np.bool_(1), np.bool_(0)), (np.int64(1), 0)):
        assert read(true) is True and read(false) is False
    for wrong in ("False", "", 2, -1, 1.0, None, [], np.array(True)):
        with pytest.raises(TypeError, match="must be True or False, got"):
            read(wrong)


@pytest.mark.parametrize("call", [lambda flag: gpuprop.autocast("bfloat16", flag),
                                  lambda flag: T(1, requires_grad=True).backward(T(1), flag)])
def test_flags_of_the_engine(call):
    with pytest.raises(TypeError, match="must be True or False, got 'no'"):
        call("no")
