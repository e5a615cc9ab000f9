"""Op bodies see arrays through `xp` alone, never ask the host for a value, and can be differentiated again: read from their source."""

import ast
import importlib
import inspect
import pkgutil
import textwrap

import pytest

import gpuprop.functional
from gpuprop.autograd import Differentiable
from gpuprop.ops import definitions

HOST = {"float", "int", "bool", "item", "tolist", "get", "asarray", "array", "nonzero", "unique"}
METHODS = {"sum", "mean", "max", "reshape", "transpose", "swapaxes", "astype"}
PYTHON = {"on", "fn", "append", "index", "accumulate", "prod", "pairwise", "cycle", "sqrt", "log", "get", "items", "values", "split"}
MODULES = {"math", "itertools", "functools", "operator"}
LIBRARIES = {"np", "numpy", "cp", "cupy"}

for module in pkgutil.iter_modules(gpuprop.functional.__path__):
    importlib.import_module(f"gpuprop.functional.{module.name}")
NAMES = sorted(name for name in definitions if name.startswith("gpuprop.functional"))


def tree(name):
    fn = inspect.unwrap(definitions[name])
    return ast.parse(textwrap.dedent(inspect.getsource(fn))).body[0]


def moves(name):
    """Is it a linear op or a kernel, which may write into arrays?"""
    decorators = [ast.unparse(d) for d in tree(name).decorator_list]
    return any(d.startswith(("linear_op", "kernel")) for d in decorators)


@pytest.mark.parametrize("name", NAMES)
def test_no_library_and_no_host(name):
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Name):
            assert node.id not in LIBRARIES, f"{name}: arrays come through xp"
        assert not isinstance(node, ast.MatMult), f"{name}: write xp.matmul, a backend owns its products"
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            on_python = isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") in MODULES
            assert called not in HOST or on_python or called == "int" and _of_shape(node), f"{name}: {called} reads or copies host data"
            assert called not in ("dot", "tensordot", "einsum") or name.endswith((":dot", ":einsum")), f"{name}: CuPy refuses cuBLAS under capture"


def _of_shape(node):
    """int() of what the host knows: a shape, a constant."""
    return "shape" in ast.unparse(node) or "size" in ast.unparse(node)


@pytest.mark.parametrize("name", [n for n in NAMES if not moves(n)])
def test_body_can_be_differentiated(name):
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Assign | ast.AugAssign):
            for target in getattr(node, "targets", None) or [node.target]:
                assert not isinstance(target, ast.Subscript), f"{name}: only a linear_op or kernel writes into an array"
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "xp":
            known = node.attr in Differentiable.ops or node.attr in Differentiable.constant
            assert known, f"{name}: xp.{node.attr} is no op"
        if isinstance(node, ast.Call):
            assert "out" not in {k.arg for k in node.keywords}, f"{name}: out= writes into an array"
            if isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") not in {"xp", *MODULES}:
                assert node.func.attr in METHODS | PYTHON, f"{name}: Tensors have no .{node.func.attr} that bodies may use"
