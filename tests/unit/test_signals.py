"""The stop signals of a process: noted at once, also where Python's own handlers cannot run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from ddp.comm.signals import StopSignals
from tests.system.jobs import ROOT

TIMEOUT_S = 60

# A process that waits inside a C function, where no handler of Python's is called: as inside MPI, it returns
# only when what it waits for has come.
BLOCKED = """
import ctypes, sys, threading
from ddp.comm.signals import StopSignals
signals = StopSignals(grace_s=float(sys.argv[1]))
signals.has_work = sys.argv[2] == "working"
signals.install()
lock = ctypes.CDLL(None, use_errno=True)
print("ready", flush=True)
import os
r, w = os.pipe()
lock.read.restype = ctypes.c_ssize_t
lock.read(r, ctypes.create_string_buffer(1), 1)  # SA_RESTART: a signal does not end it
print("returned", flush=True)
"""


@pytest.fixture
def signals() -> Iterator[StopSignals]:
    signals = StopSignals()
    signals.install()
    yield signals
    signals.remove()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_noted(number: signal.Signals, signals: StopSignals) -> None:
    assert signals.requested is None
    os.kill(os.getpid(), number)
    assert signals.requested == number


def test_the_first_of_several_is_kept(signals: StopSignals) -> None:
    os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGTERM)
    assert signals.requested == signal.SIGUSR1


def test_other_signals_are_not_ours(signals: StopSignals) -> None:
    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(30)  # another thread may get the signal, and this one hear of it a moment later

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert signals.requested is None


def test_what_runs_until_a_signal_is_left_where_it_stands(signals: StopSignals) -> None:
    reached = []

    def work() -> None:
        reached.append("begin")
        os.kill(os.getpid(), signal.SIGTERM)
        reached.append("end")

    signals.until_signal(work)
    assert reached == ["begin"]
    signals.until_signal(work)
    assert reached == ["begin"], "after the signal nothing is begun"


def test_what_runs_until_a_signal_runs_to_its_end_without_one(signals: StopSignals) -> None:
    reached = []
    signals.until_signal(lambda: reached.append("done"))
    assert reached == ["done"]
    os.kill(os.getpid(), signal.SIGTERM)  # and afterwards a signal raises nothing
    assert signals.requested == signal.SIGTERM


def blocked(grace_s: float, state: str = "working") -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", BLOCKED, str(grace_s), state],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def end_of(process: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        out, err = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
    assert out == ""
    assert err.count("\n") == 1
    return process.returncode, err


def test_a_second_signal_ends_a_process_that_waits_in_a_library() -> None:
    process = blocked(grace_s=1000)
    process.send_signal(signal.SIGUSR1)
    process.send_signal(signal.SIGTERM)  # the same by another way: too close to be a second one
    time.sleep(1.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert end_of(process) == (143, "error: a second signal, SIGTERM: stopped at once\n")


@pytest.mark.parametrize(("state", "code"), [("working", 4), ("starting", 75)])
def test_a_process_that_cannot_stop_is_ended_after_its_grace(state: str, code: int) -> None:
    process = blocked(0.3, state)
    process.send_signal(signal.SIGTERM)
    found, err = end_of(process)
    assert found == code
    assert err.startswith("error: checkpoint.grace_s = 0.3 s after SIGTERM: ")
