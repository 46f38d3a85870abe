"""A data set as stored, and the gathering of normalised, augmented batches from it without allocation."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ddp.data.augmentation import Augmentation
from ddp.data.pieces import Array, Chosen, Pieces
from ddp.kernels.augment import augment
from ddp.kernels.decode import decode

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
        samples: (capacity,) int64, which of the split they are.
        places: (capacity,) int64, 0, 1, 2, ...
    """

    inputs: npt.NDArray[np.float32]
    targets: Array
    samples: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """The samples of one split as they are stored; the network sees `inputs * scale + shift`.

    The arrays become read-only views of those given, or copies of those not contiguous; they may be memory maps.

    Attributes:
        inputs: (N, C, H, W) uint8 or float32, or (N, 1) float32; in one array or in pieces.
        targets: (N,) int64 labels, or (N, 1) float32 for regression.
        scale: factor of the normalisation, for all pixels or (C, 1, 1) for each channel.
        shift: added after scaling; as scale.
    """

    inputs: Array | Pieces
    targets: Array
    scale: np.float32 | npt.NDArray[np.float32]
    shift: np.float32 | npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        """Check what every reader must deliver, and protect the arrays from writing."""
        assert self.inputs.dtype.name in ("uint8", "float32")
        assert self.inputs.ndim in (2, 4)
        assert (self.targets.dtype.name, self.targets.ndim) in (("int64", 1), ("float32", 2))
        assert len(self.inputs) == len(self.targets) > 0
        if not isinstance(self.inputs, Pieces):
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
        return Buffer(inputs, targets, np.zeros(capacity, np.int64), np.arange(capacity))

    def gather(
        self,
        indices: npt.NDArray[np.int64],
        buffer: Buffer,
        augmentation: Augmentation | None = None,
        epoch: int = 0,
    ) -> tuple[npt.NDArray[np.float32], Array]:
        """Copy the samples `indices` into `buffer`, normalised; allocates nothing of a batch's size.

        Args:
            indices: (B,) int64, each in `range(len(self))`, B at most the buffer's capacity.
            buffer: from `make_buffer` of a split of the same shape; its first B entries are overwritten.
            augmentation: what is done to the images beside, which must have two sizes then; None: nothing.
            epoch: for which that is drawn.

        Returns:
            Views of `buffer`: inputs (B, ...) float32, and targets (B,) int64 or (B, 1) float32.
        """
        size = len(indices)
        assert size <= len(buffer.inputs), f"{size} samples in a buffer for {len(buffer.inputs)}"
        # A negative one is above all as an unsigned number: one pass over them, not two.
        assert size == 0 or indices.view(np.uint64).max() < len(self), "sample index out of range"
        inputs, targets = buffer.inputs[:size], buffer.targets[:size]
        # mode="clip" because NumPy's default mode copies `out`; the indices were checked above.
        self.targets.take(indices, 0, targets, "clip")
        buffer.samples[:size] = indices
        for piece, samples, places in self._choose(size, buffer):
            if augmentation is None:
                flat = self._flat[piece]
                decode(samples, places, flat, *self._normalisation, inputs.reshape(size, *flat.shape[1:]))
            else:
                a, first = augmentation, int(self._starts[piece])
                drawn = (first, a.seed, epoch, a.padding, a.flips, a.rotation)
                images = inputs.reshape(size, *self._image_shape)
                augment(samples, places, self._stored[piece], *drawn, *self._normalisation, images)
        return inputs, targets

    def read_ahead(self, indices: npt.NDArray[np.int64]) -> None:
        """Have the system read samples where they lie in files, so that `gather` waits for all of them at once."""
        if isinstance(self.inputs, Pieces):
            with suppress(OSError):  # it is a hint: a file that cannot be opened again may still be mapped
                self.inputs.read_ahead(indices)

    def _choose(self, size: int, buffer: Buffer) -> Iterable[Chosen]:
        samples = buffer.samples[:size]
        if isinstance(self.inputs, Pieces):
            return self.inputs.choose(samples)
        return (Chosen(0, samples, buffer.places[:size]),)

    @cached_property
    def _image_shape(self) -> tuple[int, ...]:
        """(C, H, W), whatever a sample is."""
        return self.sample_shape if len(self.sample_shape) == 3 else (1, 1, *self.sample_shape)

    @cached_property
    def _stored(self) -> tuple[Array, ...]:
        """The pieces as kernels take them: read-only plain arrays (n, C, H, W), without a copy."""
        arrays = self.inputs.arrays if isinstance(self.inputs, Pieces) else (self.inputs,)
        return tuple(_read_only(np.asarray(array)).reshape(len(array), *self._image_shape) for array in arrays)

    @cached_property
    def _flat(self) -> tuple[Array, ...]:
        """The same as (n, C, H W)."""
        return tuple(array.reshape(*array.shape[:2], -1) for array in self._stored)

    @cached_property
    def _starts(self) -> npt.NDArray[np.int64]:
        return self.inputs.starts if isinstance(self.inputs, Pieces) else np.zeros(1, np.int64)

    @cached_property
    def _normalisation(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Scale and shift of each channel."""
        channels = self._image_shape[0]
        scale, shift = (np.full(channels, np.ravel(values), np.float32) for values in (self.scale, self.shift))
        return scale, shift


@dataclass(frozen=True)
class Dataset:
    """A named training and test split.

    Attributes:
        name: as in `data.name`.
        train: the samples to learn from.
        test: the samples to evaluate on, of the same shape.
        num_classes: number of labels, 0 for regression.
        manifest: what stands for the bytes of inputs in pieces, which may be too many to read: names and sizes.
    """

    name: str
    train: Split
    test: Split
    num_classes: int
    manifest: str = ""

    def checksum(self) -> str:
        """SHA-256, in hexadecimal, of both splits' stored bytes, shapes, types and normalisation.

        Of inputs in pieces the manifest is taken for the bytes: a change inside of a file goes unseen.
        """
        digest = hashlib.sha256(self.manifest.encode())
        for split in (self.train, self.test):
            for array in (split.inputs, split.targets, np.array([split.scale, split.shift])):
                if isinstance(array, Pieces):
                    digest.update(f"{array.dtype.name} {array.shape};".encode())
                    continue
                digest.update(f"{array.dtype.name} {array.shape};".encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def _read_only(array: Array) -> Array:
    view = np.ascontiguousarray(array) if not array.flags.c_contiguous else array.view()
    view.flags.writeable = False
    return view
