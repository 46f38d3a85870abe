"""Who is to blame for a collective that does not finish."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from ddp.comm.activity import Activity, Collective
from ddp.comm.stall_report import MOST_WAITING, State, own_state, report, stuck_collective

HOSTS = ["node1", "node1", "node2", "node2", "node3"]


def state(rank: int, sequence: int, inside: bool = True, step: int = 7, stacks: str = "waits\n") -> State:
    """A rank in collective number `sequence`, or one that has left it."""
    collective = Collective(sequence, f"sum {sequence}", 10 * sequence, 0.0)
    before = Collective(sequence - 1, "an earlier one", 0, 0.0)
    host = HOSTS[rank % len(HOSTS)]
    if inside:
        return State(rank, host, step, collective, before, 1.25, "a.py:1 wait", stacks)
    return State(rank, host, step, None, collective, 0.0, "b.py:2 sleep", stacks)


def told(*states: State, hosts: list[str] | None = HOSTS) -> list[str]:
    return report({other.rank: other for other in states}, hosts, 2.5).splitlines()


def test_a_rank_that_did_not_arrive() -> None:
    lines = told(state(0, 9), state(1, 9), state(2, 8, inside=False, step=6, stacks="sleeps\n"), hosts=HOSTS[:3])
    assert lines == [
        "error: step 7: sum 9 (collective 9, 90 bytes) did not finish within 2.5 s: rank 2 on node2 did not arrive",
        "  rank 2 on node2: step 6, in no collective, the last was sum 8 (collective 8, 80 bytes): b.py:2 sleep",
        "  rank 0 on node1: step 7, in sum 9 (collective 9, 90 bytes) for 1.2 s: a.py:1 wait",
        "  rank 1 on node1: step 7, in sum 9 (collective 9, 90 bytes) for 1.2 s: a.py:1 wait",
        "Stacks of rank 2, most recent call last:",
        "sleeps",
        "Stacks of ranks 0, 1, most recent call last:",
        "waits",
    ]


@pytest.mark.parametrize(
    ("states", "culprits"),
    [
        ([state(0, 9), state(1, 9), state(4, 9)], "ranks 2, 3 on node2 did not answer"),
        (
            [state(0, 9), state(1, 8, False), state(2, 8, False), state(3, 9)],
            "ranks 1 on node1, 2 on node2 did not arrive and rank 4 on node3 did not answer",
        ),
        # One that another rank could leave before it was cut off from the rest.
        ([state(0, 9), state(1, 8)], "ranks 2, 3 on node2, 4 on node3 did not answer"),
        # A rank in another collective: it has not come to this one.
        ([state(0, 9), state(1, 8), state(2, 9), state(3, 9), state(4, 9)], "rank 1 on node1 did not arrive"),
        # One that went on: it waits for the same rank.
        ([state(0, 9), state(1, 9), state(2, 8, False), state(3, 10), state(4, 10)], "rank 2 on node2 did not arrive"),
        (
            [state(rank, 9) for rank in range(5)],
            "all ranks have arrived: the network or the MPI library has lost something",
        ),
        # One that has left it while others are still in it.
        (
            [state(0, 9, False), *(state(rank, 9) for rank in range(1, 5))],
            "all ranks have arrived: the network or the MPI library has lost something",
        ),
    ],
)
def test_culprits(states: list[State], culprits: str) -> None:
    assert told(*states)[0].endswith(f" did not finish within 2.5 s: {culprits}")


def test_the_first_collective_that_ranks_wait_in_is_the_one_to_blame() -> None:
    states = {other.rank: other for other in (state(0, 10), state(1, 9), state(2, 8, False))}
    assert stuck_collective(states, all_answered=True) == states[1].current
    states[2] = state(2, 11, False)
    assert stuck_collective(states, all_answered=True) == states[0].current  # rank 1 has not come to it
    assert stuck_collective(states, all_answered=False) == states[1].current  # which waits for one that is silent


def test_before_the_first_step() -> None:
    lines = told(state(0, 9, step=-1), state(1, 0, inside=False, step=-1), hosts=HOSTS[:2])
    assert lines[0].startswith("error: before the first step: sum 9 (collective 9, 90 bytes) did not finish")
    assert lines[1].startswith("  rank 1 on node1: before the first step, in no collective")


def test_a_rank_that_could_ask_nobody() -> None:
    lines = told(state(3, 9), hosts=None)
    assert lines[0].endswith(": rank 3 on node2 waits, and cannot ask the others")
    assert len([line for line in lines if line.startswith("  rank")]) == 1


def test_of_many_ranks_that_wait_some_are_shown() -> None:
    size = MOST_WAITING + 10
    lines = told(*(state(rank, 9 if rank else 8, bool(rank)) for rank in range(size)), hosts=["node1"] * size)
    shown = [line for line in lines if line.startswith("  rank")]
    assert len(shown) == 1 + MOST_WAITING
    assert shown[0].startswith("  rank 0 ")
    assert f"  and {size - 1 - MOST_WAITING} more ranks that have arrived" in lines


@pytest.fixture
def other_thread() -> Iterator[None]:
    go_on = threading.Event()

    def planted_on_a_thread() -> None:
        go_on.wait()

    thread = threading.Thread(target=planted_on_a_thread, name="planted")
    thread.start()
    yield
    go_on.set()
    thread.join()


@pytest.mark.usefixtures("other_thread")
def test_the_state_of_this_process() -> None:
    activity = Activity(3)
    activity.step = 5
    with activity.collective("sum of gradients", 88):
        mine = own_state(activity)
        assert mine.current == activity.current
    assert (mine.rank, mine.step, mine.arrived) == (3, 5, 1)
    assert mine.main.startswith("stall_report.py:")
    assert " < test_stall_report.py:" in mine.main
    assert "thread planted:\n" in mine.stacks
    assert "in planted_on_a_thread\n" in mine.stacks
    assert "in test_the_state_of_this_process\n" in mine.stacks
