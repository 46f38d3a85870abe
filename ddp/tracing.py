"""Traces a training run: every rank keeps what it does when, and writes it into the run directory at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ddp.checkpoint import write_atomically
from ddp.comm.clock import CommonClock, compare_clocks
from ddp.comm.failure import Interrupted
from ddp.comm.world import World
from ddp.nn import Layer
from ddp.observe.passes import Listener, watch_passes
from ddp.observe.timers import PhaseTimers
from ddp.observe.trace import LIMIT, Trace, find_traces, to_json, trace_name


class Tracing:
    """A rank's trace, from now on until `write`."""

    def __init__(
        self,
        world: World,
        folder: Path,
        timers: PhaseTimers,
        layers: Sequence[Layer],
        limit: int = LIMIT,
    ) -> None:
        """Listen to phases, layers and collectives, and compare clocks; collective.

        Args:
            world: the ranks.
            folder: the run directory; traces that are there already, of an earlier part of the run, are deleted.
            timers: tell of phases.
            layers: tell of their passes.
            limit: events that each rank keeps.

        Raises:
            UserError: on all ranks, if a trace cannot be deleted.
        """
        self.world, self.folder = world, folder
        world.run_on_root(self._delete_old)
        self._zero = time.perf_counter()
        self._first = compare_clocks(world, self._zero)
        self.trace = Trace(world.rank, world.host, world.activity, limit)
        watch_passes(layers, self._pass)
        timers.use_trace(self.trace)
        world.activity.trace = self.trace

    def _delete_old(self) -> None:
        for path in find_traces(self.folder):
            path.unlink()

    def _pass(self, index: int, layer: Layer, name: str) -> Listener:
        return self.trace.recorder(f"{index} {type(layer).__name__} {name}", "layers")

    def write(self) -> str | None:
        """Write every rank's file; collective.

        Returns:
            On rank 0, a warning if events were dropped.

        Raises:
            UserError: on all ranks, if one cannot write.
        """
        self.world.activity.trace = None
        clock = CommonClock(self._first, compare_clocks(self.world, self._zero))
        contents = self.trace.contents(clock, clock.error)

        def write() -> None:
            self.folder.mkdir(parents=True, exist_ok=True)  # where ranks have no file system in common
            write_atomically(self.folder / trace_name(self.world.rank), to_json(contents).encode())

        self.world.run_together(write)
        full = sum(dropped > 0 for dropped in self.world.gather(self.trace.dropped, "dropped events of all ranks"))
        if not full:
            return None
        ranks = "1 rank is" if full == 1 else f"{full} ranks are"
        return f"the trace of {ranks} full: later events are missing; trace fewer steps with --train.steps"


@contextmanager
def traced(is_wanted: bool, begin: Callable[[], Tracing], warn: Callable[[str], None]) -> Iterator[None]:
    """Trace the enclosed block, if that is wanted, and write it at the end, also where a signal has interrupted it."""
    if not is_wanted:
        yield
        return
    tracing = begin()
    try:
        yield
    except Interrupted:  # by all ranks alike, so that they can meet once more
        _write(tracing, warn)
        raise
    _write(tracing, warn)


def _write(tracing: Tracing, warn: Callable[[str], None]) -> None:
    warning = tracing.write()
    if warning is not None:
        warn(warning)
