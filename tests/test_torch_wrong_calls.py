"""Wrong arguments of gpuprop.torch's functions and methods: the error names the call.

Each argument of a valid call is replaced in turn by values that it hardly takes.
"""

import contextlib
import inspect
import math
import re

import numpy as np
import pytest
from test_options import OWN as OPTIONS
from test_options import REQUIRED
from time_limit import time_limit

import gpuprop.torch as torch
from gpuprop.torch import _functions as functions
from gpuprop.torch import linalg
from gpuprop.torch._methods import CALL_PROGRAMS, Methods

WRONG = {"None": None, "text": "text", "object": object(), "-1": -1, "nan": math.nan,
         "10**30": 10**30, "empty": [], "dict": {"a": 1}}
REFUSALS = (TypeError, ValueError, IndexError, OverflowError, MemoryError, RuntimeError)
TAKES_LONG = {  # with 10**30
    ("diff", "n"), ("mvlgamma", "p"), ("tensor_split", "indices_or_sections"),
}


def x():
    return torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])


def square():
    return torch.tensor([[2.0, 0.5], [0.5, 1.0]])


def of(names, **arguments):
    """The same arguments for several names."""
    return {name: arguments for name in names.split()}


def ones(*shape):
    return lambda: torch.ones(*shape)


# Valid arguments by the names of parameters.
VALID = {
    **dict.fromkeys("""input tensor other src source values x y tensor1 tensor2 elements
        test_elements obj data mean x1 x2""".split(), x),
    **dict.fromkeys("dim start low dim0 axis0 offset destination row".split(), lambda: 0),
    **dict.fromkeys("""n k dim1 axis1 length num_samples sections shifts repeats steps count col
        split_size_or_sections indices_or_sections window_length type1""".split(), lambda: 1),
    **dict.fromkeys("value exponent fill_value p maxnorm q s min max weight".split(), lambda: 0.5),
    **dict.fromkeys("dtype from_ to type2".split(), lambda: torch.float32),
    **dict.fromkeys("A B L mat1 mat2 mat a b".split(), square),
    **dict.fromkeys("batch1 batch2".split(), lambda: square()[None]),
    **dict.fromkeys("vec vec1 vec2".split(), ones(2)),
    **dict.fromkeys("boundaries sorted_sequence".split(), lambda: torch.arange(3.0)),
    **dict.fromkeys("tensors matrices".split(), lambda: [square(), square()]),
    **dict.fromkeys("mask condition".split(), lambda: x() > 2),
    **dict.fromkeys("train upper".split(), lambda: True),
    "index": lambda: torch.tensor([[0, 1, 1]]), "indices": lambda: torch.tensor([0, 1]),
    "size": lambda: (2, 3), "shape": lambda: (3, 2), "dims": lambda: (0, 1),
    "stride": lambda: (1, 1), "sizes": lambda: (1, 2), "pad": lambda: (1, 1),
    "split_sizes": lambda: [1, 1], "end": lambda: 5, "high": lambda: 5, "chunks": lambda: 2,
    "bins": lambda: 3, "reduce": lambda: "sum", "equation": lambda: "ij->i",
    "buffer": lambda: bytearray(8), "ndarray": lambda: np.ones(3), "ext_tensor": lambda: np.ones(3),
}
INTEGERS = {"input": lambda: torch.tensor([1, 2]), "other": lambda: torch.tensor([1, 2])}
# Arguments of some functions that need others.
OWN = {
    **of("""addbmm addmm addmv addr chain_matmul cholesky cholesky_inverse cholesky_solve det inv
         inverse logdet matrix_exp mm mv pinverse qr slogdet svd tensordot trace
         triangular_solve""", input=square),
    **of("baddbmm", input=lambda: square()[None]),
    **of("bmm", input=lambda: square()[None], mat2=lambda: square()[None]),
    **of("mm spmm", input=square, mat2=square), **of("matmul", input=square, other=square),
    **of("matrix_power", input=square, n=lambda: 2),
    **of("index_add index_copy index_fill index_select", index=lambda: torch.tensor([0, 1])),
    **of("""bincount bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift
         bitwise_xor gcd lcm ldexp""", **INTEGERS),
    **of("cartesian_prod combinations dot ger inner outer vdot", input=ones(3), other=ones(3),
         tensor=ones(3), vec2=ones(3)),
    **of("movedim moveaxis", source=lambda: 0, destination=lambda: 1),
    **of("select select_scatter", index=lambda: 1, src=ones(3)),
    **of("diagonal_scatter", src=ones(2)), **of("scatter", src=x), **of("mvlgamma", p=lambda: 2),
    **of("dsplit", input=ones(2, 2, 2)), **of("vander", x=ones(3)), **of("prelu", weight=ones(1)),
    **of("index_put", indices=lambda: (torch.tensor([0]),), values=lambda: torch.tensor(1.0)),
    **of("take_along_dim", indices=lambda: torch.tensor([[0, 1, 1]])),
    **of("put", index=lambda: torch.tensor([0]), source=ones(1)), **of("is_nonzero", input=ones(1)),
    **of("randint", low=lambda: 5, size=lambda: (2,)), **of("randint_like", low=lambda: 5),
    **of("unflatten", dim=lambda: 1, sizes=lambda: (3, 1)), **of("normal", std=lambda: 1.0),
    **of("unravel_index", shape=lambda: (2, 2)), **of("as_strided", size=lambda: (2, 2)),
    **of("permute", dims=lambda: (1, 0)), **of("promote_types", type1=lambda: torch.int32),
    **of("binomial", count=ones(2), prob=lambda: torch.ones(2) / 2),
    **of("bernoulli", input=lambda: x() / 6), **of("tril_indices triu_indices", col=lambda: 2),
}
ANY_NAME = r"[\w.]+"  # of the op that does the work


