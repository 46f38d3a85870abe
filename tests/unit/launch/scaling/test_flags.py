"""What makes a point doubtful: each flag where it belongs, and none where it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launch.hosts import Host
from launch.placement import Available, make_plan
from launch.scaling import topology
from launch.scaling.flags import (
    BOUND,
    BUSY,
    IDLE,
    MEANING,
    MIXED,
    NOISY,
    ONE_MACHINE,
    OVERSUBSCRIBED,
    SMT,
    flags_of_point,
    flags_of_run,
    real_cores,
    same_bits,
    spread,
)
from tests.unit.launch.scaling.run_records import measurement

SIBLINGS = {"siblings": {"node1": [[0, 2], [1, 3]]}}
SIX = [[0, 1, 2, 3, 4, 5]]


@pytest.mark.parametrize(
    ("run", "names", "cores"),
    [
        (measurement(2), (), 2),
        (measurement(3), (OVERSUBSCRIBED,), 2),
        (measurement(1, 2), (), 2),
        (measurement(2, 2), (OVERSUBSCRIBED,), 2),
        (measurement(1, 2, affinity=[[1]]), (OVERSUBSCRIBED, BOUND), 1),
        (measurement(2, affinity=[[0], [0]]), (OVERSUBSCRIBED,), 1),
        (measurement(2, affinity=[[0], [1]]), (), 2),
        (measurement(2, 2, affinity=[[0, 1], [1]]), (OVERSUBSCRIBED, BOUND), 2),
        (measurement(2, affinity=[[0, 1, 2, 3]] * 2, **SIBLINGS), (), 2),
        (measurement(4, affinity=[[0, 1, 2, 3]] * 4, **SIBLINGS), (OVERSUBSCRIBED, SMT), 2),
        (measurement(5, affinity=[[0, 1, 2, 3]] * 5, **SIBLINGS), (OVERSUBSCRIBED,), 2),
        (measurement(1, 2, affinity=[[0, 2]], **SIBLINGS), (OVERSUBSCRIBED, SMT), 1),
        (measurement(2, 2, affinity=[[0, 2, 4], [1, 3, 5]], siblings={"node1": [[0, 2], [1, 3]]}), (), 4),
        (measurement(2, hosts=["a", "b"], affinity=[[0], [0]]), (), 2),
        (measurement(2, hosts=["a", "b"], affinity=[[0], [1]], machines=["k", "k"]), (ONE_MACHINE,), 2),
        (measurement(2, hosts=["a", "b"], affinity=[[0], [0]], machines=["k", "k"]), (OVERSUBSCRIBED, ONE_MACHINE), 1),
        (measurement(6, affinity=SIX * 6, shards=4), (IDLE,), 6),
        (measurement(3, affinity=[[0], [0], [0, 1, 2, 3]]), (OVERSUBSCRIBED,), 4),
        (measurement(3, affinity=[[0], [1], [0, 1, 2, 3]]), (), 4),
        (measurement(3, affinity=[[0], [2], [0, 1, 2, 3, 4, 5]], siblings={"node1": [[0, 2]]}), (OVERSUBSCRIBED,), 5),
        (measurement(1, others_busy_cores=0.2), (), 2),
        (measurement(1, others_busy_cores=0.9), (BUSY,), 2),
    ],
)
def test_flags_and_real_cores_of_a_run(run: Any, names: tuple[str, ...], cores: int) -> None:
    assert tuple(flag.name for flag in flags_of_run(run)) == names
    assert real_cores(run) == cores


def test_a_flag_says_who_and_how_much() -> None:
    flags = {flag.name: flag.text for flag in flags_of_run(measurement(2, 2, affinity=[[0, 1], [1]]))}
    assert flags[OVERSUBSCRIBED] == "2 ranks x 2 threads on node1 have 2 cores for 4 threads"
    assert flags[BOUND] == "rank 1 on node1 may use core 1 alone, for 2 threads"
    (one,) = flags_of_run(measurement(2, hosts=["a", "b"], affinity=[[0], [1]], machines=["k", "k"]))
    assert one.text == "a, b are one machine"
    assert not any(text.endswith(".") for text in [*flags.values(), *MEANING.values()])


def test_noise_is_a_matter_of_the_repeats() -> None:
    steady = [measurement(repeat=number, step_ms=ms) for number, ms in enumerate([10.0, 10.9, 10.5])]
    noisy = [measurement(repeat=number, step_ms=ms) for number, ms in enumerate([10.0, 11.5, 10.5])]
    assert flags_of_point(steady) == ()
    (flag,) = flags_of_point(noisy)
    assert flag.name == NOISY
    assert flag.text == "3 runs took 10 to 11.5 ms a step, a spread of 14%"
    assert spread(noisy) == pytest.approx(1.5 / 10.5)
    assert spread(noisy[:1]) == 0


def test_other_processors_or_software_make_runs_doubtful() -> None:
    facts = {"cpu": "one", "versions": {"numpy": "2.0"}, "git_revision": "abc"}
    runs = [measurement(repeat=number, **facts) for number in range(2)]
    assert flags_of_point(runs, runs) == ()
    other = measurement(repeat=2, **facts | {"cpu": "two", "versions": {"numpy": "2.1"}})
    for point, baseline in (([*runs, other], ()), (runs, [other])):
        (flag,) = flags_of_point(point, baseline)
        assert flag.name == MIXED
        assert flag.text == "not all runs, with those of the baseline, had the same processors, packages"


def test_a_flag_of_several_repeats_is_told_once_and_the_busiest() -> None:
    runs = [measurement(repeat=number, others_busy_cores=busy) for number, busy in enumerate([0.4, 1.6, 0.0])]
    (flag,) = flags_of_point(runs)
    assert flag.text == "others kept 1.6 cores at work just before it"


def test_the_same_bits_at_all_points_of_strong_scaling() -> None:
    runs = [measurement(ranks, repeat=repeat) for ranks in (1, 2, 4) for repeat in range(2)]
    weak = measurement(2, batch=128, shards=16, sha="other")
    bits = same_bits([*runs, weak])
    assert bits is not None
    assert bits.same
    assert bits.text.startswith("all 6 runs with batch 64, on 1, 2, 4 ranks, trained the same bits")


def test_different_bits_are_named() -> None:
    bits = same_bits([measurement(1), measurement(2), measurement(4, sha="bb")])
    assert bits is not None
    assert not bits.same
    assert bits.text.startswith("error: ")
    assert "bb at ranks-4-threads-1-batch-64" in bits.text


def test_a_repeat_of_weak_scaling_with_other_bits_is_found_too() -> None:
    weak = [measurement(2, batch=128, shards=16, repeat=number, sha=sha) for number, sha in enumerate("ab")]
    bits = same_bits([measurement(1), measurement(2), *weak])
    assert bits is not None
    assert not bits.same


def test_bits_that_cannot_be_compared() -> None:
    assert same_bits([]) is None
    assert same_bits([measurement(1), measurement(1, repeat=1)]) is None
    assert same_bits([measurement(ranks, exact=False) for ranks in (1, 2)]) is None


@pytest.mark.parametrize(("text", "cores"), [("0", (0,)), ("0-3,8\n", (0, 1, 2, 3, 8)), ("1,0", (0, 1))])
def test_lists_of_cores(text: str, cores: tuple[int, ...]) -> None:
    assert topology.parse_cores(text) == cores


def test_siblings_are_read_from_the_system(tmp_path: Path) -> None:
    for core, group in enumerate(["0,2", "1,3", "0,2", "1,3", "4"]):
        folder = tmp_path / f"cpu{core}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(group)
    (tmp_path / "cpufreq").mkdir()
    groups = topology.sibling_groups(tmp_path)
    assert groups == ((0, 2), (1, 3))
    assert topology.physical_cores(range(5), groups) == 3
    assert topology.sibling_groups(tmp_path / "nowhere") == ()


def test_busy_cores_are_what_works_between_two_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = tmp_path / "stat"
    own = "cpu1  50 0 50 400 0 0 0 0 0 0\ncpu2 50 0 50 400 0 0 0 0 0 0\n"
    stat.write_text(f"cpu  900 0 900 900 0 0 0 0 0 0\ncpu0 1 0 0 9 0 0 0 0 0 0\n{own}intr 5\n")
    later = own.replace("cpu1  50 0 50 400 0 0 0 0", "cpu1  110 0 50 560 0 0 0 30")
    monkeypatch.setattr(topology.time, "sleep", lambda _: stat.write_text(f"cpu0 999 0 0 9 0 0 0 0 0 0\n{later}"))
    monkeypatch.setattr(topology.os, "sched_getaffinity", lambda _: {1, 2})
    assert topology.busy_cores(stat=stat) == pytest.approx(2 * 90 / 250)
    assert topology.busy_cores(stat=tmp_path / "nowhere") == 0
    assert topology.busy_cores(stat=stat) == 0  # no tick has passed


def test_machines_of_ranks_follow_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    available = [Available(Host(name), (0, 1), kernel) for name, kernel in (("a", "k"), ("b", "k"), ("c", ""))]
    monkeypatch.setattr(topology, "run_on", lambda hosts, command, timeout_s: [])
    monkeypatch.setattr(topology, "is_local", lambda host: True)
    monkeypatch.setattr(topology, "sibling_groups", lambda: ((0, 1),))
    machines = topology.look_at(available)
    assert machines.of_ranks(make_plan(4, 1, "none", available)) == ["k", "k", "k", "c"]
    assert machines.siblings == {"k": ((0, 1),), "c": ((0, 1),)}


def test_a_remote_machine_tells_its_own_siblings(monkeypatch: pytest.MonkeyPatch) -> None:
    from launch.ssh import Answer

    available = [Available(Host(name), (0, 1), name) for name in ("here", "far", "silent")]

    def answers(hosts: list[Host], command: object, timeout_s: float) -> list[Answer]:
        return [Answer(host, 0, "welcome\n[[0, 1]]\n" if host.name == "far" else "", "") for host in hosts]

    monkeypatch.setattr(topology, "run_on", answers)
    monkeypatch.setattr(topology, "is_local", lambda host: host.name == "here")
    monkeypatch.setattr(topology, "sibling_groups", lambda: ())
    assert topology.look_at(available).siblings == {"far": ((0, 1),)}
