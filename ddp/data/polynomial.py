"""Points on a polynomial, with noise: the slides' linear regression."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ddp.data.dataset import DataError, Dataset, Share, Split
from ddp.rng import Purpose, normal, uniform

if TYPE_CHECKING:
    from ddp.config import DataConfig

INPUT, NOISE = 0, 1  # streams of Purpose.GENERATE; its step is the split
TRAIN, TEST = 0, 1


def load_polynomial(config: DataConfig, seed: int, share: Share) -> Dataset:
    """The points of `data.coefficients`, `data.samples` and `data.noise`: see `make_polynomial`."""
    return make_polynomial(config.coefficients, config.samples, config.noise, seed, share)


def make_polynomial(coefficients: Sequence[float], samples: int, noise: float, seed: int, share: Share) -> Dataset:
    """Samples x uniform on [-1, 1) with targets t = sum_k coefficients[k] x^k + noise * N(0, 1).

    Args:
        coefficients: of increasing power, the constant first.
        samples: size N of the training split; the test split has N // 5, at least 1.
        noise: standard deviation of the noise, in the unit of t; 0 for none.
        seed: key of the draws; sample i of a split is a function of `(seed, split, i)`.
        share: makes the arrays.

    Returns:
        Splits of inputs (N, 1) float32 and targets (N, 1) float32, with 0 classes; the inputs are
        not normalised, so the weights that training finds are the coefficients.

    Raises:
        DataError: if there are no coefficients, `samples` is below 1, or `noise` is not at least 0.
    """
    if not coefficients or not all(map(math.isfinite, coefficients)):
        raise DataError(f"data.coefficients = {list(coefficients)}: give at least one, all finite")
    if samples < 1:
        raise DataError(f"data.samples = {samples}: use 1 or more")
    if not 0 <= noise < math.inf:
        raise DataError(f"data.noise = {noise}: use a finite standard deviation of 0 or more")

    def make_split(split: int, size: int) -> Split:
        inputs = share(lambda: _inputs(seed, split, size))
        targets = share(lambda: _targets(coefficients, noise, seed, split, size))
        return Split(inputs, targets, scale=np.float32(1), shift=np.float32(0))

    return Dataset("polynomial", make_split(TRAIN, samples), make_split(TEST, max(1, samples // 5)), 0)


def _inputs(seed: int, split: int, size: int) -> npt.NDArray[np.float32]:
    return 2 * uniform(seed, Purpose.GENERATE, INPUT, split, np.arange(size), 1) - 1


def _targets(coefficients: Sequence[float], noise: float, seed: int, split: int, size: int) -> npt.NDArray[np.float32]:
    x = _inputs(seed, split, size).astype(np.float64)
    deviation = noise * normal(seed, Purpose.GENERATE, NOISE, split, np.arange(size), 1).astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        targets = (np.polynomial.polynomial.polyval(x, coefficients) + deviation).astype(np.float32)
    if not np.isfinite(targets).all():
        raise DataError(f"data.coefficients = {list(coefficients)}: the targets overflow float32; use smaller ones")
    return targets
