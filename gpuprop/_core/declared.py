"""The operators and methods of Tensors, for type checkers: see declared.pyi.

`gpuprop._array.methods` defines them, above this layer, and gives them to Tensor.
"""


class Methods:
    __slots__ = ()
