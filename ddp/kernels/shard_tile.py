"""The tile of weight gradients: each logical shard's sum in float32, the shards' sums added in registers.

A shard has few samples (8 of a batch of 64): were its sum added to the gradient in memory, every element would be
read and written after every 8 steps. Here the totals stay in registers beside the float32 accumulators while all
shards pass, and every element of the gradient is stored once:

    registers:  2 * rows * vectors + vectors + 1   (AVX-512: 2 * 6 * 2 + 2 + 1 = 27 of 32)

What the totals are is the type of the gradient's elements:

    float32     leaf by leaf, each rounding
    int32       fixed point: each leaf is multiplied by a power of two and rounded to an integer. Integers are
                added exactly in any order, so that it does not matter who adds what: `numerics.md`
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from ddp.kernels.tile import Operands, for_each_size, products
from ddp.kernels.vector import (
    INT32,
    INT64,
    UNIT,
    VECTOR,
    Builder,
    Value,
    declare,
    element_pointer,
    integer,
    intrinsic,
    splat,
    store,
)

SHARD_ROWS = UNIT.shard_rows
INTEGERS = ir.VectorType(INT32, UNIT.lanes)


@dataclass(frozen=True)
class Totals:
    """What is carried from shard to shard: a vector for each accumulator, and the largest leaf so far."""

    vectors: list[Value]
    largest: Value
    """Of each lane, the bits of its absolute value, scaled: as integers they are ordered as the numbers are, and a NaN
    is above them all."""


def scale_leaf(builder: Builder, leaf: Value, scale: Value, largest: Value) -> tuple[Value, Value]:
    """The leaf times the scale, and the largest magnitude so far, this one's included."""
    lanes = leaf.type.count
    integers = ir.VectorType(INT32, lanes)
    scaled = builder.fmul(leaf, scale)
    magnitude = builder.and_(builder.bitcast(scaled, integers), ir.Constant(integers, [0x7FFFFFFF] * lanes))
    larger = declare(builder, f"llvm.umax.v{lanes}i32", integers, [integers] * 2)
    return scaled, builder.call(larger, [largest, magnitude])


def add_float32(builder: Builder, total: Value, scaled: Value) -> Value:
    """Their sum."""
    return builder.fadd(total, scaled)


def add_int32(builder: Builder, total: Value, scaled: Value) -> Value:
    """Their sum, once the leaf is rounded to the nearest integer, ties to even."""
    integers = total.type
    name = f"llvm.lrint.v{integers.count}i32.v{integers.count}f32"
    return builder.add(total, builder.call(declare(builder, name, integers, [scaled.type]), [scaled]))


def largest_lane(builder: Builder, largest: Value) -> Value:
    """The largest of the lanes, as int64."""
    name = f"llvm.vector.reduce.umax.v{largest.type.count}i32"
    return builder.zext(builder.call(declare(builder, name, INT32, [largest.type]), [largest]), INT64)


# By the type of a gradient's elements: that of a vector of totals, and how a scaled leaf is added to it.
ADD: dict[Any, tuple[Value, Callable[[Builder, Value, Value], Value]]] = {
    types.float32: (VECTOR, add_float32),
    types.int32: (INTEGERS, add_int32),
}


def _add_leaves(builder: Builder, totals: Totals, leaves: list[Value], kind: Any, scale: Value) -> Totals:
    sums, largest = [], totals.largest
    for total, leaf in zip(totals.vectors, leaves, strict=True):
        scaled, largest = scale_leaf(builder, leaf, scale, largest)
        sums.append(ADD[kind][1](builder, total, scaled))
    return Totals(sums, largest)


@dataclass(frozen=True)
class Shards:
    """Where each logical shard begins, and the end: a pointer to int64; and how many there are."""

    starts: Value
    number: Value


