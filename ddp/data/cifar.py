"""CIFAR-10 in its binary form: records of a label byte and 3 x 32 x 32 pixels.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009, and the description that
comes with cifar-10-binary.tar.gz.
"""

from __future__ import annotations

import os.path
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ddp.data.dataset import Array, DataError, Dataset, Share, Split, standardisation

if TYPE_CHECKING:
    from ddp.config import DataConfig

NUM_CLASSES = 10
IMAGE_SHAPE = (3, 32, 32)  # red, green, blue; rows; columns
RECORD = 1 + 3 * 32 * 32
TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST_FILES = ("test_batch.bin",)
PLACES = ("data/cifar10", "~/.cache/ddp/cifar10")
UNPACKED = "cifar-10-batches-bin"  # the folder inside the archive
ROOT_FIX = f"name the folder of {TRAIN_FILES[0]} to 5 and {TEST_FILES[0]} with --data.root"

# Of p / 255 over the training split, by channel.
MEANS, STDS = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
NORMALISATION = np.array([standardisation(255, mean, std) for mean, std in zip(MEANS, STDS, strict=True)])
SCALE, SHIFT = NORMALISATION.T.reshape(2, 3, 1, 1).copy()


def load_cifar10(config: DataConfig, seed: int, share: Share) -> Dataset:
    """CIFAR-10: inputs (N, 3, 32, 32) uint8, labels 0 to 9; `seed` does not matter.

    The network sees (p/255 - mean) / std with the means 0.4914, 0.4822, 0.4465 and the standard deviations 0.2470,
    0.2435, 0.2616 of red, green and blue.

    Raises:
        DataError: if the files are missing or damaged.
    """
    folder = _find_folder(config.root)
    return Dataset("cifar10", _split(folder, TRAIN_FILES, share), _split(folder, TEST_FILES, share), NUM_CLASSES)


def _find_folder(root: str) -> Path:
    places = (root,) if root else PLACES
    for place in places:
        for folder in (Path(place).expanduser(), Path(place).expanduser() / UNPACKED):
            if os.path.isfile(folder / TRAIN_FILES[0]):
                return folder
    raise DataError(
        f"data.name = cifar10: no {TRAIN_FILES[0]} in {', '.join(places)}, nor in {UNPACKED} there; {ROOT_FIX}"
    )


def _split(folder: Path, names: tuple[str, ...], share: Share) -> Split:
    # Two arrays rather than a map of the records: gathering copies fast only from contiguous images.
    paths = [folder / name for name in names]
    images = share(lambda: np.concatenate([_records(path)[:, 1:] for path in paths]).reshape(-1, *IMAGE_SHAPE))
    labels = share(lambda: np.concatenate([_labels(path) for path in paths]))
    return Split(images, labels, SCALE, SHIFT)


def _records(path: Path) -> npt.NDArray[np.uint8]:
    """The file's records, (N, RECORD) uint8, mapped, its size checked."""
    try:
        size = path.stat().st_size
        if size == 0 or size % RECORD:
            raise DataError(
                f"{path}: {size} bytes, expected a multiple of {RECORD} (a label and 3 x 32 x 32 pixels), above 0;"
                " fetch it again, and take the binary version"
            )
        return np.memmap(path, dtype=np.uint8, mode="r").reshape(-1, RECORD)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; {ROOT_FIX}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the file") from error


def _labels(path: Path) -> Array:
    labels = _records(path)[:, 0].astype(np.int64)
    wrong = np.flatnonzero(labels >= NUM_CLASSES)
    if wrong.size:
        position = int(wrong[0])
        raise DataError(
            f"{path}: label {labels[position]} at position {position}, expected 0 to {NUM_CLASSES - 1};"
            " fetch it again, and take the binary version"
        )
    return labels
