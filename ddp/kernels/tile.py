"""The register-blocked FMA tile: the one microkernel that every layer's matrix products run on.

A matrix product C = A B does I * J * K multiply-adds on I * K + K * J + I * J numbers. A core starts two
vector multiply-adds a cycle but loads only two vectors, so each loaded number must serve several times
before it leaves the registers. A tile therefore keeps a block of C, `rows` x `vectors` registers, in
registers for the whole sum over k. In every k-step it loads `vectors` vectors of B's row k, and from each
of its rows one number of A, copied to all lanes:

    loads:           vectors + rows         (AVX-512: 2 + 14 = 16, 8 cycles at two a cycle)
    multiply-adds:   vectors * rows         (2 * 14 = 28, 14 cycles at two a cycle)
    registers:       rows * vectors + vectors + 1   (28 + 2 + 1 = 31 of 32)

so the arithmetic, not the loads, sets the time. There must be at least eight independent accumulators,
since a multiply-add takes 4 cycles and two start in each.

The address of A's number is base + row(i) + k0 * step0 + k1 * step1 + k2 * step2, and B's likewise without the row: a
sum over k of up to three levels. Rows are a distance apart, or anywhere, as an array tells. That is enough for a
linear layer (one level), a convolution (kernel row; kernel column and channel, which are contiguous) and its weight
gradient (sample, row, column), none of which has to copy its input into a matrix first.

The tile is generated as LLVM IR, one body for each number of rows and vectors up to those of the table in
`vector.py`. It is told how many of its rows and columns are real, and reads and writes nothing else. Sums
are taken in the order of k, whatever the tile's size. `dot.py` is the same idea for operands that are both
contiguous along k.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from llvmlite import ir
from numba import types

from ddp.kernels.vector import (
    ACCUMULATE,
    BIT,
    INT64,
    RELU,
    UNIT,
    VECTOR,
    WITH_BIAS,
    Builder,
    Epilogue,
    Value,
    element_pointer,
    first_lanes,
    fma,
    integer,
    intrinsic,
    load,
    splat,
    store_activation,
    store_masked,
    store_plain,
)

__all__ = [
    "ACCUMULATE",
    "RELU",
    "TILE_COLUMNS",
    "TILE_ROWS",
    "WITH_BIAS",
    "Operands",
    "for_each_size",
    "products",
    "tile_activation",
    "tile_masked",
]

TILE_ROWS = UNIT.rows
TILE_COLUMNS = UNIT.lanes * UNIT.vectors


def _sum_loop(
    builder: Builder,
    count: Value,
    a: tuple[Value, Value],
    b: tuple[Value, Value],
    accumulators: list[Value],
    body: Callable[[Value, Value, list[Value]], list[Value]],
) -> list[Value]:
    """A loop of at least one step that carries two pointers and the accumulators in registers.

    Args:
        builder: where to emit.
        count: number of steps.
        a: pointer, and elements to move it by in each step.
        b: the same.
        accumulators: values before the first step.
        body: emits one step: from both pointers and the accumulators to the new accumulators.

    Returns:
        The accumulators after the last step.
    """
    entry, loop, after = builder.block, builder.append_basic_block("k"), builder.append_basic_block("k.end")
    builder.branch(loop)
    builder.position_at_end(loop)
    left, pointer_a, pointer_b = builder.phi(INT64), builder.phi(a[0].type), builder.phi(b[0].type)
    carried = [builder.phi(value.type) for value in accumulators]
    results = body(pointer_a, pointer_b, carried)
    following = builder.sub(left, integer(1))
    moved = [builder.gep(pointer_a, [a[1]]), builder.gep(pointer_b, [b[1]])]
    variables = (left, pointer_a, pointer_b, *carried)
    firsts, nexts = (count, a[0], b[0], *accumulators), (following, *moved, *results)
    for variable, first, later in zip(variables, firsts, nexts, strict=True):
        variable.add_incoming(first, entry)
        variable.add_incoming(later, builder.block)
    builder.cbranch(builder.icmp_signed(">", following, integer(0)), loop, after)
    builder.position_at_end(after)
    return results


RowOffset = Callable[[int], Value]
"""From the number of a row of A to its first element, counted from the pointer."""


def row_offset(context: Any, builder: Builder, rows_type: Any, rows: Value) -> RowOffset:
    """The rows of A: a distance between them, or an array of every row's offset."""
    if not isinstance(rows_type, types.Array):
        return lambda row: builder.mul(rows, integer(row))
    offsets = element_pointer(context, builder, rows_type, rows, integer(0))
    return lambda row: builder.load(builder.gep(offsets, [integer(row)]))


@dataclass(frozen=True)
class Operands:
    """Where a tile reads: pointers to its first elements, A's rows, and elements between k-steps."""

    a: Value
    a_rows: RowOffset
    a_steps: tuple[Value, Value, Value]
    b: Value
    b_steps: tuple[Value, Value, Value]
    counts: tuple[Value, Value, Value]

    def from_sample(self, builder: Builder, first: Value, size: Value) -> Operands:
        """The same from the first-th step of the outermost level on, and `size` of them."""
        a = builder.gep(self.a, [builder.mul(first, self.a_steps[0])])
        b = builder.gep(self.b, [builder.mul(first, self.b_steps[0])])
        return replace(self, a=a, b=b, counts=(size, *self.counts[1:]))


