"""The update that all ranks make of the same parameters by the same gradient, and the memory that it needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from ddp.comm.reducers import Reducer, build_reducer
from ddp.comm.world import World
from ddp.config import Config
from ddp.global_gradient import GlobalGradient
from ddp.kernels.types import Float32, Float64
from ddp.kernels.update import make_blocks
from ddp.observe.timers import PhaseTimers
from ddp.optim import Optimizer, build_optimizer, norm, num_states, tensor_norms
from ddp.replicas import ReplicaCheck

CLIP_EPSILON = 1e-6
"""Added to the norm that is to be clipped, as torch.nn.utils.clip_grad_norm_ does."""


class SharedUpdate:
    """A reducer, and the optimizer of the part of the parameters that it gives to this rank.

    Attributes:
        rung: the reducer's name.
        reducer: what sums over the ranks, and gives all of them all parameters.
        optimizer: of this rank's part.
        replicas: compares the ranks' parameters.
    """

    rung: str
    reducer: Reducer
    optimizer: Optimizer
    replicas: ReplicaCheck

    def __init__(self, config: Config, world: World, gradient: GlobalGradient) -> None:
        """Take what is updated; `use` must say how, before anything else."""
        self.config, self.world, self.gradient, self.model = config, world, gradient, gradient.model
        self.blocks = make_blocks(self.model.parameter_slices.values())
        self.is_weight = np.array([len(spec.shape) > 1 for spec in self.model.specs.values()])
        self.agreed_step = 0

    def use(self, rung: str) -> None:
        """Sum and update by a rung of the ladder from now on; the optimizer keeps its state; collective."""
        state = None
        if hasattr(self, "reducer"):
            state = {name: whole.copy() for name, whole in self.state().items()}
            self.agreed_step = self.replicas.agreed_step
            self.reducer.close()
        self.rung = rung
        comm = dataclasses.replace(self.config.comm, reducer=rung)  # type: ignore[arg-type]
        buffers = comm, self.world, self.model, self.blocks
        self.reducer = self.gradient.reducer = build_reducer(*buffers, num_states(self.config.optimizer))
        self.optimizer = build_optimizer(self.config.optimizer, *self.reducer.mine(), self.is_weight)
        if state is not None:
            self.take_state(state)
        every = self.config.comm.check_every if self.reducer.communicates else 0
        self.replicas = ReplicaCheck(self.world, every, self.model, self.optimizer, self.gradient.scales)
        self.replicas.agreed_step = self.agreed_step

    def warm_up(self) -> None:
        """Compile what `step` needs; no rank waits for another."""
        self.optimizer.warm_up()
        self.reducer.warm_up()

    def step(self, number: int, lr: float, factor: float, timers: PhaseTimers) -> float:
        """Update all parameters by the last gradient; collective.

        Args:
            number: of the step, counted from 0.
            lr: the learning rate.
            factor: what the sums are multiplied by: 1 / samples for the mean loss.
            timers: where the time goes.

        Returns:
            The norm of the gradient, before it was clipped.
        """
        scales, clip = self.gradient.scaled_by(factor), self.config.optimizer.clip_norm
        self.optimizer.steps = number
        squares = None
        if clip:
            squares = self._squares(scales, timers)
            scales *= min(1, clip / (norm(squares[1]) + CLIP_EPSILON))
        norms = self._tensor_norms(scales, clip > 0, timers) if self.optimizer.is_layerwise else None
        with timers.phase("update"):
            self.optimizer.step(lr, scales, clip > 0, norms)
        with timers.phase("comm"):
            everyones = self.reducer.publish(squares[0] if squares else self.optimizer.squares)
        return norm(everyones)

    def _squares(self, scales: Float32, timers: PhaseTimers) -> tuple[Float64, Float64]:
        """Of the gradient, before the update: those of this rank's blocks, and of all."""
        with timers.phase("update"):
            mine = self.optimizer.add_up(scales).copy()  # the update overwrites them by those of the clipped gradient
        with timers.phase("comm"):
            return mine, self.reducer.gather_squares(mine)

    def _tensor_norms(self, scales: Float32, added_up: bool, timers: PhaseTimers) -> Float64:
        """(T, 2) of whole tensors, which a layer-wise optimizer must know; the same bits on all ranks."""
        with timers.phase("update"):
            mine = self.optimizer.measure(scales, added_up)
        with timers.phase("comm"):
            return tensor_norms(self.reducer.gather_squares(mine), self.blocks, len(scales))

    def state(self) -> dict[str, Float32]:
        """The optimizer's buffers, each whole, by name; collective."""
        state = enumerate(self.optimizer.state.items())
        return {name: self.reducer.whole(number, buffer) for number, (name, buffer) in state}

    def take_state(self, state: Mapping[str, Float32]) -> None:
        """Continue from whole buffers of the optimizer's state."""
        for name, buffer in self.optimizer.state.items():
            self.reducer.take(buffer, state[name])
