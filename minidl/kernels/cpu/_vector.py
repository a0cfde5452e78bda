"""Vectors: tiles of a single register, for transforms that do the same arithmetic to every channel.

``tile_fma`` of ``_tile`` multiplies; a transform also needs to read numbers from memory in several vectors, to add,
subtract and scale these, and to write the results. In a kernel a vector is used like a number:

    a, b = vectors_load(Shape(2, 1), x, position, step, count)     # x[position:...], x[position + step:...]
    vectors_store(y, position, step, count, (a + b, a - 0.5 * b))

The last vector of a row of channels may have fewer than a register holds: ``count`` says how many are there, and the
others are read as zero and never written. As in ``_tile``, each instruction stands here with its meaning in NumPy.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature

from minidl.kernels.cpu._tile import _I64, Tile, _Code, _instruction, lanes

__all__ = ["vectors_add", "vectors_load", "vectors_store"]

_CONTRACT = ("contract",)  # a product and a sum may become one multiply-add


def _define(operation: Callable, instruction: str) -> None:
    """Teach Numba ``vector operation vector`` and ``number operation vector``."""

    @infer_global(operation)
    class _Typing(AbstractTemplate):
        def generic(self, args: tuple, kws: dict) -> Any:
            if len(args) == 2 and isinstance(args[1], Tile):
                if args[0] == args[1]:
                    return signature(args[1], args[1], args[1])
                if isinstance(args[0], types.Float):
                    return signature(args[1], args[1].dtype, args[1])
            return None

    def write(context: Any, builder: ir.IRBuilder, signature: Any, args: tuple) -> ir.Value:
        tile = signature.return_type
        code = _Code(tile, context, builder, signature, args)
        right = code.unpack(args[1], tile.rows * tile.vectors)
        if signature.args[0] == tile:
            left = code.unpack(args[0], len(right))
        else:
            left = [code.splat(args[0])] * len(right)
        return code.new_tile([getattr(builder, instruction)(a, b, flags=_CONTRACT) for a, b in zip(left, right)])

    lower_builtin(operation, Tile, Tile)(write)
    lower_builtin(operation, types.Float, Tile)(write)


_define(operator.add, "fadd")
_define(operator.sub, "fsub")
_define(operator.mul, "fmul")


def _load_code(typing, shape, x, position, step, count):
    vector = Tile(1, 1, x.dtype)
    result = types.UniTuple(vector, shape.rows)

    def write(context, builder, signature, args):
        code = _Code(vector, context, builder, signature, args)
        data, mask = code.data(1), code.first_lanes(args[4])
        values, zero = [], ir.Constant(code.vector, None)
        for i in range(shape.rows):
            address = code.at(data, builder.add(args[2], builder.mul(args[3], _I64(i))))
            value = code.call("llvm.masked.load.{}.p0", code.vector, address, code.size, mask, zero)
            values.append(code.new_tile([value]))
        return context.make_tuple(builder, result, values)

    return result(shape, x, types.intp, types.intp, types.intp), write


def _places(array, position, step, count, number):
    """Where ``number`` vectors lie in an array, for the meanings in NumPy; bounds are checked."""
    count = min(count, lanes(array.dtype))
    for start in range(position, position + number * step, step) if step else [position] * number:
        assert start >= 0
        assert start + count <= array.size
        yield slice(start, start + count)


@_instruction(_load_code)
def vectors_load(shape, x, position, step, count):
    """The vectors x[position:], x[position + step:], ... one for each row of the shape; zero after ``count`` lanes."""
    values = np.zeros((shape.rows, lanes(x.dtype)), x.dtype)
    for value, place in zip(values, _places(x, position, step, count, shape.rows)):
        value[:count] = x[place]
    return tuple(values)


def _write_code(add):
    def typing_function(typing, y, position, step, count, values):
        vector = values.dtype

        def write(context, builder, signature, args):
            code = _Code(vector, context, builder, signature, args)
            data, mask, zero = code.data(0), code.first_lanes(args[3]), ir.Constant(code.vector, None)
            for i, wrapped in enumerate(code.unpack(args[4], values.count)):
                (value,) = code.unpack(wrapped, 1)
                address = code.at(data, builder.add(args[1], builder.mul(args[2], _I64(i))))
                if add:
                    old = code.call("llvm.masked.load.{}.p0", code.vector, address, code.size, mask, zero)
                    value = builder.fadd(value, old)
                code.call("llvm.masked.store.{}.p0", ir.VoidType(), value, address, code.size, mask)
            return context.get_dummy_value()

        return types.void(y, types.intp, types.intp, types.intp, values), write

    return typing_function


@_instruction(_write_code(add=False))
def vectors_store(y, position, step, count, values):
    """The first ``count`` lanes of the vectors to y[position:], y[position + step:], ..."""
    for value, place in zip(values, _places(y, position, step, count, len(values))):
        y[place] = value[:count]


@_instruction(_write_code(add=True))
def vectors_add(y, position, step, count, values):
    """As ``vectors_store``, but added to what is in y."""
    for value, place in zip(values, _places(y, position, step, count, len(values))):
        y[place] += value[:count]
