"""A data set as stored, and the gathering of normalised batches from it without allocation."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

Share = Callable[[Callable[[], Array]], Array]
"""`share(load)` returns the array that `load()` makes, to be read only.

A sharing function may call `load` on one rank of a node and map its memory on the others, so a
`load` must return the same array on every rank, and must itself check what it read.
"""


class DataError(ValueError):
    """A mistake of the user's about data: a file, a folder, or a field of the section `data`."""


def unshared(load: Callable[[], Array]) -> Array:
    """The sharing function of a process that shares nothing: `load()`."""
    return load()


def standardisation(maximum: float, mean: float, std: float) -> tuple[np.float32, np.float32]:
    """The scale and shift for which `raw * scale + shift == (raw / maximum - mean) / std`.

    Args:
        maximum: the raw value that stands for 1.
        mean: of `raw / maximum`.
        std: standard deviation of `raw / maximum`, above 0.
    """
    return np.float32(1.0 / (maximum * std)), np.float32(-mean / std)


@dataclass(frozen=True)
class Buffer:
    """The arrays that one batch is gathered into, made once by `Split.make_buffer`.

    Attributes:
        inputs: (capacity, ...) float32, normalised.
        targets: (capacity,) int64 labels or (capacity, 1) float32.
        raw: (capacity, ...) samples as stored; `inputs` itself where those are float32.
    """

    inputs: npt.NDArray[np.float32]
    targets: Array
    raw: Array


@dataclass(frozen=True)
class Split:
    """The samples of one split as they are stored; the network sees `inputs * scale + shift`.

    The arrays become read-only views of those given; they may be memory maps.

    Attributes:
        inputs: (N, C, H, W) uint8 or float32, or (N, 1) float32.
        targets: (N,) int64 labels, or (N, 1) float32 for regression.
        scale: factor of the normalisation, for all pixels or (C, 1, 1) for each channel.
        shift: added after scaling; as scale.
    """

    inputs: Array
    targets: Array
    scale: np.float32 | npt.NDArray[np.float32]
    shift: np.float32 | npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        """Check what every reader must deliver, and protect the arrays from writing."""
        assert self.inputs.dtype.name in ("uint8", "float32")
        assert self.inputs.ndim in (2, 4)
        assert (self.targets.dtype.name, self.targets.ndim) in (("int64", 1), ("float32", 2))
        assert len(self.inputs) == len(self.targets) > 0
        object.__setattr__(self, "inputs", _read_only(self.inputs))
        object.__setattr__(self, "targets", _read_only(self.targets))

    def __len__(self) -> int:
        """Number of samples N."""
        return len(self.targets)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one input: (C, H, W) or (1,)."""
        return self.inputs.shape[1:]

    def make_buffer(self, capacity: int) -> Buffer:
        """Arrays for gathering batches of up to `capacity` samples of this split."""
        inputs = np.zeros((capacity, *self.sample_shape), dtype=np.float32)
        targets = np.zeros((capacity, *self.targets.shape[1:]), dtype=self.targets.dtype)
        raw = inputs if self.inputs.dtype == np.float32 else np.zeros(inputs.shape, dtype=self.inputs.dtype)
        return Buffer(inputs, targets, raw)

    def gather(self, indices: npt.NDArray[np.int64], buffer: Buffer) -> tuple[npt.NDArray[np.float32], Array]:
        """Copy the samples `indices` into `buffer`, normalised; allocates nothing of a batch's size.

        Args:
            indices: (B,) int64, each in `range(len(self))`, B at most the buffer's capacity.
            buffer: from `make_buffer` of a split of the same shape; its first B entries are overwritten.

        Returns:
            Views of `buffer`: inputs (B, ...) float32, and targets (B,) int64 or (B, 1) float32.
        """
        size = len(indices)
        assert size <= len(buffer.inputs), f"{size} samples in a buffer for {len(buffer.inputs)}"
        assert size == 0 or (indices.min() >= 0 and indices.max() < len(self)), "sample index out of range"
        raw, inputs, targets = buffer.raw[:size], buffer.inputs[:size], buffer.targets[:size]
        # mode="clip" because NumPy's default mode copies `out`; the indices were checked above.
        np.take(self.inputs, indices, axis=0, out=raw, mode="clip")
        np.take(self.targets, indices, axis=0, out=targets, mode="clip")
        np.copyto(inputs, raw)  # apart from the product, which would convert through buffers of its own
        np.multiply(inputs, self.scale, out=inputs)
        np.add(inputs, self.shift, out=inputs)
        return inputs, targets


@dataclass(frozen=True)
class Dataset:
    """A named training and test split.

    Attributes:
        name: as in `data.name`.
        train: the samples to learn from.
        test: the samples to evaluate on, of the same shape.
        num_classes: number of labels, 0 for regression.
    """

    name: str
    train: Split
    test: Split
    num_classes: int

    def checksum(self) -> str:
        """SHA-256, in hexadecimal, of both splits' stored bytes, shapes, types and normalisation."""
        digest = hashlib.sha256()
        for split in (self.train, self.test):
            for array in (split.inputs, split.targets, np.array([split.scale, split.shift])):
                digest.update(f"{array.dtype.name} {array.shape};".encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def _read_only(array: Array) -> Array:
    view = array.view()
    view.flags.writeable = False
    return view
