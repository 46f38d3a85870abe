"""An array in several pieces, each a file that is mapped: what is not used is not read."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Chosen(NamedTuple):
    """Samples of one piece."""

    piece: int
    samples: npt.NDArray[np.int64]
    """(n,) their numbers in the piece."""
    places: npt.NDArray[np.int64]
    """(n,) their places among those that were asked for."""


@dataclass(frozen=True)
class Pieces:
    """Arrays of one shape and type but for the first axis, along which they follow one another.

    Attributes:
        arrays: at least one.
        files: of which they are maps, with the offset of the first byte; none where they are in memory.
    """

    arrays: tuple[Array, ...]
    files: tuple[tuple[Path, int], ...] = ()

    def __len__(self) -> int:
        """Samples of all."""
        return int(self.starts[-1])

    @cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """(pieces + 1,) the number of each one's first sample, and that of all."""
        return np.cumsum([0, *map(len, self.arrays)], dtype=np.int64)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of all."""
        return self.arrays[0].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all together."""
        return (len(self), *self.arrays[0].shape[1:])

    @property
    def ndim(self) -> int:
        """Axes, the first included."""
        return self.arrays[0].ndim

    def choose(self, samples: npt.NDArray[np.int64]) -> Iterator[Chosen]:
        """Say which pieces the samples are in, piece by piece."""
        pieces = np.searchsorted(self.starts, samples, side="right") - 1
        order = np.argsort(pieces, kind="stable")
        ends = np.flatnonzero(np.diff(pieces[order], append=-1)) + 1
        start = 0
        for end in ends.tolist():
            places = order[start:end]
            piece = int(pieces[places[0]])
            yield Chosen(piece, samples[places] - self.starts[piece], places)
            start = end

    def read_ahead(self, samples: npt.NDArray[np.int64]) -> None:
        """Ask the system to read the samples' pages from the files, and do not wait for them.

        Other threads of this process may run meanwhile, also those that hold the interpreter's lock. Where the arrays
        are in memory there is nothing to do.

        Raises:
            OSError: if a file cannot be opened.
        """
        size = self.dtype.itemsize * int(np.prod(self.shape[1:]))
        for piece, chosen, _ in self.choose(samples) if self.files else ():
            path, offset = self.files[piece]
            descriptor = os.open(path, os.O_RDONLY)
            try:
                for sample in chosen.tolist():
                    os.posix_fadvise(descriptor, offset + sample * size, size, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(descriptor)


def map_piece(path: Path, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """A read-only map of an array in a file, of which only what is used is read.

    Raises:
        OSError: if it cannot be mapped.
    """
    array = np.memmap(path, dtype, mode="r", offset=offset, shape=shape)
    memory: mmap.mmap = array._mmap  # type: ignore[attr-defined]
    # Samples come in random order: what the system would read beside them is read in vain.
    memory.madvise(mmap.MADV_RANDOM)
    return array
