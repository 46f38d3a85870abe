"""Generated images of any shape that a network can learn: a template for each class, under noise."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ddp.data.dataset import DataError, Dataset, Share, Split, standardisation
from ddp.rng import Purpose, random_words

if TYPE_CHECKING:
    from ddp.config import DataConfig

TEMPLATE, NOISE = 0, 1  # streams of Purpose.GENERATE; its step is the split
TRAIN, TEST = 0, 1
CHUNK_BYTES = 1 << 18  # the generator's 64-bit temporaries for so many pixels stay in the cache

# A pixel is the sum of two independent values, each uniform on 0 .. 127.
NORMALISATION = standardisation(maximum=1, mean=127, std=math.sqrt(2 * (128**2 - 1) / 12))


def load_synthetic(config: DataConfig, seed: int, share: Share) -> Dataset:
    """The images of `data.shape`, `data.samples` and `data.classes`: see `make_synthetic`."""
    return make_synthetic(config.shape, config.samples, config.classes, seed, share)


def make_synthetic(shape: tuple[int, int, int], samples: int, classes: int, seed: int, share: Share) -> Dataset:
    """Images whose pixels are their class's random template plus as strong a noise, mean 0, deviation 1.

    Integers from the counter-based generator alone, so the same bits on every machine: sample i of a
    split is a function of `(seed, split, i, shape, classes)`, not of the number of samples.

    Args:
        shape: channels, height and width of an image, in pixels.
        samples: size N of the training split; the test split has N // 5 + 1.
        classes: number of classes; sample i is of class `i % classes`.
        seed: key of the draws.
        share: makes the arrays.

    Returns:
        Splits of inputs (N, C, H, W) uint8 and targets (N,) int64.

    Raises:
        DataError: if a size is below 1, or `classes` below 2.
    """
    if len(shape) != 3 or min(shape) < 1:
        raise DataError(f"data.shape = {list(shape)}: give channels, height and width, each at least 1")
    if samples < 1:
        raise DataError(f"data.samples = {samples}: use 1 or more")
    if classes < 2:
        raise DataError(f"data.classes = {classes}: use 2 or more")

    def make_split(split: int, size: int) -> Split:
        images = share(lambda: _images(shape, size, classes, seed, split))
        labels = share(lambda: np.arange(size, dtype=np.int64) % classes)
        return Split(images, labels, *NORMALISATION)

    return Dataset("synthetic", make_split(TRAIN, samples), make_split(TEST, samples // 5 + 1), classes)


def _images(shape: tuple[int, int, int], size: int, classes: int, seed: int, split: int) -> npt.NDArray[np.uint8]:
    pixels = math.prod(shape)
    templates = _seven_bits(seed, TEMPLATE, TRAIN, np.arange(classes), pixels)
    images = np.empty((size, pixels), dtype=np.uint8)
    chunk = max(1, CHUNK_BYTES // pixels)
    for start in range(0, size, chunk):
        samples = np.arange(start, min(start + chunk, size))
        noise = _seven_bits(seed, NOISE, split, samples, pixels)
        np.add(templates[samples % classes], noise, out=images[start : start + chunk])
    return images.reshape(size, *shape)


def _seven_bits(
    seed: int, stream: int, split: int, samples: npt.NDArray[np.int64], pixels: int
) -> npt.NDArray[np.uint8]:
    """Uniform on 0 .. 127, (len(samples), pixels) uint8: the four bytes of each 32-bit word, halved."""
    words = random_words(seed, Purpose.GENERATE, stream, split, samples, -(-pixels // 4))
    return np.right_shift(words.astype("<u4", order="C").view(np.uint8)[:, :pixels], np.uint8(1))
