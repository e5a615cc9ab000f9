"""`gpuprop info` and `gpuprop doctor`: what they say here, and what they would say on machines with troubles."""

import ctypes
import json
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import gpuprop
from gpuprop import _doctor as doctor
from gpuprop import _environment as environment
from gpuprop._cli import main
from gpuprop._core.backend import Unavailable
from gpuprop._core.registry import _classes, get_backend
from gpuprop._doctor import Facts, blas_findings, cupy_findings
from gpuprop._environment import Blas, Driver
from gpuprop_numpy import NumpyBackend

CUDA11, CUDA12, CUDA13 = (Driver(v, ["NVIDIA H100"]) for v in (11040, 12080, 13000))
NONE = Driver(0, [], "none is installed")


class TestInfo:
    def test_block(self, capsys, monkeypatch):
        monkeypatch.setenv("CUPY_TF32", "0")
        monkeypatch.setenv("MY_TOKEN", "secret")
        assert main(["info"]) == 0
        out = capsys.readouterr().out
        gpuprop.show_config()
        same = [line for line in capsys.readouterr().out.splitlines() if "memory" not in line]
        assert same == [line for line in out.splitlines() if "memory" not in line]
        assert f"gpuprop: {gpuprop.__version__}" in out and f"numpy: {np.__version__}" in out
        assert "  CUPY_TF32: 0" in out and "secret" not in out
        assert "  numpy: usable, 1 device" in out and "new arrays: on numpy" in out
        assert "freed memory: " in out and "cuda driver: " in out

    def test_json(self, capsys, tmp_path):
        assert main(["info", "--json"]) == 0
        known = json.loads(capsys.readouterr().out)
        assert known["backends"].keys() >= {"numpy", "cupy"}
        assert main(["info", "--json", str(tmp_path / "info.json")]) == 0
        assert json.loads((tmp_path / "info.json").read_text())["packages"] == known["packages"]
        assert capsys.readouterr().out.startswith("gpuprop: ")

    def test_freed_memory(self, monkeypatch):
        for kept, words in ((True, "kept for the next array"), (False, "given back to the system")):
            monkeypatch.setattr("gpuprop_numpy.memory.keep_freed_memory", lambda kept=kept: kept)
            assert environment.info()["freed memory"] == words

    def test_blas(self, monkeypatch):
        blas = environment.blas()
        assert blas.name and blas.version in str(blas)
        if "openblas" in blas.name:
            assert blas.kernels and blas.threads >= 1
        monkeypatch.setattr(environment, "_openblas", lambda: iter([SimpleNamespace()]))
        assert environment.blas() == (blas.name, blas.version, "", 0)
        assert str(Blas("accelerate", "1")) == "accelerate 1"

    def test_driver(self, monkeypatch):
        assert str(Driver(12080, ["A", "B"])) == "for CUDA 12.8, A, B"
        assert str(NONE) == "none is installed"

        class Library:
            """A driver for CUDA 13.1 with two devices, or with an error."""

            error = 0

            def cuDriverGetVersion(self, version):
                version._obj.value = 13010

            def cuInit(self, flags):
                return self.error

            def cuDeviceGetCount(self, count):
                count._obj.value = 2
                return 0

            def cuDeviceGet(self, device, i):
                device._obj.value = i

            def cuDeviceGetName(self, name, length, device):
                name.value = b"GPU %d" % device.value

            def cuGetErrorName(self, error, word):
                word._obj.value = b"CUDA_ERROR_NO_DEVICE"

        monkeypatch.setattr(ctypes, "CDLL", lambda path: Library())
        assert environment.cuda_driver() == Driver(13010, ["GPU 0", "GPU 1"])
        Library.error = 100
        assert environment.cuda_driver() == Driver(13010, [], "no device: CUDA_ERROR_NO_DEVICE (100)")

        def missing(path):
            raise OSError(path)

        monkeypatch.setattr(ctypes, "CDLL", missing)
        assert environment.cuda_driver() == NONE
        assert list(environment._openblas()) == []

    def test_a_backend_that_breaks(self, monkeypatch):
        class Broken(NumpyBackend):
            is_available = classmethod(lambda cls: 1 / 0)

        monkeypatch.setitem(_classes, "broken", Broken)
        assert environment.info()["backends"]["broken"] == "not usable: division by zero"


