"""Rows, intervals and baselines of a study."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from launch.scaling.flags import NOISY, OVERSUBSCRIBED
from launch.scaling.records import Point
from launch.scaling.summary import Interval, Series, ratio, summarise, threshold
from launch.scaling.words import summary
from tests.unit.launch.scaling.made import made_run, made_runs, made_study, usual_phases


def made_series(mode: str = "both", noise: float = 0.01, **options: object) -> list[Series]:
    study = made_study(mode=mode)
    return summarise(made_runs(study, noise=noise, **options), study.curves())


def test_each_mode_and_threads_has_its_own_baseline() -> None:
    study = made_study(threads=(1, 2))
    series = summarise(made_runs(study), study.curves())
    assert [(one.mode, one.threads) for one in series] == [("strong", 1), ("strong", 2), ("weak", 1), ("weak", 2)]
    for one in series:
        assert one.baseline.point == Point(1, one.threads, 64, 8)
        assert [row.is_baseline for row in one.rows] == [True, False, False]
        assert one.baseline.efficiency == Interval(1.0)
    assert [row.point.batch for row in series[0].rows] == [64, 64, 64]
    assert [row.point.batch for row in series[2].rows] == [64, 128, 256]


def test_speed_up_and_efficiency_by_hand() -> None:
    strong, weak = made_series(noise=0.0)
    one, two = (sum(usual_phases(Point(ranks, 1, 64, 8)).values()) for ranks in (1, 2))
    assert strong.rows[1].speed_up.value == pytest.approx(one / two)
    assert strong.rows[1].efficiency.value == pytest.approx(one / two / 2)
    assert strong.rows[1].factors.product == pytest.approx(one / two / 2)
    two = sum(usual_phases(Point(2, 1, 128, 16)).values())
    assert weak.rows[1].efficiency.value == pytest.approx(one / two)


def test_fewer_ranks_than_wanted_are_the_baseline_of_what_is_there() -> None:
    study = made_study(ranks=(2, 4), mode="strong")
    (series,) = summarise(made_runs(study, noise=0.0), study.curves())
    four, two = (sum(usual_phases(Point(ranks, 1, 64, 8)).values()) for ranks in (4, 2))
    assert series.rows[1].efficiency.value == pytest.approx(two / four / 2)


def test_nothing_and_little_measured() -> None:
    study = made_study(threads=(1, 2))
    assert summarise([], study.curves()) == []
    alone = summarise([made_run(Point(1, 1, 64, 8))], study.curves())
    assert [one.mode for one in alone] == ["strong"]
    assert alone[0].others == ()
    both = summarise([made_run(Point(1, 1, 64, 8)), made_run(Point(2, 1, 128, 16))], study.curves())
    assert [one.mode for one in both] == ["weak"]


def test_intervals_contain_the_truth_as_often_as_they_say() -> None:
    """95 %, of medians of few repeats a little less; never all, and the same at each call."""
    draw = random.Random(1)
    hits = 0
    for _ in range(200):
        ours, theirs = ([draw.gauss(100.0, 5.0) for _ in range(9)] for _ in range(2))
        interval = ratio(ours, theirs)
        assert interval == ratio(ours, theirs)
        assert interval.low is not None
        assert interval.high is not None
        assert interval.low <= interval.value <= interval.high
        hits += interval.low <= 1.0 <= interval.high
    assert 170 <= hits < 200


def test_one_run_has_no_interval() -> None:
    assert ratio([2.0], [1.0, 1.1]) == Interval(2.0 / 1.05)
    assert ratio([2.0, 2.2], [1.0]) == Interval(2.1)


def test_noise_and_lack_of_cores_make_points_doubtful() -> None:
    assert not any(row.is_doubtful for one in made_series() for row in one.rows)
    assert all(NOISY in {flag.name for flag in row.flags} for row in made_series(noise=0.4)[0].rows)
    names = [{flag.name for flag in row.flags} for row in made_series(cores=2)[0].rows]
    assert names == [set(), set(), {OVERSUBSCRIBED}]


def test_where_efficiency_falls() -> None:
    strong, weak = made_series(noise=0.0)
    assert [round(row.efficiency.value, 2) for row in strong.rows] == [1.0, 0.88, 0.66]
    assert threshold(strong) == (2, 4)
    assert threshold(strong, 0.95) == (1, 2)
    assert threshold(weak) == (4, None)


def sentences(study_mode: str = "both", **options: object) -> str:
    study = made_study(mode=study_mode)
    runs = made_runs(study, **options)  # type: ignore[arg-type]
    return "\n".join(summary(study, summarise(runs, study.curves()), None, len(study.missing(runs))))


def test_the_summary_tells_what_limits() -> None:
    text = sentences()
    assert "falls below 80% between 2 and 4 ranks" in text
    assert "With 4 ranks most is lost by exposed communication (factor 0.78), then by data, update" in text
    assert "doubtful" not in text
    slow = sentences(phases=lambda p: usual_phases(p) | {"backward": usual_phases(p)["backward"] * p.ranks})
    assert "With 4 ranks most is lost by slower computing of each sample" in slow
    assert "which is what ranks take from each other" in slow


def test_the_summary_tells_doubts_first_and_what_is_missing() -> None:
    study = made_study()
    runs = [run for run in made_runs(study, cores=1) if run.repeat < 2 or run.point.ranks == 1]
    text = "\n".join(summary(study, summarise(runs, study.curves()), None, len(study.missing(runs))))
    assert "but that is doubtful: oversubscribed" in text
    assert "4 of 5 points doubtful" in text
    assert "**12 of 25 runs missing**" in text
    assert "Some points have 2 repeats" in text


def test_the_best_point_is_one_that_can_be_trusted() -> None:
    study = made_study(mode="strong")
    fast = [
        replace(run, samples_per_s=run.samples_per_s * (10 if run.point.ranks == 4 else 1))
        for run in made_runs(study, cores=2)
    ]
    text = "\n".join(summary(study, summarise(fast, study.curves()), None, 0))
    assert "times the samples a second of 1 rank, with 2 ranks;" in text


def test_a_doubtful_baseline_and_a_doubtful_fall_are_said() -> None:
    study = made_study(mode="strong")
    runs = [
        replace(run, step_ms=run.step_ms * (1 + 0.2 * run.repeat)) if run.point.ranks == 1 else run
        for run in made_runs(study, cores=2)
    ]
    text = "\n".join(summary(study, summarise(runs, study.curves()), None, 0))
    assert "; the baseline is doubtful: noisy." in text
    bad = [
        replace(run, samples_per_s=run.samples_per_s / (4 if run.point.ranks == 4 else 1))
        for run in made_runs(study, cores=2)
    ]
    text = "\n".join(summary(study, summarise(bad, study.curves()), None, 0))
    assert "It falls below 80% between 2 and 4 ranks (but 4 ranks are doubtful: oversubscribed)." in text


def test_ranks_against_threads() -> None:
    study = made_study(ranks=(1, 2), threads=(1, 2), mode="strong")
    text = "\n".join(summary(study, summarise(made_runs(study, noise=0.0), study.curves()), None, 0))
    assert "With 2 threads in all, samples a second: 2 ranks x 1 thread" in text
    assert "; the best is 1.75 times one rank." in text
