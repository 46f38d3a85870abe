"""Steps from known constants: recovered, predicted, and monotone where they must be."""

from __future__ import annotations

from dataclasses import replace

import pytest

from launch.scaling.networks import NETWORKS, Network
from launch.scaling.schedule import Bucket, BucketSchedule
from launch.scaling.step_model import (
    IN_TRAINING,
    Place,
    PointTimes,
    StepModel,
    fit_work,
    in_training,
    stated_medium,
    waiting_factor,
)
from tests.unit.launch.scaling.studies import BUCKETS, WORK, job, model

PHASES = ("data", "forward", "backward", "update", "comm", "wait", "other")


def times(ranks: int, batch: int, load: float, reducer: str = "flat") -> PointTimes:
    samples = batch / ranks
    compute = WORK.compute(samples, load)
    seconds = {
        "data": (WORK.data_fixed + WORK.data_per_sample * samples) * max(load, 1.0),
        "forward": compute * (1 - WORK.backward),
        "backward": compute * WORK.backward,
        "update": WORK.update * max(load, 1.0) * (1 / ranks if reducer == "sharded" else 1),
        "comm": 0.0,
        "wait": WORK.deviation * waiting_factor(ranks) * compute,
        "other": WORK.other * max(load, 1.0),
    }
    return PointTimes(ranks, 1, batch, load, reducer, sum(seconds.values()), seconds)


BOTH = [times(1, 64, 0.25), times(2, 64, 0.5), times(4, 64, 1.0), times(2, 128, 0.5), times(4, 256, 1.0)]


def test_constants_of_computing_are_recovered() -> None:
    found = fit_work(BOTH)
    for name, value in vars(WORK).items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-3, abs=1e-9), name


def test_the_update_is_that_of_all_parameters_whatever_the_rung_does() -> None:
    assert fit_work([times(4, 64, 1.0, "sharded")]).update == pytest.approx(WORK.update)


def test_strong_scaling_alone_cannot_tell_sharing_from_a_fixed_part() -> None:
    strong = fit_work(BOTH[:3])
    assert strong.sharing == 0
    assert strong.fixed > 0


def test_weak_scaling_alone_cannot_tell_the_fixed_part() -> None:
    weak = fit_work([BOTH[0], *BOTH[3:]])
    assert weak.fixed == 0
    assert weak.sharing == pytest.approx(WORK.sharing, rel=1e-3)


def test_oversubscribed_points_do_not_spoil_computing() -> None:
    crowded = times(8, 64, 2.0)
    wrong = replace(crowded, phases={name: value * 3 for name, value in crowded.phases.items()})
    assert fit_work([*BOTH, wrong]).per_sample == pytest.approx(WORK.per_sample, rel=1e-3)
    assert fit_work([crowded]).per_sample > 0


def test_no_points() -> None:
    with pytest.raises(ValueError, match="no points"):
        fit_work([])


def test_waiting_grows_with_ranks() -> None:
    factors = [waiting_factor(ranks) for ranks in (1, 2, 4, 64, 4096)]
    assert factors[0] == 0
    assert factors == sorted(factors)
    # Expected largest of 2, 4 and 64 standard normal numbers: 0.564, 1.029 and 2.37.
    assert factors[1:4] == pytest.approx([0.564, 1.029, 2.37], rel=0.05)


MODEL = model(job(4, 4))
SCHEDULED = replace(MODEL, schedule=BucketSchedule(5e-3, tuple(Bucket(size, 0.1) for size in BUCKETS)))


def network(one: Network) -> Place:
    return Place(16, 16, 0.5, stated_medium(one))


def test_one_rank_communicates_with_nobody() -> None:
    assert MODEL.communication("flat", Place(1, 1, 0.5)) == (0.0, 0.0)
    assert MODEL.step(Place(1, 1, 0.5), 64, "flat").comm == 0
    assert MODEL.step(Place(1, 1, 0.5), 64, "flat").wait == 0


@pytest.mark.parametrize("rung", ["flat", "bucketed", "naive", "sharded"])
def test_a_faster_network_communicates_less(rung: str) -> None:
    exposed = [SCHEDULED.step(network(one), 64, rung).comm for one in NETWORKS]
    assert exposed == sorted(exposed, reverse=True)
    assert exposed[0] > 5 * exposed[-1]


@pytest.mark.parametrize("rung", ["flat", "bucketed", "naive", "sharded"])
def test_more_nodes_communicate_longer(rung: str) -> None:
    exposed = [MODEL.step(Place(ranks, ranks, 0.5), 64 * ranks, rung).comm for ranks in (2, 4, 8, 256, 4096)]
    assert exposed == sorted(exposed)


def test_more_samples_a_rank_hide_more() -> None:
    steps = [SCHEDULED.step(Place(4, 4, 0.5), 4 * samples, "bucketed") for samples in (1, 16, 256, 4096)]
    assert [step.comm for step in steps] == sorted((step.comm for step in steps), reverse=True)
    assert [step.hidden for step in steps] == sorted(step.hidden for step in steps)
    whole = [step.comm + step.hidden for step in steps]
    assert whole == pytest.approx([whole[0]] * 4)


