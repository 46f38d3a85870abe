"""The world of a single rank: MPI starts inside this process, without mpirun.

It starts when a test asks for it, not when files are imported: the tests of the launcher, which start
mpirun, must not do so from inside an MPI job.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ddp.observe.metrics import MetricsLog
from ddp.observe.progress import Progress
from ddp.run_directory import RunDirectory, create_run_directory
from tests.unit.runs import Make, OpenRun, change

if TYPE_CHECKING:
    from ddp.comm.world import World
    from ddp.trainer import Trainer


@pytest.fixture(scope="session")
def world() -> World:
    """All ranks, of which there is one."""
    from ddp.comm.world import World

    return World()


@pytest.fixture(scope="session")
def make_trainer(world: World) -> Make:
    """Builds a trainer on the configured data."""
    from ddp.data import load_dataset
    from ddp.trainer import Trainer

    return lambda config: Trainer(config, world, load_dataset(config.data, config.seed))


@pytest.fixture
def open_run() -> Iterator[OpenRun]:
    """Lets a trainer write into a run directory; the logs are closed at the end."""
    logs = []

    def open_(trainer: Trainer, folder: Path, resuming: bool = False) -> RunDirectory:
        run = create_run_directory(
            change(trainer.config, "output", dir=str(folder)), trainer.step if resuming else None
        )
        logs.append(MetricsLog(run.metrics, time.perf_counter()))
        trainer.use_outputs(logs[-1], Progress(), run)
        return run

    yield open_
    for log in logs:
        log.close()
