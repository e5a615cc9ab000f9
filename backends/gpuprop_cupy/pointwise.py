"""Compiles a pointwise body to one CUDA kernel.

The body runs once on symbols, which record its operations as C++.  dtypes, in-place updates and
integer arithmetic follow NumPy.  The operations are the C++ routines of CuPy's own ufuncs, so that
the values are CuPy's.
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

# Each product and each sum is rounded, as in NumPy, so that a body has the same bits on every
# backend; random numbers need it.  Fused multiply-adds would save instructions, but no time: memory
# bandwidth limits these kernels.
OPTIONS = ("--fmad=false",)
HALF = np.dtype("float16")  # in a trace it also stands for bfloat16
BOOL = np.dtype("bool")
STRONG = {bool: BOOL, int: np.dtype("int64"), float: np.dtype("float64")}  # of Python numbers
ALLOWED = ("a pointwise body has operators, comparisons, & | ~ ^ << >>, abs(), .astype() and the "
           "elementwise functions of xp, on arrays and Python numbers")


def compiled(fn: Callable) -> Callable:
    """The pointwise body ``fn(xp, *arrays, **constants)`` as one kernel per signature.

    A signature consists of the arrays' dtypes, which of them are 0-d, the types of Python numbers,
    and the values of constants.  The body runs only for a new signature.  Results have the
    broadcast shape of all arrays.  A `range` argument stands for its elements, as int64, along the
    last axis.
    """
    plans: dict[tuple, Callable] = {}

    @functools.wraps(fn)
    def run(xp: Any, *arrays: Any, **constants: Any) -> Any:
        # repr distinguishes 1, 1.0 and True, and 0.0 and -0.0
        key: list = [repr(constants)] if constants else []
        for a in arrays:
            if type(a) is cupy.ndarray:
                key += (a.dtype, a.ndim == 0)
            else:
                key.append(type(a))
        signature = tuple(key)
        plan = plans.get(signature)
        if plan is None:
            plan = plans[signature] = _planned(fn, arrays, constants)
        return plan(arrays)

    return run


class IntegerArithmetic(Exception):
    """The body computes with Python integers only, whose size C++ would limit.

    Python must compute the result, so the values of these arguments become constants.
    """

    def __init__(self, arguments: set[int]) -> None:
        self.arguments = arguments


def _planned(fn: Callable, arrays: Sequence, constants: dict[str, Any]) -> Callable:
    """``launch(arrays)`` for one signature, with one kernel per value of integer constants."""
    as_constants: set[int] = set()
    while True:
        try:
            plan = Trace(fn, arrays, constants, as_constants).plan()
            break
        except IntegerArithmetic as found:
            as_constants |= found.arguments
    if not as_constants:
        return plan
    values = lambda arrays: tuple(arrays[k] for k in sorted(as_constants))
    plans = {values(arrays): plan}

    def launch(arrays: Sequence) -> Any:
        key = values(arrays)
        plan = plans.get(key)
        if plan is None:
            plan = plans[key] = Trace(fn, arrays, constants, as_constants).plan()
        return plan(arrays)

    return launch


class Trace:
    """One run of a body on symbols: the lines of C++ that it emits, and the kernel from them.

    Arguments whose numbers are in `as_constants` are passed to the body as Python integers.
    """

    def __init__(self, fn: Callable, arrays: Sequence, constants: dict[str, Any],
                 as_constants: Collection[int] = ()) -> None:
        self.name = fn.__name__
        self.as_constants = as_constants
        self.prelude: list[str] = []  # depends on 0-d arrays and numbers only: once per thread
        self.lines: list[str] = []
        self.known: dict[tuple, list[str]] = {}  # by emitted routine: the names of its results
        self.preambles: dict[str, None] = {}
        self.half: Any = None  # the half type of this body
        self.updated: dict[int, Symbol] = {}  # arguments updated in place, by position
        self.ranges = [k for k, a in enumerate(arrays) if type(a) is range]
        self.has_axes = bool(self.ranges) or any(
            type(a) is cupy.ndarray and a.ndim for a in arrays)
        self.integers: dict[str, int] = {}  # Python integers: argument number by C++ name
        self.bounds: list[tuple] = []  # their limits: (argument number, dtype, np.iinfo)
        self.params: list[str] = []  # declarations for ElementwiseKernel; "" for None
        for name, value in constants.items():
            self._check_constant(name, value)
        symbols = [self._argument(k, a) for k, a in enumerate(arrays)]
        self.results = fn(Functions(self), *symbols, **constants)

    def error(self, what: str) -> TypeError:
        return TypeError(f"{self.name}: {what}; {ALLOWED}")

    def _check_constant(self, name: str, value: Any) -> None:
        for v in value if type(value) is tuple else (value,):
            if not isinstance(v, bool | int | float | str | np.generic | np.dtype | type | None):
                raise self.error(f"the keyword argument {name}={type(value).__name__} is not a "
                                 "constant: pass arrays as positional arguments")

    # ---- arguments

    def _argument(self, k: int, a: Any) -> Any:
        """Declare argument number `k`, and return what the body receives for it."""
        kind, name = type(a), f"a{k}"
        if k in self.as_constants:
            self.params.append("")
            return a
        if kind is cupy.ndarray:
            raw = self.has_axes and not a.ndim
            self.params.append(f"{'raw ' * raw}{a.dtype.name} {name}")
            dtype = self.symbol_dtype(a.dtype)
            code = self.emit_value(dtype, f"{name}[0]" if raw else name, raw)
            return Symbol(self, dtype, code, raw, k)
        if a is None:
            self.params.append("")
            return None
        if kind is range:
            parts = [f"int64 {name}_{part}" for part in ("start", "step", "size")]
            self.params.append(", ".join(parts))
            text = f"{name}_start + (i % {name}_size) * {name}_step"
            return Symbol(self, STRONG[int], self.emit_value(STRONG[int], text, False), False)
        if kind in STRONG:
            self.params.append(f"{STRONG[kind].name} {name}")
            if kind is int:
                self.integers[name] = k
            return Symbol(self, BOOL if kind is bool else kind, name, True)
        if isinstance(a, np.generic):
            self.params.append(f"{a.dtype.name} {name}")
            dtype = self.symbol_dtype(a.dtype)
            return Symbol(self, dtype, self.emit_value(dtype, name, True), True)
        raise self.error(f"argument {k} is of type {kind.__module__}.{kind.__qualname__}, "
                         "expected a CuPy array, a number, a range or None")

    def symbol_dtype(self, dtype: np.dtype) -> np.dtype:
        """The dtype of symbols for an array's dtype; a body has one half type."""
        if dtype.name not in ("float16", "bfloat16"):
            return dtype
        if self.half not in (None, dtype):
            raise TypeError("float16 and bfloat16 in one elementwise expression: cast one of them")
        self.half = dtype
        return HALF

    def array_dtype(self, dtype: Any) -> np.dtype:
        """The dtype of arrays for a symbol's dtype: the inverse of `symbol_dtype`."""
        return (self.half or HALF) if dtype == HALF else STRONG.get(dtype, dtype)

    # ---- lines

    def emit_value(self, dtype: np.dtype, text: str, uniform: bool) -> str:
        """Emit ``static_cast<dtype>(text)``; returns the name of the C++ constant."""
        return self.emit([dtype], f"out0 = static_cast<{ctype(dtype)}>({text})", uniform)[0]

    def emit(self, dtypes: Sequence, routine: str, uniform: bool) -> list[str]:
        """Emit a routine; returns the names of its results ``out0``, ``out1`` ...

        `uniform` is true if the results depend on 0-d operands only.  A routine that was emitted
        before is not repeated.
        """
        key = (routine, *dtypes)
        if key not in self.known:
            number = len(self.prelude) + len(self.lines)
            names = [f"v{number}_{i}" if i else f"v{number}" for i in range(len(dtypes))]
            code = re.sub(r"\bout(\d)\b", lambda m: names[int(m[1])], routine)
            if re.fullmatch(r"out0 = [^;]*;?", routine):
                code = f"const {ctype(dtypes[0])} {code.strip(';')};"
            else:
                pairs = zip(dtypes, names, strict=True)
                declarations = "".join(f"{ctype(t)} {n}; " for t, n in pairs)
                code = f"{declarations}{{ {code}; }}"
            (self.prelude if uniform else self.lines).append(code)
            self.known[key] = names
        return self.known[key]

    def operand(self, x: Any, dtype: np.dtype) -> tuple[str, bool]:
        """C++ for a symbol or number in a dtype, and whether it depends on 0-d operands only."""
        if isinstance(x, Symbol):
            if x.code in self.integers and dtype.kind in "iu":
                self.bounds.append((self.integers[x.code], dtype, np.iinfo(dtype)))
            if compute_dtype(x.kind) == compute_dtype(dtype):
                return x.code, x.uniform
            return self.emit_value(dtype, x.code, x.uniform), x.uniform
        return literal(x, dtype), True

    def dtype_of(self, x: Any) -> Any:
        """The dtype of an operand, or `int` or `float` if it is a weak Python number."""
        if isinstance(x, Symbol):
            return x.kind
        if isinstance(x, np.generic):
            return self.symbol_dtype(x.dtype)
        if type(x) not in STRONG:
            raise self.error(f"an operand is of type {type(x).__module__}.{type(x).__qualname__}")
        return BOOL if type(x) is bool else type(x)

    def call(self, name: str, *operands: Any) -> Any:
        """Apply the function with this name in NumPy to symbols and numbers."""
        types = [self.dtype_of(x) for x in operands]
        if not any(isinstance(t, np.dtype) for t in types):
            types = [STRONG[t] for t in types]
        return self.apply(name, types, operands)

    def operate(self, name: str, *operands: Any) -> Any:
        """Apply an operator: unlike a function, it makes a Python number from Python numbers."""
        types = [self.dtype_of(x) for x in operands]
        if all(t is int for t in types):
            symbols = [x for x in operands if isinstance(x, Symbol)]
            raise IntegerArithmetic({self.integers[x.code] for x in symbols})
        result = self.call(name, *operands)
        if any(isinstance(t, np.dtype) for t in types) or result.kind == BOOL:
            return result
        kind = float if result.kind.kind == "f" else int
        return Symbol(self, kind, result.code, result.uniform)

    def apply(self, name: str, types: Sequence, operands: Sequence) -> Any:
        """Emit the routine of a function for operands of these types; returns its symbols."""
        ins, outs, routine = self.routine(name, tuple(types))
        pairs = [self.operand(x, t) for x, t in zip(operands, ins, strict=True)]
        uniform = all(u for _, u in pairs)
        names = {f"in{i}": text for i, (text, _) in enumerate(pairs)}
        names |= {f"in{i}_type": ctype(t) for i, t in enumerate(ins)}
        names |= {f"out{i}_type": ctype(t) for i, t in enumerate(outs)}
        code = re.sub(r"\b(in|out)\d(_type)?\b", lambda m: names.get(m[0], m[0]), routine)
        made = self.emit(outs, code, uniform)
        results = tuple(Symbol(self, t, n, uniform) for t, n in zip(outs, made, strict=True))
        return results if len(results) > 1 else results[0]

    def routine(self, name: str, types: tuple) -> tuple[Sequence, Sequence, str]:
        """The dtypes of a function's operands, the dtypes of its results, and its C++."""
        ins: Sequence
        if name in SPECIAL:
            ufunc = SPECIAL[name]
            dtype = types[0] if types[0].kind == "f" else STRONG[float]
            ins, outs = [dtype], [dtype]
        else:
            ufunc = getattr(cupy, name)
            of_numpy = getattr(np, name)
            resolved = of_numpy.resolve_dtypes((*types, *[None] * of_numpy.nout))
            ins, outs = resolved[:of_numpy.nin], resolved[of_numpy.nin:]
        if name in OWN:
            return ins, outs, OWN[name]
        if ufunc._preamble:
            self.preambles[ufunc._preamble] = None
        wanted = [compute_dtype(t) for t in ins]
        ops = [op for op in ufunc._ops.ops if isinstance(op.routine, str)]
        exact = [op for op in ops if list(op.in_types) == wanted]
        castable = [op for op in ops if all(
            np.can_cast(t, u) for t, u in zip(wanted, op.in_types, strict=True))]
        if not castable:
            raise self.error(f"CuPy has no xp.{name} for {', '.join(t.name for t in ins)}")
        op = (exact or castable)[0]
        ins = [t if compute_dtype(t) == u else u for t, u in zip(ins, op.in_types, strict=True)]
        return ins, outs, op.routine

    def where(self, condition: Any, x: Any, y: Any) -> Any:
        """NumPy's `where` of symbols and numbers."""
        weak = {int: 0, float: 0.0}
        dtype = np.result_type(*[weak.get(t, t) for t in map(self.dtype_of, (x, y))])
        c, c_uniform = self.operand(condition, BOOL)
        a, a_uniform = self.operand(x, dtype)
        b, b_uniform = self.operand(y, dtype)
        uniform = c_uniform and a_uniform and b_uniform
        return Symbol(self, dtype, self.emit_value(dtype, f"{c} ? {a} : {b}", uniform), uniform)

    def astype(self, x: Symbol, dtype: Any) -> Any:
        """A cast; to a half type it rounds, unless `x` already has that type."""
        dtype = self.symbol_dtype(np.dtype(dtype))
        code, _ = self.operand(x, dtype)
        if dtype == HALF != x.kind:
            rounded = f"static_cast<{get_typename(self.half)}>({code})"
            code = self.emit_value(dtype, rounded, x.uniform)
        return Symbol(self, dtype, code, x.uniform)

    def update(self, x: Symbol, name: str, other: Any) -> Symbol:
        """``x += other`` and the like: updates an array, but makes a new Python number."""
        result = self.operate(name, x, other)
        if not isinstance(x.kind, np.dtype):
            return result
        if not np.can_cast(result.kind, x.kind, "same_kind"):
            raise TypeError(f"{self.name}: the result of {name} is {result.dtype}, which cannot be "
                            f"cast to {x.dtype} in place")
        return self.assign(x, result)

    def assign(self, x: Symbol, value: Any) -> Symbol:
        """``x[...] = value``."""
        if x.argument is not None:
            if x.uniform:
                raise ValueError(f"{self.name}: argument {x.argument} is updated in place, but it "
                                 "is 0-d and other arguments are not")
            self.updated[x.argument] = x
        x.code, uniform = self.operand(value, x.kind)
        x.uniform = uniform and x.argument is None
        return x

    # ---- the kernel

    def plan(self) -> Callable:
        """The function ``launch(arrays)``, which runs the kernel and returns the body's results."""
        is_tuple = type(self.results) is tuple
        results = self.results if is_tuple else () if self.results is None else (self.results,)
        for r in results:
            if not isinstance(r, Symbol):
                raise self.error(f"it returns {type(r).__name__}, not arrays")
        updated, ranges = sorted(self.updated), self.ranges
        dtypes = [self.array_dtype(r.kind) for r in results]
        stores = [(f"a{k}", self.updated[k]) for k in updated]
        stores += [(f"o{j}", r) for j, r in enumerate(results)]
        if not stores:
            return lambda arrays: None
        bounds = list({(k, dtype): (k, dtype, limits) for k, dtype, limits in self.bounds}.values())
        ins = [k for k, param in enumerate(self.params) if param and k not in self.updated]
        kernel = self._kernel(ins, stores, dtypes)
        first = len(updated)

        def launch(arrays: Sequence) -> Any:
            for k, dtype, limits in bounds:
                if not limits.min <= arrays[k] <= limits.max:
                    raise OverflowError(f"Python integer {arrays[k]} out of bounds for {dtype}")
            args = [arrays[k] for k in ins]
            if ranges:
                args = [part for a in args for part in _range_parts(a)]
            if updated or ranges:  # then CuPy cannot allocate the outputs
                shape = arrays[updated[0]].shape if updated else _common_shape(arrays)
                args += [arrays[k] for k in updated]
                args += [cupy.empty(shape, t) for t in dtypes]
            made = kernel(*args)[first:]
            if is_tuple:
                return made
            return made[0] if made else None

        return launch

    def _kernel(self, ins: list[int], stores: list[tuple[str, Symbol]], dtypes: list) -> Callable:
        outs = [self.params[k] for k in sorted(self.updated)]
        outs += [f"{t.name} o{j}" for j, t in enumerate(dtypes)]
        lines = self.lines + [
            f"{name} = static_cast<{get_typename(self.array_dtype(s.kind))}>({s.code});"
            for name, s in stores]
        return cupy.ElementwiseKernel(
            ", ".join(self.params[k] for k in ins),
            ", ".join(outs),
            "\n".join(lines),
            f"gpuprop_{re.sub(r'[^0-9A-Za-z_]', '_', self.name)}",
            preamble="\n".join(self.preambles),
            loop_prep="\n".join(self.prelude),
            options=OPTIONS,
            return_tuple=True)


