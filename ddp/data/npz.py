"""An archive of four arrays, as `numpy.savez` and `numpy.savez_compressed` write it; nothing is unpickled."""

from __future__ import annotations

import os.path
import zipfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ddp.data.arrays import SPLITS, as_labels, image_shape, make_dataset, reading
from ddp.data.dataset import DataError, Dataset, Share
from ddp.data.pieces import Array

if TYPE_CHECKING:
    from ddp.config import DataConfig

NAMES = tuple(f"{split}-{kind}" for split in SPLITS for kind in ("inputs", "targets"))


def load_npz(config: DataConfig, seed: int, share: Share) -> Dataset:
    """The archive `data.root` of the arrays train-inputs, train-targets, test-inputs and test-targets.

    Inputs (N, C, H, W), (N, H, W) or (N, F), uint8 or float32; targets (N,), integers from 0. The archive is read
    once a node; `seed` does not matter. The network sees what `data.mean` and `data.std` make of it.

    Raises:
        DataError: if the archive, one of its arrays or the normalisation is wrong.
    """
    path = Path(config.root).expanduser()
    if not config.root or not os.path.isfile(path):
        raise DataError(f"data.root = {config.root or '(empty)'}: no such file; give an archive made by numpy.savez")
    inputs = [share(partial(_read_inputs, path, f"{name}-inputs")) for name in SPLITS]
    targets = [share(partial(_read_targets, path, f"{name}-targets")) for name in SPLITS]
    return make_dataset(config, path, inputs, targets)


def _read_inputs(path: Path, name: str) -> Array:
    array = _read(path, name)
    return array.reshape(image_shape(f"{path}: {name}", array.shape, array.dtype))


def _read_targets(path: Path, name: str) -> npt.NDArray[np.int64]:
    return as_labels(f"{path}: {name}", _read(path, name))


def _read(path: Path, name: str) -> Array:
    with reading(f"{path}: {name}", "save it with numpy.savez"), zipfile.ZipFile(path) as archive:
        if f"{name}.npy" not in archive.namelist():
            raise DataError(f"{path}: has no array {name}; save {', '.join(NAMES)} with numpy.savez")
        with archive.open(f"{name}.npy") as file:
            return np.ascontiguousarray(np.lib.format.read_array(file, allow_pickle=False))