def test_known_numbers_of_the_doctors_computation():
    """The same training step, with the derivatives by hand."""
    numbers = lambda *shape: ((np.arange(np.prod(shape)) * 7 % 11 - 5) / 8).reshape(shape)
    w1, b1, w2, b2 = parameters = [numbers(5, 3), numbers(5), numbers(2, 5), numbers(2)]
    x, hot = numbers(4, 3), np.eye(2)[[0, 1, 1, 0]]

    def forward():
        h = np.tanh(x @ w1.T + b1)
        e = np.exp(h @ w2.T + b2)
        p = e / e.sum(axis=1, keepdims=True)
        return h, p, -(np.log(p) * hot).sum() / 4

    h, p, loss = forward()
    dz = (p - hot) / 4
    da = dz @ w2 * (1 - h * h)
    gradients = [da.T @ x, da.sum(axis=0), dz.T @ h, dz.sum(axis=0)]
    for value, g in zip(parameters, gradients, strict=True):
        value -= 0.5 * g
    np.testing.assert_allclose([loss, forward()[2], sum((g * g).sum() for g in gradients)], doctor.KNOWN, rtol=1e-14)


def findings(cupys, driver, problem="it fails", nvrtc="", visible=None):
    return {f.what: f.remedy for f in cupy_findings(Facts(cupys, driver, nvrtc, visible), problem)}


class TestCupy:
    """Situations, and the lines that mend them."""

    def test_nothing_is_wrong(self):
        assert findings({"cupy-cuda13x": "14.2.0"}, CUDA13, problem="") == {}

    def test_two_cupys(self, tmp_path, monkeypatch):
        for name in ("cupy_cuda12x", "cupy_cuda13x", "cupyx_something"):
            folder = tmp_path / f"{name}-14.2.0.dist-info"
            folder.mkdir()
            dashed = name.replace("_", "-")
            (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dashed}\nVersion: 14.2.0\n")
        monkeypatch.setattr(sys, "path", [str(tmp_path)])
        monkeypatch.setattr(environment, "cuda_driver", lambda: CUDA12)
        facts = Facts.gather()
        assert facts.cupys == {"cupy-cuda12x": "14.2.0", "cupy-cuda13x": "14.2.0"}
        found, = cupy_findings(facts, "")
        assert "cupy-cuda12x 14.2.0, cupy-cuda13x 14.2.0" in found.what and found.fatal
        assert found.remedy == 'pip uninstall -y cupy-cuda12x cupy-cuda13x && pip install "gpuprop[cuda12x]"'

    def test_wrong_cuda_major(self):
        (what, remedy), = findings({"cupy-cuda13x": "14.2.0"}, CUDA12).items()
        assert what == "CuPy is for CUDA 13, and the driver is for CUDA 12.8, NVIDIA H100"
        assert remedy == ('pip uninstall -y cupy-cuda13x && pip install "gpuprop[cuda12x]", '
                          "or install NVIDIA's driver 580 or later")
        assert findings({"cupy-cuda12x": "14.2.0"}, CUDA13) == {}

    def test_driver_too_old(self):
        (what, remedy), = findings({"cupy-cuda12x": "14.2.0"}, CUDA11).items()
        assert what == "the driver is too old: it is for CUDA 11.4, NVIDIA H100"
        assert remedy == "install NVIDIA's driver 580 or later; 525 will do, with gpuprop[cuda12x]"

    @pytest.mark.parametrize("version", ["13.6.0", "14.0.0", "14.1.0"])
    def test_cupy_too_old(self, version):
        (what, remedy), = findings({"cupy": version}, CUDA13).items()
        assert what == f"cupy {version} does not do: gpuprop needs 14.0.1 or later, but not 14.1.0"
        assert remedy == 'pip uninstall -y cupy && pip install "gpuprop[cuda13x]"'

    def test_missing_nvrtc(self, monkeypatch):
        cupy, cuda = ModuleType("cupy"), ModuleType("cupy.cuda")

        def fail():
            raise RuntimeError('Failure finding "libnvrtc.so.12"\nand more')

        cuda.nvrtc = SimpleNamespace(getVersion=fail)
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        monkeypatch.setitem(sys.modules, "cupy.cuda", cuda)
        assert doctor.nvrtc() == 'RuntimeError: Failure finding "libnvrtc.so.12"'
        (what, remedy), = findings({"cupy-cuda12x": "14.2.0"}, CUDA13, nvrtc=doctor.nvrtc()).items()
        assert "NVRTC" in what and what.endswith('Failure finding "libnvrtc.so.12"')
        assert remedy == 'pip install "gpuprop[cuda12x]"'
        cuda.nvrtc.getVersion = lambda: (12, 8)
        assert doctor.nvrtc() == ""

    def test_missing_headers(self):
        problem = 'cupy_fp16.cuh(1): catastrophic error: could not open source file "cuda_fp16.h"'
        (what, remedy), = findings({"cupy": "14.2.0"}, CUDA12, problem).items()
        assert "cuda_fp16.h" in what and remedy == 'pip install "gpuprop[cuda12x]"'

    def test_no_driver(self):
        (what, remedy), = findings({"cupy-cuda13x": "14.2.0"}, NONE).items()
        assert what == "there is no device: no NVIDIA driver is installed" and "580 or later" in remedy

    @pytest.mark.parametrize("visible, remedy", [("", "unset CUDA_VISIBLE_DEVICES"), (None, "docker run --gpus all")])
    def test_no_device(self, visible, remedy):
        driver = Driver(13000, [], "no device: CUDA_ERROR_NO_DEVICE (100)")
        (what, told), = findings({"cupy-cuda13x": "14.2.0"}, driver, visible=visible).items()
        assert what.startswith("no device: CUDA_ERROR_NO_DEVICE") and remedy in told
        assert (visible is None) == ("CUDA_VISIBLE_DEVICES" not in what)

    def test_a_gpu_without_cupy(self):
        assert findings({}, CUDA12) == {"there is a GPU (NVIDIA H100), but no CuPy": 'pip install "gpuprop[cuda12x]"'}


