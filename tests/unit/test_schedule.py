"""Learning rates against closed forms, and against PyTorch's schedulers."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddp.config import BatchConfig, Config, OptimizerConfig, ScheduleConfig, TrainConfig
from ddp.schedule import SHAPES, describe, full_learning_rate, learning_rate

STEPS_PER_EPOCH, TOTAL = 10, 100


def rates(config: ScheduleConfig, base: float = 0.4) -> list[float]:
    return [learning_rate(config, base, step, TOTAL, STEPS_PER_EPOCH) for step in range(TOTAL + 1)]


# --- Closed forms -----------------------------------------------------------------------------------


def test_constant_is_constant() -> None:
    assert rates(ScheduleConfig()) == [0.4] * (TOTAL + 1)


def test_cosine_is_half_a_cosine() -> None:
    found = rates(ScheduleConfig(name="cosine"))
    assert found == pytest.approx([0.4 * math.cos(math.pi * step / TOTAL / 2) ** 2 for step in range(TOTAL + 1)])
    assert found[0] == 0.4
    assert found[50] == pytest.approx(0.2)
    assert found[TOTAL] == pytest.approx(0, abs=1e-15)


def test_step_multiplies_by_gamma_after_every_so_many_epochs() -> None:
    found = rates(ScheduleConfig(name="step", step_epochs=2.5, gamma=0.5))
    assert found == [0.4] * 25 + [0.2] * 25 + [0.1] * 25 + [0.05] * 25 + [0.025]
    each = rates(ScheduleConfig(name="step", step_epochs=0.01, gamma=0.5))  # less than a step
    assert each[:3] == [0.4, 0.2, 0.1]


def test_multi_step_multiplies_by_gamma_at_each_milestone() -> None:
    found = rates(ScheduleConfig(name="multi_step", milestones=(3, 6, 8), gamma=0.1))
    assert found == pytest.approx([0.4] * 30 + [0.04] * 30 + [0.004] * 20 + [0.0004] * 21)


def test_polynomial_falls_by_its_power_to_its_final_rate() -> None:
    line = rates(ScheduleConfig(name="polynomial"))
    assert line == pytest.approx([0.4 - 0.004 * step for step in range(TOTAL + 1)], abs=1e-15)
    square = rates(ScheduleConfig(name="polynomial", power=2, final_factor=0.25))
    assert square == pytest.approx([0.1 + 0.3 * (1 - step / TOTAL) ** 2 for step in range(TOTAL + 1)])


def test_one_cycle_rises_and_falls_once() -> None:
    found = rates(ScheduleConfig(name="one_cycle", start_factor=0.1, final_factor=0.01, pct_start=0.4))[:TOTAL]
    assert found[0] == pytest.approx(0.04)
    assert found[39] == max(found) == 0.4
    assert found[TOTAL - 1] == pytest.approx(0.004)
    assert found[:40] == sorted(found[:40])
    assert found[39:] == sorted(found[39:], reverse=True)


# --- Warm-up ----------------------------------------------------------------------------------------


def test_warm_up_rises_linearly_to_the_full_rate_at_its_last_step() -> None:
    found = rates(ScheduleConfig(warmup_epochs=2))
    assert found[:20] == pytest.approx([0.02 * (step + 1) for step in range(20)])
    assert found[19:] == [0.4] * (TOTAL + 1 - 19)


def test_warm_up_may_rise_from_the_rate_of_a_smaller_batch() -> None:
    found = rates(ScheduleConfig(warmup_epochs=3, start_factor=0.25))
    assert found[:30] == pytest.approx([0.1 + 0.01 * (step + 1) for step in range(30)])
    assert found[29] == pytest.approx(0.4)


def test_cosine_after_warm_up_falls_over_the_steps_that_remain() -> None:
    found = rates(ScheduleConfig(name="cosine", warmup_epochs=2))
    assert found[19] == found[20] == 0.4
    assert found[60] == pytest.approx(0.2)  # half way of the 80 steps after the warm-up
    assert found[TOTAL] == pytest.approx(0, abs=1e-15)


def test_milestones_count_from_the_first_step_also_in_a_warm_up() -> None:
    found = rates(ScheduleConfig(name="multi_step", warmup_epochs=2, milestones=(1, 5), gamma=0.5))
    assert found[9:11] == pytest.approx([0.4 * 10 / 20, 0.2 * 11 / 20])
    assert found[19:50] == [0.2] * 31
    assert found[50] == 0.1


def test_a_fraction_of_an_epoch_is_rounded_to_steps() -> None:
    assert rates(ScheduleConfig(warmup_epochs=0.25))[:3] == pytest.approx([0.2, 0.4, 0.4])
    assert rates(ScheduleConfig(warmup_epochs=0.01))[0] == 0.4


def test_warm_up_as_long_as_the_run_or_longer() -> None:
    found = rates(ScheduleConfig(name="cosine", warmup_epochs=20))
    assert found == pytest.approx([0.4 * (step + 1) / 200 for step in range(TOTAL + 1)])
    exactly = rates(ScheduleConfig(name="cosine", warmup_epochs=10))
    assert exactly[TOTAL - 1] == 0.4
    assert math.isfinite(exactly[TOTAL])


def test_rates_of_earlier_versions_have_kept_their_bits() -> None:
    """A run that goes on from an earlier version's checkpoint must compute what that would have computed."""
    for warmup, total in (0, 97), (7, 97), (13, 30):
        config = ScheduleConfig(name="cosine", warmup_epochs=warmup)
        for step in range(total):
            expected = 0.3 * (step + 1) / max(1, warmup)
            if step >= warmup:
                expected = 0.3 * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))
            assert learning_rate(config, 0.3, step, total, 1) == expected


