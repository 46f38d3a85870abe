"""Weights in panels: what the tile reads as its B, contiguous.

A tile takes TILE_COLUMNS columns of B in every step of its sum. Rows of a wide B lie a power of two apart, so they
fall into a few sets of the cache and a panel of them is evicted before it is used again. A panel is a copy in which
the rows of TILE_COLUMNS columns follow each other. Writing them costs two passes over the weights a step; the
backward pass by input needs its weights turned anyhow.

Panels are (panels of TILE_COLUMNS columns, K, K, rows, TILE_COLUMNS) float32: rows are the channels summed over,
columns those of the output. Columns behind the last are not written, nor read.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from ddp.kernels.jit import kernel, prange
from ddp.kernels.memory import allocate
from ddp.kernels.tile import TILE_COLUMNS
from ddp.kernels.types import Float32
from ddp.kernels.vector import (
    UNIT,
    VECTOR,
    Builder,
    Value,
    element_pointer,
    first_lanes,
    integer,
    intrinsic,
    load,
    store,
)

__all__ = ["make_panels", "pack_weight", "turn_weight"]

LANES = UNIT.lanes


def make_panels(kernel_size: int, rows: int, columns: int) -> Float32:
    """Room for the weights of a convolution from `rows` to `columns` channels."""
    return allocate(-(-columns // TILE_COLUMNS), kernel_size, kernel_size, rows, TILE_COLUMNS)


def _exchange(builder: Builder, first: Value, second: Value, distance: int) -> tuple[Value, Value]:
    """Exchange blocks of `distance` lanes: first's odd ones with second's even ones."""
    lanes = range(UNIT.lanes)
    even = [UNIT.lanes + lane - distance if lane & distance else lane for lane in lanes]
    odd = [UNIT.lanes + lane if lane & distance else lane + distance for lane in lanes]
    kind = ir.VectorType(ir.IntType(32), UNIT.lanes)
    first, second = (builder.shuffle_vector(first, second, ir.Constant(kind, places)) for places in (even, odd))
    return first, second


def _transpose(builder: Builder, vectors: list[Value]) -> list[Value]:
    """Rows to columns: at every level blocks of twice the size change places across the diagonal."""
    vectors, distance = list(vectors), 1
    while distance < UNIT.lanes:
        for i in range(UNIT.lanes):
            if not i & distance:
                pair = vectors[i], vectors[i + distance]
                vectors[i], vectors[i + distance] = _exchange(builder, *pair, distance)
        distance *= 2
    return vectors


def _make_block(is_transposed: bool) -> Any:
    """Copy a block of at most LANES rows and columns from one array to another, as a function for kernels."""

    @intrinsic
    def block(
        typing_context: Any,
        rows: Any,
        columns: Any,
        source: Any,
        source_at: Any,
        source_row: Any,
        target: Any,
        target_at: Any,
        target_row: Any,
    ) -> Any:
        integers = [types.int64]
        signature = types.void(*integers * 2, source, *integers * 2, target, *integers * 2)

        def generate(context: Any, builder: Builder, signature: Any, values: Any) -> Value:
            start, end = (
                element_pointer(context, builder, signature.args[i], values[i], values[i + 1]) for i in (2, 5)
            )
            rows, columns = values[:2]

            def mask(number: int, count: Value, width: Value) -> Value:
                is_inside = builder.icmp_signed("<", integer(number), count)
                return first_lanes(builder, builder.select(is_inside, width, integer(0)))

            vectors = []
            for i in range(UNIT.lanes):
                place = builder.gep(start, [builder.mul(values[4], integer(i))])
                vectors.append(load(builder, place, VECTOR, mask(i, rows, columns)))
            vectors = _transpose(builder, vectors) if is_transposed else vectors
            rows, columns = (columns, rows) if is_transposed else (rows, columns)
            for i, vector in enumerate(vectors):
                place = builder.gep(end, [builder.mul(values[7], integer(i))])
                store(builder, vector, place, mask(i, rows, columns))
            return context.get_dummy_value()

        return signature, generate

    return block


copy_block = _make_block(is_transposed=False)
transpose_block = _make_block(is_transposed=True)


@kernel
def pack_weight(w: Float32, panels: Float32) -> None:
    """Write the panels of the forward pass.

    Args:
        w: (K, K, IC, OC) float32.
        panels: (panels of OC, K, K, IC, TILE_COLUMNS) float32, overwritten.
    """
    K, _, IC, OC = w.shape
    blocks = (IC + LANES - 1) // LANES
    for task in prange(K * K * blocks):
        tap, ic = task // blocks, task % blocks * LANES
        for oc in range(0, OC, LANES):
            at = ((oc // TILE_COLUMNS * K * K + tap) * IC + ic) * TILE_COLUMNS + oc % TILE_COLUMNS
            copy_block(IC - ic, OC - oc, w, (tap * IC + ic) * OC + oc, OC, panels, at, TILE_COLUMNS)


@kernel
def turn_weight(w: Float32, panels: Float32) -> None:
    """Write the panels of the backward pass by input: turned by half a turn, their channels exchanged.

    Args:
        w: (K, K, IC, OC) float32.
        panels: (panels of IC, K, K, OC, TILE_COLUMNS) float32, overwritten: the weights
            turned[i', j', oc, ic] = w[K-1-i', K-1-j', ic, oc].
    """
    K, _, IC, OC = w.shape
    blocks = (IC + LANES - 1) // LANES
    for task in prange(K * K * blocks):
        tap, ic = task // blocks, task % blocks * LANES
        for oc in range(0, OC, LANES):
            at = ((ic // TILE_COLUMNS * K * K + K * K - 1 - tap) * OC + oc) * TILE_COLUMNS + ic % TILE_COLUMNS
            transpose_block(IC - ic, OC - oc, w, (tap * IC + ic) * OC + oc, OC, panels, at, TILE_COLUMNS)
