"""Whole studies of a cluster that is known: predictions, bands, errors and answers."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from launch.scaling import forecast
from launch.scaling.answers import WANTED, balance, crossing, smallest_batch
from launch.scaling.model_section import prediction_tables
from launch.scaling.networks import NETWORKS, Network
from launch.scaling.predict import PRESENT, Band, Check, Prediction, Predictions, predict_study
from launch.scaling.records import Point
from launch.scaling.step_model import Place, StepModel
from launch.scaling.study import Curve
from launch.scaling.study_model import modes_of, study_data
from launch.scaling.summary import summarise
from tests.unit.launch.scaling.studies import (
    CONSTANTS,
    Noise,
    collectives,
    job,
    measurements,
    model,
    noisy,
    points,
    quiet,
    write_collectives,
)

BATCH = 64
TRUE = model(job(4, 4))
RANKS = (1, 2, 3, 4)


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "DRAWS", 20)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Predictions:
    """Of the study without noise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forecast, "DRAWS", 20)
        return study(tmp_path_factory.mktemp("known"))


def study(folder: Path, noise: Noise = quiet, ranks: tuple[int, ...] = RANKS) -> Predictions:
    """One rank on each node, of 4 cores."""
    write_collectives(folder, [collectives(number, number, noise=noise) for number in ranks if number > 1])
    runs = measurements(TRUE, points(ranks, BATCH), lambda number: number, 4, noise)
    return predict_study(folder, runs, NETWORKS)


def row(predictions: Predictions, mode: str, ranks: int, rung: str = "flat", network: str = PRESENT) -> Prediction:
    (found,) = (
        each
        for each in predictions.rows
        if (each.network, each.mode, each.ranks, each.reducer) == (network, mode, ranks, rung)
    )
    return found


def true_step(mode: str, ranks: int, rung: str, true: StepModel = TRUE) -> float:
    times = ranks if mode == "weak" else 1
    return true.step(Place(ranks, ranks, 0.25), times * BATCH, rung, times).total


def test_a_known_cluster_is_predicted_far_beyond_what_was_measured(known: Predictions) -> None:
    predictions = known
    for mode in ("strong", "weak"):
        for ranks in (1, 2, 4, 8, 64):
            for rung in ("flat", "bucketed", "sharded"):
                found = row(predictions, mode, ranks, rung)
                expected = true_step(mode, ranks, rung)
                assert found.step_ms.value * 1e-3 == pytest.approx(expected, rel=0.05), (mode, ranks, rung)
    assert row(predictions, "weak", 4096).is_extrapolated
    assert not row(predictions, "weak", 4).is_extrapolated


def test_rows_add_up(known: Predictions) -> None:
    for each in known.rows:
        parts = each.compute_ms + each.comm_ms.value + each.serial_ms + each.wait_ms
        assert parts == pytest.approx(each.step_ms.value)
        assert each.samples_per_s == pytest.approx(each.batch / each.step_ms.value * 1e3)
        assert each.efficiency.value == pytest.approx(each.speed_up / each.ranks)
        for band in (each.step_ms, each.comm_ms, each.efficiency):
            assert band.low <= band.value <= band.high


def test_there_is_one_best_rung_at_each_number_of_ranks(known: Predictions) -> None:
    predictions = known
    for network in (PRESENT, *(one.name for one in NETWORKS)):
        best = predictions.best(network, "strong", 1)
        assert [each.ranks for each in best] == [1, 2, 3, 4, 8, 16, 32, 64]  # no more ranks than samples
        for each in best:
            others = [
                one for one in predictions.rows if (one.network, one.mode, one.ranks) == (network, "strong", each.ranks)
            ]
            assert each.step_ms.value == min(one.step_ms.value for one in others)


def test_a_faster_network_is_never_worse(known: Predictions) -> None:
    predictions = known
    for ranks in (8, 64, 1024):
        steps = [row(predictions, "weak", ranks, network=one.name).step_ms.value for one in NETWORKS]
        assert steps == sorted(steps, reverse=True)


def test_a_known_cluster_leaves_no_error_when_ranks_are_left_out(known: Predictions) -> None:
    checks = [check for check in known.checks if check.ranks in (3, 4)]
    assert {check.what for check in checks} >= {"step", "flat", "bucketed"}
    for check in checks:
        assert check.fitted_ms == pytest.approx(check.measured_ms, rel=0.05)
        assert abs(check.error) < 0.06


