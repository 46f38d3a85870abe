"""The UCI handwritten digits, embedded: 1438 training and 359 test images of 8 x 8 pixels from 0 to 16."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ddp.data.dataset import Dataset, Share, standardisation
from ddp.data.idx import read_dataset

if TYPE_CHECKING:
    from ddp.config import DataConfig

FOLDER = Path(__file__).parent / "digits"
# Mean and standard deviation of p / 16 over the training split, so that inputs have mean 0 and deviation 1.
NORMALISATION = standardisation(maximum=16, mean=0.3058, std=0.3764)


def load_digits(config: DataConfig, seed: int, share: Share) -> Dataset:
    """The embedded digits: inputs (N, 1, 8, 8) uint8, seen as (p/16 - 0.3058) / 0.3764, labels 0 to 9.

    Nothing of `config` or `seed` matters: files and split are fixed. Source: E. Alpaydin and
    C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998;
    `digits/README.md` has the licence and the split.

    Raises:
        DataError: if the installation lacks a file or it is damaged.
    """
    return read_dataset("digits", FOLDER, NORMALISATION, share, fix="install ddp again")
