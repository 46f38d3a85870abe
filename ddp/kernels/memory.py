"""Memory for blocks that are to stay in a cache."""

from __future__ import annotations

import contextlib
import mmap

import numpy as np

from ddp.kernels.types import Float32

__all__ = ["allocate"]

HUGE_PAGE = 2 << 20  # bytes


def allocate(*shape: int) -> Float32:
    """A float32 array of zeros at the start of huge pages, where the system has them.

    Pages of 4 kB lie anywhere in memory, so that too many of a block's may fall into the same sets of the
    second-level cache, and a block of half its size does not stay there; a huge page fills all sets alike. Nor does
    a vector lie on two cache lines.
    """
    size = 4 * int(np.prod(shape))
    room = mmap.mmap(-1, size + HUGE_PAGE)
    with contextlib.suppress(AttributeError, OSError):  # another system, or a Linux built without them
        room.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(room, np.uint8)
    start = -whole.ctypes.data % HUGE_PAGE
    return whole[start : start + size].view(np.float32).reshape(shape)
