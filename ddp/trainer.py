"""Synchronous data-parallel SGD: the loop, readable as the algorithm.

Each step, every rank computes the gradient sums of its logical shards, the reducer adds them over the
ranks, and all ranks apply the same update (slide "Stochastic Gradient Descent").
"""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ddp.checkpoint import parameters_sha256
from ddp.checkpoint_writer import CheckpointWriter
from ddp.comm.agreement import GO_ON, WRITE_FAILED, Agreement, StopAgreed
from ddp.comm.failure import NonFiniteError
from ddp.comm.reducers import Reducer, applicable_rungs
from ddp.comm.signals import StopSignals
from ddp.comm.world import World
from ddp.config import Config
from ddp.data import Augmentation, Dataset, Loader, MicroBatch, Sampler
from ddp.evaluation import Evaluation, Evaluator
from ddp.evaluation_batch import evaluation_batch
from ddp.global_gradient import GlobalGradient, Sweep
from ddp.kernels import jit
from ddp.kernels.peak import measure_peak_gflops
from ddp.kernels.types import Float32
from ddp.local_sgd import LocalSGD
from ddp.models import build_loss, build_model
from ddp.nn import Draws
from ddp.noise_scale import NoiseScale
from ddp.observe import profile
from ddp.observe.metrics import MetricsLog
from ddp.observe.parameter_log import ParameterLog
from ddp.observe.progress import Progress
from ddp.observe.timers import PhaseTimers
from ddp.optim import Optimizer, num_states
from ddp.partition import block_partition
from ddp.recovery import Recovery
from ddp.reducer_choice import ReducerTrials
from ddp.run_directory import RunDirectory
from ddp.shared_update import SharedUpdate
from ddp.step_log import StepLog
from ddp.timetable import Timetable


