"""The register tile: a block of results that stays in the processor's registers while a sum runs over it.

Convolutions and matrix products are many sums of products,  y[r, c] = sum over k of x[r, k] w[k, c].  Done one at a
time, each multiplication waits for two numbers from memory, and memory is slower than the arithmetic. A tile does
``rows x columns`` of these sums at once. One step of k takes ``rows`` numbers of x and ``columns`` numbers of w
and multiplies each with each (a *rank-1 update*):

                          w[k, c]
                      +-----------------+
                      |  b0    |   b1   |               2 vectors, loaded once, used by all rows
                      +-----------------+
        x[0, k]  a0   |+= a0 b0|+= a0 b1|
        x[1, k]  a1   |+= a1 b0|+= a1 b1|               9 x 2 vector registers that hold the sums;
          ...         |  ...   |  ...   |               they are written to memory once, after the last k
        x[8, k]  a8   |+= a8 b0|+= a8 b1|
                      +-----------------+

With vectors of 16 floats this step is 11 loads and 18 multiply-adds of vectors, where a sum at a time would need a load or
two for each: the multipliers are the limit and not the memory. The 18 sums are independent, which a processor needs too: it
starts two multiply-adds in each cycle and finishes each four cycles later, so at least 8 must be on their way at any time.
More registers for sums would be better still, but when they run out (32 with AVX-512 and on ARM, 16 with AVX2; the
vectors of w and one number of x need some) the compiler moves sums to memory and back, and the speed falls to a half.

Numba has no vector type, so this file adds one: ``Tile``, which LLVM sees as an array of vectors and keeps in registers,
and a handful of instructions on it. Each instruction is a pair: what it means, as two or three lines of NumPy, and
above that the code it compiles to. With NUMBA_DISABLE_JIT=1 the NumPy meaning is what runs, bounds checked by
NumPy, so the kernels built on tiles can be tested and debugged as plain Python.

Arrays given to instructions are contiguous and one-dimensional; positions in them are numbers of elements. Nothing checks
bounds in compiled code: a kernel sees to it that all positions lie inside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.core.imputils import lower_constant, lower_getattr
from numba.core.typing.templates import AttributeTemplate, infer_getattr
from numba.extending import intrinsic, models, register_model, typeof_impl

__all__ = ["NARROW", "WIDE", "lanes", "tile_add", "tile_fma", "tile_offsets", "tile_start", "tile_store"]


def _vector_bytes() -> int:
    """The width of the vector registers of the processor that Numba compiles for."""
    if config.CPU_FEATURES is None and config.CPU_NAME is None:
        features = {name for name, there in llvm.get_host_cpu_features().items() if there}
    else:  # set by the user, as "+avx2,+fma,-avx512f"
        features = {name[1:] for name in (config.CPU_FEATURES or "").split(",") if name.startswith("+")}
    return 64 if "avx512f" in features else 32 if "avx2" in features else 16


VECTOR_BYTES = _vector_bytes()


class Shape:
    """Rows and vectors per row of a tile: a constant of the compiled code."""

    def __init__(self, rows: int, vectors: int):
        self.rows, self.vectors = rows, vectors


# A wide tile makes more of each number of x; a narrow one is for results with few columns. 3x3 kernels like multiples of 9.
# Vector bytes: (wide, narrow). There are 32 registers of 64 bytes, 16 of 32 bytes, 16 (SSE) or 32 (ARM) of 16 bytes.
_SHAPES = {64: (Shape(9, 2), Shape(9, 1)), 32: (Shape(6, 2), Shape(9, 1)), 16: (Shape(6, 2), Shape(9, 1))}
WIDE, NARROW = _SHAPES[VECTOR_BYTES]


def lanes(dtype: Any) -> int:
    """How many numbers a vector register holds."""
    return VECTOR_BYTES // np.dtype(dtype).itemsize


class ShapeType(types.Type):
    """Numba's type of one Shape: every shape is a type of its own, so that loops are compiled for it."""

    def __init__(self, rows: int, vectors: int):
        self.rows, self.vectors = rows, vectors
        super().__init__(name=f"Shape({rows}, {vectors})")


class Tile(types.Type):
    """Numba's type of rows x vectors vector registers of a float type."""

    def __init__(self, rows: int, vectors: int, dtype: types.Float):
        self.rows, self.vectors, self.dtype = rows, vectors, dtype
        self.lanes = VECTOR_BYTES * 8 // dtype.bitwidth
        super().__init__(name=f"Tile({rows}, {vectors}, {dtype}, {self.lanes})")

    @property
    def vector(self) -> ir.VectorType:
        """The LLVM type of one register."""
        return ir.VectorType(ir.FloatType() if self.dtype == types.float32 else ir.DoubleType(), self.lanes)


register_model(ShapeType)(models.OpaqueModel)


