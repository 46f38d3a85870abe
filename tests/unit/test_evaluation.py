"""Batches of evaluation are its own: large enough to be fast, small enough for memory, without effect on results."""

from __future__ import annotations

import numpy as np
import pytest

from ddp.evaluation_batch import LARGEST_BATCH, LARGEST_WORKSPACE, batch_without_training, evaluation_batch
from ddp.models import build_model
from tests.unit.runs import CNN, MLP, Make, change


@pytest.mark.parametrize(
    ("training", "bytes_per_sample", "samples", "expected"),
    [
        (1, 1000, 10_000, LARGEST_BATCH),
        (1, 1000, 5, 5),
        (1, LARGEST_WORKSPACE // 10, 10_000, 10),
        (1, 2 * LARGEST_WORKSPACE, 10_000, 1),
        (500, 1000, 10_000, 500),  # never less than training's own
        (500, 1000, 0, 500),
        (1, 0, 10_000, LARGEST_BATCH),
    ],
)
def test_the_size_of_batches(training: int, bytes_per_sample: int, samples: int, expected: int) -> None:
    assert evaluation_batch(training, bytes_per_sample, samples) == expected


def test_weights_in_another_order_do_not_make_batches_small() -> None:
    """A sample of 42 pixels takes little, the 3x3 weights of 64 x 32 channels much."""
    model = build_model(CNN.model, (1, 6, 7), 5, seed=0)
    assert batch_without_training(model, (1, 6, 7), 1000) == LARGEST_BATCH
    model.build((1, 6, 7), LARGEST_BATCH)
    assert model.workspace_bytes() < LARGEST_WORKSPACE


def test_training_in_small_batches_does_not_evaluate_in_them(make_trainer: Make) -> None:
    config = change(change(MLP, "data", samples=400), "batch", size=1, shards=1)
    trainer, other = make_trainer(config), make_trainer(change(config, "batch", size=40))
    assert len(trainer.dataset.test) == 81
    assert (trainer.evaluator.batch_size, other.evaluator.batch_size) == (64, 64)
    assert trainer.loader.capacity == 1  # training's own stays as small
    for _ in range(3):
        trainer.train_step()
    other.model.load_state_dict(trainer.model.state_dict())
    assert trainer.evaluate() == other.evaluate()


def test_results_do_not_depend_on_the_batches(make_trainer: Make) -> None:
    trainer = make_trainer(change(MLP, "data", samples=93))  # 19 test samples
    trainer.train_step()
    results = set()
    for size in (1, 2, 7, 19):
        trainer.evaluator.batch_size = size
        results.add(trainer.evaluate())
    assert len(results) == 1
    assert np.isfinite(results.pop().loss)
