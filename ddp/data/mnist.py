"""MNIST and Fashion-MNIST, from a folder of IDX files that the user names, that is found, or that is fetched."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ddp.data.dataset import Dataset, Share, standardisation
from ddp.data.download import Remote, fetch, find_or_fetch
from ddp.data.idx import TEST_PREFIX, TRAIN_PREFIX, find_idx, read_dataset

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
        remotes: the four files, where they are published.
    """

    mean: float
    std: float
    places: tuple[str, ...]
    fix: str
    remotes: tuple[Remote, ...]


ROOT_FIX = "name the folder of the four IDX files with --data.root, fetch them with --data.download true"
FILES = tuple(
    f"{prefix}-{kind}" for prefix in (TRAIN_PREFIX, TEST_PREFIX) for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
)


def _remotes(mirrors: tuple[str, ...], *sha256: str) -> tuple[Remote, ...]:
    return tuple(Remote(f"{name}.gz", mirrors, digest) for name, digest in zip(FILES, sha256, strict=True))


SOURCES = {
    "mnist": Source(
        0.1307,
        0.3081,
        ("data/mnist", "~/.cache/ddp/mnist"),
        ROOT_FIX,
        _remotes(
            ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    ),
    "fashion_mnist": Source(
        0.2860,
        0.3530,
        ("data/fashion_mnist", "~/.cache/ddp/fashion_mnist", "/usr/share/datasets/fashion-mnist"),
        f"{ROOT_FIX}, or install Debian's package dataset-fashion-mnist",
        _remotes(
            ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    ),
}


def load_mnist(config: DataConfig, seed: int, share: Share) -> Dataset:
    """The data set `config.name`: inputs (N, 1, 28, 28) uint8, labels 0 to 9; `seed` does not matter.

    The network sees (p/255 - 0.1307) / 0.3081 for mnist (Y. LeCun, C. Cortes and C. Burges, 1998)
    and (p/255 - 0.2860) / 0.3530 for fashion_mnist (H. Xiao, K. Rasul and R. Vollgraf, 2017).

    Raises:
        DataError: if the files are missing, damaged or do not fit together, or cannot be fetched.
    """
    source = SOURCES[config.name]
    if config.root and not config.download:
        folder = Path(config.root).expanduser()
    else:
        places = (config.root,) if config.root else source.places
        names = FILES if config.download else FILES[:1]
        missing = f"data.name = {config.name}: no {FILES[0]}, nor with .gz, in {', '.join(places)}; {source.fix}"
        folder = find_or_fetch(config, share, partial(_find, places, names), partial(_fetch, source), missing)
    normalisation = standardisation(255, source.mean, source.std)
    return read_dataset(config.name, folder, normalisation, share, source.fix)


def _find(places: tuple[str, ...], names: tuple[str, ...]) -> Path | None:
    """The first folder that has all of these files."""
    folders = [Path(place).expanduser() for place in places]
    return next((folder for folder in folders if all(find_idx(folder, name) for name in names)), None)


def _fetch(source: Source, folder: Path) -> None:
    for name, remote in zip(FILES, source.remotes, strict=True):
        if find_idx(folder, name) is None:
            fetch(remote, folder)
