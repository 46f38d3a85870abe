"""One start of a job under supervision: its processes, its output, its heartbeat, and what became of it."""

from __future__ import annotations

import secrets
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from launch import cleanup
from launch.event_loop import EventLoop
from launch.flavours import Flavour
from launch.heartbeat import Heartbeats, address_towards
from launch.hosts import Host, is_local
from launch.outcome import EXIT_FAILURE, Evidence, RunLog, Words, judge
from launch.output import ERROR, Logs, Output, Rank, Screen
from launch.ssh import NO_SSH, run_on
from launch.supervise import EXIT_RESUMABLE, Ended, Stream, watch

FLUSH_S = 1.0
PENSIVE_S = 2.0
"""How long mpirun's own words wait: if they announce the end, there is something better to say."""

FAILED_S = 5.0
"""How long mpirun may take to end all ranks after one has failed, in seconds."""

CLEANUP_S = 8.0
"""How long a host may take to end what is left there; ssh itself gives a silent one up after 5 s."""

IN_ORDER = {2, 3, EXIT_RESUMABLE}
"""Exit codes with which all ranks end by themselves: nothing is left to be cleaned up."""


class Supervision:
    """A job from its start to its end; one object for each start."""

    def __init__(
        self,
        flavour: Flavour,
        ranks: int,
        hosts: Sequence[Host],
        run: Path | None,
        expects_log: bool = True,
        heartbeat_s: float = 0.0,
    ) -> None:
        """Make a token, and a socket for the heartbeat.

        Args:
            flavour: the kind of mpirun.
            ranks: how many there will be.
            hosts: where they may run; none: here.
            run: the run directory; its event log says whether the job has succeeded. None: the job has none.
            expects_log: whether there must be such a log; not for `--help`.
            heartbeat_s: after so many seconds of silence a rank counts as gone; 0: never.
        """
        self.flavour = flavour
        self.token = secrets.token_hex(16)
        self.unreachable: list[str] = []
        """Hosts that did not answer when what was left there was to be ended."""
        self._expects_log = expects_log
        self._log = RunLog(run)
        self._screen, self._logs = Screen(), Logs(run)
        self._output = Output(flavour.label_pattern, flavour.whole_lines, self._screen, self._logs)
        self._words, self._silence, self._has_failed = Words(), "", False
        self._heartbeats: Heartbeats | None = None
        self._fail: Callable[[float], None] = lambda _: None
        if heartbeat_s:
            self._heartbeats = Heartbeats(self.token, address_towards(hosts), heartbeat_s, [""] * ranks, self.say)

    def __enter__(self) -> Self:
        """Go on."""
        return self

    def __exit__(self, *_: object) -> None:
        """Wait until all is shown, and listen no more."""
        self._screen.close()
        if self._heartbeats:
            self._heartbeats.close()

    def say(self, line: str) -> None:
        """Show a line of the launcher's own."""
        self._screen.line("stderr", line.encode())

    def variables(self) -> dict[str, str]:
        """What every rank must find in its environment."""
        variables = {cleanup.MARK: self.token}
        if self._heartbeats:
            variables["DDP_HEARTBEAT"] = self._heartbeats.variable
        if sys.stdout.isatty() and not self.flavour.whole_lines:
            # mpirun hides the terminal from rank 0, which can show a live display where pieces of lines arrive.
            variables["DDP_TERMINAL"] = str(shutil.get_terminal_size().columns)
        return variables

    def watch(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        places: Sequence[tuple[Host, int]],
        checkpoint_s: float | None = None,
        timeout_s: float | None = None,
        reachable: Sequence[Host] = (),
    ) -> Ended:
        """Run mpirun to its end, show what there is to be shown, and see to it that nothing is left on any host.

        Args:
            command: mpirun and its arguments.
            environment: all of mpirun's.
            places: the hosts, in the order of the ranks, and how many each has.
            checkpoint_s: as in `supervise.watch`.
            timeout_s: the same.
            reachable: those hosts on which commands can be run; what is left there after a failure is ended.

        Returns:
            How it ended, with an exit code of the contract.
        """
        hosts = [host.name for host, ranks in places for _ in range(ranks)]
        if self._heartbeats:
            self._heartbeats.hosts = hosts
        self._logs.add(None, f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {shlex.join(command)}".encode())
        self._output.on_words = self._heard
        marked = {**environment, **cleanup.daemon_environment(self.token)}
        make_directory = False
        try:
            ended = watch(command, marked, checkpoint_s=checkpoint_s, timeout_s=timeout_s, monitor=self)
            events = self._log.events()
            self._logs.write()
            self._end_everywhere(ended, events, reachable)
            verdict = judge(
                Evidence(
                    ended=ended,
                    events=events,
                    expects_log=self._expects_log,
                    blocks=list(self._output.blocks.values()),
                    words=self._words,
                    silence=self._silence,
                    unreachable=self.unreachable,
                    hosts=hosts,
                    heartbeats=self._heartbeats,
                    gone=self._heartbeats.gone if self._heartbeats else (),
                    logs=self._logs.folder if self._logs.folder.is_dir() else None,
                )
            )
            make_directory = verdict.code == EXIT_FAILURE
            if verdict.shows_own:
                self._output.show_own()
            for line in verdict.text.splitlines():
                self.say(line)
        finally:
            self._logs.write(make_directory)
        return Ended(verdict.code, ended.was_signalled, ended.stopped_by, ended.timed_out)

    # What `supervise.watch` calls while the job runs.

    def begin(self, loop: EventLoop, fail: Callable[[float], None]) -> None:
        """Listen to the ranks, and write the logs from time to time."""
        self._fail = fail
        loop.every(FLUSH_S, self._flush)
        if self._heartbeats:
            self._heartbeats.begin(loop, self._fell_silent)

    def read(self, stream: Stream, data: bytes) -> None:
        """Take what came through a pipe."""
        self._output.feed(stream, data)

    def _heard(self, rank: Rank, line: str) -> None:
        """Let mpirun end the others once a rank has failed: all by itself it may wait for them for ever."""
        if rank is None:
            has_failed = self._words.read(line)
        else:
            has_failed = line.startswith(ERROR)
            self._words.read_rank(rank, line)
        if self._heartbeats and (has_failed or self._words.complaining):
            self._heartbeats.ask()
        if has_failed:
            self._has_failed = True
            self._fail(FAILED_S)

    def _flush(self) -> None:
        self._logs.write()
        if not self._has_failed:
            self._output.show_own(PENSIVE_S)

    def _fell_silent(self, message: str) -> None:
        if not self._silence:
            self._silence, self._has_failed = message, True
            self._fail(0.0)  # mpirun has not noticed, and will not

    def _end_everywhere(self, ended: Ended, events: Sequence[Mapping[str, object]], hosts: Sequence[Host]) -> None:
        """End what is left on any host, unless all has ended in order."""
        is_done = events[-1].get("event") == "end" if events else not self._expects_log and ended.code == 0
        if not self._silence and (is_done or ended.code in IN_ORDER) and not self._words.tell_of_failure:
            return
        cleanup.end_job(self.token)
        others = [host for host in hosts if not is_local(host)]
        program = Path(cleanup.__file__).read_text(encoding="utf-8")
        answers = run_on(others, [sys.executable, "-", self.token], CLEANUP_S, program)
        self.unreachable = [answer.host.name for answer in answers if answer.code in (None, NO_SSH)]
