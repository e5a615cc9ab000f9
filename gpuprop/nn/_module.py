"""`Module`: the base class of layers and models."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Self

import numpy as np

from gpuprop._array.creation import full
from gpuprop._array.methods import destination
from gpuprop._core.backend import AS_IT_IS, SEVERAL
from gpuprop._core.dtypes import is_float
from gpuprop._core.instruments import module_call
from gpuprop._core.placement import on_device_of, place, write
from gpuprop._core.tensor import Parameter, Tensor, asnumpy
from gpuprop.nn._locate import locate


def new_tensor(shape: tuple[int, ...], device: str | None = None, dtype: Any = None,
               value: float = 0.0) -> Tensor:
    """A Tensor filled with `value`, by default float32 on the default backend."""
    return full(shape, value, dtype or "float32", device)


class LoadResult(NamedTuple):
    """The names that `load_state_dict` did not match; both lists are empty if `strict`."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Convertible:
    """Abstract: device and dtype conversions, each defined by `to`."""

    def to(self, *args: Any, device: str | None = None, dtype: Any = None) -> Self:
        raise NotImplementedError

    def cpu(self) -> Self:
        """Move to NumPy: ``to("cpu")``."""
        return self.to("cpu")

    def cuda(self, device: int = 0) -> Self:
        """Move to a GPU: ``to("cuda:0")``."""
        return self.to(f"cuda:{device}")

    def float(self) -> Self:
        """Cast to float32."""
        return self.to(dtype="float32")

    def double(self) -> Self:
        """Cast to float64."""
        return self.to(dtype="float64")

    def half(self) -> Self:
        """Cast to float16."""
        return self.to(dtype="float16")