@register_model(Tile)
class _TileModel(models.PrimitiveModel):
    def __init__(self, manager: Any, tile: Tile):
        super().__init__(manager, tile, ir.ArrayType(tile.vector, tile.rows * tile.vectors))


@typeof_impl.register(Shape)
def _type_of_shape(shape: Shape, context: Any) -> ShapeType:
    return ShapeType(shape.rows, shape.vectors)


@lower_constant(ShapeType)
def _shape_constant(context: Any, builder: Any, type_: ShapeType, value: Shape) -> Any:
    return context.get_dummy_value()


@infer_getattr
class _ShapeAttributes(AttributeTemplate):
    key = ShapeType

    def resolve_rows(self, shape: ShapeType) -> types.Type:
        return types.intp

    resolve_vectors = resolve_rows


@lower_getattr(ShapeType, "rows")
def _shape_rows(context: Any, builder: Any, type_: ShapeType, value: Any) -> Any:
    return context.get_constant(types.intp, type_.rows)


@lower_getattr(ShapeType, "vectors")
def _shape_vectors(context: Any, builder: Any, type_: ShapeType, value: Any) -> Any:
    return context.get_constant(types.intp, type_.vectors)


def _instruction(code: Callable) -> Callable:
    """The decorator of an instruction's meaning, which ``code`` replaces when Numba compiles."""

    def pair(meaning: Callable) -> Callable:
        if config.DISABLE_JIT:
            return meaning
        compiled = intrinsic(code)
        compiled.__doc__, compiled.meaning = meaning.__doc__, meaning
        return compiled

    return pair


# -------------------------------------------------------------------------------------- pieces of LLVM code

_I32, _I64 = ir.IntType(32), ir.IntType(64)


