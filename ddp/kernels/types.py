"""Names for the arrays that kernels take: C-contiguous NumPy arrays of one element type."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Addends", "Float32", "Float64", "GradientSum", "Int32", "Int64", "UInt8", "UInt16"]

Float32: TypeAlias = npt.NDArray[np.float32]
Float64: TypeAlias = npt.NDArray[np.float64]
Int32: TypeAlias = npt.NDArray[np.int32]
Int64: TypeAlias = npt.NDArray[np.int64]
UInt8: TypeAlias = npt.NDArray[np.uint8]
UInt16: TypeAlias = npt.NDArray[np.uint16]
GradientSum: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.int32]
"""Sums of the logical shards' gradients: float32, or fixed point, which adds exactly."""


class Addends(NamedTuple):
    """What adds up to the sums of the shards' gradients: a row for each rank that has its own, or one row."""

    rows: GradientSum
    """(R, stride) of the same type; row `own` is overwritten by the sum over the rows."""
    own: int = 0
    start: int = 0
    """Where in a row they begin: a row may hold more than the parameters that are to be updated."""