def test_leaving_out_shows_what_the_model_does_not_know(tmp_path: Path) -> None:
    """Four ranks that are slower than any formula says are told by their error, with its sign."""
    write_collectives(tmp_path, [collectives(number, number) for number in RANKS if number > 1])
    runs = [
        replace(run, step_ms=2 * run.step_ms, phases_ms={name: 2 * ms for name, ms in run.phases_ms.items()})
        if run.point.ranks == 4
        else run
        for run in measurements(TRUE, points(RANKS, BATCH), lambda number: number, 4)
    ]
    errors = [
        check.error for check in predict_study(tmp_path, runs).checks if check.what == "step" and check.ranks == 4
    ]
    assert errors == pytest.approx([-0.5, -0.5], abs=0.05)


def test_what_is_left_out_has_no_say_in_the_shape_of_the_fit() -> None:
    """Four ranks share a switch, two and three do not: who has not seen the four knows of no switch."""
    shared = replace(CONSTANTS, network=replace(CONSTANTS.network, shared_per_byte=50e-9))
    measured = [collectives(2, 2), collectives(3, 3), collectives(4, 4, shared)]
    runs = measurements(TRUE, points(RANKS, BATCH), lambda number: number, 4)
    one = forecast.Forecast(study_data(1, runs, measured, None), ())
    assert one.model.constants.network.shared_per_byte > 0
    without = one._left_out(4)
    assert without is not None
    assert without.constants.network.shared_per_byte == 0
    assert without.constants.network.per_byte == pytest.approx(CONSTANTS.network.per_byte, rel=0.02)


def points_of(mode: str, ranks: tuple[int, ...]) -> list[Point]:
    return [point for point in points(ranks, BATCH) if mode in modes_of(point, BATCH)]


@pytest.mark.parametrize("ranks", [(1, 2, 4), (2, 3, 4)])
def test_predicted_and_measured_efficiency_have_the_same_baseline(ranks: tuple[int, ...], tmp_path: Path) -> None:
    """The fewest ranks of the study: so both can be drawn on one plot."""
    write_collectives(tmp_path, [collectives(number, number) for number in ranks if number > 1])
    runs = measurements(TRUE, points(ranks, BATCH), lambda number: number, 4)
    predictions = predict_study(tmp_path, runs)
    curves = [Curve(mode, 1, tuple(points_of(mode, ranks))) for mode in ("strong", "weak")]
    seen = [replace(run, provenance={"affinity": [list(range(4))] * run.point.ranks}) for run in runs]
    for series in summarise(seen, curves):
        for measured in series.rows:
            predicted = row(predictions, series.mode, measured.point.ranks)
            assert predicted.efficiency.value == pytest.approx(measured.efficiency.value, rel=0.05)
            assert predicted.speed_up == pytest.approx(measured.speed_up.value, rel=0.05)
        assert row(predictions, series.mode, ranks[0]).efficiency.value == pytest.approx(1.0)


def test_bands_hold_the_truth_and_narrow_with_the_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast.Forecast, "_checks", lambda _: [])  # not asked for, and slow
    widths = []
    for deviation in (0.1, 0.02):
        hits, total, width = 0, 0, 0.0
        for seed in range(4):
            predictions = study(tmp_path, noisy(seed, deviation))
            for mode in ("strong", "weak"):
                for ranks in (2, 4, 16):
                    band = row(predictions, mode, ranks).step_ms
                    truth = true_step(mode, ranks, "flat") * 1e3
                    # Half a band's width of grace: the model's own bias is not the repeats'.
                    grace = (band.high - band.low) / 2
                    hits += band.low - grace <= truth <= band.high + grace
                    total += 1
                    width += (band.high - band.low) / truth
        assert hits >= 0.8 * total
        widths.append(width)
    assert widths[1] < widths[0] / 2


def test_the_same_study_gives_the_same_predictions(tmp_path: Path) -> None:
    first, second = (study(tmp_path, noisy(1, 0.05)) for _ in range(2))
    assert first.to_json() == second.to_json()
    assert json.loads(json.dumps(first.to_json(), allow_nan=False))["rows"]


def test_constants_are_told_with_units(known: Predictions) -> None:
    constants = {each.name: each for each in known.constants}
    assert constants["beta of the network"].value == pytest.approx(8.0, rel=0.02)
    assert constants["beta of the network"].unit == "ns/byte"
    assert constants["computing a sample"].value == pytest.approx(0.1, rel=0.02)
    assert "shared beta of the network" not in constants