class _Code:
    """Writes the LLVM code of one use of an instruction; ``args`` are its arguments as LLVM values."""

    def __init__(self, tile: Tile, context: Any, builder: ir.IRBuilder, signature: Any, args: tuple):
        self.tile, self.context, self.builder, self.signature, self.args = tile, context, builder, signature, args
        self.vector = tile.vector
        self.size = ir.Constant(ir.IntType(32), tile.dtype.bitwidth // 8)

    def data(self, i: int) -> ir.Value:
        """The address of the first element of argument i, an array."""
        return self.context.make_array(self.signature.args[i])(self.context, self.builder, self.args[i]).data

    def at(self, data: ir.Value, position: ir.Value, offset: int = 0) -> ir.Value:
        if offset:
            position = self.builder.add(position, _I64(offset))
        return self.builder.gep(data, [position])

    def load(self, address: ir.Value) -> ir.Value:
        """A vector of consecutive elements."""
        loaded = self.builder.load(self.builder.bitcast(address, self.vector.as_pointer()), typ=self.vector)
        loaded.align = self.tile.dtype.bitwidth // 8
        return loaded

    def store(self, value: ir.Value, address: ir.Value) -> None:
        stored = self.builder.store(value, self.builder.bitcast(address, self.vector.as_pointer()))
        stored.align = self.tile.dtype.bitwidth // 8

    def splat(self, scalar: ir.Value) -> ir.Value:
        """A vector of equal elements."""
        type_ = ir.VectorType(scalar.type, self.tile.lanes)
        one = self.builder.insert_element(ir.Constant(type_, ir.Undefined), scalar, _I32(0))
        zeros = ir.Constant(ir.VectorType(_I32, self.tile.lanes), [0] * self.tile.lanes)
        return self.builder.shuffle_vector(one, ir.Constant(type_, ir.Undefined), zeros)

    def call(self, name: str, result: ir.Type, *values: ir.Value) -> ir.Value:
        """Call an LLVM intrinsic."""
        suffix = f"v{self.tile.lanes}f{self.tile.dtype.bitwidth}"
        type_ = ir.FunctionType(result, [v.type for v in values])
        function = cgutils.get_or_insert_function(self.builder.module, type_, name.format(suffix))
        return self.builder.call(function, values)

    def first_lanes(self, count: ir.Value) -> ir.Value:
        """The mask whose first ``count`` lanes are on."""
        index = ir.Constant(ir.VectorType(_I32, self.tile.lanes), list(range(self.tile.lanes)))
        return self.builder.icmp_signed("<", index, self.splat(self.builder.trunc(count, _I32)))

    def unpack(self, value: ir.Value, count: int) -> list[ir.Value]:
        return [self.builder.extract_value(value, i) for i in range(count)]

    def new_tile(self, vectors: list[ir.Value]) -> ir.Value:
        tile = ir.Constant(ir.ArrayType(self.vector, len(vectors)), ir.Undefined)
        for i, value in enumerate(vectors):
            tile = self.builder.insert_value(tile, value, i)
        return tile


# -------------------------------------------------------------------------------------- the instructions


def _start_code(typing, shape, start):
    tile = Tile(shape.rows, shape.vectors, start.dtype)

    def write(context, builder, signature, args):
        code = _Code(tile, context, builder, signature, args)
        data = code.data(1)
        row = [code.load(code.at(data, _I64(v * tile.lanes))) for v in range(tile.vectors)]
        return code.new_tile(row * tile.rows)

    return tile(shape, start), write


@_instruction(_start_code)
def tile_start(shape, start):
    """A tile of which every row is the beginning of ``start``, as many numbers as the tile has columns."""
    columns = shape.vectors * lanes(start.dtype)
    assert start.size >= columns
    return np.tile(start[:columns], (shape.rows, 1))


def _offsets_code(typing, shape, table, first, last):
    result = types.UniTuple(types.intp, shape.rows)

    def write(context, builder, signature, args):
        data = context.make_array(signature.args[1])(context, builder, args[1]).data
        values = []
        for r in range(shape.rows):
            row = builder.add(args[2], _I64(r))
            row = builder.select(builder.icmp_signed("<", row, args[3]), row, args[3])
            values.append(builder.load(builder.gep(data, [row])))
        return context.make_tuple(builder, result, values)

    return result(shape, table, types.intp, types.intp), write


@_instruction(_offsets_code)
def tile_offsets(shape, table, first, last):
    """table[first], table[first + 1], ... one for each row of a tile, and table[last] where that is the end."""
    return tuple(table[min(first + r, last)] for r in range(shape.rows))


def _fma_code(typing, tile, x, rows, k, w, position):
    def write(context, builder, signature, args):
        code = _Code(tile, context, builder, signature, args)
        x_data, w_data = code.data(1), code.data(4)
        w_row = [code.load(code.at(w_data, args[5], v * tile.lanes)) for v in range(tile.vectors)]
        sums = code.unpack(args[0], tile.rows * tile.vectors)
        for r, row in enumerate(code.unpack(args[2], tile.rows)):
            factor = code.splat(builder.load(code.at(x_data, builder.add(row, args[3]))))
            for v in range(tile.vectors):
                i = r * tile.vectors + v
                sums[i] = code.call("llvm.fmuladd.{}", code.vector, factor, w_row[v], sums[i])
        return code.new_tile(sums)

    return tile(tile, x, rows, types.intp, w, types.intp), write


@_instruction(_fma_code)
def tile_fma(tile, x, rows, k, w, position):
    """tile[r, c] + x[rows[r] + k] * w[position + c]: the rank-1 update."""
    w = w[position : position + tile.shape[1]]
    assert min(rows) + k >= 0
    return tile + x[np.array(rows) + k, None] * w


def _write_code(add):
    """The code of tile_store and tile_add: rows straight from the registers, or masked and counted at the edges."""

    def typing_function(typing, tile, y, offsets, rows, columns):
        def write(context, builder, signature, args):
            code = _Code(tile, context, builder, signature, args)
            data = code.data(1)
            sums = code.unpack(args[0], tile.rows * tile.vectors)
            starts = code.unpack(args[2], tile.rows)
            whole = builder.and_(
                builder.icmp_signed(">=", args[3], _I64(tile.rows)),
                builder.icmp_signed(">=", args[4], _I64(tile.vectors * tile.lanes)),
            )
            with builder.if_else(whole) as (inside, at_edge):
                with inside:
                    for i, value in enumerate(sums):
                        r, v = divmod(i, tile.vectors)
                        address = code.at(data, starts[r], v * tile.lanes)
                        code.store(builder.fadd(value, code.load(address)) if add else value, address)
                with at_edge:
                    masks = [code.first_lanes(builder.sub(args[4], _I64(v * tile.lanes))) for v in range(tile.vectors)]
                    for r in range(tile.rows):
                        with builder.if_then(builder.icmp_signed(">", args[3], _I64(r))):
                            for v, mask in enumerate(masks):
                                value = sums[r * tile.vectors + v]
                                address = code.at(data, starts[r], v * tile.lanes)
                                if add:
                                    zero = ir.Constant(code.vector, None)
                                    old = code.call("llvm.masked.load.{}.p0", code.vector, address, code.size, mask, zero)
                                    value = builder.fadd(value, old)
                                code.call("llvm.masked.store.{}.p0", ir.VoidType(), value, address, code.size, mask)
            return context.get_dummy_value()

        return types.void(tile, y, offsets, types.intp, types.intp), write

    return typing_function


@_instruction(_write_code(add=False))
def tile_store(tile, y, offsets, rows, columns):
    """y[offsets[r] + c] = tile[r, c] for its first ``rows`` rows and ``columns`` columns, or all if it has fewer."""
    for values, offset in zip(tile[:rows, :columns], offsets):
        assert offset >= 0
        y[offset : offset + values.size] = values


@_instruction(_write_code(add=True))
def tile_add(tile, y, offsets, rows, columns):
    """As ``tile_store``, but added to what is in y."""
    for values, offset in zip(tile[:rows, :columns], offsets):
        assert offset >= 0
        y[offset : offset + values.size] += values
