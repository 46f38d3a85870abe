"""The events of a run as TensorBoard's files. Needs tensorboardX (the extra `tensorboard`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

FLUSH_S = 10
"""So many seconds later at the latest an event is in the file."""
PLACES = frozenset({"step", "epoch", "samples", "slowest_rank"})
"""Numbers that say where something was measured, and are no curves."""


class TensorBoard:
    """Writes the numbers of `step` and `eval` events; a listener of the event log.

    `train/...` and `speed/...` are of steps, `test/...` of evaluations; the horizontal axis is the step.
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
        except ImportError:
            raise ValueError(
                "output.tensorboard = true: needs tensorboardX, which is not installed;"
                " pip install 'ddp-sgd[tensorboard]'"
            ) from None
        purge_step = None if resume_step is None else resume_step + 1
        self._summary = Summary
        self._writer = SummaryWriter(str(folder), purge_step=purge_step, flush_secs=FLUSH_S)

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


def _group(event: str, name: str) -> str:
    if event == "eval":
        return "test"
    return "speed" if name.endswith(("_ms", "_per_s")) else "train"
