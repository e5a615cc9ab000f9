"""Every name used of CuPy is there in the real CuPy, and so is every name that the strict backend offers."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gpuprop._core.extras import NAMES as EXTRAS
from gpuprop.testing._strict import METHODS, Namespace, StrictArray

ROOT = Path(__file__).parents[1]

# Reads [name, keywords] pairs and answers which the real CuPy lacks.  "()" in a name means what the call returns; a
# class stands for its instances, most of which need a device.
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
            raise ValueError  # an attribute of instances, which are not known
        value = getattr(value, part.removesuffix("()"))
        if part.endswith("()") and not isinstance(value, type):
            try:
                value = value()
            except Exception:  # it takes arguments, or a device
                raise ValueError from None
    return value

def lacks(name, keywords):
    try:
        value = resolve(name)
        known = inspect.signature(value).parameters if keywords else {}
    except (AttributeError, ImportError):
        return name
    except ValueError:  # what a call returns is not known, or a compiled function does not say what it takes
        return None
    return next((f"{name}({k}=)" for k in keywords if k not in known), None)

print(json.dumps([what for what in (lacks(*use) for use in json.load(sys.stdin)) if what]))
"""


def python(code, path, given=""):
    """What `code` prints, from JSON, run by an interpreter that finds packages in `path` before the installed ones."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT / "tests", env=env, input=given,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def lacking(uses):
    return python(REAL, [], json.dumps(sorted(uses)))


def uses_in(*folders, modules=(), **known):
    """What the files below `folders` use: dotted names, each with keywords it is called with."""
    found = set()
    for path in (path for folder in folders for path in folder.rglob("*.py")):
        uses = Uses(*modules, **known)
        uses.visit(ast.parse(path.read_text(encoding="utf-8"), str(path)))
        found |= uses.found
    return found


class Uses(ast.NodeVisitor):
    """What is used of some modules: dotted names, followed through imports, assignments and calls; and keywords."""

    def __init__(self, *modules, **known):
        self.modules, self.known, self.found = modules, known, set()

    def name(self, node):
        """The dotted name an expression stands for, or None."""
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
            both = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
            pairs = zip(target.elts, node.value.elts, strict=True) if both else [(target, node.value)]
            self.known.update([(ast.unparse(t), self.name(v)) for t, v in pairs])

    def visit_Attribute(self, node):
        if self.name(node):
            self.found.add((self.name(node), ()))
        self.generic_visit(node)

    def visit_Call(self, node):
        if self.name(node.func):
            self.found.add((self.name(node.func), tuple(k.arg for k in node.keywords if k.arg)))
        self.generic_visit(node)


def test_all_that_the_backend_uses_of_cupy_exists():
    found = uses_in(ROOT / "backends" / "gpuprop_cupy", modules=("cupy", "cupyx"))
    names = {name for name, _ in found}
    assert {"cupy.cuda.runtime.getDeviceCount", "cupy.matmul", "cupyx.scipy.special.erf"} <= names  # it does find them
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
    assert {"cupy.block", "cupy.cuda.Dvice", "cupy.sum(initial=)", "cupy.get_default_memory_pool().used"} <= set(
        lacking(uses.found))


def test_every_xp_name_in_the_library_exists_in_cupy():
    found = uses_in(ROOT / "gpuprop", xp="cupy")
    assert ("cupy.matmul", ()) in found
    own = {f"cupy.{name}" for name in EXTRAS}
    assert lacking((name, keywords) for name, keywords in found if name.partition("(")[0] not in own) == []


@pytest.mark.parametrize("path", ["", "linalg", "fft"])
def test_the_strict_namespace_offers_nothing_that_cupy_has_not(path):
    xp, module, cupy = Namespace(StrictArray.machine), np, "cupy"
    if path:
        xp, module, cupy = getattr(xp, path), getattr(module, path), f"cupy.{path}"
    offered = {name for name in dir(module) if not name.startswith("_") and hasattr(xp, name)}
    assert len(offered) > 10
    assert lacking((f"{cupy}.{name}", ()) for name in offered) == []


def test_the_strict_array_has_no_method_that_cupys_has_not():
    public = {name for name in dir(StrictArray) if not name.startswith("_")} - {"machine"}
    assert public > set(METHODS)
    assert lacking((f"cupy.ndarray.{name}", ()) for name in public) == []
