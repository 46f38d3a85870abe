"""The IDX format of the MNIST family of data sets, plain or compressed with gzip.

A file is a magic number `00 00 08 dd` (08: unsigned bytes; dd: the number of dimensions), dd sizes
as big-endian 32-bit integers, and the bytes, last index fastest
(Y. LeCun, C. Cortes and C. Burges, "The MNIST database of handwritten digits").
"""

from __future__ import annotations

import gzip
import math
import os.path
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ddp.data.dataset import DataError, Dataset, Share, Split
from ddp.data.pieces import Array

NUM_CLASSES = 10
TRAIN_PREFIX, TEST_PREFIX = "train", "t10k"
MAGIC = b"\x00\x00\x08"
DIMENSIONS = (1, 3, 4)  # labels, (N, H, W) images, (N, C, H, W) images
LONGEST_HEADER = 4 + 4 * max(DIMENSIONS)


def encode_idx(array: npt.NDArray[np.uint8]) -> bytes:
    """The contents of the plain IDX file of a 1-, 3- or 4-dimensional uint8 array."""
    assert array.dtype == np.uint8
    assert array.ndim in DIMENSIONS
    header = MAGIC + struct.pack(f">B{array.ndim}I", array.ndim, *array.shape)
    return header + array.tobytes()


def find_idx(folder: Path, name: str) -> Path | None:
    """The file `name` of a folder, such as "train-images-idx3-ubyte", or None.

    Looks for that spelling and "train-images.idx3-ubyte", and for the plain file before the ".gz".
    """
    spellings = (name, name.replace("-idx", ".idx"))
    paths = [folder / f"{spelling}{suffix}" for suffix in ("", ".gz") for spelling in spellings]
    # os.path answers False where pathlib raises, as in a folder that the user may not enter.
    return next((path for path in paths if os.path.isfile(path)), None)


def read_images(path: Path, share: Share) -> npt.NDArray[np.uint8]:
    """The images of an IDX file: (N, C, H, W) uint8, with C = 1 where the file has 3 dimensions.

    A plain file is mapped, so that ranks of a node share its pages and read only what they use; a
    compressed one is decompressed through `share`.

    Raises:
        DataError: if the file cannot be read, is no IDX file of images, or has the wrong length.
    """
    images = share(lambda: _decode(path, (3, 4))) if path.suffix == ".gz" else _map(path, (3, 4))
    return images[:, None] if images.ndim == 3 else images


def read_labels(path: Path, share: Share) -> npt.NDArray[np.int64]:
    """The labels of an IDX file: (N,) int64, each in `range(NUM_CLASSES)`.

    Raises:
        DataError: if the file cannot be read, is no IDX file of labels, has the wrong length or a
            label out of range.
    """

    def load() -> Array:
        labels = _decode(path, (1,))
        wrong = np.flatnonzero(labels >= NUM_CLASSES)
        if wrong.size:
            position = int(wrong[0])
            raise DataError(
                f"{path}: label {labels[position]} at position {position}, "
                f"expected 0 to {NUM_CLASSES - 1}; fetch the file again"
            )
        return labels.astype(np.int64)

    return share(load)


def read_dataset(
    name: str, folder: Path, normalisation: tuple[np.float32, np.float32], share: Share, fix: str
) -> Dataset:
    """The data set in the four IDX files of a folder.

    Args:
        name: of the data set.
        folder: holds train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and
            t10k-labels-idx1-ubyte, each plain or with ".gz".
        normalisation: scale and shift.
        share: loads what is not mapped.
        fix: what the user may do about a missing file; ends the message.

    Raises:
        DataError: if a file is missing, damaged, or does not fit the others.
    """
    train = _read_split(folder, TRAIN_PREFIX, normalisation, share, fix)
    test = _read_split(folder, TEST_PREFIX, normalisation, share, fix)
    if train.sample_shape != test.sample_shape:
        raise DataError(
            f"{folder}: training images are {train.sample_shape}, test images {test.sample_shape} "
            "(channels, height, width); take the four files of one data set"
        )
    return Dataset(name, train, test, NUM_CLASSES)


def _read_split(
    folder: Path, prefix: str, normalisation: tuple[np.float32, np.float32], share: Share, fix: str
) -> Split:
    images_path = _require(folder, f"{prefix}-images-idx3-ubyte", fix)
    labels_path = _require(folder, f"{prefix}-labels-idx1-ubyte", fix)
    images, labels = read_images(images_path, share), read_labels(labels_path, share)
    if len(images) != len(labels):
        raise DataError(
            f"{images_path}: {len(images)} images, but {labels_path} has {len(labels)} labels; "
            "take both files of one data set"
        )
    return Split(images, labels, *normalisation)


def _require(folder: Path, name: str, fix: str) -> Path:
    if not os.path.isdir(folder):
        raise DataError(f"{folder}: no such folder, or no permission to enter it; {fix}")
    path = find_idx(folder, name)
    if path is None:
        raise DataError(f"{folder / name}: no such file, nor with .gz; {fix}")
    return path


def _map(path: Path, dimensions: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    try:
        with path.open("rb") as file:
            head = file.read(LONGEST_HEADER)
        shape, offset = _parse_header(path, head, path.stat().st_size, dimensions)
        return np.memmap(path, dtype=np.uint8, mode="r", offset=offset, shape=shape)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the file") from error


def _decode(path: Path, dimensions: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    data = _read_bytes(path)
    shape, offset = _parse_header(path, data[:LONGEST_HEADER], len(data), dimensions)
    return np.frombuffer(data, dtype=np.uint8, offset=offset).reshape(shape)


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip file ({error}); fetch it again") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the file") from error


def _parse_header(path: Path, head: bytes, found: int, dimensions: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
    """Shape and offset of the bytes, checked against the `found` bytes of the whole (plain) file."""
    if len(head) < 4 or head[:3] != MAGIC or head[3] not in dimensions:
        expected = " or ".join(f"{MAGIC.hex(' ')} {d:02x}" for d in dimensions)
        raise DataError(
            f"{path}: IDX magic number is {head[:4].hex(' ') or 'missing'}, expected {expected}; "
            "take an IDX file of bytes, named .gz if and only if it is compressed"
        )
    offset = 4 + 4 * head[3]
    if len(head) < offset:
        raise DataError(f"{path}: truncated, expected a header of {offset} bytes, found {found}; fetch it again")
    shape = struct.unpack(f">{head[3]}I", head[4:offset])
    expected_size = offset + math.prod(shape)
    if found != expected_size:
        fault = "truncated" if found < expected_size else "too long"
        raise DataError(
            f"{path}: {fault}, expected {expected_size} bytes for shape {shape}, found {found}; fetch it again"
        )
    if 0 in shape:
        raise DataError(f"{path}: holds no samples, its shape is {shape}; fetch it again")
    return shape, offset
