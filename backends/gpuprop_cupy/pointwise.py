"""Elementwise bodies as one CUDA kernel: the body runs once on symbols, which write themselves down as C++.

What a body may say, and what its results are, is NumPy's: dtypes, in-place updates, integers.  The operations are the
C++ routines of CuPy's own ufuncs, so that values are CuPy's.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

import cupy
import numpy as np
from cupy._core._scalar import get_typename
from cupyx.scipy import special

# Each product and sum is rounded alone, as NumPy does it: a body then has the same bits on every backend, as random
# numbers must.  Memory is what these kernels wait for, so the instructions that contraction would save cost nothing.
OPTIONS = ("--fmad=false",)
HALF, BOOL = np.dtype("float16"), np.dtype("bool")  # in a trace HALF stands for bfloat16 too
STRONG = {bool: BOOL, int: np.dtype("int64"), float: np.dtype("float64")}  # of Python's numbers
ALLOWED = ("a pointwise body has operators, comparisons, & | ~ ^ << >>, abs(), .astype() and the elementwise functions "
           "of xp, on arrays and Python numbers")


def compiled(fn: Callable) -> Callable:
    """The elementwise body ``fn(xp, *arrays, **constants)`` as one kernel a signature.

    A signature is the arrays' dtypes, which of them are 0-d, the types of numbers, and the constants' values.  The body
    runs for a new one only.  Results have the common shape of all arrays.  A `range` as an argument stands for its
    elements, int64, along the last axis.
    """
    plans: dict[tuple, Callable] = {}

    @functools.wraps(fn)
    def run(xp: Any, *arrays: Any, **constants: Any) -> Any:
        key: list = [repr(constants)] if constants else []  # tells 1 from 1.0 and True, and 0.0 from -0.0
        for a in arrays:
            if type(a) is cupy.ndarray:
                key += (a.dtype, a.ndim == 0)
            else:
                key.append(type(a))
        plan = plans.get(signature := tuple(key))
        if plan is None:
            plan = plans[signature] = _planned(fn, arrays, constants)
        return plan(arrays)

    return run


class Baked(Exception):
    """The body computes with Python integers alone, of any size, which C++ has not: Python must do it."""

    def __init__(self, arguments: set[int]) -> None:
        self.arguments = arguments


def _planned(fn: Callable, arrays: Sequence, constants: dict[str, Any]) -> Callable:
    """``launch(arrays)`` for arguments of one signature; where integers are baked in, for each of their values."""
    baked: set[int] = set()
    while True:
        try:
            plan = Trace(fn, arrays, constants, baked).plan()
            break
        except Baked as found:
            baked |= found.arguments
    if not baked:
        return plan
    values = lambda arrays: tuple(arrays[k] for k in sorted(baked))
    plans = {values(arrays): plan}

    def launch(arrays: Sequence) -> Any:
        found = plans.get(values(arrays))
        if found is None:
            found = plans[values(arrays)] = Trace(fn, arrays, constants, baked).plan()
        return found(arrays)

    return launch


class Trace:
    """One run of a body on symbols: the lines of C++ that it wrote, and the kernel that they make.

    The arguments numbered in `baked` are Python's own integers to it.
    """

    def __init__(self, fn: Callable, arrays: Sequence, constants: dict[str, Any],
                 baked: Collection[int] = ()) -> None:
        self.name, self.baked = fn.__name__, baked
        self.prelude: list[str] = []  # what depends on 0-d arrays and numbers alone, once a thread
        self.lines: list[str] = []
        self.known: dict[tuple, list[str]] = {}  # the names of the results of what was written already
        self.preambles: dict[str, None] = {}
        self.half: Any = None  # the half type of this body
        self.updated: dict[int, Symbol] = {}  # arguments by position
        self.ranges = [k for k, a in enumerate(arrays) if type(a) is range]
        self.spread = bool(self.ranges) or any(type(a) is cupy.ndarray and a.ndim for a in arrays)
        self.integers: dict[str, int] = {}  # Python's, by name: which argument each is
        self.bounds: list[tuple] = []  # what they are taken as: (argument, dtype, its least and largest)
        self.params: list[str] = []  # as ElementwiseKernel declares them; "" for what is None
        for name, value in constants.items():
            self._check_constant(name, value)
        symbols = [self._argument(k, a) for k, a in enumerate(arrays)]
        self.results = fn(Functions(self), *symbols, **constants)

    def refuse(self, what: str) -> TypeError:
        return TypeError(f"{self.name}: {what}; {ALLOWED}")

    def _check_constant(self, name: str, value: Any) -> None:
        for v in value if type(value) is tuple else (value,):
            if not isinstance(v, bool | int | float | str | np.generic | np.dtype | type | None):
                raise self.refuse(f"the keyword {name}={type(value).__name__} is no constant: arrays are positional")

    # ---- arguments

    def _argument(self, k: int, a: Any) -> Any:
        kind, name = type(a), f"a{k}"
        if k in self.baked:
            self.params.append("")
            return a
        if kind is cupy.ndarray:
            raw = self.spread and not a.ndim
            self.params.append(f"{'raw ' * raw}{a.dtype.name} {name}")
            dtype = self.logical(a.dtype)
            return Symbol(self, dtype, self.let(dtype, f"{name}[0]" if raw else name, raw), raw, k)
        if a is None:
            self.params.append("")
            return None
        if kind is range:
            self.params.append(", ".join(f"int64 {name}_{part}" for part in ("start", "step", "size")))
            text = f"{name}_start + (i % {name}_size) * {name}_step"
            return Symbol(self, STRONG[int], self.let(STRONG[int], text, False), False)
        if kind in STRONG:
            self.params.append(f"{STRONG[kind].name} {name}")
            if kind is int:
                self.integers[name] = k
            return Symbol(self, BOOL if kind is bool else kind, name, True)
        if isinstance(a, np.generic):
            self.params.append(f"{a.dtype.name} {name}")
            dtype = self.logical(a.dtype)
            return Symbol(self, dtype, self.let(dtype, name, True), True)
        raise self.refuse(f"argument {k} is of type {kind.__module__}.{kind.__qualname__}, not an array of CuPy's")

    def logical(self, dtype: np.dtype) -> np.dtype:
        """The dtype of symbols that stands for an array's; a body knows one half type."""
        if dtype.name not in ("float16", "bfloat16"):
            return dtype
        if self.half not in (None, dtype):
            raise TypeError("float16 and bfloat16 in one elementwise expression: cast one of them")
        self.half = dtype
        return HALF

    def stored(self, dtype: Any) -> np.dtype:
        """The dtype of arrays that a symbol's stands for."""
        return (self.half or HALF) if dtype == HALF else STRONG.get(dtype, dtype)

    # ---- lines

    def let(self, dtype: np.dtype, text: str, once: bool) -> str:
        """The name of a constant, ``static_cast<dtype>(text)``."""
        return self.write([dtype], f"out0 = static_cast<{ctype(dtype)}>({text})", once)[0]

    def write(self, dtypes: Sequence, routine: str, once: bool) -> list[str]:
        """Names of the results ``out0``, ``out1`` ... of a routine; what was written before is not written again."""
        key = (routine, *dtypes)
        if key not in self.known:
            number = len(self.prelude) + len(self.lines)
            names = [f"v{number}_{i}" if i else f"v{number}" for i in range(len(dtypes))]
            code = re.sub(r"\bout(\d)\b", lambda m: names[int(m[1])], routine)
            if re.fullmatch(r"out0 = [^;]*;?", routine):
                code = f"const {ctype(dtypes[0])} {code.strip(';')};"
            else:
                declared = "".join(f"{ctype(t)} {n}; " for t, n in zip(dtypes, names, strict=True))
                code = f"{declared}{{ {code}; }}"
            (self.prelude if once else self.lines).append(code)
            self.known[key] = names
        return self.known[key]

    def read(self, x: Any, dtype: np.dtype) -> tuple[str, bool]:
        """C++ for a symbol or number in a dtype, and whether it depends on 0-d operands alone."""
        if isinstance(x, Symbol):
            if x.code in self.integers and dtype.kind in "iu":
                self.bounds.append((self.integers[x.code], dtype, np.iinfo(dtype)))
            same = widened(x.kind) == widened(dtype)
            return x.code if same else self.let(dtype, x.code, x.once), x.once
        return literal(x, dtype), True

    def dtype_of(self, x: Any) -> Any:
        """The dtype of an operand: Python's own `int` or `float` where it is weak."""
        if isinstance(x, Symbol):
            return x.kind
        if isinstance(x, np.generic):
            return self.logical(x.dtype)
        if type(x) not in STRONG:
            raise self.refuse(f"an operand is of type {type(x).__module__}.{type(x).__qualname__}")
        return BOOL if type(x) is bool else type(x)

    def call(self, name: str, *operands: Any) -> Any:
        """A function on symbols and numbers, by its name in NumPy."""
        types = [self.dtype_of(x) for x in operands]
        if not any(isinstance(t, np.dtype) for t in types):
            types = [STRONG[t] for t in types]
        return self.apply(name, types, operands)

    def operate(self, name: str, *operands: Any) -> Any:
        """An operator: of Python's numbers it makes another."""
        types = [self.dtype_of(x) for x in operands]
        if all(t is int for t in types):
            raise Baked({self.integers[x.code] for x in operands if isinstance(x, Symbol)})
        result = self.call(name, *operands)
        if any(isinstance(t, np.dtype) for t in types) or result.kind == BOOL:
            return result
        return Symbol(self, float if result.kind.kind == "f" else int, result.code, result.once)

    def apply(self, name: str, types: Sequence, operands: Sequence) -> Any:
        ins, outs, routine = self.routine(name, tuple(types))
        texts, once = zip(*[self.read(x, t) for x, t in zip(operands, ins, strict=True)], strict=True)
        names = {f"in{i}": text for i, text in enumerate(texts)}
        names |= {f"in{i}_type": ctype(t) for i, t in enumerate(ins)}
        names |= {f"out{i}_type": ctype(t) for i, t in enumerate(outs)}
        code = re.sub(r"\b(in|out)\d(_type)?\b", lambda m: names.get(m[0], m[0]), routine)
        made = self.write(outs, code, all(once))
        results = tuple(Symbol(self, t, n, all(once)) for t, n in zip(outs, made, strict=True))
        return results if len(results) > 1 else results[0]

    def routine(self, name: str, types: tuple) -> tuple[Sequence, Sequence, str]:
        """The dtypes in which a function computes, those of its results, and its C++."""
        if name in SPECIAL:
            ufunc, dtype = SPECIAL[name], types[0] if types[0].kind == "f" else STRONG[float]
            ins, outs = [dtype], [dtype]
        else:
            ufunc, found = getattr(cupy, name), getattr(np, name)
            resolved = found.resolve_dtypes((*types, *[None] * found.nout))
            ins, outs = resolved[:found.nin], resolved[found.nin:]
        if name in OWN:
            return ins, outs, OWN[name]
        if ufunc._preamble:
            self.preambles[ufunc._preamble] = None
        wide = [widened(t) for t in ins]
        ops = [op for op in ufunc._ops.ops if isinstance(op.routine, str)]
        fits = lambda op: all(np.can_cast(t, u) for t, u in zip(wide, op.in_types, strict=True))
        op = next((op for op in ops if list(op.in_types) == wide), None) or next(filter(fits, ops), None)
        if op is None:
            raise self.refuse(f"xp.{name} of {', '.join(t.name for t in ins)} is nothing that CuPy has")
        return [t if widened(t) == u else u for t, u in zip(ins, op.in_types, strict=True)], outs, op.routine

    def where(self, condition: Any, x: Any, y: Any) -> Any:
        weak = {int: 0, float: 0.0}
        dtype = np.result_type(*[weak.get(t, t) for t in map(self.dtype_of, (x, y))])
        (c, a, b), once = zip(self.read(condition, BOOL), self.read(x, dtype), self.read(y, dtype), strict=True)
        return Symbol(self, dtype, self.let(dtype, f"{c} ? {a} : {b}", all(once)), all(once))

    def astype(self, x: Symbol, dtype: Any) -> Any:
        """A cast; to a half type it rounds, unless `x` has that type already."""
        dtype = self.logical(np.dtype(dtype))
        code = self.read(x, dtype)[0]
        if dtype == HALF != x.kind:
            code = self.let(dtype, f"static_cast<{get_typename(self.half)}>({code})", x.once)
        return Symbol(self, dtype, code, x.once)

    def update(self, x: Symbol, name: str, other: Any) -> Symbol:
        """``x += other`` and its kin: the array that `x` is changes, a Python number is another then."""
        result = self.operate(name, x, other)
        if not isinstance(x.kind, np.dtype):
            return result
        if not np.can_cast(result.kind, x.kind, "same_kind"):
            raise TypeError(f"{self.name}: {name} makes {result.dtype}, which cannot be cast to {x.dtype} in place")
        if x.argument is not None:
            if x.once:
                raise ValueError(f"{self.name}: argument {x.argument} is updated in place, but is 0-d and others not")
            self.updated[x.argument] = x
        x.code, x.once = self.read(result, x.kind)
        return x

    # ---- the kernel

    def plan(self) -> Callable:
        """``launch(arrays)``, which gives what the body returns."""
        several = type(self.results) is tuple
        results = self.results if several else () if self.results is None else (self.results,)
        for r in results:
            if not isinstance(r, Symbol):
                raise self.refuse(f"it returns {type(r).__name__}, not arrays")
        updated, ranges, dtypes = sorted(self.updated), self.ranges, [self.stored(r.kind) for r in results]
        bounds = list({(k, dtype): (k, dtype, limits) for k, dtype, limits in self.bounds}.values())
        ins = [k for k, param in enumerate(self.params) if param and k not in self.updated]
        outs = [*(self.params[k] for k in updated), *(f"{t.name} o{j}" for j, t in enumerate(dtypes))]
        stores = [(f"a{k}", self.updated[k]) for k in updated] + [(f"o{j}", r) for j, r in enumerate(results)]
        lines = [*self.lines, *(f"{name} = static_cast<{get_typename(self.stored(s.kind))}>({s.code});"
                                for name, s in stores)]
        if not stores:
            return lambda arrays: None
        kernel = cupy.ElementwiseKernel(
            ", ".join(self.params[k] for k in ins), ", ".join(outs), "\n".join(lines),
            f"gpuprop_{re.sub(r'[^0-9A-Za-z_]', '_', self.name)}", preamble="\n".join(self.preambles),
            loop_prep="\n".join(self.prelude), options=OPTIONS, return_tuple=True)
        first = len(updated)

        def launch(arrays: Sequence) -> Any:
            for k, dtype, limits in bounds:
                if not limits.min <= arrays[k] <= limits.max:
                    raise OverflowError(f"Python integer {arrays[k]} out of bounds for {dtype}")
            args = [arrays[k] for k in ins]
            if ranges:
                args = [part for a in args for part in ((a.start, a.step, len(a)) if type(a) is range else (a,))]
            if updated or ranges:  # then CuPy makes no outputs itself
                shape = arrays[updated[0]].shape if updated else _common_shape(arrays)
                args += [arrays[k] for k in updated] + [cupy.empty(shape, t) for t in dtypes]
            made = kernel(*args)[first:]
            return made if several else made[0] if made else None

        return launch


