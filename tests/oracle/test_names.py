"""Every public name of torch.nn, its functional, utils and init is here too, or in absent.py with a reason."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from absent import ABSENT

import gpuprop.functional as F
from gpuprop import nn

OURS: dict[str, ModuleType] = {"nn": nn, "functional": F, "utils": nn.utils, "init": nn.init}
THEIRS: dict[str, ModuleType] = {space: torch.nn if space == "nn" else getattr(torch.nn, space) for space in OURS}


def public(module: ModuleType) -> list[str]:
    """The names of PyTorch's own classes in torch.nn, and of its own functions in the other modules."""
    own = {name: value for name, value in vars(module).items() if not name.startswith("_") and callable(value)
           and str(getattr(value, "__module__", None) or "torch").startswith("torch")}
    if module is torch.nn:
        return sorted(name for name, value in own.items() if isinstance(value, type))
    helpers = vars(torch.overrides)  # which the module imports, as it does classes
    return sorted(name for name, value in own.items() if not isinstance(value, type) and name not in helpers)


@pytest.mark.parametrize("space", OURS)
def test_every_name_is_here_or_absent_for_a_reason(space: str) -> None:
    missing = {name for name in public(THEIRS[space]) if not hasattr(OURS[space], name)}
    assert sorted(missing - {*ABSENT[space]}) == [], "neither here nor in absent.py"
    assert sorted({*ABSENT[space]} - missing) == [], "in absent.py, but here, or not PyTorch's"


def test_there_are_names() -> None:
    assert [len(public(THEIRS[space])) > n for space, n in zip(OURS, (150, 120, 15, 20), strict=True)] == [True] * 4
