"""The workloads by name; each file has a model, its data, and the sizes to run."""

from __future__ import annotations

from gpuprop._bench.workload import Workload
from gpuprop._bench.workloads import (
    cnn,
    factorisation,
    gpt,
    loading,
    lstm,
    mlp,
    tape,
    unet,
)

_FILES = (tape, mlp, factorisation, cnn, unet, lstm, gpt, loading)
WORKLOADS: dict[str, Workload] = {
    name: workload for file in _FILES for name, workload in file.WORKLOADS.items()}