def check(name, argument, call):
    """Run a call with a wrong argument: it succeeds, or its error names the call or an op.

    A TypeError also names the argument and does not speak of attributes of Tensors alone.
    """
    try:
        with time_limit(), np.errstate(all="ignore"):
            call()
        return
    except REFUSALS as error:
        refused = error
    message = str(refused)
    assert not re.match(r"'\w+' object ", message), message
    if type(refused) is TypeError:
        assert re.match(rf"{ANY_NAME}(\(|:)", message), message
        assert re.search(rf"\b({argument}|{'|'.join(OF_OPS)})\b", message), message


OF_OPS = "x", "x1", "x2", "a", "b", "axis", "shape", "dtype", "device"  # parameters of ops


def valid_arguments(name, function):
    """Arguments of a call that succeeds."""
    parameters = inspect.signature(function).parameters.values()
    known = {**VALID, **OWN.get(name, {})}
    required = [p for p in parameters if p.default is p.empty or p.name in OWN.get(name, {})]
    return {p.name: known[p.name] for p in required
            if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


OPTIONS_OF_LISTS = {"block_diag", "cartesian_prod", "chain_matmul", "einsum", "multi_dot"}
NO_ARGUMENTS = {"get_default_dtype", "finfo", "iinfo", "set_default_dtype", "set_rng_state"}


def names_of(module):
    return [pytest.param(module, name, id=f"{module.__name__.rpartition('.')[2]}.{name}")
            for name in module.__all__
            if inspect.isfunction(getattr(module, name))
            and name not in NO_ARGUMENTS | OPTIONS_OF_LISTS]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("module", "name"), [*names_of(functions), *names_of(linalg)])
def test_functions(module, name):
    function = getattr(module, name)
    arguments = valid_arguments(name, function)
    with contextlib.suppress(NotImplementedError):
        function(**{k: make() for k, make in arguments.items()})
    for p in inspect.signature(function).parameters.values():
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            continue
        for wrong in WRONG.values():
            if wrong == 10**30 and (name, p.name) in TAKES_LONG:
                continue
            given = {k: make() for k, make in arguments.items()} | {p.name: wrong}
            check(name, p.name, lambda g=given: function(**g))


# ---- methods -------------------------------------------------------------------------------------

