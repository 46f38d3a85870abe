"""Evaluation over all ranks: every sample counted exactly once."""

from __future__ import annotations

import math
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddp import evaluate
from ddp.comm.world import World
from ddp.config import BatchConfig, Config, DataConfig
from ddp.data import Dataset, Split, load_dataset
from ddp.evaluation import Evaluator
from ddp.kernels.jit import exclusive_cache
from ddp.models import build_loss, build_model
from ddp.trainer import Trainer

pytestmark = pytest.mark.mpi


class Echo:
    """A model whose output is its input."""

    def forward(self, x: Any, training: bool) -> Any:
        assert not training
        return x


class Targets:
    """A loss that tells which samples were seen, if their targets are different powers of two."""

    def forward(self, outputs: Any, targets: Any) -> None:
        self.sample_losses = targets.astype(np.float32)


class Outputs:
    """A loss that is the network's output."""

    def forward(self, outputs: Any, targets: Any) -> None:
        self.sample_losses = outputs[:, 0].copy()


# Fewer samples than ranks, as many, more by one; batches that divide a rank's part and batches that do not.
@pytest.mark.parametrize("samples", [1, 2, 3, 4, 5, 37])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_every_sample_is_counted_once(samples: int, batch_size: int, world: World) -> None:
    inputs = np.zeros((samples, 1), np.float32)
    split = Split(inputs, 2 ** np.arange(samples, dtype=np.int64), np.float32(1), np.float32(0))
    result = Evaluator(world, split, batch_size).evaluate(Echo(), Targets())  # type: ignore[arg-type]
    assert result.samples == samples
    assert round(result.loss * samples) == 2**samples - 1


def test_loss_and_accuracy_are_those_of_the_whole_split(world: World, alone: World) -> None:
    config = Config()
    dataset = load_dataset(DataConfig(name="digits"), 0)
    model = build_model(config.model, dataset.test.sample_shape, dataset.num_classes, seed=3)
    loss = build_loss(config.model)
    with exclusive_cache():  # the kernels may still be to compile
        by_one = Evaluator(alone, dataset.test, 50).evaluate(model, loss)
    result = Evaluator(world, dataset.test, 50).evaluate(model, loss)

    x = dataset.test.inputs.astype(np.float64) * dataset.test.scale + dataset.test.shift
    y = x.reshape(len(x), -1)
    weights = [weight.astype(np.float64) for weight in model.state_dict().values()]
    for weight in weights[:-1]:
        y = np.maximum(y @ weight.T, 0)
    y = y @ weights[-1].T
    t = dataset.test.targets
    losses = np.log(np.exp(y).sum(axis=1)) - y[np.arange(len(y)), t]
    assert result.samples == len(t) == 359
    assert result.accuracy == np.count_nonzero(y.argmax(axis=1) == t) / len(t)
    assert result.loss == pytest.approx(losses.mean(), rel=1e-5)
    assert by_one == result
    counted = Evaluator(world, dataset.test, 33, dataset.num_classes).evaluate(model, loss)
    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (t, y.argmax(axis=1)), 1)
    assert counted.confusion == tuple(map(tuple, confusion.tolist()))
    assert (counted.loss, counted.accuracy) == (result.loss, result.accuracy)
    assert counted.class_accuracy == tuple((confusion.diagonal() / confusion.sum(axis=1)).tolist())


def test_of_very_many_classes_no_matrix_is_counted(world: World, tmp_path: Path) -> None:
    """That of 100,000 would take 40 GB. The outputs, which are the inputs, tell few classes apart."""
    labels = np.array([99_999, 1, 0, 2, 1, 1, 2])
    scores = np.eye(3, dtype=np.float32)[[0, 1, 0, 1, 1, 2, 2]]  # the argmax of each
    split = Split(scores[:, :, None, None], labels, np.float32(1), np.float32(0))
    model = types.SimpleNamespace(forward=lambda x, training: x.reshape(len(x), 3))
    result = Evaluator(world, split, 2, 100_000).evaluate(model, Outputs())  # type: ignore[arg-type]
    assert (result.confusion, result.accuracy, len(result.class_samples)) == ((), 4 / 7, 100_000)
    assert [*result.class_samples[:4], result.class_samples[-1]] == [1, 3, 2, 0, 1]
    assert [*result.class_right[:4], result.class_right[-1]] == [1, 2, 1, 0, 0]
    assert [*result.class_accuracy[:4], result.class_accuracy[-1]] == [1, 2 / 3, 1 / 2, None, 0]
    dataset = Dataset("npz", split, split, 100_000)
    record = evaluate.to_record(result, dataset, tmp_path)
    assert "confusion" not in record
    rows = [line.split() for line in evaluate.lines(record)]
    assert [rows[3], rows[4], rows[6]] == [["0", "1", "1", "100.00%"], ["1", "3", "2", "66.67%"], ["3", "0", "0"]]


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_the_result_has_the_same_bits_on_any_number_of_ranks_and_in_any_batches(
    batch_size: int, world: World, alone: World
) -> None:
    """Losses of very different sizes, the sum of which rounds differently in any other order."""
    samples = 101
    losses = np.exp(np.random.default_rng(3).normal(scale=10, size=(samples, 1))).astype(np.float32)
    split = Split(losses, np.zeros((samples, 1), np.float32), np.float32(1), np.float32(0))
    found = {
        Evaluator(ranks, split, size).evaluate(Echo(), Outputs())  # type: ignore[arg-type]
        for ranks, size in ((alone, samples), (world, batch_size))
    }
    assert len(found) == 1
    assert found.pop().loss == pytest.approx(math.fsum(losses[:, 0]) / samples, rel=1e-14)
    assert losses[:, 0].sum(dtype=np.float64) != losses[::-1, 0].sum(dtype=np.float64)


def test_a_trainer_evaluates_in_as_many_rounds_on_every_rank(world: World) -> None:
    """Parts of a small split differ by a sample, and batches no larger than a part are chosen for them."""
    data = DataConfig(name="synthetic", shape=(1, 4, 4), samples=93)
    trainer = Trainer(Config(data=data, batch=BatchConfig(size=8)), world, load_dataset(data, 0))
    assert len(set(world.comm.allgather(trainer.evaluator.rounds))) == 1
    assert trainer.evaluator.batch_size == -(-len(trainer.dataset.test) // world.size)
