"""Runs mpirun as a child, passes signals on to it, and leaves no rank behind.

mpirun and its ranks get a session of their own, so that a Ctrl-C in the terminal reaches them once, through
the launcher. Open MPI puts each rank into a process group of its own but leaves it in mpirun's session, and
its ranks outlive an mpirun that was killed: they are ended by their session. MPICH's ranks have sessions of
their own, and its proxy ends them as soon as mpirun is gone. What other hosts still run is for `launch.cleanup`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Literal, Protocol

from launch.cleanup import end_session
from launch.event_loop import EventLoop

GRACE_S = 5.0
"""How long ranks may take to end after the first SIGINT, SIGTERM or SIGHUP, in seconds."""

DRAIN_S = 2.0
"""How long output is read on after mpirun's end: a process that it left behind may hold the pipe open for ever."""

EXIT_RESUMABLE = 75
"""The exit code of a job that has written a checkpoint because a signal asked it to."""

CHUNK = 1 << 16
"""Bytes that are read at once: all that a pipe holds, so that no mark of a rank is cut without need."""

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Stream = Literal["stdout", "stderr"]


@dataclass(frozen=True)
class Ended:
    """How a job ended."""

    code: int
    was_signalled: bool
    """Whether a signal came to this process, or its time was over: then the end is wanted, whatever the code."""
    stopped_by: int | None = None
    """The first signal that asked for the end."""
    timed_out: bool = False
    """Whether its time was over."""
    killed_by: int | None = None
    """The signal that ended mpirun itself, if one did."""


class Monitor(Protocol):
    """Takes what mpirun and its ranks write, and may call the job failed."""

    def begin(self, loop: EventLoop, fail: Callable[[float], None]) -> None:
        """The command is about to run: wait in `loop` for whatever else there is.

        Args:
            loop: the event loop of the supervision.
            fail: to be called when a rank has failed, with the seconds that mpirun has to end all the others.
        """

    def read(self, stream: Stream, data: bytes) -> None:
        """Take what came through a pipe; nothing (`b""`) at its end."""


def run(
    command: Sequence[str],
    environment: Mapping[str, str],
    grace_s: float = GRACE_S,
    output: IO[bytes] | None = None,
    errors: IO[bytes] | None = None,
) -> int:
    """As `watch`, for a command that needs no time for a checkpoint; the exit code."""
    return watch(command, environment, grace_s, output=output, errors=errors).code


def watch(
    command: Sequence[str],
    environment: Mapping[str, str],
    grace_s: float = GRACE_S,
    checkpoint_s: float | None = None,
    output: IO[bytes] | None = None,
    errors: IO[bytes] | None = None,
    timeout_s: float | None = None,
    monitor: Monitor | None = None,
) -> Ended:
    """Run `command` to its end in this environment; without a monitor its output is not touched.

    A child killed by signal n counts as exit code 128 + n. SIGINT, SIGTERM and SIGHUP are passed on; what still
    runs `grace_s` seconds later, or at the second such signal, is killed, and 128 plus the first signal is
    the code, unless the child ended with 0 or EXIT_RESUMABLE all the same. SIGUSR1 is passed on and nothing else.
    While it runs, the handlers of these signals and the wake-up descriptor of this process are in use;
    call it from the main thread.

    Args:
        command: mpirun and its arguments.
        environment: all of it.
        grace_s: how long the ranks may take to end.
        checkpoint_s: if given, SIGTERM is passed on as SIGUSR1, and the ranks have so many seconds more: Open MPI's
            mpirun kills them 0.25 s after a SIGTERM, and every mpirun passes SIGUSR1 on without a limit.
        output: where its standard output goes; default: where the launcher's own does.
        errors: the same of its standard error.
        timeout_s: after so many seconds it is as if a SIGTERM had come.
        monitor: gets output and errors instead.

    Raises:
        OSError: if the command cannot be started.
    """
    with contextlib.closing(EventLoop()) as loop, _caught() as signals:
        job = _Job(loop, grace_s, checkpoint_s)
        if monitor is not None:
            monitor.begin(loop, job.fail)
        child = subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output if monitor is None else subprocess.PIPE,
            stderr=errors if monitor is None else subprocess.PIPE,
            start_new_session=True,
        )
        with child, job.killed_on_error():
            job.started(child, monitor)
            # What came while the child was being made has waited in the pipe: it may signal us before Popen returns.
            loop.on_readable(signals, lambda: job.signalled(_numbers(signals)))
            if timeout_s is not None:
                loop.after(timeout_s, job.time_is_over)
            loop.run(lambda: job.is_over)
            job.signalled(_numbers(signals))
    return job.ended()