def _range_parts(a: Any) -> tuple:
    return (a.start, a.step, len(a)) if type(a) is range else (a,)


def _common_shape(arrays: Sequence) -> tuple[int, ...]:
    shapes = []
    for a in arrays:
        if type(a) is range:
            shapes.append((len(a),))
        elif type(a) is cupy.ndarray:
            shapes.append(a.shape)
    return np.broadcast_shapes(*shapes)


class Symbol:
    """An array or number in a traced body: its dtype, and the C++ name of its current value."""

    __slots__ = ("argument", "code", "kind", "trace", "uniform")
    __array_ufunc__ = None  # NumPy's scalars leave operators to this class

    def __init__(self, trace: Trace, kind: Any, code: str, uniform: bool,
                 argument: int | None = None) -> None:
        self.trace = trace
        self.kind = kind  # a dtype, or `int` or `float` for a weak Python number
        self.code = code
        self.uniform = uniform  # it depends on 0-d operands only
        self.argument = argument  # its position, if it is an array argument

    @property
    def dtype(self) -> np.dtype:
        return self.trace.array_dtype(self.kind)

    def astype(self, dtype: Any, copy: bool = True) -> Symbol:
        return self.trace.astype(self, dtype)

    def __pow__(self, y: Any) -> Any:
        if type(y) in (int, float) and y == 2:  # NumPy has this special case and the next one
            return self.trace.operate("multiply", self, self)
        if type(y) is float and y == 0.5 and self.dtype.kind not in "biu":
            return self.trace.operate("sqrt", self)
        return self.trace.operate("power", self, y)

    def __setitem__(self, index: Any, value: Any) -> None:
        if index is not Ellipsis or not isinstance(self.kind, np.dtype):
            raise self.trace.error("it assigns to an index of an array other than [...]")
        self.trace.assign(self, value)

    def __getattr__(self, name: str) -> Any:
        raise self.trace.error(f"it uses .{name} of an array")


