"""Blocks of dot products in registers: the tile for operands that are both contiguous along k.

C[i, j] = sum_k A[i, k] B[j, k]. A block of `dot_rows` x `dot_rows` accumulators, each a vector over k, stays
in registers for the whole sum; in every step of `lanes` numbers it loads

    loads:           dot_rows + dot_rows    (AVX-512: 4 + 4 = 8, 4 cycles at two a cycle)
    multiply-adds:   dot_rows * dot_rows    (4 * 4 = 16, 8 cycles at two a cycle)

and at the end each accumulator's lanes are added up, always in the same order. That costs as much as about
100 multiply-adds, so it pays for long sums: the forward pass of a linear layer.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from ddp.kernels.vector import (
    BIT,
    FLOAT,
    INT64,
    UNIT,
    VECTOR,
    Builder,
    Value,
    declare,
    element_pointer,
    first_lanes,
    fma,
    integer,
    intrinsic,
    load,
    splat,
    store_activation,
)

DOT_ROWS = UNIT.dot_rows


def _dot_products(builder: Builder, pointers_a: list[Value], pointers_b: list[Value], count: Value) -> list[Value]:
    """The scalar products of every row of a with every row of b, each summed in `lanes` partial sums."""
    steps = builder.sdiv(count, integer(UNIT.lanes))
    zeros = [ir.Constant(VECTOR, None)] * (len(pointers_a) * len(pointers_b))

    def accumulate(offset: Value, mask: Value, accumulators: list[Value]) -> list[Value]:
        rows_a = [load(builder, builder.gep(pointer, [offset]), VECTOR, mask) for pointer in pointers_a]
        rows_b = [load(builder, builder.gep(pointer, [offset]), VECTOR, mask) for pointer in pointers_b]
        pairs = [(row_a, row_b) for row_a in rows_a for row_b in rows_b]
        return [fma(builder, *pair, total) for pair, total in zip(pairs, accumulators, strict=True)]

    entry, test = builder.block, builder.append_basic_block("dot")
    loop, after = builder.append_basic_block("dot.step"), builder.append_basic_block("dot.end")
    builder.branch(test)
    builder.position_at_end(test)
    step, totals = builder.phi(INT64), [builder.phi(VECTOR) for _ in zeros]
    builder.cbranch(builder.icmp_signed("<", step, steps), loop, after)
    builder.position_at_end(loop)
    full = ir.Constant(ir.VectorType(BIT, UNIT.lanes), [1] * UNIT.lanes)
    sums = accumulate(builder.mul(step, integer(UNIT.lanes)), full, totals)
    for variable, first, later in zip(
        (step, *totals), (integer(0), *zeros), (builder.add(step, integer(1)), *sums), strict=True
    ):
        variable.add_incoming(first, entry)
        variable.add_incoming(later, loop)
    builder.branch(test)
    builder.position_at_end(after)
    done = builder.mul(steps, integer(UNIT.lanes))
    sums = accumulate(done, first_lanes(builder, builder.sub(count, done)), totals)
    reduce = declare(builder, f"llvm.vector.reduce.fadd.v{UNIT.lanes}f32", FLOAT, [FLOAT, VECTOR])
    # Reassociation lets the lanes be added as a tree; which tree is fixed when this is compiled.
    return [builder.call(reduce, [ir.Constant(FLOAT, -0.0), total], fastmath=("reassoc",)) for total in sums]


@intrinsic
def dot_tile(
    typing_context: Any,
    a: Any,
    a_at: Any,
    a_row: Any,
    b: Any,
    b_at: Any,
    b_row: Any,
    count: Any,
    rows: Any,
    columns: Any,
    c: Any,
    c_at: Any,
    c_row: Any,
    bias: Any,
    bias_at: Any,
    flags: Any,
) -> Any:
    """Write c[i, j] = activation(sum_k a[i, k] b[j, k] + bias[j]) for up to DOT_ROWS rows of a and of b.

    Offsets and distances between rows count elements; `flags` as for `tile_activation`.
    """
    integers = [types.int64]
    signature = types.void(a, *integers * 2, b, *integers * 5, c, *integers * 2, bias, *integers * 2)

    def generate(context: Any, builder: Builder, signature: Any, values: Any) -> Value:
        a, b, c, bias = (
            element_pointer(context, builder, signature.args[i], values[i], values[i + 1]) for i in (0, 3, 9, 12)
        )
        a_row, b_row, count, rows, columns = values[2], values[5], values[6], values[7], values[8]
        c_row, flags = values[11], values[14]

        def clamped(pointer: Value, distance: Value, number: Value) -> list[Value]:
            """Pointers to DOT_ROWS rows; those past the end repeat the last, and what they give is not stored."""
            last = builder.sub(number, integer(1))
            indices = [integer(row) for row in range(UNIT.dot_rows)]
            nearest = [builder.select(builder.icmp_signed("<", i, last), i, last) for i in indices]
            return [builder.gep(pointer, [builder.mul(i, distance)]) for i in nearest]

        products = _dot_products(builder, clamped(a, a_row, rows), clamped(b, b_row, columns), count)
        width = UNIT.dot_rows
        in_columns = first_lanes(builder, columns, width)
        for row in range(width):
            values_of_row = ir.Constant(ir.VectorType(FLOAT, width), ir.Undefined)
            for column in range(width):
                place = ir.Constant(ir.IntType(32), column)
                values_of_row = builder.insert_element(values_of_row, products[row * width + column], place)
            is_row = splat(builder, builder.icmp_signed("<", integer(row), rows), in_columns.type)
            target = builder.gep(c, [builder.mul(c_row, integer(row))])
            store_activation(builder, values_of_row, builder.and_(in_columns, is_row), target, bias, flags)
        return context.get_dummy_value()

    return signature, generate
