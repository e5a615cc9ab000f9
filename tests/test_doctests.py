"""The examples in docstrings run and show what they say."""

import doctest
import importlib
import inspect
import pkgutil

import numpy as np
import pytest

import gpuprop

FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
NAMES = {"__name__": "__main__", "gpuprop": gpuprop, "np": np}


def modules():
    """Every module of gpuprop that can be imported without starting a program."""
    yield gpuprop
    for found in pkgutil.walk_packages(gpuprop.__path__, "gpuprop."):
        if not found.name.endswith(("__main__", "._started.torch")):
            yield importlib.import_module(found.name)


def source_of(function):
    return inspect.unwrap(function).__code__.co_filename


def documented(module):
    """(name, object) of a module and of the functions, classes and methods written in its file."""
    yield module.__name__, module
    for name, value in vars(module).items():
        if inspect.isclass(value) and value.__module__ == module.__name__:
            yield f"{module.__name__}.{name}", value
            for method, inner in vars(value).items():
                inner = getattr(inner, "fget", None) or getattr(inner, "__func__", inner)
                if inspect.isfunction(inner):
                    yield f"{module.__name__}.{name}.{method}", inner
        elif inspect.isfunction(value) and source_of(value) == module.__file__:
            yield f"{module.__name__}.{name}", value  # ops too, which are made by a decorator


def examples():
    parser, seen = doctest.DocTestParser(), set()
    for module in modules():
        for name, value in documented(module):
            text = value.__doc__ or ""
            if ">>>" in text and id(value) not in seen:
                seen.add(id(value))
                yield parser.get_doctest(text, dict(NAMES), name, module.__file__, 0)


@pytest.mark.parametrize("example", list(examples()), ids=lambda example: example.name)
def test_docstring(example):
    gpuprop.manual_seed(0)
    failures = []
    doctest.DocTestRunner(optionflags=FLAGS, verbose=False).run(example, out=failures.append)
    assert not failures, "".join(failures)