class _Job:
    """mpirun while it runs, and what a signal to the launcher does to it."""

    def __init__(self, loop: EventLoop, grace_s: float, checkpoint_s: float | None) -> None:
        self.loop, self.grace_s, self.checkpoint_s = loop, grace_s, checkpoint_s
        self.child: subprocess.Popen[bytes] | None = None
        self.code: int | None = None
        self.pipes: set[Stream] = set()
        self.has_drained = False
        self.stopped_by: int | None = None
        self.was_signalled = self.timed_out = False

    @property
    def is_over(self) -> bool:
        return self.code is not None and (not self.pipes or self.has_drained)

    def started(self, child: subprocess.Popen[bytes], monitor: Monitor | None) -> None:
        self.child = child
        process = os.pidfd_open(child.pid)
        self.loop.on_readable(process, lambda: self._has_ended(process))
        if monitor is not None:
            self._read("stdout", child.stdout, monitor)
            self._read("stderr", child.stderr, monitor)

    def _read(self, stream: Stream, pipe: IO[bytes] | None, monitor: Monitor) -> None:
        assert pipe is not None
        file = pipe.fileno()
        self.pipes.add(stream)

        def read() -> None:
            data = os.read(file, CHUNK)
            monitor.read(stream, data)
            if not data:
                self.loop.forget(file)
                self.pipes.discard(stream)

        self.loop.on_readable(file, read)

    def _has_ended(self, process: int) -> None:
        assert self.child is not None
        self.loop.forget(process)
        os.close(process)
        self.code = self.child.wait()
        end_session(self.child.pid)
        self.loop.after(DRAIN_S, self._drained)

    def _drained(self) -> None:
        self.has_drained = True

    def signalled(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self.was_signalled = True
            if number in STOPPING:
                self.stop(number)
            else:
                self._send(number)

    def stop(self, number: int) -> None:
        if self.stopped_by is not None:
            self.kill()
            return
        self.stopped_by = number
        if number == signal.SIGTERM and self.checkpoint_s is not None:
            self.loop.after(self.checkpoint_s + self.grace_s, self.kill)
            self._send(signal.SIGUSR1)
        else:
            self.loop.after(self.grace_s, self.kill)
            self._send(number)

    def time_is_over(self) -> None:
        if self.code is None and self.stopped_by is None:
            self.was_signalled = self.timed_out = True
            self.stop(signal.SIGTERM)

    def fail(self, patience_s: float) -> None:
        self.loop.after(patience_s, self.kill)

    def _send(self, number: int) -> None:
        if self.child is not None and self.code is None:
            os.kill(self.child.pid, number)

    def kill(self) -> None:
        if self.child is not None and self.code is None:
            os.killpg(self.child.pid, signal.SIGKILL)

    @contextlib.contextmanager
    def killed_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.kill()
            raise

    def ended(self) -> Ended:
        assert self.code is not None
        code = self.code if self.code >= 0 else 128 - self.code
        if self.stopped_by is not None and code not in (0, EXIT_RESUMABLE):
            code = 128 + self.stopped_by
        killed_by = -self.code if self.code < 0 else None
        return Ended(code, self.was_signalled, self.stopped_by, self.timed_out, killed_by)


@contextlib.contextmanager
def _caught() -> Iterator[int]:
    """Catch the signals that are passed on; the descriptor from which their numbers can be read."""
    caught = [*STOPPING, signal.SIGUSR1]
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # nohup's way to let a job outlive its terminal
        caught.remove(signal.SIGHUP)
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    # Ctrl-Z does nothing: ranks that hear nothing of a launcher that is stopped would take it for dead.
    previous = {number: signal.signal(number, lambda *_: None) for number in [*caught, signal.SIGTSTP]}
    try:
        yield reading
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        os.close(reading)
        os.close(writing)


def _numbers(pipe: int) -> list[int]:
    """The signals that have come and are ours; other handlers of this process write theirs there too."""
    try:
        return [number for number in os.read(pipe, CHUNK) if number in (*STOPPING, signal.SIGUSR1)]
    except BlockingIOError:
        return []
