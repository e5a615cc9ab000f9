"""Other paths of the same modules, since PyTorch has a file for each optimizer and kind of layer.

``torch.utils.data.dataloader`` is ``torch.utils.data`` here.
"""

from __future__ import annotations

import sys


def also_at(module: str, paths: str, source: str = "") -> None:
    """Make a module, or `source` in its place, importable at each of its `paths`, too."""
    for name in paths.split():
        path = f"{module}.{name}"
        parent, _, attribute = path.rpartition(".")
        sys.modules[path] = sys.modules[source or module]
        if not hasattr(sys.modules[parent], attribute):
            setattr(sys.modules[parent], attribute, sys.modules[path])
