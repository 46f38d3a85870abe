"""The gradient noise scale: its estimates against the paper's formulas, and against all single samples' gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddp import nn
from ddp.noise_scale import DECAY, NoiseScale
from ddp.partition import block_partition
from tests.unit.runs import CNN, MLP, VGG, Make, OpenRun, bits, change, records


def add(scale: NoiseScale, gradients: Any) -> None:
    """A step with the gradients of its samples: (B, N)."""
    shards = [block_partition(len(gradients), scale.num_shards, shard) for shard in range(scale.num_shards)]
    sums = [gradients[shard.start : shard.stop].sum(axis=0) for shard in shards]
    squares, norm = np.array([each @ each for each in sums]), float(np.linalg.norm(gradients.sum(axis=0)))
    scale.add(len(gradients), squares, norm)


def test_a_step_gives_the_formulas_of_the_paper() -> None:
    """McCandlish et al., appendix A.1, of 4 shards with 8 samples each."""
    small, big = 8, 32
    gradients = np.random.default_rng(0).standard_normal((big, 50)) + 0.5
    parts = gradients.reshape(4, small, 50).mean(axis=1)
    of_small, of_big = (parts**2).sum(axis=1).mean(), np.linalg.norm(gradients.mean(axis=0)) ** 2
    signal = (big * of_big - small * of_small) / (big - small)
    noise = (of_small - of_big) / (1 / small - 1 / big)
    scale = NoiseScale(1, 4)
    assert scale.value is None
    add(scale, gradients)
    assert scale.value == pytest.approx(noise / signal)


@pytest.mark.parametrize(("samples", "num_shards"), [(30, 4), (5, 8), (2, 2), (64, 8)])
def test_estimates_are_right_on_average_also_of_uneven_and_empty_shards(samples: int, num_shards: int) -> None:
    """Of gradients that scatter by 3 around 1 in each of 6 directions."""
    generator, scale = np.random.default_rng(1), NoiseScale(1, num_shards)
    noises, signals = [], []
    for _ in range(6000):
        scale.noise = scale.signal = 0.0
        add(scale, 1 + 3 * generator.standard_normal((samples, 6)))
        noises.append(scale.noise / (1 - DECAY))
        signals.append(scale.signal / (1 - DECAY))
    for found, true in (noises, 6 * 9), (signals, 6):
        error = np.std(found) / np.sqrt(len(found))
        assert abs(np.mean(found) - true) < 4 * error
        assert error < 0.1 * true


def test_one_sample_that_outweighs_all_others_is_noise_and_no_signal() -> None:
    gradients = np.zeros((32, 3))
    gradients[5] = 100, 0, 0
    scale = NoiseScale(1, 4)
    add(scale, gradients)
    assert scale.signal == pytest.approx(0, abs=1e-9)
    assert scale.noise / (1 - DECAY) == pytest.approx(100**2 / 32)


def test_the_running_means_settle() -> None:
    generator, scale = np.random.default_rng(2), NoiseScale(1, 8)
    for _ in range(100):
        add(scale, 1 + 3 * generator.standard_normal((64, 40)))
    assert scale.value == pytest.approx(9, rel=0.25)


def test_what_cannot_be_estimated_is_left_out() -> None:
    scale = NoiseScale(1, 4)
    scale.add(1, np.array([3.0, 0, 0, 0]), 3**0.5)  # one shard with samples
    scale.add(4, np.array([np.inf, 1, 1, 1]), 1.0)
    scale.add(4, np.ones(4), float("nan"))
    assert (scale.noise, scale.signal, scale.value) == (0, 0, None)
    scale.add(4, np.ones(4), 0.1)  # they nearly cancel each other: all is noise
    assert scale.noise > 0
    assert scale.value is None


def test_it_is_measured_every_so_many_steps() -> None:
    assert [step for step in range(10) if NoiseScale(3, 2).is_due(step)] == [2, 5, 8]
    assert not any(NoiseScale(0, 2).is_due(step) for step in range(10))


def true_noise_scale(trainer: Any) -> float:
    """tr(Sigma) / |G|^2 by the gradient of every training sample alone."""
    train = trainer.dataset.train
    gradients = []
    for sample in range(len(train)):
        inputs, targets = train.gather(np.array([sample]), train.make_buffer(1))
        trainer.loss.forward(trainer.model.forward(inputs, True, nn.Draws(0, 0, np.array([sample]))), targets)
        trainer.model.backward(trainer.loss.backward(), np.array([0, 1]), input_gradient=False)
        gradients.append(np.concatenate([leaf.ravel() for leaf in trainer.model.gradient_dict().values()]))
    mean = np.mean(gradients, axis=0, dtype=np.float64)
    return float(np.var(gradients, axis=0, dtype=np.float64).sum() / (mean @ mean))


@pytest.mark.parametrize("exact", [True, False])
def test_it_is_that_of_all_single_samples(exact: bool, make_trainer: Make) -> None:
    """At a learning rate of 0 every step measures the same parameters."""
    config = change(change(MLP, "optimizer", lr=0.0), "output", noise_scale_every=1)
    config = change(change(config, "train", epochs=60), "data", samples=400)
    trainer = make_trainer(change(change(config, "batch", size=40, shards=8), "comm", exact=exact))
    trainer.train()
    assert trainer.noise.value == pytest.approx(true_noise_scale(trainer), rel=0.25)


@pytest.mark.parametrize("config", [MLP, CNN, VGG], ids=["mlp", "mnist_cnn", "vgg"])
def test_measuring_changes_no_bit_and_is_recorded(
    config: Any, make_trainer: Make, open_run: OpenRun, tmp_path: Path
) -> None:
    plain = make_trainer(change(config, "output", log_every=2))
    run = open_run(plain, tmp_path / "plain")
    plain.train()
    assert not any("noise_scale" in record for record in records(run, "step"))
    measured = make_trainer(change(config, "output", log_every=2, noise_scale_every=2))
    run = open_run(measured, tmp_path / "measured")
    measured.warm_up()
    measured.train()
    assert bits(measured) == bits(plain)
    found = [record["noise_scale"] for record in records(run, "step")]
    assert found[-1] == measured.noise.value
    assert all(value is None or value > 0 for value in found)
    assert any(found)


def test_the_sum_of_losses_has_the_scale_of_their_mean(make_trainer: Make) -> None:
    config = change(change(MLP, "optimizer", lr=0.0), "output", noise_scale_every=1)
    values = []
    for reduction in ("mean", "sum"):
        trainer = make_trainer(change(config, "loss", reduction=reduction))
        for _ in range(5):
            trainer.train_step()
        values.append((trainer.noise.noise, trainer.noise.signal))
    assert values[0] == pytest.approx(values[1])
