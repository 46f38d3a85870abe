"""What every command that runs on all ranks begins and ends with: it joins the world, is watched, and tells its end.

Importing this loads neither NumPy nor Numba nor MPI: they read their settings once, and `Session` makes these first.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddp.comm import environment, mpi
from ddp.comm.activity import Activity
from ddp.comm.failure import (
    EXIT_FAILURE,
    EXIT_NONFINITE,
    EXIT_RESUMABLE,
    EXIT_USER_ERROR,
    Abort,
    DivergedError,
    Interrupted,
    NonFiniteError,
    UserError,
    WrongLauncherError,
    abort_all_on_exception,
    print_error,
    stagger,
)
from ddp.comm.heartbeat import heartbeat
from ddp.comm.signals import StopSignals
from ddp.comm.stall_report import watched_alone
from ddp.config import CommConfig

if TYPE_CHECKING:
    from ddp.comm.watchdog import Watchdog
    from ddp.comm.world import World
    from ddp.config import Config
    from ddp.nn import Sequential


@dataclass(frozen=True)
class Session:
    """What a command has when the ranks have met."""

    world: World
    signals: StopSignals
    watchdog: Watchdog
    arguments: Sequence[str]
    """The command line, without the program."""
    started: float
    """`time.perf_counter()` at the start of this process' work."""

    def prepare(self, config: Config, threads: int = 0) -> None:
        """Make the settings of a configuration, then import Numba, which must not have been before; collective.

        Args:
            config: of the run.
            threads: of this rank's kernels; 0: as the configuration says, or the launcher.

        Raises:
            UserError: on all ranks, if there is no place for compiled kernels on one.
            Interrupted: on all ranks, as `stop_if_asked`.
        """
        self.signals.grace_s, timeout_s = config.checkpoint.grace_s, config.comm.timeout_s
        is_unlimited = config.data.download or not timeout_s  # the others wait for the rank that fetches
        self.watchdog.limit(0 if is_unlimited else max(timeout_s, CommConfig.timeout_s))  # to load, compile is no hang
        chosen = threads or config.threads or environment.planned_threads() or self.world.threads_per_rank()
        _use_threads(self.world, chosen)
        self.world.run_together(lambda: importlib.import_module("ddp.kernels.jit"))
        self.stop_if_asked()

    def stop_if_asked(self, when: str = "before the first step") -> None:
        """If a signal has come to any rank, end on all; there is nothing to save.

        Raises:
            Interrupted: on all ranks.
        """
        if self.world.any_rank(self.signals.requested is not None):
            raise Interrupted(f"interrupted by a signal {when}")

    def check_agreement(self, model: Sequential, facts: Mapping[str, str]) -> None:
        """Make sure that all ranks have the same program, the same network, and the same of the named facts.

        Raises:
            DifferingRankError: on all ranks, if one has another.
        """
        from ddp.checkpoint import parameters_sha256
        from ddp.observe.provenance import source_sha256

        own = {"version of this package": source_sha256(), "set of parameters": parameters_sha256(model.state_dict())}
        self.world.check_agreement({**own, **facts})

    def compile(self, run_kernels: Callable[[], None]) -> None:
        """Compile on one rank of each node, under the cache's lock; then the others load what it compiled."""
        from ddp.kernels.jit import exclusive_cache

        def lead() -> None:
            with exclusive_cache():
                run_kernels()

        until_signal = self.signals.until_signal
        self.world.first_on_node(lambda: until_signal(lead), lambda: until_signal(run_kernels))


def run_on_all_ranks(command: Callable[[Session], int], arguments: Sequence[str] | None = None) -> int:
    """Join the world and run a command that ends alike on all ranks; the exit code of this rank.

    Args:
        command: what every rank does; its result is the exit code.
        arguments: the command line, by default this process'.
    """
    started = time.perf_counter()
    activity, abort = Activity(environment.launched_rank()), Abort()
    signals = StopSignals()
    signals.install()
    with abort_all_on_exception(activity, abort), heartbeat(activity, abort):
        environment.prepare()
        try:
            world = _join_world(activity, abort)
        except UserError as error:
            if activity.rank == error.rank:
                stagger(error.rank)
                print_error(str(error))
            return EXIT_USER_ERROR
        signals.abort = abort
        with _watch(world, abort) as watchdog:
            given = sys.argv[1:] if arguments is None else arguments
            code = _exit_code(world, lambda: command(Session(world, signals, watchdog, given, started)))
            world.meet("end of the run")
        return code


def _join_world(activity: Activity, abort: Abort) -> World:
    """Start MPI and meet the other ranks; as MPI reads the environment then, it must be prepared.

    Raises:
        UserError: if there is no MPI library, or not the launcher's.
    """
    with watched_alone(activity, CommConfig.timeout_s, abort):
        try:
            with activity.collective("start of MPI"):
                mpi.start()
        except (ImportError, RuntimeError) as error:
            raise UserError(str(error), activity.rank) from None
        from ddp.comm.world import World

        try:
            return World(activity=activity)
        except WrongLauncherError as error:
            raise UserError(str(error)) from None


def _watch(world: World, abort: Abort) -> AbstractContextManager[Watchdog]:
    """The watchdog of this rank, with the default time-out until the configuration says another."""
    from ddp.comm.watchdog import watchdog

    return watchdog(world, CommConfig.timeout_s, abort)


def _exit_code(world: World, run: Callable[[], int]) -> int:
    """What comes of a run that ends alike on all ranks."""
    try:
        return run()
    except UserError as error:
        if world.rank == error.rank:
            print_error(str(error))
        return EXIT_USER_ERROR
    except NonFiniteError as error:
        if not error.agreed:
            raise
        if world.is_root:
            print_error(str(error))
        return EXIT_NONFINITE
    except DivergedError as error:
        if world.is_root:
            print_error(str(error))
        return EXIT_FAILURE
    except Interrupted as reason:
        if world.is_root:
            sys.stderr.write(f"{reason}\n")
        return EXIT_RESUMABLE


def _use_threads(world: World, threads: int) -> None:
    """Fix the number of threads of this rank's kernels; must come before Numba is imported.

    The configuration decides, also over a launcher that did not know it.
    """
    os.environ["NUMBA_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(threads)
    if world.local_size * threads > world.node_cores():
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # 2 x 2 threads on 2 cores: 2 ms a step, spinning 110