class Module(Convertible):
    """Base class of all layers and models.

    A subclass creates parameters and submodules in ``__init__`` and defines ``forward``.  An
    attribute that is a Parameter or a Module is registered under the attribute's name.  A buffer
    (`register_buffer`) is a Tensor that is saved with the model but not trained.

    Unlike in PyTorch, calling ``super().__init__()`` is optional.

    >>> from gpuprop import nn
    >>> class MLP(nn.Module):
    ...     def __init__(self):
    ...         self.hidden = nn.Linear(4, 8)
    ...         self.output = nn.Linear(8, 2)
    ...
    ...     def forward(self, x):
    ...         return self.output(gpuprop.relu(self.hidden(x)))
    >>> model = MLP()
    >>> model(gpuprop.ones(3, 4)).shape
    (3, 2)
    >>> [name for name, _ in model.named_parameters()]
    ['hidden.weight', 'hidden.bias', 'output.weight', 'output.bias']
    """

    training = True
    # Class attributes until an instance registers its first buffer or hook.
    _buffers: dict[str, bool] = {}  # name -> persistent
    _hooks: dict[str, list[Callable]] = {}  # "before" and "after" -> hooks

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the output; every subclass defines this, and callers use ``module(...)``."""
        name = type(self).__name__
        raise NotImplementedError(f"{name} has no forward: define forward(self, ...)")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if SEVERAL:
            here = on_device_of((*args, *kwargs.values()))
            if here is not AS_IT_IS:
                with here:
                    return self(*args, **kwargs)
        try:
            if (call := module_call()) is not None:
                return call(self, args, kwargs, _forward)
            if self._hooks:
                return self._forward_with_hooks(args, kwargs)
            return self.forward(*args, **kwargs)
        except Exception as error:
            locate(error, self, args)
            raise

    # ---- parameters, buffers and submodules

    def __setattr__(self, name: str, value: Any) -> None:
        plain_tensor = isinstance(value, Tensor) and not isinstance(value, Parameter)
        if plain_tensor and isinstance(vars(self).get(name), Parameter):
            raise TypeError(
                f"cannot assign a Tensor to {type(self).__name__}.{name}, which is a Parameter: "
                f"write {name}.data[...] = values, or assign a Parameter")
        is_public_list = isinstance(value, list | tuple) and name[0] != "_"
        if is_public_list and any(isinstance(v, Module) for v in value):
            warnings.warn(
                f"{type(self).__name__}.{name} holds modules in a {type(value).__name__}, so "
                f"their parameters are not registered: use nn.ModuleList", stacklevel=2)
        super().__setattr__(name, value)

    def register_parameter(self, name: str, parameter: Parameter | None) -> None:
        """``self.name = parameter``; None declares a parameter that this layer does not use."""
        setattr(self, name, parameter)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Register a Tensor that moves with the module and is not trained.

        A persistent buffer is part of `state_dict`.
        """
        self._buffers = {**self._buffers, name: persistent}
        setattr(self, name, tensor)

    def add_module(self, name: str, module: Module | None) -> None:
        """``self.name = module``."""
        setattr(self, name, module)

    register_module = add_module

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The direct submodules with their names, each once."""
        seen: set[int] = set()
        for name, value in vars(self).items():
            if isinstance(value, Module) and id(value) not in seen:
                seen.add(id(value))
                yield name, value

    def children(self) -> Iterator[Module]:
        """The direct submodules, each once."""
        return (module for _, module in self.named_children())

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module and all submodules with their dotted names, each once."""
        return _unique(self._walk(prefix))

    def modules(self) -> Iterator[Module]:
        """This module and all submodules, each once."""
        return (module for _, module in self.named_modules())

    def _walk(self, prefix: str) -> Iterator[tuple[str, Module]]:
        """This module and all submodules under every name they have."""
        yield prefix, self
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield from value._walk(f"{prefix}.{name}".lstrip("."))

    def named_parameters(self, prefix: str = "",
                         recurse: bool = True) -> Iterator[tuple[str, Parameter]]:
        """All parameters with dotted names; a shared parameter once, under its first name."""
        is_parameter = lambda module, name, value: isinstance(value, Parameter)
        return _unique(self._tensors(prefix, recurse, is_parameter))

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """All parameters, each once; without `recurse` only this module's own."""
        return (p for _, p in self.named_parameters("", recurse))

    def named_buffers(self, prefix: str = "",
                      recurse: bool = True) -> Iterator[tuple[str, Tensor]]:
        """All buffers with dotted names, each once."""
        is_buffer = lambda module, name, value: name in module._buffers and value is not None
        return _unique(self._tensors(prefix, recurse, is_buffer))

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """All buffers, each once; without `recurse` only this module's own."""
        return (b for _, b in self.named_buffers("", recurse))

    def _tensors(self, prefix: str, recurse: bool,
                 wanted: Callable) -> Iterator[tuple[str, Any]]:
        for path, module in self._walk(prefix) if recurse else [(prefix, self)]:
            for name, value in vars(module).items():
                if wanted(module, name, value):
                    yield f"{path}.{name}".lstrip("."), value

    def get_submodule(self, target: str) -> Module:
        """The submodule with a dotted name; "" is this module."""
        found: Any = self
        for name in filter(None, target.split(".")):
            found = vars(found).get(name)
            if not isinstance(found, Module):
                raise AttributeError(
                    f"{type(self).__name__} has no module {target!r}: {name!r} is not a module")
        return found

    # ---- state

    def _state(self) -> dict[str, Tensor]:
        """Parameters and persistent buffers, shared ones under each of their names."""
        found: dict[str, Tensor] = {}
        for path, module in self._walk(""):
            attributes = vars(module)
            own = {name: v for name, v in attributes.items() if isinstance(v, Parameter)}
            own |= {name: attributes[name] for name, saved in module._buffers.items() if saved}
            for name, value in own.items():
                if value is not None:
                    found[f"{path}.{name}".lstrip(".")] = value
        return found

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all parameters and persistent buffers as NumPy arrays, with PyTorch's names.

        >>> from gpuprop import nn
        >>> {name: a.shape for name, a in nn.Linear(3, 2).state_dict().items()}
        {'weight': (2, 3), 'bias': (2,)}
        """
        return {name: value.numpy() for name, value in self._state().items()}

    def load_state_dict(self, state_dict: dict[str, Any], strict: bool = True) -> LoadResult:
        """Copy values into the parameters and buffers, in place.

        Values are arrays, Tensors of gpuprop or PyTorch, or anything that NumPy converts.

        Raises ValueError, before anything is written, that lists every missing, unexpected and
        wrongly shaped entry.  With ``strict=False`` missing and unexpected names are returned.
        """
        own = self._state()
        given = {name: _on_host(value) for name, value in state_dict.items()}
        missing = [name for name in own if name not in given]
        unexpected = [name for name in given if name not in own]
        problems = [
            f"{name} has shape {given[name].shape} in state_dict and {tensor.shape} in the model"
            for name, tensor in own.items() if name in given and given[name].shape != tensor.shape]
        if strict and missing:
            problems.append(f"missing: {', '.join(missing)}")
        if strict and unexpected:
            problems.append(f"unexpected: {', '.join(unexpected)}")
        if problems:
            raise ValueError(f"state_dict does not match {type(self).__name__}, nothing was "
                             f"loaded: {'; '.join(problems)}")
        for name, tensor in own.items():
            if name in given:
                write(tensor.data, given[name])
                if isinstance(tensor, Parameter):
                    tensor.touch()
        return LoadResult(missing, unexpected)

    def to(self, *args: Any, device: str | None = None, dtype: Any = None) -> Self:
        """Move to a device or backend, cast to a floating dtype, or both; in place.

        Positional arguments, in any order: a device ("cpu", "cuda:1", "numpy"), a dtype, or a
        Tensor whose device and dtype are used.  Integer buffers keep their dtype.  An optimizer
        that was created earlier follows at its next step.  Returns the module.
        """
        device, dtype = destination(args, device, dtype)
        if dtype is not None and not is_float(dtype):
            raise TypeError(f"Module.to: expected a floating dtype, got {dtype}")
        for tensor in (*self.parameters(), *self.buffers()):
            new_dtype = dtype if is_float(tensor.dtype) else None
            tensor.data = place(tensor.data, device, new_dtype)
            if tensor.grad is not None:
                tensor.grad = place(tensor.grad, device, new_dtype)
            if isinstance(tensor, Parameter):
                tensor.grad_buffer = None
        return self

    # ---- training

    def train(self, mode: bool = True) -> Self:
        """Set training mode, or eval mode with False, here and in all submodules.

        The mode matters to dropout, batch normalization and similar layers.
        """
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Set eval mode, here and in all submodules."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Set `requires_grad` of all parameters; False freezes them."""
        for p in self.parameters():
            p.requires_grad_(requires_grad)
        return self

    def zero_grad(self) -> None:
        """Set the gradient of every parameter to None."""
        for p in self.parameters():
            p.grad = None

    def apply(self, fn: Callable[[Module], Any]) -> Self:
        """Call `fn` on every submodule, children first, then on this module."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    # ---- hooks

    def register_forward_pre_hook(self, hook: Callable) -> Callable[[], None]:
        """Call ``hook(module, args)`` before forward.

        A result other than None replaces the positional arguments.  Returns a function that
        removes the hook.
        """
        return self._register("before", hook)

    def register_forward_hook(self, hook: Callable) -> Callable[[], None]:
        """Call ``hook(module, args, output)`` after forward.

        A result other than None replaces the output.  Returns a function that removes the hook.
        """
        return self._register("after", hook)

    def _register(self, when: str, hook: Callable) -> Callable[[], None]:
        if not self._hooks:
            self._hooks = ForwardHooks(before=[], after=[])
        hooks = self._hooks[when]
        hooks.append(hook)
        return lambda: hooks.remove(hook) if hook in hooks else None

    def _forward_with_hooks(self, args: tuple, kwargs: dict) -> Any:
        for hook in tuple(self._hooks["before"]):
            changed = hook(self, args)
            if changed is not None:
                args = changed if isinstance(changed, tuple) else (changed,)
        output = self.forward(*args, **kwargs)
        for hook in tuple(self._hooks["after"]):
            changed = hook(self, args, output)
            output = output if changed is None else changed
        return output

    # ---- text

    def extra_repr(self) -> str:
        """The text between the parentheses of this module's line in `repr`."""
        return ""

    def __repr__(self) -> str:
        name, own = type(self).__name__, self.extra_repr()
        children = [f"({child}): {module!r}"
                    for child, module in vars(self).items() if isinstance(module, Module)]
        if not children:
            return f"{name}({own})"
        lines = "\n".join(([own] if own else []) + children).replace("\n", "\n  ")
        return f"{name}(\n  {lines}\n)"


