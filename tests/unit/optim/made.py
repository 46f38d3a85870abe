"""A small model's flat buffers, and gradients of a hundred steps: what the optimizers are compared on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from ddp.kernels.types import Addends, Float32, Float64, Int64
from ddp.kernels.update import make_blocks
from ddp.optim import Optimizer

STEPS, SAMPLES = 100, 8
SLICES = [slice(0, 20_000), slice(20_000, 20_100), slice(20_100, 20_900), slice(20_900, 20_908)]
"""Weights of two blocks, biases, weights, biases."""
IS_WEIGHT = np.array([True, False, True, False])
SIZE = SLICES[-1].stop


def rate(step: int, lr: float) -> float:
    """A learning rate that warms up and falls."""
    return lr * min(1.0, (step + 1) / 10) * (1 - step / (2 * STEPS))


@dataclass
class Made:
    """Buffers, and the state of the generator of the gradients."""

    parameters: Float32 = field(default_factory=lambda: np.zeros(SIZE, np.float32))
    sums: Float32 = field(default_factory=lambda: np.zeros(SIZE, np.float32))
    blocks: Int64 = field(default_factory=lambda: make_blocks(SLICES))

    def __post_init__(self) -> None:
        generator = np.random.default_rng(3)
        for where, size in zip(SLICES, (0.3, 0.1, 2.0, 0.5), strict=True):
            self.parameters[where] = size * generator.standard_normal(where.stop - where.start)

    @property
    def addends(self) -> Addends:
        return Addends(self.sums[np.newaxis])

    def gradients(self) -> Iterator[Float32]:
        """Those of the mean loss: a pull to somewhere else, and noise; tensors of unlike sizes."""
        generator = np.random.default_rng(5)
        goal = generator.standard_normal(SIZE)
        for _ in range(STEPS):
            g = 0.1 * (self.parameters - goal) + 0.3 * generator.standard_normal(SIZE)
            for where, size in zip(SLICES, (1.0, 10.0, 0.01, 1.0), strict=True):
                g[where] *= size
            yield g.astype(np.float32)

    def compare(self, optimizer: Optimizer, lr: float, update: Callable[[int, Float32], Float64]) -> None:
        """Train, and compare the parameters of each step with those of an update in other arithmetic.

        Args:
            optimizer: of these buffers.
            lr: before `rate`.
            update: given the step and the gradient, the parameters after it.
        """
        start = self.parameters.copy()
        for step, g in enumerate(self.gradients()):
            self.sums[:] = SAMPLES * g
            optimizer.step(rate(step, lr), 1 / SAMPLES)
            expected = update(step, g)
            assert np.abs(self.parameters - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())
        for where in SLICES:  # a tensor that hardly moved would prove nothing
            assert np.linalg.norm((self.parameters - start)[where]) > 1e-3 * np.linalg.norm(start[where])
