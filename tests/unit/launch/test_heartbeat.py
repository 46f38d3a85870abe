"""The launcher's ear: what it takes for a beat, whom it names when none comes, and who is found to be gone."""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from launch.event_loop import EventLoop
from launch.heartbeat import Heartbeats, address_towards, plural
from launch.hosts import Host

TOKEN = "f00d"
SILENCE_S = 30.0
HOSTS = ["node1", "node1", "node2", "node2", "node3"]


class Ear(Heartbeats):
    """Four ranks on two hosts, one on a third."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        super().__init__(TOKEN, "127.0.0.1", SILENCE_S, HOSTS, self.warnings.append)


@pytest.fixture
def ear() -> Iterator[Ear]:
    listener = Ear()
    yield listener
    listener.close()


@pytest.fixture
def mouths(ear: Ear) -> Iterator[dict[int, socket.socket]]:
    address, port, silence = ear.variable.split()
    assert (address, float(silence)) == ("127.0.0.1", SILENCE_S)
    sockets = {rank: socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for rank in range(len(HOSTS))}
    for one in sockets.values():
        one.connect((address, int(port)))
        one.settimeout(10)
    yield sockets
    for one in sockets.values():
        one.close()


def beat(rank: int, /, **other: Any) -> bytes:
    said = {"job": TOKEN, "rank": rank, "host": HOSTS[rank], "pid": 100 + rank, "step": 117, "doing": ""}
    return json.dumps({**said, "sequence": 4, "bytes": 8, "for_s": 0.2, "leaving": False, **other}).encode()


def hear(ear: Ear, mouths: dict[int, socket.socket], **beats: bytes) -> None:
    for name, data in beats.items():
        mouths[int(name[1:])].send(data)
    ear.receive()


def test_a_beat_is_kept_and_answered(ear: Ear, mouths: dict[int, socket.socket]) -> None:
    hear(ear, mouths, r3=beat(3, doing="sum of gradients"))
    told = ear.beats[3]
    assert (told.rank, told.host, told.pid, told.step, told.leaving) == (3, "node2", 103, 117, False)
    assert told.where == "last at step 117, in 'sum of gradients'"
    assert json.loads(mouths[3].recv(1000)) == {"job": TOKEN}
    assert ear.rank_of(103, "node2.cluster.org") == 3
    assert ear.rank_of(103, "node1") is None
    assert ear.step_of([2, 3]) == 117


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b"3",
        beat(3, job="another"),
        beat(3, rank=5),
        beat(3, rank=-1),
        beat(3, step="x"),
        json.dumps({"job": TOKEN, "rank": 3}).encode(),
    ],
)
def test_anything_else_is_neither(data: bytes, ear: Ear, mouths: dict[int, socket.socket]) -> None:
    mouths[3].setblocking(False)
    hear(ear, mouths, r3=data)
    assert ear.beats == {}
    with pytest.raises(BlockingIOError):
        mouths[3].recv(1000)


@pytest.mark.parametrize(
    ("speaking", "named"),
    [
        ({0, 1, 2, 4}, "rank 3 on node2 for 30 s (last at step 117)"),
        ({0, 2, 3, 4}, "rank 1 on node1 for 30 s (last at step 117)"),
        ({0, 1, 2, 3}, "rank 4 on node3 for 30 s (last at step 117)"),
        ({0, 1, 4}, "any rank on node2 (ranks 2, 3) for 30 s (last at step 117)"),
        ({0, 4}, "any rank on node2 (ranks 2, 3), rank 1 on node1 for 30 s (last at step 117)"),
        (set(), "any rank on node1 (ranks 0, 1), any rank on node2 (ranks 2, 3), rank 4 on node3 for 30 s"),
    ],
)
def test_who_has_fallen_silent_is_named_whole_hosts_first(
    speaking: set[int], named: str, ear: Ear, mouths: dict[int, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = time.monotonic()
    hear(ear, mouths, **{f"r{rank}": beat(rank) for rank in range(5)})
    for second in range(1, 40):
        monkeypatch.setattr(time, "monotonic", lambda second=second: start + second)
        hear(ear, mouths, **{f"r{rank}": beat(rank) for rank in speaking})
        message = ear.silent(start + second)
        assert bool(message) == (second > SILENCE_S)
        if message:
            assert message.startswith(f"no heartbeat from {named}")
            break
    assert ear.warnings == []


def test_a_rank_that_has_left_may_be_silent(ear: Ear, mouths: dict[int, socket.socket]) -> None:
    hear(ear, mouths, **{f"r{rank}": beat(rank, leaving=True) for rank in range(5)})
    now = time.monotonic()
    assert [ear.silent(now + second) for second in range(100)] == [""] * 100


def test_a_launcher_that_was_stopped_does_not_blame_the_ranks(ear: Ear, mouths: dict[int, socket.socket]) -> None:
    hear(ear, mouths, **{f"r{rank}": beat(rank) for rank in range(5)})
    now = time.monotonic()
    assert ear.silent(now) == ""
    assert ear.silent(now + 1000) == ""
    assert ear.silent(now + 1001) == ""


def test_of_ranks_that_were_never_heard_there_is_one_warning(ear: Ear, mouths: dict[int, socket.socket]) -> None:
    start = time.monotonic()
    for second in range(100):
        ear.beats.clear()
        hear(ear, mouths, r0=beat(0), r1=beat(1), r2=beat(2))
        assert ear.silent(start + second) == "" or second > SILENCE_S
    (warning,) = ear.warnings
    assert warning.startswith("warning: nothing heard of ranks 3, 4 on node2, node3 for 30 s")
    assert "UDP to 127.0.0.1" in warning


def test_the_dead_are_found_by_asking(ear: Ear, mouths: dict[int, socket.socket]) -> None:
    """A process that is no more has no socket, which its host says at once."""
    hear(ear, mouths, **{f"r{rank}": beat(rank) for rank in range(5)})
    mouths[2].close()
    ear.ask()
    deadline = time.monotonic() + 10
    while not ear.gone and time.monotonic() < deadline:
        select.select([ear._socket], [], [], 0.05)
        ear.receive()
    assert ear.gone == [2]


def test_it_listens_in_the_loop(ear: Ear, mouths: dict[int, socket.socket]) -> None:
    loop = EventLoop()
    failures: list[str] = []
    ear.begin(loop, failures.append)
    mouths[1].send(beat(1))
    loop.run(lambda: 1 in ear.beats)
    loop.close()
    assert failures == []


def test_addresses() -> None:
    assert address_towards([]) == "127.0.0.1"
    assert address_towards([Host("localhost"), Host("127.0.0.2")]) == "127.0.0.1"


def test_plural() -> None:
    assert plural("rank", [3]) == "rank 3"
    assert plural("rank", {3, 2}) == "ranks 2, 3"
