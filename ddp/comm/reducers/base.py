"""What every rung of the ladder does in a step, and the part of the parameters that a rank updates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from ddp.comm.world import World
from ddp.kernels.types import Addends, Float32, Float64, GradientSum, Int64
from ddp.partition import block_partition


class Buffers(Protocol):
    """What the rungs need of a network (`ddp.nn.Sequential`): its flat buffers."""

    parameters: Float32
    gradient_sums: GradientSum
    parameter_slices: dict[str, slice]

    @property
    def num_parameters(self) -> int:
        """Length of the flat buffers."""

    def use_memory(self, parameters: Float32, gradient_sums: GradientSum) -> None:
        """Move the flat buffers into other memory."""


@dataclass(frozen=True)
class Part:
    """The parameters that one rank updates: whole blocks, so that the norm's sums are the same for any owner.

    The blocks of all parameters are those of `ddp.kernels.update.make_blocks`.
    """

    where: slice
    """In the flat buffers."""
    blocks: Int64
    """(m, 3) its blocks, counted from the beginning of the part."""
    rows: slice
    """Which of all blocks they are."""

    @property
    def size(self) -> int:
        """Number of its parameters."""
        return int(self.where.stop - self.where.start)


def cut_into_parts(blocks: Int64, num_parts: int) -> list[Part]:
    """Cut all blocks into consecutive parts of about equal length; the last ones may be empty."""
    parts, end = [], 0
    for index in range(num_parts):
        mine = block_partition(len(blocks), num_parts, index)
        rows = slice(mine.start, mine.stop)
        start = int(blocks[rows.start, 0]) if len(mine) else end
        end = int(blocks[rows.stop - 1, 1]) if len(mine) else end
        parts.append(Part(slice(start, end), blocks[rows] - np.array([start, start, 0]), rows))
    return parts


class Reducer:
    """Turns the ranks' gradients into the global gradient, and sees to it that all ranks have all updated parameters.

    In a step the trainer calls `begin`, the backward pass `ready` for one slice after the other; then all ranks meet,
    and the trainer calls `finish`, updates the `part` of this rank from its `addends`, and calls `publish`. This class
    leaves all to the subclass's `finish` and lets each rank update everything, as the rungs do that know no other
    ranks' memory.

    Attributes:
        communicates: whether the ranks ever tell each other anything.
        sums_over_ranks: whether they sum their gradients in every step.
        part: what this rank updates.
    """

    communicates: ClassVar[bool] = True
    sums_over_ranks: ClassVar[bool] = True

    def __init__(self, world: World, model: Buffers, blocks: Int64, num_states: int = 1) -> None:
        """Take the ranks and the buffers.

        Args:
            world: the ranks.
            model: its gradient sums are reduced.
            blocks: (M, 3) of all parameters, from `ddp.kernels.update.make_blocks`.
            num_states: how many buffers the optimizer's state has, each as long as the parameters.
        """
        self.world, self.model, self.blocks, self.num_states = world, model, blocks, num_states
        (self.part,) = cut_into_parts(blocks, 1)

    @property
    def addends(self) -> Addends:
        """What adds up to the global sums of this rank's part, after `finish`: one row, where it has added them."""
        return Addends(self.model.gradient_sums[np.newaxis, self.part.where])

    @property
    def parameters(self) -> Float32:
        """(n,) the parameters of this rank's part."""
        return self.model.parameters[self.part.where]

    def make_states(self) -> Float32:
        """(num_states, n) zeros: memory for the optimizer's state of this rank's part."""
        return np.zeros((self.num_states, self.part.size), np.float32)

    def mine(self) -> tuple[Float32, Addends, Int64, Float32]:
        """What an optimizer is built on: parameters, sums, blocks, and memory for its state, of this rank's part."""
        return self.parameters, self.addends, self.part.blocks, self.make_states()

    def warm_up(self) -> None:
        """Compile what the rung needs; no rank waits for another."""

    def begin(self) -> None:
        """A backward pass is going to begin."""

    def ready(self, where: slice) -> None:
        """The backward pass has computed a slice of the gradient; slices come from the last to the first."""

    def finish(self) -> None:
        """Sum the gradient over all ranks; every rank has come so far, and takes part, with or without samples."""
        raise NotImplementedError

    def gather_squares(self, squares: Float64) -> Float64:
        """Give all ranks the numbers (m,) that each has for the blocks of its part: (M,) those of all; or pairs."""
        return squares

    def publish(self, squares: Float64) -> Float64:
        """After the update: give all ranks all parameters, and the numbers of each block as `gather_squares` does."""
        return squares

    def whole(self, number: int, state: Float32) -> Float32:
        """(N,) a buffer of the optimizer's state, of which (n,) is this rank's part; collective.

        Args:
            number: which of those that `make_states` has made.
            state: (n,) that buffer.
        """
        return state

    def take(self, state: Float32, whole: Float32) -> None:
        """Write this rank's part of a whole buffer (N,) of the optimizer's state; the inverse of `whole`."""
        state[:] = whole[self.part.where]

    def close(self) -> None:
        """Give back what the rung has of the MPI library; collective."""
