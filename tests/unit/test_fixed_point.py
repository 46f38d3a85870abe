"""Scales of gradient sums: what fits, what is computed again, and that sums are exact."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddp.comm.reports import ShardReports
from ddp.fixed_point import EXPONENTS, SPARE_BITS, FixedPointScales, FloatScales, Verdict, sum_leaves

FINITE = st.floats(2.0**-85, 2.0**90, width=32)


def scales_for(largest: float, num_shards: int = 8) -> FixedPointScales:
    """Scales that have settled on a tensor whose largest leaf is given."""
    scales = FixedPointScales(np.ones(1, np.float32), num_shards)
    while (verdict := scales.judge(seen(scales, largest))) is not Verdict.USE:
        assert verdict is Verdict.REPEAT
        scales.adapt(seen(scales, largest), at_once=True)
    scales.adapt(seen(scales, largest), at_once=True)
    return scales


def seen(scales: FixedPointScales, largest: float) -> np.ndarray:
    """What backward reports of a leaf."""
    with np.errstate(over="ignore", under="ignore"):
        return np.float32(largest) * scales.scales


@given(FINITE, st.integers(1, 3000))
def test_any_leaf_finds_its_scale_and_no_sum_of_such_leaves_overflows(largest: float, num_shards: int) -> None:
    scales = scales_for(largest, num_shards)
    leaf = float(np.rint(np.float64(seen(scales, largest)[0])))
    assert num_shards * leaf < 2**31
    assert leaf >= 2 ** (scales.bits - SPARE_BITS - 1) - 1
    assert scales.scales[0] * scales.inverses[0] == 1


@given(FINITE)
def test_growth_within_the_spare_bits_is_used_and_more_is_computed_again(largest: float) -> None:
    scales = scales_for(largest)
    assert scales.judge(seen(scales, 31 * largest)) is Verdict.USE
    assert scales.judge(seen(scales, 65 * largest)) is Verdict.REPEAT
    assert scales.judge(seen(scales, largest / 2**8)) is Verdict.USE
    assert scales.judge(seen(scales, largest / 2**11)) is Verdict.REPEAT


def test_scales_fall_at_once_and_rise_by_two() -> None:
    scales = scales_for(1.0)
    before = float(scales.scales[0])
    scales.adapt(seen(scales, 6.0), at_once=False)
    assert scales.scales[0] == before / 4
    scales.adapt(seen(scales, 1.0), at_once=False)
    assert scales.scales[0] == before / 2


def test_a_tensor_of_zeros_keeps_its_scale() -> None:
    scales = scales_for(3.0)
    before = scales.exponents.copy()
    assert scales.judge(np.zeros(1, np.float32)) is Verdict.USE
    scales.adapt(np.zeros(1, np.float32), at_once=True)
    assert scales.exponents.tolist() == before.tolist()


@pytest.mark.parametrize("kind", [FixedPointScales, FloatScales])
def test_nan_and_infinity_are_never_used(kind: type) -> None:
    scales = kind(np.ones(2, np.float32), 8) if kind is FixedPointScales else kind(np.ones(2, np.float32))
    assert scales.judge(np.array([1, np.nan], np.float32)) is Verdict.NON_FINITE
    infinite = np.array([1, np.inf], np.float32)
    for _ in range(10):  # an infinite product may be of a finite leaf: smaller scales tell
        verdict = scales.judge(infinite)
        if verdict is Verdict.NON_FINITE:
            break
        assert verdict is Verdict.REPEAT
        scales.adapt(infinite, at_once=True)
    assert verdict is Verdict.NON_FINITE


@pytest.mark.parametrize("largest", [2.0**122, np.finfo(np.float32).smallest_normal, 1e-45])
def test_the_ends_of_float32_have_a_scale(largest: float) -> None:
    scales = scales_for(largest)
    assert scales.exponents[0] in EXPONENTS
    assert np.isfinite(scales.scales).all()
    assert np.isfinite(scales.inverses).all()


def test_leaves_whose_sum_would_be_infinite_count_as_infinite() -> None:
    scales = FixedPointScales(np.ones(1, np.float32), 8)
    while (verdict := scales.judge(seen(scales, 2.0**125))) is Verdict.REPEAT:
        scales.adapt(seen(scales, 2.0**125), at_once=True)
    assert verdict is Verdict.NON_FINITE


@given(st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_sums_of_leaves_have_the_same_bits_in_any_grouping(num_shards: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    leaves = (generator.standard_normal((num_shards, 5)) * 10.0 ** generator.integers(-6, 3, 5)).astype(np.float32)
    scale = scales_for(float(np.abs(leaves).max()), num_shards).scales[0]
    whole, total = np.empty(5, np.int32), np.zeros(5, np.int32)
    largest = np.zeros(2, np.int64)
    sum_leaves(leaves, scale, whole, largest)
    assert np.int32(largest.max()).view(np.float32) == np.abs(leaves).max() * scale
    cuts = [0, *sorted(generator.integers(0, num_shards + 1, 3)), num_shards]
    for first, last in itertools.pairwise(cuts):
        part = np.empty(5, np.int32)
        sum_leaves(leaves[first:last], scale, part, largest)
        total += part
    assert total.tobytes() == whole.tobytes()
    exact = leaves.astype(np.float64).sum(axis=0)
    assert np.abs(whole / scale - exact).max() <= num_shards / 2 / scale


def test_a_leaf_that_is_not_finite_is_told() -> None:
    leaves, total = np.array([[1, np.nan], [2, 3]], np.float32), np.empty(2, np.int32)
    for some, expected in ((leaves, np.nan), (leaves[:, :1] * np.float32(np.inf), np.inf)):
        largest = np.zeros(1, np.int64)
        sum_leaves(some, np.float32(1), total[: some.shape[1]], largest)
        assert np.array_equal(largest.astype(np.int32).view(np.float32), [expected], equal_nan=True)


def test_reports_of_ranks_add_up_to_the_rows() -> None:
    """Rows of several ranks, added as integers, are the rows: negative zeros and NaN payloads included."""
    whole = ShardReports(4, 3, 5)
    generator = np.random.default_rng(0)
    whole.integers[:] = generator.integers(-(2**31), 2**31, whole.integers.size)
    parts = []
    for rows in slice(0, 1), slice(1, 4), slice(4, 4):
        part = ShardReports(4, 3, 5)
        part.clear()
        part.loss[rows], part.largest[rows] = whole.loss[rows], whole.largest[rows]
        part.statistics[rows], part.squares[rows] = whole.statistics[rows], whole.squares[rows]
        parts.append(part.integers)
    assert np.sum(parts, axis=0, dtype=np.int32).tobytes() == whole.integers.tobytes()
    assert whole.loss.shape == whole.squares.shape == (4,)
    assert whole.largest.shape == (4, 3)
    assert whole.statistics.shape == (4, 5)
