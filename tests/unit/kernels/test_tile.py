"""The tile at every size it has: right values, nothing read or written outside, registers really used.

Operands are small integers, so every product is exact in float32 and must be equal. Run as a program, this
file checks all sizes and prints the vector unit: so it is run again with the processor's features restricted.
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys

import numba
import numpy as np
import pytest

from ddp.kernels import tile
from ddp.kernels.dot import DOT_COLUMNS, DOT_ROWS, dot_tile
from ddp.kernels.shard_tile import SHARD_ROWS, add_leaves, tile_over_shards
from ddp.kernels.tile import ACCUMULATE, RELU, WITH_BIAS, tile_activation, tile_masked

GUARD = 7  # elements around every array that must be neither used nor changed
GENERATOR = np.random.default_rng(0)


@numba.njit
def run_activation(a, b, c, steps, counts, rows, columns, c_row, bias, flags):
    tile_activation(
        a, GUARD, steps[0], steps[1], steps[2], steps[3], b, GUARD, steps[4], steps[5], steps[6],
        counts[0], counts[1], counts[2], rows, columns, c, GUARD, c_row, bias, 0, 0, flags,
    )  # fmt: skip


@numba.njit
def run_masked(a, b, c, depth, rows, columns, y, flags):
    tile_masked(
        a, GUARD, depth, 0, 0, 1, b, GUARD, 0, 0, columns, 1, 1, depth,
        rows, columns, c, GUARD, columns, y, 0, columns, flags,
    )  # fmt: skip


@numba.njit
def run_dot(a, b, c, depth, rows, columns, y, flags):
    dot_tile(a, GUARD, depth, b, GUARD, depth, depth, rows, columns, c, GUARD, columns, y, 0, columns, flags)


@numba.njit
def run_over_shards(a, b, c, shards, scale, pixels, rows, columns):
    """Each sample has as many pixels, side by side, which the tile takes for samples."""
    shards = shards * pixels
    return tile_over_shards(
        a, GUARD, 1, rows, b, GUARD, columns, shards, len(shards) - 1, scale, rows, columns, c, GUARD, columns,
    )  # fmt: skip


@numba.njit
def run_add_leaves(leaf, c, ledger, lanes, is_later):
    add_leaves(lanes, leaf, GUARD, c, GUARD, ledger, 0, is_later)


def numbers(*shape):
    return GENERATOR.integers(-4, 5, shape).astype(np.float32)


def guarded(array, dtype=np.float32):
    """The array's elements between guards of NaN, which would spread to any result that used them."""
    guards = np.full(GUARD, np.nan, dtype)
    return np.concatenate([guards, array.ravel().astype(dtype), guards])


def inside(flat, shape):
    assert np.isnan(flat[:GUARD]).all()
    assert np.isnan(flat[-GUARD:]).all()
    return flat[GUARD:-GUARD].reshape(shape)


def flat_steps(depth, columns):
    return np.array([depth, 0, 0, 1, 0, 0, columns]), np.array([1, 1, depth])


def check_size(rows, columns, depth=5):
    a, b, bias, before, y = (
        numbers(*shape) for shape in ((rows, depth), (depth, columns), (columns,), (rows, columns), (rows, columns))
    )
    for flags in range(8):
        c = guarded(before)
        run_activation(guarded(a), guarded(b), c, *flat_steps(depth, columns), rows, columns, columns, bias, flags)
        expected = a @ b + (before if flags & ACCUMULATE else 0) + (bias if flags & WITH_BIAS else 0)
        expected = np.maximum(expected, 0) if flags & RELU else expected
        assert np.array_equal(inside(c, (rows, columns)), expected), (rows, columns, flags)
    for flags in 0, 1:
        c = guarded(before)
        run_masked(guarded(a), guarded(b), c, depth, rows, columns, y, flags)
        assert np.array_equal(inside(c, (rows, columns)), (a @ b) * ((y > 0) | (flags == 0))), (rows, columns)


def check_dot_size(rows, columns, depth):
    a, b, y = (numbers(*shape) for shape in ((rows, depth), (columns, depth), (rows, columns)))
    for flags in 0, 1:
        c = guarded(np.zeros((rows, columns)))
        run_dot(guarded(a), guarded(b), c, depth, rows, columns, y, flags)
        expected = (a @ b.T) * ((y > 0) | (flags == 0))
        assert np.array_equal(inside(c, (rows, columns)), expected), (rows, columns, depth, flags)


def check_size_over_shards(rows, columns, pixels):
    shards = np.array([0, 2, 2, 5])
    a, b = numbers(5, pixels, rows), numbers(5, pixels, columns)
    leaves = np.stack([np.einsum("spr,spc->rc", a[s:e], b[s:e]) for s, e in itertools.pairwise(shards)])
    for dtype, scale in itertools.product((np.float32, np.int32), (1, 0.125)):
        before = np.full(rows * columns + 2 * GUARD, 77, dtype)
        c = before.copy()
        bits = run_over_shards(guarded(a), guarded(b), c, shards, np.float32(scale), pixels, rows, columns)
        scaled = leaves * scale
        expected = (scaled if dtype == np.float32 else np.rint(scaled)).sum(axis=0)
        assert np.array_equal(c[GUARD:-GUARD].reshape(rows, columns), expected), (rows, columns, dtype)
        assert (c[:GUARD] == 77).all()
        assert (c[-GUARD:] == 77).all()
        assert np.uint32(bits).view(np.float32) == np.abs(scaled).max()