def _common_shape(arrays: Sequence) -> tuple[int, ...]:
    shapes = [(len(a),) if type(a) is range else a.shape for a in arrays if type(a) in (range, cupy.ndarray)]
    return np.broadcast_shapes(*shapes)


class Symbol:
    """An array or number of a body that is traced: its dtype, and the C++ name of its present value."""

    __slots__ = ("argument", "code", "kind", "once", "trace")
    __array_ufunc__ = None  # NumPy's scalars leave operators to us

    def __init__(self, trace: Trace, kind: Any, code: str, once: bool, argument: int | None = None) -> None:
        self.trace, self.kind, self.code, self.once, self.argument = trace, kind, code, once, argument

    @property
    def dtype(self) -> np.dtype:
        return self.trace.stored(self.kind)

    def astype(self, dtype: Any, copy: bool = True) -> Symbol:
        return self.trace.astype(self, dtype)

    def __pow__(self, y: Any) -> Any:
        if type(y) in (int, float) and y == 2:  # as NumPy, and so below
            return self.trace.operate("multiply", self, self)
        if type(y) is float and y == 0.5 and self.dtype.kind not in "biu":
            return self.trace.operate("sqrt", self)
        return self.trace.operate("power", self, y)

    def __getattr__(self, name: str) -> Any:
        raise self.trace.refuse(f"it uses .{name} of an array")


