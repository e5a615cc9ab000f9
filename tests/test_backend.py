"""The registry of backends, the default backend, arrays, and error messages."""

import importlib.metadata
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import gpuprop
from gpuprop._core import registry as B
from gpuprop._core.backend import Backend, Unavailable
from gpuprop._core.placement import place
from gpuprop._core.registry import backend_of, get_backend, register, use


@pytest.fixture
def registry():
    """Restore the registry after the test."""
    tables = [B._classes, B._instances, B._by_alias, B.BY_TYPE]
    copies = [dict(table) for table in tables]
    yield
    for table, copy in zip(tables, copies, strict=True):
        table.clear()
        table.update(copy)


class Absent(Backend):
    name = "absent"

    @classmethod
    def is_available(cls):
        return Unavailable("Absent is not installed: pip install absent", ImportError)

    def asarray(self, value, dtype=None): ...
    def _to_numpy(self, array): ...


class TestFailures:
    def test_unknown_name(self):
        with pytest.raises(ValueError, match=r"unknown backend 'cuppy'.*cupy.*numpy.*strict"):
            use("cuppy")

    def test_missing_library(self, registry):
        register("absent", Absent)
        with pytest.raises(ImportError, match=r"'absent'.*pip install absent"):
            use("absent")

    def test_no_device(self, registry):
        class Deviceless(Absent):
            @classmethod
            def is_available(cls):
                return Unavailable("the driver says: no CUDA-capable device is detected")

        register("deviceless", Deviceless)
        with pytest.raises(RuntimeError, match="the driver says: no CUDA-capable device"):
            use("deviceless")

    def test_broken_plugin_affects_no_other_backend(self, registry, monkeypatch):
        class Broken:
            name, value = "broken", "nowhere:Backend"

            def load(self):
                raise ModuleNotFoundError("No module named 'nowhere'")

        known = B.backends
        monkeypatch.setattr(B, "backends", lambda: {**known(), "broken": Broken()})
        with pytest.warns(UserWarning, match=r"'broken'.*nowhere"):
            assert "numpy" in B.usable_backends()
        with pytest.raises(ImportError, match=r"'broken'.*nowhere:Backend.*ModuleNotFoundError"):
            use("broken")
        assert gpuprop.ones(2).numpy().tolist() == [1, 1]

    def test_incomplete_backend_class(self, registry):
        with pytest.raises(TypeError, match=r"Thing.*lacks asarray"):
            register("thing", type("Thing", (), {}))

    def test_missing_functions_of_a_namespace_are_added(self, registry):
        class Poor(Backend):
            name, xp, array_type = "poor", np, type("Array", (np.ndarray,), {})

            def asarray(self, value, dtype=None):
                return np.asarray(value, dtype).view(self.array_type)

            def _to_numpy(self, array):
                return np.array(array)

        register("poor", Poor)
        backend = get_backend("poor")
        x = backend.asarray([0.0, 0.5, 1.0])
        for name in "erf erfc erfinv lgamma digamma sigmoid".split():
            with np.errstate(all="ignore"):
                result = getattr(backend.xp, name)(x)
                expected = getattr(get_backend("numpy").xp, name)(x)
            assert np.array_equal(result, expected, equal_nan=True), name
        backend.xp.index_add(x, np.array([0, 0]), backend.asarray([1.0, 2.0]))
        assert x.tolist() == [3.0, 0.5, 1.0]
        backend.xp.check(x > 0, "never")
        backend.xp.check(x > 1, "not above 1")
        with pytest.raises(IndexError, match="not above 1"):
            backend.to_numpy(x)

    def test_override_of_an_unknown_op(self, registry):
        class Lost(type(get_backend("numpy"))):
            name, array_type = "lost", list
            kernels = {"gpuprop.functional:rely": lambda xp, x: x}

        register("lost", Lost)
        with pytest.raises(TypeError, match=r"overrides 'gpuprop.functional:rely'"):
            use("lost")

    def test_override_with_other_parameters(self, registry):
        class Wrong(type(get_backend("numpy"))):
            name, array_type = "wrong", list
            kernels = {"gpuprop.functional:gelu": lambda xp, x: x}

        register("wrong", Wrong)
        with pytest.raises(TypeError, match=r"override of .*gelu.*\(xp, x\)"):
            use("wrong")

    @pytest.mark.parametrize("name", ["cpu:x", "cpu:", "numpy:-1"])
    def test_invalid_device_numbers(self, name):
        with pytest.raises(ValueError, match="number of one device"):
            use(name)

    def test_no_such_device(self):
        with pytest.raises(RuntimeError, match=r"'numpy' has 1 device.*no number 3"):
            use("cpu:3")


