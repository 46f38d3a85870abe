"""Small runs that the tests of the trainer share."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ddp.config import BatchConfig, Config, DataConfig, ModelConfig, OptimizerConfig, OutputConfig, TrainConfig
from ddp.run_directory import RunDirectory

if TYPE_CHECKING:
    from ddp.trainer import Trainer

Make = Callable[[Config], "Trainer"]
"""Builds a trainer on the configured data."""

OpenRun = Callable[..., RunDirectory]
"""`open_run(trainer, folder, resuming=False)` lets a trainer write into a run directory."""

# 44 samples in batches of 8: an epoch has 6 steps, the last with 4 samples for 8 shards.
DATA = DataConfig(name="synthetic", shape=(2, 6, 7), samples=44, classes=5)
MLP = Config(
    seed=3,
    model=ModelConfig(hidden=(24, 16), bias=True),
    data=DATA,
    batch=BatchConfig(size=8),
    optimizer=OptimizerConfig(lr=0.05, momentum=0.9, weight_decay=1e-3),
    train=TrainConfig(epochs=3),
    output=OutputConfig(log_every=4, name="run"),
)
CNN = dataclasses.replace(MLP, model=ModelConfig(name="mnist_cnn"))
# Batch normalisation, over shards of 1 and 2 samples.
VGG = dataclasses.replace(
    MLP,
    model=ModelConfig(name="vgg"),
    data=dataclasses.replace(DATA, shape=(1, 32, 32), samples=14),
    batch=BatchConfig(size=8, shards=5),
    train=TrainConfig(epochs=2),
)


def change(config: Config, section: str, **fields: Any) -> Config:
    return dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **fields)})


def bits(trainer: Trainer) -> bytes:
    arrays = [*trainer.model.state_dict().values(), *trainer.optimizer.state.values()]
    return b"".join(array.tobytes() for array in arrays)


def records(run: RunDirectory, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [line for line in lines if line["event"] == event]
