"""Which hosts and ranks the next start has, when some hosts no longer answer."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from launch.discovery import Launcher
from launch.flavours import MPICH
from launch.hosts import Host
from launch.job import Request
from launch.restart import Change
from launch.starts import Starts

N1, N2, N3 = Host("node1", 2), Host("node2", 2), Host("node3", 2)


def starts(ranks: int, hosts: Sequence[Host], is_allocated: bool = False) -> Starts:
    request = Request(ranks, hosts=tuple(hosts), is_allocated=is_allocated)
    launcher = Launcher(MPICH, "mpirun")
    return Starts(request, launcher, ["prog"], keeps_log=True, heartbeat_s=0, timeout_s=None, show=print)


@pytest.mark.parametrize(
    ("ranks", "hosts", "alive", "left", "change"),
    [
        (6, [N1, N2, N3], [N1, N2, N3], 6, Change()),
        (4, [N1, N2, N3], [N1, N2], 4, Change(" without node3", "4 ranks on node1, node2")),
        (6, [N1, N2, N3], [N1, N3], 4, Change(" without node2", "4 ranks on node1, node3")),
        (3, [Host("node1"), Host("node2")], [Host("node2")], 3, Change(" without node1", "3 ranks on node2")),
        (2, [Host("node1", 1), Host("node2", 1)], [Host("node2", 1)], 1, Change(" without node1", "1 rank on node2")),
        (2, [N1, N2], [], 2, Change(" without node1, node2", "no host answers", is_possible=False)),
    ],
)
def test_dead_hosts_are_left_out(ranks: int, hosts: list[Host], alive: list[Host], left: int, change: Change) -> None:
    of = starts(ranks, hosts)
    assert of.leave_out_dead(lambda asked: [host for host in asked if host in alive]) == change
    assert of.request.ranks == left
    assert list(of.request.hosts) == (alive or hosts)


def test_a_host_that_was_just_found_to_be_gone_is_not_asked_again() -> None:
    of = starts(4, [N1, N2, N3])
    of._lost = {N3}
    assert of.leave_out_dead(lambda asked: asked) == Change(" without node3", "4 ranks on node1, node2")


def test_on_this_host_alone_nobody_is_asked() -> None:
    assert starts(2, []).leave_out_dead(lambda _: pytest.fail("asked")) == Change()


def test_a_batch_systems_hosts_may_take_no_commands_at_all() -> None:
    of = starts(4, [Host("localhost"), N2, N3], is_allocated=True)
    assert of.leave_out_dead(lambda _: [Host("localhost")]) == Change()
    assert len(of.request.hosts) == 3
