"""MNIST and Fashion-MNIST, from a folder of IDX files that the user names or that is found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ddp.data.dataset import DataError, Dataset, Share, standardisation
from ddp.data.idx import TRAIN_PREFIX, find_idx, read_dataset

if TYPE_CHECKING:
    from ddp.config import DataConfig


@dataclass(frozen=True)
class Source:
    """What is known about one data set.

    Attributes:
        mean: of p / 255 over the training split.
        std: standard deviation of p / 255 over the training split.
        places: folders searched, in order, when `data.root` is empty.
        fix: how the user gets the files.
    """

    mean: float
    std: float
    places: tuple[str, ...]
    fix: str


ROOT_FIX = "name the folder of the four IDX files with --data.root"

SOURCES = {
    "mnist": Source(0.1307, 0.3081, ("data/mnist", "~/.cache/ddp/mnist"), ROOT_FIX),
    "fashion_mnist": Source(
        0.2860,
        0.3530,
        ("data/fashion_mnist", "~/.cache/ddp/fashion_mnist", "/usr/share/datasets/fashion-mnist"),
        f"{ROOT_FIX}, or install Debian's package dataset-fashion-mnist",
    ),
}


def load_mnist(config: DataConfig, seed: int, share: Share) -> Dataset:
    """The data set `config.name`: inputs (N, 1, 28, 28) uint8, labels 0 to 9; `seed` does not matter.

    The network sees (p/255 - 0.1307) / 0.3081 for mnist (Y. LeCun, C. Cortes and C. Burges, 1998)
    and (p/255 - 0.2860) / 0.3530 for fashion_mnist (H. Xiao, K. Rasul and R. Vollgraf, 2017).

    Raises:
        DataError: if the files are missing, damaged or do not fit together.
    """
    source = SOURCES[config.name]
    folder = Path(config.root).expanduser() if config.root else _search(config.name, source)
    normalisation = standardisation(255, source.mean, source.std)
    return read_dataset(config.name, folder, normalisation, share, source.fix)


def _search(name: str, source: Source) -> Path:
    for place in source.places:
        folder = Path(place).expanduser()
        if find_idx(folder, f"{TRAIN_PREFIX}-images-idx3-ubyte"):
            return folder
    raise DataError(
        f"data.name = {name}: no {TRAIN_PREFIX}-images-idx3-ubyte, nor with .gz, "
        f"in {', '.join(source.places)}; {source.fix}"
    )
