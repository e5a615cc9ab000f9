"""`gpuprop info` and `gpuprop doctor`, on this machine and with simulated problems."""

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
from gpuprop import _doctor, _environment
from gpuprop._cli import main
from gpuprop._core.backend import Unavailable
from gpuprop._core.registry import _classes, get_backend
from gpuprop._doctor import CudaInstallation, blas_problems, cupy_problems
from gpuprop._environment import Blas, Driver
from gpuprop_numpy import NumpyBackend

CUDA11 = Driver(11040, ["NVIDIA H100"])
CUDA12 = Driver(12080, ["NVIDIA H100"])
CUDA13 = Driver(13000, ["NVIDIA H100"])
NO_DRIVER = Driver(0, [], "not installed")


class TestInfo:
    def test_text(self, capsys, monkeypatch):
        monkeypatch.setenv("CUPY_TF32", "0")
        monkeypatch.setenv("MY_TOKEN", "secret")
        assert main(["info"]) == 0
        text = capsys.readouterr().out
        gpuprop.show_config()
        other = capsys.readouterr().out
        changes = [[line for line in t.splitlines() if "memory" not in line] for t in (text, other)]
        assert changes[0] == changes[1]
        assert f"gpuprop: {gpuprop.__version__}" in text and f"numpy: {np.__version__}" in text
        assert "  CUPY_TF32: 0" in text and "secret" not in text
        assert "  numpy: usable, 1 device" in text and "default backend: numpy" in text
        assert "freed memory: " in text and "cuda driver: " in text

    def test_json(self, capsys, tmp_path):
        assert main(["info", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["backends"].keys() >= {"numpy", "cupy"}
        file = tmp_path / "info.json"
        assert main(["info", "--json", str(file)]) == 0
        assert json.loads(file.read_text())["packages"] == found["packages"]
        assert capsys.readouterr().out.startswith("gpuprop: ")

    @pytest.mark.parametrize("kept, text", [(True, "kept"), (False, "returned to the system")])
    def test_freed_memory(self, kept, text, monkeypatch):
        monkeypatch.setattr("gpuprop_numpy.memory.keep_freed_memory", lambda: kept)
        assert text in _environment.info()["freed memory"]

    def test_blas(self, monkeypatch):
        blas = _environment.blas()
        assert blas.name and blas.version in str(blas)
        if "openblas" in blas.name:
            assert blas.kernels and blas.threads >= 1
        monkeypatch.setattr(_environment, "_openblas", lambda: iter([SimpleNamespace()]))
        assert _environment.blas() == (blas.name, blas.version, "", 0)
        assert str(Blas("accelerate", "1")) == "accelerate 1"
        assert str(Blas("openblas", "1", "Zen", 2)) == "openblas 1, Zen kernels, 2 threads"

    def test_driver(self, monkeypatch):
        assert str(Driver(12080, ["A", "B"])) == "CUDA 12.8, A, B"
        assert str(NO_DRIVER) == "not installed"

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

            def cuGetErrorName(self, error, name):
                name._obj.value = b"CUDA_ERROR_NO_DEVICE"

        monkeypatch.setattr(ctypes, "CDLL", lambda path: Library())
        assert _environment.cuda_driver() == Driver(13010, ["GPU 0", "GPU 1"])
        Library.error = 100
        driver = Driver(13010, [], "no device: CUDA_ERROR_NO_DEVICE (100)")
        assert _environment.cuda_driver() == driver

        def missing(path):
            raise OSError(path)

        monkeypatch.setattr(ctypes, "CDLL", missing)
        assert _environment.cuda_driver() == NO_DRIVER
        assert list(_environment._openblas()) == []

    def test_backend_that_raises(self, monkeypatch):
        class Broken(NumpyBackend):
            is_available = classmethod(lambda cls: 1 / 0)

        monkeypatch.setitem(_classes, "broken", Broken)
        assert _environment.info()["backends"]["broken"] == "not usable: division by zero"


def test_expected_numbers_of_the_training_step():
    """The doctor's training step with derivatives by hand."""
    numbers = lambda *shape: ((np.arange(np.prod(shape)) * 7 % 11 - 5) / 8).reshape(shape)
    w1, b1, w2, b2 = parameters = [numbers(5, 3), numbers(5), numbers(2, 5), numbers(2)]
    x = numbers(4, 3)
    one_hot = np.eye(2)[[0, 1, 1, 0]]

    def forward():
        h = np.tanh(x @ w1.T + b1)
        e = np.exp(h @ w2.T + b2)
        p = e / e.sum(axis=1, keepdims=True)
        return h, p, -(np.log(p) * one_hot).sum() / 4

    h, p, loss = forward()
    dz = (p - one_hot) / 4
    da = dz @ w2 * (1 - h * h)
    gradients = [da.T @ x, da.sum(axis=0), dz.T @ h, dz.sum(axis=0)]
    for value, g in zip(parameters, gradients, strict=True):
        value -= 0.5 * g
    squares = sum((g * g).sum() for g in gradients)
    np.testing.assert_allclose([loss, forward()[2], squares], _doctor.EXPECTED, rtol=1e-14)


def problems(cupy_packages, driver, error="it fails", nvrtc_error="", visible_devices=None):
    """Problems as a dict of description -> fix."""
    installation = CudaInstallation(cupy_packages, driver, nvrtc_error, visible_devices)
    return {p.description: p.fix for p in cupy_problems(installation, error)}


class TestCupyProblems:
    def test_none(self):
        assert problems({"cupy-cuda13x": "14.2.0"}, CUDA13, error="") == {}

    def test_two_packages(self, tmp_path, monkeypatch):
        for name in ("cupy_cuda12x", "cupy_cuda13x", "cupyx_something"):
            folder = tmp_path / f"{name}-14.2.0.dist-info"
            folder.mkdir()
            (folder / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 14.2.0\n")
        monkeypatch.setattr(sys, "path", [str(tmp_path)])
        monkeypatch.setattr(_environment, "cuda_driver", lambda: CUDA12)
        installation = CudaInstallation.inspect()
        packages = {"cupy-cuda12x": "14.2.0", "cupy-cuda13x": "14.2.0"}
        assert installation.cupy_packages == packages
        problem, = cupy_problems(installation, "")
        assert "cupy-cuda12x 14.2.0, cupy-cuda13x 14.2.0" in problem.description and problem.fatal
        assert problem.fix == ("pip uninstall -y cupy-cuda12x cupy-cuda13x && "
                               'pip install "gpuprop[cuda12x]"')

    def test_wrong_cuda_major(self):
        (description, fix), = problems({"cupy-cuda13x": "14.2.0"}, CUDA12).items()
        assert "CUDA 13" in description and "CUDA 12.8, NVIDIA H100" in description
        assert fix == ('pip uninstall -y cupy-cuda13x && pip install "gpuprop[cuda12x]", '
                       "or install NVIDIA's driver 580 or later")
        assert problems({"cupy-cuda12x": "14.2.0"}, CUDA13) == {}

    def test_driver_too_old(self):
        (description, fix), = problems({"cupy-cuda12x": "14.2.0"}, CUDA11).items()
        assert "too old" in description and "CUDA 11.4, NVIDIA H100" in description
        assert "580 or later" in fix and "525 or later with gpuprop[cuda12x]" in fix

    @pytest.mark.parametrize("version", ["13.6.0", "14.0.0", "14.1.0"])
    def test_unsupported_cupy(self, version):
        (description, fix), = problems({"cupy": version}, CUDA13).items()
        assert f"cupy {version} is not supported" in description and "14.0.1" in description
        assert fix == 'pip uninstall -y cupy && pip install "gpuprop[cuda13x]"'

    def test_missing_nvrtc(self, monkeypatch):
        cupy = ModuleType("cupy")
        cuda = ModuleType("cupy.cuda")

        def fail():
            raise RuntimeError('Failure finding "libnvrtc.so.12"\nand more')

        cuda.nvrtc = SimpleNamespace(getVersion=fail)
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        monkeypatch.setitem(sys.modules, "cupy.cuda", cuda)
        error = _doctor.nvrtc_error()
        assert error == 'RuntimeError: Failure finding "libnvrtc.so.12"'
        found = problems({"cupy-cuda12x": "14.2.0"}, CUDA13, nvrtc_error=error)
        (description, fix), = found.items()
        assert "NVRTC" in description
        assert description.endswith('Failure finding "libnvrtc.so.12"')
        assert fix == 'pip install "gpuprop[cuda12x]"'
        cuda.nvrtc.getVersion = lambda: (12, 8)
        assert _doctor.nvrtc_error() == ""

    def test_nvrtc_without_cupy(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "cupy", None)
        assert _doctor.nvrtc_error() == ""

    def test_missing_headers(self):
        error = ('cupy_fp16.cuh(1): catastrophic error: '
                 'could not open source file "cuda_fp16.h"')
        (description, fix), = problems({"cupy": "14.2.0"}, CUDA12, error).items()
        assert "cuda_fp16.h" in description and fix == 'pip install "gpuprop[cuda12x]"'

    def test_no_driver(self):
        (description, fix), = problems({"cupy-cuda13x": "14.2.0"}, NO_DRIVER).items()
        assert "no NVIDIA driver" in description and "580 or later" in fix

    @pytest.mark.parametrize("visible_devices, expected_fix", [
        ("", "unset CUDA_VISIBLE_DEVICES"), (None, "docker run --gpus all")])
    def test_no_device(self, visible_devices, expected_fix):
        driver = Driver(13000, [], "no device: CUDA_ERROR_NO_DEVICE (100)")
        found = problems({"cupy-cuda13x": "14.2.0"}, driver, visible_devices=visible_devices)
        (description, fix), = found.items()
        assert description.startswith("no device: CUDA_ERROR_NO_DEVICE") and expected_fix in fix
        assert (visible_devices is None) == ("CUDA_VISIBLE_DEVICES" not in description)

    def test_gpu_without_cupy(self):
        (description, fix), = problems({}, CUDA12).items()
        assert "NVIDIA H100" in description and "CuPy is not installed" in description
        assert fix == 'pip install "gpuprop[cuda12x]"'


class TestBlasProblems:
    def test_old_kernels(self):
        blas = Blas("scipy-openblas", "0.3.31", "Haswell", 2)
        problem, = blas_problems(blas, avx512=True)
        assert not problem.fatal and "Haswell" in problem.description
        assert problem.fix.startswith("export OPENBLAS_CORETYPE=SkylakeX")

    def test_no_blas(self):
        problem, = blas_problems(Blas("none", ""), avx512=False)
        assert problem.fix == ("pip install --force-reinstall --no-cache-dir --only-binary numpy "
                               "numpy")

    @pytest.mark.parametrize("kernels, avx512", [
        ("SkylakeX", True), ("Haswell", False), ("", True)])
    def test_none(self, kernels, avx512):
        assert list(blas_problems(Blas("scipy-openblas", "0.3.31", kernels, 2), avx512)) == []

    @pytest.mark.parametrize("found, expected", [
        (["X86_V3", "AVX512_SKX"], True), (["X86_V3", "X86_V4"], True), (["AVX2"], False)])
    def test_avx512(self, found, expected, monkeypatch):
        config = {"SIMD Extensions": {"found": found}}
        monkeypatch.setattr(_environment, "_numpy_config", lambda: config)
        assert _environment.has_avx512() is expected


def training_step_without_cupy(name):
    if name == "cupy":
        raise ImportError("CuPy is not installed")
    return "correct"


class TestDoctor:
    def reports(self, monkeypatch, capsys, installation=None):
        installation = installation or CudaInstallation({}, NO_DRIVER, "", None)
        monkeypatch.setattr(CudaInstallation, "inspect", classmethod(lambda cls: installation))
        exit_status = main(["doctor", "--json"])
        found = {r["backend"]: r for r in json.loads(capsys.readouterr().out)}
        assert exit_status == any(r["status"] == "FAIL" for r in found.values())
        return found

    def test_correct_backend(self, monkeypatch, capsys, backend):
        report = self.reports(monkeypatch, capsys)[backend.name]
        assert report["status"] == "PASS"
        assert "training step correct" in report["message"]
        assert ("captured" in report["message"]) == backend.records

    def test_without_cupy_and_gpu(self, monkeypatch, capsys):
        monkeypatch.setattr(_doctor, "training_step", training_step_without_cupy)
        report = self.reports(monkeypatch, capsys)["cupy"]
        assert (report["status"], report["problems"]) == ("SKIP", [])

    def test_gpu_without_cupy(self, monkeypatch, capsys):
        monkeypatch.setattr(_doctor, "training_step", training_step_without_cupy)
        installation = CudaInstallation({}, CUDA13, "no cupy", None)
        report = self.reports(monkeypatch, capsys, installation)["cupy"]
        assert report["status"] == "FAIL"
        assert [p["fix"] for p in report["problems"]] == ['pip install "gpuprop[cuda13x]"']
        main(["doctor"])
        text = capsys.readouterr().out
        assert "FAIL  cupy: CuPy is not installed\n      problem: a GPU was found" in text
        assert '\n      fix: pip install "gpuprop[cuda13x]"\n' in text

    def test_two_packages_fail_though_they_work(self, monkeypatch, capsys):
        monkeypatch.setattr(_doctor, "training_step", lambda name: "correct")
        packages = {"cupy": "14.2.0", "cupy-cuda13x": "14.2.0"}
        installation = CudaInstallation(packages, CUDA13, "", None)
        assert self.reports(monkeypatch, capsys, installation)["cupy"]["status"] == "FAIL"

    def test_slow_blas_passes_with_a_warning(self, monkeypatch, capsys):
        blas = Blas("scipy-openblas", "0.3.31", "Haswell", 2)
        monkeypatch.setattr(_environment, "blas", lambda: blas)
        monkeypatch.setattr(_environment, "has_avx512", lambda: True)
        report = self.reports(monkeypatch, capsys)["numpy"]
        assert report["status"] == "PASS"
        assert "OPENBLAS_CORETYPE" in report["problems"][0]["fix"]
        main(["doctor"])
        assert "\n      warning: matrix products" in capsys.readouterr().out

    def test_wrong_numbers(self, monkeypatch, capsys):
        matmul = get_backend("numpy").xp.matmul
        wrong = lambda a, b: matmul(a, b) * 1.001
        monkeypatch.setattr(get_backend("numpy").xp, "matmul", wrong)
        report = self.reports(monkeypatch, capsys)["numpy"]
        assert report["status"] == "FAIL"
        assert "ArithmeticError: a training step in float64" in report["message"]

    def test_third_party_backends(self, monkeypatch, capsys):
        class Theirs(NumpyBackend):
            install = "pip install theirs"
            is_available = classmethod(lambda cls: Unavailable("no theirs", ImportError))

        class Broken(NumpyBackend):
            is_available = classmethod(lambda cls: 1 / 0)

        monkeypatch.setitem(_classes, "theirs", Theirs)
        monkeypatch.setitem(_classes, "broken", Broken)
        found = self.reports(monkeypatch, capsys)
        assert found["theirs"]["problems"][0]["fix"] == "pip install theirs"
        message = found["theirs"]["message"]
        assert "'theirs'" in message and "no theirs" in message
        assert found["broken"]["message"] == "ZeroDivisionError: division by zero"
        assert found["broken"]["problems"] == []

    @pytest.mark.parametrize("message, expected", [
        ("not captured: reason", "captured step: not captured: reason"),
        (None, "captured step: ZeroDivisionError: division by zero"),
    ])
    def test_step_that_is_not_captured(self, monkeypatch, capsys, message, expected):
        import gpuprop.testing  # noqa: F401 (registers the strict backend, which records)

        def capture(step):
            def run(*args):
                if message is None:
                    raise ZeroDivisionError("division by zero")
                warnings.warn(message, stacklevel=2)
                return step(*args)

            return run

        monkeypatch.setattr(_doctor, "capture", capture)
        report = self.reports(monkeypatch, capsys)["strict"]
        assert (report["status"], report["message"]) == ("FAIL", expected)


def test_verify_with_an_unavailable_backend(monkeypatch, capsys):
    class Broken(NumpyBackend):
        is_available = classmethod(lambda cls: Unavailable("its driver\nis missing"))

    monkeypatch.setitem(_classes, "broken", Broken)
    reasons = {"broken": "its driver is missing", "nobodys": "'nobodys'"}
    for name, reason in reasons.items():
        for options in (["--reference", name, "--candidate", "numpy"],
                        ["--candidate", name, "--reference", "numpy"]):
            assert main(["verify", *options]) == 2
            captured = capsys.readouterr()
            assert captured.out == "" and captured.err.count("\n") == 1
            assert repr(name) in captured.err and reason in captured.err


class TestCommand:
    def test_as_a_module(self):
        command = [sys.executable, "-W", "error", "-m", "gpuprop", "--help"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0 and "doctor" in done.stdout

    def test_as_a_script(self):
        pyproject = Path(__file__).parents[1] / "pyproject.toml"
        project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
        assert project["scripts"] == {"gpuprop": f"{main.__module__}:{main.__name__}"}

    @pytest.mark.parametrize("arguments", [[], ["heal"], ["info", "--xml"]])
    def test_usage_errors(self, arguments, capsys):
        with pytest.raises(SystemExit) as error:
            main(arguments)
        assert error.value.code == 2 and "usage: gpuprop" in capsys.readouterr().err
