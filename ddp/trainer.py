"""Synchronous data-parallel SGD: the loop, readable as the algorithm.

Each step, every rank computes the gradient sums of its logical shards, the reducer adds them over the
ranks, and all ranks apply the same update (slide "Stochastic Gradient Descent").
"""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ddp.checkpoint import (
    Checkpoint,
    check_same_run,
    checkpoint_path,
    delete_old_checkpoints,
    load_checkpoint,
    parameters_sha256,
    save_checkpoint,
    save_model,
)
from ddp.comm.failure import NonFiniteError
from ddp.comm.reducers import build_reducer
from ddp.comm.reports import ShardReports
from ddp.comm.world import World
from ddp.config import Config, to_dict
from ddp.data import Dataset, Sampler
from ddp.evaluation import Evaluation, Evaluator, evaluation_batch
from ddp.fixed_point import Verdict, build_scales
from ddp.kernels import jit
from ddp.kernels.peak import measure_peak_gflops
from ddp.kernels.types import Float32
from ddp.models import build_loss, build_model
from ddp.nn import Draws
from ddp.observe import profile
from ddp.observe.metrics import MetricsLog
from ddp.observe.parameter_log import ParameterLog
from ddp.observe.progress import Progress
from ddp.observe.timers import PHASES, PhaseTimers
from ddp.optim import build_optimizer, learning_rate
from ddp.partition import block_partition
from ddp.replicas import ReplicaCheck
from ddp.run_directory import RunDirectory


@dataclass(frozen=True)
class Batch:
    """A rank's part of a global batch."""

    inputs: Float32
    targets: npt.NDArray[Any]
    draws: Draws
    """What the step is, and where the rank's logical shards lie in its part."""
    rows: slice
    """The numbers of its shards among those of all ranks."""
    global_size: int
    """Samples of all ranks."""


