"""The layers of `gpuprop.nn` in this dialect: their parameters and buffers are its Tensors.

Each class is made once more as a subclass, since programs ask `isinstance(m, nn.Linear)` and read
`m.weight`.  The forward is the same code: ops keep the dialect of their arguments.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, ItemsView, Iterable, Iterator, MutableMapping
from typing import Any

import gpuprop.nn as nn
from gpuprop._core.tensor import Tensor as Plain
from gpuprop.nn._module import child_modules, named_tensors, walk
from gpuprop.nn._state import is_buffer, is_parameter, saved
from gpuprop.torch._constructors import ConstructorSignature
from gpuprop.torch._methods import TYPES
from gpuprop.torch._tensor import RemovableHandle, as_gradient, as_torch
from gpuprop.torch._tensor import device as device_named
from gpuprop.torch.nn import functional
from gpuprop.torch.nn._reduction import with_legacy_reduction

classes: dict[type, type] = {}  # class of gpuprop.nn -> class of this dialect


def adopt(module: Any) -> None:
    """Turn a module, and all inside, into this dialect; the objects stay the same."""
    for m in module.modules():
        if type(m) in classes:
            m.__class__ = classes[type(m)]
        for value in vars(m).values():
            if isinstance(value, Plain):
                as_torch(value)


class _Adopting(type):
    """Modules are adopted when their constructor is done."""

    __signature__ = ConstructorSignature()

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        module = super().__call__(*args, **kwargs)
        adopt(module)
        return module


class _Entries(MutableMapping):
    """The modules, parameters or buffers of one module by name, through which they are replaced."""

    def __init__(self, module: Any, find: Callable[[Any], Iterable[tuple[str, Any]]]) -> None:
        self._module, self._find = module, find

    def items(self) -> ItemsView:
        return dict(self._find(self._module)).items()

    def __getitem__(self, name: str) -> Any:
        return dict(self.items())[name]

    def __setitem__(self, name: str, value: Any) -> None:
        setattr(self._module, name, value)

    def __delitem__(self, name: str) -> None:
        if name not in self:
            raise KeyError(name)
        delattr(self._module, name)

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self.items()))

    def __len__(self) -> int:
        return len(self.items())

    def __repr__(self) -> str:
        return repr(dict(self.items()))


class Module(nn.Module, metaclass=_Adopting):
    """Base class of all layers and models of this dialect."""

    # PyTorch's dicts, which programs read and write to replace layers
    _modules = property(lambda self: _Entries(self, child_modules))
    _parameters = property(lambda self: _Entries(self, functools.partial(
        named_tensors, predicate=is_parameter, recurse=False)))
    _buffers = property(lambda self: _Entries(self, functools.partial(
        named_tensors, predicate=is_buffer, recurse=False)))

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, nn.Module) and not isinstance(value, Module):
            adopt(value)
        if isinstance(value, list | tuple) and any(isinstance(v, nn.Module) for v in value):
            object.__setattr__(self, name, value)  # programs register the items by `add_module`
        else:
            super().__setattr__(name, as_torch(value) if isinstance(value, Plain) else value)

    def to(self, *args: Any, device: Any = None, dtype: Any = None, non_blocking: bool = False,
           memory_format: Any = None) -> Any:
        """Move to a device, cast to a floating dtype, or both; in place."""
        args = tuple(a for a in args if a is not None and not isinstance(a, bool))
        return super().to(*args, device=device, dtype=dtype)

    def cuda(self, device: Any = None) -> Any:
        return self.to("cuda" if device is None else device_named(device))

    def bfloat16(self) -> Any:
        return self.to(dtype="bfloat16")

    def share_memory(self) -> Any:
        for value in self.state_dict().values():
            value.share_memory_()
        return self

    def type(self, dst_type: Any) -> Any:
        found = TYPES.get(str(dst_type))
        return self.to(dst_type) if found is None else self.to(found.device, found.dtype)

    def state_dict(self, destination: Any = None, prefix: str = "",
                   keep_vars: bool = False) -> dict[str, Any]:
        """All parameters and persistent buffers, as Tensors in their memory.

        With `keep_vars` they are the parameters themselves.  The entries are added to
        `destination`, under names with `prefix`.
        """
        convert = (lambda t: t) if keep_vars else (lambda t: t.detach())
        return saved(walk(self), convert, destination, prefix, keep_vars)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for p in self.parameters():
            if set_to_none:
                p.gradient = None
            elif p.grad is not None:
                p.grad.zero_()

    def register_forward_pre_hook(self, hook: Any, **options: Any) -> Any:
        return RemovableHandle(super().register_forward_pre_hook(hook, **options))

    def register_forward_hook(self, hook: Any, **options: Any) -> Any:
        return RemovableHandle(super().register_forward_hook(hook, **options))

    def register_state_dict_pre_hook(self, hook: Any) -> Any:
        return RemovableHandle(super().register_state_dict_pre_hook(hook))

    def register_state_dict_post_hook(self, hook: Any) -> Any:
        return RemovableHandle(super().register_state_dict_post_hook(hook))

    def _register_state_dict_hook(self, hook: Any) -> Any:
        return self.register_state_dict_post_hook(functools.partial(_with_result, hook))

    def register_load_state_dict_pre_hook(self, hook: Any) -> Any:
        return RemovableHandle(super().register_load_state_dict_pre_hook(hook))

    def _register_load_state_dict_pre_hook(self, hook: Any, with_module: bool = False) -> Any:
        call = hook if with_module else functools.partial(_without_module, hook)
        return self.register_load_state_dict_pre_hook(call)

    def register_load_state_dict_post_hook(self, hook: Any) -> Any:
        return RemovableHandle(super().register_load_state_dict_post_hook(hook))

    def register_full_backward_pre_hook(self, hook: Any, prepend: bool = False) -> Any:
        call = functools.partial(_with_tensors, hook)
        return RemovableHandle(super().register_full_backward_pre_hook(call, prepend=prepend))

    def register_full_backward_hook(self, hook: Any, prepend: bool = False) -> Any:
        call = functools.partial(_with_tensors, hook)
        return RemovableHandle(super().register_full_backward_hook(call, prepend=prepend))


def _with_tensors(hook: Any, module: Any, *gradients: tuple) -> Any:
    """Call a backward hook with Tensors of this dialect."""
    return hook(module, *(tuple(map(as_gradient, grads)) for grads in gradients))


def _without_module(hook: Any, module: Any, *args: Any) -> None:
    hook(*args)


def _with_result(hook: Any, module: Any, state: dict, prefix: str, metadata: dict) -> None:
    """Call a hook whose result, if there is one, replaces the state dict of a whole model."""
    found = hook(module, state, prefix, metadata)
    if found is not None and found is not state and not prefix:
        entries = dict(found)
        state.clear()
        state.update(entries)


classes[nn.Module] = Module


def takes_reduction(layer: Any) -> bool:
    """True for losses, whose constructors have the option `reduction`."""
    if hasattr(layer, "__signature__"):
        return "reduction" in layer.__signature__.parameters
    return "reduction" in getattr(layer.__init__, "__code__", takes_reduction.__code__).co_varnames


def class_for(layer: type, module: str = "gpuprop.torch.nn") -> type:
    """The class of this dialect for a class of `gpuprop.nn`; pickles look it up in `module`."""
    if layer not in classes:
        body: dict[str, Any] = {"__init__": layer.__init__,  # type: ignore[misc]
                "__module__": module,
                "__doc__": layer.__doc__}
        if takes_reduction(layer):
            body["__init__"] = with_legacy_reduction(layer.__init__)  # type: ignore[misc]
        for name in ("function", "_function"):
            function = getattr(layer, name, None)
            if function is not None:  # with PyTorch's options, such as `inplace`
                body[name] = staticmethod(getattr(functional, function.__name__, function))
        above = next(b for b in layer.__mro__[1:] if b is nn.Module or b.__name__ in nn.__all__)
        classes[layer] = _Adopting(layer.__name__, (class_for(above), layer), body)
    return classes[layer]
