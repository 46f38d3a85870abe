"""The tile of weight gradients: each logical shard's sum in float32, the shards' sums added to totals.

In a linear layer a shard's sum is short, a step a sample (8 of a batch of 64): were it added to the gradient in
memory, every element would be read and written after every 8 steps. `tile_over_shards` keeps the totals in registers
beside the float32 accumulators while all shards pass, and stores every element of the gradient once:

    registers:  2 * rows * vectors + vectors + 1   (AVX-512: 2 * 7 * 2 + 2 + 1 = 31 of 32)

In a convolution it is long, a step a pixel: there the largest tile writes each shard's sums to memory, and `add_leaves`
adds them to the gradient.

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

from ddp.kernels.tile import Operands, for_each_size, products, row_offset
from ddp.kernels.vector import (
    INT32,
    INT64,
    UNIT,
    VECTOR,
    Builder,
    Value,
    declare,
    element_pointer,
    first_lanes,
    integer,
    intrinsic,
    load,
    splat,
    store,
)

SHARD_ROWS = UNIT.shard_rows
INTEGERS = ir.VectorType(INT32, UNIT.lanes)


def scale_leaf(builder: Builder, leaf: Value, scale: Value, largest: Value) -> tuple[Value, Value]:
    """The leaf times the scale, and the largest magnitude so far, this one's included.

    The largest are kept as the bits of their absolute values: as integers these are ordered as the numbers are, and a
    NaN is above them all.
    """
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


@dataclass(frozen=True)
class Shards:
    """Where each logical shard begins, and the end: a pointer to int64; and how many there are."""

    starts: Value
    number: Value

    def loop(
        self, builder: Builder, state: list[Value], body: Callable[[Value, Value, list[Value]], list[Value]]
    ) -> list[Value]:
        """Emit a loop over the shards that are not empty.

        Args:
            builder: where to emit.
            state: what is carried from shard to shard, before the first.
            body: emits a shard, from its first sample, their number and the state to the new state.

        Returns:
            The state after the last.
        """
        entry, test, begin = builder.block, builder.append_basic_block("shard"), builder.append_basic_block("begin")
        work, merge, after = (builder.append_basic_block(name) for name in ("work", "merge", "shards.end"))
        builder.branch(test)

        builder.position_at_end(test)
        shard, before = builder.phi(INT64), [builder.phi(value.type) for value in state]
        builder.cbranch(builder.icmp_signed("<", shard, self.number), begin, after)

        builder.position_at_end(begin)
        following = builder.add(shard, integer(1))
        first = builder.load(builder.gep(self.starts, [shard]))
        size = builder.sub(builder.load(builder.gep(self.starts, [following])), first)
        builder.cbranch(builder.icmp_signed(">", size, integer(0)), work, merge)

        builder.position_at_end(work)
        results = body(first, size, before)
        worked = builder.block
        builder.branch(merge)

        builder.position_at_end(merge)
        merged = [builder.phi(value.type) for value in state]
        for variable, skipped, added in zip(merged, before, results, strict=True):
            variable.add_incoming(skipped, begin)
            variable.add_incoming(added, worked)
        builder.branch(test)
        firsts = integer(0), *state
        for variable, start, later in zip((shard, *before), firsts, (following, *merged), strict=True):
            variable.add_incoming(start, entry)
            variable.add_incoming(later, merge)
        builder.position_at_end(after)
        return before


@dataclass(frozen=True)
class Target:
    """The block of the gradient that a tile computes."""

    pointers: list[Value]
    """Of every vector of it, by row, then by vector."""
    masks: list[Value]
    """Which of its lanes exist."""
    kind: Any
    """Type of its elements."""
    scale: Value
    """What leaves are multiplied by, in all lanes."""

    def zeros(self) -> list[Value]:
        """Totals before the first shard."""
        return [ir.Constant(ADD[self.kind][0], None)] * len(self.pointers)

    def add(
        self, builder: Builder, totals: list[Value], leaves: list[Value], largest: Value
    ) -> tuple[list[Value], Value]:
        """The totals with a shard's leaves added, and the largest leaf so far."""
        sums = []
        for total, leaf in zip(totals, leaves, strict=True):
            scaled, largest = scale_leaf(builder, leaf, self.scale, largest)
            sums.append(ADD[self.kind][1](builder, total, scaled))
        return sums, largest

    def store(self, builder: Builder, totals: list[Value]) -> None:
        """Write them."""
        for total, pointer, mask in zip(totals, self.pointers, self.masks, strict=True):
            store(builder, total, pointer, mask)


