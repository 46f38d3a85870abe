"""What a run warns of when it starts."""

from __future__ import annotations

from typing import Any

from ddp.config import CommConfig
from ddp.start import start_warnings

EXACT = CommConfig()


def facts(hosts: list[str], affinity: list[list[int]], threads: int) -> dict[str, Any]:
    return {"world_size": len(hosts), "threads_per_rank": threads, "hosts": hosts, "affinity": affinity}


def test_a_fitting_run_is_not_warned_of() -> None:
    assert start_warnings(facts(["a", "a", "b"], [[0, 1], [2, 3], [0, 1]], 2), 8, EXACT) == []
    assert start_warnings(facts(["a", "b"], [[0], [0]], 1), 8, EXACT) == []


def test_a_rank_with_fewer_cores_than_threads_is_named_with_both() -> None:
    warnings = start_warnings(facts(["a", "b", "b"], [[0, 1], [3], [4]], 2), 8, EXACT)
    assert warnings[0].startswith("rank 1 on b runs 2 threads on 1 core, 3 (and 1 other rank): ")
    assert "2 cores a rank" in warnings[0]


def test_shared_cores_and_idle_ranks() -> None:
    idle, shared = start_warnings(facts(["a", "a", "a"], [[0, 1]] * 3, 1), 2, EXACT)
    assert "1 stay idle" in idle
    assert "3 ranks x 1 thread share 2 cores of a" in shared


def test_a_run_that_was_to_sum_exactly_and_cannot_is_told_so_on_one_line() -> None:
    one = facts(["a"], [[0]], 1)
    (warning,) = start_warnings(one, 8, CommConfig(compression="bf16"))
    assert warning == (
        "comm.compression = bf16 sums in float32: comm.exact does not hold, the trained weights depend on the number of"
        " ranks"
    )
    (warning,) = start_warnings(one, 8, CommConfig(sync_every=4))
    assert warning.startswith("comm.sync_every = 4 averages in float32: comm.exact does not hold, ")
    assert start_warnings(one, 8, CommConfig(compression="bf16", exact=False)) == []
    assert start_warnings(one, 8, CommConfig(sync_every=4, exact=False)) == []
