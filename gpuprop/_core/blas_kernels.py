"""The kernels of OpenBLAS, NumPy's library for matrix products, chosen before NumPy is imported.

Until September 2026, OpenBLAS took AMD's Zen 5 for an older processor without AVX-512, which halves
the speed of products (OpenMathLib/OpenBLAS, issue 6029).
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

VARIABLE = "OPENBLAS_CORETYPE"
KERNELS = "SkylakeX"  # for every processor that has AVX512
AVX512 = {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}
ZEN_5 = 26  # AMD's family
CPUINFO = "/proc/cpuinfo"


def choose_kernels() -> bool:
    """Let OpenBLAS use AVX-512 on a processor that it does not know; return whether it was told.

    Only on Linux; otherwise `gpuprop doctor` names the remedy.  A choice of the user is kept.
    """
    if "numpy" in sys.modules or VARIABLE in os.environ:
        return False
    try:
        with open(CPUINFO) as file:
            found = needs_kernels(file.read(8192))
    except OSError:
        return False
    if found:
        os.environ[VARIABLE] = KERNELS
        check_products()
    return found


def needs_kernels(cpuinfo: str) -> bool:
    """Whether the first processor in the text of /proc/cpuinfo is a Zen 5 or later."""
    first, _, _ = cpuinfo.partition("\n\n")
    pairs = (line.partition(":") for line in first.splitlines())
    values = {name.strip(): value.strip() for name, _, value in pairs}
    family = values.get("cpu family", "")
    return (values.get("vendor_id") == "AuthenticAMD" and family.isdecimal()
            and int(family) >= ZEN_5 and set(values.get("flags", "").split()) >= AVX512)


def check_products() -> None:
    """Warn if the kernels compute wrong products."""
    import numpy as np

    for dtype in (np.float32, np.float64):
        a: Any = np.arange(1 << 14, dtype=dtype).reshape(128, 128) % 7
        if not np.array_equal(a @ a.T, np.einsum("ik,jk->ij", a, a)):  # integers: they are exact
            warnings.warn(
                f"OpenBLAS computes wrong products with its {KERNELS} kernels on this processor: "
                f"set {VARIABLE}=Haswell before Python starts", RuntimeWarning, stacklevel=2)