def _operator(name: str) -> tuple[Callable, Callable, Callable]:
    """The method, that of the right operand, and that in place."""
    return (lambda self, *other: self.trace.operate(name, self, *other),
            lambda self, other: self.trace.operate(name, other, self),
            lambda self, other: self.trace.update(self, name, other))


def _refused(what: str) -> Callable:
    def method(self: Symbol, *args: Any) -> Any:
        raise self.trace.refuse(what)

    return method


for word, name in {"add": "add", "sub": "subtract", "mul": "multiply", "truediv": "true_divide", "mod": "remainder",
                   "floordiv": "floor_divide", "pow": "power", "lshift": "left_shift", "rshift": "right_shift",
                   "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor"}.items():
    for prefix, method in zip(("", "r", "i"), _operator(name), strict=True):
        if f"__{prefix}{word}__" != "__pow__":
            setattr(Symbol, f"__{prefix}{word}__", method)
for word, name in {"lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal", "eq": "equal",
                   "ne": "not_equal", "neg": "negative", "pos": "positive", "invert": "invert",
                   "abs": "absolute"}.items():
    setattr(Symbol, f"__{word}__", _operator(name)[0])
for word, what in {"bool": "it asks whether an array is true (an `if`, `and`, `or`, `max` or `min` on data)",
                   "float": "it calls float() of an array", "int": "it calls int() of an array",
                   "index": "it uses an array as an index", "len": "it calls len() of an array",
                   "iter": "it iterates over an array", "getitem": "it indexes an array",
                   "setitem": "it writes to an index of an array", "matmul": "it multiplies matrices"}.items():
    setattr(Symbol, f"__{word}__", _refused(what))


