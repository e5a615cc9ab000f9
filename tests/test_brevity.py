"""Definitions are short enough to be read at one go: lines of code, without signature, docstring and comments."""

import ast
import inspect
import textwrap

import pytest

from gpuprop.functional import convolution, loss, normalization

DEFINITIONS = {  # with all gradients: the bodies that say what it is, and how many lines they may have
    "softmax cross-entropy": ([loss.labelled_cross_entropy, loss.labelled_nll], 20),
    "convolution": ([convolution.conv, convolution.correlate, convolution.spread, convolution.weigh,
                     convolution.columns, convolution.by_group, convolution.along_channels], 60),
    "layer norm": ([normalization.standardize], 15),
}


def lines(op):
    """How many lines the body of a function has."""
    function = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(getattr(op, "fn", op))))).body[0]
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return len({line for node in body for n in ast.walk(node) if hasattr(n, "lineno")
                for line in range(n.lineno, n.end_lineno + 1)})


@pytest.mark.parametrize("name", DEFINITIONS)
def test_definitions_are_short(name):
    bodies, most = DEFINITIONS[name]
    assert sum(map(lines, bodies)) <= most


def test_counting():
    assert lines(convolution.along_channels) == 1
    assert lines(convolution.columns) == 4