class TestAliases:
    def test_is_looked_up_once(self, monkeypatch):
        found = get_backend("cpu")
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: pytest.fail("again"))
        assert get_backend("cpu") is found

    def test_of_a_replaced_backend(self, registry):
        def named(*names):
            array_type = type("Array", (np.ndarray,), {})
            return type("Nicknamed", (type(get_backend("numpy")),),
                        {"name": names[0], "aliases": names[1:], "array_type": array_type})

        for name, *names in [("first", "nick"), ("first", "nick"), ("nick",)]:
            register(name, named(name, *names))
            for alias in names:
                assert get_backend(alias) is get_backend(name)
            assert get_backend("nick").name == name


PLUGIN = """
import numpy as np
from gpuprop import Backend

class Plugin(Backend):
    name, xp, array_type = "NAME", np, type("Array", (np.ndarray,), {})
    aliases = ("cpu", "cuda", "other_NAME")

    def asarray(self, value, dtype=None):
        return np.asarray(value, dtype).view(self.array_type)

    def _to_numpy(self, array):
        return np.array(array)
"""
PLUGINS = {  # module -> (name of the backend, the code of the module)
    "a_numpy": ("numpy", PLUGIN), "a_cupy": ("cupy", PLUGIN), "a_cpu": ("cpu", PLUGIN),
    "a_cuda": ("cuda", PLUGIN), "a_twin": ("twin", PLUGIN), "a_twin_of_it": ("twin", PLUGIN),
    "a_fine": ("fine", PLUGIN), "a_lost": ("lost", "import nowhere"),
    "a_syntax": ("syntax", "def"), "an_exit": ("exit", "raise SystemExit(3)"),
    "an_empty": ("empty", ""), "a_foreign": ("foreign", "class Plugin: pass"),
    "a_listed": ("listed", PLUGIN.replace('("cpu", "cuda", "other_NAME")', "'cpu'")),
}


