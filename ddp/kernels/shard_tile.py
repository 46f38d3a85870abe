"""The tile of a linear layer's weight gradient: sums over short shards, added in float64 in registers.

A shard has few samples (8 of a batch of 64), so `tile_add_float64` would read and write every float64 element
of the gradient after every 8 steps. Here the float64 sums stay in registers beside the float32 accumulators,
three registers for each, while all shards pass, and every element of the gradient is stored once:

    registers:  3 * rows * vectors + vectors + 1   (AVX-512: 3 * 4 * 2 + 2 + 1 = 27 of 32)

A shard's sum is taken in float32, in the order of its samples, and shards are added in float64 in theirs:
the same bits as `tile_add_float64` gives.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from ddp.kernels.tile import Operands, for_each_size, products
from ddp.kernels.vector import (
    DOUBLE,
    INT64,
    UNIT,
    Builder,
    Value,
    element_pointer,
    integer,
    intrinsic,
    store,
)

SHARD_ROWS = UNIT.shard_rows


def _sum_over_shards(
    builder: Builder,
    shards: Value,
    num_shards: Value,
    a: tuple[Value, Value, Value],
    b: tuple[Value, Value],
    rows: int,
    masks: list[Value],
) -> list[Value]:
    """Emit the loop over shards; the float64 sums after it.

    Args:
        builder: where to emit.
        shards: pointer to where each shard begins, and the end.
        num_shards: how many there are; empty ones are passed over.
        a: pointer, elements between rows, elements between samples.
        b: pointer, elements between samples.
        rows: rows of the tile.
        masks: for each vector of a row, which of its lanes to read.
    """
    doubles = ir.VectorType(DOUBLE, UNIT.lanes)
    entry, test, begin = builder.block, builder.append_basic_block("shard"), builder.append_basic_block("begin")
    work, merge, after = (builder.append_basic_block(name) for name in ("work", "merge", "shards.end"))
    builder.branch(test)

    builder.position_at_end(test)
    shard = builder.phi(INT64)
    totals = [builder.phi(doubles) for _ in range(rows * len(masks))]
    builder.cbranch(builder.icmp_signed("<", shard, num_shards), begin, after)

    builder.position_at_end(begin)
    first = builder.load(builder.gep(shards, [shard]))
    size = builder.sub(builder.load(builder.gep(shards, [builder.add(shard, integer(1))])), first)
    builder.cbranch(builder.icmp_signed(">", size, integer(0)), work, merge)

    builder.position_at_end(work)
    zero, one = integer(0), integer(1)
    pointer_a = builder.gep(a[0], [builder.mul(first, a[2])])
    pointer_b = builder.gep(b[0], [builder.mul(first, b[1])])
    operands = Operands(
        pointer_a,
        lambda row: builder.mul(a[1], integer(row)),
        (zero, zero, a[2]),
        pointer_b,
        (zero, zero, b[1]),
        (one, one, size),
    )
    leaves = products(builder, operands, rows, masks)
    sums = [builder.fadd(total, builder.fpext(leaf, doubles)) for total, leaf in zip(totals, leaves, strict=True)]
    worked = builder.block
    builder.branch(merge)

    builder.position_at_end(merge)
    merged = [builder.phi(doubles) for _ in totals]
    for variable, before, then in zip(merged, totals, sums, strict=True):
        variable.add_incoming(before, begin)
        variable.add_incoming(then, worked)
    following = builder.add(shard, integer(1))
    builder.branch(test)
    nothing = [ir.Constant(doubles, None)] * len(totals)
    for variable, start, later in zip((shard, *totals), (zero, *nothing), (following, *merged), strict=True):
        variable.add_incoming(start, entry)
        variable.add_incoming(later, merge)
    builder.position_at_end(after)
    return totals


@intrinsic
def tile_over_shards(
    typing_context: Any,
    a: Any,
    a_at: Any,
    a_row: Any,
    a_step: Any,
    b: Any,
    b_at: Any,
    b_step: Any,
    shards: Any,
    num_shards: Any,
    rows: Any,
    columns: Any,
    c: Any,
    c_at: Any,
    c_row: Any,
) -> Any:
    """Write c[i, j] = sum over shards, in float64, of sum_s a[s, i] b[s, j] over each one's samples, in float32.

    For up to SHARD_ROWS rows and TILE_COLUMNS columns; offsets and distances count elements.
    """
    integers = [types.int64]
    signature = types.void(a, *integers * 3, b, *integers * 2, shards, *integers * 3, c, *integers * 2)

    def generate(context: Any, builder: Builder, signature: Any, values: Any) -> Value:
        pointer_a, pointer_b, pointer_c = (
            element_pointer(context, builder, signature.args[i], values[i], values[i + 1]) for i in (0, 4, 11)
        )
        starts = element_pointer(context, builder, signature.args[7], values[7], integer(0))
        rows, columns, c_row = values[9], values[10], values[13]
        a_place, b_place = (pointer_a, values[2], values[3]), (pointer_b, values[6])

        def emit(height: int, masks: list[Value]) -> None:
            totals = _sum_over_shards(builder, starts, values[8], a_place, b_place, height, masks)
            for number, total in enumerate(totals):
                row, vector = divmod(number, len(masks))
                place = builder.add(builder.mul(c_row, integer(row)), integer(vector * UNIT.lanes))
                store(builder, total, builder.gep(pointer_c, [place]), masks[vector])

        for_each_size(builder, rows, columns, SHARD_ROWS, emit)
        return context.get_dummy_value()

    return signature, generate
