"""`Module`: the base class of layers and models."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, Self

import numpy as np

from gpuprop._array.creation import full
from gpuprop._array.methods import destination
from gpuprop._core.backend import MULTI_DEVICE, NO_SWITCH
from gpuprop._core.checks import as_bool, as_callable, as_instance
from gpuprop._core.dtypes import is_float
from gpuprop._core.instruments import module_call
from gpuprop._core.placement import on_device_of, place
from gpuprop._core.tensor import Parameter, Tensor
from gpuprop.nn._hooks import Hook, forward_with_hooks, register_hook
from gpuprop.nn._locate import locate, wrong_input
from gpuprop.nn._state import LoadResult, entries, is_buffer, is_parameter, prepare, saved


def new_tensor(shape: tuple[int, ...], device: str | None = None, dtype: Any = None,
               value: float = 0.0) -> Tensor:
    """A Tensor filled with `value`, by default float32 on the default backend."""
    return full(shape, value, dtype or "float32", device)


class Convertible:
    """Abstract: conversions to devices and dtypes, all of which call `to`."""

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
    attribute whose value is a Parameter or a Module is registered under its name.  A buffer
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
    # Class attributes, the last three until an instance registers its first buffer or hook.  An
    # attribute of a subclass must not replace them by accident: these private names are unusual,
    # and the helpers of this class are functions of the module.
    _state_minima: ClassVar[Mapping[str, float]] = {}  # of the numbers in a loaded entry, by name
    _state_optional: ClassVar[frozenset[str]] = frozenset()  # entries that a state dict may lack
    _buffer_persistence: dict[str, bool] = {}  # name -> whether it is part of `state_dict`
    _hook_lists: dict[str, list[Hook]] = {}  # see `_hooks.Hooks`
    _state_hook_lists: dict[str, list[Hook]] = {}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the output.  Every subclass defines this; callers use ``module(...)``."""
        name = type(self).__name__
        raise NotImplementedError(f"{name} has no forward: define forward(self, ...)")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if MULTI_DEVICE:
            here = on_device_of((*args, *kwargs.values()))
            if here is not NO_SWITCH:
                with here:
                    return self(*args, **kwargs)
        try:
            if (call := module_call()) is not None:
                return call(self, args, kwargs, _forward)
            if self._hook_lists:
                return forward_with_hooks(self, args, kwargs)
            return self.forward(*args, **kwargs)
        except Exception as error:
            clearer = wrong_input(error, self, args, kwargs)
            if clearer is not None:
                locate(clearer, self, args)
                raise clearer from error
            locate(error, self, args)
            raise

    # ---- parameters, buffers and submodules

    def __setattr__(self, name: str, value: Any) -> None:
        plain_tensor = isinstance(value, Tensor) and not isinstance(value, Parameter)
        if plain_tensor and isinstance(vars(self).get(name), Parameter):
            raise TypeError(
                f"cannot assign a Tensor to {type(self).__name__}.{name}, which is a Parameter: "
                f"write {name}.data[...] = values, or assign a Parameter")
        if name in self._buffer_persistence:
            check_buffer(self, name, value)
        is_public_list = isinstance(value, list | tuple) and name[0] != "_"
        if is_public_list and any(isinstance(v, Module) for v in value):
            warnings.warn(
                f"{type(self).__name__}.{name} holds modules in a {type(value).__name__}, so "
                f"their parameters are not registered: use nn.ModuleList", stacklevel=2)
        super().__setattr__(name, value)

    def register_parameter(self, name: str, parameter: Parameter | None) -> None:
        """Same as ``self.name = parameter``; None if the layer has no such parameter."""
        check_entry(self, "register_parameter", name, parameter, Parameter)
        setattr(self, name, parameter)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Register a Tensor that `to` moves with the module, but no optimizer trains.

        If `persistent`, it is part of `state_dict`.
        """
        check_entry(self, "register_buffer", name, tensor, Tensor)
        persistent = as_bool(f"{type(self).__name__}.register_buffer: persistent", persistent)
        self._buffer_persistence = {**self._buffer_persistence, name: persistent}
        setattr(self, name, tensor)

    def add_module(self, name: str, module: Module | None) -> None:
        """Same as ``self.name = module``."""
        check_entry(self, "add_module", name, module, Module)
        setattr(self, name, module)

    register_module = add_module

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The direct submodules with their names, each once."""
        return _unique(child_modules(self))

    def children(self) -> Iterator[Module]:
        """The direct submodules, each once."""
        return (module for _, module in self.named_children())

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module and all submodules with their dotted names, each once."""
        return walk(self, prefix, once=True)

    def modules(self) -> Iterator[Module]:
        """This module and all submodules, each once."""
        return (module for _, module in self.named_modules())

    def named_parameters(self, prefix: str = "",
                         recurse: bool = True) -> Iterator[tuple[str, Parameter]]:
        """All parameters with dotted names; a shared one only once, under its first name."""
        return _unique(named_tensors(self, is_parameter, prefix, recurse))

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """All parameters, each once; only those of this module itself if not `recurse`."""
        return (p for _, p in self.named_parameters("", recurse))

    def named_buffers(self, prefix: str = "",
                      recurse: bool = True) -> Iterator[tuple[str, Tensor]]:
        """All buffers with dotted names, each once."""
        return _unique(named_tensors(self, is_buffer, prefix, recurse))

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """All buffers, each once; only those of this module itself if not `recurse`."""
        return (b for _, b in self.named_buffers("", recurse))

    def get_submodule(self, target: str) -> Module:
        """The submodule with the dotted name `target`; "" is this module."""
        found: Any = self
        for name in filter(None, target.split(".")):
            found = vars(found).get(name)
            if not isinstance(found, Module):
                raise AttributeError(
                    f"{type(self).__name__} has no module {target!r}: {name!r} is not a module")
        return found

    # ---- state

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all parameters and persistent buffers as NumPy arrays, with PyTorch's names.

        >>> from gpuprop import nn
        >>> {name: a.shape for name, a in nn.Linear(3, 2).state_dict().items()}
        {'weight': (2, 3), 'bias': (2,)}
        """
        return saved(walk(self), Tensor.numpy)

    def load_state_dict(self, state_dict: dict[str, Any], strict: bool = True) -> LoadResult:
        """Copy values into the parameters and buffers, in place.

        Values are arrays, Tensors of gpuprop or PyTorch, or anything that NumPy can convert.

        If entries are missing, unexpected, of a wrong shape or no real numbers, a ValueError lists
        all of them, and nothing is written.  With ``strict=False``, missing and unexpected names
        are returned instead.
        """
        write, result = prepare_load(self, state_dict, strict, may_lack_optional=True)
        write()
        return result

    def to(self, *args: Any, device: str | None = None, dtype: Any = None) -> Self:
        """Move to a device or backend, cast to a floating dtype, or both; in place.

        Positional arguments, in any order: a device ("cpu", "cuda:1", "numpy"), a dtype, or a
        Tensor whose device and dtype are used.  Integer buffers keep their dtype.  An existing
        optimizer adapts at its next step.  Returns the module.
        """
        device, dtype = destination(args, device, dtype)
        if dtype is not None and not is_float(dtype):
            raise TypeError(f"Module.to: expected a floating dtype, got {dtype}")
        parameters = named_tensors(self, is_parameter)
        buffers = named_tensors(self, is_buffer)
        for _, tensor in _unique(itertools.chain(parameters, buffers)):
            new_dtype = dtype if is_float(tensor.dtype) else None
            tensor.array = place(tensor.array, device, new_dtype)
            if tensor.gradient is not None:
                tensor.gradient = place(tensor.gradient, device, new_dtype)
            if isinstance(tensor, Parameter):
                tensor.grad_buffer = None
        return self

    # ---- training

    def train(self, mode: bool = True) -> Self:
        """Set training mode, or eval mode if not `mode`, for this module and all submodules.

        The mode affects dropout, batch normalization and similar layers.  A submodule whose class
        overrides `train` is asked, so that it may keep its mode.
        """
        mode = as_bool(f"{type(self).__name__}.train: mode", mode)
        seen = {id(self)}
        waiting: list[Module] = [self]
        while waiting:
            module = waiting.pop()
            if module is not self and type(module).train is not Module.train:
                type(module).train(module, mode)
                continue
            module.training = mode
            for _, child in child_modules(module):
                if id(child) not in seen:
                    seen.add(id(child))
                    waiting.append(child)
        return self

    def eval(self) -> Self:
        """Set eval mode for this module and all submodules."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Set `requires_grad` of all parameters; False freezes them."""
        what = f"{type(self).__name__}.requires_grad_: requires_grad"
        requires_grad = as_bool(what, requires_grad)
        for p in self.parameters():
            p.requires_grad_(requires_grad)
        return self

    def zero_grad(self) -> None:
        """Set the gradient of every parameter to None."""
        for p in self.parameters():
            p.gradient = None

    def apply(self, fn: Callable[[Module], Any]) -> Self:
        """Call `fn` on every submodule, children before parents, and on this module last."""
        as_callable(f"{type(self).__name__}: the function to apply", fn)
        for _, child in _unique(child_modules(self)):
            child.apply(fn)
        fn(self)
        return self

    # ---- hooks

    def register_forward_pre_hook(self, hook: Callable, *, prepend: bool = False,
                                  with_kwargs: bool = False) -> Callable[[], None]:
        """Call ``hook(module, args)`` before forward.

        A result other than None replaces the positional arguments.  With `with_kwargs`, the call is
        ``hook(module, args, kwargs)``, and its result None or ``(args, kwargs)``.  With `prepend`,
        the hook is called before those that are already registered.  Returns a function that
        removes the hook.
        """
        return register_hook(self, "before", hook, prepend, with_kwargs)

    def register_forward_hook(self, hook: Callable, *, prepend: bool = False,
                              with_kwargs: bool = False,
                              always_call: bool = False) -> Callable[[], None]:
        """Call ``hook(module, args, output)`` after forward.

        A result other than None replaces the output.  With `with_kwargs`, the call is
        ``hook(module, args, kwargs, output)``.  With `always_call`, the hook is also called if
        forward or another hook raises.  For `prepend` see `register_forward_pre_hook`.  Returns a
        function that removes the hook.
        """
        return register_hook(self, "after", hook, prepend, with_kwargs, always_call)

    def register_full_backward_pre_hook(self, hook: Callable, *,
                                        prepend: bool = False) -> Callable[[], None]:
        """Call ``hook(module, grad_output)`` when the gradients of all outputs are complete.

        `grad_output` is a tuple with an array for each output, None for one without gradient.  A
        result other than None replaces it.  Returns a function that removes the hook.
        """
        return register_hook(self, "backward_before", hook, prepend)

    def register_full_backward_hook(self, hook: Callable, *,
                                    prepend: bool = False) -> Callable[[], None]:
        """Call ``hook(module, grad_input, grad_output)`` when the inputs' gradients are complete.

        `grad_input` is a tuple with an array for each positional argument, None for one without
        gradient; `grad_output` has one for each output.  A result other than None replaces
        `grad_input`.  The hook must not write into the arrays.  Returns a function that removes it.
        """
        return register_hook(self, "backward", hook, prepend)

    def register_state_dict_pre_hook(self, hook: Callable) -> Callable[[], None]:
        """Call ``hook(module, prefix, keep_vars)`` before `state_dict` reads this module.

        `prefix` precedes the names of the module's entries; `keep_vars` is False.  Returns a
        function that removes the hook.
        """
        return register_hook(self, "saving", hook)

    def register_state_dict_post_hook(self, hook: Callable) -> Callable[[], None]:
        """Call ``hook(module, state_dict, prefix, local_metadata)`` after `state_dict` read this
        module and its submodules.

        The hook changes `state_dict`, whose entries of this module have names with `prefix`, in
        place.  `local_metadata` is an empty dict.  Returns a function that removes the hook.
        """
        return register_hook(self, "saved", hook)

    def register_load_state_dict_pre_hook(self, hook: Callable) -> Callable[[], None]:
        """Call ``hook(module, state_dict, prefix, local_metadata, strict, missing_keys,
        unexpected_keys, error_msgs)`` before `load_state_dict` reads the entries of this module.

        The hook changes its own copy of the entries whose names have `prefix`, for example to give
        them new names, and may add texts to the lists.  Returns a function that removes the hook.
        """
        return register_hook(self, "loading", hook)

    def register_load_state_dict_post_hook(self, hook: Callable) -> Callable[[], None]:
        """Call ``hook(module, incompatible_keys)`` after `load_state_dict` wrote the values.

        The hook may change the lists `missing_keys` and `unexpected_keys` of its second argument.
        If it raises, or names are left that `strict` refuses, the model gets its old values back.
        Returns a function that removes the hook.
        """
        return register_hook(self, "loaded", hook)

    # ---- text

    def extra_repr(self) -> str:
        """The text between the parentheses of this module's line in `repr`."""
        return ""

    def __repr__(self) -> str:
        name = type(self).__name__
        own = self.extra_repr()
        children = [f"({child}): {module!r}" for child, module in child_modules(self)]
        if not children:
            return f"{name}({own})"
        lines = "\n".join(([own] if own else []) + children).replace("\n", "\n  ")
        return f"{name}(\n  {lines}\n)"


