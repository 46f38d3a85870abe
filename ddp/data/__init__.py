"""Data sets, the sampler that orders them, and the gathering of batches; knows nothing of ranks' messages.

A new data set is one file with a loader and one row of `LOADERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ddp.data.augmentation import Augmentation
from ddp.data.cifar import load_cifar
from ddp.data.dataset import Buffer, DataError, Dataset, Share, Split, unshared
from ddp.data.digits import load_digits
from ddp.data.loader import Loader
from ddp.data.mnist import load_mnist
from ddp.data.npy import load_npy
from ddp.data.npz import load_npz
from ddp.data.polynomial import load_polynomial
from ddp.data.sampler import MicroBatch, Sampler
from ddp.data.synthetic import load_synthetic

if TYPE_CHECKING:
    from ddp.config import DataConfig

__all__ = [
    "LOADERS",
    "Augmentation",
    "Buffer",
    "DataError",
    "Dataset",
    "Loader",
    "MicroBatch",
    "Sampler",
    "Share",
    "Split",
    "load_dataset",
    "unshared",
]

Reader = Callable[["DataConfig", int, Share], Dataset]

LOADERS: dict[str, Reader] = {
    "digits": load_digits,
    "mnist": load_mnist,
    "fashion_mnist": load_mnist,
    "cifar10": load_cifar,
    "cifar100": load_cifar,
    "npz": load_npz,
    "npy": load_npy,
    "synthetic": load_synthetic,
    "polynomial": load_polynomial,
}


def load_dataset(config: DataConfig, seed: int, share: Share = unshared) -> Dataset:
    """The data set that `data.name` names.

    Args:
        config: the section `data`.
        seed: key of generated data; files do not depend on it.
        share: calls each function that decodes or generates an array, so that the ranks of a node may
            hold one copy; every rank must call `load_dataset` alike.

    Raises:
        DataError: if the name is unknown, or the data set's files or fields are wrong.
    """
    if config.name not in LOADERS:
        raise DataError(f"data.name = {config.name}: no such data set; use one of {', '.join(LOADERS)}")
    dataset = LOADERS[config.name](config, seed, share)
    size = min(dataset.train.sample_shape[1:], default=0)
    if config.crop_padding >= max(size, 1):
        fix = f"images are {' x '.join(map(str, dataset.train.sample_shape[1:]))} pixels; use less than {size}"
        raise DataError(f"data.crop_padding = {config.crop_padding}: {fix}")
    return dataset