class ForwardHooks(dict[str, list[Callable]]):
    """The hooks of a module; copies keep them, and pickling raises for local functions."""

    def __deepcopy__(self, memo: dict) -> ForwardHooks:
        return ForwardHooks(copy.deepcopy(dict(self), memo))

    def __reduce__(self) -> tuple:
        for hook in itertools.chain(*self.values()):
            name = getattr(hook, "__qualname__", "")
            if "<" in name:  # <lambda> or <locals>
                raise TypeError(
                    f"a module with the hook {name} cannot be pickled: remove the hook first, by "
                    f"calling the function that registering it returned, or define the hook at "
                    f"the top level of a Python module")
        return ForwardHooks, (dict(self),)


def _forward(module: Module, args: tuple, kwargs: dict) -> Any:
    """The call that `instruments.around_modules` wraps."""
    if module._hooks:
        return module._forward_with_hooks(args, kwargs)
    return module.forward(*args, **kwargs)


def _unique(pairs: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """The first pair of each value."""
    seen: set[int] = set()
    for name, value in pairs:
        if id(value) not in seen:
            seen.add(id(value))
            yield name, value


def _on_host(value: Any) -> np.ndarray:
    """A NumPy array of an array, a Tensor of gpuprop or PyTorch, or a number."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    return asnumpy(value) if hasattr(value, "shape") else np.asarray(value)
