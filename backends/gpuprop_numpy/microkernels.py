"""The innermost loops of matrix products: tiles of sums that stay in the CPU's registers.

Numba keeps no array in registers, so the body of each loop is written in LLVM's instructions for
vectors, which Numba puts into the functions that call it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

VECTORS = 3  # of the columns of a tile


class Microkernels(NamedTuple):
    """Functions for Numba's loops, and the sizes of their tiles."""

    multiply: Callable
    dot: Callable
    copy: Callable
    rows: int  # of a tile of `multiply`
    columns: int
    dot_rows: int  # of a tile of `dot`
    dot_columns: int
    lanes: int  # elements of a vector


@functools.cache
def microkernels(dtype: np.dtype) -> Microkernels:
    """Those for a dtype, float32 or float64.  Numba must be installed."""
    size, registers = vectors()
    lanes = size // dtype.itemsize
    rows = 8 if registers == 32 else 4
    dot_rows, dot_columns = (4, 6) if registers == 32 else (3, 4)
    return Microkernels(
        _multiply(rows, lanes), _dot(dot_rows, dot_columns, lanes), _copy(dtype), rows,
        VECTORS * lanes, dot_rows, dot_columns, lanes)


def vectors() -> tuple[int, int]:
    """The bytes of this processor's longest vectors, and how many registers it has for them."""
    from llvmlite.binding import get_host_cpu_features, get_process_triple

    features = get_host_cpu_features()
    if features.get("avx512f"):
        return 64, 32
    if features.get("avx"):
        return 32, 16
    return 16, 32 if get_process_triple().startswith(("aarch64", "arm64")) else 16


def _multiply(rows: int, lanes: int) -> Callable:
    """``multiply(a, i, b, j, starts, s, terms, bias, n, out, o, step)``.

    ``out[o + r * step + c] = bias[n + r] + sum(a[i + k * rows + r] * b[j + starts[s + k] + c] for k
    in range(terms))`` for all r < rows and c < VECTORS * lanes.  All arrays are flat.
    """
    from numba import types
    from numba.extending import intrinsic

    @intrinsic
    def multiply(context: Any, a: Any, i: Any, b: Any, j: Any, starts: Any, s: Any, terms: Any,
                 bias: Any, n: Any, out: Any, o: Any, step: Any) -> tuple:
        index = types.int64
        signature = types.void(a, index, b, index, starts, index, index, bias, index, out, index,
                               index)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            code = _Code(context, builder, signature, args, lanes)
            i, j, s, terms, n, o, step = (args[k] for k in (1, 3, 5, 6, 8, 10, 11))

            def add_terms(k: Any, sums: Sequence) -> list:
                start = builder.add(j, code.element(4, builder.add(s, k)))
                vectors = [code.vector(2, start, v) for v in range(VECTORS)]
                first = builder.add(i, builder.mul(k, code.integer(rows)))
                factors = [code.repeated(0, first, r) for r in range(rows)]
                products = [(f, v) for f in factors for v in vectors]
                return [code.multiply_add(f, v, total)
                        for (f, v), total in zip(products, sums, strict=True)]

            biases = [code.repeated(7, n, r) for r in range(rows)]
            sums = code.loop(terms, 1, add_terms, [b for b in biases for _ in range(VECTORS)])
            for r in range(rows):
                for v in range(VECTORS):
                    code.store(9, o, v, sums[r * VECTORS + v])
                o = builder.add(o, step)
            return context.get_dummy_value()

        return signature, generate

    return multiply


def _dot(rows: int, columns: int, lanes: int) -> Callable:
    """``dot(a, i, step, b, j, starts, s, count, out)``.

    ``out[r * columns + c] = sum(a[i + r * step + k] * b[j + starts[s + c] + k] for k in
    range(count))``; `count` is a multiple of `lanes`.  All arrays are flat.
    """
    from numba import types
    from numba.extending import intrinsic

    @intrinsic
    def dot(context: Any, a: Any, i: Any, step: Any, b: Any, j: Any, starts: Any, s: Any,
            count: Any, out: Any) -> tuple:
        index = types.int64
        signature = types.void(a, index, index, b, index, starts, index, index, out)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            code = _Code(context, builder, signature, args, lanes)
            i, step, j, s, count = (args[n] for n in (1, 2, 4, 6, 7))
            of_rows = [builder.add(i, builder.mul(step, code.integer(r))) for r in range(rows)]
            of_columns = [builder.add(j, code.element(5, builder.add(s, code.integer(c))))
                          for c in range(columns)]

            def add_terms(k: Any, sums: Sequence) -> list:
                x = [code.vector(0, builder.add(first, k), 0) for first in of_rows]
                y = [code.vector(3, builder.add(first, k), 0) for first in of_columns]
                products = [(f, v) for f in x for v in y]
                return [code.multiply_add(f, v, total)
                        for (f, v), total in zip(products, sums, strict=True)]

            sums = code.loop(count, lanes, add_terms, [code.zeros] * (rows * columns))
            for n, total in enumerate(sums):
                code.set_element(8, n, code.sum(total))
            return context.get_dummy_value()

        return signature, generate

    return dot


