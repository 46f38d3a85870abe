"""Learning rates against closed forms."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddp.config import ScheduleConfig
from ddp.optim import learning_rate

STEPS_PER_EPOCH, TOTAL = 10, 100


def rates(config: ScheduleConfig, base: float = 0.4) -> list[float]:
    return [learning_rate(config, base, step, TOTAL, STEPS_PER_EPOCH) for step in range(TOTAL + 1)]


def test_constant_is_constant() -> None:
    assert rates(ScheduleConfig()) == [0.4] * (TOTAL + 1)


def test_cosine_is_half_a_cosine() -> None:
    found = rates(ScheduleConfig(name="cosine"))
    assert found == pytest.approx([0.4 * math.cos(math.pi * step / TOTAL / 2) ** 2 for step in range(TOTAL + 1)])
    assert found[0] == 0.4
    assert found[50] == pytest.approx(0.2)
    assert found[TOTAL] == pytest.approx(0, abs=1e-15)


def test_warm_up_rises_linearly_to_the_full_rate_at_its_last_step() -> None:
    found = rates(ScheduleConfig(warmup_epochs=2))
    assert found[:20] == pytest.approx([0.02 * (step + 1) for step in range(20)])
    assert found[19:] == [0.4] * (TOTAL + 1 - 19)


def test_cosine_after_warm_up_falls_over_the_steps_that_remain() -> None:
    found = rates(ScheduleConfig(name="cosine", warmup_epochs=2))
    assert found[19] == found[20] == 0.4
    assert found[60] == pytest.approx(0.2)  # half way of the 80 steps after the warm-up
    assert found[TOTAL] == pytest.approx(0, abs=1e-15)


def test_a_fraction_of_an_epoch_is_rounded_to_steps() -> None:
    assert rates(ScheduleConfig(warmup_epochs=0.25))[:3] == pytest.approx([0.2, 0.4, 0.4])
    assert rates(ScheduleConfig(warmup_epochs=0.01))[0] == 0.4


def test_warm_up_as_long_as_the_run_or_longer() -> None:
    found = rates(ScheduleConfig(name="cosine", warmup_epochs=20))
    assert found == pytest.approx([0.4 * (step + 1) / 200 for step in range(TOTAL + 1)])
    exactly = rates(ScheduleConfig(name="cosine", warmup_epochs=10))
    assert exactly[TOTAL - 1] == 0.4
    assert math.isfinite(exactly[TOTAL])


@given(
    st.sampled_from(["constant", "cosine"]),
    st.floats(0, 12),
    st.floats(0, 100),
    st.integers(0, 400),
    st.integers(1, 40),
)
def test_a_rate_never_leaves_zero_to_the_base(name: str, warmup: float, base: float, step: int, per_epoch: int) -> None:
    config = ScheduleConfig(name=name, warmup_epochs=warmup)  # type: ignore[arg-type]
    assert 0 <= learning_rate(config, base, step, 10 * per_epoch, per_epoch) <= base
