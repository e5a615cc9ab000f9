"""Rules for the bodies of ops, checked in their source.

A body accesses arrays through `xp` only, does not read values on the host, and can be
differentiated.
"""

import ast
from pathlib import Path

import pytest

import gpuprop
from gpuprop._core.namespace import Differentiable

ROOT = Path(gpuprop.__file__).parent
READS_OR_COPIES = {"float", "int", "bool", "item", "tolist", "get", "asarray", "array", "nonzero",
                   "unique"}
TENSOR_METHODS = {"sum", "mean", "max", "reshape", "transpose", "swapaxes", "astype"}
# Methods of lists, dicts, strings and ops, and `step` of a recurrent cell.
PYTHON_METHODS = {"on", "fn", "append", "index", "get", "items", "values", "split", "step"}
PYTHON_MODULES = {"math", "itertools", "functools", "operator"}
PRODUCTS = {"dot", "tensordot", "einsum"}
ARRAY_LIBRARIES = {"np", "numpy", "cp", "cupy"}


def bodies(*patterns):
    """Every function whose first parameter is `xp`, by file and name."""
    found = {}
    for path in (path for pattern in patterns for path in sorted(ROOT.glob(pattern))):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and [a.arg for a in node.args.args[:1]] == ["xp"]:
                found[f"{path.stem}:{node.name}"] = node
    return found


def decorators(node):
    return [ast.unparse(d) for d in node.decorator_list]


def is_portable_version(name, found):
    """True for a portable version, and for a function that only portable versions call."""
    if found[name].decorator_list:
        return any(d.endswith(".faster") for d in decorators(found[name]))
    file, _, function = name.partition(":")
    callers = [other for other, node in found.items()
               if other.startswith(f"{file}:") and other != name and function in names_in(node)]
    return bool(callers) and all(is_portable_version(caller, found) for caller in callers)


def may_write(name, found):
    """True for linear ops, kernels, pointwise bodies and portable versions.

    They may change arrays in place.
    """
    writers = ("linear_op", "kernel", "pointwise")
    own = any(d.startswith(writers) for d in decorators(found[name]))
    return own or is_portable_version(name, found)


def names_in(node):
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


BODIES = bodies("_array/*.py", "distributions/*.py", "functional/*.py", "optim/*.py", "random.py")
OF_FUNCTIONS = bodies("_array/*.py", "distributions/*_functions.py", "distributions/_linalg.py",
                      "functional/*.py")
DIFFERENTIATED = {name: node for name, node in OF_FUNCTIONS.items()
                  if not may_write(name, OF_FUNCTIONS)}


def test_bodies_are_found():
    assert len(DIFFERENTIATED) > 150
    assert "_cross_entropy:nll_loss" in DIFFERENTIATED
    assert "_adam:adam_update" in BODIES


@pytest.mark.parametrize("name", BODIES)
def test_body_uses_xp_and_reads_no_values(name):
    for node in ast.walk(BODIES[name]):
        if isinstance(node, ast.Name):
            assert node.id not in ARRAY_LIBRARIES, "use xp"
        assert not isinstance(node, ast.MatMult), "use xp.matmul, which a backend may override"
        if isinstance(node, ast.Call):
            function = node.func
            owner = getattr(getattr(function, "value", None), "id", "")
            called = getattr(function, "attr", None) or getattr(function, "id", "")
            allowed = owner in PYTHON_MODULES or (called == "int" and _of_shape(node))
            assert called not in READS_OR_COPIES or allowed, f"{called} reads or copies host data"
            assert called not in PRODUCTS, f"CuPy cannot capture {called}"


def _of_shape(node):
    """True for int() of a shape or size, which the host knows."""
    return "shape" in ast.unparse(node) or "size" in ast.unparse(node)


@pytest.mark.parametrize("name", DIFFERENTIATED)
def test_body_can_be_differentiated(name):
    for node in ast.walk(DIFFERENTIATED[name]):
        if isinstance(node, ast.Assign | ast.AugAssign):
            for target in getattr(node, "targets", None) or [node.target]:
                written = isinstance(target, ast.Subscript)
                assert not written, "only a linear_op or kernel writes into an array"
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "xp":
            known = node.attr in Differentiable.ops or node.attr in Differentiable.constant
            assert known, f"xp.{node.attr} is no op"
        if isinstance(node, ast.Call):
            assert "out" not in {k.arg for k in node.keywords}, "out= writes into an array"
            if isinstance(node.func, ast.Attribute):
                owner = getattr(node.func.value, "id", "")
                if owner not in {"xp", *PYTHON_MODULES}:
                    assert node.func.attr in TENSOR_METHODS | PYTHON_METHODS, (
                        f"Tensors have no .{node.func.attr} that bodies may use")