def _operator(name: str) -> tuple[Callable, Callable, Callable]:
    """The methods ``x + y``, ``y + x`` and ``x += y``."""
    return (lambda self, *other: self.trace.operate(name, self, *other),
            lambda self, other: self.trace.operate(name, other, self),
            lambda self, other: self.trace.update(self, name, other))


def _not_allowed(what: str) -> Callable:
    def method(self: Symbol, *args: Any) -> Any:
        raise self.trace.error(what)

    return method


BINARY_OPERATORS = {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "truediv": "true_divide",
    "mod": "remainder",
    "floordiv": "floor_divide",
    "pow": "power",
    "lshift": "left_shift",
    "rshift": "right_shift",
    "and": "bitwise_and",
    "or": "bitwise_or",
    "xor": "bitwise_xor",
}
OTHER_OPERATORS = {
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
    "eq": "equal",
    "ne": "not_equal",
    "neg": "negative",
    "pos": "positive",
    "invert": "invert",
    "abs": "absolute",
}
NOT_ALLOWED = {
    "bool": "it tests whether an array is true (an `if`, `and`, `or`, `max` or `min` on data)",
    "float": "it calls float() of an array",
    "int": "it calls int() of an array",
    "index": "it uses an array as an index",
    "len": "it calls len() of an array",
    "iter": "it iterates over an array",
    "getitem": "it indexes an array",
    "matmul": "it multiplies matrices",
}
for word, name in BINARY_OPERATORS.items():
    for prefix, method in zip(("", "r", "i"), _operator(name), strict=True):
        if f"__{prefix}{word}__" != "__pow__":
            setattr(Symbol, f"__{prefix}{word}__", method)
