"""Blocks of dot products in registers: the tile for operands that are both contiguous along k.

C[i, j] = sum_k A[i, k] B[j, k]. A block of `DOT_ROWS` x `DOT_COLUMNS` accumulators, each a vector over k, stays
in registers for the whole sum; in every step of `lanes` numbers it loads

    loads:           DOT_ROWS + DOT_COLUMNS    (AVX-512: 4 + 4 = 8, 4 cycles at two a cycle)
    multiply-adds:   DOT_ROWS * DOT_COLUMNS    (4 * 4 = 16, 8 cycles at two a cycle)

and at the end each accumulator's lanes are added up. One by one, 16 accumulators would take 64 additions and as
many shuffles; joined two by two, as `_sum_lanes` does, they take 15 and 30. It serves the gradient of a linear
layer by its input, a sum over the layer's outputs.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from ddp.kernels.vector import (
    BIT,
    INT64,
    UNIT,
    VECTOR,
    Builder,
    Value,
    element_pointer,
    first_lanes,
    fma,
    integer,
    intrinsic,
    load,
    shuffle,
    splat,
    store_masked,
)

DOT_ROWS = UNIT.dot_rows
DOT_COLUMNS = 4


def _sum_lanes(builder: Builder, vectors: list[Value]) -> Value:
    """A vector whose lane i is the sum of the lanes of vector i, of as many vectors as there are lanes.

    In every round two vectors become one: each of their segments is halved, the halves are added, and the
    results stand side by side.
    """
    length = UNIT.lanes
    while length > 1:
        starts, length = range(0, 2 * UNIT.lanes, length), length // 2
        low = [start + i for start in starts for i in range(length)]
        high = [lane + length for lane in low]
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        vectors = [builder.fadd(shuffle(builder, a, b, low), shuffle(builder, a, b, high)) for a, b in pairs]
    return vectors[0]


def _dot_products(builder: Builder, pointers_a: list[Value], pointers_b: list[Value], count: Value) -> list[Value]:
    """For each row of a, a vector of its scalar products with the rows of b, each from `lanes` partial sums."""
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
    rows = []
    for first in range(0, len(sums), UNIT.lanes):
        joined = _sum_lanes(builder, sums[first : first + UNIT.lanes])
        for lane in range(0, UNIT.lanes, DOT_COLUMNS):
            rows.append(shuffle(builder, joined, joined, list(range(lane, lane + DOT_COLUMNS))))
    return rows


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
    y: Any,
    y_at: Any,
    y_row: Any,
    flags: Any,
) -> Any:
    """Write c[i, j] = sum_k a[i, k] b[j, k], up to DOT_ROWS rows of a and DOT_COLUMNS of b.

    Offsets and distances between rows count elements; y and `flags` as for `tile_masked`.
    """
    integers = [types.int64]
    signature = types.void(a, *integers * 2, b, *integers * 5, c, *integers * 2, y, *integers * 3)

    def generate(context: Any, builder: Builder, signature: Any, values: Any) -> Value:
        a, b, c, y = (
            element_pointer(context, builder, signature.args[i], values[i], values[i + 1]) for i in (0, 3, 9, 12)
        )
        a_row, b_row, count, rows, columns = values[2], values[5], values[6], values[7], values[8]
        c_row, y_row, flags = values[11], values[14], values[15]

        def clamped(pointer: Value, distance: Value, number: Value, largest: int) -> list[Value]:
            """Pointers to rows; those past the end repeat the last, and what they give is not stored."""
            last = builder.sub(number, integer(1))
            indices = [integer(row) for row in range(largest)]
            nearest = [builder.select(builder.icmp_signed("<", i, last), i, last) for i in indices]
            return [builder.gep(pointer, [builder.mul(i, distance)]) for i in nearest]

        pointers = clamped(a, a_row, rows, DOT_ROWS), clamped(b, b_row, columns, DOT_COLUMNS)
        in_columns = first_lanes(builder, columns, DOT_COLUMNS)
        for row, value in enumerate(_dot_products(builder, *pointers, count)):
            is_row = splat(builder, builder.icmp_signed("<", integer(row), rows), in_columns.type)
            target = builder.gep(c, [builder.mul(c_row, integer(row))])
            source = builder.gep(y, [builder.mul(y_row, integer(row))])
            store_masked(builder, value, builder.and_(in_columns, is_row), target, source, flags)
        return context.get_dummy_value()

    return signature, generate
