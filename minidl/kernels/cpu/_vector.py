"""Vectors: tiles of a single register, for transforms that do the same arithmetic to every channel.

``tile_fma`` of ``_tile`` multiplies; a transform also needs to read numbers from memory in several vectors, to add,
subtract and scale these, and to write the results. In a kernel a vector is used like a number:

    a, b = vectors_load(Shape(2, 1), x, position, step, count)     # x[position:...], x[position + step:...]
    vectors_store(y, position, step, count, (a + b, a - 0.5 * b))

The last vector of a row of channels may have fewer than a register holds: ``count`` says how many are there, and the
others are read as zero and never written. At the edge of an image, some of the pixels are missing: then those from ``begin``
up to ``end`` are there, and the other vectors too are read as zero and never written. As in ``_tile``, each instruction
stands here with its meaning in NumPy.

The instructions for ReLU and 2x2 max pooling let a convolution finish its results while they are in registers. The
*winner* of a window is the number 0, 1, 2, 3 of its largest value, row by row, or DEAD if that is not above zero: then
ReLU has made it zero, and no gradient passes. A NaN beats all numbers, as in the separate operations.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature

from minidl.kernels.cpu._tile import _I32, _I64, Tile, _Code, _instruction, lanes

__all__ = [
    "DEAD",
    "vectors_add",
    "vectors_add_inside",
    "vectors_load",
    "vectors_load_inside",
    "vectors_pass",
    "vectors_plus",
    "vectors_pool",
    "vectors_relu",
    "vectors_store",
    "vectors_store_inside",
    "vectors_sum",
    "vectors_unpool",
]

DEAD = 4

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


# -------------------------------------------------------------------------------------- some of several vectors


def _lane_mask(code, i, begin, end, count):
    """The lanes of vector i that are there: those below ``count``, or none, if i is not from ``begin`` up to ``end``."""
    build = code.builder
    there = build.and_(build.icmp_signed("<=", begin, _I64(i)), build.icmp_signed("<", _I64(i), end))
    return code.first_lanes(build.select(there, count, _I64(0)))


def _read(code, data, position, mask):
    zero = ir.Constant(code.vector, None)
    return code.call("llvm.masked.load.{}.p0", code.vector, code.at(data, position), code.size, mask, zero)


def _write(code, value, data, position, mask):
    code.call("llvm.masked.store.{}.p0", ir.VoidType(), value, code.at(data, position), code.size, mask)


def _step(code, position, step, i):
    return code.builder.add(position, code.builder.mul(step, _I64(i)))


def _inside(array, position, step, count, begin, end, number):
    """The vectors that are there, and where they lie; for the meanings in NumPy."""
    begin, end = max(begin, 0), min(end, number)
    return zip(range(begin, end), _places(array, position + begin * step, step, count, max(0, end - begin)))


def _load_inside_code(typing, shape, x, position, step, count, begin, end):
    vector = Tile(1, 1, x.dtype)
    result = types.UniTuple(vector, shape.rows)

    def write(context, builder, signature, args):
        code = _Code(vector, context, builder, signature, args)
        data, values = code.data(1), []
        for i in range(shape.rows):
            mask = _lane_mask(code, i, args[5], args[6], args[4])
            values.append(code.new_tile([_read(code, data, _step(code, args[2], args[3], i), mask)]))
        return context.make_tuple(builder, result, values)

    return result(shape, x, *[types.intp] * 5), write


@_instruction(_load_inside_code)
def vectors_load_inside(shape, x, position, step, count, begin, end):
    """As ``vectors_load``, but zero for vectors before ``begin`` and from ``end`` on."""
    values = np.zeros((shape.rows, lanes(x.dtype)), x.dtype)
    for i, place in _inside(x, position, step, count, begin, end, shape.rows):
        values[i, :count] = x[place]
    return tuple(values)


def _write_inside_code(add):
    def typing_function(typing, y, position, step, count, begin, end, values):
        vector = values.dtype

        def write(context, builder, signature, args):
            code = _Code(vector, context, builder, signature, args)
            data = code.data(0)
            for i, wrapped in enumerate(code.unpack(args[6], values.count)):
                (value,) = code.unpack(wrapped, 1)
                mask, place = _lane_mask(code, i, args[4], args[5], args[3]), _step(code, args[1], args[2], i)
                if add:
                    value = builder.fadd(value, _read(code, data, place, mask))
                _write(code, value, data, place, mask)
            return context.get_dummy_value()

        return types.void(y, *[types.intp] * 5, values), write

    return typing_function


@_instruction(_write_inside_code(add=False))
def vectors_store_inside(y, position, step, count, begin, end, values):
    """As ``vectors_store``, but only the vectors from ``begin`` up to ``end``."""
    for i, place in _inside(y, position, step, count, begin, end, len(values)):
        y[place] = values[i][:count]


@_instruction(_write_inside_code(add=True))
def vectors_add_inside(y, position, step, count, begin, end, values):
    """As ``vectors_add``, but only the vectors from ``begin`` up to ``end``."""
    for i, place in _inside(y, position, step, count, begin, end, len(values)):
        y[place] += values[i][:count]


# -------------------------------------------------------------------------------------- bias, ReLU, pooling


def _each(function):
    """An instruction that does the same to each vector of a tuple, with one more argument of vectors."""

    def typing_function(typing, values, other):
        vector = values.dtype

        def write(context, builder, signature, args):
            code = _Code(vector, context, builder, signature, args)
            others = [code.unpack(v, 1)[0] for v in code.unpack(args[1], other.count)]
            results = []
            for i, wrapped in enumerate(code.unpack(args[0], values.count)):
                result = function(code, code.unpack(wrapped, 1)[0], others[i % other.count])
                results.append(code.new_tile([result]))
            return context.make_tuple(builder, values, results)

        return values(values, other), write

    return typing_function


@_instruction(_each(lambda code, value, other: code.builder.fadd(value, other)))
def vectors_plus(values, bias):
    """Each vector plus the one vector of ``bias``."""
    return tuple(value + bias[0] for value in values)


def _positive(code, value, sign):
    """The value where ``sign`` is above 0 or NaN, else 0."""
    zero = ir.Constant(code.vector, None)
    return code.builder.select(code.builder.fcmp_unordered(">", sign, zero), value, zero)


@_instruction(_each(_positive))
def vectors_pass(values, y):
    """The gradient that ReLU lets through: each vector where that of y is not <= 0."""
    return tuple(np.where(sign <= 0, value.dtype.type(0), value) for value, sign in zip(values, y))


def _sum_code(typing, values):
    vector = values.dtype
    result = types.UniTuple(vector, 1)

    def write(context, builder, signature, args):
        code = _Code(vector, context, builder, signature, args)
        terms = [code.unpack(v, 1)[0] for v in code.unpack(args[0], values.count)]
        while len(terms) > 1:
            terms = [builder.fadd(*terms[i : i + 2]) if i + 1 < len(terms) else terms[i] for i in range(0, len(terms), 2)]
        return context.make_tuple(builder, result, [code.new_tile(terms)])

    return result(values), write


@_instruction(_sum_code)
def vectors_sum(values):
    """The sum of the vectors, a tuple of one."""
    return (np.sum(values, 0),)


def _relu_code(typing, values):
    vector = values.dtype

    def write(context, builder, signature, args):
        code = _Code(vector, context, builder, signature, args)
        results = [code.unpack(v, 1)[0] for v in code.unpack(args[0], values.count)]
        return context.make_tuple(builder, values, [code.new_tile([_positive(code, v, v)]) for v in results])

    return values(values), write


@_instruction(_relu_code)
def vectors_relu(values):
    """max(v, 0) of each vector; NaN stays."""
    return tuple(np.where(value <= 0, value.dtype.type(0), value) for value in values)


def _integers(code):
    """The LLVM type of a vector of integers as wide as the numbers."""
    return ir.VectorType(ir.IntType(code.tile.dtype.bitwidth), code.tile.lanes)


def _bytes(code, name, result, *values):
    """Call a masked load or store of bytes."""
    type_ = ir.FunctionType(result, [v.type for v in values])
    name = f"llvm.masked.{name}.v{code.tile.lanes}i8.p0"
    return code.builder.call(cgutils.get_or_insert_function(code.builder.module, type_, name), values)


def _pool_code(typing, y, winner, position, step, count, end, top, bottom):
    vector = top.dtype

    def write(context, builder, signature, args):
        code = _Code(vector, context, builder, signature, args)
        data, tags, integers = code.data(0), code.data(1), _integers(code)
        rows = [[code.unpack(v, 1)[0] for v in code.unpack(args[i], top.count)] for i in (6, 7)]
        zero = ir.Constant(code.vector, None)
        for i in range(top.count // 2):
            window = [*rows[0][2 * i : 2 * i + 2], *rows[1][2 * i : 2 * i + 2]]
            best, tag = window[0], ir.Constant(integers, [0] * vector.lanes)
            for k in (1, 2, 3):
                larger = builder.fcmp_ordered(">", window[k], best)
                larger = builder.or_(larger, builder.fcmp_unordered("uno", window[k], window[k]))
                best = builder.select(larger, window[k], best)
                tag = builder.select(larger, ir.Constant(integers, [k] * vector.lanes), tag)
            alive = builder.fcmp_unordered(">", best, zero)
            tag = builder.select(alive, tag, ir.Constant(integers, [DEAD] * vector.lanes))
            mask, place = _lane_mask(code, i, _I64(0), args[5], args[4]), _step(code, args[2], args[3], i)
            _write(code, builder.select(alive, best, zero), data, place, mask)
            tag = builder.trunc(tag, ir.VectorType(ir.IntType(8), vector.lanes))
            _bytes(code, "store", ir.VoidType(), tag, code.at(tags, place), _I32(1), mask)
        return context.get_dummy_value()

    return types.void(y, winner, types.intp, types.intp, types.intp, types.intp, top, bottom), write


@_instruction(_pool_code)
def vectors_pool(y, winner, position, step, count, end, top, bottom):
    """The windows (top[0], top[1], bottom[0], bottom[1]), (top[2], ...), ...: their largest values, not below 0, and winners.

    They go to position, position + step, ... of y and ``winner``, the windows before ``end``.
    """
    for i, place in _inside(y, position, step, count, 0, end, len(top) // 2):
        best, tag = top[2 * i], np.zeros(top[0].size, np.uint8)
        for k, value in enumerate((top[2 * i + 1], bottom[2 * i], bottom[2 * i + 1]), 1):
            larger = (value > best) | np.isnan(value)
            best, tag = np.where(larger, value, best), np.where(larger, np.uint8(k), tag)
        y[place] = np.where(best <= 0, y.dtype.type(0), best)[:count]
        winner[place] = np.where(best <= 0, np.uint8(DEAD), tag)[:count]


def _unpool_code(typing, shape, g, winner, position, step, count, end):
    vector = Tile(1, 1, g.dtype)
    row = types.UniTuple(vector, shape.rows)
    result = types.UniTuple(row, 2)

    def write(context, builder, signature, args):
        code = _Code(vector, context, builder, signature, args)
        data, tags, zero = code.data(1), code.data(2), ir.Constant(code.vector, None)
        small = ir.VectorType(ir.IntType(8), vector.lanes)
        rows: list[list] = [[], []]
        for i in range(shape.rows // 2):
            mask, place = _lane_mask(code, i, _I64(0), args[6], args[5]), _step(code, args[3], args[4], i)
            value = _read(code, data, place, mask)
            tag = _bytes(code, "load", small, code.at(tags, place), _I32(1), mask, ir.Constant(small, None))
            for k in range(4):
                won = builder.icmp_unsigned("==", tag, ir.Constant(small, [k] * vector.lanes))
                rows[k // 2].append(code.new_tile([builder.select(won, value, zero)]))
        return context.make_tuple(builder, result, [context.make_tuple(builder, row, values) for values in rows])

    return result(shape, g, winner, types.intp, types.intp, types.intp, types.intp), write


@_instruction(_unpool_code)
def vectors_unpool(shape, g, winner, position, step, count, end):
    """(top, bottom), each as many vectors as the shape has rows: g[position], ... where the pixel is the winner, else 0."""
    top, bottom = (np.zeros((shape.rows, lanes(g.dtype)), g.dtype) for _ in range(2))
    for i, place in _inside(g, position, step, count, 0, end, shape.rows // 2):
        for k in range(4):
            (top, bottom)[k // 2][2 * i + k % 2, :count] = np.where(winner[place] == k, g[place], g.dtype.type(0))
    return tuple(top), tuple(bottom)