for word, name in OTHER_OPERATORS.items():
    setattr(Symbol, f"__{word}__", _operator(name)[0])
for word, what in NOT_ALLOWED.items():
    setattr(Symbol, f"__{word}__", _not_allowed(what))


class Functions:
    """``xp`` for a traced body."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self.where = trace.where

    def clip(self, x: Any, low: Any, high: Any) -> Any:
        x = x if low is None else self.maximum(x, low)
        return x if high is None else self.minimum(x, high)

    def __getattr__(self, name: str) -> Any:
        value = getattr(np, name, None)
        of_both = isinstance(value, np.ufunc) and isinstance(getattr(cupy, name, None), cupy.ufunc)
        if name in SPECIAL or of_both:
            return functools.partial(self._trace.call, name)
        if isinstance(value, float):  # xp.pi
            return value
        if isinstance(value, type) and issubclass(value, np.generic):  # xp.float32
            return value
        raise self._trace.error(f"xp.{name} is not an elementwise function")


# ---- C++ ----------------------------------------------------------------------------------------

SPECIAL = {
    "erf": special.erf,
    "erfc": special.erfc,
    "erfinv": special.erfinv,
    "lgamma": special.gammaln,
    "digamma": special.digamma,
    "sigmoid": special.expit,
}
_IN_RANGE = "static_cast<unsigned long long>(in1) < 8 * sizeof(in0)"
OWN = {  # NumPy defines shifts by at least the number of bits; C++ does not
    "left_shift": f"out0 = {_IN_RANGE} ? in0 << in1 : 0",
    "right_shift": f"out0 = {_IN_RANGE} ? in0 >> in1 : in0 < 0 ? -1 : 0",
}


def compute_dtype(dtype: Any) -> np.dtype:
    """The dtype in which a symbol's values are computed."""
    return np.dtype("float32") if dtype == HALF else STRONG.get(dtype, dtype)


def ctype(dtype: Any) -> str:
    return get_typename(compute_dtype(dtype))


def literal(value: Any, dtype: np.dtype) -> str:
    """A number in C++; it must fit into `dtype`."""
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
