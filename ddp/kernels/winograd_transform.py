"""The transforms of Winograd convolutions: small constant matrices applied to both sides of small images.

Y = M X M^T, where the elements of X and Y are vectors of channels. The matrices are those of the Toom-Cook
algorithm at the points 0, 1, -1, (2, -2) and infinity (Lavin and Gray, "Fast Algorithms for Convolutional
Neural Networks", arXiv 1509.09308, equations 6 to 14). A transform is a few hundred additions of registers
with nothing to loop over, so it is emitted as LLVM IR, one body for each size of the table.

Opposite points p and -p make two rows or two columns equal up to signs. Their sum and difference are then
computed once for both, which takes a third of the additions away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from ddp.kernels.shard_tile import add_leaf
from ddp.kernels.types import Float64
from ddp.kernels.vector import (
    BIT,
    UNIT,
    VECTOR,
    Builder,
    Epilogue,
    Value,
    element_pointer,
    first_lanes,
    fma,
    integer,
    intrinsic,
    load,
    store,
    store_activation,
    store_masked,
)

__all__ = [
    "transform_input",
    "transform_output",
    "transform_output_gradient",
    "transform_output_masked",
    "transform_weight",
    "transform_weight_gradient",
]

# By rows of outputs of a tile, m: B^T takes an image to m + 2 points, G a filter, A^T goes back to m pixels.
INPUT = {
    2: np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], float),
    4: np.array(
        [
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ],
        float,
    ),
}
WEIGHT = {
    2: np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]]) / 2,
    4: np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24,
}
OUTPUT = {
    2: np.array([[1, 1, 1, 0], [0, 1, -1, -1]], float),
    4: np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], float),
}


def _combination(builder: Builder, coefficients: Float64, vectors: list[Value]) -> Value:
    """The sum of coefficient times vector, over the coefficients that are not 0."""
    terms = [(float(c), vector) for c, vector in zip(coefficients, vectors, strict=True) if c != 0]
    terms.sort(key=lambda term: term[0] != 1)  # a term with coefficient 1 first: it needs no multiplication
    (first, total), rest = terms[0], terms[1:]
    if first != 1:
        total = builder.fmul(total, ir.Constant(VECTOR, [first] * UNIT.lanes))
    for coefficient, vector in rest:
        if coefficient == 1:
            total = builder.fadd(total, vector)
        elif coefficient == -1:
            total = builder.fsub(total, vector)
        else:
            total = fma(builder, vector, ir.Constant(VECTOR, [coefficient] * UNIT.lanes), total)
    return total


def _opposite_pairs(matrix: Float64) -> list[int]:
    """The rows that differ from the next one in some signs, and in nothing else."""
    pairs = range(len(matrix) - 1)
    same_size = [np.array_equal(np.abs(matrix[i]), np.abs(matrix[i + 1])) for i in pairs]
    return [i for i in pairs if same_size[i] and not np.array_equal(matrix[i], matrix[i + 1])]


def _product(builder: Builder, matrix: Float64, vectors: list[Value]) -> list[Value]:
    """Matrix times the column of vectors."""
    matrix, vectors = matrix.copy(), list(vectors)
    half_sums = np.array([[1, 1], [1, -1]]) / 2
    for i in _opposite_pairs(matrix.T):
        first, second = vectors[i : i + 2]
        vectors[i : i + 2] = builder.fadd(first, second), builder.fsub(first, second)
        matrix[:, i : i + 2] = matrix[:, i : i + 2] @ half_sums
    pairs = _opposite_pairs(matrix)
    for i in pairs:
        matrix[i : i + 2] = half_sums @ matrix[i : i + 2]
    results = [_combination(builder, row, vectors) for row in matrix]
    for i in pairs:
        even, odd = results[i : i + 2]
        results[i : i + 2] = builder.fadd(even, odd), builder.fsub(even, odd)
    return results


def _store(builder: Builder, value: Value, mask: Value, target: Value, _: Value, flags: Value) -> None:
    store(builder, value, target, mask)


def _masks(builder: Builder, side: range, ranges: list[Value], lanes: Value) -> dict[tuple[int, int], Value]:
    """The lanes of every element: none outside the half-open ranges of rows and columns."""

    def within(index: int, first: Value, end: Value) -> Value:
        after = builder.icmp_signed(">=", integer(index), first)
        return builder.sext(builder.and_(after, builder.icmp_signed("<", integer(index), end)), lanes.type)

    in_rows = [builder.and_(lanes, within(i, *ranges[:2])) for i in side]
    in_columns = [within(j, *ranges[2:]) for j in side]
    vector = ir.VectorType(BIT, UNIT.lanes)
    return {(i, j): builder.bitcast(builder.and_(in_rows[i], in_columns[j]), vector) for i in side for j in side}


def _is_whole(builder: Builder, ranges: list[Value], side: int) -> Value:
    """Whether the ranges leave nothing out."""
    firsts = [builder.icmp_signed("<=", first, integer(0)) for first in ranges[::2]]
    ends = [builder.icmp_signed(">=", end, integer(side)) for end in ranges[1::2]]
    return builder.and_(builder.and_(*firsts), builder.and_(*ends))


@dataclass(frozen=True)
class _Places:
    """One of a transform's arrays: a pointer to its element (0, 0), and elements between rows and columns."""

    pointer: Value
    row: Value
    column: Value

    def at(self, builder: Builder, i: int, j: int) -> Value:
        """The address of the element (i, j)."""
        row, column = builder.mul(self.row, integer(i)), builder.mul(self.column, integer(j))
        return builder.gep(self.pointer, [builder.add(row, column)])


