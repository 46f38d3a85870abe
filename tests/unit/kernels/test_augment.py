"""Augmented images against SciPy's resampling, and what is drawn against the generator in NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from ddp import rng
from ddp.kernels.augment import augment

ONE, ZERO = np.ones(3, np.float32), np.zeros(3, np.float32)


def draws(seed: int, epoch: int, samples: Any, padding: int, rotation: float) -> list[tuple[int, int, bool, float]]:
    """Of each sample: rows and columns to move by, whether it is mirrored, and its angle, from the documentation."""
    words = rng.random_words(seed, rng.Purpose.AUGMENT, 0, epoch, samples, 4).tolist()
    return [
        (
            w[0] * (2 * padding + 1) // 2**32 - padding,
            w[1] * (2 * padding + 1) // 2**32 - padding,
            w[2] < 2**31,
            rotation * (w[3] / 2**31 - 1),
        )
        for w in words
    ]


def resampled(image: Any, down: int, right: int, is_mirrored: bool, angle: float) -> Any:
    """One channel, by SciPy: its pixel o of the result is the image at matrix @ o + offset."""
    middle = (np.array(image.shape) - 1) / 2
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    matrix = np.diag([1, -1 if is_mirrored else 1]) @ turn
    offset = middle + np.array([down, right]) - matrix @ middle
    return ndimage.affine_transform(image.astype(np.float64), matrix, offset, order=1, mode="grid-constant")


def run(stored: Any, samples: Any, first: int = 0, **what: Any) -> Any:
    x = np.full((len(samples), *stored.shape[1:]), np.nan, np.float32)
    channels = stored.shape[1]
    given_ = {"seed": 3, "epoch": 2, "padding": 0, "flips": False, "rotation": 0.0} | what
    places = np.arange(len(samples))
    augment(np.array(samples), places, read_only(stored), first, *given_.values(), ONE[:channels], ZERO[:channels], x)
    return x


def read_only(array: Any) -> Any:
    array.flags.writeable = False
    return array


def images(*shape: int, seed: int = 1) -> Any:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**64 - 1),
    epoch=st.integers(0, 2**32 - 1),
    first=st.integers(0, 2**31),
    padding=st.integers(0, 9),
    flips=st.booleans(),
    degrees=st.sampled_from([0.0, 0.01, 10.0, 45.0]),
    size=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
)
def test_an_image_is_resampled_as_by_scipy(
    seed: int, epoch: int, first: int, padding: int, flips: bool, degrees: float, size: tuple[int, int, int]
) -> None:
    stored, samples, rotation = images(5, *size), np.array([4, 0, 2]), math.radians(degrees)
    what = {"seed": seed, "epoch": epoch, "padding": padding, "flips": flips, "rotation": rotation}
    x = run(stored, samples, first, **what)
    for image, sample, drawn in zip(x, samples, draws(seed, epoch, samples + first, padding, rotation), strict=True):
        down, right, is_mirrored, angle = drawn
        for channel, source in zip(image, stored[sample], strict=True):
            expected = resampled(source, down, right, is_mirrored and flips, angle)
            # Bilinear weights are off by the rounding of the fraction, times differences of up to 255.
            np.testing.assert_allclose(channel, expected, atol=2e-4 if rotation else 0)


def test_what_is_drawn_does_not_depend_on_the_batch_or_on_pieces() -> None:
    stored = images(20, 1, 6, 7)
    what: dict[str, Any] = {"padding": 2, "flips": True, "rotation": 0.3}
    together = run(stored, range(20), **what)
    some = [17, 3, 11]
    assert run(stored, some, **what).tobytes() == together[some].tobytes()
    assert run(stored[8:].copy(), [3, 9], first=8, **what).tobytes() == together[[11, 17]].tobytes()


@pytest.mark.parametrize("change", [{"seed": 4}, {"epoch": 3}])
def test_every_seed_and_epoch_draws_anew(change: dict[str, int]) -> None:
    stored = images(20, 1, 6, 7)
    what: dict[str, Any] = {"padding": 2, "flips": True, "rotation": 0.3}
    differing = (run(stored, range(20), **what) != run(stored, range(20), **what | change)).any(axis=(1, 2, 3))
    assert differing.all()


def test_every_move_is_as_likely_and_half_of_the_images_are_mirrored() -> None:
    """One pixel is white, so where it is found says what was done."""
    samples, padding = 9000, 1
    image = np.zeros((samples, 1, 5, 5), np.uint8)
    image[:, 0, 2, 1] = 255
    x = run(image, range(samples), padding=padding, flips=True)
    found = np.argwhere(x[:, 0])
    assert len(found) == samples  # moved by one pixel at most, it is never lost
    counts = np.zeros((5, 5), int)
    np.add.at(counts, (found[:, 1], found[:, 2]), 1)
    # Rows 1 to 3 are as likely. Columns 0 to 2, mirrored 2 to 4: the middle one comes from both.
    expected = np.zeros((5, 5))
    expected[1:4] = samples / 18 * np.array([1, 1, 2, 1, 1])
    assert np.abs(counts - expected).max() < 5 * math.sqrt(samples / 9)


def test_what_comes_in_from_outside_is_black() -> None:
    """0 before the normalisation, as in a black photograph: not the mean."""
    x = np.zeros((50, 1, 4, 4), np.float32)
    scale, shift = np.array([0.5], np.float32), np.array([-3], np.float32)
    stored = read_only(np.full((50, 1, 4, 4), 255, np.uint8))
    augment(np.arange(50), np.arange(50), stored, 0, 1, 1, 2, False, 0.0, scale, shift, x)
    assert set(np.unique(x)) == {-3.0, 255 * 0.5 - 3}


def test_only_the_places_named_are_written() -> None:
    stored, x = read_only(images(3, 1, 4, 4)), np.full((4, 1, 4, 4), np.nan, np.float32)
    augment(np.array([2]), np.array([1]), stored, 0, 1, 1, 0, False, 0.0, ONE[:1], ZERO[:1], x)
    np.testing.assert_array_equal(x[1], stored[2])
    assert np.isnan(x[[0, 2, 3]]).all()