def _copy(dtype: np.dtype) -> Callable:
    """``copy(to, step, source, stride, count)``: elements at two addresses, with steps in bytes."""
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic

    @intrinsic
    def copy(context: Any, to: Any, step: Any, source: Any, stride: Any, count: Any) -> tuple:
        signature = types.void(*[types.int64] * 5)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            to, step, source, stride, count = args
            kind = ir.FloatType() if dtype.itemsize == 4 else ir.DoubleType()
            size = ir.Constant(ir.IntType(64), dtype.itemsize)

            def pointer(first: Any, offset: Any) -> Any:
                return builder.inttoptr(builder.add(first, offset), kind.as_pointer())

            is_row = [builder.icmp_signed("==", n, size) for n in (step, stride)]
            with builder.if_else(builder.and_(*is_row)) as (rows, elements):
                with rows:
                    nothing = ir.Constant(ir.IntType(64), 0)
                    cgutils.raw_memcpy(builder, pointer(to, nothing), pointer(source, nothing),
                                       count, dtype.itemsize)
                with elements, cgutils.for_range(builder, count) as loop:
                    value = builder.load(pointer(source, builder.mul(loop.index, stride)))
                    builder.store(value, pointer(to, builder.mul(loop.index, step)))
            return context.get_dummy_value()

        return signature, generate

    return copy


class _Code:
    """LLVM's instructions for the arguments of a function: flat arrays, and integers."""

    def __init__(self, context: Any, builder: Any, signature: Any, args: Sequence,
                 lanes: int) -> None:
        from llvmlite import ir

        self.ir, self.builder, self.lanes = ir, builder, lanes
        self.pointers = {
            n: context.make_array(kind)(context, builder, args[n]).data
            for n, kind in enumerate(signature.args) if hasattr(kind, "layout")}
        self.kind = self.pointers[0].type.pointee
        self.vectors = ir.VectorType(self.kind, lanes)
        self.suffix = f"v{lanes}f{32 if isinstance(self.kind, ir.FloatType) else 64}"

    @property
    def zeros(self) -> Any:
        return self.ir.Constant(self.vectors, [0.0] * self.lanes)

    def integer(self, value: int) -> Any:
        return self.ir.Constant(self.ir.IntType(64), value)

    def element(self, array: int, index: Any) -> Any:
        return self.builder.load(self.builder.gep(self.pointers[array], [index]))

    def set_element(self, array: int, index: int, value: Any) -> None:
        self.builder.store(value, self.builder.gep(self.pointers[array], [self.integer(index)]))

    def _address(self, array: int, first: Any, number: int) -> Any:
        """Of a vector: the one of this number after the element `first`."""
        index = self.builder.add(first, self.integer(number * self.lanes))
        element = self.builder.gep(self.pointers[array], [index])
        return self.builder.bitcast(element, self.vectors.as_pointer())

    def vector(self, array: int, first: Any, number: int) -> Any:
        return self.builder.load(self._address(array, first, number), align=self._alignment)

    def store(self, array: int, first: Any, number: int, value: Any) -> None:
        self.builder.store(value, self._address(array, first, number), align=self._alignment)

    @property
    def _alignment(self) -> int:
        return 4 if isinstance(self.kind, self.ir.FloatType) else 8

    def repeated(self, array: int, first: Any, number: int) -> Any:
        """A vector of copies of one element."""
        value = self.element(array, self.builder.add(first, self.integer(number)))
        nothing = self.ir.Constant(self.vectors, self.ir.Undefined)
        lane = self.ir.Constant(self.ir.IntType(32), 0)
        single = self.builder.insert_element(nothing, value, lane)
        lanes = self.ir.Constant(
            self.ir.VectorType(self.ir.IntType(32), self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(single, nothing, lanes)

    def multiply_add(self, x: Any, y: Any, z: Any) -> Any:
        """``x * y + z``, rounded once."""
        return self._call("fma", self.vectors, x, y, z)

    def sum(self, vector: Any) -> Any:
        """The sum of the elements, in any order."""
        zero = self.ir.Constant(self.kind, 0.0)
        return self._call("vector.reduce.fadd", self.kind, zero, vector, fastmath=("reassoc",))

    def _call(self, name: str, result: Any, *args: Any, fastmath: Sequence[str] = ()) -> Any:
        from numba.core.cgutils import get_or_insert_function

        kind = self.ir.FunctionType(result, [a.type for a in args])
        function = get_or_insert_function(
            self.builder.module, kind, f"llvm.{name}.{self.suffix}")
        return self.builder.call(function, args, fastmath=fastmath)

    def loop(self, end: Any, step: int, body: Callable[[Any, list], list], sums: list) -> list:
        """``sums = body(k, sums)`` for k from 0 in steps to `end`, at least once."""
        builder = self.builder
        before = builder.block
        block, after = (builder.append_basic_block(name) for name in ("terms", "end"))
        builder.branch(block)
        builder.position_at_end(block)
        k = builder.phi(end.type)
        variables = [builder.phi(total.type) for total in sums]
        results = body(k, variables)
        following = builder.add(k, self.integer(step))
        for variable, first, result in zip(
                [k, *variables], [self.integer(0), *sums], [following, *results], strict=True):
            variable.add_incoming(first, before)
            variable.add_incoming(result, block)
        builder.cbranch(builder.icmp_signed("<", following, end), block, after)
        builder.position_at_end(after)
        return results