# ---- the implementation of Module ----------------------------------------------------------------


def child_modules(module: Module) -> Iterator[tuple[str, Module]]:
    """The direct submodules with their names; a shared one once for each of its names."""
    return ((name, value) for name, value in vars(module).items() if isinstance(value, Module))


def initialize(module: Any, rng: Any) -> None:
    """Call `reset_parameters`, which a subclass may define without `rng`, as in PyTorch."""
    if rng is None:
        module.reset_parameters()
    else:
        module.reset_parameters(rng)


def walk(module: Module, prefix: str = "", once: bool = False) -> Iterator[tuple[str, Module]]:
    """The module and all submodules with dotted names, each before its own submodules.

    A shared one comes once for each of its names, or only `once`.  A module inside itself is
    skipped.
    """
    yield prefix, module
    entered = {id(module)}  # those around the current one; with `once`, all so far
    levels = [(prefix, module, child_modules(module))]
    while levels:
        path, owner, children = levels[-1]
        name, child = next(children, ("", None))
        if child is None:
            levels.pop()
            if not once:
                entered.remove(id(owner))
        elif id(child) not in entered:
            entered.add(id(child))
            path = f"{path}.{name}".lstrip(".")
            yield path, child
            levels.append((path, child, child_modules(child)))


def named_tensors(module: Module, predicate: Callable, prefix: str = "",
                  recurse: bool = True) -> Iterator[tuple[str, Any]]:
    """The attributes with ``predicate(module, name, value)``, with dotted names.

    Those of a shared module come once, under its first name.
    """
    as_instance(f"{type(module).__name__}: prefix", prefix, str, "a string")
    recurse = as_bool(f"{type(module).__name__}: recurse", recurse)
    owners = walk(module, prefix, once=True) if recurse else [(prefix, module)]
    return ((f"{path}.{name}".lstrip("."), value) for path, owner in owners
            for name, value in vars(owner).items() if predicate(owner, name, value))


