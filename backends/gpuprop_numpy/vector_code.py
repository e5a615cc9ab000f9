"""Instructions of LLVM for vectors, as functions that Numba puts into the loops that call them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def intrinsic(generate: Callable, count: int, dtype: np.dtype, lanes: int) -> Callable:
    """A function for Numba of `count` integers, whose code ``generate(code, *args)`` writes."""
    from numba import extending, types

    def write(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        generate(Vectors(builder, dtype, lanes), *args)
        return context.get_dummy_value()

    def typed(context: Any, *args: Any) -> tuple:
        return types.void(*[types.int64] * count), write

    names = ", ".join(f"n{k}" for k in range(count))  # Numba counts the parameters
    function = eval(f"lambda context, {names}: typed(context, {names})", {"typed": typed})
    return extending.intrinsic(function)


class Vectors:
    """LLVM's instructions for vectors at addresses, which are integers as indices are."""

    def __init__(self, builder: Any, dtype: np.dtype, lanes: int) -> None:
        from llvmlite import ir

        self.ir, self.builder, self.lanes = ir, builder, lanes
        self.index = ir.IntType(64)
        self.real = ir.FloatType() if dtype.itemsize == 4 else ir.DoubleType()
        self.vector = ir.VectorType(self.real, lanes)
        self.pairs = ir.VectorType(self.real, 2 * lanes)
        self.itemsize = dtype.itemsize
        self.zeros = ir.Constant(self.vector, [0.0] * lanes)

    def integer(self, value: int) -> Any:
        return self.ir.Constant(self.index, value)

    def add(self, index: Any, value: Any) -> Any:
        return self.builder.add(index, self.integer(value) if isinstance(value, int) else value)

    def multiply(self, index: Any, value: Any) -> Any:
        return self.builder.mul(index, self.integer(value) if isinstance(value, int) else value)

    def _pointer(self, address: Any, index: Any, kind: Any) -> Any:
        element = self.index if kind is self.index else self.real
        first = self.builder.inttoptr(address, element.as_pointer())
        return self.builder.bitcast(self.builder.gep(first, [index]), kind.as_pointer())

    def load(self, address: Any, index: Any, kind: Any) -> Any:
        """Of this kind, from the element of this index on."""
        size = 8 if kind is self.index else self.itemsize
        return self.builder.load(self._pointer(address, index, kind), align=size)

    def store(self, value: Any, address: Any, index: Any) -> None:
        self.builder.store(value, self._pointer(address, index, value.type), align=self.itemsize)

    def repeated(self, address: Any, index: Any) -> Any:
        """A vector of copies of one element."""
        return self.filled(self.load(address, index, self.real))

    def filled(self, value: Any) -> Any:
        """A vector of copies of a number."""
        ir, builder = self.ir, self.builder
        nothing = ir.Constant(ir.VectorType(value.type, self.lanes), ir.Undefined)
        single = builder.insert_element(nothing, value, ir.Constant(ir.IntType(32), 0))
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), [0] * self.lanes)
        return builder.shuffle_vector(single, nothing, lanes)

    def every(self, address: Any, first: int, step: int, last: int) -> Any:
        """The elements `first`, ``first + step`` and so on.

        None is read after ``last + (lanes - 1) * step``.
        """
        if step == 1:
            return self.load(address, self.integer(first), self.vector)
        if step == 2 and (before := int(first == last)) <= first:
            return self.every_second(address, self.integer(first), before)
        vector = self.ir.Constant(self.vector, self.ir.Undefined)
        for lane in range(self.lanes):
            value = self.load(address, self.integer(first + lane * step), self.real)
            place = self.ir.Constant(self.ir.IntType(32), lane)
            vector = self.builder.insert_element(vector, value, place)
        return vector

    def every_second(self, address: Any, first: Any, before: int) -> Any:
        """The elements `first`, ``first + 2`` and so on, read from so many elements before."""
        ir = self.ir
        pairs = self.load(address, self.add(first, -before), self.pairs)
        chosen = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes),
                             [2 * lane + before for lane in range(self.lanes)])
        return self.builder.shuffle_vector(pairs, ir.Constant(self.pairs, ir.Undefined), chosen)

    def copy_from_pairs(self, to: Any, source: Any, k: Any, before: int) -> None:
        """``to[k:k + lanes] = source[2 * k::2]``, read from so many elements before."""
        self.store(self.every_second(source, self.multiply(k, 2), before), to, k)

    def exchanged(self, x: Any, y: Any, distance: int) -> tuple[Any, Any]:
        """Two vectors after every second block of x has changed places with the y before it."""
        ir, lanes = self.ir, range(self.lanes)
        kind = ir.VectorType(ir.IntType(32), self.lanes)
        first = [self.lanes + n - distance if n & distance else n for n in lanes]
        second = [self.lanes + n if n & distance else n + distance for n in lanes]
        return tuple(self.builder.shuffle_vector(x, y, ir.Constant(kind, chosen))
                     for chosen in (first, second))

    def multiply_add(self, x: Any, y: Any, z: Any) -> Any:
        """``x * y + z``, rounded once if the processor has an instruction for it."""
        return self._call("fmuladd", self.vector, x, y, z)

    def plus(self, x: Any, y: Any) -> Any:
        """``x + y`` for vectors."""
        return self.builder.fadd(x, y)

    def sum(self, vector: Any) -> Any:
        """The sum of the elements, in any order."""
        zero = self.ir.Constant(self.real, 0.0)
        return self._call("vector.reduce.fadd", self.real, zero, vector, fastmath=("reassoc",))

    def _call(self, name: str, result: Any, *args: Any, fastmath: tuple = ()) -> Any:
        from numba.core.cgutils import get_or_insert_function

        kind = self.ir.FunctionType(result, [a.type for a in args])
        name = f"llvm.{name}.v{self.lanes}f{8 * self.itemsize}"
        function = get_or_insert_function(self.builder.module, kind, name)
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
        following = self.add(k, step)
        for variable, first, result in zip(
                [k, *variables], [self.integer(0), *sums], [following, *results], strict=True):
            variable.add_incoming(first, before)
            variable.add_incoming(result, block)
        builder.cbranch(builder.icmp_signed("<", following, end), block, after)
        builder.position_at_end(after)
        return results
