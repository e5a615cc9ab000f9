"""Every public name of torch.nn, its functional, utils and init, and of torch.distributions exists.

The exceptions are in absent.py, with reasons.
"""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from absent import ABSENT

import gpuprop.functional as F
from gpuprop import distributions, nn, optim

OURS: dict[str, ModuleType] = {
    "nn": nn, "functional": F, "utils": nn.utils, "init": nn.init,
    "distributions": distributions, "constraints": distributions.constraints,
    "transforms": distributions.transforms, "kl": distributions.kl, "optim": optim,
    "lr_scheduler": optim.lr_scheduler, "swa_utils": optim.swa_utils,
}
THEIRS: dict[str, ModuleType] = {
    "nn": torch.nn, "functional": torch.nn.functional, "utils": torch.nn.utils,
    "init": torch.nn.init, "distributions": torch.distributions,
    "constraints": torch.distributions.constraints, "transforms": torch.distributions.transforms,
    "kl": torch.distributions.kl, "optim": torch.optim,
    "lr_scheduler": torch.optim.lr_scheduler, "swa_utils": torch.optim.swa_utils,
}
# names in PyTorch 2.13
MORE_THAN = {"nn": 150, "functional": 120, "utils": 15, "init": 20, "distributions": 60,
             "constraints": 30, "transforms": 19, "kl": 1, "optim": 15, "lr_scheduler": 15,
             "swa_utils": 6}


def public_names(module: ModuleType) -> list[str]:
    """The names of PyTorch's classes in torch.nn, and of PyTorch's functions in its submodules.

    The modules of torch.distributions and torch.optim list their names.
    """
    if module.__name__.startswith(("torch.distributions", "torch.optim")):
        return sorted(module.__all__)
    found = {}
    for name, value in vars(module).items():
        defined_in = str(getattr(value, "__module__", None) or "torch")
        if callable(value) and not name.startswith("_") and defined_in.startswith("torch"):
            found[name] = value
    if module is torch.nn:
        return sorted(name for name, value in found.items() if isinstance(value, type))
    imported = vars(torch.overrides)  # helpers that the module imports
    return sorted(name for name, value in found.items()
                  if not isinstance(value, type) and name not in imported)


@pytest.mark.parametrize("module", OURS)
def test_every_name_exists_or_has_a_reason(module: str) -> None:
    missing = {name for name in public_names(THEIRS[module]) if not hasattr(OURS[module], name)}
    reasons = {*ABSENT[module]}
    assert sorted(missing - reasons) == [], "neither in gpuprop nor in absent.py"
    assert sorted(reasons - missing) == [], "in absent.py, but in gpuprop, or not PyTorch's"


@pytest.mark.parametrize("module", OURS)
def test_names_are_found(module: str) -> None:
    assert len(public_names(THEIRS[module])) > MORE_THAN[module]