class Trainer:
    """Trains one configured model; every rank has one, and all their methods are collective.

    Attributes:
        model: the network; its parameters are the same on every rank after every step.
        step: SGD steps done.
        total_steps: steps after which training ends.
        evaluation: the newest evaluation, if any.
    """

    def __init__(self, config: Config, world: World, dataset: Dataset) -> None:
        """Build everything that training needs; afterwards a step allocates nothing of batch or parameter size.

        Raises:
            ValueError: if model, data and batch do not fit each other; one line naming the field.
        """
        self.config, self.world, self.dataset = config, world, dataset
        self.sampler = Sampler(len(dataset.train), config.batch.size, config.batch.shards, config.seed)
        self._check_batch()
        sample_shape = dataset.train.sample_shape
        self.model = build_model(config.model, sample_shape, dataset.num_classes, config.seed, config.comm.exact)
        self.loss = build_loss(config.model)
        capacity = max(1, self.sampler.max_rank_samples(world.size))
        self.model.build(sample_shape, capacity)
        num_mine = len(block_partition(len(dataset.test), world.size, world.rank))
        at_once = evaluation_batch(capacity, self.model.workspace_bytes() // capacity, num_mine)
        if at_once > capacity:
            self.model.build(sample_shape, at_once)
        self.loss.build(self.model.output_shape[0], at_once)
        self.buffer = dataset.train.make_buffer(capacity)
        self.optimizer = build_optimizer(config.optimizer, self.model)
        self.reports = ShardReports(config.batch.shards, self.model.scales.size, self.model.num_statistics)
        self.scales = build_scales(config.comm.exact, self.model.scales, config.batch.shards)
        slices = self.model.parameter_slices.values()
        self.reducer = build_reducer(
            config.comm.reducer, world, self.model.gradient_sums, self.reports.integers, slices
        )
        check_every = 0 if config.comm.reducer == "dummy" else config.comm.check_every
        self.replicas = ReplicaCheck(world, check_every, self.model, self.optimizer, self.scales)
        self.evaluator = Evaluator(world, dataset.test, at_once)
        self.data_checksum = world.once_on_node(dataset.checksum)
        self.timers = PhaseTimers()
        self.profile: profile.Profile | None = None
        self.step, self.logged_step, self.evaluated_step = 0, 0, -1
        self.samples_done, self.samples_logged, self.train_s = 0, 0, 0.0
        self.batch_samples, self.grad_norm, self.lr, self.repeats = 0, 0.0, 0.0, 0
        self.evaluation: Evaluation | None = None
        self.peak_gflops = math.nan
        self.use_outputs(MetricsLog(None, time.perf_counter()), Progress(), None)

    def use_outputs(
        self, metrics: MetricsLog, progress: Progress, run: RunDirectory | None, log: ParameterLog | None = None
    ) -> None:
        """Say where events, progress, files and digests of parameters go; without this call nothing is written."""
        self.metrics, self.progress, self.run = metrics, progress, run
        self.parameter_log = log or ParameterLog(None)

    @property
    def threads(self) -> int:
        """Threads of this rank's kernels."""
        return jit.get_num_threads()

    @property
    def steps_per_epoch(self) -> int:
        """SGD steps of one pass over the training set."""
        return self.sampler.steps_per_epoch

    @property
    def total_steps(self) -> int:
        """SGD steps after which training ends."""
        steps = self.config.train.epochs * self.steps_per_epoch
        return min(steps, self.config.train.steps or steps)

    def warm_up(self) -> None:
        """Compile every kernel, by a step on samples of zeros, and measure the peak; the run's state stays as it is.

        Where the cache may lack a kernel, hold `ddp.kernels.jit.exclusive_cache`.
        """
        inputs = np.zeros_like(self.buffer.inputs[:1])
        targets = np.zeros_like(self.buffer.targets[:1])
        # Of the steps' own kind, read-only: Numba compiles anew for a writable array.
        draws = Draws(self.config.seed, 0, self.sampler.global_batch(0, 0)[:1], np.array([0, 1]))
        self.model.forward(inputs, training=False)
        self._compute_gradient(Batch(inputs, targets, draws, slice(0, 1), 1))
        self.reports.clear()
        self.optimizer.warm_up()
        self.peak_gflops = measure_peak_gflops()

    def train(self) -> None:
        """Run the steps that remain, evaluating, checkpointing and logging as configured.

        Raises:
            NonFiniteError: on all ranks, if a gradient is not finite and `train.on_nonfinite` is `stop`.
            DivergedError: on all ranks, if their parameters differ.
        """
        if self.config.output.profile:
            self.profile = profile.Profile(self.model.layers)
        self.parameter_log.write(self.step, self.model.state_dict)
        self.replicas.check(self.step)
        self.timers.take()
        while self.step < self.total_steps:
            self.train_step()
            self.parameter_log.write(self.step, self._step_values)
            if self.replicas.is_due(self.step) or self.step == self.total_steps or self._is_checkpoint_due():
                self.replicas.check(self.step)
            if self.step % self.config.output.log_every == 0 or self.step == self.total_steps:
                self._log_step()
            with self.timers.excluded():
                if self._is_due(self.config.train.evaluate_every):
                    self.evaluate()
                if self._is_checkpoint_due():
                    self.checkpoint()
        self._require_finite(bool(np.isfinite(self.model.parameters).all()), "the result of the last step")
        if self.config.train.evaluate_every and self.evaluated_step != self.step:
            self.evaluate()
        self._finish()

    def train_step(self) -> None:
        """One step of SGD: gather, forward, backward, reduce, update."""
        with self.timers.phase("data"):
            batch = self._gather()
        while True:
            with self.timers.phase("compute"):
                self._compute_gradient(batch)
            with self.timers.phase("comm"):
                self.reducer.reduce()
            largest = self.reports.largest.max(axis=0)
            verdict = self.scales.judge(largest)
            if verdict is not Verdict.REPEAT:
                break
            self.scales.adapt(largest, at_once=True)
            self.repeats += 1
        with self.timers.phase("update"):
            if self._is_gradient_finite(verdict):
                self._update(batch.global_size)
                self.scales.adapt(largest, at_once=False)
        self.step += 1
        self.batch_samples = batch.global_size
        self.samples_done += batch.global_size

    def _gather(self) -> Batch:
        """This rank's part of the step's global batch."""
        epoch, step_in_epoch = divmod(self.step, self.steps_per_epoch)
        indices = self.sampler.global_batch(epoch, step_in_epoch)
        size, rank, world_size = len(indices), self.world.rank, self.world.size
        mine = self.sampler.rank_range(size, rank, world_size)
        shards = self.sampler.rank_shards(size, rank, world_size)
        draws = Draws(self.config.seed, self.step, indices[mine.start : mine.stop], shards)
        inputs, targets = self.dataset.train.gather(draws.samples, self.buffer)
        return Batch(inputs, targets, draws, self.sampler.rank_rows(rank, world_size), size)

    def _compute_gradient(self, batch: Batch) -> None:
        """Forward and backward: the sums of the gradients of this rank's shards, and what the shards report."""
        shards, rows = batch.draws.shards, batch.rows
        assert shards is not None
        outputs = self.model.forward(batch.inputs, True, batch.draws)
        self.loss.forward(outputs, batch.targets)
        self.model.backward(self.loss.backward(), self.scales.leaves(shards), input_gradient=False)
        self.reports.clear()
        if rows.stop > rows.start:
            self.loss.write_shards(shards, self.reports.loss[rows])
            self.model.write_statistics(self.reports.statistics[rows])
            self.reports.largest[rows.start] = self.model.largest

    def _update(self, batch_size: int) -> None:
        """Apply the global gradient, which every rank has."""
        scale = 1 / batch_size if self.config.loss.reduction == "mean" else 1.0
        self.lr = self._learning_rate()
        self.grad_norm = self.optimizer.step(self.lr, np.float32(scale) * self.scales.inverses)
        self.model.update_statistics(self.reports.statistics)

    @property
    def loss_sum(self) -> float:
        """The sum of the losses of the last step's global batch."""
        return float(self.reports.loss.sum())

    def parameters_sha256(self) -> str:
        """SHA-256 of the present parameters, in state-dict order."""
        return parameters_sha256(self.model.state_dict())

    def checkpoint(self) -> None:
        """Write a checkpoint of the present step, from rank 0."""
        if self.run is None:
            return
        state = {name: self.model.to_state(buffer) for name, buffer in self.optimizer.state.items()}
        path = checkpoint_path(self.run.checkpoints, self.step)
        parameters = self.model.state_dict()
        save_checkpoint(path, Checkpoint(self.step, to_dict(self.config), self.data_checksum, parameters, state))
        delete_old_checkpoints(self.run.checkpoints, self.config.checkpoint.keep, path)
        self.metrics.write("checkpoint", path=str(path.relative_to(self.run.path)), step=self.step)

    def resume(self, path: Path) -> None:
        """Continue from a checkpoint, made on any number of ranks.

        Raises:
            CheckpointError: if it is damaged, or of a run that would have computed other numbers.
        """
        checkpoint = load_checkpoint(path)
        check_same_run(checkpoint, self.config, self.data_checksum, path)
        self.model.load_state_dict(checkpoint.parameters)
        for name, buffer in self.optimizer.state.items():
            self.model.from_state(checkpoint.optimizer.get(name, {}), buffer)
        self.step = self.logged_step = checkpoint.step

    def _check_batch(self) -> None:
        samples, batch = len(self.dataset.train), self.config.batch.size
        if batch > samples:
            raise ValueError(
                f"batch.size = {batch}: {self.dataset.name} has only {samples} training samples; use at most {samples}"
            )

    def _learning_rate(self) -> float:
        steps = self.config.train.epochs * self.steps_per_epoch
        return learning_rate(self.config.schedule, self.config.optimizer.lr, self.step, steps, self.steps_per_epoch)

    def _is_gradient_finite(self, verdict: Verdict) -> bool:
        """Whether the gradient is finite; ranks that reduced it agree, since all hold the same reports."""
        is_finite = verdict is Verdict.USE
        if not is_finite:
            self.grad_norm = math.nan
        self._require_finite(is_finite, f"the gradient of step {self.step + 1}")
        return is_finite

    def _require_finite(self, is_finite: bool, what: str) -> None:
        """Stop the run, on all ranks, at the first NaN or infinity, unless it is configured to go on."""
        if not is_finite and self.config.train.on_nonfinite == "stop":
            raise NonFiniteError(
                f"{what} has a NaN or an infinity; lower optimizer.lr (now {self.config.optimizer.lr}), or skip"
                " such steps with --train.on_nonfinite skip",
                agreed=self.config.comm.reducer != "dummy",
            )

    def _step_values(self) -> dict[str, Any]:
        """What a step has computed, and must be the same on any number of ranks."""
        return self.model.state_dict() | {
            "training loss": self.reports.loss.sum(),
            "gradient norm": np.float64(self.grad_norm),
        }

    def _is_due(self, every_epochs: int) -> bool:
        """Whether an epoch has just ended whose number is a multiple."""
        epochs, rest = divmod(self.step, self.steps_per_epoch)
        return every_epochs > 0 and rest == 0 and epochs % every_epochs == 0

    def _is_checkpoint_due(self) -> bool:
        every = self.config.checkpoint.every_steps
        return (every > 0 and self.step % every == 0) or self._is_due(self.config.checkpoint.every_epochs)

    def _log_step(self) -> None:
        seconds = self.timers.take()
        rows = self.world.all_gather_rows(np.array(seconds))
        steps, self.logged_step = self.step - self.logged_step, self.step
        milliseconds = rows.max(axis=0) * 1e3 / steps
        by_phase = dict(zip((*PHASES, "step"), milliseconds.tolist(), strict=True))
        loss = self.loss_sum / self.batch_samples
        self._require_finite(math.isfinite(loss), f"the loss of step {self.step}")
        samples_per_s = (self.samples_done - self.samples_logged) / float(seconds[-1])
        self.samples_logged = self.samples_done
        self.train_s += float(seconds[-1])
        epoch = self._epoch_of_last_step()
        self.progress.step(self.step, epoch, loss, samples_per_s)
        self.metrics.write(
            "step",
            step=self.step,
            epoch=epoch,
            loss=loss,
            lr=self.lr,
            grad_norm=self.grad_norm,
            samples_per_s=samples_per_s,
            step_ms=by_phase["step"],
            compute_ms=by_phase["compute"],
            comm_exposed_ms=by_phase["comm"],
            update_ms=by_phase["update"],
            data_ms=by_phase["data"],
            slowest_rank=int(rows[:, PHASES.index("compute")].argmax()),
        )

    def evaluate(self) -> Evaluation:
        """Evaluate the present parameters on the test split, and log the result."""
        result = self.evaluation = self.evaluator.evaluate(self.model, self.loss)
        self.evaluated_step, epoch = self.step, self._epoch_of_last_step()
        name, value = result.quality
        self.metrics.write(
            "eval",
            split="test",
            epoch=epoch,
            step=self.step,
            loss=result.loss,
            **{name: value},
            samples=result.samples,
        )
        self.progress.evaluation(epoch, result.loss, result.text())
        self.parameter_log.write(self.step, lambda: {"test loss": result.loss, f"test {name}": value})
        return result

    def _epoch_of_last_step(self) -> int:
        return -(-self.step // self.steps_per_epoch)

    def _report_profile(self, measured: profile.Profile) -> None:
        rows = measured.rows(self.peak_gflops)
        self.metrics.write("profile", passes=[dataclasses.asdict(row) for row in rows])
        for line in profile.table(rows):
            self.progress.message(line)

    def _finish(self) -> None:
        parameters = self.model.parameter_dict()
        if self.run is not None:
            save_model(self.run.model, self.model.state_dict(), parameters)
        if self.profile is not None:
            self._report_profile(self.profile)
        samples_per_s = self.samples_done / self.train_s if self.train_s else 0.0
        gflops = samples_per_s * self.model.flops() / self.world.size / 1e9
        self.metrics.write(
            "end",
            steps=self.step,
            epochs=self.step / self.steps_per_epoch,
            wall_s=time.perf_counter() - self.metrics.started,
            train_s=self.train_s,
            samples_per_s=samples_per_s,
            gflops_per_rank=gflops,
            peak_gflops_per_rank=self.peak_gflops,
            fraction_of_peak=gflops / self.peak_gflops,
            parameters_sha256=parameters_sha256(parameters),
        )
