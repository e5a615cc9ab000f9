"""NumPy's functions on arrays and Tensors, and the operators and methods of Tensors that stand for them."""

from gpuprop._array import (
    activation,
    arithmetic,
    comparison,
    creation,
    indexing,
    mathematics,
    products,
    reduction,
    shape,
)
from gpuprop._array import methods as _methods  # gives Tensor its operators and methods
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

__all__: list[str] = []
__all__ += creation.__all__
__all__ += arithmetic.__all__
__all__ += comparison.__all__
__all__ += mathematics.__all__
__all__ += shape.__all__
__all__ += indexing.__all__
__all__ += reduction.__all__
__all__ += products.__all__
__all__ += activation.__all__

_own = {*creation.__all__, *activation.__all__}  # not NumPy's names, or not differentiable
_Differentiable.ops.update({name: globals()[name] for name in __all__ if name not in _own})
