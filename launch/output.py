"""What the ranks write: taken apart by rank, shown on the terminal, kept in the run directory.

mpirun sends everything through two pipes, with a mark where a rank's output begins. Rank 0's is the program's own and
is shown as it comes, pieces of lines too, for a live display; of the other ranks whole lines are shown, behind the
number of the rank. What a rank writes on stderr from a line `error: ` on is held back, to be shown last.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import re
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from launch.supervise import Stream

LONGEST_MARK = 32
LONGEST_LINE = 1 << 20
EXAMPLES = (b"<rank 0>", b"[1,0]<stdout>:", b"[1,0]<stdout>: ")
"""Marks of those flavours that put them into the middle of lines; `Splitter` recognises by them one that is cut off."""

ERROR = "error: "
HELD = (ERROR, "Traceback (most recent call last):")
"""How the lines begin from which on a rank's stderr is held back."""

ABORT = re.compile(r"-{40,}$|Abort\(\d+\) on node |application called MPI_Abort")
MOST_HELD_LINES = 1000
_CONTROL = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")

Rank = int | None
"""None: mpirun itself."""


class Splitter:
    """Takes one of mpirun's pipes apart by its marks."""

    def __init__(self, pattern: str, whole_lines: bool) -> None:
        """Take what a mark looks like, with a group `rank`, and whether lines come whole."""
        self._pattern = re.compile(pattern.encode())
        self._whole_lines = whole_lines
        self._rest = b""
        self._rank: Rank = None

    def feed(self, data: bytes) -> list[tuple[Rank, bytes]]:
        """The pieces in `data`, each with its rank; no data: the pipe has ended.

        What follows a newline without a mark is mpirun's own. A mark that is cut off at the end waits for its rest.
        """
        text = self._rest + data
        keep = len(text) - self._unfinished(text) if data else len(text)
        text, self._rest = text[:keep], text[keep:]
        pieces: list[tuple[Rank, bytes]] = []
        end = 0
        for mark in self._pattern.finditer(text):
            pieces += self._by_line(text[end : mark.start()])
            self._rank = int(mark["rank"])
            end = mark.end()
        return pieces + self._by_line(text[end:])

    def _by_line(self, text: bytes) -> list[tuple[Rank, bytes]]:
        """A mark holds to the end of its line."""
        line, newline, rest = text.partition(b"\n")
        pieces = [(self._rank, line + newline)] if text else []
        if newline:
            self._rank = None
            pieces += [(None, rest)] if rest else []
        return pieces

    def _unfinished(self, text: bytes) -> int:
        """How many bytes at the end may be the beginning of a mark."""
        line = text[text.rfind(b"\n") + 1 :]
        if self._whole_lines:
            return len(line)
        for length in range(min(LONGEST_MARK, len(line)), 0, -1):
            if any(
                self._pattern.fullmatch(line[-length:] + example[cut:])
                for example in EXAMPLES
                for cut in range(1, len(example))
            ):
                return length
        return 0


class Screen:
    """The launcher's stdout and stderr, written by a thread: a pipe that nobody reads must not stop the launcher."""

    def __init__(self) -> None:
        """Start the thread."""
        self._queue: queue.SimpleQueue[tuple[Stream, bytes] | None] = queue.SimpleQueue()
        self._mid_line: dict[Stream, bool] = {"stdout": False, "stderr": False}
        self._thread = threading.Thread(target=self._write_all, name="screen", daemon=True)
        self._thread.start()

    def write(self, stream: Stream, data: bytes) -> None:
        """Show a piece as it is."""
        if data:
            self._queue.put((stream, data))
            self._mid_line[stream] = not data.endswith((b"\n", b"\r"))

    def line(self, stream: Stream, line: bytes) -> None:
        """Show a whole line, below whatever there is of another one."""
        self.write(stream, (b"\n" if self._mid_line[stream] else b"") + line.rstrip(b"\r\n") + b"\n")

    def close(self) -> None:
        """Wait until all is shown."""
        self._queue.put(None)
        self._thread.join()

    def _write_all(self) -> None:
        streams = {"stdout": sys.stdout, "stderr": sys.stderr}
        while (item := self._queue.get()) is not None:
            with contextlib.suppress(OSError, ValueError):  # whoever was to read it has gone
                file = streams[item[0]]
                file.flush()
                file.buffer.write(item[1])
                file.buffer.flush()


class Logs:
    """`logs/rank-NNNNN.log` and `logs/launcher.log` of a run, once it has a directory; open only in passing."""

    def __init__(self, run: Path | None) -> None:
        """Take the run directory; None: keep nothing."""
        self._run, self.folder = run, (run or Path(os.devnull)) / "logs"
        self._waiting: defaultdict[Rank, list[bytes]] = defaultdict(list)

    def add(self, rank: Rank, line: bytes) -> None:
        """Keep a line, as a person would have seen it in the end: without what was overwritten."""
        shown = _CONTROL.sub(b"", line.rstrip(b"\r\n").rpartition(b"\r")[2])
        self._waiting[rank].append(shown.rstrip() + b"\n")

    def write(self, make_directory: bool = False) -> None:
        """Append what has come to the files; without a run directory it goes on waiting, unless that is to be made."""
        if not self._waiting or self._run is None or not (make_directory or self._run.is_dir()):
            return
        with contextlib.suppress(OSError):  # a full disk is for the trainer to tell
            self.folder.mkdir(parents=True, exist_ok=True)
            for rank, lines in self._waiting.items():
                name = "launcher.log" if rank is None else f"rank-{rank:05d}.log"
                with (self.folder / name).open("ab") as file:
                    file.write(b"".join(lines))
        self._waiting.clear()


