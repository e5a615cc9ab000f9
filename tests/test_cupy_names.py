"""CuPy has every name that gpuprop uses of it and every name of the strict backend."""

import ast
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gpuprop._core.extras import NAMES as EXTRAS
from gpuprop.testing._strict import Namespace
from gpuprop.testing._strict_array import METHODS, StrictArray

ROOT = Path(__file__).parents[1]

# Reads [name, keywords] pairs and prints which of them the real CuPy lacks.  "()" in a name stands
# for the result of the call; a class stands for its instances, most of which need a device.
REAL = """
import importlib, inspect, json, sys
from functools import reduce

def resolve(name):
    module, *path = name.split(".")
    value = importlib.import_module(module)
    for i, part in enumerate(path):
        if inspect.ismodule(value) and not hasattr(value, part.removesuffix("()")):
            importlib.import_module(".".join([module, *path[:i + 1]]))
        if inspect.isdatadescriptor(value) and not isinstance(value, type):
            raise ValueError  # an attribute of unknown instances
        value = getattr(value, part.removesuffix("()"))
        if part.endswith("()") and not isinstance(value, type):
            try:
                value = value()
            except Exception:  # it needs arguments or a device
                raise ValueError from None
    return value

def lacks(name, keywords):
    try:
        value = resolve(name)
        known = inspect.signature(value).parameters if keywords else {}
    except (AttributeError, ImportError):
        return name
    except ValueError:  # the result is unknown, or a compiled function has no signature
        return None
    return next((f"{name}({k}=)" for k in keywords if k not in known), None)

results = [lacks(*use) for use in json.load(sys.stdin)]
print(json.dumps([what for what in results if what]))
"""


def lacking(uses):
    """The uses that the real CuPy lacks, found in a process without hostcuda."""
    env = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run([sys.executable, "-W", "error", "-c", REAL], cwd=ROOT / "tests", env=env,
                          input=json.dumps(sorted(uses)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def uses_in(*folders, modules=(), **known):
    """The uses in the files below `folders`: dotted names with the keywords of calls."""
    found = set()
    for path in (path for folder in folders for path in folder.rglob("*.py")):
        uses = Uses(*modules, **known)
        uses.visit(ast.parse(path.read_text(encoding="utf-8"), str(path)))
        found |= uses.found
    return found


class Uses(ast.NodeVisitor):
    """Collects the uses of some modules: dotted names and keywords of calls.

    It follows imports, assignments and calls.
    """

    def __init__(self, *modules, **known):
        self.modules = modules
        self.known = known
        self.found = set()

    def name(self, node):
        """The dotted name that an expression stands for, or None."""
        if isinstance(node, ast.Call):
            called = self.name(node.func)
            return called and called + "()"
        key = ast.unparse(node)
        if key in self.known or not isinstance(node, ast.Attribute):
            return self.known.get(key)
        base = self.name(node.value)
        return base and f"{base}.{node.attr}"

    def visit_Import(self, node):
        for a in node.names:
            if a.name.partition(".")[0] in self.modules:
                self.known[a.asname or a.name] = a.name

    def visit_ImportFrom(self, node):
        for a in node.names:
            if (node.module or "").partition(".")[0] in self.modules:
                self.known[a.asname or a.name] = f"{node.module}.{a.name}"

    def visit_Assign(self, node):
        self.generic_visit(node)
        for target in node.targets:
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = zip(target.elts, node.value.elts, strict=True)
            else:
                pairs = [(target, node.value)]
            self.known.update([(ast.unparse(t), self.name(v)) for t, v in pairs])

    def visit_Attribute(self, node):
        if self.name(node):
            self.found.add((self.name(node), ()))
        self.generic_visit(node)

    def visit_Call(self, node):
        if self.name(node.func):
            self.found.add((self.name(node.func), tuple(k.arg for k in node.keywords if k.arg)))
        self.generic_visit(node)


def test_cupy_has_every_name_that_the_backend_uses():
    found = uses_in(ROOT / "backends" / "gpuprop_cupy", modules=("cupy", "cupyx"))
    names = {name for name, _ in found}
    expected = {"cupy.cuda.runtime.getDeviceCount", "cupy.matmul", "cupyx.scipy.special.erf"}
    assert expected <= names  # the search works
    assert "cupy.get_default_memory_pool().used_bytes" in names
    assert lacking(found) == []


def test_a_name_that_cupy_lacks_is_found():
    uses = Uses("cupy")
    uses.visit(ast.parse("""
import cupy as c
run, _ = c.cuda, 0
run.Dvice().use()
c.block
c.sum(0, initial=1)
c.get_default_memory_pool().used
"""))
    wrong = {"cupy.block", "cupy.cuda.Dvice", "cupy.sum(initial=)",
             "cupy.get_default_memory_pool().used"}
    assert wrong <= set(lacking(uses.found))


def test_cupy_has_every_xp_name_in_the_library():
    found = uses_in(ROOT / "gpuprop", xp="cupy")
    assert ("cupy.matmul", ()) in found
    own = {f"cupy.{name}" for name in EXTRAS}
    assert lacking(use for use in found if use[0].partition("(")[0] not in own) == []


@pytest.mark.parametrize("path", ["", "linalg", "fft"])
def test_cupy_has_every_name_of_the_strict_namespace(path):
    xp, module, cupy = Namespace(StrictArray.machine), np, "cupy"
    if path:
        xp, module, cupy = getattr(xp, path), getattr(module, path), f"cupy.{path}"
    names = {name for name, value in vars(module).items()
             if not name.startswith("_") and hasattr(xp, name) and not inspect.ismodule(value)}
    assert len(names) > 10
    assert lacking((f"{cupy}.{name}", ()) for name in names) == []


def test_cupys_array_has_every_method_of_the_strict_array():
    public = {name for name in dir(StrictArray) if not name.startswith("_")} - {"machine"}
    assert public > set(METHODS)
    assert lacking((f"cupy.ndarray.{name}", ()) for name in public) == []