def _transform(
    builder: Builder,
    matrix: Float64,
    source: _Places,
    reads: dict[tuple[int, int], Value],
    write: Callable[[int, int, Value], None],
) -> None:
    """Emit matrix X matrix^T, the columns first, and what is done with each of its elements.

    Args:
        builder: where to emit.
        matrix: of the transform.
        source: X.
        reads: for each element of X, which of its lanes to read.
        write: emits what is done with the element (i, j).
    """
    outputs, inputs = matrix.shape
    half: list[list[Value]] = []
    for j in range(inputs):
        column = [load(builder, source.at(builder, i, j), VECTOR, reads[i, j]) for i in range(inputs)]
        half.append(_product(builder, matrix, column))
    for i in range(outputs):
        for j, value in enumerate(_product(builder, matrix, [column[i] for column in half])):
            write(i, j, value)


def _for_each_size(
    builder: Builder,
    m: Value,
    matrices: dict[int, Float64],
    ranges: tuple[list[Value], list[Value]],
    channels: Value,
    emit: Callable[[Float64, dict[tuple[int, int], Value], dict[tuple[int, int], Value]], None],
) -> None:
    """Emit for each m a body for a whole vector of whole squares, one for parts of them, and the choice.

    Args:
        builder: where to emit.
        m: the size that is wanted when it runs.
        matrices: by m.
        ranges: half-open ranges of rows and columns that are read, and that are written.
        channels: how many exist.
        emit: emits a body from its matrix and the lanes of each element that are read, and that are written.
    """
    lanes = builder.bitcast(first_lanes(builder, channels), ir.IntType(UNIT.lanes))
    full = ir.Constant(ir.VectorType(BIT, UNIT.lanes), [1] * UNIT.lanes)
    is_wide = builder.icmp_signed(">=", channels, integer(UNIT.lanes))
    after, impossible = builder.append_basic_block("transform.end"), builder.append_basic_block("impossible")
    choice = builder.switch(m, impossible)
    for size, matrix in matrices.items():
        names = (f"transform.{size}{name}" for name in ("", ".whole", ".part"))
        block, whole, part = map(builder.append_basic_block, names)
        choice.add_case(integer(size), block)
        builder.position_at_end(block)
        sides = matrix.shape[::-1]
        are_whole = [_is_whole(builder, list(limits), side) for limits, side in zip(ranges, sides, strict=True)]
        builder.cbranch(builder.and_(builder.and_(*are_whole), is_wide), whole, part)
        builder.position_at_end(whole)
        everywhere = {(i, j): full for i in range(max(sides)) for j in range(max(sides))}
        emit(matrix, everywhere, everywhere)
        builder.branch(after)
        builder.position_at_end(part)
        read, write = (_masks(builder, range(side), limits, lanes) for limits, side in zip(ranges, sides, strict=True))
        emit(matrix, read, write)
        builder.branch(after)
    builder.position_at_end(impossible)
    builder.unreachable()
    builder.position_at_end(after)


def _make_transform(matrices: dict[int, Float64], epilogue: Epilogue) -> Any:
    """The transform by one of the matrices, chosen by m when it is called, as a function for kernels.

    Its source is the element (i, j) at source_at + i source_row + j source_column, with zeros outside
    first_row <= i < end_row and the same for columns; its target likewise, with rows and columns up to an
    end, as is what the epilogue reads. Of all of them only the first `lanes` channels exist.
    """

    @intrinsic
    def transform(
        typing_context: Any,
        m: Any,
        lanes: Any,
        source: Any,
        source_at: Any,
        source_row: Any,
        source_column: Any,
        first_row: Any,
        end_row: Any,
        first_column: Any,
        end_column: Any,
        target: Any,
        target_at: Any,
        target_row: Any,
        target_column: Any,
        target_end_row: Any,
        target_end_column: Any,
        extra: Any,
        extra_at: Any,
        extra_row: Any,
        extra_column: Any,
        flags: Any,
    ) -> Any:
        integers = [types.int64]
        signature = types.void(
            *integers * 2, source, *integers * 7, target, *integers * 5, extra, *integers * 4
        )  # fmt: skip

        def generate(context: Any, builder: Builder, signature: Any, values: Any) -> Value:
            source, target, extra = (
                _Places(element_pointer(context, builder, signature.args[i], *values[i : i + 2]), *values[j : j + 2])
                for i, j in ((2, 4), (10, 12), (16, 18))
            )
            ranges = list(values[6:10]), [integer(0), values[14], integer(0), values[15]]

            def emit(matrix: Float64, read: Any, write: Any) -> None:
                def finish(i: int, j: int, value: Value) -> None:
                    places = target.at(builder, i, j), extra.at(builder, i, j)
                    epilogue(builder, value, write[i, j], *places, values[20])

                _transform(builder, matrix, source, read, finish)

            _for_each_size(builder, values[0], matrices, ranges, values[1], emit)
            return context.get_dummy_value()

        return signature, generate

    return transform


transform_input = _make_transform(INPUT, _store)
transform_weight = _make_transform(WEIGHT, _store)
transform_output = _make_transform(OUTPUT, store_activation)
transform_output_masked = _make_transform(OUTPUT, store_masked)
transform_output_gradient = _make_transform({m: matrix.T for m, matrix in OUTPUT.items()}, _store)
transform_weight_gradient = _make_transform({m: matrix.T for m, matrix in WEIGHT.items()}, add_leaf)