@dataclass
class Block:
    """What a rank wrote on stderr from its first line `error: ` or `Traceback` on."""

    rank: int
    lines: list[str] = field(default_factory=list)

    @property
    def is_error(self) -> bool:
        """Whether it says in its first line what the error is."""
        return self.lines[0].startswith(ERROR)

    @property
    def text(self) -> str:
        """All of it, but for what the MPI library says about the abort that follows."""
        ours = itertools.takewhile(lambda line: not ABORT.match(line), self.lines)
        return "\n".join(ours).rstrip()


class Output:
    """Takes both pipes of mpirun, and passes on what is in them."""

    def __init__(self, pattern: str, whole_lines: bool, screen: Screen, logs: Logs) -> None:
        """Take the flavour's mark, and where lines go."""
        self.screen, self.logs = screen, logs
        self.blocks: dict[int, Block] = {}
        """By rank, in the order in which they began."""
        self.on_words: Callable[[Rank, str], object] = lambda _rank, _line: None
        """Gets each line of a rank's stderr, and each of mpirun's own, with None."""
        self._splitters = {name: Splitter(pattern, whole_lines) for name in ("stdout", "stderr")}
        self._lines: defaultdict[tuple[Stream, Rank], bytes] = defaultdict(bytes)
        self._shown: dict[Stream, int] = {"stdout": 0, "stderr": 0}
        self._own: deque[tuple[float, bytes]] = deque()

    def feed(self, stream: Stream, data: bytes) -> None:
        """Take what came through a pipe; nothing at its end."""
        for rank, piece in self._splitters[stream].feed(data):
            self._take(stream, rank, piece)
        if not data:
            for of, rank in [key for key, text in self._lines.items() if text and key[0] == stream]:
                self._finish(of, rank, self._lines.pop((of, rank)))

    def _take(self, stream: Stream, rank: Rank, piece: bytes) -> None:
        if stream == "stderr":
            piece = piece.replace(b"\0", b"")  # Open MPI 5 ends its messages so
        key = stream, rank
        *whole, rest = (self._lines[key] + piece).split(b"\n")
        for line in whole:
            self._finish(stream, rank, line + b"\n")
        self._lines[key] = rest
        if rank == 0:
            self._show_unfinished(stream, rest)
        if rank != 0 or self._shown[stream] == len(rest):
            self._forget_overwritten(stream, rank)

    def _show_unfinished(self, stream: Stream, text: bytes) -> None:
        """Show what there is of a line of rank 0's, unless it may have to be held back."""
        is_held = 0 in self.blocks or any(start.encode().startswith(text[: len(start)]) for start in HELD)
        if stream == "stdout" or not is_held:
            self.screen.write(stream, text[self._shown[stream] :])
            self._shown[stream] = len(text)

    def _forget_overwritten(self, stream: Stream, rank: Rank) -> None:
        """Keep of an unfinished line what is to be seen now: a live display goes on for hours without a newline."""
        text = self._lines[stream, rank]
        cut = max(text.rfind(b"\r", 0, -1), len(text) - LONGEST_LINE, 0)
        self._lines[stream, rank] = text[cut:]
        if rank == 0:
            self._shown[stream] -= cut

    def _finish(self, stream: Stream, rank: Rank, line: bytes) -> None:
        """Pass on a whole line, or the end of the last one."""
        shown, self._shown[stream] = (self._shown[stream], 0) if rank == 0 else (0, self._shown[stream])
        if line.strip() or (rank == 0 and stream == "stdout"):
            self.logs.add(rank, line)
        if rank is None:
            self._finish_own(line)
        elif stream == "stderr" and self._holds(rank, line.decode(errors="replace").rstrip()):
            pass
        elif rank == 0:
            self.screen.write(stream, line[shown:])
        elif line.strip():
            self.screen.line(stream, f"[{rank}] ".encode() + line)

    def show_own(self, older_than_s: float = 0.0) -> None:
        """Show what mpirun itself has said, but for what is younger: that may be about an end which we tell better."""
        while self._own and self._own[0][0] <= time.monotonic() - older_than_s:
            self.screen.line("stderr", self._own.popleft()[1])

    def _finish_own(self, line: bytes) -> None:
        self._own.append((time.monotonic(), line))
        self.on_words(None, line.decode(errors="replace").rstrip())

    def _holds(self, rank: int, line: str) -> bool:
        self.on_words(rank, line)
        if rank not in self.blocks and not line.startswith(HELD):
            return False
        block = self.blocks.setdefault(rank, Block(rank))
        if len(block.lines) < MOST_HELD_LINES:
            block.lines.append(line)
        return True


def first_block(blocks: Iterable[Block]) -> Block | None:
    """The one to show: of those that name an error the first, else the first traceback."""
    return min(blocks, key=lambda block: not block.is_error, default=None)
