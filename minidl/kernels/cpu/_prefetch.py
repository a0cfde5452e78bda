"""An instruction that asks for numbers before they are needed."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils

from minidl.kernels.cpu._tile import _instruction

__all__ = ["prefetch"]


def _prefetch_code(typing, x, rows, k):
    def write(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        pointer, number = data.type, ir.IntType(32)
        type_ = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        fetch = cgutils.get_or_insert_function(builder.module, type_, "llvm.prefetch.p0")
        for r in range(rows.count):
            address = builder.gep(data, [builder.add(builder.extract_value(args[1], r), args[2])])
            builder.call(fetch, [address, number(0), number(2), number(1)])  # to read, into the second-level cache, data
        return context.get_dummy_value()

    return types.void(x, rows, types.intp), write


@_instruction(_prefetch_code)
def prefetch(x, rows, k):
    """Start to read x[rows[r] + k] from memory, which takes as long as a hundred sums. It need not exist."""
