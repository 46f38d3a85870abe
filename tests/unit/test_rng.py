"""The counter-based generator: known answers, distributions, and independence of call order."""

from __future__ import annotations

import numpy as np
import pytest

from ddp import rng
from ddp.rng import Purpose

# Random123 (Salmon et al., SC 2011), kat_vectors, philox 4x32 with 10 rounds: counter, key, words.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text):
    return np.array([int(word, 16) for word in text.split()], dtype=np.uint64)


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_gives_the_known_answers(counter, key, expected):
    low, high = (int(word) for word in words(key))
    assert np.array_equal(rng.philox_4x32(words(counter), high << 32 | low), words(expected))


def test_word_is_addressed_as_documented():
    seed, stream, step, sample = 0x123456789ABCDEF0, 5, 77, 4_000_000_000
    drawn = rng.random_words(seed, Purpose.DROPOUT, stream, step, [3, sample], 11)
    assert drawn.shape == (2, 11)
    for element in range(11):
        counter = np.array([element // 4, sample, step, 3 << 16 | stream], dtype=np.uint64)
        assert drawn[1, element] == rng.philox_4x32(counter, seed)[element % 4]


def test_seed_is_taken_modulo_64_bits():
    args = (Purpose.GENERATE, 0, 0, [0], 4)
    assert np.array_equal(rng.random_words(-1, *args), rng.random_words(2**64 - 1, *args))


@pytest.mark.parametrize("draw", [rng.random_words, rng.uniform, rng.normal])
def test_draws_do_not_depend_on_order_or_neighbours(draw):
    samples = np.array([9, 2, 1_000_000, 5])
    together = draw(7, Purpose.GENERATE, 1, 3, samples, 10)
    alone = np.concatenate([draw(7, Purpose.GENERATE, 1, 3, [s], 10) for s in samples])
    reversed_order = draw(7, Purpose.GENERATE, 1, 3, samples[::-1], 10)[::-1]
    fewer_elements = draw(7, Purpose.GENERATE, 1, 3, samples, 3)
    assert np.array_equal(together, alone)
    assert np.array_equal(together, reversed_order)
    assert np.array_equal(together[:, :3], fewer_elements)


def test_every_part_of_the_address_changes_the_draw():
    addresses = [
        (7, Purpose.GENERATE, 1, 3, [5]),
        (8, Purpose.GENERATE, 1, 3, [5]),
        (7 + 2**32, Purpose.GENERATE, 1, 3, [5]),
        (7, Purpose.SHUFFLE, 1, 3, [5]),
        (7, Purpose.GENERATE, 2, 3, [5]),
        (7, Purpose.GENERATE, 1, 4, [5]),
        (7, Purpose.GENERATE, 1, 3, [6]),
    ]
    draws = np.concatenate([rng.random_words(*address, 64) for address in addresses])
    assert len(np.unique(draws)) == draws.size


def test_no_samples_or_elements_is_an_empty_array():
    assert rng.uniform(1, Purpose.GENERATE, 0, 0, [], 5).shape == (0, 5)
    assert rng.normal(1, Purpose.GENERATE, 0, 0, [1, 2], 0).shape == (2, 0)


# Moments of n independent draws lie within 5 standard errors of the distribution's: the seed is fixed,
# so these tests pass or fail for good.
N = 100 * 1000


def test_uniform_has_the_range_and_moments_of_its_distribution():
    u = rng.uniform(1, Purpose.GENERATE, 0, 0, np.arange(100), 1000)
    assert u.dtype == np.float32
    assert u.min() >= 0
    assert u.max() < 1
    assert u.mean(dtype=np.float64) == pytest.approx(1 / 2, abs=5 / np.sqrt(12 * N))
    assert u.var(dtype=np.float64) == pytest.approx(1 / 12, abs=5 / np.sqrt(180 * N))
    counts = np.bincount((u.ravel() * 16).astype(int), minlength=16)
    assert np.abs(counts - N / 16).max() < 5 * np.sqrt(N / 16)


def test_normal_has_the_moments_of_its_distribution():
    z = rng.normal(1, Purpose.INITIALIZE, 0, 0, np.arange(100), 1000)
    assert z.dtype == np.float32
    assert np.isfinite(z).all()
    moments = [np.mean(z.astype(np.float64) ** k) for k in (1, 2, 3, 4)]
    variances = np.array([1, 2, 15, 96])  # of z, z^2, z^3, z^4
    assert np.all(np.abs(np.array(moments) - [0, 1, 0, 3]) < 5 * np.sqrt(variances / N))
    neighbours = np.mean(z[:, :-1].astype(np.float64) * z[:, 1:])
    assert abs(neighbours) < 5 / np.sqrt(N)


@pytest.mark.parametrize("n", [0, 1, 2, 7, 1000])
def test_permutation_is_one(n):
    order = rng.permutation(3, 0, n)
    assert order.dtype == np.int64
    assert np.array_equal(np.sort(order), np.arange(n))


def test_permutation_depends_on_seed_and_epoch_only():
    order = rng.permutation(3, 5, 100)
    assert np.array_equal(order, rng.permutation(3, 5, 100))
    assert not np.array_equal(order, rng.permutation(3, 6, 100))
    assert not np.array_equal(order, rng.permutation(4, 5, 100))


def test_every_order_of_three_is_equally_frequent():
    orders = [tuple(rng.permutation(11, epoch, 3)) for epoch in range(1200)]
    counts = np.array([orders.count(order) for order in set(orders)])
    assert len(counts) == 6
    assert np.abs(counts - 200).max() < 5 * np.sqrt(200 * 5 / 6)