def check_leaves(lanes):
    first, second = numbers(lanes), 3 * numbers(lanes)
    for dtype in np.float32, np.int32:
        c = np.full(lanes + 2 * GUARD, 77, dtype)
        ledger = np.repeat(np.array([0.25, 0], np.float32), tile.UNIT.lanes)
        run_add_leaves(guarded(first), c, ledger, lanes, 0)
        run_add_leaves(guarded(second), c, ledger, lanes, 1)
        scaled = np.stack([first, second]) / 4
        assert np.array_equal(c[GUARD:-GUARD], (scaled if dtype == np.float32 else np.rint(scaled)).sum(axis=0))
        assert (c[:GUARD] == 77).all()
        assert (c[-GUARD:] == 77).all()
        assert ledger[tile.UNIT.lanes :].max() == np.abs(scaled).max()


def check_all_sizes():
    sizes = itertools.product(range(1, tile.TILE_ROWS + 1), range(1, tile.TILE_COLUMNS + 1))
    for rows, columns in sizes:
        check_size(rows, columns)
    lanes, dots = tile.UNIT.lanes, (range(1, DOT_ROWS + 1), range(1, DOT_COLUMNS + 1))
    for rows, columns, depth in itertools.product(*dots, (1, lanes - 1, lanes, lanes + 1, 3 * lanes, 3 * lanes + 2)):
        check_dot_size(rows, columns, depth)
    for rows, columns in itertools.product(range(1, SHARD_ROWS + 1), range(1, tile.TILE_COLUMNS + 1)):
        check_size_over_shards(rows, columns, pixels=3)
    for columns in range(1, lanes + 1):
        check_leaves(columns)


def test_every_size_computes_its_product_and_touches_nothing_else():
    check_all_sizes()


def test_a_sum_over_three_levels_is_a_convolution_by_weight():
    """Sample, output row, output column: dw = sum x dy, with images' distances between the levels."""
    x, dy = numbers(2, 6, 7, 3), numbers(2, 5, 6, 10)
    steps = np.array([1, 6 * 7 * 3, 7 * 3, 3, 5 * 6 * 10, 6 * 10, 10])
    c = guarded(numbers(6, 10))
    run_activation(guarded(x), guarded(dy), c, steps, np.array([2, 5, 6]), 6, 10, 10, c[:0], 0)
    windows = np.stack([x[:, :5, dj : dj + 6] for dj in range(2)], axis=3)  # (s, i, j, dj, ic)
    expected = np.einsum("sijdc,sijo->dco", windows, dy).reshape(6, 10)
    assert np.array_equal(inside(c, (6, 10)), expected)


def test_the_largest_leaf_is_told_whatever_it_is():
    lanes, shards = tile.UNIT.lanes, np.array([0, 1, 2])
    a, b = guarded(np.ones((2, 3))), guarded(np.ones((2, lanes)))
    for value, expected in ((-3e38, 3e38), (np.inf, np.inf), (np.nan, np.nan)):
        a[GUARD + 4], c = value, np.zeros(3 * lanes + 2 * GUARD, np.int32)
        bits = run_over_shards(a, b, c, shards, np.float32(1), 1, 3, lanes)
        assert np.array_equal(np.uint32(bits).view(np.float32), np.float32(expected), equal_nan=True)


def test_relu_and_accumulation_keep_nan():
    a, b = np.full((3, 2), np.nan, np.float32), numbers(2, 17)
    c = guarded(numbers(3, 17))
    run_activation(guarded(a), guarded(b), c, *flat_steps(2, 17), 3, 17, 17, c[:0], RELU)
    assert np.isnan(c).all()


@pytest.mark.parametrize(
    ("features", "name", "lanes"), [("+avx,+avx2,+fma", "haswell", "8"), ("+sse2,+sse4.2", "nehalem", "4")]
)
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="restricts the features of an x86-64 processor")
def test_other_vector_units_compute_the_same(features, name, lanes):
    restricted = {"NUMBA_CPU_FEATURES": features, "NUMBA_CPU_NAME": name, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        [sys.executable, __file__],
        env=os.environ | restricted,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == [lanes, "True" if "fma" in features else "False"]


def innermost_loops(assembly):
    """The instructions of each loop that has no loop inside: from a label to the jump back to it."""
    lines, loops = assembly.splitlines(), []
    labels = {line[:-1]: number for number, line in enumerate(lines) if re.fullmatch(r"\.L\w+:", line)}
    for number, line in enumerate(lines):
        jump = re.match(r"\s+j\w+\s+(\.L\w+)", line)
        if jump and labels.get(jump[1], number) < number:
            body = lines[labels[jump[1]] + 1 : number]
            if not any(re.fullmatch(r"\.L\w+:", inner) for inner in body):
                loops.append(body)
    return loops


@pytest.mark.skipif("avx512f" not in str(numba.core.config.CPU_FEATURES or numba.core.codegen.get_host_cpu_features()),
                    reason="reads the assembly of the AVX-512 tile")  # fmt: skip
def test_the_largest_tile_keeps_its_block_in_registers():
    check_size(1, 1)
    (assembly,) = run_activation.inspect_asm().values()
    vectors = tile.UNIT.rows * tile.UNIT.vectors
    fmas = [[line for line in loop if "vfmadd" in line and "zmm" in line] for loop in innermost_loops(assembly)]
    largest = [loop for loop, found in zip(innermost_loops(assembly), fmas, strict=True) if len(found) == vectors]
    assert largest, "no innermost loop has one multiply-add for each register of the largest tile"
    for loop in largest:
        spilled = [line for line in loop if re.search(r"%zmm\d+, -?\d*\(%r[sb]p", line)]
        assert not spilled, "an accumulator is kept in memory"


if __name__ == "__main__":
    check_all_sizes()
    print(tile.UNIT.lanes, "vfmadd" in "".join(run_activation.inspect_asm().values()))
