"""What all optimizers have in common: flat buffers, settings of each parameter tensor, and norms."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt

from ddp.kernels.types import Addends, Float32, Float64, GradientSum, Int64
from ddp.kernels.update import LANES, add_up, make_blocks, square_blocks

Mask = npt.NDArray[np.bool_]
"""(T,) one truth for each parameter tensor."""
LEAST_NORM = 1e-30
"""Of what has a trust ratio: one over the norm of a direction that fades away would be infinite in float32."""


class Optimizer(ABC):
    """Updates parameters, or a rank's part of them, from sums of gradients, in one pass over the buffers.

    A layer-wise optimizer makes more passes: it must know norms of whole tensors before it updates. Whoever has but a
    part of them gathers what `measure` returns from all ranks, and gives `step` the `tensor_norms` of it.

    Attributes:
        is_layerwise: whether it needs them.
        state: buffers to keep in a checkpoint, by name, each laid out like the parameters.
        squares: (M,) of the last step, the sum of the squares of the gradient in each block.
        steps: how many steps came before the next one; who goes on from a checkpoint sets it.
    """

    is_layerwise = False

    def __init__(
        self,
        parameters: Float32,
        sums: GradientSum | Addends,
        weight_decay: float | Float32 = 0.0,
        blocks: Int64 | None = None,
    ) -> None:
        """Take the buffers to update.

        Args:
            parameters: (N,) changed by `step`.
            sums: (N,) read by `step`: sums of gradients over the global batch, in float32 or fixed point; or rows that
                `step` adds first.
            weight_decay: of all tensors, or (T,) of each.
            blocks: (M, 3) where the blocks of the parameter tensors lie in the buffers, from `make_blocks`; default:
                one tensor.
        """
        self.parameters = parameters
        self.addends = sums if isinstance(sums, Addends) else Addends(sums[np.newaxis])
        self.blocks = make_blocks([slice(0, parameters.size)]) if blocks is None else blocks
        self.state: dict[str, Float32] = {}
        self.steps = 0
        self.weight_decays = self._of_tensors(weight_decay)
        self._lanes, self.squares = np.zeros((len(self.blocks), LANES)), np.zeros(len(self.blocks))
        self._other_squares = np.zeros(len(self.blocks))
        self._pairs = np.zeros((len(self.blocks), 2))

    def _of_tensors(self, value: float | Float32) -> Float32:
        """(T,) float32: as given, or one number for all tensors."""
        values = np.asarray(value, np.float32)
        return values if values.ndim else np.full(int(self.blocks[:, 2].max(initial=-1)) + 1, values)

    def add_up(self, scale: Float32) -> Float64:
        """Add the rows of the sums before `step` does, for who must know the norm first.

        Args:
            scale: (T,) what the sums of each tensor are multiplied by.

        Returns:
            (M,) `squares`.
        """
        add_up(*self.addends, self.blocks, scale, self._lanes, self.squares)
        return self.squares

    def measure(self, scale: Float32, added_up: bool = False) -> Float64:
        """Begin a step of a layer-wise optimizer, which `step` ends.

        Args:
            scale: (T,) what the sums of each tensor are multiplied by.
            added_up: whether `add_up` was called.

        Returns:
            (M, 2) of each block the sums of squares of the parameters, and of what their norm is compared with.
        """
        compared = self._measure(scale, self._rows(added_up))
        square_blocks(self.parameters, self.blocks, self._lanes, self._other_squares)
        self._pairs[:, 0], self._pairs[:, 1] = self._other_squares, compared
        return self._pairs

    def step(self, lr: float, scale: float | Float32, added_up: bool = False, norms: Float64 | None = None) -> float:
        """Update the parameters.

        Args:
            lr: learning rate of this step.
            scale: what the sums, or those of each tensor, (T,), are multiplied by: 1 / samples for the mean loss.
            added_up: whether `add_up` was called.
            norms: (T, 2) of all tensors, from `tensor_norms`, after `measure`; default: of the tensors that are here.

        Returns:
            The norm of the gradient; of a part of the parameters, of that part.
        """
        scales = self._of_tensors(scale)
        if self.is_layerwise:
            if norms is None:
                norms = tensor_norms(self.measure(scales, added_up), self.blocks, len(scales))
            added_up = True
        self._update(self._rows(added_up), self.blocks, scales, lr, norms)
        self.steps += 1
        return norm(self.squares)

    def warm_up(self) -> None:
        """Compile the kernels without touching parameters or state."""
        ones, none = np.ones_like(self.weight_decays), self.blocks[:0]
        add_up(*self.addends, none, ones, self._lanes, self.squares)
        square_blocks(self.parameters, none, self._lanes, self._other_squares)
        self._update(self.addends, none, ones, 0.0, np.ones((len(ones), 2)))

    def _rows(self, added_up: bool) -> Addends:
        rows, own, start = self.addends
        return Addends(rows[own : own + 1], 0, start) if added_up else self.addends

    def _measure(self, scales: Float32, addends: Addends) -> Float64:
        """(M,) sums of squares of what the norm of the parameters is compared with; leaves the sums added up."""
        raise NotImplementedError

    @abstractmethod
    def _update(self, addends: Addends, blocks: Int64, scales: Float32, lr: float, norms: Float64 | None) -> None:
        """Update some blocks; scales (T,), norms (T, 2)."""


def norm(squares: Float64) -> float:
    """The root of a sum that is rounded once, so that no order of the numbers changes it."""
    return math.sqrt(math.fsum(squares))


def tensor_norms(squares: Float64, blocks: Int64, num_tensors: int) -> Float64:
    """The norms of tensors, whose blocks are added in their order.

    Args:
        squares: (M, K) of each block, K sums of squares.
        blocks: (M, 3), from `make_blocks`.
        num_tensors: T.

    Returns:
        (T, K).
    """
    sums = [np.bincount(blocks[:, 2], column, num_tensors) for column in squares.T]
    return np.sqrt(np.stack(sums, axis=1))


def trust_ratios(norms: Float64, adapts: Mask | None, coefficient: float = 1.0) -> Float64:
    """What the learning rate of each tensor is multiplied by: coefficient |w| / |d|, or 1 where one is about 0.

    Args:
        norms: (T, 2) of the parameters w, and of the direction d.
        adapts: which tensors have a ratio, the others having 1; None: all.
        coefficient: the trust coefficient.

    Returns:
        (T,).
    """
    has_norms = (norms > LEAST_NORM).all(axis=1)
    ratios = np.ones(len(norms))
    has_one = has_norms if adapts is None else has_norms & adapts
    np.divide(coefficient * norms[:, 0], norms[:, 1], out=ratios, where=has_one)
    return ratios
