"""PyTorch's functions by gpuprop's: each has PyTorch's name, arguments and meaning.

Those whose first parameter is `input` are methods of Tensor, too.
"""

from gpuprop.torch._functions import (
    _creation,
    _elementwise,
    _indices,
    _layers,
    _matrices,
    _orders,
    _products,
    _random,
    _reductions,
    _shapes,
)
from gpuprop.torch._functions._creation import *
from gpuprop.torch._functions._elementwise import *
from gpuprop.torch._functions._indices import *
from gpuprop.torch._functions._layers import *
from gpuprop.torch._functions._matrices import *
from gpuprop.torch._functions._orders import *
from gpuprop.torch._functions._products import *
from gpuprop.torch._functions._random import *
from gpuprop.torch._functions._reductions import *
from gpuprop.torch._functions._shapes import *

__all__: list[str] = []
for _module in (_creation, _elementwise, _indices, _layers, _matrices, _orders, _products,
                _random, _reductions, _shapes):
    __all__ += _module.__all__
