"""Numbers in 16-bit words: against rounding in float64, NumPy's float16 and PyTorch's bfloat16."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddp.kernels.compress import compress, expand_sum
from ddp.kernels.types import Float32, Float64, Int64, UInt16
from ddp.kernels.update import make_blocks

FORMATS = pytest.mark.parametrize("half", [False, True], ids=["bf16", "fp16"])
UNSCALED = np.float32(2**14)
"""A block with this as its largest has the head of 1 in float16 too."""


def rounded(x: Float64, half: bool) -> Float64:
    """To the nearest number of the format, ties to the even one, by the definition."""
    digits, least_exponent, limit = (11, -24, 2.0**16) if half else (8, -133, 2.0**128)
    _, exponent = np.frexp(x)
    step = np.ldexp(1.0, np.maximum(exponent - digits, least_exponent))
    near = np.rint(x / step) * step
    return np.where(np.abs(near) >= limit, np.copysign(np.inf, x), near)


def every_word_and_what_lies_between(half: bool) -> Float32:
    """All finite numbers of the format, the midpoints between neighbours, and the float32 on either side of each."""
    words = np.arange(2**15, dtype=np.uint16)
    numbers = words.view(np.float16).astype(np.float32) if half else (words.astype(np.uint32) << 16).view(np.float32)
    numbers = numbers[numbers <= UNSCALED] if half else numbers[np.isfinite(numbers)]
    middles = ((numbers[1:].astype(np.float64) + numbers[:-1]) / 2).astype(np.float32)
    places = np.concatenate([numbers, middles])
    around = np.concatenate([places, np.nextafter(places, np.float32(0)), np.nextafter(places, np.float32(np.inf))])
    around = around[around <= UNSCALED] if half else around[np.isfinite(around)]
    return np.concatenate([around, -around])


def sent(x: Float32, half: bool, residual: Float32 | None = None, blocks: Int64 | None = None) -> tuple[Any, ...]:
    """Words, and what they say."""
    blocks = make_blocks([slice(0, x.size)]) if blocks is None else blocks
    words, values = np.zeros(x.size + len(blocks), np.uint16), np.empty_like(x)
    compress(x, np.zeros_like(x) if residual is None else residual, blocks, half, words)
    expand_sum(words[np.newaxis], blocks, half, values)
    return words, values


def bits(x: npt.NDArray[Any]) -> list[int]:
    return x.view(np.uint32).tolist()


@FORMATS
def test_every_tie_and_its_neighbours_are_rounded_to_nearest_even(half: bool) -> None:
    x = every_word_and_what_lies_between(half)
    assert x.size > 150_000
    # Each block ends with the number that sets its scale.
    rows = np.pad(x, (0, -x.size % 16383)).reshape(-1, 16383)
    rows = np.hstack([rows, np.full((len(rows), 1), UNSCALED if half else 0, np.float32)])
    words, values = sent(rows.ravel(), half, np.full(rows.size, -0.0, np.float32))  # x + -0.0 is x, -0.0 too
    with np.errstate(over="ignore"):
        expected = rounded(rows.ravel().astype(np.float64), half).astype(np.float32)
    np.testing.assert_array_equal(values.view(np.uint32), expected.view(np.uint32))
    words = words.reshape(len(rows), -1)
    assert set(words[:, 0].tolist()) == {127}
    upper = (expected.view(np.uint32) >> 16).astype(np.uint16)
    np.testing.assert_array_equal(words[:, 1:].ravel(), expected.astype(np.float16).view(np.uint16) if half else upper)


def test_float16_is_numpys() -> None:
    x = np.random.default_rng(0).integers(0, 2**32, 16383, np.uint32).view(np.float32)
    x[~(np.abs(x) < UNSCALED)] = 0  # NaNs too
    words, _ = sent(np.append(x, UNSCALED), True)
    assert words[1:-1].tolist() == x.astype(np.float16).view(np.uint16).tolist()


@pytest.mark.torch
def test_both_formats_are_pytorchs() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what PyTorch's import deprecates is not this project's
        torch = pytest.importorskip("torch")
    numbers = np.random.default_rng(0).integers(0, 2**32, 1_000_000, np.uint32).view(np.float32)
    x = np.concatenate([numbers, every_word_and_what_lies_between(half=False)])
    _, values = sent(x, False)
    theirs = torch.from_numpy(x).bfloat16().float().numpy()
    np.testing.assert_array_equal(values, theirs)
    assert np.isnan(theirs).sum() > 1000
    x = every_word_and_what_lies_between(half=True)[:16383]
    _, values = sent(np.append(x, UNSCALED), True)
    np.testing.assert_array_equal(values[:-1], torch.from_numpy(x).half().float().numpy())


@FORMATS
def test_infinities_and_nans_are_sent_and_not_kept(half: bool) -> None:
    strange = [np.inf, -np.inf, np.nan, *np.array([0x7F800001, 0x7FFFFFFF, 0xFFC00000], np.uint32).view(np.float32)]
    x = np.array([1, *strange, 3e38], np.float32)
    residual = np.full_like(x, 0.25)
    _, values = sent(x, half, residual)
    np.testing.assert_array_equal(values[1:-1], x[1:-1])
    assert residual[1:-1].tolist() == [0] * len(strange)
    assert np.isfinite(values[[0, -1]]).all()
    assert values[-1] + np.float64(residual[-1]) == x[-1]
    _, again = sent(np.zeros_like(x), half, residual)
    assert np.isfinite(again).all()


@FORMATS
def test_what_rounds_to_infinity_is_not_kept_as_one(half: bool) -> None:
    largest = np.finfo(np.float32).max
    residual = np.zeros(3, np.float32)
    _, values = sent(np.array([largest, -largest, 2.0**100], np.float32), half, residual)
    assert values.tolist() == [np.inf, -np.inf, 2.0**100]
    assert residual.tolist() == [0, 0, 0]


@FORMATS
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 40_000), exponents=st.sampled_from([1, 10, 60]))
def test_what_is_sent_and_what_is_kept_are_what_was_given(half: bool, seed: int, size: int, exponents: int) -> None:
    generator = np.random.default_rng(seed)

    def draw() -> Float32:
        return np.ldexp(generator.standard_normal(size), generator.integers(-exponents, exponents, size)).astype(
            np.float32
        )

    residual, given_so_far, sent_so_far = np.zeros(size, np.float32), np.zeros(size), np.zeros(size)
    for _ in range(4):
        x, before = draw(), residual.copy()
        _, values = sent(x, half, residual)
        # The one rounding is that of x + residual to float32; nothing is lost between words and residual.
        np.testing.assert_array_equal(values.astype(np.float64) + residual, (x + before).astype(np.float64))
        given_so_far += x
        sent_so_far += values
    largest = np.abs(given_so_far).max() + np.abs(sent_so_far).max() + np.abs(residual).max()
    np.testing.assert_allclose(sent_so_far + residual, given_so_far, rtol=0, atol=8 * 2.0**-24 * largest)


@FORMATS
def test_subnormal_numbers_are_sent_or_kept(half: bool) -> None:
    x = np.array([1, 3, 0x8000, 0x12345, 0x400000, 0x7FFFFF], np.uint32).view(np.float32)
    x = np.concatenate([x, -x])
    residual = np.zeros_like(x)
    _, values = sent(x, half, residual)
    np.testing.assert_array_equal(values.astype(np.float64) + residual, x)
    bound = 2.0**-138 if half else 2.0**-134  # half a step of 11 bits from 2^-126 on, of the least bfloat16
    assert (np.abs(residual) <= bound).all()


@given(exponent=st.integers(-100, 125), seed=st.integers(0, 2**32 - 1))
def test_blocks_of_float16_have_scales_of_their_own(exponent: int, seed: int) -> None:
    blocks = make_blocks([slice(0, 100), slice(100, 300)])
    x = np.random.default_rng(seed).uniform(-1, 1, 300).astype(np.float32)
    x[:100] = np.ldexp(x[:100], exponent)
    words, values = sent(x, True, blocks=blocks)
    for block, head in ((slice(0, 100), words[0]), (slice(100, 300), words[101])):
        exact, largest = x[block].astype(np.float64), np.abs(x[block]).max()
        assert 2**14 <= largest / 2.0 ** (int(head) - 127) < 2**15
        # 11 significant bits down to 2^-28 of the largest; below that an absolute error of half of 2^-24 of the scale.
        bound = np.maximum(2.0**-11 * np.abs(exact), 2.0**-25 * 2.0 ** (int(head) - 127))
        assert (np.abs(values[block] - exact) <= bound).all()


@FORMATS
def test_zeros_stay_zeros(half: bool) -> None:
    _, values = sent(np.array([0.0, -0.0, 0.0], np.float32), half)
    assert values.tolist() == [0, 0, 0]
    words: UInt16 = np.zeros(0, np.uint16)
    compress(np.zeros(0, np.float32), np.zeros(0, np.float32), np.zeros((0, 3), np.int64), half, words)
    expand_sum(words.reshape(2, 0), np.zeros((0, 3), np.int64), half, np.zeros(0, np.float32))


@FORMATS
def test_ranks_are_added_in_their_order_in_float32(half: bool) -> None:
    size, num_ranks = 20_011, 5
    blocks = make_blocks([slice(0, 3), slice(3, size)])
    generator = np.random.default_rng(0)
    ranks = [generator.standard_normal(size).astype(np.float32) * 10.0**rank for rank in range(num_ranks)]
    pairs = [sent(x.astype(np.float32), half, blocks=blocks) for x in ranks]
    total = np.full(size, np.nan, np.float32)
    expand_sum(np.stack([words for words, _ in pairs]), blocks, half, total)
    expected = pairs[0][1].copy()
    for _, values in pairs[1:]:
        expected += values
    assert bits(total) == bits(expected)
    backwards = sum((values for _, values in reversed(pairs[:-1])), start=pairs[-1][1].copy())
    assert bits(total) != bits(backwards)
