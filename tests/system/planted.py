"""The trainer with a planted fault: `python -m tests.system.planted FAULT [ddp.train arguments]`.

Where the fault sets in, the file `planted` appears in the working directory.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddp import train

if TYPE_CHECKING:
    from ddp.comm.world import World
    from ddp.config import Config
    from ddp.trainer import Trainer

FAULTY_RANK, FIRST_STEP = 1, 3
SMALL_FILE = 100_000


def sets_in() -> None:
    Path("planted").touch()


def steps_of(trainer: Trainer, world: World, wait: Callable[[], None]) -> None:
    """Let a rank wait before it begins each step from FIRST_STEP on; the others wait for it in MPI."""
    train_step = trainer.train_step

    def step() -> None:
        if world.rank == FAULTY_RANK and trainer.step >= FIRST_STEP:
            sets_in()
            wait()
        train_step()

    trainer.train_step = step  # type: ignore[method-assign]


def throttled(trainer: Trainer, world: World) -> None:
    """Steps take at least 4 ms, so that their number by a certain time is bounded."""
    train_step = trainer.train_step

    def step() -> None:
        time.sleep(0.004)
        train_step()

    trainer.train_step = step  # type: ignore[method-assign]


def slow_step(trainer: Trainer, world: World) -> None:
    steps_of(trainer, world, lambda: time.sleep(1.5))


def hung_step(trainer: Trainer, world: World) -> None:
    steps_of(trainer, world, lambda: time.sleep(10_000))


def slow_evaluation(trainer: Trainer, world: World) -> None:
    """An evaluation of minutes, in batches of 0.1 s."""
    split = trainer.evaluator.split

    class Slow:
        def __len__(self) -> int:
            return len(split)

        def gather(self, *arguments: Any) -> Any:
            sets_in()
            time.sleep(0.1)
            return split.gather(*arguments)

    trainer.evaluator.split = Slow()  # type: ignore[assignment]
    trainer.evaluator.batch_size = 1


def slow_start(trainer: Trainer, world: World) -> None:
    def warm_up() -> None:
        sets_in()
        for _ in range(10_000):
            time.sleep(1)

    trainer.warm_up = warm_up  # type: ignore[method-assign]


def small_disk(trainer: Trainer, world: World) -> None:
    """No file may grow larger than SMALL_FILE from now on, as no checkpoint is."""
    if world.is_root:
        resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL_FILE, SMALL_FILE))


FAULTS = {fault.__name__: fault for fault in (throttled, slow_step, hung_step, slow_evaluation, slow_start, small_disk)}


def main(fault: str, arguments: list[str]) -> int:
    build = train._build_trainer

    def build_planted(world: World, config: Config) -> Trainer:
        trainer = build(world, config)
        FAULTS[fault](trainer, world)
        return trainer

    train._build_trainer = build_planted
    return train.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