def state_tensors(module: Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers, shared ones under each of their names."""
    return entries(walk(module))


def prepare_load(module: Module, state_dict: Mapping[str, Any], strict: bool = True,
                 may_lack_optional: bool = False) -> tuple[Callable[[], None], LoadResult]:
    """Check and convert a whole state dict, and return a function that writes it.

    See `_state.prepare`.
    """
    return prepare(type(module).__name__, walk(module), state_dict, strict, may_lack_optional)


def check_name(module: Module, name: Any) -> None:
    """Raise unless a parameter, buffer or submodule can have this name."""
    owner = type(module)
    as_instance(f"{owner.__name__}: the name of an entry", name, str, "a string")
    if not name or "." in name or hasattr(owner, name):
        raise KeyError(f"{owner.__name__}: an entry cannot have the name {name!r}, which is empty, "
                       f"an attribute of the class or contains a dot")


def check_entry(module: Module, method: str, name: Any, value: Any, kind: type) -> None:
    """Raise unless `value` is a `kind` or None, and can be registered under this name."""
    check_name(module, name)
    if value is not None:
        what = f"{type(module).__name__}.{method}: {name}"
        as_instance(what, value, kind, f"a {kind.__name__} or None")


def check_buffer(module: Module, name: str, value: Any) -> None:
    """Raise TypeError unless `value` is a Tensor or None, as a buffer must be."""
    if value is not None and not isinstance(value, Tensor):
        raise TypeError(
            f"cannot assign a {type(value).__name__} to {type(module).__name__}.{name}, which is a "
            f"buffer: assign a Tensor, for example gpuprop.tensor(...), or None")


def call_method(module: Module, method: Callable, args: tuple) -> Any:
    """Call ``method(*args)`` in place of a module's forward.

    As in a call of the module, instruments observe it, it runs on the device of its arguments, and
    an error has a note with the layer.
    """
    try:
        with on_device_of(args):
            call = module_call()
            if call is None:
                return method(*args)
            return call(module, args, {}, lambda module, args, kwargs: method(*args, **kwargs))
    except Exception as error:
        locate(error, module, args)
        raise


def _forward(module: Module, args: tuple, kwargs: dict) -> Any:
    """Call a module as `__call__` does without `instruments.around_modules`, which wraps this."""
    if module._hook_lists:
        return forward_with_hooks(module, args, kwargs)
    return module.forward(*args, **kwargs)


def _unique(pairs: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """The (name, value) pairs whose value did not occur before."""
    seen: set[int] = set()
    for name, value in pairs:
        if id(value) not in seen:
            seen.add(id(value))
            yield name, value