def products(builder: Builder, operands: Operands, rows: int, masks: list[Value]) -> list[Value]:
    """Emit the loops over k; the accumulators after them, by row, then by vector.

    Args:
        builder: where to emit.
        operands: where to read.
        rows: rows of the tile.
        masks: for each vector of a row, which of its lanes to read.
    """
    offsets = [operands.a_rows(row) for row in range(rows)]

    def step(a: Value, b: Value, accumulators: list[Value]) -> list[Value]:
        vectors = [
            load(builder, builder.gep(b, [integer(number * UNIT.lanes)]), VECTOR, mask)
            for number, mask in enumerate(masks)
        ]
        results = []
        for row in range(rows):
            number = splat(builder, builder.load(builder.gep(a, [offsets[row]])), VECTOR)
            for place, vector in enumerate(vectors):
                results.append(fma(builder, number, vector, accumulators[row * len(masks) + place]))
        return results

    def level(depth: int) -> Callable[[Value, Value, list[Value]], list[Value]]:
        if depth == 3:
            return step

        def body(a: Value, b: Value, accumulators: list[Value]) -> list[Value]:
            moves = (a, operands.a_steps[depth]), (b, operands.b_steps[depth])
            return _sum_loop(builder, operands.counts[depth], *moves, accumulators, level(depth + 1))

        return body

    zeros = [ir.Constant(VECTOR, None)] * (rows * len(masks))
    return level(0)(operands.a, operands.b, zeros)


def for_each_size(
    builder: Builder, rows: Value, columns: Value, largest: int, emit: Callable[[int, list[Value]], None]
) -> None:
    """Emit one body for each number of rows and vectors, and the choice between them.

    Args:
        builder: where to emit.
        rows: how many rows the tile has, when it runs.
        columns: how many columns.
        largest: number of rows.
        emit: emits a body, from its rows and the mask of each of its vectors.
    """
    after, impossible = builder.append_basic_block("tile.end"), builder.append_basic_block("impossible")
    is_wide = builder.zext(builder.icmp_signed(">", columns, integer(UNIT.lanes)), INT64)
    choice = builder.switch(builder.add(builder.mul(rows, integer(2)), is_wide), impossible)
    full = ir.Constant(ir.VectorType(BIT, UNIT.lanes), [1] * UNIT.lanes)
    for height in range(1, largest + 1):
        for vectors in range(1, UNIT.vectors + 1):
            block = builder.append_basic_block(f"tile.{height}x{vectors}")
            choice.add_case(integer(2 * height + vectors - 1), block)
            builder.position_at_end(block)
            last = builder.sub(columns, integer((vectors - 1) * UNIT.lanes))
            emit(height, [full] * (vectors - 1) + [first_lanes(builder, last)])
            builder.branch(after)
    builder.position_at_end(impossible)
    builder.unreachable()
    builder.position_at_end(after)


def _make_tile(epilogue: Epilogue, plain: Epilogue) -> Any:
    """The tile that ends with an epilogue, a plain one where no flag is set, as a function to call from kernels."""

    @intrinsic
    def tile(
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
        count0: Any,
        count1: Any,
        count2: Any,
        rows: Any,
        columns: Any,
        c: Any,
        c_at: Any,
        c_row: Any,
        extra: Any,
        extra_at: Any,
        extra_row: Any,
        flags: Any,
    ) -> Any:
        integers = [types.int64]
        a_row = a_row if isinstance(a_row, types.Array) else types.int64
        signature = types.void(
            a,
            types.int64,
            a_row,
            *integers * 3,
            b,
            *integers * 4,
            *integers * 5,
            c,
            *integers * 2,
            extra,
            *integers * 3,
        )

        def generate(context: Any, builder: Builder, signature: Any, values: Any) -> Value:
            arrays = {
                i: element_pointer(context, builder, signature.args[i], values[i], values[i + 1])
                for i in (0, 6, 16, 19)
            }
            a_rows = row_offset(context, builder, signature.args[2], values[2])
            operands = Operands(arrays[0], a_rows, values[3:6], arrays[6], values[8:11], values[11:14])
            rows, columns, c_row, extra_row, flags = values[14], values[15], values[18], values[21], values[22]

            def emit(height: int, masks: list[Value]) -> None:
                sums = products(builder, operands, height, masks)

                def finish(how: Epilogue) -> None:
                    for number, value in enumerate(sums):
                        row, vector = divmod(number, len(masks))
                        column = integer(vector * UNIT.lanes)
                        place = builder.add(builder.mul(c_row, integer(row)), column)
                        other = builder.add(builder.mul(extra_row, integer(row)), column)
                        pointers = builder.gep(arrays[16], [place]), builder.gep(arrays[19], [other])
                        how(builder, value, masks[vector], *pointers, flags)

                with builder.if_else(builder.icmp_signed("==", flags, integer(0))) as (without, with_flags):
                    with without:
                        finish(plain)
                    with with_flags:
                        finish(epilogue)

            for_each_size(builder, rows, columns, UNIT.rows, emit)
            return context.get_dummy_value()

        return signature, generate

    return tile


tile_activation = _make_tile(store_activation, store_plain)
tile_masked = _make_tile(store_masked, store_plain)
