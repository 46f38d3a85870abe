"""A folder of `.npy` files that may be too large for memory: they are mapped, and read where they are trained on.

Nothing is unpickled (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html).
"""

from __future__ import annotations

import math
import os.path
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ddp.data.arrays import SPLITS, as_labels, image_shape, make_dataset, reading
from ddp.data.dataset import DataError, Dataset, Share
from ddp.data.pieces import Pieces, map_piece

if TYPE_CHECKING:
    from ddp.config import DataConfig

SAVE_FIX = "save it with numpy.save, as a C-contiguous array"


@dataclass(frozen=True)
class Piece:
    """A file of inputs, with that of their targets.

    Attributes:
        inputs: the file.
        shape: of the array in it, as images (N, C, H, W).
        dtype: of that array.
        offset: of its first byte.
        size: of the file, in bytes.
    """

    inputs: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    size: int

    @property
    def targets(self) -> Path:
        """The file of the targets."""
        return self.inputs.with_name(self.inputs.name.replace("-inputs", "-targets", 1))

    @property
    def kind(self) -> str:
        """Type and shape of a sample."""
        return f"{self.dtype.name} {self.shape[1:]}"

    @property
    def manifest(self) -> str:
        """What is known of the file without reading it."""
        return f"{self.inputs.name} {self.kind} {self.shape[0]} {self.size};"


def load_npy(config: DataConfig, seed: int, share: Share) -> Dataset:
    """The arrays train-inputs.npy, train-targets.npy, test-inputs.npy and test-targets.npy of the folder `data.root`.

    Each may be cut along its first axis into several files with more in their names, such as train-inputs-0000.npy
    with train-targets-0000.npy, which follow one another in the order of their names. Shapes, types and
    normalisation as of `load_npz`. Inputs are mapped: a rank reads what it trains on; targets are read once a node.

    Raises:
        DataError: if a file is missing or no such array, or files do not fit together.
    """
    folder = Path(config.root).expanduser()
    if not config.root or not os.path.isdir(folder):
        raise DataError(f"data.root = {config.root or '(empty)'}: no such folder; give that of train-inputs*.npy")
    splits = [_find(folder, name) for name in SPLITS]
    inputs = [_map(pieces) for pieces in splits]
    targets = [share(partial(_read_targets, pieces)) for pieces in splits]
    manifest = "".join(piece.manifest for pieces in splits for piece in pieces)
    return make_dataset(config, folder, inputs, targets, manifest)


def _find(folder: Path, split: str) -> list[Piece]:
    """The files of a split, in the order of their names."""
    pieces = [_read_header(path) for path in sorted(folder.glob(f"{split}-inputs*.npy"))]
    if not pieces:
        raise DataError(f"{folder}: no {split}-inputs*.npy; save inputs under such a name, or give another data.root")
    for piece in pieces:
        if piece.kind != pieces[0].kind:
            other = pieces[0]
            raise DataError(
                f"{piece.inputs}: samples are {piece.kind}, those of {other.inputs.name} {other.kind}; save all alike"
            )
        if not os.path.isfile(piece.targets):
            raise DataError(f"{piece.targets}: no such file; save the targets of {piece.inputs.name} under that name")
    return pieces


def _read_header(path: Path) -> Piece:
    """What the file says it holds, checked against its size."""
    with reading(str(path), SAVE_FIX), path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read(file)
        offset, size = file.tell(), os.fstat(file.fileno()).st_size
    if is_fortran:
        raise DataError(f"{path}: is in Fortran's order; {SAVE_FIX}")
    images = image_shape(str(path), shape, dtype)
    expected = offset + dtype.itemsize * math.prod(shape)
    if size != expected:
        raise DataError(f"{path}: {size} bytes, expected {expected} for shape {shape}; save it again")
    return Piece(path, images, dtype, offset, size)


def _map(pieces: Sequence[Piece]) -> Pieces:
    try:
        arrays = tuple(map_piece(piece.inputs, piece.offset, piece.dtype, piece.shape) for piece in pieces)
    except OSError as error:
        fix = "use fewer, larger files, or raise `ulimit -n`"
        raise DataError(
            f"{pieces[0].inputs.parent}: cannot map {len(pieces)} files ({error.strerror}); {fix}"
        ) from None
    return Pieces(arrays, tuple((piece.inputs, piece.offset) for piece in pieces))


def _read_targets(pieces: Sequence[Piece]) -> npt.NDArray[np.int64]:
    return np.concatenate([_read_piece_targets(piece) for piece in pieces])


def _read_piece_targets(piece: Piece) -> npt.NDArray[np.int64]:
    path = piece.targets
    with reading(str(path), SAVE_FIX), path.open("rb") as file:
        array = np.lib.format.read_array(file, allow_pickle=False)  # not `numpy.load`, which takes archives, too
    labels = as_labels(str(path), array)
    if len(labels) != piece.shape[0]:
        raise DataError(
            f"{path}: {len(labels)} targets, but {piece.inputs.name} has {piece.shape[0]} samples; save as many of both"
        )
    return labels