METHODS = {  # those that are no functions: name -> valid arguments
    "contiguous": {}, "copy_": {"src": x}, "cpu": {}, "cuda": None, "element_size": {},
    "expand": {"size": lambda: (2, 3)}, "fill_": {"value": lambda: 1.0}, "view_as": {"other": x},
    "fill_diagonal_": {"fill_value": lambda: 1.0}, "flip": {"dims": lambda: (0,)},
    "geometric_": {"p": lambda: 0.5}, "log_normal_": {"mean": lambda: 0.0, "std": lambda: 1.0},
    "new_full": {"size": lambda: (2,), "fill_value": lambda: 1.0}, "normal_": {"mean": lambda: 0.0},
    "new_tensor": {"data": x}, "permute": {"dims": lambda: (1, 0)}, "random_": {"from_": lambda: 0},
    "polygamma": {"n": lambda: 1}, "repeat": {"repeats": lambda: (1, 2)},
    "reshape": {"shape": lambda: (3, 2)}, "resize_as_": {"other": x}, "set_": {"source": x},
    "stride": {"dim": lambda: 0}, "to": {"dtype": lambda: torch.float64}, "type": {},
    "transpose_": {"dim0": lambda: 0, "dim1": lambda: 1}, "uniform_": {"from_": lambda: 0.0},
    "unfold": {"dimension": lambda: 0, "size": lambda: 1, "step": lambda: 1},
    "unsqueeze_": {"dim": lambda: 0}, "squeeze_": {"dim": lambda: 0}, "bernoulli_": {},
    "cauchy_": {}, "exponential_": {"lambd": lambda: 1.0}, "cholesky_inverse": {},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [n for n, a in METHODS.items() if a is not None])
def test_methods(name):
    method = getattr(torch.Tensor, name)
    make = square if name == "cholesky_inverse" else x
    arguments = METHODS[name]
    method(make(), **{k: f() for k, f in arguments.items()})
    for argument in arguments:
        for wrong in WRONG.values():
            given = {k: f() for k, f in arguments.items()} | {argument: wrong}
            check(name, argument, lambda g=given: method(make(), **g))


def test_every_method_with_arguments_has_a_call():
    own = {name for name, value in vars(Methods).items()
           if inspect.isfunction(value) and not name.startswith("_")
           and len(inspect.signature(value).parameters) > 1}
    variadic = {"new", "new_empty", "new_ones", "new_zeros", "resize_", "sum_to_size", "tile",
    "view"}
    assert own - variadic - CALL_PROGRAMS - METHODS.keys() <= NO_VALUES


NO_VALUES = {"dim_order", "is_contiguous", "is_pinned", "is_set_to", "pin_memory", "reshape_as",
             "swapaxes_", "swapdims_"}


# ---- constructors --------------------------------------------------------------------------------

PACKAGES = {"nn": torch.nn, "optim": torch.optim, "lr_scheduler": torch.optim.lr_scheduler,
            "distributions": torch.distributions}
ABSTRACT = {"DataParallel", "Distribution", "ExponentialFamily", "Function", "LRScheduler", "Loss",
            "Module", "Optimizer", "Parameter"}
CONSTRUCTORS = {f"{package}.{name}": getattr(module, name) for package, module in PACKAGES.items()
                for name in module.__all__
                if isinstance(getattr(module, name), type) and name not in ABSTRACT}
del CONSTRUCTORS["nn.NonDynamicallyQuantizableLinear"]  # another name of Linear
IGNORED = {"inplace", "sparse", "foreach", "fused", "capturable", "verbose", "enable_nested_tensor",
           "mask_check", "rng"}
# Constructors that pass arguments on to another distribution, whose name the error has.
PASS_ON = {"HalfCauchy": "Cauchy", "InverseGamma": "Gamma", "Kumaraswamy": "Uniform",
           "LogNormal": "Normal", "LogisticNormal": "Normal", "Multinomial": "Categorical",
           "OneHotCategorical": "Categorical", "OneHotCategoricalStraightThrough": "Categorical",
           "Pareto": "Exponential", "RelaxedOneHotCategorical": "Categorical",
           "RelaxedBernoulli": "LogitRelaxedBernoulli", "Transformer": "TransformerEncoderLayer",
           "Weibull": "Exponential|Gumbel"}
