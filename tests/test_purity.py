"""Bodies see arrays through `xp` alone, never ask the host for a value, and can be differentiated: by their source."""

import ast
from pathlib import Path

import pytest

import gpuprop
from gpuprop._core.namespace import Differentiable

ROOT = Path(gpuprop.__file__).parent
HOST = {"float", "int", "bool", "item", "tolist", "get", "asarray", "array", "nonzero", "unique"}
METHODS = {"sum", "mean", "max", "reshape", "transpose", "swapaxes", "astype"}
PYTHON = {"on", "fn", "append", "index", "get", "items", "values", "split"}  # of lists, dicts, strings and ops
MODULES = {"math", "itertools", "functools", "operator"}
PRODUCTS = {"dot", "tensordot", "einsum"}
LIBRARIES = {"np", "numpy", "cp", "cupy"}


def bodies(*files):
    """Every function whose first parameter is `xp`, by file and name."""
    found = {}
    for path in (p for pattern in files for p in sorted(ROOT.glob(pattern))):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and [a.arg for a in node.args.args[:1]] == ["xp"]:
                found[f"{path.stem}:{node.name}"] = node
    return found


def writes(node):
    """Is it a linear op, a kernel, a pointwise body or a faster version, which may change arrays in place?"""
    words = [ast.unparse(d) for d in node.decorator_list]
    return any(word.startswith(("linear_op", "kernel", "pointwise")) or word.endswith(".faster") for word in words)


BODIES = bodies("_array/*.py", "functional/*.py", "optim/*.py", "random.py")
DIFFERENTIATED = {name: node for name, node in bodies("_array/*.py", "functional/*.py").items() if not writes(node)}


def test_they_are_found():
    assert len(DIFFERENTIATED) > 150 and "_loss:labelled_nll" in DIFFERENTIATED and "adam:adam_update" in BODIES


@pytest.mark.parametrize("name", BODIES)
def test_no_library_and_no_host(name):
    for node in ast.walk(BODIES[name]):
        if isinstance(node, ast.Name):
            assert node.id not in LIBRARIES, "arrays come through xp"
        assert not isinstance(node, ast.MatMult), "write xp.matmul: a backend owns its products"
        if isinstance(node, ast.Call):
            owner = getattr(getattr(node.func, "value", None), "id", "")
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            known = owner in MODULES or (called == "int" and _of_shape(node))
            assert called not in HOST or known, f"{called} reads or copies host data"
            assert called not in PRODUCTS, f"CuPy refuses {called} in a capture"


def _of_shape(node):
    """int() of what the host knows: a shape."""
    return "shape" in ast.unparse(node) or "size" in ast.unparse(node)


@pytest.mark.parametrize("name", DIFFERENTIATED)
def test_body_can_be_differentiated(name):
    for node in ast.walk(DIFFERENTIATED[name]):
        if isinstance(node, ast.Assign | ast.AugAssign):
            for target in getattr(node, "targets", None) or [node.target]:
                assert not isinstance(target, ast.Subscript), "only a linear_op or kernel writes into an array"
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "xp":
            assert node.attr in Differentiable.ops or node.attr in Differentiable.constant, f"xp.{node.attr} is no op"
        if isinstance(node, ast.Call):
            assert "out" not in {k.arg for k in node.keywords}, "out= writes into an array"
            if isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") not in {"xp", *MODULES}:
                assert node.func.attr in METHODS | PYTHON, f"Tensors have no .{node.func.attr} that bodies may use"
