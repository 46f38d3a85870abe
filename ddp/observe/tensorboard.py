"""The events of a run as TensorBoard's files. Needs tensorboardX (the extra `tensorboard`)."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

FLUSH_S = 10
"""So many seconds later at the latest an event is in the file."""
PLACES = frozenset({"step", "epoch", "samples", "slowest_rank"})
"""Numbers that say where something was measured, and are no curves."""
GUARDED = "guarded"
"""Prefix of the paths that tensorboardX is to open by `_Factory`."""


class TensorBoard:
    """Writes the numbers of `step` and `eval` events; a listener of the event log.

    `train/...` and `speed/...` are of steps, `test/...` of evaluations; the horizontal axis is the step. Where the
    file can no longer be written, as on a full disk, one warning says so, and training goes on without it.
    """

    def __init__(self, folder: Path, resume_step: int | None) -> None:
        """Begin a file.

        Args:
            folder: where; TensorBoard calls the run by its name.
            resume_step: where the run goes on; what was written of later steps is then not shown. None for a new run.

        Raises:
            ValueError: if tensorboardX is not installed.
        """
        try:
            from tensorboardX import SummaryWriter
            from tensorboardX.proto.summary_pb2 import Summary
            from tensorboardX.record_writer import register_writer_factory
        except ImportError:
            raise ValueError(
                "output.tensorboard = true: needs tensorboardX, which is not installed;"
                " pip install 'ddp-sgd[tensorboard]'"
            ) from None
        purge_step = None if resume_step is None else resume_step + 1
        self._summary = Summary
        register_writer_factory(GUARDED, _Factory())
        self._writer = SummaryWriter(f"{GUARDED}:{folder}", purge_step=purge_step, flush_secs=FLUSH_S)

    def write(self, event: str, fields: Mapping[str, Any]) -> None:
        """Write an event's numbers, but for those that are not finite."""
        if event in ("step", "eval"):
            numbers = [
                self._summary.Value(tag=f"{_group(event, name)}/{name}", simple_value=value)
                for name, value in fields.items()
                if isinstance(value, int | float) and name not in PLACES
            ]
            # All in one: by `add_scalar`, one by one, they take five times as long.
            self._writer.file_writer.add_summary(self._summary(value=numbers), fields["step"])

    def close(self) -> None:
        """Write what remains."""
        self._writer.close()


class _Factory:
    """What tensorboardX calls for files, in its own thread, where nobody could catch an error."""

    def open(self, path: str) -> _GuardedFile:
        return _GuardedFile(Path(path.removeprefix(f"{GUARDED}:")))

    def directory_check(self, path: str) -> None:
        """The run directory is there."""


class _GuardedFile:
    """A file that is given up, with a warning, when it cannot be written."""

    def __init__(self, path: Path) -> None:
        self._file, self._failed = open(path, "wb"), False

    def write(self, content: bytes) -> None:
        self._try(lambda: self._file.write(content))

    def flush(self) -> None:
        self._try(self._file.flush)
        self._try(lambda: os.fsync(self._file.fileno()))

    def close(self) -> None:
        self._try(self._file.close)

    def _try(self, action: Callable[[], object]) -> None:
        if self._failed:
            return
        try:
            action()
        except OSError as error:
            self._failed = True
            sys.stderr.write(f"warning: output.tensorboard: cannot write ({error.strerror}); going on without it\n")


def _group(event: str, name: str) -> str:
    if event == "eval":
        return "test"
    return "speed" if name.endswith(("_ms", "_per_s")) else "train"