def add_leaf(builder: Builder, value: Value, mask: Value, c: Value, ledger: Value, flags: Value) -> None:
    """Write c = (c if flags else 0) + value times the scale, as the elements of c are added.

    The ledger is a vector that has the scale in every lane, and one that is raised to the bits of the largest.
    """
    total, add = next((kind, add) for kind, add in ADD.values() if kind.element == c.type.pointee)
    leaf = builder.select(mask, value, ir.Constant(VECTOR, None))
    everywhere = ir.Constant(mask.type, [1] * UNIT.lanes)
    second = builder.gep(ledger, [integer(UNIT.lanes)])
    scale, bits = (load(builder, pointer, VECTOR, everywhere) for pointer in (ledger, second))
    scaled, largest = scale_leaf(builder, leaf, scale, builder.bitcast(bits, INTEGERS))
    store(builder, builder.bitcast(largest, VECTOR), second, everywhere)
    is_later = splat(builder, builder.icmp_signed("!=", flags, integer(0)), mask.type)
    before = load(builder, c, total, builder.and_(mask, is_later))
    store(builder, add(builder, before, scaled), c, mask)


# Emits a shard's sums, from its first sample and their number.
Leaves = Callable[[Value, Value], list[Value]]
NONE_YET = ir.Constant(INTEGERS, None)


def _total_in_registers(builder: Builder, shards: Shards, leaves: Leaves, target: Target) -> Value:
    """Emit the sum over all shards; the largest leaf."""

    def body(first: Value, size: Value, state: list[Value]) -> list[Value]:
        totals, largest = target.add(builder, state[:-1], leaves(first, size), state[-1])
        return [*totals, largest]

    *totals, largest = shards.loop(builder, [*target.zeros(), NONE_YET], body)
    target.store(builder, totals)
    return largest


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
    scale: Any,
    rows: Any,
    columns: Any,
    c: Any,
    c_at: Any,
    c_row: Any,
) -> Any:
    """Write c[i, j] = the total over shards of sum_s a[s, i] b[s, j] over each one's samples; tell the largest.

    For up to SHARD_ROWS rows and TILE_COLUMNS columns; offsets and distances count elements. Returns the bits of the
    largest |sum * scale| of a shard, as a float32's; of a factor that is infinite it may be a NaN. c is int32 or
    float32.
    """
    integers = [types.int64]
    signature = types.int64(
        *(a, *integers * 3, b, *integers * 2, shards, types.int64, types.float32, *integers * 2, c, *integers * 2)
    )

    def generate(context: Any, builder: Builder, signature: Any, values: Any) -> Value:
        pointer_a, pointer_b, pointer_c = (
            element_pointer(context, builder, signature.args[i], values[i], values[i + 1]) for i in (0, 4, 12)
        )
        starts = element_pointer(context, builder, signature.args[7], values[7], integer(0))
        zero, one = integer(0), integer(1)
        a_rows = row_offset(context, builder, signature.args[2], values[2])
        steps_a, steps_b = (values[3], zero, zero), (values[6], zero, zero)
        operands = Operands(pointer_a, a_rows, steps_a, pointer_b, steps_b, (zero, one, one))
        scale, rows, columns, c_row = splat(builder, values[9], VECTOR), values[10], values[11], values[14]
        shards, kind = Shards(starts, values[8]), signature.args[12].dtype
        largest = cgutils.alloca_once_value(builder, zero)  # type: ignore[no-untyped-call]

        def emit(height: int, masks: list[Value]) -> None:
            places = [
                builder.add(builder.mul(c_row, integer(row)), integer(vector * UNIT.lanes))
                for row in range(height)
                for vector in range(len(masks))
            ]
            pointers = [builder.gep(pointer_c, [place]) for place in places]
            target = Target(pointers, masks * height, kind, scale)

            def leaves(first: Value, size: Value) -> list[Value]:
                return products(builder, operands.from_sample(builder, first, size), height, masks)

            builder.store(largest_lane(builder, _total_in_registers(builder, shards, leaves, target)), largest)

        for_each_size(builder, rows, columns, SHARD_ROWS, emit)
        return builder.load(largest)

    return signature, generate


@intrinsic
def add_leaves(
    typing_context: Any,
    lanes: Any,
    leaf: Any,
    leaf_at: Any,
    c: Any,
    c_at: Any,
    ledger: Any,
    ledger_at: Any,
    flags: Any,
) -> Any:
    """Write c = (c if flags else 0) + leaf times the scale, a vector of which the first `lanes` lanes exist.

    The ledger is as for `add_leaf`; c is int32 or float32.
    """
    signature = types.void(types.int64, leaf, types.int64, c, types.int64, ledger, types.int64, types.int64)

    def generate(context: Any, builder: Builder, signature: Any, values: Any) -> Value:
        source, target, notes = (
            element_pointer(context, builder, signature.args[i], values[i], values[i + 1]) for i in (1, 3, 5)
        )
        mask = first_lanes(builder, values[0])
        add_leaf(builder, load(builder, source, VECTOR, mask), mask, target, notes, values[7])
        return context.get_dummy_value()

    return signature, generate
