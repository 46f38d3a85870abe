"""Train a network by synchronous data-parallel SGD.

    python -m ddp.train                                    # 1 rank: the slides' digit recogniser
    mpirun -n 2 python -m ddp.train                        # 2 ranks on this machine
    mpirun -n 8 python -m ddp.train --config configs/mnist_cnn.toml --train.epochs 3
    mpirun -n 16 --hostfile hosts python -m ddp.train      # several nodes, with Open MPI
    srun -n 16 --mpi=pmix python -m ddp.train              # inside a Slurm allocation

    python -m launch run -n 4 -- --model.hidden '[64,64]'  # the same, with cores and threads arranged

Every field of the configuration is an option, `--SECTION.FIELD VALUE`; `--help` lists them.
Exit codes: 0 done; 2 the user's mistake; 3 the loss or a gradient became non-finite; 4 a rank or the network failed, or
the ranks' parameters differ; 75 interrupted by SIGTERM or SIGUSR1, continue with `--resume auto`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from ddp.comm import environment
from ddp.comm.failure import Interrupted, leave
from ddp.session import Session, run_on_all_ranks

if TYPE_CHECKING:
    from ddp.comm.world import World
    from ddp.command_line import Invocation
    from ddp.config import Config
    from ddp.observe.metrics import Listener
    from ddp.run_directory import RunDirectory
    from ddp.trainer import Trainer


def main(arguments: Sequence[str] | None = None) -> int:
    """Join the world, read the configuration, train; the exit code of this rank."""
    return run_on_all_ranks(_run, arguments)


def _run(session: Session) -> int:
    world, signals = session.world, session.signals
    invocation = _read_invocation(world, session.arguments)
    if invocation is None:
        return 0
    config = invocation.config
    session.prepare(config)
    trainer = _build_trainer(world, config)
    trainer.signals = signals
    session.stop_if_asked()
    resume_from = _find_resume_point(world, invocation)
    if resume_from is not None:
        world.run_together(lambda: trainer.resume(resume_from))
        world.check_agreement({"checkpoint": f"step {trainer.step}: {trainer.parameters_sha256()}"})
    run = _open_run(world, trainer, invocation, session.started)
    try:
        session.compile(trainer.warm_up)
        session.stop_if_asked()
        session.watchdog.limit(config.comm.timeout_s)
        signals.has_work = True
        with _traced(world, trainer, run):
            trainer.train()
    except Interrupted as reason:
        raise Interrupted(f"{reason}; continue with --output.name {run.path.name} --resume auto") from None
    finally:  # an error is shown on a terminal without the bar
        trainer.metrics.close()
        trainer.progress.close()
        trainer.parameter_log.close()
    result = f", {trainer.evaluation.text()}" if trainer.evaluation else ""
    trainer.progress.message(f"done: {trainer.step} steps{result}; run directory {run.path}")
    return 0


def _read_invocation(world: World, arguments: Sequence[str]) -> Invocation | None:
    """Parse on rank 0 for all; None if there is nothing to run, after --help or --print-config."""

    def read() -> Invocation | None:
        # Imported on one rank only: it would cost each of the others 0.1 s of a shared core.
        from ddp.command_line import dump_toml, parse

        try:
            invocation = parse(arguments)
        except SystemExit:
            return None
        if invocation.print_config:
            sys.stdout.write(dump_toml(invocation.config))
            return None
        return invocation

    return world.run_on_root(read)


def _build_trainer(world: World, config: Config) -> Trainer:
    from ddp.data import load_dataset
    from ddp.observe.provenance import source_sha256
    from ddp.trainer import Trainer

    dataset = world.run_together(lambda: load_dataset(config.data, config.seed, world.share_on_node))
    trainer = world.run_together(lambda: Trainer(config, world, dataset))
    world.check_agreement(
        {
            "version of this package": source_sha256(),
            "configuration": repr(config),
            "data checksum": trainer.data_checksum,
            "initial parameters": trainer.parameters_sha256(),
        }
    )
    return trainer


def _find_resume_point(world: World, invocation: Invocation) -> Path | None:
    if not invocation.resume:
        return None
    from ddp.run_directory import find_resume_point

    path, passed_over = world.run_on_root(lambda: find_resume_point(invocation.config.output, invocation.resume))
    for reason in passed_over if world.is_root else ():
        sys.stderr.write(f"warning: {reason}\n")
    return path


def _traced(world: World, trainer: Trainer, run: RunDirectory) -> AbstractContextManager[None]:
    """The trace of a run, if it is configured."""
    from ddp.tracing import Tracing, traced

    def warn(text: str) -> None:
        trainer.progress.message(f"warning: {text}")

    return traced(
        trainer.config.output.trace, lambda: Tracing(world, run.path, trainer.timers, trainer.model.layers), warn
    )


def _open_run(world: World, trainer: Trainer, invocation: Invocation, started: float) -> RunDirectory:
    """Make the run directory and connect the outputs; only rank 0 writes."""
    from ddp.observe.metrics import MetricsLog
    from ddp.observe.parameter_log import ParameterLog
    from ddp.observe.progress import build_progress
    from ddp.run_directory import create_run_directory
    from ddp.start import start_facts, start_text, start_warnings

    config = trainer.config
    resume_step = trainer.step if invocation.resume else None
    run = world.run_on_root(lambda: create_run_directory(config, resume_step))
    board = world.run_together(lambda: _tensorboard(config, run, resume_step) if world.is_root else None)
    metrics = MetricsLog(run.metrics if world.is_root else None, started, board)
    progress = build_progress(world.is_root, trainer.total_steps, environment.terminal_width())
    log = world.run_together(lambda: ParameterLog(environment.parameter_log() if world.is_root else None))
    trainer.use_outputs(metrics, progress, run if world.is_root else None, log)
    facts = start_facts(world, trainer)
    metrics.write("start", **facts)
    trainer.progress.message(start_text(facts))
    if resume_step is not None:
        trainer.progress.message(f"resumed at step {resume_step}" if resume_step else "no checkpoint: starting anew")
    for warning in start_warnings(facts, config.batch.shards, config.comm):
        trainer.progress.message(f"warning: {warning}")
    return run


def _tensorboard(config: Config, run: RunDirectory, resume_step: int | None) -> Listener | None:
    """What writes for TensorBoard, if it is configured."""
    from ddp.observe.tensorboard import TensorBoard

    return TensorBoard(run.path, resume_step) if config.output.tensorboard else None


if __name__ == "__main__":
    leave(main())
