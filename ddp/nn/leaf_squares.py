"""The sums of the squares of the logical shards' gradients: for the gradient noise scale.

The backward pass adds the shards up in registers, so their gradients are nowhere to be found. Where they are wanted,
each layer computes its parameters' gradients once more, shard by shard, while what it needs is still there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ddp.kernels.jit import MOST_THREADS
from ddp.kernels.types import Float32, Float64, Int64
from ddp.kernels.update import LANES, add_up, make_blocks
from ddp.nn.sequential import Sequential


class LeafSquares:
    """Listens to a network's backward pass, whose results stay as they are."""

    def __init__(self, model: Sequential) -> None:
        """Take the network, and make room for one shard's gradient."""
        self.model = model
        self._leaf = np.zeros_like(model.gradient_sums)
        blocks = make_blocks(model.parameter_slices.values())
        owners = np.array([int(name.split(".")[0]) for name in model.parameter_slices], np.int64)
        self._blocks = [blocks[owners[blocks[:, 2]] == index] for index in range(len(model.layers))]
        self._largest = np.zeros(MOST_THREADS, np.int64)  # in place of the tensors' own, which is left alone
        self._lanes, self._of_blocks = np.zeros((len(blocks), LANES)), np.zeros(len(blocks))

    def listener(self, shards: Int64, inverses: Float32, squares: Float64) -> Callable[[int, Float32], None]:
        """What a network's `on_backward` is to be in one pass.

        Args:
            shards: (S + 1,) where each logical shard of the batch begins, and the end.
            inverses: (T,) what the sums of each tensor are multiplied by to give the gradient.
            squares: (S,) to which each shard's sum of squares is added, layer by layer.
        """

        def measure(index: int, dy: Float32) -> None:
            blocks, layer = self._blocks[index], self.model.layers[index]
            if not len(blocks):
                return
            tensors = self.model.tensors(index, self._leaf).items()
            layer.bind({name: replace(tensor, largest=self._largest) for name, tensor in tensors})
            of_blocks = self._of_blocks[: len(blocks)]
            for number in np.flatnonzero(np.diff(shards)).tolist():
                layer.backward_shard(dy, shards, number)
                add_up(self._leaf[np.newaxis], 0, 0, blocks, inverses, self._lanes, of_blocks)
                squares[number] += math.fsum(of_blocks)
            layer.bind(self.model.tensors(index, self.model.gradient_sums))

        return measure
