"""Random crop, mirror image and rotation of training images, on the way from the stored bytes to the network.

A pixel of the result looks up one point of the stored image, which is black outside: so an image is resampled once,
whatever is done to it. What is drawn for a sample is a function of (seed, epoch, sample), not of its batch or rank.

Axes: N samples of the data set, S of the batch, C channels, H rows, W columns.
"""

from __future__ import annotations

import math

import numpy as np

from ddp import rng
from ddp.kernels.jit import inline, kernel, prange
from ddp.kernels.philox import SHIFT_32, philox_4x32
from ddp.kernels.types import Float32, Int64, UInt8

__all__ = ["augment"]

HALF = np.uint64(2**31)
ZERO, ONE = np.float32(0), np.float32(1)
TERMS = 8
"""Of the series of sine and cosine: at 45 degrees the next one is below 1e-17."""


@inline
def _sine_cosine(angle: float) -> tuple[float, float]:
    """By their series, of sums and products alone: the same bits on every machine, whatever its library."""
    square, sine, cosine = angle * angle, 1.0, 1.0
    for term in range(TERMS, 0, -1):
        cosine = 1.0 - square / ((2 * term - 1) * (2 * term)) * cosine
        sine = 1.0 - square / ((2 * term) * (2 * term + 1)) * sine
    return angle * sine, cosine


@inline
def _pixel(image: UInt8 | Float32, channel: int, row: int, column: int) -> np.float32:
    """The stored value, or black outside of the image."""
    is_inside = 0 <= row < image.shape[1] and 0 <= column < image.shape[2]
    return np.float32(image[channel, row, column]) if is_inside else ZERO


@inline
def _move(
    image: UInt8 | Float32,
    down: int,
    right: int,
    is_mirrored: bool,
    scale: Float32,
    shift: Float32,
    y: Float32,
) -> None:
    """Whole pixels only."""
    C, H, W = y.shape
    for channel in range(C):
        for i in range(H):
            for j in range(W):
                column = W - 1 - j if is_mirrored else j
                pixel = _pixel(image, channel, i + down, column + right)
                y[channel, i, j] = pixel * scale[channel] + shift[channel]


@inline
def _turn(
    image: UInt8 | Float32,
    down: int,
    right: int,
    is_mirrored: bool,
    angle: float,
    scale: Float32,
    shift: Float32,
    y: Float32,
) -> None:
    """Between four pixels, bilinearly; where they are is the same for all channels."""
    C, H, W = y.shape
    sine, cosine = _sine_cosine(angle)
    middle_row, middle_column = (H - 1) / 2, (W - 1) / 2
    for i in range(H):
        for j in range(W):
            a, b = i - middle_row, j - middle_column
            u, v = cosine * a + sine * b, cosine * b - sine * a
            row = u + middle_row + down
            column = (-v if is_mirrored else v) + middle_column + right
            above, left = math.floor(row), math.floor(column)
            below = above + 1
            r, c = np.float32(row - above), np.float32(column - left)
            for channel in range(C):
                upper = _pixel(image, channel, above, left) * (ONE - c) + _pixel(image, channel, above, left + 1) * c
                lower = _pixel(image, channel, below, left) * (ONE - c) + _pixel(image, channel, below, left + 1) * c
                y[channel, i, j] = (upper * (ONE - r) + lower * r) * scale[channel] + shift[channel]


@kernel
def _augment(
    samples: Int64,
    places: Int64,
    stored: UInt8 | Float32,
    first: int,
    key: np.uint64,
    c2: np.uint64,
    c3: np.uint64,
    padding: int,
    flips: bool,
    rotation: float,
    scale: Float32,
    shift: Float32,
    x: Float32,
) -> None:
    choices = np.uint64(2 * padding + 1)
    for s in prange(samples.shape[0]):
        sample, y = stored[samples[s]], x[places[s]]
        w0, w1, w2, w3 = philox_4x32(np.uint64(0), np.uint64(first + samples[s]), c2, c3, key)
        down, right = int((w0 * choices) >> SHIFT_32) - padding, int((w1 * choices) >> SHIFT_32) - padding
        is_mirrored = flips and bool(w2 < HALF)
        angle = rotation * (np.float64(w3) * 2.0**-31 - 1.0)
        if rotation > 0.0:
            _turn(sample, down, right, is_mirrored, angle, scale, shift, y)
        else:
            _move(sample, down, right, is_mirrored, scale, shift, y)


def augment(
    samples: Int64,
    places: Int64,
    stored: UInt8 | Float32,
    first: int,
    seed: int,
    epoch: int,
    padding: int,
    flips: bool,
    rotation: float,
    scale: Float32,
    shift: Float32,
    x: Float32,
) -> None:
    """Write into x[places[s]] the stored image samples[s], moved, mirrored and turned, times scale, plus shift.

    Its four random words w, of Purpose.AUGMENT, give rows and columns to move by, -padding to padding, as
    floor(w (2 padding + 1) / 2^32) - padding; mirroring, where w < 2^31; and the angle, rotation (w / 2^31 - 1). The
    pixel (i, j) of the result, from the middle of the image, is the stored one at R (i, j), mirrored, plus what it is
    moved by, with R the rotation by that angle; between pixels by bilinear interpolation; 0 outside of the image.

    Args:
        samples: (S,) int64, below N.
        places: (S,) int64, where in x each of them goes, all different.
        stored: (N, C, H, W) uint8 or float32, read-only; may be a memory map.
        first: the number in the training set of the stored sample 0; samples + first below 2**32.
        seed: the run's seed, taken modulo 2**64.
        epoch: below 2**32.
        padding: pixels, 0 or more.
        flips: whether every second image is mirrored left to right.
        rotation: largest angle in radians, 0 to pi / 4.
        scale: (C,) float32.
        shift: (C,) float32.
        x: (B, C, H, W) float32; what `places` does not name stays as it is.

    Source: crop and mirror image as He et al. (CVPR 2016), section 4.2, on CIFAR-10.
    """
    key, c2 = np.uint64(seed & 0xFFFFFFFFFFFFFFFF), np.uint64(epoch)
    c3 = np.uint64(rng.stream_word(rng.Purpose.AUGMENT, 0))
    _augment(samples, places, stored, first, key, c2, c3, padding, flips, float(rotation), scale, shift, x)