class TestBlas:
    def test_slow_kernels(self):
        found, = blas_findings(Blas("scipy-openblas", "0.3.31", "Haswell", 2), avx512=True)
        assert not found.fatal and "Haswell" in found.what
        assert found.remedy.startswith("export OPENBLAS_CORETYPE=SkylakeX")

    def test_no_blas(self):
        found, = blas_findings(Blas("none", ""), avx512=False)
        assert found.remedy == "pip install --force-reinstall --no-cache-dir --only-binary numpy numpy"

    @pytest.mark.parametrize("kernels, avx512", [("SkylakeX", True), ("Haswell", False), ("", True)])
    def test_good_kernels(self, kernels, avx512):
        assert list(blas_findings(Blas("scipy-openblas", "0.3.31", kernels, 2), avx512)) == []

    def test_instructions(self, monkeypatch):
        for found, has in ((["X86_V3", "AVX512_SKX"], True), (["X86_V3", "X86_V4"], True), (["AVX2"], False)):
            config = {"SIMD Extensions": {"found": found}}
            monkeypatch.setattr(environment, "_numpy_config", lambda config=config: config)
            assert environment.has_avx512() is has


class TestDoctor:
    def verdicts(self, monkeypatch, capsys, facts=None):
        monkeypatch.setattr(Facts, "gather", classmethod(lambda cls: facts or Facts({}, NONE, "", None)))
        status = main(["doctor", "--json"])
        found = {v["backend"]: v for v in json.loads(capsys.readouterr().out)}
        assert status == any(v["verdict"] == "FAIL" for v in found.values())
        return found

    def test_a_backend_that_works(self, monkeypatch, capsys, backend):
        verdict = self.verdicts(monkeypatch, capsys)[backend.name]
        assert verdict["verdict"] == "PASS"
        assert verdict["reason"].startswith("forward, backward and update are right to")

    def test_without_cupy_and_gpu(self, monkeypatch, capsys):
        monkeypatch.setattr(doctor, "training_step", self.without_cupy)
        verdict = self.verdicts(monkeypatch, capsys)["cupy"]
        assert (verdict["verdict"], verdict["findings"]) == ("NONE", [])

    def test_with_a_gpu_but_without_cupy(self, monkeypatch, capsys):
        monkeypatch.setattr(doctor, "training_step", self.without_cupy)
        verdict = self.verdicts(monkeypatch, capsys, Facts({}, CUDA13, "no cupy", None))["cupy"]
        assert verdict["verdict"] == "FAIL"
        assert [f["remedy"] for f in verdict["findings"]] == ['pip install "gpuprop[cuda13x]"']
        main(["doctor"])
        assert ("FAIL  cupy: CuPy is not installed\n      why: there is a GPU (NVIDIA H100), but no CuPy\n"
                '      do:  pip install "gpuprop[cuda13x]"\n') in capsys.readouterr().out

    def without_cupy(self, name):
        if name == "cupy":
            raise ImportError("CuPy is not installed")
        return "right"

    def test_two_cupys_fail_though_they_work(self, monkeypatch, capsys):
        monkeypatch.setattr(doctor, "training_step", lambda name: "right")
        facts = Facts({"cupy": "14.2.0", "cupy-cuda13x": "14.2.0"}, CUDA13, "", None)
        assert self.verdicts(monkeypatch, capsys, facts)["cupy"]["verdict"] == "FAIL"

    def test_slow_is_no_failure(self, monkeypatch, capsys):
        monkeypatch.setattr(environment, "blas", lambda: Blas("scipy-openblas", "0.3.31", "Haswell", 2))
        monkeypatch.setattr(environment, "has_avx512", lambda: True)
        verdict = self.verdicts(monkeypatch, capsys)["numpy"]
        assert verdict["verdict"] == "PASS" and "OPENBLAS_CORETYPE" in verdict["findings"][0]["remedy"]
        main(["doctor"])
        assert "\n      but: matrix products may take twice" in capsys.readouterr().out

    def test_wrong_numbers(self, monkeypatch, capsys):
        matmul = get_backend("numpy").xp.matmul
        monkeypatch.setattr(get_backend("numpy").xp, "matmul", lambda a, b: matmul(a, b) * 1.001)
        verdict = self.verdicts(monkeypatch, capsys)["numpy"]
        assert verdict["verdict"] == "FAIL" and "ArithmeticError: a training step in float64 gave" in verdict["reason"]

    def test_a_third_partys_backend(self, monkeypatch, capsys):
        class Theirs(NumpyBackend):
            install = "pip install theirs"
            is_available = classmethod(lambda cls: Unavailable("no theirs", ImportError))

        class Broken(NumpyBackend):
            is_available = classmethod(lambda cls: 1 / 0)

        monkeypatch.setitem(_classes, "theirs", Theirs)
        monkeypatch.setitem(_classes, "broken", Broken)
        found = self.verdicts(monkeypatch, capsys)
        assert found["theirs"]["findings"][0]["remedy"] == "pip install theirs"
        assert found["theirs"]["reason"] == "backend 'theirs' cannot be used: no theirs"
        assert (found["broken"]["reason"], found["broken"]["findings"]) == ("ZeroDivisionError: division by zero", [])


    @pytest.mark.parametrize("breaks, reason", [
        (lambda step: lambda *args: warnings.warn("it is run as it is, not captured: why", stacklevel=2) or step(*args),
         "captured: it is run as it is, not captured: why"),
        (lambda step: lambda *args: 1 / 0, "captured: ZeroDivisionError: division by zero"),
    ])
    def test_a_step_that_is_not_captured(self, monkeypatch, capsys, breaks, reason):
        import gpuprop.testing  # noqa: F401 (makes the strict device known, which records)

        monkeypatch.setattr(doctor, "capture", breaks)
        verdict = self.verdicts(monkeypatch, capsys)["strict"]
        assert (verdict["verdict"], verdict["reason"]) == ("FAIL", reason)


