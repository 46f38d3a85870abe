"""CIFAR-10 and CIFAR-100 in their binary form: records of one or two label bytes and 3 x 32 x 32 pixels.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009, and the descriptions that come
with cifar-10-binary.tar.gz and cifar-100-binary.tar.gz.
"""

from __future__ import annotations

import os.path
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ddp.data.dataset import DataError, Dataset, Share, Split, standardisation
from ddp.data.download import Remote, fetch_archive, find_or_fetch
from ddp.data.pieces import Array

if TYPE_CHECKING:
    from ddp.config import DataConfig

IMAGE_SHAPE = (3, 32, 32)  # red, green, blue; rows; columns
PIXELS = 3 * 32 * 32
KRIZHEVSKY = ("https://www.cs.toronto.edu/~kriz/",)


@dataclass(frozen=True)
class Format:
    """What is known about one data set.

    Attributes:
        labels: bytes in front of an image, of which the last is the label.
        num_classes: that it may say.
        train: files of the training split, in order.
        test: files of the test split.
        unpacked: the folder inside the archive.
        means: of p / 255 over the training split, by channel.
        stds: standard deviations of the same.
        archive: where it is published.
    """

    labels: int
    num_classes: int
    train: tuple[str, ...]
    test: tuple[str, ...]
    unpacked: str
    means: tuple[float, float, float]
    stds: tuple[float, float, float]
    archive: Remote

    @property
    def record(self) -> int:
        """Bytes of a sample."""
        return self.labels + PIXELS

    @property
    def fix(self) -> str:
        """How the user gets the files."""
        files = f"{self.train[0]} and {self.test[0]}"
        return f"name the folder of {files} with --data.root, or fetch it with --data.download true"

    @cached_property
    def normalisation(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Scale and shift, (3, 1, 1) each."""
        pairs = [standardisation(255, mean, std) for mean, std in zip(self.means, self.stds, strict=True)]
        scale, shift = np.array(pairs).T.reshape(2, 3, 1, 1).copy()
        return scale, shift


FORMATS = {
    "cifar10": Format(
        labels=1,
        num_classes=10,
        train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        test=("test_batch.bin",),
        unpacked="cifar-10-batches-bin",
        means=(0.4914, 0.4822, 0.4465),
        stds=(0.2470, 0.2435, 0.2616),
        archive=Remote(
            "cifar-10-binary.tar.gz",
            KRIZHEVSKY,
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        ),
    ),
    "cifar100": Format(
        labels=2,
        num_classes=100,
        train=("train.bin",),
        test=("test.bin",),
        unpacked="cifar-100-binary",
        means=(0.5071, 0.4865, 0.4409),
        stds=(0.2673, 0.2564, 0.2762),
        archive=Remote(
            "cifar-100-binary.tar.gz",
            KRIZHEVSKY,
            "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        ),
    ),
}


def load_cifar(config: DataConfig, seed: int, share: Share) -> Dataset:
    """The data set `config.name`: inputs (N, 3, 32, 32) uint8, labels 0 to 9 or 0 to 99; `seed` does not matter.

    The network sees (p/255 - mean) / std, with the training split's mean and standard deviation of red, green and
    blue. CIFAR-100's labels are the fine ones.

    Raises:
        DataError: if the files are missing or damaged, or cannot be fetched.
    """
    form = FORMATS[config.name]
    places = (config.root,) if config.root else (f"data/{config.name}", f"~/.cache/ddp/{config.name}")
    where = f"{', '.join(places)}, nor in {form.unpacked} there"
    missing = f"data.name = {config.name}: no {form.train[0]} in {where}; {form.fix}"
    fetch_to = partial(fetch_archive, form.archive, unpacked=form.unpacked)
    names = (*form.train, *form.test) if config.download else form.train[:1]
    folder = find_or_fetch(config, share, partial(_find, form, places, names), fetch_to, missing)
    train, test = (_split(form, [folder / name for name in names], share) for names in (form.train, form.test))
    return Dataset(config.name, train, test, form.num_classes)


def _find(form: Format, places: tuple[str, ...], names: tuple[str, ...]) -> Path | None:
    """The first folder that has all of these files."""
    roots = [Path(place).expanduser() for place in places]
    folders = [folder for root in roots for folder in (root, root / form.unpacked)]
    # os.path answers False where pathlib raises, as in a folder that the user may not enter.
    return next((folder for folder in folders if all(os.path.isfile(folder / name) for name in names)), None)


def _split(form: Format, paths: list[Path], share: Share) -> Split:
    # Two arrays rather than a map of the records: gathering copies fast only from contiguous images.
    images = share(lambda: np.concatenate([_records(form, path)[:, form.labels :] for path in paths]))
    labels = share(lambda: np.concatenate([_labels(form, path) for path in paths]))
    return Split(images.reshape(-1, *IMAGE_SHAPE), labels, *form.normalisation)


def _records(form: Format, path: Path) -> npt.NDArray[np.uint8]:
    """The file's records, (N, bytes of one) uint8, mapped, its size checked."""
    try:
        size = path.stat().st_size
        if size == 0 or size % form.record:
            raise DataError(
                f"{path}: {size} bytes, expected a multiple of {form.record} ({form.labels} of labels and 3 x 32 x 32"
                " pixels), above 0; fetch it again, and take the binary version"
            )
        return np.memmap(path, dtype=np.uint8, mode="r").reshape(-1, form.record)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; {form.fix}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the file") from error


def _labels(form: Format, path: Path) -> Array:
    labels = _records(form, path)[:, form.labels - 1].astype(np.int64)
    wrong = np.flatnonzero(labels >= form.num_classes)
    if wrong.size:
        position = int(wrong[0])
        raise DataError(
            f"{path}: label {labels[position]} at position {position}, expected 0 to {form.num_classes - 1};"
            " fetch it again, and take the binary version"
        )
    return labels
