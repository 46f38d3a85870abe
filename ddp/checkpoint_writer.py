"""Checkpoints written beside training: the run waits for a copy of the buffers, a thread does the rest."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ddp.checkpoint import Checkpoint, StateDict, checkpoint_path, delete_old_checkpoints, save_checkpoint
from ddp.config import Config, to_dict
from ddp.fixed_point import FloatScales
from ddp.kernels.types import Float32, Int64
from ddp.nn import Sequential


class CheckpointWriter:
    """Writes the checkpoints of one run, on the one rank that has its directory.

    One checkpoint is in the making at a time: the next waits for it. Its memory is that of one more copy of
    the parameters and of the optimizer's state.

    Attributes:
        newest_step: the step of the newest checkpoint that was begun; -1 before the first.
        error: why the last one could not be written; from then on nothing more is.
    """

    def __init__(
        self,
        directory: Path,
        config: Config,
        data_checksum: str,
        model: Sequential,
        scales: FloatScales,
    ) -> None:
        """Take where to write, and what; nothing is written yet."""
        self.directory, self.keep = directory, config.checkpoint.keep
        self.config, self.data_checksum = to_dict(config), data_checksum
        self.model, self.scales = model, scales
        self.newest_step = -1
        self.error: BaseException | None = None
        self._copies: dict[str, Float32] = {}
        self._thread: threading.Thread | None = None
        self._written: list[tuple[int, Path]] = []

    def begin(self, step: int, state: Mapping[str, Float32], evaluated: bool) -> None:
        """Copy the present state, and let a thread write it; waits for the checkpoint before this one.

        Args:
            step: SGD steps done.
            state: the optimizer's, by name, each laid out like all parameters.
            evaluated: see `Checkpoint`.
        """
        self._join()
        if self.error is not None:
            return
        self.newest_step = step
        self._copy("parameters", self.model.parameters)
        for name, buffer in state.items():
            self._copy(f"optimizer.{name}", buffer)
        layers = enumerate(self.model.layers)
        buffers = {f"{i}.{name}": buffer.copy() for i, layer in layers for name, buffer in layer.buffers().items()}
        # Not a daemon: where the run ends by itself, the interpreter waits until the file is there.
        self._thread = threading.Thread(
            target=self._write,
            args=(step, list(state), evaluated, buffers, self.scales.exponents.copy()),
            name="checkpoint",
        )
        self._thread.start()

    def finish(self) -> None:
        """Wait until all that was begun is written.

        Raises:
            OSError: if a checkpoint could not be written; says which file and why.
        """
        self._join()
        if isinstance(self.error, OSError):
            path = checkpoint_path(self.directory, self.newest_step)
            raise OSError(
                f"checkpoint {path}: cannot be written ({self.error.strerror or self.error}); make room, or choose"
                " another place with --output.dir; the checkpoints before it are there"
            ) from None
        if self.error is not None:
            raise self.error

    def take_written(self) -> list[tuple[int, Path]]:
        """Step and path of each checkpoint that was written since the last call."""
        written = []
        while self._written:
            written.append(self._written.pop(0))
        return written

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _copy(self, name: str, buffer: Float32) -> None:
        copy = self._copies.setdefault(name, np.empty_like(buffer))
        np.copyto(copy, buffer)

    def _write(self, step: int, names: list[str], evaluated: bool, buffers: StateDict, exponents: Int64) -> None:
        try:
            parameters = self.model.to_state(self._copies["parameters"])
            state = {name: self.model.to_state(self._copies[f"optimizer.{name}"]) for name in names}
            path = checkpoint_path(self.directory, step)
            everything = {**parameters, **buffers}
            state_of_run = self.config, self.data_checksum, everything, state, evaluated, exponents
            save_checkpoint(path, Checkpoint(step, *state_of_run))
            delete_old_checkpoints(self.directory, self.keep, path)
            self._written.append((step, path))
        except BaseException as error:  # told by `finish`
            self.error = error
