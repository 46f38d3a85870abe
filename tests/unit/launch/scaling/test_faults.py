"""Planted faults are found and named, and none where there is none."""

from __future__ import annotations

import pytest

from launch.scaling.faults import Fault, find_faults, unevenness
from launch.scaling.records import Point
from launch.scaling.summary import summarise
from tests.unit.launch.scaling.made import made_run, made_runs, made_study, usual_phases

HOSTS = ("node1", "node1", "node2", "node2")
WAITING = {"wait": 3.0}


def faults(**options: object) -> list[Fault]:
    study = made_study(mode="strong")
    runs = made_runs(study, **options)  # type: ignore[arg-type]
    return find_faults(summarise(runs, study.curves()), runs, [])


def with_waiting(point: Point) -> dict[str, float]:
    return usual_phases(point) | (WAITING if point.ranks == 4 else {})


def test_a_healthy_study_has_none() -> None:
    assert faults() == []


def test_a_slow_rank_is_named_with_its_host_and_cost() -> None:
    study = made_study(mode="both")
    runs = [
        made_run(
            run.point, run.repeat, with_waiting(run.point), slowest={"2": 0.9, "0": 0.1}, hosts=HOSTS[: run.point.ranks]
        )
        for run in study.runs()
    ]
    (fault,) = find_faults(summarise(runs, study.curves()), runs, [])
    assert fault.kind == "imbalance"
    step = sum(with_waiting(Point(4, 1, 64, 8)).values())
    assert "rank 2 on node2 is slow: at 4 ranks x 1 thread, batch 64, and at 1 other point" in fault.text
    assert f"in 90% of the records, and the ranks wait for it 3.00 ms of each step, {3 / step:.0%}" in fault.text


def test_ranks_that_are_slow_in_turn_are_not_blamed() -> None:
    (fault,) = faults(phases=with_waiting)
    assert fault.kind == "disturbance"
    assert "no rank is always the slowest" in fault.text


def test_uneven_shards_are_told_from_a_slow_rank() -> None:
    study = made_study(ranks=(1, 3), mode="strong")
    waiting = {1: {}, 3: {"wait": 1.0}}
    runs = [
        made_run(run.point, run.repeat, usual_phases(run.point) | waiting[run.point.ranks], slowest={"0": 1.0})
        for run in study.runs()
    ]
    (fault,) = find_faults(summarise(runs, study.curves()), runs, [])
    assert fault.kind == "uneven parts"
    assert "8 shards, which 3 ranks cannot share evenly" in fault.text
    assert "multiple of 3" in fault.advice
    waiting[3]["wait"] = 9.0  # far more than the shards explain
    runs = [
        made_run(run.point, run.repeat, usual_phases(run.point) | waiting[run.point.ranks], slowest={"1": 1.0})
        for run in study.runs()
    ]
    (fault,) = find_faults(summarise(runs, study.curves()), runs, [])
    assert fault.kind == "imbalance"
    assert "rank 1 on node1" in fault.text


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        (Point(1, 1, 64, 8), 1.0),
        (Point(2, 1, 64, 8), 1.0),
        (Point(3, 1, 64, 8), 24 * 3 / 64),
        (Point(2, 1, 10, 4), 6 * 2 / 10),  # shards of 3, 3, 2, 2
        (Point(4, 1, 64, 2), 32 * 4 / 64),  # two ranks are idle
    ],
)
def test_unevenness(point: Point, expected: float) -> None:
    assert unevenness(point) == pytest.approx(expected)


def test_flags_are_told_once_for_each_kind_with_all_their_points() -> None:
    (fault,) = faults(cores=1)
    assert fault.kind == "oversubscribed"
    assert "(at 2 ranks x 1 thread, batch 64)" in fault.text
    assert "(at 4 ranks x 1 thread, batch 64)" in fault.text
    assert "1 core for 4 threads" in fault.text


def test_slow_links_come_with_what_to_do() -> None:
    (fault,) = find_faults([], [], ["node1 - node3 has half of the usual bandwidth"])
    assert fault.kind == "slow link"
    assert fault.text == "node1 - node3 has half of the usual bandwidth."
    assert "ethtool" in fault.advice