NAMES = st.sampled_from([*SHAPES])
SHARES = st.floats(0, 1)


@given(NAMES, st.floats(0, 12), SHARES, SHARES, st.floats(0, 100), st.integers(0, 400), st.integers(1, 40))
def test_a_rate_never_leaves_zero_to_the_base(
    name: Any, warmup: float, start: float, final: float, base: float, step: int, per_epoch: int
) -> None:
    config = ScheduleConfig(
        name=name,
        warmup_epochs=0 if name == "one_cycle" else warmup,
        start_factor=start,
        final_factor=final,
        step_epochs=1.5,
        milestones=(0.5, 7),
    )
    assert 0 <= learning_rate(config, base, step, 10 * per_epoch, per_epoch) <= base * (1 + 1e-12)


@given(NAMES, st.integers(0, 3), st.floats(0.01, 0.99))
def test_the_shortest_runs_have_rates_too(name: Any, total: int, pct_start: float) -> None:
    config = ScheduleConfig(name=name, step_epochs=1, milestones=(1,), pct_start=pct_start)
    assert all(0 <= learning_rate(config, 1.0, step, total, 1) <= 1 for step in range(total + 2))


# --- PyTorch ----------------------------------------------------------------------------------------

SCHEDULES: dict[str, tuple[ScheduleConfig, str, dict[str, Any]]] = {
    "step": (ScheduleConfig(name="step", step_epochs=3, gamma=0.7), "StepLR", {"step_size": 30, "gamma": 0.7}),
    "multi_step": (
        ScheduleConfig(name="multi_step", milestones=(3, 6.5, 8), gamma=0.2),
        "MultiStepLR",
        {"milestones": [30, 65, 80], "gamma": 0.2},
    ),
    "cosine": (
        ScheduleConfig(name="cosine", final_factor=0.05),
        "CosineAnnealingLR",
        {"T_max": TOTAL, "eta_min": 0.02},
    ),
    "polynomial": (ScheduleConfig(name="polynomial", power=1.7), "PolynomialLR", {"total_iters": TOTAL, "power": 1.7}),
    "one_cycle": (
        ScheduleConfig(name="one_cycle", start_factor=0.04, final_factor=0.04e-4),
        "OneCycleLR",
        {"max_lr": 0.4, "total_steps": TOTAL},
    ),
    "one_cycle by its own numbers": (
        ScheduleConfig(name="one_cycle", start_factor=0.1, final_factor=0.001, pct_start=0.257),
        "OneCycleLR",
        {"max_lr": 0.4, "total_steps": TOTAL, "pct_start": 0.257, "div_factor": 10, "final_div_factor": 100},
    ),
    # Our warm-up reaches the full rate with its last step, PyTorch's with the one after.
    "warm-up": (
        ScheduleConfig(warmup_epochs=2),
        "LinearLR",
        {"start_factor": 1 / 20, "end_factor": 1, "total_iters": 19},
    ),
}


@pytest.mark.torch
@pytest.mark.parametrize("name", SCHEDULES)
def test_rates_are_those_of_pytorch(name: str) -> None:
    torch = pytest.importorskip("torch")
    config, scheduler_name, arguments = SCHEDULES[name]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.4)
    scheduler = getattr(torch.optim.lr_scheduler, scheduler_name)(optimizer, **arguments)
    expected = []
    for step in range(TOTAL):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step < TOTAL - 1:
            scheduler.step()
    assert rates(config)[:TOTAL] == pytest.approx(expected, rel=1e-9, abs=1e-12)


# --- The batch --------------------------------------------------------------------------------------


def config_of(size: int, **schedule: Any) -> Config:
    return Config(batch=BatchConfig(size=size), optimizer=OptimizerConfig(lr=0.1), schedule=ScheduleConfig(**schedule))


@pytest.mark.parametrize(
    ("size", "schedule", "rate"),
    [
        (4096, {}, 0.1),
        (4096, {"base_batch": 256}, 1.6),
        (128, {"base_batch": 256}, 0.05),
        (4096, {"base_batch": 256, "batch_scaling": "sqrt"}, 0.4),
        (64, {"base_batch": 256, "batch_scaling": "sqrt"}, 0.05),
        (64, {"base_batch": 64}, 0.1),
    ],
)
def test_the_full_rate_follows_the_batch_from_the_base_batch(size: int, schedule: Any, rate: float) -> None:
    assert full_learning_rate(config_of(size, **schedule)) == pytest.approx(rate)


def test_the_rates_are_described_on_one_line() -> None:
    config = Config(
        batch=BatchConfig(size=256),
        schedule=ScheduleConfig(name="multi_step", milestones=(1, 3), base_batch=64),
        train=TrainConfig(epochs=4),
    )
    assert describe(config) == "full learning rate 0.4; after epoch 0: 0.4, 1: 0.04, 2: 0.04, 3: 0.004, 4: 0.004"


@pytest.mark.parametrize(("epochs", "shown"), [(0, [0]), (1, [0, 1]), (25, [0, 3, 6, 9, 12, 15, 18, 21, 24, 25])])
def test_few_epochs_are_described_of_many(epochs: int, shown: list[int]) -> None:
    text = describe(Config(train=TrainConfig(epochs=epochs))).partition("after epoch ")[2]
    assert text == ", ".join(f"{epoch}: 0.1" for epoch in shown)
