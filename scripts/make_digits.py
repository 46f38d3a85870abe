"""Make the four IDX files of `ddp/data/digits` from scikit-learn's copy of the UCI digits.

    python scripts/make_digits.py [FOLDER]

Every fifth sample (index % 5 == 4) goes to the test split, the others to the training split. The
files hold no time of making, so the same zlib makes the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from ddp.data.idx import encode_idx

DIGITS_FOLDER = Path(__file__).parents[1] / "ddp" / "data" / "digits"


def make_digits(folder: Path) -> None:
    """Write the images, (N, 8, 8) uint8 from 0 to 16, and labels, (N,) uint8, of both splits to `folder`."""
    digits = load_digits()
    images, labels = digits.images.astype(np.uint8), digits.target.astype(np.uint8)
    is_test = np.arange(len(labels)) % 5 == 4
    for prefix, chosen in (("train", ~is_test), ("t10k", is_test)):
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            data = gzip.compress(encode_idx(array[chosen]), mtime=0)
            (folder / f"{prefix}-{kind}-ubyte.gz").write_bytes(data)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=DIGITS_FOLDER, help="default: %(default)s")
    make_digits(parser.parse_args().folder)
