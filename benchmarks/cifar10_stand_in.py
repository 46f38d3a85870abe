"""A data set in CIFAR-10's format for machines that do not have CIFAR-10: Fashion-MNIST's images in colour.

    python -m benchmarks.cifar10_stand_in DIR

Each image lies somewhere on 32x32 pixels, some are mirrored, and object and background have colours of their own, drawn
for each sample: what is in the image tells the class, the colour does not. Integers from the counter-based generator
alone, so the files are the same on every machine.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ddp.config import DataConfig
from ddp.data import Split, load_dataset
from ddp.rng import Purpose, random_words

TITLE = "Fashion-MNIST's images in colour (benchmarks.cifar10_stand_in)"
TRAIN_FILES, TEST_FILE = tuple(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"
SIZE = 32
STREAM = 16
"""Of Purpose.GENERATE: none of the generated data sets' own."""
TRAIN_SAMPLES, TEST_SAMPLES = 2000, 2000
"""Of each file: a fifth of CIFAR-10."""
WORDS = 9
"""Of a sample: two colours of three, its row and column, and whether it is mirrored."""


def colour(gray: npt.NDArray[np.uint8], words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    """Images in colour at a place of their own.

    Args:
        gray: (N, 28, 28) from 0, the background, to 255, the object.
        words: (N, WORDS) random 32-bit words.

    Returns:
        (N, 3, 32, 32).
    """
    height, width = gray.shape[1:]
    canvas = np.zeros((len(gray), SIZE, SIZE), np.int64)
    rows, columns = words[:, 6] % (SIZE - height + 1), words[:, 7] % (SIZE - width + 1)
    for image, target, row, column, mirrored in zip(gray, canvas, rows, columns, words[:, 8] % 2, strict=True):
        target[int(row) : int(row) + height, int(column) : int(column) + width] = image[:, :: -1 if mirrored else 1]
    colours = (words[:, :6] % 256).astype(np.int64).reshape(-1, 2, 3, 1, 1)
    shares = canvas[:, None]
    return ((shares * colours[:, 0] + (255 - shares) * colours[:, 1]) // 255).astype(np.uint8)


def write_stand_in(folder: Path) -> None:
    """Write the six files of CIFAR-10's binary version.

    Raises:
        DataError: if Fashion-MNIST is not found.
    """
    source = load_dataset(DataConfig(name="fashion_mnist"), seed=0)
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(TRAIN_FILES):
        _write(folder / name, source.train, 0, range(number * TRAIN_SAMPLES, (number + 1) * TRAIN_SAMPLES))
    _write(folder / TEST_FILE, source.test, 1, range(TEST_SAMPLES))


def _write(path: Path, split: Split, number: int, samples: range) -> None:
    chosen = np.array(samples)
    words = random_words(0, Purpose.GENERATE, STREAM, number, chosen, WORDS)
    images = colour(split.inputs[chosen, 0], words).reshape(len(chosen), -1)
    labels = split.targets[chosen].astype(np.uint8)[:, None]
    path.write_bytes(np.concatenate([labels, images], axis=1).tobytes())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    write_stand_in(parser.parse_args().folder)
