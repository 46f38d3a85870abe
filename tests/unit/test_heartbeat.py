"""A rank's heartbeat, heard on a socket of the test's own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ddp.comm import heartbeat as module
from ddp.comm.activity import Activity
from ddp.comm.heartbeat import end_daemon, heartbeat
from tests.system.jobs import TRAIN, Job

JOB = "0123abcd"
TIMEOUT_S = 30.0
GONE = "no answer from the launcher for {} s: it or the network is gone"
one_address = pytest.mark.parametrize("launcher", ["127.0.0.1"], indirect=True)


class Launcher:
    """Hears beats, and answers them while `job` is set, with that token."""

    def __init__(self, address: str) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.bind((address, 0))
        self.socket.settimeout(TIMEOUT_S)
        self.address, self.port = self.socket.getsockname()[:2]
        self.job: str | None = JOB

    def variables(self, silence_s: float = 1000.0) -> dict[str, str]:
        return {"DDP_JOB": JOB, "DDP_HEARTBEAT": f"{self.address} {self.port} {silence_s}"}

    def hear(self) -> dict[str, Any]:
        datagram, sender = self.socket.recvfrom(2000)
        if self.job is not None:
            self.socket.sendto(json.dumps({"job": self.job}).encode(), sender)
        beat: dict[str, Any] = json.loads(datagram)
        assert beat["job"] == JOB
        return beat

    def hear_until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + TIMEOUT_S
        while not wanted(beat := self.hear()):
            assert time.monotonic() < deadline
        return beat


@pytest.fixture(params=["127.0.0.1", "::1"])
def launcher(request: pytest.FixtureRequest) -> Iterator[Launcher]:
    try:
        found = Launcher(request.param)
    except OSError as error:
        pytest.skip(f"no {request.param} on this machine ({error})")
    yield found
    found.socket.close()


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_S", 0.02)


def never(code: int) -> None:
    pytest.fail(f"ended with {code}")


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "heartbeat"]


def test_the_beats_tell_what_the_rank_does(launcher: Launcher) -> None:
    activity = Activity(3)
    with heartbeat(activity, never, launcher.variables()):
        first = launcher.hear()
        assert first == {
            "job": JOB,
            "rank": 3,
            "host": os.uname().nodename,
            "pid": os.getpid(),
            "step": -1,
            "doing": "",
            "sequence": 0,
            "bytes": 0,
            "for_s": 0.0,
            "leaving": False,
        }
        activity.step = 117
        with activity.collective("sum of gradients", 88):
            inside = launcher.hear_until(lambda beat: beat["doing"] != "")
            later = launcher.hear_until(lambda beat: beat["for_s"] > inside["for_s"])
        assert [later[name] for name in ("step", "doing", "sequence", "bytes")] == [117, "sum of gradients", 1, 88]
        after = launcher.hear_until(lambda beat: beat["doing"] == "")
        assert [after[name] for name in ("sequence", "bytes", "for_s", "leaving")] == [1, 88, 0.0, False]
    assert launcher.hear_until(lambda beat: beat["leaving"])["step"] == 117
    assert threads() == []


def test_a_rank_that_fails_does_not_say_that_it_leaves(launcher: Launcher) -> None:
    def run() -> None:
        with heartbeat(Activity(0), never, launcher.variables()):
            launcher.hear()
            raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        run()
    assert threads() == []
    launcher.socket.settimeout(0.2)
    with pytest.raises(TimeoutError):
        launcher.hear_until(lambda beat: beat["leaving"])


def test_without_a_launcher_there_is_no_thread() -> None:
    with heartbeat(Activity(0), never, {}):
        assert threads() == []


@pytest.mark.parametrize("wanted", ["127.0.0.1", "127.0.0.1 many 3", "no.such.host.invalid 1 3"])
def test_an_address_that_makes_no_sense(wanted: str) -> None:
    with pytest.raises((ValueError, OSError)), heartbeat(Activity(0), never, {"DDP_HEARTBEAT": wanted}):
        pytest.fail("went on")


@pytest.mark.parametrize("end", ["silent", "closed", "another job"])
def test_a_launcher_that_is_gone_ends_the_rank(
    end: str, launcher: Launcher, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "stagger", lambda rank: None)
    ended = threading.Event()
    codes = []

    def abort(code: int) -> None:
        codes.append(code)
        ended.set()

    activity = Activity(2)
    activity.step = 9
    with heartbeat(activity, abort, launcher.variables(silence_s=0.3)):
        for _ in range(50):  # twice as long as it would take to lose patience
            launcher.hear()
        assert codes == []
        launcher.job = None if end == "silent" else "another"
        if end == "closed":
            launcher.socket.close()
        while not ended.wait(0.01):
            if end == "another job":
                launcher.hear()
    assert set(codes) == {4}
    line = capsys.readouterr().err.splitlines()[0]
    assert line == f"error: rank 2 on {os.uname().nodename} failed at step 9: {GONE.format(0.3)}"


def test_a_launcher_that_never_answered_is_none(launcher: Launcher) -> None:
    launcher.job = None
    with heartbeat(Activity(0), never, launcher.variables(silence_s=0.1)):
        for _ in range(30):
            launcher.hear()


# A package in mpi4py's place, the loading of which takes a while and fails.
SLOW_MPI = "import time\ntime.sleep(2.5)\nraise ImportError('planted: no MPI')\n"


@one_address
def test_the_beats_begin_before_mpi_is_loaded(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "mpi4py").mkdir()
    (tmp_path / "mpi4py" / "__init__.py").write_text("class rc: pass\n")
    (tmp_path / "mpi4py" / "MPI.py").write_text(SLOW_MPI)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from ddp.train import leave, main; leave(main())"
    job = Job([sys.executable, "-c", code], tmp_path, {**launcher.variables(), "PMI_RANK": "3", "PMI_SIZE": "4"})
    try:
        beat = launcher.hear()
        assert (beat["rank"], beat["pid"], beat["step"]) == (3, job.process.pid, -1)
        assert launcher.hear_until(lambda beat: beat["for_s"] > 1)["doing"] == "start of MPI"
        launcher.hear_until(lambda beat: beat["leaving"])
        finished = job.finish(TIMEOUT_S)
        assert (finished.code, finished.err) == (2, "error: planted: no MPI\n")
    finally:
        job.kill()


@one_address
def test_the_trainer_beats_to_its_end(launcher: Launcher, tmp_path: Path) -> None:
    job = Job([*TRAIN, "--train.steps", "5"], tmp_path, launcher.variables())
    try:
        last = launcher.hear_until(lambda beat: beat["leaving"])
        assert (last["step"], last["doing"]) == (5, "")
        finished = job.finish(TIMEOUT_S)
        assert finished.code == 0, finished.text
    finally:
        job.kill()


@one_address
def test_a_trainer_whose_launcher_is_gone_ends(launcher: Launcher, tmp_path: Path) -> None:
    command = [*TRAIN, "--train.epochs", "1000000", "--train.evaluate_every", "0", "--output.name", "run"]
    job = Job(command, tmp_path, launcher.variables(silence_s=2))
    try:
        launcher.hear_until(lambda beat: beat["step"] > 0)
        launcher.socket.close()
        finished = job.finish(TIMEOUT_S)
        assert finished.code == 4
        assert f"error: rank 0 on {os.uname().nodename} failed at step " in finished.err
        assert f": {GONE.format(2)}\n" in finished.err
    finally:
        job.kill()


@pytest.mark.parametrize(("name", "is_ended"), [("prted", True), ("mpirun", False)])
def test_the_daemon_of_a_rank_that_is_cut_off_ends_with_it(name: str, is_ended: bool, tmp_path: Path) -> None:
    program = shutil.which("sleep")
    assert program is not None
    shutil.copy(program, tmp_path / name)
    with subprocess.Popen([str(tmp_path / name), "300"]) as process:
        try:
            comm = Path(f"/proc/{process.pid}/comm")
            while comm.read_text().strip() != name:  # the kernel names a process a moment after it has begun
                time.sleep(0.01)
            end_daemon(process.pid)
            if is_ended:
                assert process.wait(10) == -signal.SIGKILL
            else:
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(0.2)
        finally:
            process.kill()
