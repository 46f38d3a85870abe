"""What a run is: frozen dataclasses, filled from defaults, then a TOML file, then the command line.

Every field is `section.field` in all three places. Command line and TOML are read by jsonargparse
(docs/decisions/0002-configuration-library.md says why); this module says which fields there are, which
values make sense, and turns what is wrong into one line that names the value and the fix.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

LARGEST = 10**9
"""Above every size that makes sense, below those that overflow before memory runs out."""
MAX_THREADS = 1024


class ConfigError(ValueError):
    """A mistake in the command line or the configuration: one line with the value and the fix."""


def _require(condition: bool, name: str, value: object, fix: str) -> None:
    if not condition:
        raise ConfigError(f"{name} = {value}: {fix}")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network."""

    name: Literal["polynomial", "mlp", "mnist_cnn", "vgg"] = "mlp"
    """polynomial: linear regression; mlp: softmax(W2 ReLU(W1 ReLU(W0 x))); mnist_cnn: 2 convolutions, 2 linear; vgg:
    8 or 13 convolutions with batch normalisation."""
    degree: int = 2
    """Degree of `polynomial`."""
    hidden: tuple[int, ...] = (512, 512)
    """Widths of the hidden layers of `mlp`, in units."""
    bias: bool = False
    """Whether the layers of `mlp` add a bias; the slides' do not."""
    dropout: bool = True
    """Whether `mnist_cnn` (ratios 0.25 and 0.5) and `vgg` of depth 16 (0.3, 0.4 and 0.5) drop out activations."""
    depth: int = 11
    """Depth of `vgg`: 11 (8 convolutions, 1 linear layer) or 16 (13 convolutions, 2 linear layers)."""
    convolution: Literal["auto", "direct", "winograd"] = "auto"
    """How 3x3 convolutions are computed; auto: by the fewer operations, layer by layer (docs/performance.md)."""

    def __post_init__(self) -> None:
        _require(0 <= self.degree <= 1000, "model.degree", self.degree, "use 0 to 1000")
        _require(self.depth in (11, 16), "model.depth", self.depth, "use 11 or 16")
        fix = f"every width must be 1 to {LARGEST}"
        _require(all(1 <= width <= LARGEST for width in self.hidden), "model.hidden", list(self.hidden), fix)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The training and test data."""

    name: Literal["digits", "mnist", "fashion_mnist", "cifar10", "synthetic", "polynomial"] = "digits"
    """digits: embedded 8x8; mnist, fashion_mnist: IDX files; cifar10: its binary files; synthetic: generated images;
    polynomial: generated."""
    root: str = ""
    """Directory of the data set's files; empty: search the usual places."""
    shape: tuple[int, int, int] = (1, 28, 28)
    """Channels, height and width of a `synthetic` image, in pixels."""
    samples: int = 1000
    """Training samples of `synthetic` and `polynomial`."""
    classes: int = 10
    """Classes of `synthetic`."""
    coefficients: tuple[float, ...] = (1.0, -2.0, 3.0)
    """Generating coefficients of `polynomial`, constant term first."""
    noise: float = 0.1
    """Standard deviation of the noise on the targets of `polynomial`."""

    def __post_init__(self) -> None:
        _require(1 <= self.samples <= LARGEST, "data.samples", self.samples, f"use 1 to {LARGEST}")
        _require(2 <= self.classes <= LARGEST, "data.classes", self.classes, f"use 2 to {LARGEST}")
        fix = f"every size must be 1 to {LARGEST}"
        _require(all(1 <= size <= LARGEST for size in self.shape), "data.shape", list(self.shape), fix)
        fix = "give at least one coefficient, all finite"
        usable = len(self.coefficients) >= 1 and all(map(math.isfinite, self.coefficients))
        _require(usable, "data.coefficients", list(self.coefficients), fix)
        _require(0 <= self.noise < math.inf, "data.noise", self.noise, "use a finite number, 0 or more")


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """The global minibatch."""

    size: int = 64
    """Samples of one SGD step, over all ranks."""
    shards: int = 8
    """Logical shards of a step, dealt to the ranks in contiguous runs; more ranks than shards leaves ranks idle."""

    accumulation: int = 1
    """Micro-batches in which a rank computes its shards of a step, one after the other: memory for less than all."""

    def __post_init__(self) -> None:
        _require(self.size >= 1, "batch.size", self.size, "a step needs at least 1 sample")
        _require(self.shards >= 1, "batch.shards", self.shards, "use 1 or more")
        fix = f"more shards than the {self.size} samples of batch.size; use at most {self.size}"
        _require(self.shards <= self.size, "batch.shards", self.shards, fix)
        fix = f"a shard is not divided: use 1 to the {self.shards} of batch.shards, or more shards"
        _require(1 <= self.accumulation <= self.shards, "batch.accumulation", self.accumulation, fix)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The objective."""

    reduction: Literal["mean", "sum"] = "mean"
    """Whether a step descends the mean loss of its samples, or their sum as the slides write it."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The update rule."""

    name: Literal["sgd"] = "sgd"
    """sgd: as torch.optim.SGD."""
    lr: float = 0.1
    """Learning rate (the slides' eta)."""
    momentum: float = 0.9
    """Momentum factor; 0: the slides' plain SGD."""
    nesterov: bool = False
    """Whether momentum looks ahead (Nesterov)."""
    weight_decay: float = 0.0
    """L2 penalty: weight_decay * w is added to the gradient."""
    clip_norm: float = 0.0
    """Largest norm of the gradient of all parameters: a longer one is scaled down to it; 0: no limit."""

    def __post_init__(self) -> None:
        _require(0 <= self.lr < math.inf, "optimizer.lr", self.lr, "use a finite number, 0 or more")
        _require(0 <= self.momentum < 1, "optimizer.momentum", self.momentum, "use a value in [0, 1)")
        fix = "use a finite number, 0 or more"
        _require(0 <= self.weight_decay < math.inf, "optimizer.weight_decay", self.weight_decay, fix)
        _require(0 <= self.clip_norm < math.inf, "optimizer.clip_norm", self.clip_norm, fix)
        fix = "needs optimizer.momentum above 0"
        _require(not self.nesterov or self.momentum > 0, "optimizer.nesterov", "true", fix)


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How the learning rate changes."""

    name: Literal["constant", "cosine"] = "constant"
    """constant: optimizer.lr throughout; cosine: from optimizer.lr to 0 at the last step, along half a cosine."""
    warmup_epochs: float = 0.0
    """Epochs over which the learning rate first rises linearly to its full value."""

    def __post_init__(self) -> None:
        fix = f"use 0 to {LARGEST}"
        _require(0 <= self.warmup_epochs <= LARGEST, "schedule.warmup_epochs", self.warmup_epochs, fix)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long to train and when to look."""

    epochs: int = 20
    """Passes over the training set."""
    steps: int = 0
    """SGD steps after which to end early; 0: run all epochs."""
    evaluate_every: int = 1
    """Epochs between evaluations on the test set; 0: never."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """What to do when a gradient has a NaN or an infinity: stop with exit code 3, or skip that update."""

    def __post_init__(self) -> None:
        _require(self.epochs >= 0, "train.epochs", self.epochs, "use 0 or more")
        _require(self.steps >= 0, "train.steps", self.steps, "use 0 or more")
        _require(self.evaluate_every >= 0, "train.evaluate_every", self.evaluate_every, "use 0 or more")


@dataclass(frozen=True, kw_only=True)
class CommConfig:
    """How gradients are combined."""

    exact: bool = True
    """Whether gradients are summed in fixed point, with the same bits on any number of ranks; else in float32."""
    reducer: Literal["auto", "naive", "flat", "bucketed", "node_shared", "sharded", "dummy"] = "auto"
    """naive: one Allreduce a parameter; flat: one for all; bucketed: several, while backward computes; node_shared: one
    copy of the parameters a node; sharded: each rank updates a part; dummy: none, the bound (ranks then diverge); auto:
    the fastest of flat, node_shared, bucketed and sharded in the first steps."""
    bucket_mb: float = 1.0
    """Largest part of the gradient that `bucketed` sends at once, in 2**20 bytes."""
    compression: Literal["none", "bf16", "fp16"] = "none"
    """none: gradients are sent as they are; bf16, fp16: in 16 bits, with what is lost kept for the next step."""
    sync_every: int = 1
    """Steps that a rank takes by itself before the ranks' parameters are averaged, at the end of an epoch and of the
    run too (local SGD); logs, checks, checkpoints and stops wait for that. 1: gradients are summed in every step."""
    check_every: int = 100
    """Steps between comparisons of all ranks' parameters, done before each checkpoint and at the end too; 0: never."""
    timeout_s: float = 300.0
    """Seconds after which a collective that does not finish ends the run, naming the missing ranks, while it trains;
    while it loads and compiles, 300 or this, whichever is longer; 0: never."""

    def __post_init__(self) -> None:
        _require(self.check_every >= 0, "comm.check_every", self.check_every, "use 0 or more")
        _require(0 < self.bucket_mb <= 1024, "comm.bucket_mb", self.bucket_mb, "use a number above 0, up to 1024")
        fix = f"comm.compression = {self.compression} needs auto or flat; or use comm.compression = none"
        is_simple = self.reducer in ("auto", "flat")
        _require(is_simple or self.compression == "none", "comm.reducer", self.reducer, fix)
        _require(self.sync_every >= 1, "comm.sync_every", self.sync_every, "use 1 or more")
        fix = f"comm.sync_every = {self.sync_every} needs auto or flat; or use comm.sync_every = 1"
        _require(is_simple or self.sync_every == 1, "comm.reducer", self.reducer, fix)
        fix = f"no gradients are sent with comm.sync_every = {self.sync_every}; use none, or comm.sync_every = 1"
        _require(self.compression == "none" or self.sync_every == 1, "comm.compression", self.compression, fix)
        # The longest wait in good order is for a rank that compiles: 40 s on one core.
        fix = "use 1 s or more, or 0 for never"
        _require(self.timeout_s == 0 or 1 <= self.timeout_s < math.inf, "comm.timeout_s", self.timeout_s, fix)

    @property
    def sums_exactly(self) -> bool:
        """Whether gradients are summed in fixed point: `exact`, and nothing is configured that cannot be."""
        return self.exact and self.compression == "none" and self.sync_every == 1


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """What is kept to resume from."""

    every_steps: int = 0
    """Steps between checkpoints; 0: none by steps."""
    every_epochs: int = 1
    """Epochs between checkpoints; 0: none by epochs."""
    keep: int = 2
    """Newest checkpoints kept; 0: all."""
    grace_s: float = 30.0
    """Seconds from SIGTERM or SIGUSR1 within which the run ends; 0.1 or more."""

    def __post_init__(self) -> None:
        _require(self.every_steps >= 0, "checkpoint.every_steps", self.every_steps, "use 0 or more")
        _require(self.every_epochs >= 0, "checkpoint.every_epochs", self.every_epochs, "use 0 or more")
        _require(self.keep >= 0, "checkpoint.keep", self.keep, "use 0 or more")
        fix = "use a finite number of seconds, 0.1 or more"
        _require(0.1 <= self.grace_s < math.inf, "checkpoint.grace_s", self.grace_s, fix)


