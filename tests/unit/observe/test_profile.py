"""The profile on a clock that the test moves, and in a training run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from ddp.observe import passes as module
from ddp.observe.profile import Profile, table
from tests.unit.runs import CNN, MLP, Make, OpenRun, bits, change, records


@dataclass(frozen=True)
class Spec:
    size: int


class Clock:
    now = 100.0

    def perf_counter(self) -> float:
        return self.now


class Product:
    """A layer of 3 inputs, 2 outputs and 6 parameters whose passes take 1, 2 and 4 ms."""

    passes = ("forward", "backward_weight", "backward_input")
    input_shape, shape = (3,), (2,)

    def __init__(self, spend: Callable[[float], None]) -> None:
        self.spend = spend

    def parameter_specs(self) -> list[Spec]:
        return [Spec(6)]

    def pass_flops(self) -> int:
        return 12

    def forward(self, x: np.ndarray, training: bool) -> np.ndarray:
        self.spend(1e-3)
        return np.zeros((len(x), 2))

    def backward_weight(self, dy: np.ndarray) -> None:
        self.spend(2e-3)

    def backward_input(self, dy: np.ndarray) -> np.ndarray:
        self.spend(4e-3)
        return np.zeros((len(dy), 3))


class Identity(Product):
    """A layer that gives back what it got."""

    passes = ("forward",)

    def forward(self, x: np.ndarray, training: bool) -> np.ndarray:
        return x.reshape(len(x), -1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def product(clock: Clock) -> Product:
    return Product(lambda seconds: setattr(clock, "now", clock.now + seconds))


def test_rows_are_averages_of_a_step(product: Product) -> None:
    profile = Profile([product])
    for size in (10, 20):
        product.forward(np.zeros((size, 3)), True)
        product.backward_weight(np.zeros((size, 2)))
        product.backward_input(np.zeros((size, 2)))
    rows = profile.rows(peak_gflops=1e-3)
    assert [(row.layer, row.name) for row in rows] == [("0 Product", name) for name in Product.passes]
    assert [row.ms for row in rows] == pytest.approx([1, 2, 4])
    assert [row.flops for row in rows] == [15 * 12] * 3
    activations = 15 * (3 + 2) * 4
    assert [row.bytes for row in rows] == [activations + 6 * 4, activations + 6 * 8, activations + 6 * 4]
    assert [row.gflops for row in rows] == pytest.approx([1.8e-4, 0.9e-4, 0.45e-4])
    assert [row.fraction_of_peak for row in rows] == pytest.approx([0.18, 0.09, 0.045])
    assert table(rows)[-1].split() == ["all", "7.000"]


def test_evaluation_and_what_costs_nothing_are_left_out(product: Product) -> None:
    identity = Identity(product.spend)
    profile = Profile([identity, product])
    product.forward(identity.forward(np.zeros((4, 3)), False), False)
    assert profile.rows(1.0) == []
    product.forward(identity.forward(np.zeros((4, 3)), True), True)
    assert [row.layer for row in profile.rows(1.0)] == ["1 Product"]


def test_without_a_known_peak_there_is_no_fraction(product: Product) -> None:
    profile = Profile([product])
    product.forward(np.zeros((4, 3)), True)
    assert profile.rows(float("nan"))[0].fraction_of_peak is None


def test_a_profiled_run_trains_the_same_bits(make_trainer: Make, open_run: OpenRun, tmp_path: Path) -> None:
    plain, profiled = make_trainer(CNN), make_trainer(change(CNN, "output", profile=True))
    run = open_run(profiled, tmp_path)
    for trainer in (plain, profiled):
        trainer.warm_up()
        trainer.train()
    assert bits(plain) == bits(profiled)
    (event,) = records(run, "profile")
    passes = {(row["layer"], row["name"]): row for row in event["passes"]}
    assert ("0 Conv2d", "backward_input") not in passes  # the first layer's, which training skips
    assert ("1 ReLU", "forward") not in passes  # in the convolution's epilogue
    repeats = profiled.gradient.repeats  # of the first step, of 8 samples, until its gradients fit their scales
    assert repeats > 0
    samples = (3 * 44 + repeats * 8) / (3 * 6 + repeats)  # of an average pass
    assert passes["2 Conv2d", "forward"]["flops"] == pytest.approx(samples * 2 * 9 * 32 * 64 * 2 * 3)
    per_step = sum(row["flops"] for row in event["passes"])
    assert per_step == pytest.approx(samples * profiled.model.flops())
    assert sum(row["ms"] for row in event["passes"]) > 0


def test_without_it_no_layer_is_touched(make_trainer: Make, open_run: OpenRun, tmp_path: Path) -> None:
    trainer = make_trainer(MLP)
    run = open_run(trainer, tmp_path)
    trainer.train()
    assert all(name not in vars(layer) for layer in trainer.model.layers for name in layer.passes)
    assert "profile" not in {json.loads(line)["event"] for line in run.metrics.read_text().splitlines()}
