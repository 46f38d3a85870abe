"""What a person sees of a run: a live bar on a terminal, plain lines elsewhere, on one rank only."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress


class Progress:
    """Says nothing; the display of every rank but one, and the interface of the others."""

    def message(self, text: str) -> None:
        """Show one line."""

    def step(self, step: int, epoch: int, loss: float, samples_per_s: float) -> None:
        """Show how training stands after `step` steps."""

    def evaluation(self, epoch: int, loss: float, quality: str) -> None:
        """Show the result on the test set after an epoch; `quality` says the accuracy in words."""
        self.message(f"epoch {epoch:3d}  test loss {loss:.4f}  {quality}")

    def close(self) -> None:
        """Leave the terminal as it was."""


class PlainProgress(Progress):
    """Plain lines, few of them of progress; for files, pipes and batch jobs."""

    INTERVAL_S = 2.0
    """Between two lines of progress at the least."""
    MOST_LINES = 20
    """Of progress in a run, however long."""

    def __init__(self, total_steps: int, stream: TextIO) -> None:
        """Take the length of the run, in steps, and where to write."""
        self.total_steps, self.stream = total_steps, stream
        self._first: tuple[float, int] | None = None
        self._last, self._next_step = 0.0, 0.0

    def message(self, text: str) -> None:
        """Write one line."""
        self.stream.write(text + "\n")
        self.stream.flush()

    def step(self, step: int, epoch: int, loss: float, samples_per_s: float) -> None:
        """Write a line, unless the last one was just now."""
        now = time.perf_counter()
        if self._first is None:
            self._first = (now, step)
        if now - self._last < self.INTERVAL_S or step < self._next_step:
            return
        self._last, self._next_step = now, step + self.total_steps / self.MOST_LINES
        started, first_step = self._first
        done = step - first_step
        left = f"{(now - started) / done * (self.total_steps - step):6.0f} s left" if done else ""
        self.message(
            f"epoch {epoch:3d}  step {step:6d}/{self.total_steps}  loss {loss:8.4f}  {samples_per_s:9.0f} samples/s"
            f"  {left}".rstrip()
        )


class TerminalProgress(Progress):
    """A live bar with epoch, loss, accuracy, samples/s and time left."""

    def __init__(self, total_steps: int, width: int | None = None) -> None:
        """Take the length of the run, in steps, and the terminal's width, if it is known, in characters."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress
        from rich.table import Column

        columns = (
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(None, table_column=Column(ratio=1)),  # what the figures leave
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
        )
        console = Console(force_terminal=True, width=width)
        self._bar: RichProgress = RichProgress(
            *columns, console=console, expand=True, redirect_stdout=False, redirect_stderr=False
        )
        self._quality = ""
        self._task = self._bar.add_task("train", total=total_steps, epoch=0, figures="")
        self._bar.start()

    def message(self, text: str) -> None:
        """Print one line above the bar."""
        self._bar.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def step(self, step: int, epoch: int, loss: float, samples_per_s: float) -> None:
        """Move the bar."""
        figures = f"loss {loss:.4f}  {self._quality}{samples_per_s:.0f} samples/s"
        self._bar.update(self._task, completed=step, epoch=epoch, figures=figures)

    def evaluation(self, epoch: int, loss: float, quality: str) -> None:
        """Print the line, and keep the accuracy beside the bar."""
        self._quality = f"{quality.removeprefix('test ')}  "  # a word less, to fit into 80 columns
        super().evaluation(epoch, loss, quality)

    def close(self) -> None:
        """Stop the live display."""
        self._bar.stop()


def build_progress(is_root: bool, total_steps: int, terminal_width: int | None) -> Progress:
    """The display for this rank: a bar on a terminal, lines elsewhere, nothing on the other ranks.

    Args:
        is_root: whether this is the rank that shows.
        total_steps: length of the run.
        terminal_width: of the terminal that shows this rank's output, in characters; None if none does.
    """
    if not is_root:
        return Progress()
    if terminal_width is None:
        return PlainProgress(total_steps, sys.stdout)
    return TerminalProgress(total_steps, terminal_width)