@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """Where results go."""

    dir: str = "runs"
    """Directory that holds run directories."""
    name: str = ""
    """Name of this run's directory; empty: <model>-<data>-<time>."""
    log_every: int = 10
    """Steps between `step` records in metrics.jsonl."""
    profile: bool = False
    """Whether to time every layer, and end with a table of time, operations, bytes and fraction of peak."""
    trace: bool = False
    """Whether each rank writes what it does when into trace-rankNNNNN.json (docs/tracing.md)."""

    def __post_init__(self) -> None:
        _require(self.log_every >= 1, "output.log_every", self.log_every, "use 1 or more")
        fix = "use a single directory name, printable and without a slash"
        is_name = "/" not in self.name and self.name not in (".", "..") and self.name.isprintable()
        _require(is_name, "output.name", repr(self.name), fix)


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
        _require(0 <= self.seed < 2**64, "seed", self.seed, "use 0 to 2**64 - 1")
        _require(0 <= self.threads <= MAX_THREADS, "threads", self.threads, f"use 0 to {MAX_THREADS}")
        regression = {"polynomial"}
        fix = f"does not fit model.name = {self.model.name}; use polynomial for both or for neither"
        matching = (self.model.name in regression) == (self.data.name in regression)
        _require(matching, "data.name", self.data.name, fix)


def to_dict(config: Config) -> dict[str, Any]:
    """The configuration as nested dictionaries of plain values, tuples as lists, in field order."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return list(value) if isinstance(value, tuple) else value

    result: dict[str, Any] = plain(dataclasses.asdict(config))
    return result
