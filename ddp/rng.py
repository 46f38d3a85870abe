"""Counter-based random numbers: every draw is a pure function of what it is for.

A draw is addressed by `(seed, purpose, stream, step, sample, element)` and by nothing else, so no
rank, thread or call order can change it. The generator is Philox-4x32-10 (Salmon, Moraes, Dror and
Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011): ten rounds of multiply and xor turn a
128-bit counter and a 64-bit key into four independent 32-bit words.

    key     = seed, 64 bits
    counter = (element // 4, sample, step, purpose << 16 | stream)
    word    = element % 4

`stream` tells apart users of one purpose (the dropout layers of a network, its parameters).
`kernels/philox.py` computes the same function in Numba; a test holds the two together.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

ROUNDS = 10
MULTIPLIER_0 = 0xD2511F53
MULTIPLIER_1 = 0xCD9E8D57
WEYL_0 = 0x9E3779B9  # the golden ratio
WEYL_1 = 0xBB67AE85  # sqrt(3) - 1
MASK_32 = 0xFFFFFFFF


class Purpose(IntEnum):
    """What a random number is drawn for; part of its address, so purposes never share numbers."""

    INITIALIZE = 1
    SHUFFLE = 2
    DROPOUT = 3
    GENERATE = 4
    AUGMENT = 5


def philox_4x32(counter: npt.NDArray[np.uint64], seed: int) -> npt.NDArray[np.uint64]:
    """The four 32-bit words of each counter.

    Args:
        counter: (4, ...) uint64, each entry below 2**32.
        seed: the 64-bit key.

    Returns:
        (4, ...) uint64, each entry below 2**32.
    """
    mask, shift = np.uint64(MASK_32), np.uint64(32)
    c0, c1, c2, c3 = counter
    k0, k1 = seed & MASK_32, (seed >> 32) & MASK_32
    for _ in range(ROUNDS):
        product_0, product_1 = c0 * np.uint64(MULTIPLIER_0), c2 * np.uint64(MULTIPLIER_1)
        c0, c1, c2, c3 = (
            (product_1 >> shift) ^ c1 ^ np.uint64(k0),
            product_1 & mask,
            (product_0 >> shift) ^ c3 ^ np.uint64(k1),
            product_0 & mask,
        )
        k0, k1 = (k0 + WEYL_0) & MASK_32, (k1 + WEYL_1) & MASK_32
    return np.stack([c0, c1, c2, c3])


def stream_word(purpose: Purpose, stream: int) -> int:
    """The counter's last word: which purpose, and which of its users."""
    return int(purpose) << 16 | stream


def random_words(
    seed: int, purpose: Purpose, stream: int, step: int, samples: npt.ArrayLike, elements: int
) -> npt.NDArray[np.uint64]:
    """The 32-bit words of elements `0 .. elements - 1` of each sample: (len(samples), elements) uint64."""
    sample = np.asarray(samples, dtype=np.uint64)
    blocks = -(-elements // 4)
    counter = np.empty((4, sample.size, blocks), dtype=np.uint64)
    counter[0] = np.arange(blocks, dtype=np.uint64)
    counter[1] = sample[:, None]
    counter[2] = step
    counter[3] = stream_word(purpose, stream)
    words = philox_4x32(counter, seed)
    return np.moveaxis(words, 0, -1).reshape(sample.size, 4 * blocks)[:, :elements]


def uniform(
    seed: int, purpose: Purpose, stream: int, step: int, samples: npt.ArrayLike, elements: int
) -> npt.NDArray[np.float32]:
    """Uniform on [0, 1) with 24 random bits: (len(samples), elements) float32."""
    words = random_words(seed, purpose, stream, step, samples, elements)
    return (words >> np.uint64(8)).astype(np.float32) * np.float32(2.0**-24)


def normal(
    seed: int, purpose: Purpose, stream: int, step: int, samples: npt.ArrayLike, elements: int
) -> npt.NDArray[np.float32]:
    """Standard normal by Box and Muller's transform: (len(samples), elements) float32.

    Element `e` uses words `2e` and `2e + 1`. The logarithm and cosine are the host's, so these
    numbers are the same on every rank of one kind of machine, not on every machine.
    """
    words = random_words(seed, purpose, stream, step, samples, 2 * elements).astype(np.float64)
    u = (words + 0.5) * 2.0**-32  # never 0, so its logarithm is finite
    radius = np.sqrt(-2.0 * np.log(u[:, 0::2]))
    return (radius * np.cos(2.0 * np.pi * u[:, 1::2])).astype(np.float32)


def permutation(seed: int, epoch: int, n: int) -> npt.NDArray[np.int64]:
    """A random order of `range(n)` for one epoch: (n,) int64.

    Sorts one 64-bit draw per item; a stable sort, so equal draws keep their order.
    """
    words = random_words(seed, Purpose.SHUFFLE, 0, epoch, np.arange(n), 2)
    return np.argsort(words[:, 0] << np.uint64(32) | words[:, 1], kind="stable")
