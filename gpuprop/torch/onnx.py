"""Export to ONNX, which gpuprop does not have: programs may import the module."""

from __future__ import annotations

from typing import Any

__all__ = ["export"]


def export(model: Any, *args: Any, **kwargs: Any) -> None:
    raise NotImplementedError("torch.onnx.export: gpuprop exports no ONNX: save the state_dict "
                              "with torch.save, and export the model from PyTorch")