def _sum_over_shards(
    builder: Builder, shards: Shards, operands: Operands, rows: int, masks: list[Value], kind: Any, scale: Value
) -> Totals:
    """Emit the loop over shards, of which empty ones are passed over; the totals after it.

    Args:
        builder: where to emit.
        shards: what to loop over.
        operands: of sample 0, with the step from sample to sample as the outermost, whose count is ignored.
        rows: rows of the tile.
        masks: for each vector of a row, which of its lanes to read.
        kind: type of the gradient's elements.
        scale: what leaves are multiplied by, in all lanes.
    """
    entry, test, begin = builder.block, builder.append_basic_block("shard"), builder.append_basic_block("begin")
    work, merge, after = (builder.append_basic_block(name) for name in ("work", "merge", "shards.end"))
    builder.branch(test)

    builder.position_at_end(test)
    shard, one = builder.phi(INT64), integer(1)
    totals = Totals([builder.phi(ADD[kind][0]) for _ in range(rows * len(masks))], builder.phi(INTEGERS))
    builder.cbranch(builder.icmp_signed("<", shard, shards.number), begin, after)

    builder.position_at_end(begin)
    first = builder.load(builder.gep(shards.starts, [shard]))
    size = builder.sub(builder.load(builder.gep(shards.starts, [builder.add(shard, one)])), first)
    builder.cbranch(builder.icmp_signed(">", size, integer(0)), work, merge)

    builder.position_at_end(work)
    leaves = products(builder, operands.from_sample(builder, first, size), rows, masks)
    sums = _add_leaves(builder, totals, leaves, kind, scale)
    worked = builder.block
    builder.branch(merge)

    builder.position_at_end(merge)
    before, then = [*totals.vectors, totals.largest], [*sums.vectors, sums.largest]
    merged = [builder.phi(variable.type) for variable in before]
    for variable, skipped, added in zip(merged, before, then, strict=True):
        variable.add_incoming(skipped, begin)
        variable.add_incoming(added, worked)
    following = builder.add(shard, one)
    builder.branch(test)
    starts = [integer(0), *(ir.Constant(variable.type, None) for variable in before)]
    for variable, start, later in zip((shard, *before), starts, (following, *merged), strict=True):
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
    a_step0: Any,
    a_step1: Any,
    a_step2: Any,
    b: Any,
    b_at: Any,
    b_step0: Any,
    b_step1: Any,
    b_step2: Any,
    count1: Any,
    count2: Any,
    shards: Any,
    num_shards: Any,
    scale: Any,
    rows: Any,
    columns: Any,
    c: Any,
    c_at: Any,
    c_row: Any,
) -> Any:
    """Write c[i, j] = the total over shards of sum_k a[k, i] b[k, j], k over a shard's samples and two inner levels.

    For up to SHARD_ROWS rows and TILE_COLUMNS columns; offsets and distances count elements. Returns the bits of
    the largest |sum * scale| of a shard, as a float32's; of a factor that is infinite it may be a NaN.
    c is int32 or float32.
    """
    integers = [types.int64]
    signature = types.int64(
        a, *integers * 5, b, *integers * 6, shards, types.int64, types.float32, *integers * 2, c, *integers * 2
    )

    def generate(context: Any, builder: Builder, signature: Any, values: Any) -> Value:
        pointer_a, pointer_b, pointer_c = (
            element_pointer(context, builder, signature.args[i], values[i], values[i + 1]) for i in (0, 6, 18)
        )
        starts = element_pointer(context, builder, signature.args[13], values[13], integer(0))
        counts = integer(0), values[11], values[12]
        operands = Operands(pointer_a, values[2], tuple(values[3:6]), pointer_b, tuple(values[8:11]), counts)
        scale, rows, columns, c_row = splat(builder, values[15], VECTOR), values[16], values[17], values[20]
        largest = cgutils.alloca_once_value(builder, integer(0))  # type: ignore[no-untyped-call]

        def emit(height: int, masks: list[Value]) -> None:
            shape = Shards(starts, values[14]), operands, height, masks
            totals = _sum_over_shards(builder, *shape, signature.args[18].dtype, scale)
            for number, total in enumerate(totals.vectors):
                row, vector = divmod(number, len(masks))
                place = builder.add(builder.mul(c_row, integer(row)), integer(vector * UNIT.lanes))
                store(builder, total, builder.gep(pointer_c, [place]), masks[vector])
            builder.store(largest_lane(builder, totals.largest), largest)

        for_each_size(builder, rows, columns, SHARD_ROWS, emit)
        return builder.load(largest)

    return signature, generate
