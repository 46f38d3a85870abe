"""The factors multiply to the efficiency, and each stands for its own kind of loss."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.scaling.factors import FACTORS, split, step_times
from launch.scaling.records import PHASES, Point
from tests.unit.launch.scaling.made import PHASES_MS, made_run

ONE, TWO = Point(1, 1, 64, 8), Point(2, 1, 64, 8)
HALVES = PHASES_MS | {"forward": 3.0, "backward": 6.0}
"""Two ranks that compute twice as fast, with nothing to say to each other: ideal but for data, update and other."""
TIMES = st.fixed_dictionaries({name: st.floats(1e-3, 1e3) for name in PHASES})


@given(TIMES, TIMES, st.integers(2, 1000), st.integers(1, 10_000), st.integers(1, 10_000))
def test_the_product_is_the_efficiency(
    first: dict[str, float], second: dict[str, float], ranks: int, batch: int, other_batch: int
) -> None:
    baseline, point = made_run(Point(1, 1, batch, 8), 0, first), made_run(Point(ranks, 1, other_batch, 8), 0, second)
    factors = split(step_times([point]), step_times([baseline]))
    efficiency = (other_batch / point.step_ms) / (batch / baseline.step_ms) / ranks
    assert factors.efficiency == pytest.approx(efficiency, rel=1e-9)
    assert factors.product == pytest.approx(efficiency, rel=1e-9)


def test_strong_scaling_by_hand() -> None:
    """T1 = 18.9, T = 9.9 with nothing but serial time lost: E = 18.9 / (2 * 9.9)."""
    factors = split(step_times([made_run(TWO, 0, HALVES)]), step_times([made_run(ONE)]))
    assert factors.efficiency == pytest.approx(18.9 / (2 * 9.9))
    assert (factors.communication, factors.balance) == (1.0, 1.0)
    assert factors.compute == pytest.approx(1.0)
    assert factors.serial == pytest.approx((9 / 9.9) / (18 / 18.9))
    assert factors.worst == "serial"


@pytest.mark.parametrize(
    ("change", "worst", "value"),
    [
        ({"comm": 9.9}, "communication", 0.5),
        ({"wait": 9.9}, "balance", 0.5),
        ({"update": 0.6 + 9.9}, "serial", 0.5 * (9 / 9.9) / (18 / 18.9)),
        ({"other": 0.1 + 9.9}, "serial", 0.5 * (9 / 9.9) / (18 / 18.9)),
        ({"backward": 15.0}, "compute", 0.5),
    ],
)
def test_each_loss_is_in_its_own_factor(change: dict[str, float], worst: str, value: float) -> None:
    baseline = step_times([made_run(ONE)])
    before = split(step_times([made_run(TWO, 0, HALVES)]), baseline)
    factors = split(step_times([made_run(TWO, 0, HALVES | change)]), baseline)
    assert factors.worst == worst
    assert factors.by_name[worst] == pytest.approx(value)
    others = set(FACTORS) - {worst, "serial"}
    assert all(factors.by_name[name] == pytest.approx(before.by_name[name]) for name in others)


def test_weak_scaling_compares_the_time_of_a_sample() -> None:
    """The same step with twice the samples on two ranks has lost nothing."""
    factors = split(step_times([made_run(Point(2, 1, 128, 16), 0, PHASES_MS)]), step_times([made_run(ONE)]))
    assert list(factors.by_name.values()) == pytest.approx([1.0] * 4)
    assert factors.efficiency == pytest.approx(1.0)


def test_a_ragged_batch_counts_by_its_samples() -> None:
    """The last step of an epoch may have fewer samples: samples a second say how many a step has."""
    ragged = replace(made_run(ONE), samples_per_s=made_run(ONE).samples_per_s * 0.9)
    factors = split(step_times([made_run(TWO, 0, HALVES)]), step_times([ragged]))
    assert factors.efficiency == pytest.approx(18.9 / (2 * 9.9) / 0.9)
    assert factors.product == pytest.approx(factors.efficiency)


def test_medians_of_phases_sum_to_the_median_step() -> None:
    phases = [PHASES_MS | {"comm": 5.0}, PHASES_MS | {"wait": 3.0}, PHASES_MS | {"data": 2.0}]
    runs = [made_run(TWO, repeat, times) for repeat, times in enumerate(phases)]
    times = step_times(runs)
    assert times.step_ms == pytest.approx(sorted(run.step_ms for run in runs)[1])
    assert set(times.phases_ms) == set(PHASES)
