"""What lets a run go on after it has ended early: checkpoints, and the way out when it is asked to stop."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import numpy as np

from ddp.checkpoint import Checkpoint, check_same_run, load_checkpoint, save_model
from ddp.checkpoint_writer import CheckpointWriter
from ddp.comm.failure import Interrupted
from ddp.comm.signals import signal_name
from ddp.comm.world import World
from ddp.config import Config
from ddp.observe.metrics import MetricsLog
from ddp.run_directory import RunDirectory
from ddp.shared_update import SharedUpdate


class Recovery:
    """Checkpoints of one run; every rank has it, the one with the run's directory writes.

    Attributes:
        writer: of the one rank that writes; None on the others, and on all where nothing is to be written.
    """

    def __init__(self, config: Config, world: World, update: SharedUpdate, data_checksum: str) -> None:
        """Take what a checkpoint holds; nothing is written before `use_outputs`."""
        self.config, self.world, self.update, self.data_checksum = config, world, update, data_checksum
        self.model, self.scales = update.model, update.gradient.scales
        self.writer: CheckpointWriter | None = None

    def use_outputs(self, run: RunDirectory | None, metrics: MetricsLog) -> None:
        """Say where to write, and where to tell of it."""
        self.run, self.metrics = run, metrics
        self.writer = None
        if run is not None:
            self.writer = CheckpointWriter(run.checkpoints, self.config, self.data_checksum, self.model, self.scales)

    @property
    def has_failed(self) -> bool:
        """Whether a checkpoint could not be written, as far as this rank knows."""
        return self.writer is not None and self.writer.error is not None

    def checkpoint(self, step: int, evaluated: bool) -> None:
        """Let the one rank begin to write a checkpoint; the others go on at once; collective.

        Args:
            step: SGD steps done.
            evaluated: see `Checkpoint`.
        """
        state = self.update.state()
        if self.writer is not None:
            self.writer.begin(step, state, evaluated=evaluated)
            self.log_written()

    def log_written(self) -> None:
        """Record the checkpoints that have been written since the last call."""
        if self.writer is not None and self.run is not None:
            for step, path in self.writer.take_written():
                self.metrics.write("checkpoint", path=str(path.relative_to(self.run.path)), step=step)

    def finish(self) -> None:
        """Wait for the checkpoints, and write the final parameters; on the one rank.

        Raises:
            OSError: if a file could not be written; says which and why.
        """
        if self.writer is not None and self.run is not None:
            self.writer.finish()
            self.log_written()
            save_model(self.run.model, self.model.state_dict(), self.model.parameter_dict())

    def stop(self, step: int, signal: int, evaluated: bool) -> NoReturn:
        """Write a checkpoint of the present step, unless there is one, and end the run on all ranks.

        Raises:
            Interrupted: on all ranks.
            UserError: on all ranks, if the checkpoint could not be written.
        """

        def finish() -> int | None:
            """Write what was begun; the newest step of which there is a checkpoint, -1 for none."""
            if self.writer is None:
                return None
            self.writer.finish()
            self.log_written()
            return self.writer.newest_step

        newest = self.world.run_on_root(finish)
        if newest is not None and newest != step:
            self.checkpoint(step, evaluated)
            newest = self.world.run_on_root(finish)
        lost = f"no run directory, so step {step} is lost"
        saved = lost if newest is None else f"checkpoint of step {newest} saved"
        raise Interrupted(f"interrupted by {signal_name(signal)}: {saved}")

    def resume(self, path: Path) -> Checkpoint:
        """Continue from a checkpoint, made on any number of ranks: parameters, optimizer's state and scales are set.

        Raises:
            CheckpointError: if it is damaged, or of a run that would have computed other numbers.
        """
        checkpoint = load_checkpoint(path)
        check_same_run(checkpoint, self.config, self.data_checksum, path)
        self.model.load_state_dict(checkpoint.parameters)
        state = {name: np.zeros_like(self.model.parameters) for name in self.update.optimizer.state}
        for name, whole in state.items():
            self.model.from_state(checkpoint.optimizer.get(name, {}), whole)
        self.update.take_state(state)
        self.scales.set_exponents(checkpoint.exponents)
        return checkpoint
