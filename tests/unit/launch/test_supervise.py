"""mpirun's supervision, with a shell in place of mpirun: each of these would hang or leak if it failed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launch import supervise
from launch.event_loop import EventLoop
from launch.supervise import Ended, Stream
from tests.processes import running, wait_for

TIMEOUT_S = 60


class Listener:
    """A monitor that keeps what it gets, and calls the job failed at the word `fail`."""

    def __init__(self) -> None:
        self.got: dict[Stream, bytes] = {"stdout": b"", "stderr": b""}
        self.ends: list[Stream] = []

    def begin(self, loop: EventLoop, fail: Callable[[float], None]) -> None:
        self.fail = fail
        self.on_ctrl_z = signal.getsignal(signal.SIGTSTP)

    def read(self, stream: Stream, data: bytes) -> None:
        self.got[stream] += data
        self.ends += [] if data else [stream]
        if b"fail" in data:
            self.fail(0.1)


def test_a_child_killed_by_a_signal() -> None:
    assert supervise.run(["sh", "-c", "kill -SEGV $$"], os.environ) == 128 + signal.SIGSEGV


def test_output_and_environment_are_the_childs(capfd: pytest.CaptureFixture[str]) -> None:
    assert supervise.run(["/bin/sh", "-c", "echo $X; echo e >&2; cat; exit 5"], {"X": "x y"}) == 5
    assert capfd.readouterr() == ("x y\n", "e\n")


def test_handlers_are_put_back() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    supervise.run(["true"], os.environ)
    with pytest.raises(FileNotFoundError):
        supervise.run(["/no/such/mpirun"], os.environ)
    assert [signal.getsignal(number) for number in numbers] == before
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize("name", ["INT", "TERM", "HUP", "USR1"])
def test_the_child_gets_the_signal_before_it_is_killed(name: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    handled = f"trap 'touch {mark}; exit 9' {name}; kill -{name} {os.getpid()}; sleep 2; exit 1"
    stopped = 9 if name == "USR1" else 128 + signal.Signals[f"SIG{name}"]
    assert supervise.run(["sh", "-c", handled], os.environ) == stopped
    assert mark.exists()


def test_a_signal_that_comes_before_popen_returns_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    popen = subprocess.Popen

    def slow(*arguments: Any, **options: Any) -> Any:
        child = popen(*arguments, **options)
        time.sleep(0.5)
        return child

    monkeypatch.setattr(subprocess, "Popen", slow)
    handled = f"trap 'exit 9' USR1; kill -USR1 {os.getpid()}; sleep 2; exit 1"
    assert supervise.run(["sh", "-c", handled], os.environ) == 9


def test_what_outlasts_the_grace_is_killed() -> None:
    stubborn = f"trap '' TERM; kill -TERM {os.getpid()}; while :; do sleep 0.1; done"
    assert supervise.run(["sh", "-c", stubborn], os.environ, grace_s=0.3) == 143


@pytest.mark.parametrize("code", [0, 75])
def test_a_job_that_used_its_grace_well_keeps_its_exit_code(code: int) -> None:
    handled = f"trap 'exit {code}' TERM; kill -TERM {os.getpid()}; sleep 2; exit 1"
    assert supervise.watch(["sh", "-c", handled], os.environ) == Ended(code, True, signal.SIGTERM)


def test_with_time_for_a_checkpoint_sigterm_arrives_as_sigusr1() -> None:
    handled = f"trap 'sleep 0.5; exit 75' USR1; kill -TERM {os.getpid()}; sleep 2; exit 1"
    ended = supervise.watch(["sh", "-c", handled], os.environ, grace_s=0.1, checkpoint_s=60)
    assert ended == Ended(75, True, signal.SIGTERM)


def test_what_outlasts_the_time_for_a_checkpoint_is_killed() -> None:
    stubborn = f"trap '' USR1; kill -TERM {os.getpid()}; while :; do sleep 0.1; done"
    ended = supervise.watch(["sh", "-c", stubborn], os.environ, grace_s=0.1, checkpoint_s=0.2)
    assert ended == Ended(143, True, signal.SIGTERM, killed_by=signal.SIGKILL)


def test_the_second_signal_kills_at_once() -> None:
    twice = f"trap '' INT; kill -INT {os.getpid()}; sleep 0.2; kill -INT {os.getpid()}; sleep 300"
    assert supervise.run(["sh", "-c", twice], os.environ, grace_s=600) == 130


def test_what_the_child_leaves_behind_is_ended(tmp_path: Path) -> None:
    orphan = tmp_path / "pid"
    supervise.run(["sh", "-c", f"sleep 300 & echo $! > {orphan}"], os.environ)
    assert wait_for(lambda: not running(int(orphan.read_text())))


def test_a_monitor_gets_both_streams_to_their_ends() -> None:
    monitor = Listener()
    command = ["sh", "-c", "head -c 200000 /dev/zero; echo e >&2; exit 3"]
    assert supervise.watch(command, os.environ, monitor=monitor) == Ended(3, was_signalled=False)
    assert monitor.got == {"stdout": bytes(200000), "stderr": b"e\n"}
    assert sorted(monitor.ends) == ["stderr", "stdout"]
    assert monitor.on_ctrl_z is not signal.getsignal(signal.SIGTSTP)


def test_a_process_that_keeps_the_pipe_open_does_not_keep_the_launcher(tmp_path: Path) -> None:
    """MPICH's ranks have sessions of their own."""
    pid = tmp_path / "pid"
    monitor = Listener()
    command = ["sh", "-c", f"echo before; setsid sh -c 'echo $$ > {pid}; exec sleep 300' & sleep 0.5"]
    assert supervise.watch(command, os.environ, monitor=monitor).code == 0
    assert monitor.got["stdout"] == b"before\n"
    os.kill(int(pid.read_text()), signal.SIGKILL)


def test_after_a_failure_mpirun_is_killed_when_its_time_is_over() -> None:
    ended = supervise.watch(["sh", "-c", "echo fail; sleep 300"], os.environ, monitor=Listener())
    assert ended == Ended(128 + signal.SIGKILL, was_signalled=False, killed_by=signal.SIGKILL)


def test_when_the_time_is_over_the_job_may_write_a_checkpoint() -> None:
    handled = "trap 'exit 75' USR1; while :; do sleep 0.1; done"
    ended = supervise.watch(["sh", "-c", handled], os.environ, checkpoint_s=60, timeout_s=0.5)
    assert ended == Ended(75, was_signalled=True, stopped_by=signal.SIGTERM, timed_out=True)


def test_a_job_that_ends_in_time_is_left_alone() -> None:
    assert supervise.watch(["true"], os.environ, timeout_s=300) == Ended(0, was_signalled=False)
