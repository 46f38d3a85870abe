"""What a run is: frozen dataclasses, filled from defaults, then a TOML file, then the command line.

Every field is `section.field` in all three places. Command line and TOML are read by jsonargparse
(docs/decisions/0002-configuration-library.md says why); this package says which fields there are, which
values make sense, and turns what is wrong into one line that names the value and the fix.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from ddp.config.checks import LARGEST, ConfigError, require
from ddp.config.comm import CommConfig
from ddp.config.data import DataConfig
from ddp.config.model import ModelConfig
from ddp.config.optimizer import OptimizerConfig
from ddp.config.output import CheckpointConfig, OutputConfig
from ddp.config.schedule import ScheduleConfig
from ddp.config.training import BatchConfig, LossConfig, TrainConfig

__all__ = [
    "LARGEST",
    "BatchConfig",
    "CheckpointConfig",
    "CommConfig",
    "Config",
    "ConfigError",
    "DataConfig",
    "LossConfig",
    "ModelConfig",
    "OptimizerConfig",
    "OutputConfig",
    "ScheduleConfig",
    "TrainConfig",
    "to_dict",
]

MAX_THREADS = 1024


@dataclass(frozen=True, kw_only=True)
class Config:
    """The whole run."""

    seed: int = 0
    """Key of every random draw: initialisation, shuffle, dropout, generated data."""
    threads: int = 0
    """Threads of a rank's kernels; 0: the cores of the node divided by its ranks."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    comm: CommConfig = field(default_factory=CommConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    output: OutputConfig = field(default_factory=OutputConfig)

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**64, "seed", self.seed, "use 0 to 2**64 - 1")
        require(0 <= self.threads <= MAX_THREADS, "threads", self.threads, f"use 0 to {MAX_THREADS}")
        regression = {"polynomial"}
        fix = f"does not fit model.name = {self.model.name}; use polynomial for both or for neither"
        matching = (self.model.name in regression) == (self.data.name in regression)
        require(matching, "data.name", self.data.name, fix)
        base = self.schedule.base_batch
        fix = "a loss that is summed over the batch scales the step by itself; use 0, or loss.reduction = mean"
        require(not base or self.loss.reduction == "mean", "schedule.base_batch", base, fix)
        every = self.output.noise_scale_every
        fix = f"batch.shards = {self.batch.shards} has no noise between shards; use 2 shards or more, or 0"
        require(not every or self.batch.shards >= 2, "output.noise_scale_every", every, fix)
        sums = self.comm.sync_every == 1 and self.comm.reducer != "dummy"
        fix = "needs the gradients of all ranks: comm.sync_every = 1, and a comm.reducer other than dummy; or use 0"
        require(not every or sums, "output.noise_scale_every", every, fix)
        fix = "needs the gradients as they are, not rounded: comm.compression = none; or use 0"
        require(not every or self.comm.compression == "none", "output.noise_scale_every", every, fix)


def to_dict(config: Config) -> dict[str, Any]:
    """The configuration as nested dictionaries of plain values, tuples as lists, in field order."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return list(value) if isinstance(value, tuple) else value

    result: dict[str, Any] = plain(dataclasses.asdict(config))
    return result