class Trainer:
    """Trains one configured model; every rank has one, and all their methods are collective.

    Attributes:
        model: the network; its parameters are the same on every rank after every step, by local SGD after some.
        step: SGD steps done.
        synced_step: the last of them that the loop has dealt with after which all ranks had the same parameters.
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
        self.timetable = Timetable(config, self.sampler.steps_per_epoch)
        sample_shape = dataset.train.sample_shape
        self.model = build_model(config.model, sample_shape, dataset.num_classes, config.seed, config.comm.sums_exactly)
        self.loss = build_loss(config.model)
        augmentation, ranks = Augmentation.of(config.data, config.seed), (world.rank, world.size)
        self.loader = Loader(dataset.train, self.sampler, *ranks, config.batch.accumulation, augmentation)
        capacity = self.loader.capacity
        self.model.build(sample_shape, capacity)
        at_once = self._evaluation_batch(capacity)
        if at_once > capacity:
            self.model.build(sample_shape, at_once)
        self.loss.build(self.model.output_shape[0], at_once)
        self.gradient = GlobalGradient(config, world, self.model, self.loss, self._load)
        self.update = SharedUpdate(config, world, self.gradient)
        self.trials: ReducerTrials | None = None
        rung: str = config.comm.reducer
        if rung == "auto":
            sizes = self.model.num_parameters, num_states(config.optimizer)
            rungs = applicable_rungs(config.comm, world, *sizes)
            rung = rungs[0]
            self.trials = ReducerTrials(world, rungs, self.total_steps) if len(rungs) > 1 else None
        self.update.use(rung)
        self.local = LocalSGD(world, self.gradient, self.update) if config.comm.sync_every > 1 else None
        self.evaluator = Evaluator(world, dataset.test, at_once)
        self.data_checksum = world.once_on_node(dataset.checksum)
        self.recovery = Recovery(config, world, self.update, self.data_checksum)
        self.noise = NoiseScale(config.output.noise_scale_every, config.batch.shards)
        self.timers = PhaseTimers()
        self.profile: profile.Profile | None = None
        self.micro_batches: dict[int, list[MicroBatch]] = {}  # by the size of the global batch: all or a ragged last
        self.step, self.synced_step, self.evaluated_step, self.samples_done = 0, 0, -1, 0
        self.batch_samples, self.grad_norm, self.lr = 0, 0.0, 0.0
        self.evaluation: Evaluation | None = None
        self.evaluation_owed = False
        self.peak_gflops = math.nan
        self.signals = StopSignals()
        self.agreement = Agreement(world, self.reducer.communicates, self._report)
        self.use_outputs(MetricsLog(None, time.perf_counter()), Progress(), None)

    def use_outputs(
        self, metrics: MetricsLog, progress: Progress, run: RunDirectory | None, log: ParameterLog | None = None
    ) -> None:
        """Say where events, progress, files and digests of parameters go; without this call nothing is written."""
        self.metrics, self.progress, self.run = metrics, progress, run
        self.parameter_log = log or ParameterLog(None)
        self.recovery.use_outputs(run, metrics)

    @property
    def reducer(self) -> Reducer:
        """What sums over the ranks."""
        return self.update.reducer

    @property
    def writer(self) -> CheckpointWriter | None:
        """Of the run's checkpoints, on the rank that writes them."""
        return self.recovery.writer

    @property
    def optimizer(self) -> Optimizer:
        """Of the part of the parameters that this rank updates."""
        return self.update.optimizer

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
        return self.timetable.total_steps

    def warm_up(self) -> None:
        """Compile every kernel, by a step on samples of zeros, and measure the peak; the run's state stays as it is.

        Where the cache may lack a kernel, hold `ddp.kernels.jit.exclusive_cache`.
        """
        self.loader.warm_up()
        self.evaluator.warm_up()
        inputs = np.zeros_like(self.loader.buffer.inputs[:1])
        targets = np.zeros_like(self.loader.buffer.targets[:1])
        # Of the steps' own kind, read-only: Numba compiles anew for a writable array.
        draws = Draws(self.config.seed, 0, self.sampler.global_batch(0, 0)[:1], np.array([0, 1]))
        self.model.forward(inputs, training=False)
        assert draws.shards is not None
        self.gradient.warm_up(Sweep(draws, draws.shards, slice(0, 1)), inputs, targets)
        self.update.warm_up()
        self.peak_gflops = measure_peak_gflops()

    def train(self) -> None:
        """Run the steps that remain, evaluating, checkpointing and logging as configured.

        Raises:
            NonFiniteError: on all ranks, if a gradient is not finite and `train.on_nonfinite` is `stop`.
            DivergedError: on all ranks, if their parameters differ.
            Interrupted: on all ranks, if a signal asked one of them to stop; a checkpoint is written.
            UserError: on all ranks, if a checkpoint could not be written.
        """
        if self.config.output.profile:
            self.profile = profile.Profile(self.model.layers)
        self.parameter_log.write(self.step, self.model.state_dict)
        self.update.replicas.check(self.step)
        self.log = StepLog(self.world, self.timers, self.step, self.samples_done)
        self.log.use_outputs(self.metrics, self.progress)
        try:
            self._train()
        except StopAgreed:
            self.recovery.stop(self.step, self.agreement.value, self._is_evaluated())
        self._finish()

    def _train(self) -> None:
        self.timers.take()
        if self.evaluation_owed and self.config.train.evaluate_every:
            with self.timers.excluded():
                self.evaluate()
        while self.step < self.total_steps:
            self.world.activity.step = self.step + 1
            self.train_step()
            self.parameter_log.write(self.step, self._step_values)
            if not self.timetable.is_synced(self.step):
                continue
            now = self.step, self.synced_step
            if self.timetable.is_check_due(self.update.replicas.every, *now):
                self.update.replicas.check(self.step)
            if self.timetable.is_log_due(*now):
                self._log_step()
            with self.timers.excluded():
                self.agreement.check()
                if self.timetable.is_evaluation_due(self.step):
                    self.evaluate()
                if self.timetable.is_checkpoint_due(*now):
                    self.checkpoint()
            self.synced_step = self.step
        self._require_finite(bool(np.isfinite(self.model.parameters).all()), "the result of the last step")
        if self.config.train.evaluate_every and self.evaluated_step != self.step:
            self.evaluate()

    def train_step(self) -> None:
        """One step of SGD, by the configured reducer, or the one whose turn it is."""
        if self.trials is None:
            return self._sgd_step()
        choice = self.trials.step(self._sgd_step, self.update.rung, self._use_rung)
        if choice is not None:
            self.trials = None
            self.metrics.write("reducer", step=self.step, **dataclasses.asdict(choice))
            for line in choice.lines():
                self.progress.message(line)

    def _use_rung(self, rung: str) -> None:
        with self.timers.excluded():
            self.update.replicas.check(self.step)  # a copy that has changed would be lost, or spread, unseen
            self.update.use(rung)

    def _sgd_step(self) -> None:
        """Gather, forward, backward, reduce, update."""
        epoch, step_in_epoch = divmod(self.step, self.steps_per_epoch)
        with self.timers.phase("data"):
            indices = self.sampler.global_batch(epoch, step_in_epoch)
            sweeps = self._sweeps(indices)
        with self.timers.phase("update"):
            self.lr = self.timetable.learning_rate(self.step)
        is_mean, self.gradient.measures_noise = self.config.loss.reduction == "mean", self.noise.is_due(self.step)
        if self.local is not None:
            factor, averages = 1 if is_mean else len(indices), self.timetable.is_synced(self.step + 1)
            is_finite = self.local.step(sweeps, self.lr, factor, averages, self.timers, self.agreement)
            self.grad_norm = self.local.grad_norm
        elif is_finite := self.gradient.compute(sweeps, self.timers, self.agreement):
            self.grad_norm = self.update.step(self.step, self.lr, 1 / len(indices) if is_mean else 1.0, self.timers)
            with self.timers.phase("update"):
                self.gradient.accept()
                if self.gradient.measures_noise:
                    norm = self.grad_norm * len(indices) if is_mean else self.grad_norm
                    self.noise.add(len(indices), self.gradient.reports.squares, norm)
        if not is_finite:
            self.grad_norm = math.nan
            which = f"step {self.step + 1}" if self.local is None else f"a step after step {self.synced_step}"
            self._require_finite(False, f"the gradient of {which}")
        self.step += 1
        self.batch_samples = len(indices)
        self.samples_done += len(indices)

    def _sweeps(self, indices: npt.NDArray[np.int64]) -> list[Sweep]:
        """This rank's part of a global batch."""
        size = len(indices)
        if size not in self.micro_batches:
            ranks, number = (self.world.rank, self.world.size), self.config.batch.accumulation
            self.micro_batches[size] = self.sampler.micro_batches(size, *ranks, number)
        return [
            Sweep(Draws(self.config.seed, self.step, indices[where.start : where.stop], shards), shards, rows)
            for where, shards, rows in self.micro_batches[size]
        ]

    def _load(self, samples: npt.NDArray[np.int64]) -> tuple[Float32, npt.NDArray[Any]]:
        return self.loader.load(self.step, samples)

    @property
    def loss_sum(self) -> float:
        """The sum of the losses of the last step's global batch."""
        return self.gradient.loss_sum

    def parameters_sha256(self) -> str:
        """SHA-256 of the present parameters, in state-dict order."""
        return parameters_sha256(self.model.state_dict())

    def checkpoint(self) -> None:
        """Let rank 0 begin to write a checkpoint of the present step; the others go on at once; collective."""
        self.recovery.checkpoint(self.step, self._is_evaluated())

    def _is_evaluated(self) -> bool:
        """Whether no evaluation is owed at the present step."""
        return not self.timetable.is_evaluation_due(self.step) or self.evaluated_step == self.step

    def _report(self) -> int:
        """What the other ranks are to know of this one, with the next step."""
        if self.recovery.has_failed:
            return WRITE_FAILED
        return self.signals.requested or GO_ON

    def resume(self, path: Path) -> None:
        """Continue from a checkpoint, made on any number of ranks.

        Raises:
            CheckpointError: if it is damaged, or of a run that would have computed other numbers.
        """
        checkpoint = self.recovery.resume(path)
        self.step = self.synced_step = checkpoint.step
        self.evaluation_owed = not checkpoint.evaluated

    def _evaluation_batch(self, capacity: int) -> int:
        """Samples that are evaluated at once: the same for all ranks, which evaluate in as many rounds."""

        def choose() -> int:
            largest_part = block_partition(len(self.dataset.test), self.world.size, 0)
            return evaluation_batch(capacity, self.model.workspace_bytes() // capacity, len(largest_part))

        return self.world.run_on_root(choose)

    def _check_batch(self) -> None:
        samples, batch = len(self.dataset.train), self.config.batch.size
        if batch > samples:
            raise ValueError(
                f"batch.size = {batch}: {self.dataset.name} has only {samples} training samples; use at most {samples}"
            )

    def _require_finite(self, is_finite: bool, what: str) -> None:
        """Stop the run, on all ranks, at the first NaN or infinity, unless it is configured to go on."""
        if not is_finite and self.config.train.on_nonfinite == "stop":
            raise NonFiniteError(
                f"{what} has a NaN or an infinity; lower optimizer.lr (now {self.config.optimizer.lr}), or skip"
                " such steps with --train.on_nonfinite skip",
                agreed=self.reducer.communicates,
            )

    def _step_values(self) -> dict[str, Any]:
        """What a step has computed, and must be the same on any number of ranks."""
        return self.model.state_dict() | {
            "training loss": self.loss_sum,
            "gradient norm": np.float64(self.grad_norm),
        }

    def _log_step(self) -> None:
        loss = self.loss_sum / self.batch_samples
        self._require_finite(math.isfinite(loss), f"the loss of step {self.step}")
        values = {"epoch": self.timetable.epoch(self.step), "loss": loss, "lr": self.lr, "grad_norm": self.grad_norm}
        noise_scale = {"noise_scale": self.noise.value} if self.noise.every else {}
        self.log.write(self.step, self.samples_done, **values, **noise_scale)
        self.recovery.log_written()
        if not self.agreement.with_steps:
            self.agreement.now()

    def evaluate(self) -> Evaluation:
        """Evaluate the present parameters on the test split, and log the result."""
        result = self.evaluation = self.evaluator.evaluate(self.model, self.loss, self.agreement)
        self.evaluated_step, epoch = self.step, self.timetable.epoch(self.step)
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

    def _report_profile(self, measured: profile.Profile) -> None:
        rows = measured.rows(self.peak_gflops)
        self.metrics.write("profile", passes=[dataclasses.asdict(row) for row in rows])
        for line in profile.table(rows):
            self.progress.message(line)

    def _finish(self) -> None:
        parameters = self.model.parameter_dict()
        self.world.run_on_root(self.recovery.finish)
        if self.profile is not None:
            self._report_profile(self.profile)
        samples_per_s = self.log.samples_per_s
        gflops = samples_per_s * self.model.flops() / self.world.size / 1e9
        self.metrics.write(
            "end",
            steps=self.step,
            epochs=self.step / self.steps_per_epoch,
            wall_s=time.perf_counter() - self.metrics.started,
            train_s=self.log.train_s,
            samples_per_s=samples_per_s,
            gflops_per_rank=gflops,
            peak_gflops_per_rank=self.peak_gflops,
            fraction_of_peak=gflops / self.peak_gflops,
            parameters_sha256=parameters_sha256(parameters),
        )
