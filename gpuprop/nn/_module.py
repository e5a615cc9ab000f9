"""What a layer is: attributes that are Parameters, buffers and Modules, and a `forward`."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Self

import numpy as np

from gpuprop._array.methods import destination
from gpuprop._core.backend import AS_IT_IS, SEVERAL
from gpuprop._core.dtypes import is_float
from gpuprop._core.instruments import module_call
from gpuprop._core.placement import on_device_of, place, write
from gpuprop._core.tensor import Parameter, Tensor, asnumpy
from gpuprop.nn._locate import locate


class LoadResult(NamedTuple):
    """What `load_state_dict(strict=False)` did not match."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Movable:
    """Abstract: what `to` does, in other words."""

    def to(self, *where: Any, device: str | None = None, dtype: Any = None) -> Self:
        raise NotImplementedError

    def cpu(self) -> Self:
        return self.to("cpu")

    def cuda(self, device: int = 0) -> Self:
        return self.to(f"cuda:{device}")

    def float(self) -> Self:
        return self.to(dtype="float32")

    def double(self) -> Self:
        return self.to(dtype="float64")

    def half(self) -> Self:
        return self.to(dtype="float16")


class Module(Movable):
    """Base of all layers and models: an attribute that is a Parameter or Module belongs to the model, under its name.

    Write ``__init__``, which makes them, and ``forward``, which computes; a buffer is a Tensor saved but not trained.
    """

    training = True
    _buffers: dict[str, bool] = {}  # name -> saved?  An instance's own replaces it when there is one
    _hooks: dict[str, list[Callable]] = {}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no forward: define forward(self, ...)")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if SEVERAL:
            here = on_device_of((*args, *kwargs.values()))
            if here is not AS_IT_IS:
                with here:
                    return self(*args, **kwargs)
        try:
            if (call := module_call()) is not None:
                return call(self, args, kwargs, _run)
            return self._hooked(args, kwargs) if self._hooks else self.forward(*args, **kwargs)
        except Exception as error:
            locate(error, self, args)
            raise

    # ---- what it is made of

    def __setattr__(self, name: str, value: Any) -> None:
        plain = isinstance(value, Tensor) and not isinstance(value, Parameter)
        if plain and isinstance(vars(self).get(name), Parameter):
            raise TypeError(f"{type(self).__name__}.{name} is a Parameter, and would no longer be trained as a Tensor: "
                            f"write {name}.data[...] = values, or assign a Parameter")
        if isinstance(value, list | tuple) and name[0] != "_" and any(isinstance(v, Module) for v in value):
            warnings.warn(f"{type(self).__name__}.{name} holds modules in a {type(value).__name__}, where their "
                          f"parameters are not found: use nn.ModuleList", stacklevel=2)
        super().__setattr__(name, value)

    def register_parameter(self, name: str, parameter: Parameter | None) -> None:
        """``self.name = parameter``; None keeps the name for a parameter this layer goes without."""
        setattr(self, name, parameter)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Keep a Tensor that is state but not trained: it moves with the module, and is saved if persistent."""
        self._buffers = {**self._buffers, name: persistent}
        setattr(self, name, tensor)

    def add_module(self, name: str, module: Module | None) -> None:
        """``self.name = module``."""
        setattr(self, name, module)

    register_module = add_module

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules directly inside, each once."""
        seen: set[int] = set()
        for name, value in vars(self).items():
            if isinstance(value, Module) and id(value) not in seen:
                seen.add(id(value))
                yield name, value

    def children(self) -> Iterator[Module]:
        return (module for _, module in self.named_children())

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module and all inside, each once, with dotted names."""
        seen: set[int] = set()
        for name, module in self._walk(prefix):
            if id(module) not in seen:
                seen.add(id(module))
                yield name, module

    def modules(self) -> Iterator[Module]:
        return (module for _, module in self.named_modules())

    def _walk(self, prefix: str) -> Iterator[tuple[str, Module]]:
        yield prefix, self
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield from value._walk(f"{prefix}.{name}".lstrip("."))

    def named_parameters(self, prefix: str = "", recurse: bool = True) -> Iterator[tuple[str, Parameter]]:
        """Every parameter once, under its first name: a tied one is one."""
        return _once(self._tensors(prefix, recurse, lambda module, name, value: isinstance(value, Parameter)))

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        return (p for _, p in self.named_parameters("", recurse))

    def named_buffers(self, prefix: str = "", recurse: bool = True) -> Iterator[tuple[str, Tensor]]:
        """Every buffer once, with dotted names."""
        is_buffer = lambda module, name, value: name in module._buffers and value is not None
        return _once(self._tensors(prefix, recurse, is_buffer))

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        return (b for _, b in self.named_buffers("", recurse))

    def _tensors(self, prefix: str, recurse: bool, wanted: Callable) -> Iterator[tuple[str, Any]]:
        for path, module in self._walk(prefix) if recurse else [(prefix, self)]:
            for name, value in vars(module).items():
                if wanted(module, name, value):
                    yield f"{path}.{name}".lstrip("."), value

    def get_submodule(self, target: str) -> Module:
        """The module of a dotted name; "" is this one."""
        found: Any = self
        for name in filter(None, target.split(".")):
            found = vars(found).get(name)
            if not isinstance(found, Module):
                raise AttributeError(f"{type(self).__name__} has no module {target!r}: {name!r} is none")
        return found

    # ---- state

    def _state(self) -> dict[str, Tensor]:
        """Parameters and saved buffers by every name they have, tied ones under each."""
        found: dict[str, Tensor] = {}
        for path, module in self._walk(""):
            own = [(n, v) for n, v in vars(module).items() if isinstance(v, Parameter)]
            own += [(n, vars(module)[n]) for n, saved in module._buffers.items() if saved]
            found.update((f"{path}.{name}".lstrip("."), value) for name, value in own if value is not None)
        return found

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all parameters and saved buffers in host memory, under PyTorch's names."""
        return {name: value.numpy() for name, value in self._state().items()}

    def load_state_dict(self, state_dict: dict[str, Any], strict: bool = True) -> LoadResult:
        """Write values into parameters and buffers where they are; all is checked before anything is written.

        Values are arrays, Tensors, or whatever NumPy takes.  Raises ValueError naming every missing, unexpected and
        misshapen entry; with ``strict=False`` the first two are returned instead.
        """
        own = self._state()
        given = {name: _on_host(value) for name, value in state_dict.items()}
        missing, unexpected = [n for n in own if n not in given], [n for n in given if n not in own]
        wrong = [f"{n} is {given[n].shape} in the state and {own[n].shape} in the model"
                 for n in own if n in given and given[n].shape != own[n].shape]
        if strict:
            kinds = {"missing": missing, "unexpected": unexpected}
            wrong += [f"{kind}: {', '.join(names)}" for kind, names in kinds.items() if names]
        if wrong:
            raise ValueError(f"this state does not fit {type(self).__name__}, which is left as it was: "
                             f"{'; '.join(wrong)}")
        for name, tensor in own.items():
            if name in given:
                write(tensor.data, given[name])
                if isinstance(tensor, Parameter):
                    tensor.touch()
        return LoadResult(missing, unexpected)

    def to(self, *where: Any, device: str | None = None, dtype: Any = None) -> Self:
        """Move to a backend or device ("cpu", "cuda:1", "numpy"), cast what is floating, or both; in place.

        An optimizer made before follows at its next step.
        """
        device, dtype = destination(where, device, dtype)
        if dtype is not None and not is_float(dtype):
            raise TypeError(f"a model is cast to a floating dtype, not to {dtype}")
        for tensor in (*self.parameters(), *self.buffers()):
            kind = dtype if is_float(tensor.dtype) else None
            tensor.data = place(tensor.data, device, kind)
            tensor.grad = None if tensor.grad is None else place(tensor.grad, device, kind)
            if isinstance(tensor, Parameter):
                tensor.grad_buffer = None
        return self

    # ---- training

    def train(self, mode: bool = True) -> Self:
        """Behave as in training (dropout, statistics), here and inside."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Behave as in use, here and inside."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Train these parameters, or freeze them."""
        for p in self.parameters():
            p.requires_grad_(requires_grad)
        return self

    def zero_grad(self) -> None:
        """Make every gradient absent."""
        for p in self.parameters():
            p.grad = None

    def apply(self, fn: Callable[[Module], Any]) -> Self:
        """Call `fn` on every module inside, children first, then on this one."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    # ---- hooks

    def register_forward_pre_hook(self, hook: Callable) -> Callable[[], None]:
        """Call ``hook(module, args)`` before forward; what it returns, if anything, takes the arguments' place.

        This and the next return a function that removes the hook.
        """
        return self._register("before", hook)

    def register_forward_hook(self, hook: Callable) -> Callable[[], None]:
        """Call ``hook(module, args, output)`` after forward; what it returns, if anything, takes the output's place."""
        return self._register("after", hook)

    def _register(self, when: str, hook: Callable) -> Callable[[], None]:
        if not self._hooks:
            self._hooks = Hooks(before=[], after=[])
        hooks = self._hooks[when]
        hooks.append(hook)
        return lambda: hooks.remove(hook) if hook in hooks else None

    def _hooked(self, args: tuple, kwargs: dict) -> Any:
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
        """What stands between the parentheses of this layer's own line."""
        return ""

    def __repr__(self) -> str:
        own = self.extra_repr()
        inside = [f"({name}): {child!r}" for name, child in vars(self).items() if isinstance(child, Module)]
        if not inside:
            return f"{type(self).__name__}({own})"
        lines = "\n".join(([own] if own else []) + inside).replace("\n", "\n  ")
        return f"{type(self).__name__}(\n  {lines}\n)"


