"""Compiles elementwise bodies to one loop each, if Numba is installed.

A body runs once on symbols, which record its operations as lines of Python for Numba.  Its loop
passes over memory once, and other threads run meanwhile.  The bits are NumPy's: what IEEE 754
rounds is compiled, without contraction.  A body with other functions, such as exp, is not compiled.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpuprop.backend import several
from gpuprop_numpy import compiled

BOOL = np.dtype("bool")
NUMBERS = bool, int, float


class Untranslatable(Exception):
    """The body has operations that are not compiled."""


def loop_of(fn: Callable, arrays: Sequence, constants: dict[str, Any],
            dtypes: Sequence[np.dtype]) -> Callable | None:
    """``loop(*arrays, *outs)`` that computes a body on flat blocks, or None.

    `arrays` are flat arrays, 0-d arrays and floats; `dtypes` are those of the results.  Arrays that
    the body updates are updated.
    """
    decorate = compiled.njit()
    if decorate is None:
        return None
    try:
        source, names = _Trace(fn, arrays, constants).source(dtypes)
    except (Untranslatable, TypeError):
        return None
    exec(compile(source, f"<loop of {fn.__name__}>", "exec"), names)
    return compiled.Loop(decorate(names["loop"]))


class _Trace:
    """One run of a body on symbols."""

    def __init__(self, fn: Callable, arrays: Sequence, constants: dict[str, Any]) -> None:
        floats = {a.dtype for a in arrays if isinstance(a, np.ndarray) and a.dtype != BOOL}
        if len(floats) != 1 or not floats <= {np.dtype("float32"), np.dtype("float64")}:
            raise Untranslatable
        self.dtype, = floats
        self.numbers: list[str] = []  # lines before the loop
        self.lines: list[str] = []
        self.names: dict[str, Any] = {
            "__name__": __name__,  # `loop_cache` describes functions of this package only
            "F": self.dtype.type, "sqrt": math.sqrt, "inf": self.dtype.type(math.inf)}
        symbols: dict[int, Any] = {}  # by id: the body sees its updates of an array given twice
        for k, a in enumerate(arrays):
            if id(a) not in symbols:
                symbols[id(a)] = self._argument(k, a)
        self.parameters = [f"a{k}" for k in range(len(arrays))]
        self.elements = [s for s in symbols.values() if isinstance(s, Symbol) and s.argument]
        found = fn(_Functions(self), *[symbols[id(a)] for a in arrays], **constants)
        self.results = several(found)

    def _argument(self, k: int, a: Any) -> Any:
        if a is None:
            return None
        if isinstance(a, np.ndarray):
            if not a.ndim:
                self.numbers.append(f"n{k} = a{k}[()]")
                return Symbol(self, a.dtype, f"n{k}", is_writeable=False)
            return Symbol(self, a.dtype, self.emit(f"a{k}[i]"), f"a{k}", a.flags.writeable)
        if type(a) is float:
            return Symbol(self, float, f"a{k}")
        raise Untranslatable

    def source(self, dtypes: Sequence[np.dtype]) -> tuple[str, dict[str, Any]]:
        """The source of the loop, and the names that it reads."""
        if not self.elements or [getattr(r, "kind", None) for r in self.results] != [*dtypes]:
            raise Untranslatable
        outs = [f"out{j}" for j in range(len(dtypes))]
        self.lines += [f"{s.argument}[i] = {s.code}" for s in self.elements if s.is_updated]
        self.lines += [f"{out}[i] = {r.code}" for out, r in zip(outs, self.results, strict=True)]
        head = f"def loop({', '.join([*self.parameters, *outs])}):"
        loop = f"for i in range({self.elements[0].argument}.size):"
        lines = [*self.numbers, loop, *(f"    {line}" for line in self.lines)]
        return "\n    ".join([head, *lines]), self.names

    def emit(self, text: str) -> str:
        """A line that computes `text`; returns the name of its result."""
        name = f"v{len(self.lines)}"
        self.lines.append(f"{name} = {text}")
        return name

    def operand(self, x: Any) -> str:
        """The code of a symbol or number in the dtype of the arrays."""
        if isinstance(x, Symbol):
            return x.code if x.kind == self.dtype else f"F({x.code})"
        if type(x) in NUMBERS:
            name = f"k{len(self.names)}"
            self.names[name] = self.dtype.type(x)
            return name
        raise Untranslatable

    def arithmetic(self, text: str, *operands: Any) -> Symbol:
        """Emit `text` with the operands in place of {0} and {1}."""
        if all(not isinstance(x, Symbol) or x.kind != self.dtype for x in operands):
            raise Untranslatable  # the result has another dtype
        return Symbol(self, self.dtype, self.emit(text.format(*map(self.operand, operands))))

    def comparison(self, text: str, *operands: Any) -> Symbol:
        return Symbol(self, BOOL, self.arithmetic(text, *operands).code)

    def logical(self, text: str, *operands: Any) -> Symbol:
        if not all(isinstance(x, Symbol) and x.kind == BOOL for x in operands):
            raise Untranslatable
        return Symbol(self, BOOL, self.emit(text.format(*(x.code for x in operands))))


class Symbol:
    """A number in the loop: its dtype (`float` for a Python number), and the name of its value."""

    __array_ufunc__ = None  # NumPy's scalars leave operators to this class

    def __init__(self, trace: _Trace, kind: Any, code: str, argument: str | None = None,
                 is_writeable: bool = True) -> None:
        self.trace = trace
        self.kind = kind
        self.code = code
        self.argument = argument  # the array that it is an element of
        self.is_writeable = is_writeable
        self.is_updated = False

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.kind)

    def astype(self, dtype: Any, copy: bool = True) -> Symbol:
        if np.dtype(dtype) != self.trace.dtype:
            raise Untranslatable
        return Symbol(self.trace, self.trace.dtype, self.trace.operand(self))

    def __pow__(self, y: Any) -> Symbol:
        if type(y) in (int, float) and y == 2:
            return self.trace.arithmetic("{0} * {0}", self)
        raise Untranslatable

    def __neg__(self) -> Symbol:
        return self.trace.arithmetic("-{0}", self)

    def __abs__(self) -> Symbol:
        return self.trace.arithmetic("abs({0})", self)

    def __invert__(self) -> Symbol:
        return self.trace.logical("not {0}", self)

    def __setitem__(self, index: Any, value: Any) -> None:
        if index is not Ellipsis:
            raise Untranslatable
        self.update(value)

    def update(self, value: Any) -> Symbol:
        """``self += ...`` and the like, which every name of this array sees."""
        if self.kind != self.trace.dtype or not self.is_writeable:
            raise Untranslatable
        self.code = self.trace.operand(value)
        self.is_updated = True
        return self

    def __bool__(self) -> bool:
        raise Untranslatable

    def __getattr__(self, name: str) -> Any:
        raise Untranslatable


def _refuse(*operands: Any) -> Any:
    raise Untranslatable


def _set_operators() -> None:
    for word, sign in {"add": "+", "sub": "-", "mul": "*", "truediv": "/"}.items():
        text = f"{{0}} {sign} {{1}}"
        forward = lambda x, y, text=text: x.trace.arithmetic(text, x, y)
        setattr(Symbol, f"__{word}__", forward)
        setattr(Symbol, f"__r{word}__", lambda x, y, text=text: x.trace.arithmetic(text, y, x))
        setattr(Symbol, f"__i{word}__", lambda x, y, f=forward: x.update(f(x, y)))
    for word, sign in {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==",
                       "ne": "!="}.items():
        text = f"{{0}} {sign} {{1}}"
        setattr(Symbol, f"__{word}__", lambda x, y, text=text: x.trace.comparison(text, x, y))
    for word in ("pow", "floordiv", "mod", "and", "or", "xor", "lshift", "rshift"):
        setattr(Symbol, f"__i{word}__", _refuse)
    for word, text in {"and": "{0} and {1}", "or": "{0} or {1}"}.items():
        setattr(Symbol, f"__{word}__", lambda x, y, text=text: x.trace.logical(text, x, y))


_set_operators()


class _Functions:
    """``xp`` for a body that is traced."""

    def __init__(self, trace: _Trace) -> None:
        self._trace = trace

    def __getattr__(self, name: str) -> Any:
        value = getattr(np, name, None)
        is_dtype = isinstance(value, type) and issubclass(value, np.generic)
        if is_dtype or isinstance(value, float):  # xp.float32, xp.pi
            return value
        if name in ARITHMETIC:
            return functools.partial(self._trace.arithmetic, ARITHMETIC[name])
        if name in COMPARISONS:
            return functools.partial(self._trace.comparison, COMPARISONS[name])
        raise Untranslatable

    def where(self, condition: Any, x: Any, y: Any) -> Symbol:
        if not (isinstance(condition, Symbol) and condition.kind == BOOL):
            raise Untranslatable
        return self._trace.arithmetic(f"{{0}} if {condition.code} else {{1}}", x, y)

    def clip(self, x: Any, low: Any, high: Any) -> Any:
        x = x if low is None else self.maximum(x, low)
        return x if high is None else self.minimum(x, high)


ARITHMETIC = {
    "sqrt": "sqrt({0})", "square": "{0} * {0}", "abs": "abs({0})", "absolute": "abs({0})",
    "add": "{0} + {1}", "subtract": "{0} - {1}", "multiply": "{0} * {1}", "divide": "{0} / {1}",
    "negative": "-{0}",
    "maximum": "{0} if {0} > {1} or {0} != {0} else {1}",
    "minimum": "{0} if {0} < {1} or {0} != {0} else {1}",
}
COMPARISONS = {"isnan": "{0} != {0}", "isfinite": "abs({0}) < inf"}