SINGULAR = {"entries": "entry", "schedulers": "item"}  # an error of one of them


def normals():
    return torch.distributions.Normal(torch.zeros(2), torch.ones(2))


def sgd():
    return torch.optim.SGD([torch.nn.Parameter(square())], lr=0.1, momentum=0.5)


def given_to(name):
    """Valid arguments of a constructor, all by name."""
    package, name = name.split(".")
    own = {
        "optim": {"params": [torch.nn.Parameter(square())]},
        "lr_scheduler": {"optimizer": sgd(), "step_size": 2, "milestones": [2], "gamma": 0.5,
                         "T_max": 3, "T_0": 2, "lr_lambda": lambda epoch: 1.0, "base_lr": 0.1,
                         "max_lr": 0.2, "schedulers": [], "swa_lr": 0.1, "total_steps": 9},
        "distributions": {
            "loc": 0.0, "scale": 1.0, "rate": 1.0, "concentration": 2.0, "concentration0": 2.0,
            "concentration1": 2.0, "df": 4.0, "df1": 4.0, "df2": 4.0, "low": 0.0, "high": 1.0,
            "alpha": 1.0, "total_count": 3, "temperature": 0.5, "transforms": [], "dim": 2,
            "exponent": 2.0, "in_shape": (2,), "out_shape": (1, 2),
            "tseq": [torch.distributions.ExpTransform()], "distribution": normals(),
            "parts": [torch.distributions.ExpTransform()],
            "base_transform": torch.distributions.ExpTransform(),
            "cov_factor": torch.ones(2, 1), "cov_diag": torch.ones(2), "probs": 0.5,
            "covariance_matrix": square(), "reinterpreted_batch_ndims": 1,
            "base_distribution": normals(), "component_distribution": normals(),
            "mixture_distribution": torch.distributions.Categorical(torch.ones(2))},
        "nn": REQUIRED,
    }[package]
    scheduler = own.get("optimizer")
    further = {
        "SequentialLR": lambda: {"schedulers": 2 * [torch.optim.lr_scheduler.StepLR(scheduler, 1)]},
        "ChainedScheduler": lambda: {"schedulers": [torch.optim.lr_scheduler.StepLR(scheduler, 1)]},
        "Dirichlet": lambda: {"concentration": torch.ones(2)},
        "MultivariateNormal": lambda: {"loc": torch.zeros(2), "covariance_matrix": square()},
        "LowRankMultivariateNormal": lambda: {"loc": torch.zeros(2)},
        "Wishart": lambda: {"covariance_matrix": square()},
        "OneCycleLR": lambda: {"total_steps": 9},
        **{n: lambda: {"probs": torch.ones(3) / 3} for n in CHOOSE},
        **{n: lambda: {"probs": 0.5} for n in TOSS},
    }.get(name, dict)()
    signature = inspect.signature(CONSTRUCTORS[f"{package}.{name}"])
    needed = {p.name: own[p.name] for p in signature.parameters.values()
              if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
              and p.name not in further}
    return {**needed, **further, **(OPTIONS.get(name, {}) if package == "nn" else {})}


CHOOSE = ("Categorical", "Multinomial", "OneHotCategorical", "OneHotCategoricalStraightThrough",
          "RelaxedOneHotCategorical")
TOSS = ("Bernoulli", "Binomial", "ContinuousBernoulli", "Geometric", "NegativeBinomial",
        "RelaxedBernoulli")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_constructors(name):
    cls, given = CONSTRUCTORS[name], given_to(name)
    cls(**given)
    own = name.split(".")[1]
    for parameter in inspect.signature(cls).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        argument = parameter.name
        for wrong in WRONG.values():
            if wrong == 10**30 or argument in IGNORED:
                continue  # sizes that no memory holds
            try:
                with time_limit(), np.errstate(all="ignore"):
                    cls(**{**given, argument: wrong})
            except (TypeError, ValueError, KeyError, NotImplementedError) as error:
                message = str(error)
                assert re.search(rf"\b({own}|{PASS_ON.get(own, own)})\b", message), message
                if isinstance(error, TypeError):
                    named = SINGULAR.get(argument, argument)
                    assert re.search(rf"\b({argument}|{named})\b", message), message
                assert not RAW.search(message), message