@pytest.fixture(scope="module")
def run_with_plugins(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plugins")
    for module, (name, code) in PLUGINS.items():
        (folder / f"{module}.py").write_text(code.replace("NAME", name))
        info = folder / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[gpuprop.backends]\n{name} = {module}:Plugin\n")

    def run(code, *options):
        path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
        return subprocess.run([sys.executable, *options, "-c", code], text=True,
                              capture_output=True, env={**os.environ, "PYTHONPATH": path})

    return run


class TestPlugins:
    """Installed packages that claim names of others, or that cannot be imported."""

    def test_own_names_stay_own_and_the_package_is_named_once(self, run_with_plugins):
        done = run_with_plugins("""
import gpuprop
from gpuprop._core.registry import get_backend, load
for _ in range(2):
    for name in ("numpy", "cpu", "twin", "fine", "other_fine"):
        print(type(get_backend(name)).__module__)
print(load("cuda").__module__, load("cupy").__module__)
""")
        own, plugin = ["gpuprop_numpy"] * 2, ["a_twin", "a_fine", "a_fine"]
        assert done.stdout.split() == [*own, *plugin, *own, *plugin] + ["gpuprop_cupy"] * 2
        warnings = [line for line in done.stderr.splitlines() if "is left out, because" in line]
        assert len(warnings) == 5
        for package in ("a_numpy", "a_cupy", "a_cpu", "a_cuda", "a_twin_of_it"):
            assert any(repr(package) in line for line in warnings), done.stderr

    def test_a_broken_one_is_named_when_it_is_used(self, run_with_plugins):
        broken = {module: PLUGINS[module][0] for module in
                  "a_lost a_syntax an_exit an_empty a_foreign a_listed".split()}
        done = run_with_plugins(f"""
import gpuprop
for name in {list(broken.values())}:
    try:
        gpuprop.use(name)
    except ImportError as error:
        print(gpuprop.ones(2).sum().item(), str(error))
""")
        lines = [line for line in done.stdout.splitlines() if line.startswith("2.0")]
        for line, (module, name) in zip(lines, broken.items(), strict=True):
            assert repr(name) in line and repr(module) in line

    def test_doctor_names_each(self, run_with_plugins):
        done = run_with_plugins("from gpuprop._cli import main; main(['doctor'])")
        for module in PLUGINS:
            if module not in ("a_fine", "a_twin"):
                assert module in done.stdout + done.stderr, done.stdout + done.stderr
        assert "PASS  numpy" in done.stdout

    def test_own_names_cannot_be_registered(self):
        for name in ("numpy", "cpu", "cupy", "cuda"):
            with pytest.raises(ValueError, match=f"{name}.*own"):
                register(name, Absent)
        assert get_backend("cpu").name == "numpy"


class TestDefaultBackend:
    def test_with_block_restores_the_default(self):
        use("numpy")
        with use("strict") as b:
            assert b.name == "strict" and backend_of(gpuprop.ones(2).data) is b
            with use("cpu"):
                assert backend_of(gpuprop.ones(2).data).name == "numpy"
            assert backend_of(gpuprop.ones(2).data) is b
        assert backend_of(gpuprop.ones(2).data).name == "numpy"

    def test_call_holds_in_all_threads_and_with_block_in_one(self):
        use("strict")
        found = []

        def record_in_a_thread():
            thread = threading.Thread(target=lambda: found.append(B.default_backend().name))
            thread.start()
            thread.join()

        record_in_a_thread()
        assert found == ["strict"] and B.default_backend().name == "strict"
        with use("numpy"):
            record_in_a_thread()
        assert found == ["strict", "strict"]

    def test_devices(self):
        with use("strict:1") as b:
            assert b.device() == 1
            with use("strict", device=0):
                assert b.device() == 0
            assert b.device() == 1
        assert get_backend("strict").device() == 0

    def test_results_stay_on_the_backend_of_the_arrays(self):
        with use("strict"):
            x = gpuprop.ones(2)
        assert backend_of((x * 2).data).name == "strict"

    @pytest.mark.parametrize("setting, expected", [
        ({}, "numpy"), ({"GPUPROP_BACKEND": "strict"}, "strict")])
    def test_environment_variable_or_automatic_choice(self, setting, expected, tmp_path):
        code = ("import logging, gpuprop, gpuprop.testing\nlogging.basicConfig(level='INFO')\n"
                "from gpuprop.backend import backend_of\n"
                "print(backend_of(gpuprop.ones(1).data).name)")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("GPUPROP_")}
        environment |= {"CUDA_VISIBLE_DEVICES": "", **setting}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                              env=environment, cwd=tmp_path)
        assert done.stdout.split() == [expected], done.stderr
        is_logged = "gpuprop uses numpy (" in done.stderr
        assert is_logged == (expected == "numpy"), done.stderr

    def test_get_array_module_and_asnumpy(self, backend):
        t = gpuprop.ones(2)
        assert gpuprop.get_array_module(t) is backend.xp
        assert gpuprop.get_array_module(t.data) is backend.xp
        assert gpuprop.get_array_module([1, 2]) is get_backend("numpy").xp
        assert type(gpuprop.asnumpy(t)) is np.ndarray
        assert type(gpuprop.asnumpy([1])) is np.ndarray
        other = get_backend("strict" if backend.name == "numpy" else "numpy")
        with pytest.raises(gpuprop.BackendMismatchError, match="several backends"):
            gpuprop.get_array_module(t, other.asarray([1.0]))


class TestArrays:
    def test_to_numpy_copies(self, backend):
        a = backend.asarray(np.arange(3.0))
        host = backend.to_numpy(a)
        host[...] = 7
        assert backend.to_numpy(a).tolist() == [0, 1, 2]

    def test_place(self, backend):
        a = backend.asarray(np.arange(3.0))
        moved = place(a, "strict", "float32")
        assert backend_of(moved).name == "strict" and moved.dtype == "float32"
        assert place(place(a, "strict:1"), "cpu").tolist() == [0, 1, 2]

    def test_check(self, backend):
        a = backend.asarray(np.arange(3))
        backend.check(a >= 0, "never seen")
        if backend.name == "numpy":
            with pytest.raises(IndexError, match="too large"):
                backend.check(a < 2, "too large")
            return
        backend.check(a < 2, "too large")  # does not wait for the device
        with pytest.raises(IndexError, match="too large"):
            backend.to_numpy(a)
        backend.to_numpy(a)  # an error is raised once
        with pytest.raises(IndexError, match="too large"), gpuprop.debug():
            backend.check(a < 2, "too large")

    def test_unknown_arrays(self):
        with pytest.raises(TypeError, match=r"no backend.*memoryview"):
            backend_of(memoryview(b""))


