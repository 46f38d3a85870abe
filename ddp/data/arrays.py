"""What arrays of the user's own must be to be a data set, whichever file they come from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ddp.data.dataset import DataError, Dataset, Split, standardisation
from ddp.data.pieces import Array, Pieces

if TYPE_CHECKING:
    from ddp.config import DataConfig

SPLITS = ("train", "test")
INPUTS_FIX = "save inputs as uint8 or float32 of shape (N, C, H, W), (N, H, W) or (N, F)"
TARGETS_FIX = "save targets as integers of shape (N,)"
LARGEST_LABEL = 10**6
"""Below what the weights of the last layer would fill any memory."""


def image_shape(where: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, ...]:
    """(N, C, H, W): images without channels have one, features are the channels of one pixel.

    Raises:
        DataError: if inputs of that shape and type, from `where`, cannot be trained on.
    """
    if dtype not in (np.dtype(np.uint8), np.dtype(np.float32)) or len(shape) not in (2, 3, 4):
        raise DataError(f"{where}: inputs are {dtype.str} of shape {shape}; {INPUTS_FIX}")
    if 0 in shape:
        raise DataError(f"{where}: holds no samples, its shape is {shape}; leave it out")
    if len(shape) == 4:
        return shape
    return (shape[0], 1, *shape[1:]) if len(shape) == 3 else (*shape, 1, 1)


def as_labels(where: str, array: Array) -> npt.NDArray[np.int64]:
    """The targets from `where`: (N,) int64, each 0 or more.

    Raises:
        DataError: if they are no labels of classes.
    """
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(f"{where}: targets are {array.dtype.str} of shape {array.shape}; {TARGETS_FIX}")
    wrong = np.flatnonzero((array < 0) | (array >= LARGEST_LABEL))
    if wrong.size:
        position = int(wrong[0])
        raise DataError(
            f"{where}: target {array[position]} at position {position}; number classes from 0 to {LARGEST_LABEL - 1}"
        )
    return array.astype(np.int64)


def make_dataset(
    config: DataConfig,
    root: Path,
    inputs: Sequence[Array | Pieces],
    targets: Sequence[npt.NDArray[np.int64]],
    manifest: str = "",
) -> Dataset:
    """The data set of arrays from `root`, of both splits, as the network is to see them.

    A pixel p, which for bytes is p / 255, becomes (p - mean) / std of `data.mean` and `data.std`.

    Raises:
        DataError: if the arrays do not fit each other, or the normalisation them.
    """
    for name, images, labels in zip(SPLITS, inputs, targets, strict=True):
        if len(images) != len(labels):
            raise DataError(f"{root}: {len(images)} {name}-inputs, {len(labels)} {name}-targets; save as many of both")
    train, test = ((array.dtype.name, array.shape[1:]) for array in inputs)
    if train != test:
        raise DataError(
            f"{root}: train-inputs are {train[0]} {train[1]}, test-inputs {test[0]} {test[1]}; save both alike"
        )
    normalisation = _normalisation(config, inputs[0].shape[1], inputs[0].dtype)
    splits = [Split(x, labels, *normalisation) for x, labels in zip(inputs, targets, strict=True)]
    num_classes = max(2, 1 + max(int(labels.max()) for labels in targets))
    return Dataset(config.name, splits[0], splits[1], num_classes, manifest)


@contextmanager
def reading(what: str, fix: str) -> Iterator[None]:
    """Around calls of the libraries that read files: a damaged one is the user's mistake, whatever they raise of it.

    Raises:
        DataError: that `what` cannot be read, why, and the fix.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # of tokenize, zipfile, zlib, ..., which NumPy passes on and nobody has listed
        raise DataError(f"{what}: cannot be read ({one_line(error)}); {fix}") from None


def one_line(error: Exception) -> str:
    """What a library says of a file, without the file's name where the system says it."""
    return " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())


def _normalisation(config: DataConfig, channels: int, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    maximum, mean, std = (255, 0.5, 0.5) if dtype == np.uint8 else (1, 0.0, 1.0)
    means, stds = config.mean or (mean,), config.std or (std,)
    for name, values in (("data.mean", means), ("data.std", stds)):
        if len(values) not in (1, channels):
            fix = f"images have {channels} channels; give one number, or one for each"
            raise DataError(f"{name} = {list(values)}: {fix}")
    pairs = [standardisation(maximum, means[c % len(means)], stds[c % len(stds)]) for c in range(channels)]
    scale, shift = np.array(pairs, np.float32).T.reshape(2, channels, 1, 1).copy()
    return scale, shift