RAW = re.compile(r"'\w+' object |unsupported operand|^_|not supported between")


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_constructors_name_their_class(name):
    cls, own = CONSTRUCTORS[name], name.split(".")[1]
    parameters = [p for p in inspect.signature(cls).parameters.values()]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    with pytest.raises(TypeError, match=rf"\b{own}\b"):
        cls(**{p.name: None for p in parameters if p.default is p.empty
               and p.kind is not p.VAR_POSITIONAL}, nonsense=1)


# ---- examples ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("call", "kind", "message"), [
    (lambda: torch.gather(None, 0, None), TypeError, "gather.*'input' must be a Tensor, not None"),
    (lambda: x().gather(0, "a"), TypeError, "gather.*'index' must be a Tensor, not str"),
    (lambda: x().gather(5, torch.tensor([[0]])), IndexError, "gather.*axis 5"),
    (lambda: torch.cat([x(), 1]), TypeError, "cat.*'tensors' must be a sequence of Tensors"),
    (lambda: torch.diagflat(np.ones(3)), TypeError, "diagflat.*ndarray: write torch.from_numpy"),
    (lambda: x().narrow(0, None, 1), TypeError, "narrow: argument 'start' cannot be .*NoneType"),
    (lambda: torch.zeros(2, dtyp="int64"), TypeError, "unexpected keyword argument 'dtyp'"),
    (lambda: torch.rand(2**40, 2**40), (MemoryError, ValueError), "allocate|dimension"),
    (lambda: torch.from_numpy([1]), TypeError, "from_numpy: ndarray must be a NumPy array"),
    (lambda: x().copy_(None), TypeError, "copy_.*'src' must be a Tensor, not NoneType"),
    (lambda: torch.nn.functional.relu_(None), TypeError, "relu"),
    (lambda: torch.nn.functional.dropout2d(None), TypeError, "dropout2d.*must be a Tensor"),
    (lambda: torch.linalg.inv(None), TypeError, "inv.*must be a Tensor"),
    (lambda: x().requires_grad_().register_hook(3), TypeError,
    "register_hook: hook must be a func"),
    (lambda: torch.func.grad(None), TypeError, "func must be a function"),
    (lambda: torch.func.grad(torch.sum)(3), TypeError, "must be a Tensor, got 3"),
])
def test_messages(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


@pytest.mark.parametrize(("call", "message"), [
    (lambda: torch.nn.BCELoss("text"), "BCELoss: weight must be a Tensor or an array"),
    (lambda: torch.nn.Hardtanh(1.0, -1.0), "Hardtanh: min_val must be below max_val"),
    (lambda: torch.distributions.Chi2(-1.0), "Chi2: parameter df must satisfy"),
    (lambda: torch.nn.Conv2d(3), r"Conv2d.__init__\(\) missing 2 required positional arguments"),
])
def test_messages_of_constructors(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_signatures_of_constructors():
    class Net(torch.nn.Module):
        def __init__(self, hidden=3):
            super().__init__()

    assert list(inspect.signature(Net).parameters) == ["hidden"]
    assert list(inspect.signature(torch.nn.Conv2d).parameters)[:3] == [
        "in_channels", "out_channels", "kernel_size"]
    assert list(inspect.signature(torch.distributions.Normal).parameters)[:2] == ["loc", "scale"]


def test_classes_that_are_subclasses_of_others():
    nn, optim, distributions = torch.nn, torch.optim, torch.distributions
    assert all(issubclass(cls, optim.Optimizer) for name, cls in CONSTRUCTORS.items()
               if name.startswith("optim."))
    assert issubclass(nn.LSTM, nn.RNNBase) and isinstance(nn.GRU(2, 2), nn.RNNBase)
    assert not issubclass(nn.Linear, nn.RNNBase) and not issubclass(nn.Linear, optim.Optimizer)
    assert issubclass(distributions.Chi2, distributions.Gamma)
    assert isinstance(distributions.Normal(0.0, 1.0), distributions.ExponentialFamily)
