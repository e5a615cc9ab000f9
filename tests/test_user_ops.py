"""Ops, kernels and pointwise bodies that a user defines: signatures, annotations, wrong bodies."""

import inspect
import typing
from typing import Annotated, Optional

import numpy as np
import pytest

import gpuprop
import gpuprop as gp
import gpuprop.functional as F
from gpuprop import Array as A
from gpuprop import kernel, op
from gpuprop._core.composed import composed
from gpuprop.testing import Row, all_rows

POSTPONED = """
from __future__ import annotations
from typing import Optional
import gpuprop
import gpuprop as gp
from gpuprop import Array
from gpuprop import Array as A

Maybe = gp.Array | None

def make(annotation):
    def body(xp, x: Array, w=None):
        return (x if w is None else x * w), (lambda d: d * w, lambda d: d * x)
    body.__annotations__["w"] = annotation
    return gpuprop.op(body)
"""
scope: dict = {"__name__": "postponed"}
exec(compile(POSTPONED, "postponed.py", "exec"), scope)


def scaled(annotation):
    """``x * w`` by an op whose second parameter is annotated so."""

    def body(xp, x: gp.Array, w=None):
        return (x if w is None else x * w), (lambda d: d * w, lambda d: d * x)

    body.__annotations__["w"] = annotation
    return op(body)


def gradient_of_second(fn):
    x, w = (gp.tensor([n], requires_grad=True) for n in (2.0, 3.0))
    fn(x, w).sum().backward()
    return w.grad.tolist()


# ---- annotations ---------------------------------------------------------------------------------


@pytest.mark.parametrize("annotation", [
    gp.Array, gp.Array | None, Optional[gp.Array], None | gp.Array, A])  # noqa: UP045
def test_annotations_of_arrays(annotation):
    assert gradient_of_second(scaled(annotation)) == [2.0]


@pytest.mark.parametrize("annotation", [
    "Array", "gpuprop.Array", "gp.Array", "A", "Maybe", "Array | None", "None | gp.Array",
    "Optional[Array]", "Optional[gp.Array]", "unknown.Array", "unknown.Array | None"])
def test_postponed_annotations_of_arrays(annotation):
    assert gradient_of_second(scope["make"](annotation)) == [2.0]


@pytest.mark.parametrize("annotation", [
    list[gp.Array], tuple[gp.Array, ...], Annotated[gp.Array, "weights"], np.ndarray, gp.Tensor,
    gp.Array | int, "list[Array]", "list[A]", "dict[str, A]", "np.ndarray", "Tensor", "ArrayLike",
    "Array | float"])
def test_what_only_looks_like_an_array_is_refused(annotation):
    with pytest.raises(TypeError, match=r"'w' is annotated .*gpuprop\.Array"):
        scope["make"](annotation) if isinstance(annotation, str) else scaled(annotation)


@pytest.mark.parametrize("annotation", [int, "float", str | None, "Sequence[int]", typing.Any])
def test_a_tensor_for_a_constant_is_refused(annotation):
    fn = scaled(annotation)
    with pytest.raises(TypeError, match=r"'w'.*Tensor.*constant"):
        fn(gp.ones(2), gp.ones(2))


def test_a_tensor_as_the_default_of_a_constant_is_refused():
    w = gp.tensor([2.0])
    with pytest.raises(TypeError, match=r"scale\(\): 'w'.*Tensor.*constant"):

        @op
        def scale(xp, x: A, w=w):
            return x * w, (lambda d: d * w,)


def test_annotations_can_be_evaluated():
    from gpuprop import functional as F

    assert typing.get_type_hints(F.linear)["weight"] is gp.Array


# ---- signatures ----------------------------------------------------------------------------------


def test_kinds_of_parameters_are_kept():
    @op
    def mixed(xp, /, x: gp.Array, n=3, m=1, *, k, w: gp.Array = None, last=2):
        factor = n * m * 10**k * last
        y = x * factor
        return y if w is None else y * w, (lambda d: d * factor, lambda d: d * y)

    kinds = {p.name: (p.kind.name, p.default) for p in inspect.signature(mixed).parameters.values()}
    assert kinds == {
        "x": ("POSITIONAL_OR_KEYWORD", inspect.Parameter.empty),
        "n": ("POSITIONAL_OR_KEYWORD", 3), "m": ("POSITIONAL_OR_KEYWORD", 1),
        "k": ("KEYWORD_ONLY", inspect.Parameter.empty),
        "w": ("KEYWORD_ONLY", None), "last": ("KEYWORD_ONLY", 2)}
    assert mixed(gp.ones(1), k=0).tolist() == [6.0]
    assert mixed(gp.ones(1), 2, 5, k=1, w=gp.full(1, 2.0), last=1).tolist() == [200.0]
    with pytest.raises(TypeError, match="'k'"):
        mixed(gp.ones(1))
    with pytest.raises(TypeError, match="positional"):
        mixed(gp.ones(1), 2, 5, 1)
    assert mixed(x=gp.ones(1), k=0).tolist() == [6.0]


