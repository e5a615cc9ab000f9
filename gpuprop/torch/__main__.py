"""Run a PyTorch program as it is: ``python -m gpuprop.torch train.py --epochs 3``.

In this process ``import torch`` imports `gpuprop.torch`, also in the modules that the program
imports.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import runpy
import sys
from pathlib import Path
from types import ModuleType

import numpy as np

import gpuprop.torch

STARTED = Path(__file__).with_name("_started")


def modules() -> dict[str, ModuleType]:
    """The modules of `gpuprop.torch` by PyTorch's names, such as "torch.nn.functional"."""
    for module in pkgutil.walk_packages(gpuprop.torch.__path__, "gpuprop.torch."):
        if not module.name.startswith((__name__, f"gpuprop.torch.{STARTED.name}")):
            importlib.import_module(module.name)
    return {name.removeprefix("gpuprop."): module for name, module in list(sys.modules.items())
            if f"{name}.".startswith("gpuprop.torch.")}


def install() -> None:
    """Make `import torch` import `gpuprop.torch` in this process."""
    sys.modules.update(modules())
    np.seterr(all="ignore")  # PyTorch does not warn of log(0) or 0 / 0


def main(arguments: list[str]) -> None:
    """Run the program ``arguments[0]`` with the other arguments."""
    if not arguments or not Path(arguments[0]).is_file():
        sys.exit("usage: python -m gpuprop.torch PROGRAM.py [ARGUMENTS ...]")
    install()
    paths = [str(STARTED), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    sys.argv = arguments
    sys.path[:1] = [str(Path(arguments[0]).resolve().parent), str(STARTED)]
    runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
