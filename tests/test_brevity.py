"""The definitions a reader learns from are short: their lines of code are counted."""

import inspect
import io
import tokenize

import pytest

from gpuprop.functional import convolution, loss, normalization
from gpuprop.functional.activation import log_softmax

SILENT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}

DEFINITIONS = {  # what belongs to one, and how many lines it may have
    "softmax cross-entropy": (20, loss.labelled_cross_entropy.fn, loss.labelled_nll.fn),
    "log-softmax": (8, log_softmax.fn),
    "convolution and its three gradients": (60, convolution.conv.fn, convolution.correlate, convolution.spread,
                                            convolution.weigh, convolution.columns, convolution.by_group,
                                            convolution.along_channels),
    "normalization of layers, batches, groups and instances": (15, normalization.standardize.fn),
}


def lines(function):
    """The numbers of the lines of code in its body: without signature, docstring, comments and blanks."""
    source = inspect.cleandoc("\n" + inspect.getsource(function))
    tokens = [t for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type not in SILENT]
    body = next(i for i, t in enumerate(tokens) if t.string == ":" and depth(tokens[:i]) == 0
                and "def" in {u.string for u in tokens[:i]}) + 1
    body += tokens[body].type == tokenize.STRING
    return {n for t in tokens[body:] for n in range(t.start[0], t.end[0] + 1)}


def depth(tokens):
    return sum((t.string in "([{") - (t.string in ")]}") for t in tokens if t.type == tokenize.OP)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_definitions_are_short(name):
    most, *functions = DEFINITIONS[name]
    counts = {f.__name__: len(lines(f)) for f in functions}
    assert 0 < sum(counts.values()) <= most, counts


def test_what_is_counted():
    def short(a, b={1: 2}):  # noqa: B006
        """Nothing."""
        # is said

        c = [a,
             b]
        return c

    assert len(lines(short)) == 3
