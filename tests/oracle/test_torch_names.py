"""Every public name of PyTorch exists in `gpuprop.torch`, or its absence has a reason."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

import pytest
import torch as theirs

import gpuprop.torch as ours
from gpuprop.torch import _absent

MODULES = """torch torch.Tensor torch.accelerator torch.amp torch.autograd torch.backends torch.cuda
    torch.cuda.amp torch.distributions torch.func torch.linalg torch.mps torch.nn
    torch.nn.functional torch.optim torch.optim.lr_scheduler torch.optim.swa_utils torch.random
    torch.special torch.utils torch.utils.checkpoint torch.utils.data torch.version
    torch.xpu""".split()


def both(path: str) -> tuple[Any, Any]:
    """PyTorch's module, or class, and ours."""
    if path == "torch.Tensor":
        return theirs.Tensor, ours.Tensor
    return importlib.import_module(path), importlib.import_module(f"gpuprop.{path}")


def absent(path: str) -> list[str]:
    """The public names of PyTorch's module that ours lacks."""
    module, own = both(path)
    # other modules are there only after another test has imported them
    modules = path in ("torch.backends", "torch.utils")
    listed = () if path in ("torch", "torch.Tensor") else getattr(module, "__all__", ())
    return [name for name in listed or dir(module)
            if not name.startswith("_") and not hasattr(own, name)
            and not (modules and inspect.ismodule(getattr(module, name)))]


@pytest.mark.parametrize("path", MODULES)
def test_absences_have_reasons(path: str) -> None:
    assert [name for name in absent(path) if _absent.reason(name) is None] == []


@pytest.mark.parametrize("path", MODULES)
def test_errors_tell_the_reason(path: str) -> None:
    """The error for an absent name says why it is absent and what to write."""
    own = both(path)[1]
    for name in absent(path):
        why, remedy = _absent.reason(name)  # type: ignore[misc]
        with pytest.raises(AttributeError, match=re.escape(f"{why}; {remedy}")):
            getattr(own, name)


def test_reasons_are_needed() -> None:
    """Each pattern is the first that matches some absent name."""
    names = {name for path in MODULES for name in absent(path)}
    first = {next((p for p, *_ in _absent.REASONS if re.fullmatch(p, name)), "") for name in names}
    assert {p for p, *_ in _absent.REASONS} - first == set()
    assert {*_absent.OF_TENSOR} == {*absent("torch.Tensor")}


def test_other_names_get_the_usual_error() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'zeross'\. Did you mean: 'zeros'"):
        ours.zeross  # noqa: B018
    with pytest.raises(AttributeError, match=r"no attribute 'qqq'$"):
        ours.nn.qqq  # noqa: B018
