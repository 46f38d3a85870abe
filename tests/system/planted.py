"""The trainer with a planted fault: `python -m tests.system.planted FAULT [ddp.train arguments]`.

Where the fault sets in, the file `planted` appears in the working directory.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddp import train
from ddp.comm import environment
from ddp.comm.failure import leave
from ddp.config import CommConfig

if TYPE_CHECKING:
    from ddp.comm.world import World
    from ddp.config import Config
    from ddp.trainer import Trainer

FAULTY_RANK = int(os.environ.get("DDP_TEST_FAULTY_RANK", "1"))
FIRST_STEP = 3
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


def stopped_step(trainer: Trainer, world: World) -> None:
    steps_of(trainer, world, lambda: os.kill(os.getpid(), signal.SIGSTOP))


def locked_step(trainer: Trainer, world: World) -> None:
    """Code in C that keeps Python's lock, so that no other thread of the rank can do anything."""
    steps_of(trainer, world, lambda: ctypes.PyDLL(None).sleep(10_000))


def fail() -> None:
    raise RuntimeError("planted")


def failing_thread(trainer: Trainer, world: World) -> None:
    def wait() -> None:
        threading.Thread(target=fail).start()
        time.sleep(10_000)

    steps_of(trainer, world, wait)


def start_endless_thread() -> None:
    threading.Thread(target=time.sleep, args=(10_000,), daemon=False).start()


def failure_beside_a_thread(trainer: Trainer, world: World) -> None:
    """The interpreter waits for such a thread when the main one has ended."""
    start_endless_thread()
    steps_of(trainer, world, fail)


def endless_thread(trainer: Trainer, world: World) -> None:
    """The other ranks end later than the one with the thread, and say so: they must not be killed for that."""
    if world.rank == FAULTY_RANK:
        start_endless_thread()
    else:
        atexit.register(Path(f"ended_{world.rank}").touch)
        atexit.register(time.sleep, 1)


def leaving_step(trainer: Trainer, world: World) -> None:
    steps_of(trainer, world, lambda: sys.exit(0))


def slow_evaluation(trainer: Trainer, world: World) -> None:
    """An evaluation of minutes, in batches of 0.1 s."""
    split = trainer.evaluator.split

    class Slow:
        def __len__(self) -> int:
            return len(split)

        def gather(self, *arguments: Any) -> Any:
            if trainer.step:  # not while the kernels are warmed up
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


FAULTS = {
    fault.__name__: fault
    for fault in (
        throttled,
        slow_step,
        hung_step,
        stopped_step,
        locked_step,
        failing_thread,
        failure_beside_a_thread,
        endless_thread,
        leaving_step,
        slow_evaluation,
        slow_start,
        small_disk,
    )
}


def absent() -> None:
    """A rank does not even start MPI; the others wait for it there."""
    CommConfig.timeout_s = 3.0
    if environment.launched_rank() == FAULTY_RANK:
        time.sleep(10_000)


def fails_early() -> None:
    """A rank fails before it starts MPI."""

    def prepare() -> None:
        if environment.launched_rank() == FAULTY_RANK:
            fail()

    environment.prepare = prepare  # type: ignore[assignment]


EARLY = {fault.__name__: fault for fault in (absent, fails_early)}


def main(fault: str, arguments: list[str]) -> int:
    if fault in EARLY:
        EARLY[fault]()
        return train.main(arguments)
    build = train._build_trainer

    def build_planted(world: World, config: Config) -> Trainer:
        trainer = build(world, config)
        FAULTS[fault](trainer, world)
        return trainer

    train._build_trainer = build_planted
    return train.main(arguments)


if __name__ == "__main__":
    leave(main(sys.argv[1], sys.argv[2:]))
