"""NumPy's functions on arrays and Tensors, and the operators and methods of Tensors."""

from gpuprop._array import activation, creation
from gpuprop._array import methods as _methods  # sets the operators and methods of Tensor
from gpuprop._array.activation import *
from gpuprop._array.arithmetic import *
from gpuprop._array.comparison import *
from gpuprop._array.creation import *
from gpuprop._array.indexing import *
from gpuprop._array.mathematics import *
from gpuprop._array.products import *
from gpuprop._array.reduction import *
from gpuprop._array.shape import *
from gpuprop._core.namespace import Differentiable as _Differentiable

__all__ = [
    "abs", "absolute", "add", "all", "any", "arange", "arccos", "arccosh", "arcsin", "arcsinh",
    "arctan", "arctan2", "arctanh", "argmax", "argmin", "argsort", "astype", "bitwise_and",
    "bitwise_or", "bitwise_xor", "bmm", "broadcast_to", "cbrt", "ceil", "chunk", "clip",
    "concatenate", "copy", "copysign", "cos", "cosh", "count_nonzero", "cumprod", "cumsum",
    "deg2rad", "diag", "diagonal", "digamma", "divide", "dot", "einsum", "empty", "equal", "erf",
    "erfc", "erfinv", "exp", "exp2", "expand_dims", "expm1", "eye", "flatten", "flip", "floor",
    "floor_divide", "fmax", "fmin", "fmod", "full", "full_like", "gather", "greater",
    "greater_equal", "hypot", "index_add", "index_select", "inner", "invert", "isfinite", "isinf",
    "isnan", "left_shift", "less", "less_equal", "lgamma", "linspace", "log", "log1p", "log2",
    "log10", "log_softmax", "logaddexp", "logical_and", "logical_not", "logical_or",
    "logical_xor", "logsumexp", "masked_fill", "matmul", "max", "maximum", "mean", "min",
    "minimum", "mod", "moveaxis", "multiply", "nan_to_num", "negative", "norm", "not_equal",
    "ones", "ones_like", "outer", "pad", "polygamma", "positive", "power", "prod", "rad2deg",
    "ravel", "reciprocal", "relu", "remainder", "repeat", "reshape", "right_shift", "rint",
    "roll", "round", "rsqrt", "scatter_add", "sigmoid", "sign", "signbit", "sin", "sinc", "sinh",
    "softmax", "sort", "split", "sqrt", "square", "squeeze", "stack", "std", "subtract", "sum",
    "swapaxes", "take", "take_along_axis", "tan", "tanh", "tensordot", "tile", "topk", "trace",
    "transpose", "tril", "triu", "true_divide", "trunc", "unstack", "var", "where", "zeros",
    "zeros_like",
]

# The xp of Tensors gets NumPy's functions only; creation functions are those of the backend's xp.
_excluded = {*creation.__all__, *activation.__all__}
_Differentiable.ops.update({name: globals()[name] for name in __all__ if name not in _excluded})