def test_any_name_of_a_parameter():
    @op
    def odd(xp, record: gp.Array, none: gp.Array, call=1, tuple=2, no_constants=3):
        return record * none * (call + tuple + no_constants), (lambda d: d, lambda d: d)

    @op
    def joined(xp, *tuple: gp.Array, record=0):
        return xp.concatenate(list(tuple), axis=record), None

    assert odd(gp.ones(1), gp.ones(1), 0).tolist() == [5.0]
    assert joined([gp.ones(1), gp.ones(2)]).shape == (3,)


@pytest.mark.parametrize("body", [np.sin, len, "exp", object()])
def test_what_is_no_function_is_refused(body):
    with pytest.raises(TypeError, match="must be a Python function"):
        op(body)


def test_parameters_that_a_body_cannot_have():
    with pytest.raises(TypeError, match="parameters"):
        op(lambda xp, **options: None)

    def beside(xp, x: gp.Array, *rest: gp.Array):
        return x, None

    with pytest.raises(TypeError, match="only arrays"):
        op(beside)

    def by_position(xp, x: gp.Array, /, n=1):
        return x, None

    with pytest.raises(TypeError, match="positional-only"):
        op(by_position)


def test_options_are_checked_at_definition():
    def body(xp, x: gp.Array):
        return x, None

    for options in ({"precision": "lo"}, {"half": "wrong"}, {"integers": "wrong"}):
        with pytest.raises(ValueError, match=r"expected (a precision|half) of"):
            op(**options)(body)
    with pytest.raises(TypeError, match="two arrays"):
        op(promote=True)(body)


# ---- bodies --------------------------------------------------------------------------------------


def test_a_list_of_pullbacks_is_refused():
    @op
    def listed(xp, x: gp.Array):
        return x * 2, [lambda d: d * 2]

    with pytest.raises(TypeError, match=r"listed.*list"):
        listed(gp.ones(1, requires_grad=True))


def test_a_kernel_refuses_arrays_of_two_backends(backend):
    @kernel
    def add_to(xp, a: gp.Array, b: gp.Array):
        a += b

    other = "strict" if backend.name == "numpy" else "numpy"
    with gpuprop.use(other):
        b = gp.ones(2)
    with pytest.raises(gp.BackendMismatchError, match=r"add_to.*'b'"):
        add_to(gp.ones(2), b)


def test_tracebacks_and_sources_lead_to_the_body():
    @op
    def failing(xp, x: gp.Array):
        raise RuntimeError("inside of the body")

    with pytest.raises(RuntimeError, match="inside") as error:
        failing(gp.ones(1))
    assert {str(entry.path) for entry in error.traceback} >= {__file__}
    assert "inside of the body" in inspect.getsource(failing)


def test_a_composed_function_of_several_outputs_takes_plain_arrays():
    both = composed(lambda x: (x + 1, x * 2))
    one, other = both(np.ones(2))
    assert type(one) is type(other) is np.ndarray and other.tolist() == [2.0, 2.0]
    assert all(isinstance(t, gp.Tensor) for t in both(gp.ones(2)))


def test_an_op_that_refers_to_itself():
    source = """
from __future__ import annotations
from typing import Optional
import gpuprop as gp
from gpuprop import Array as A

def make():
    @gp.op
    def double(xp, x: A, w: Optional[A] = None, n=0):
        return double.fn(xp, x, w) if n else (x * 2, (lambda d: d * 2, None))
    return double
"""
    names = {"__name__": "itself"}
    exec(source, names)
    assert names["make"]()(gp.ones(1), n=1).tolist() == [2.0]


def float_constants():
    """The rows of every constant of a public function that is a float in some row."""
    found = {}
    for row in all_rows():
        name = row.op.__name__
        if row.op not in (getattr(gp, name, None), getattr(F, name, None)):
            continue
        bound = inspect.signature(row.op).bind(*row.args, **row.kwargs)
        bound.apply_defaults()
        for name, value in bound.arguments.items():
            is_array = "Array" in str(bound.signature.parameters[name].annotation)
            if isinstance(value, float) and not is_array and name != "norm_type":  # unused there
                found.setdefault((row.name, name), (row, bound))
    return found


@pytest.mark.parametrize("key", FLOATS := float_constants(), ids=".".join)
def test_a_tensor_is_no_constant(key):
    """Its gradient would be lost; the message names the parameter."""
    _, name = key
    row, bound = FLOATS[key]
    arguments = inspect.BoundArguments(bound.signature, {
        **bound.arguments, name: gpuprop.tensor(bound.arguments[name], requires_grad=True)})
    call = Row(row.op, *arguments.args, **arguments.kwargs).map_arrays(gpuprop.tensor)
    with pytest.raises(TypeError, match=f"{name}.*Tensor|{name}.*must be .*got tensor"):
        call()
