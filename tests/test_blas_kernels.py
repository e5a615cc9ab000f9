"""OpenBLAS gets the right kernels on processors that it does not know."""

import os
import subprocess
import sys

import numpy as np
import pytest

from gpuprop._core import blas_kernels

CPUINFO = """processor\t: 0
vendor_id\t: {vendor}
cpu family\t: {family}
model name\t: AMD EPYC 9D25
flags\t\t: fpu {flags}

processor\t: 1
"""
AVX512 = " ".join(sorted(blas_kernels.AVX512))


@pytest.mark.parametrize(("vendor", "family", "flags", "expected"), [
    ("AuthenticAMD", 26, AVX512, True),
    ("AuthenticAMD", 25, AVX512, False),  # Zen 4, which OpenBLAS knows
    ("AuthenticAMD", 26, "avx512f avx2", False),
    ("GenuineIntel", 26, AVX512, False),
    ("AuthenticAMD", "?", AVX512, False),
])
def test_processors(vendor, family, flags, expected):
    text = CPUINFO.format(vendor=vendor, family=family, flags=flags)
    assert blas_kernels.needs_kernels(text) == expected


def test_other_systems():
    assert not blas_kernels.needs_kernels("")
    assert not blas_kernels.needs_kernels("CPU architecture: 8\n\n")


PROGRAM = """
import builtins, io, os, sys

{before}
def opened(path, *args, real=open, **kwargs):
    return io.StringIO({text!r}) if path == "/proc/cpuinfo" else real(path, *args, **kwargs)

builtins.open = opened
import gpuprop
import numpy

print(os.environ.get("OPENBLAS_CORETYPE"))
"""


@pytest.mark.parametrize(("before", "variables", "expected"), [
    ("", {}, "SkylakeX"),
    ("", {"OPENBLAS_CORETYPE": "Haswell"}, "Haswell"),
    ("import numpy", {}, "None"),
])
def test_import(before, variables, expected):
    """Only the kernels of a processor that has them may run."""
    found = np.show_config(mode="dicts").get("SIMD Extensions", {}).get("found", [])
    has_avx512 = any(name.startswith(("AVX512", "X86_V4")) for name in found)
    text = CPUINFO.format(vendor="AuthenticAMD", family=26, flags=AVX512 if has_avx512 else "avx2")
    if not has_avx512 and expected == "SkylakeX":
        expected = "None"
    env = {k: v for k, v in os.environ.items() if k != blas_kernels.VARIABLE} | variables
    child = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(before=before, text=text)],
        env=env, capture_output=True, text=True, timeout=60)
    assert (child.stdout.strip(), child.stderr) == (expected, "")


def test_wrong_products_are_reported(monkeypatch):
    monkeypatch.setattr(np, "einsum", lambda text, a, b: a @ b + 1)
    with pytest.warns(RuntimeWarning, match="set OPENBLAS_CORETYPE=Haswell"):
        blas_kernels.check_products()
