"""The dtypes of results of `gpuprop.torch` are those of PyTorch."""

import itertools

import pytest
import torch as theirs

import gpuprop.torch as ours

DTYPES = "float32 float64 float16 int64 int32 uint8 bool".split()
SHAPES = [((3,), (3,)), ((3,), ()), ((), (3,)), ((), ())]

BINARY = {
    "add": lambda torch, a, b: a + b,
    "multiply": lambda torch, a, b: a * b,
    "divide": lambda torch, a, b: a / b,
    "floor divide": lambda torch, a, b: a // b,
    "power": lambda torch, a, b: a**b,
    "compare": lambda torch, a, b: a > b,
    "where": lambda torch, a, b: torch.where(a > b, a, b),
    "maximum": lambda torch, a, b: torch.maximum(a, b),
    "cat": lambda torch, a, b: torch.cat([a.reshape(-1), b.reshape(-1)]),
}
UNARY = {
    "+ 2": lambda torch, a: a + 2,
    "* 2.5": lambda torch, a: a * 2.5,
    "/ 2": lambda torch, a: a / 2,
    "// 2": lambda torch, a: a // 2,
    "** 0.5": lambda torch, a: a**0.5,
    "2 -": lambda torch, a: 2 - a,
    "1.5 /": lambda torch, a: 1.5 / a,
    "neg": lambda torch, a: -a,
    "where": lambda torch, a: torch.where(a > 0, a, 0.0),
    "lerp": lambda torch, a: torch.lerp(a, a, 0.5),
    "clamp": lambda torch, a: a.clamp(0, 1.5),
    "masked_fill": lambda torch, a: a.masked_fill(a > 0, 0.0),
    "full_like": lambda torch, a: torch.full_like(a, 2),
    **{name: lambda torch, a, name=name: getattr(a, name)()
       for name in """exp sqrt sum mean std sigmoid abs argmax norm prod round floor
                      log1p""".split()},
    **{name: lambda torch, a, name=name: getattr(a, name)(0)
       for name in "cumsum softmax sum mean argmax".split()},
}


def dtype(torch, f, *args):
    """The dtype of a result, or None if the library refuses the call."""
    try:
        return str(f(torch, *args).dtype).removeprefix("torch.")
    except (RuntimeError, TypeError, NotImplementedError):
        return None


def ones(torch, shape, name):
    return torch.ones(shape).to(getattr(torch, name))


@pytest.mark.parametrize("name", BINARY)
def test_of_two(name):
    differ = {}
    for (a, b), (i, j) in itertools.product(itertools.product(DTYPES, DTYPES), SHAPES):
        found = {torch: dtype(torch, BINARY[name], ones(torch, i, a), ones(torch, j, b))
                 for torch in (theirs, ours)}
        if found[theirs] not in (None, found[ours]):
            differ[a, i, b, j] = tuple(found.values())
    assert not differ


@pytest.mark.parametrize("name", UNARY)
def test_of_one(name):
    differ = {}
    for a in DTYPES:
        found = {torch: dtype(torch, UNARY[name], ones(torch, (3,), a)) for torch in (theirs, ours)}
        if found[theirs] not in (None, found[ours]):
            differ[a] = tuple(found.values())
    assert not differ
