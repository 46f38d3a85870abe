"""What a study does not know is said: in notes, or by an error that names the file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from launch.errors import UsageError
from launch.scaling import forecast
from launch.scaling.collectives import Collectives
from launch.scaling.networks import NETWORKS, Network
from launch.scaling.predict import predict_study
from launch.scaling.study_model import fit_study, modes_of, study_data
from tests.unit.launch.scaling.studies import (
    collectives,
    job,
    measurements,
    model,
    points,
    write_collectives,
)

BATCH = 64
TRUE = model(job(4, 4))
RANKS = (1, 2, 3, 4)


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "DRAWS", 20)


@pytest.mark.parametrize("mode", ["strong", "weak"])
def test_a_study_of_one_mode_predicts_no_other_and_says_why(mode: str, tmp_path: Path) -> None:
    runs = measurements(
        TRUE, [point for point in points(RANKS, BATCH) if mode in modes_of(point, BATCH)], lambda number: number, 4
    )
    write_collectives(tmp_path, [collectives(number, number) for number in RANKS if number > 1])
    predictions = predict_study(tmp_path, runs)
    assert {each.mode for each in predictions.rows} == {mode}
    (note,) = (note for note in predictions.notes if "too optimistic" in note)
    assert note.startswith(f"Only {mode} scaling was measured")
    questions = [answer.question for answer in predictions.answers]
    assert any(f"by {mode} scaling" in question for question in questions)
    assert any("Which batch" in question for question in questions) == (mode == "strong")
    assert not any("too small for several ranks" in answer.text for answer in predictions.answers)


def test_without_collectives_only_one_rank_is_predicted(tmp_path: Path) -> None:
    runs = measurements(TRUE, points((1, 2), BATCH), lambda number: number, 4)
    predictions = predict_study(tmp_path, runs)
    assert {each.ranks for each in predictions.rows} == {1}
    assert any("communication is unknown" in note for note in predictions.notes)
    assert predictions.answers == ()


@pytest.mark.parametrize(("field", "value"), [("compression", "bf16"), ("sync_every", 4)])
def test_what_the_model_does_not_know_is_not_predicted(field: str, value: object, tmp_path: Path) -> None:
    write_collectives(tmp_path, [collectives(2, 2)])
    runs = measurements(TRUE, points((1, 2), BATCH), lambda number: number, 4)
    config = {"comm": {"compression": "none", "sync_every": 1}}
    assert predict_study(tmp_path, runs, (), config).rows
    config["comm"][field] = value
    predictions = predict_study(tmp_path, runs, (), config)
    assert (predictions.rows, predictions.checks, predictions.answers) == ((), (), ())
    (note,) = predictions.notes
    assert f"comm.{field} = {value}" in note


def test_a_reducer_that_could_have_been_measured_but_was_not_is_not_predicted(tmp_path: Path) -> None:
    """There was too little shared memory, say."""
    runs = measurements(model(job(4, 1)), points((1, 2, 4), BATCH), lambda _: 1, 4)
    whole = [collectives(2, 1), collectives(4, 1)]
    without = [replace(one, samples=tuple(each for each in one.samples if each.what != "node_shared")) for one in whole]
    for measured, expected in ((whole, True), (without, False)):
        write_collectives(tmp_path, measured)
        predicted = {each.reducer for each in predict_study(tmp_path, runs).rows if each.ranks > 1}
        assert ("node_shared" in predicted) == expected
        assert predicted >= {"flat", "bucketed", "sharded"}


@pytest.mark.parametrize("text", ["{", "{}", "3", '{"samples": [{"what": "flat", "bytes": 4, "seconds": ["x"]}]}'])
def test_collectives_that_cannot_be_read_are_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "collectives.jsonl").write_text(text + "\n")
    runs = measurements(TRUE, points((1, 2), BATCH), lambda number: number, 4)
    with pytest.raises(UsageError, match=r"collectives\.jsonl, line 1 .*remove that line"):
        predict_study(tmp_path, runs)


@pytest.mark.parametrize(
    ("text", "words"), [("{", "is no schedule of buckets"), ('{"backward_s": 1, "buckets": []}', "has other buckets")]
)
def test_a_schedule_that_does_not_belong_there_is_named(text: str, words: str, tmp_path: Path) -> None:
    write_collectives(tmp_path, [collectives(2, 2)])
    (tmp_path / "schedule-threads-1.json").write_text(text)
    runs = measurements(TRUE, points((1, 2), BATCH), lambda number: number, 4)
    with pytest.raises(UsageError, match=rf"schedule-threads-1\.json {words}.*delete it"):
        predict_study(tmp_path, runs)


def test_one_repeat_has_no_band_and_that_is_said(tmp_path: Path) -> None:
    write_collectives(tmp_path, [collectives(2, 2)])
    words = "one repeat has no spread"
    for repeats in (1, 2):
        runs = measurements(TRUE, points((1, 2), BATCH), lambda number: number, 4, repeats=repeats)
        assert any(words in note for note in predict_study(tmp_path, runs, ()).notes) == (repeats == 1)


def test_a_study_of_one_number_of_ranks_is_of_no_mode(tmp_path: Path) -> None:
    notes = predict_study(tmp_path, measurements(TRUE, points((1,), BATCH), lambda _: 1, 4)).notes
    assert any("communication is unknown" in note for note in notes)
    assert not any("scaling was measured" in note for note in notes)


def test_nothing_measured(tmp_path: Path) -> None:
    predictions = predict_study(tmp_path, [])
    assert predictions.rows == ()
    assert len(predictions.notes) == 1


def test_on_one_node_it_is_said_what_more_ranks_mean(tmp_path: Path) -> None:
    write_collectives(tmp_path, [collectives(2, 1), collectives(4, 1)])
    runs = measurements(TRUE, points((1, 2, 4), BATCH), lambda _: 1, 4)
    predictions = predict_study(tmp_path, runs)
    assert any("All ranks ran on one node" in note for note in predictions.notes)
    # On stated networks nodes are like this one: four ranks talk to each other without the network.
    found = {
        (each.network, each.ranks): each for each in predictions.rows if (each.mode, each.reducer) == ("weak", "flat")
    }
    slow, fast = (found[one.name, 4].step_ms.value for one in (NETWORKS[0], NETWORKS[-1]))
    assert slow == fast
    assert found["1 Gbit/s", 8].comm_ms.value > 10


def test_ranks_that_are_bound_share_a_node_with_the_others() -> None:
    """Their masks have a core for each of their threads, so that they look alike at any number of ranks."""
    true = model(job(4, 1))
    runs = measurements(true, points((1, 2, 4), BATCH), lambda _: 1, 4)
    bound = [replace(run, cores=run.point.ranks) for run in runs]
    data = study_data(1, bound, [collectives(2, 1), collectives(4, 1)], None)
    assert {point.ranks: data.place_of(point).load for point in data.runs} == {1: 0.25, 2: 0.5, 4: 1.0}
    assert fit_study(data).work.sharing == pytest.approx(true.work.sharing, rel=0.01)
    # Two threads that have one core are two threads on a core, whatever else the node has.
    crowded = study_data(1, [*bound[:-1], replace(bound[-1], cores=2)], [], None)
    assert max(crowded.place_of(point).load for point in crowded.runs) == 1.0
    crowded = study_data(1, [replace(run, cores=min(run.cores, 2)) for run in bound], [], None)
    assert {point.ranks: crowded.place_of(point).load for point in crowded.runs} == {1: 0.5, 2: 1.0, 4: 2.0}


def test_bound_ranks_on_several_nodes() -> None:
    """Four on each of two nodes, and one alone."""
    runs = measurements(model(job(8, 2)), points((1, 4, 8), BATCH), lambda ranks: -(-ranks // 4), 4)
    data = study_data(1, [replace(run, cores=run.point.ranks) for run in runs], [], None)
    assert {point.ranks: data.place_of(point).load for point in data.runs} == {1: 0.25, 4: 1.0, 8: 1.0}


def noted(folder: Path, measured: list[Collectives], nodes: int, networks: tuple[Network, ...] = NETWORKS) -> str:
    """The notes of a study of 1, 2 and 4 ranks on so many nodes of 4 cores."""
    write_collectives(folder, measured)
    runs = measurements(model(job(4, nodes)), points((1, 2, 4), BATCH), lambda ranks: min(nodes, ranks), 4)
    return "\n".join(predict_study(folder, runs, networks).notes)


def test_what_was_not_measured_and_costs_nothing_is_said(tmp_path: Path) -> None:
    inside, between = "between ranks of one node were not measured", "messages between nodes are taken to cost nothing"
    many = Network("wide nodes", 1.0, 50.0, ranks_per_node=4)
    assert inside not in noted(tmp_path, [collectives(2, 2), collectives(4, 4)], 4)
    assert inside in noted(tmp_path, [collectives(2, 2), collectives(4, 4)], 4, (many,))
    assert inside in noted(tmp_path, [collectives(2, 2)], 2)
    assert inside not in noted(tmp_path, [collectives(2, 2), collectives(4, 2)], 2)
    assert between not in noted(tmp_path, [collectives(2, 2), collectives(4, 2)], 2)
    assert between in noted(tmp_path, [collectives(2, 1)], 2)


def test_stated_nodes_with_more_ranks_than_measured_ones_have_cores(tmp_path: Path) -> None:
    words = "nodes with a core for each thread are assumed"
    fits, exceeds = (Network(f"{ranks} ranks", 10.0, 20.0, ranks_per_node=ranks) for ranks in (4, 8))
    measured = [collectives(2, 1), collectives(4, 1)]
    assert words not in noted(tmp_path, measured, 1, (fits,))
    assert f"8 ranks have more ranks than the measured ones have cores (4): {words}" in noted(
        tmp_path, measured, 1, (fits, exceeds)
    )
    runs = measurements(model(job(4, 1)), points((1, 2, 4), BATCH), lambda _: 1, 4)
    layout = study_data(1, runs, measured, None).layout()
    assert [layout.place(16, network).load for network in (fits, exceeds)] == [1.0, 1.0]