def test_on_one_node_nothing_is_hidden() -> None:
    assert SCHEDULED.step(Place(4, 1, 1.0), 1 << 16, "bucketed").hidden == 0


def test_buckets_and_one_sum_move_the_same_bytes() -> None:
    """On a network that is all bandwidth, without anything to hide behind, they cost the same."""
    wide = StepModel(WORK, replace(MODEL.constants, call=0, background_call=0, per_added_byte=0), MODEL.job, None, {})
    place = Place(8, 8, 0.5, stated_medium(Network("slow", 0.001, 0.0)))
    flat, bucketed = (wide.communication(rung, place)[0] for rung in ("flat", "bucketed"))
    assert flat == pytest.approx(bucketed, rel=1e-6)


@pytest.mark.parametrize("rung", ["flat", "bucketed"])
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_what_communication_takes_in_training(rung: str, factor: float) -> None:
    """Half or twice as long as alone where it was measured; and the model reproduces what it was fitted to."""
    place = Place(4, 4, 0.25)
    true = replace(SCHEDULED, in_training=factor)
    points = [measured(true, place, batch, rung) for batch in (64, 4096)]
    found = in_training(SCHEDULED, points)
    assert found.in_training == pytest.approx(factor)
    for point in points:
        assert found.step(place, point.batch, rung).comm == pytest.approx(point.phases["comm"])


def measured(true: StepModel, place: Place, batch: int, rung: str) -> PointTimes:
    """A point that was run on a cluster that is known."""
    step = true.step(place, batch, rung)
    backward = true.work.backward * step.compute
    phases = {**dict.fromkeys(PHASES, 0.0), "backward": backward, "comm": step.comm}
    return PointTimes(place.ranks, place.nodes, batch, place.load, rung, step.total, phases)


def test_a_network_s_misfit_is_not_that_of_another_network_but_one_node_s_is() -> None:
    for place, rest in ((Place(4, 4, 0.25), 0.0), (Place(4, 1, 1.0), 1.0)):
        step = MODEL.step(place, 64, "flat")
        true = replace(MODEL, in_training=2.0)
        found = in_training(MODEL, [measured(true, place, 64, "flat")])
        stated = network(NETWORKS[2])
        expected = MODEL.step(stated, 64, "flat").comm + rest * step.comm
        assert found.step(stated, 64, "flat").comm == pytest.approx(expected)
    assert in_training(MODEL, [times(1, 64, 0.25)]) == MODEL


def test_points_that_hide_all_say_how_long_communication_can_be_at_most() -> None:
    place = Place(4, 4, 0.25)
    silent = replace(SCHEDULED, job=replace(job(4, 4), report_bytes=0))
    shown, hidden = (measured(replace(silent, in_training=2.0), place, each, "bucketed") for each in (64, 1 << 20))
    assert hidden.phases["comm"] == 0
    # With twice as much it is hidden, and with four times: it says nothing against 2.
    assert in_training(silent, [shown, hidden]).in_training == pytest.approx(2.0)
    assert in_training(silent, [hidden]).in_training == 1.0
    # Nothing was exposed of what the formula cannot hide: as little as may be, not left out.
    nothing = replace(shown, reducer="flat", phases={**shown.phases, "comm": 0.0})
    assert in_training(silent, [nothing]).in_training == pytest.approx(IN_TRAINING[0])
    both = in_training(silent, [shown, nothing]).in_training
    assert both == pytest.approx((2.0 * IN_TRAINING[0]) ** 0.5)
    # Exposed, although alone it would be hidden: that is more than alone.
    most = measured(replace(silent, in_training=3.0), place, 5200, "bucketed")
    assert silent.step(place, 5200, "bucketed").comm == 0 < most.phases["comm"]
    assert in_training(silent, [most]).in_training == pytest.approx(3.0)


def test_corrections_belong_to_the_network_that_was_measured() -> None:
    half = replace(MODEL, corrections={"sharded": 0.5})
    place = Place(4, 4, 0.25)
    assert half.communication("sharded", place)[0] == pytest.approx(MODEL.communication("sharded", place)[0] / 2)
    stated = network(NETWORKS[0])
    assert half.communication("sharded", stated) == MODEL.communication("sharded", stated)


@pytest.mark.parametrize("rung", ["flat", "bucketed", "sharded"])
def test_more_shards_report_more(rung: str) -> None:
    place = Place(16, 16, 0.5)
    usual, more = (MODEL.step(place, 64, rung, reports).comm for reports in (1.0, 1000.0))
    # Of 256 bytes, 1000 times: about twice as many travel, at 8 ns each.
    assert more - usual == pytest.approx(2 * 256e3 * 15 / 16 * 8e-9, rel=0.5)
