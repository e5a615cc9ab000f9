"""Calls of modules with other parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpuprop._core.checks import as_instance
from gpuprop._core.tensor import Tensor
from gpuprop.nn._module import Module, state_tensors


def functional_call(module: Module, parameters: Mapping[str, Any], args: Any = (),
                    kwargs: Mapping[str, Any] | None = None, *, tie_weights: bool = True,
                    strict: bool = False) -> Any:
    """``module(*args, **kwargs)`` with other parameters and buffers, given by their names.

    `args` is a tuple, or the only argument.  A Parameter that has several names is replaced under
    all of them if `tie_weights`.  With `strict`, all must be given.  Gradients flow to the given
    Tensors; the module is not changed.  Two threads must not call one module so.

    >>> from gpuprop import func, nn
    >>> layer = nn.Linear(3, 2)
    >>> new = {"weight": gpuprop.zeros(2, 3), "bias": gpuprop.ones(2)}
    >>> func.functional_call(layer, new, gpuprop.ones(1, 3)).tolist()
    [[1.0, 1.0]]
    """
    what = f"functional_call of {type(module).__name__}"
    given = as_instance(f"{what}: parameters", parameters, Mapping, "a dict")
    own = state_tensors(module)
    unknown = [name for name in given if name not in own]
    missing = [name for name in own if name not in given] if strict else []
    if unknown or missing:
        raise ValueError(f"{what}: unknown names {unknown}, missing names {missing}")
    new = dict(given)
    if tie_weights:
        by_id = {id(own[name]): value for name, value in given.items()}
        new = {**{n: by_id[id(t)] for n, t in own.items() if id(t) in by_id}, **new}
    saved = []
    try:
        for name, value in new.items():
            path, _, attribute = name.rpartition(".")
            attributes = vars(module.get_submodule(path))
            saved.append((attributes, attribute, attributes[attribute]))
            attributes[attribute] = value if isinstance(value, Tensor) else Tensor(value)
        args = args if isinstance(args, tuple) else (args,)
        return module(*args, **(kwargs or {}))
    finally:
        for attributes, attribute, value in reversed(saved):
            attributes[attribute] = value
