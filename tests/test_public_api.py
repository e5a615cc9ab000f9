"""The public surface is what is meant, and changes on purpose only."""

import difflib
import inspect
import re
import subprocess
import sys

import public_api
import pytest

import gpuprop

MODULES = list(public_api.modules())


def test_it_is_as_it_was():
    before, now = public_api.FILE.read_text().splitlines(), public_api.text().splitlines()
    changes = "\n".join(difflib.unified_diff(before, now, "before", "now", n=1, lineterm=""))
    assert not changes, f"the public API changed; if so meant, run tests/public_api.py:\n{changes}"


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__)
def test_every_public_module_lists_its_names(module):
    assert sorted(set(module.__all__)) == sorted(module.__all__)
    for name in module.__all__:
        assert hasattr(module, name) and not name.startswith("_")
    stray = {
        name for name, value in vars(module).items()
        if not name.startswith("_") and name not in module.__all__
        and getattr(value, "__module__", None) == module.__name__}
    assert not stray, f"{module.__name__} defines {stray}, which are not in __all__"


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__)
def test_no_function_hides_a_module(module):
    for name in module.__all__:
        value = getattr(module, name)
        hidden = sys.modules.get(f"{module.__name__}.{name}")
        assert hidden is None or hidden is value, f"{module.__name__}.{name} hides a module"


def test_everything_public_is_documented():
    own = [m for m in MODULES if not m.__name__.startswith("gpuprop.torch")]  # PyTorch documents it
    missing = [
        f"{module.__name__}.{name}" for module in own for name in module.__all__
        if callable(value := getattr(module, name)) and not inspect.getdoc(value)]
    assert not missing


def test_sources_of_ops_are_found():
    from gpuprop import functional as F

    assert "def relu(xp" in inspect.getsource(F.relu)
    assert "def linear(xp" in inspect.getsource(F.linear)
    for name in F.__all__:
        assert "def " in inspect.getsource(getattr(F, name)), name


def test_modules_load_at_first_use():
    code = ("import sys, gpuprop\n"
            "late = 'nn optim functional data distributions training testing verification "
            "io models'.split()\n"
            "print([m for m in late if 'gpuprop.' + m in sys.modules])\n"
            "print(gpuprop.nn.__name__, gpuprop.capture.__name__, 'nn' in dir(gpuprop))\n"
            "from gpuprop import *\n"
            "print(capture is gpuprop.capture, exp is gpuprop.exp, nn is gpuprop.nn)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "gpuprop.nn capture True", "True True True"]


@pytest.mark.parametrize("name", gpuprop._NAME_HERE)
def test_a_name_of_pytorch_is_answered_with_the_one_here(name):
    with pytest.raises(AttributeError, match=name) as error:
        getattr(gpuprop, name)
    found = gpuprop
    for part in re.search(r"gpuprop\.(\S+)$", str(error.value))[1].split("."):
        found = getattr(found, part)
    assert callable(found)
