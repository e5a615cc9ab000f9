"""einops takes Tensors of this dialect: its backend for them is made when einops is imported.

einops asks the subclasses of its `AbstractBackend` which one knows a Tensor.
"""

from __future__ import annotations

import sys
from typing import Any

BACKENDS = "einops._backends"


def register(backends: Any) -> None:
    """Make the backend: einops's own for PyTorch, with the functions of this dialect."""
    import gpuprop.torch as torch

    class GpupropBackend(backends.TorchBackend):
        framework_name = "gpuprop.torch"

        def __init__(self) -> None:
            self.torch = torch

        def layers(self) -> Any:
            raise NotImplementedError("einops.layers: call einops.rearrange in forward, or run the "
                                      "program by `python -m gpuprop.torch`, where "
                                      "einops.layers.torch imports gpuprop.torch")

    backends.gpuprop = GpupropBackend  # einops finds it among the subclasses that are alive


class _AtImport:
    """A finder and loader that calls `register` after einops's backends have been executed."""

    _inner: Any = None

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != BACKENDS:
            return None
        import importlib.util

        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None:
            self._inner, spec.loader = spec.loader, self  # type: ignore[assignment]
        return spec

    def create_module(self, spec: Any) -> Any:
        return self._inner.create_module(spec)

    def exec_module(self, module: Any) -> None:
        module.__loader__ = module.__spec__.loader = self._inner
        self._inner.exec_module(module)
        register(module)


def register_at_import() -> None:
    """Register the backend now if einops is imported, else when it is."""
    if BACKENDS in sys.modules:
        register(sys.modules[BACKENDS])
    else:
        sys.meta_path.insert(0, _AtImport())
