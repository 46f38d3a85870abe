"""Reduce-scatter and allgather of 16-bit words: half the bytes of an Allreduce, added in float32.

Each rank sends every other its words of that one's part, which adds all ranks' words of it in float32, in the order
of the ranks, and sends the sum to all, in words again. What rounding to words takes away is kept where it was rounded,
and added to the next step's: the sum of all updates is that of the gradients but for the newest step's rounding.
Source: S. P. Karimireddy et al., "Error Feedback Fixes SignSGD and other Gradient Compression Schemes", ICML 2019.
"""

from __future__ import annotations

from typing import cast

import numpy as np
from mpi4py import MPI

from ddp.comm.reducers.base import Buffers, Reducer, cut_into_parts
from ddp.comm.world import World
from ddp.kernels.compress import compress, expand_sum
from ddp.kernels.types import Float32, Int64


class CompressedReducer(Reducer):
    """Sums the flat gradient, of float32, in two rounds of words. All ranks end with the same bits.

    One rank sends nothing, so nothing of its gradient is rounded.

    Attributes:
        residual: (N,) what this rank's gradients have lost to rounding and are still owed.
        residual_of_sum: (n,) the same of the sums of the part that this rank adds. Both depend on the number of ranks,
            so no checkpoint holds them: a resumed run begins with zeros, as if the last gradient had been rounded for
            good. Of a step that is skipped because its gradient is not finite, they lose what it carried of them.
    """

    def __init__(self, world: World, model: Buffers, blocks: Int64, half: bool, num_states: int = 1) -> None:
        """Take whether words are float16 (else bfloat16), besides what every rung takes."""
        super().__init__(world, model, blocks, num_states)
        self.half = half
        parts = cut_into_parts(blocks, world.size)
        self._own = own = parts[world.rank]
        # A block has a head before its words.
        self._lengths = [part.size + len(part.blocks) for part in parts]
        self._own_words = slice(own.where.start + own.rows.start, own.where.stop + own.rows.stop)
        self._words = np.zeros(sum(self._lengths), np.uint16)
        self._received = np.zeros((world.size, self._lengths[world.rank]), np.uint16)
        self._total = np.zeros(own.size, np.float32)
        self.residual, self.residual_of_sum = np.zeros(model.num_parameters, np.float32), np.zeros_like(self._total)

    def finish(self) -> None:
        """Sum over all ranks, in place."""
        if self.world.size > 1:
            self._sum_parts(cast("Float32", self.model.gradient_sums))

    def _sum_parts(self, sums: Float32) -> None:
        world, words, half, own = self.world, self._words, self.half, self._own
        compress(sums, self.residual, self.blocks, half, words)
        lengths_to_me = [self._lengths[world.rank]] * world.size
        with world.collective("gradients in 16 bits", words.nbytes):
            world.comm.Alltoallv([words, self._lengths], [self._received, lengths_to_me])
        expand_sum(self._received, own.blocks, half, self._total)
        compress(self._total, self.residual_of_sum, own.blocks, half, words[self._own_words])
        with world.collective("sum of gradients in 16 bits", words.nbytes):
            world.comm.Allgatherv(MPI.IN_PLACE, [words, self._lengths])
        expand_sum(words[np.newaxis], self.blocks, half, sums)

    def warm_up(self) -> None:
        """Compile the kernels."""
        compress(self._total[:0], self._total[:0], self.blocks[:0], self.half, self._words[:0])
        expand_sum(self._words[np.newaxis, :0], self.blocks[:0], self.half, self._total[:0])
