"""What is left of a job is found by its mark, here and by the same program on another host; nothing else is."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from launch import cleanup

Start = Callable[..., "subprocess.Popen[bytes]"]
TIMEOUT_S = 60


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def _start(command: Sequence[str], **variables: str) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(command, env={**os.environ, **variables}, start_new_session=True))
        return started[-1]

    yield _start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize("remote", [False, True], ids=["here", "as another host does it"])
def test_marked_processes_are_ended_and_no_others(remote: bool, start: Start) -> None:
    token, other = uuid.uuid4().hex, uuid.uuid4().hex
    rank = start(["sleep", "300"], DDP_JOB=token)
    stranger = start(["sleep", "300"], DDP_JOB=other)
    daemon = start([sys.executable, "-c", "import time; time.sleep(300)", "--prtemca", "ddp_job", token])
    if remote:
        program = Path(cleanup.__file__).read_bytes()
        subprocess.run([sys.executable, "-", token], input=program, timeout=TIMEOUT_S, check=True)
    else:
        cleanup.end_job(token)
    assert rank.wait(TIMEOUT_S) == -9
    assert daemon.wait(TIMEOUT_S) == -9
    assert stranger.poll() is None
    assert cleanup.processes_of(other) == {stranger.pid}


def test_the_daemon_that_started_a_rank_goes_with_it(start: Start, tmp_path: Path) -> None:
    """Hydra's proxies carry no mark."""
    proxy = tmp_path / "hydra_pmi_proxy"
    proxy.symlink_to("/bin/sh")
    token = uuid.uuid4().hex
    parent = start([str(proxy), "-c", f"DDP_JOB={token} sleep 300; kill -STOP $$"])  # until it is killed itself
    while not cleanup.processes_of(token):
        assert parent.poll() is None
    assert cleanup.end_job(token) == 2
    assert parent.wait(TIMEOUT_S) == -9