def test_nvrtc_is_not_blamed_where_cupy_cannot_be_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert doctor.nvrtc() == ""


def test_verify_with_a_backend_that_cannot_be_used(monkeypatch, capsys):
    class Broken(NumpyBackend):
        is_available = classmethod(lambda cls: Unavailable("its driver\nis missing"))

    monkeypatch.setitem(_classes, "broken", Broken)
    unusable = {"broken": "backend 'broken' cannot be used: its driver is missing", "nobodys": "'nobodys'"}
    for name, reason in unusable.items():
        for option in ("--reference", "--candidate"):
            other = {"--reference": "--candidate", "--candidate": "--reference"}[option]
            assert main(["verify", option, name, other, "numpy"]) == 2
            told = capsys.readouterr()
            assert told.out == "" and told.err.count("\n") == 1 and reason in told.err


class TestCommand:
    def test_as_a_module(self):
        command = [sys.executable, "-W", "error", "-m", "gpuprop", "--help"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0 and "doctor" in done.stdout

    def test_as_a_script(self):
        project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert project["scripts"] == {"gpuprop": f"{main.__module__}:{main.__name__}"}

    @pytest.mark.parametrize("arguments", [[], ["heal"], ["info", "--xml"]])
    def test_errors_of_usage(self, arguments, capsys):
        with pytest.raises(SystemExit) as error:
            main(arguments)
        assert error.value.code == 2 and "usage: gpuprop" in capsys.readouterr().err