class Hooks(dict[str, list[Callable]]):
    """What is called before and after a module's forward: a copy has the same, a pickle refuses what it cannot name."""

    def __deepcopy__(self, memo: dict) -> Hooks:
        return Hooks(copy.deepcopy(dict(self), memo))

    def __reduce__(self) -> tuple:
        for hook in itertools.chain(*self.values()):
            name = getattr(hook, "__qualname__", "")
            if "<" in name:
                raise TypeError(f"a module with the hook {name} cannot be pickled: remove the hook first, by calling "
                                f"what registering it returned, or define its function at the top of a module")
        return Hooks, (dict(self),)


def _run(module: Module, args: tuple, kwargs: dict) -> Any:
    """A call of a module as it is, inside what `instruments.around_modules` puts around it."""
    return module._hooked(args, kwargs) if module._hooks else module.forward(*args, **kwargs)


def _once(pairs: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    seen: set[int] = set()
    for name, value in pairs:
        if id(value) not in seen:
            seen.add(id(value))
            yield name, value


def _on_host(value: Any) -> np.ndarray:
    """A value of some library in host memory."""
    if hasattr(value, "detach"):  # ours or PyTorch's
        value = value.detach().cpu().numpy()
    return asnumpy(value) if hasattr(value, "shape") else np.asarray(value)