class TestStoredChoices:
    """`use` objects that are kept in variables."""

    def test_the_later_choice_holds(self):
        choice = use("strict")
        choice = use("numpy")
        assert B.default_backend().name == "numpy"
        del choice
        assert B.default_backend().name == "numpy"

    def test_a_choice_that_is_freed_after_a_later_one(self):
        def choose():
            kept = use("strict")
            use("numpy")
            return repr(kept)

        choose()
        assert B.default_backend().name == "numpy"

    def test_a_block_that_is_entered_twice(self):
        block = use("strict:1")
        for _ in range(2):
            with block:
                assert gpuprop.zeros(1).device == "strict:1"
                with block:
                    assert gpuprop.zeros(1).device == "strict:1"
                assert gpuprop.zeros(1).device == "strict:1"
        assert B.default_backend().name == "numpy"
        assert get_backend("strict").device() == 0


def test_a_backend_that_is_registered_again_while_it_is_the_default(registry):
    def make(kind):
        class Toy(Backend):
            name, xp, array_type = "toy", np, kind

            def asarray(self, value, dtype=None):
                return np.asarray(value, dtype).view(kind)

            def _to_numpy(self, array):
                return np.array(array)

        return Toy

    first, second = (type(name, (np.ndarray,), {}) for name in ("First", "Second"))
    register("toy", make(first))
    use("toy")
    assert type(B.default_backend().asarray([1.0])) is first
    register("toy", make(second))
    assert type(B.default_backend().asarray([1.0])) is second
    with pytest.raises(TypeError, match="priority"):
        broken = make(first)
        broken.priority = None
        register("broken", broken)
    use("numpy")


@pytest.mark.parametrize("same_type", [True, False], ids=["same array type", "another one"])
def test_nothing_stays_of_a_backend_that_is_replaced(registry, same_type):
    """Bodies, overrides and noise are those of the class that is registered."""
    kinds = [type(f"Kind{i}", (np.ndarray,), {}) for i in range(2)]

    def make(number):
        kind = kinds[0 if same_type else number]

        class Toy(Backend):
            name, xp, array_type = "toy", np, kind
            kernels = {"gpuprop.functional:softsign": lambda xp, input: (input * 0 + number, None)}

            def asarray(self, value, dtype=None):
                return np.asarray(value, dtype).view(kind)

            def own(self, out):
                return self.asarray(out)

            def _to_numpy(self, array):
                return np.array(array)

            def _pointwise(self, fn):
                return lambda xp, *arrays, **constants: arrays[0] * 0 + 10 + number

        return Toy

    @gpuprop.pointwise
    def doubled(xp, a):
        return a * 2

    rng = gpuprop.random.Generator(1)
    for number in range(2):
        unknown = np.ones(2).view(kinds[0 if same_type else number])
        if number == 0:
            assert doubled(np, unknown).tolist() == [2, 2]  # no backend knows its type yet
        register("toy", make(number))
        with use("toy"):
            x = B.default_backend().asarray([1.0, 2.0])
            assert type(x) is kinds[0 if same_type else number]
            for _ in range(2):
                assert gpuprop.functional.softsign(x).tolist() == [number] * 2
                assert doubled(np, x).tolist() == [10 + number] * 2
                assert gpuprop.functional.mish(x).tolist() == [10 + number] * 2
            assert rng.noise(x).tolist() == [1, 0]  # (seed, draw), in memory of this backend
            rng.get_state()
            rng._snapshot()()
            with gpuprop.debug(nan=True):
                gpuprop.functional.softsign(gpuprop.tensor([1.0]))
    register("toy", make(0))  # before its instance is made, the arrays are NumPy's
    assert gpuprop.functional.softsign(unknown).tolist() == [0.5, 0.5]
    assert doubled(np, unknown).tolist() == [2, 2]