def test_answers(known: Predictions) -> None:
    answers = {answer.question: answer.text for answer in known.answers}
    assert len(answers) == 4
    strong = answers["Where does communication equal computation, by strong scaling?"]
    for name in ("On this cluster", "On 1 Gbit/s", "On 10 Gbit/s", "On 100 Gbit/s"):
        assert all(name in text for text in answers.values())
    assert "On this cluster: at about 2 ranks." in strong  # 4.8 MB at 1 Gbit/s: 40 ms; computing 4 ms
    runs = measurements(TRUE, points(RANKS, BATCH), lambda number: number, 4)
    measured = [collectives(number, number) for number in RANKS if number > 1]
    one = forecast.Forecast(study_data(1, runs, measured, None), NETWORKS)
    for network, name in ((None, "On this cluster"), (NETWORKS[2], "On 100 Gbit/s")):
        batch = smallest_batch(one, network, 4)
        assert batch is not None
        assert f"{name}: {batch:,} at 4 ranks" in answers["Which batch keeps efficiency above 80%?"]


def test_two_ranks_may_communicate_longer_than_they_compute(known: Predictions) -> None:
    slow = replace(
        known,
        rows=tuple(
            replace(row, comm_ms=Band(1e3, 1e3, 1e3) if row.ranks > 1 else Band(0.01, 0.01, 0.01))
            for row in known.rows
            if row.network == PRESENT
        ),
    )
    assert balance(slow, PRESENT, "strong", 1) == "On this cluster: with 2 ranks already."


def test_the_smallest_batch_is_the_smallest(tmp_path: Path) -> None:
    runs = measurements(TRUE, points(RANKS, BATCH), lambda number: number, 4)
    measured = [collectives(number, number) for number in RANKS if number > 1]
    one = forecast.Forecast(study_data(1, runs, measured, None), NETWORKS)

    def efficiency(batch: int) -> float:
        rungs = one.model.rungs(one.place(16, NETWORKS[1]))
        best = max(one.rate(one.model, NETWORKS[1], 16, batch, rung) for rung in rungs)
        return best / 16 / one.rate(one.model, NETWORKS[1], 1, batch, "flat")

    batch = smallest_batch(one, NETWORKS[1], 16)
    assert batch is not None
    assert efficiency(batch) >= WANTED
    assert efficiency(int(0.98 * batch)) < WANTED
    assert smallest_batch(one, Network("none", 1e-9, 0.0), 16) is None


def prediction(ranks: int, compute: float, comm: float) -> Prediction:
    band = Band(comm, comm, comm)
    return Prediction(
        PRESENT, "strong", ranks, 1, 64, "flat", True, False, band, compute, band, 0.0, 0.0, 0.0, 1.0, 1.0, band, 0.1
    )  # fmt: skip


def test_where_communication_equals_computation() -> None:
    rows = [prediction(1, 8, 0), prediction(2, 4, 1), prediction(4, 2, 1), prediction(8, 1, 2)]
    assert crossing(rows[:3]) is None
    assert crossing(rows) == round(4 * 2 ** (0.5 / 1.5))
    assert crossing([prediction(1, 8, 0), prediction(2, 4, 4)]) == 2


def test_with_two_numbers_of_ranks_nothing_can_be_left_out_of_communication(tmp_path: Path) -> None:
    predictions = study(tmp_path, ranks=(1, 2))
    assert all(math.isnan(check.left_out_ms) for check in predictions.checks if check.ranks == 2)
    assert any("no measurement could be left out" in note for note in predictions.notes)
    assert any("Nothing is taken to be hidden" in note for note in predictions.notes)
    # That one rank is predicted well from two says nothing of communication.
    assert any(math.isfinite(check.error) for check in predictions.checks if check.ranks == 1)
    assert all(math.isnan(each.error) for each in predictions.rows)
    assert "| not known |" in prediction_tables(predictions)


def test_the_error_beside_a_row_is_that_of_several_ranks_of_its_mode(tmp_path: Path) -> None:
    predictions = study(tmp_path, noisy(1, 0.05))
    for mode in ("strong", "weak"):
        errors = [
            abs(check.error)
            for check in predictions.checks
            if (check.what, check.batch) == ("step", BATCH * (check.ranks if mode == "weak" else 1)) and check.ranks > 1
        ]
        assert row(predictions, mode, 64).error == pytest.approx(fmean(errors))


def test_check_error() -> None:
    check = Check("step", "strong", 4, 1, 64, "flat", 10.0, 10.0, 12.0)
    assert check.error == pytest.approx(0.2)


def test_a_slow_link_is_named(tmp_path: Path) -> None:
    links = tuple(
        {"hosts": [f"node{a}", f"node{b}"], "ranks": [a - 1, b - 1], "latency_s": 1e-4, "bytes_per_s": speed}
        for a, b, speed in ((1, 2, 1e8), (1, 3, 0.5e8), (2, 3, 0.5e8))
    )
    write_collectives(tmp_path, [replace(collectives(3, 3), links=links)])
    runs = measurements(TRUE, points((1, 3), BATCH), lambda number: number, 4)
    (finding,) = predict_study(tmp_path, runs).slow_links
    assert "node3" in finding