class Functions:
    """``xp`` of a body that is traced."""

    def __init__(self, trace: Trace) -> None:
        self._trace, self.where = trace, trace.where

    def clip(self, x: Any, low: Any, high: Any) -> Any:
        x = x if low is None else self.maximum(x, low)
        return x if high is None else self.minimum(x, high)

    def __getattr__(self, name: str) -> Any:
        found = getattr(np, name, None)
        if name in SPECIAL or (isinstance(found, np.ufunc) and isinstance(getattr(cupy, name, None), cupy.ufunc)):
            return functools.partial(self._trace.call, name)
        if isinstance(found, float) or (isinstance(found, type) and issubclass(found, np.generic)):
            return found  # xp.pi, xp.float32
        raise self._trace.refuse(f"xp.{name} is no elementwise function")


# ---- C++ -------------------------------------------------------------------------------------------------------------

SPECIAL = {"erf": special.erf, "erfc": special.erfc, "erfinv": special.erfinv, "lgamma": special.gammaln,
           "digamma": special.digamma, "sigmoid": special.expit}
_WITHIN = "static_cast<unsigned long long>(in1) < 8 * sizeof(in0)"
OWN = {  # as NumPy where as many bits are shifted as there are, which C++ leaves open
    "left_shift": f"out0 = {_WITHIN} ? in0 << in1 : 0",
    "right_shift": f"out0 = {_WITHIN} ? in0 >> in1 : in0 < 0 ? -1 : 0",
}


def widened(dtype: Any) -> np.dtype:
    """The dtype in which a symbol's values are computed."""
    return np.dtype("float32") if dtype == HALF else STRONG.get(dtype, dtype)


def ctype(dtype: Any) -> str:
    return get_typename(widened(dtype))


def literal(value: Any, dtype: np.dtype) -> str:
    """A number, which must fit into `dtype`, in C++."""
    if dtype.kind == "b":
        return "true" if value else "false"
    if dtype.kind == "f":
        x = float(value)
        text = repr(x) if np.isfinite(x) else "0.0 / 0.0" if x != x else f"{np.sign(x)} / 0.0"
    else:
        n, bounds = int(value), np.iinfo(dtype)
        if not bounds.min <= n <= bounds.max:
            raise OverflowError(f"Python integer {n} out of bounds for {dtype}")
        text = f"{n}ULL" if dtype.kind == "u" else f"{n}LL" if n > -2**63 else f"{n + 1}LL - 1"
    return f"static_cast<{ctype(dtype)}>({text})"
