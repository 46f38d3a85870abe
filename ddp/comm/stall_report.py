"""What is told of a collective that does not finish: who is missing, and where every rank is."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from ddp.comm.activity import Activity, Collective
from ddp.comm.failure import EXIT_FAILURE, stagger

INNERMOST = 3
"""Frames of a rank's main thread in its line."""
MOST_WAITING = 16
"""Lines of ranks that wait like the others; those that are missing have a line each."""
ALONE_STAGGER_S = 1.0
"""Between the reports of ranks that know nothing of each other: what the first one's end takes to end the others."""
OWN_THREADS = ("watchdog", "heartbeat", "stop signals")
"""Threads that only look on; their stacks say nothing."""


@dataclass(frozen=True)
class State:
    """What a rank knows of itself."""

    rank: int
    host: str
    step: int
    current: Collective | None
    """The collective that it is in."""
    last: Collective
    """The newest one that it has left."""
    for_s: float
    """How long it has been in `current`."""
    main: str
    """The innermost frames of its main thread, on one line."""
    stacks: str
    """The stacks of all its threads."""

    @property
    def arrived(self) -> int:
        """The number of the newest collective that it has come to."""
        return (self.current or self.last).sequence


def own_state(activity: Activity) -> State:
    """The state of this rank."""
    current = activity.current
    for_s = time.monotonic() - current.began if current else 0.0
    frames = sys._current_frames()
    main = frames.get(threading.main_thread().ident or 0)
    stacks = [
        f"thread {thread.name}:\n{''.join(traceback.format_stack(frames[thread.ident]))}"
        for thread in threading.enumerate()
        if thread.ident in frames and thread.name not in OWN_THREADS
    ]
    return State(
        activity.rank,
        activity.host,
        activity.step,
        current,
        activity.last,
        for_s,
        _innermost(main),
        "".join(stacks),
    )


def _innermost(frame: FrameType | None) -> str:
    found: list[str] = []
    while frame is not None and len(found) < INNERMOST:
        code = frame.f_code
        found.append(f"{Path(code.co_filename).name}:{frame.f_lineno} {code.co_name}")
        frame = frame.f_back
    return " < ".join(found)


def report(states: Mapping[int, State], hosts: Sequence[str] | None, timeout_s: float) -> str:
    """The whole report: one line that names the culprits, one for each rank, then the stacks.

    Args:
        states: of the ranks that answered.
        hosts: of all ranks, which were asked; None if only this one could be.
        timeout_s: what the collective took longer than.
    """
    stuck = stuck_collective(states, all_answered=hosts is not None and len(states) == len(hosts))
    missing = sorted(rank for rank, state in states.items() if stuck and state.arrived < stuck.sequence)
    silent = [rank for rank in range(len(hosts or ())) if rank not in states]
    step = max((state.step for state in states.values() if stuck and state.arrived == stuck.sequence), default=-1)
    what = f"{stuck.name} ({_facts(stuck)})" if stuck else "a collective"
    where = f"step {step}" if step >= 0 else "before the first step"
    first = f"error: {where}: {what} did not finish within {timeout_s:g} s: {_faults(states, missing, silent, hosts)}"
    waiting = [rank for rank in sorted(states) if rank not in missing]
    lines = [_line(states[rank]) for rank in [*missing, *waiting[:MOST_WAITING]]]
    lines += [f"  rank {rank} on {hosts[rank]}: did not answer: {SILENCE}" for rank in silent if hosts]
    if len(waiting) > MOST_WAITING:
        lines.append(f"  and {len(waiting) - MOST_WAITING} more ranks that have arrived")
    return "\n".join([first, *lines, *_stacks([states[rank] for rank in [*missing, *waiting]])]) + "\n"


@contextlib.contextmanager
def watched_alone(activity: Activity, timeout_s: float, abort: Callable[[int], object]) -> Iterator[None]:
    """Report on this rank alone, and end the run, if what is enclosed takes too long; before ranks can talk."""

    def tell() -> None:
        text = report({activity.rank: own_state(activity)}, None, timeout_s)
        stagger(activity.rank, ALONE_STAGGER_S)
        sys.stderr.write(text)
        sys.stderr.flush()
        abort(EXIT_FAILURE)

    timer = threading.Timer(timeout_s, tell)
    timer.name = "watchdog"
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


SILENCE = (
    "it is stopped, its host is cut off, or it runs code that keeps Python's lock (GIL), as its own output then tells"
)


def stuck_collective(states: Mapping[int, State], all_answered: bool) -> Collective | None:
    """The first one that ranks are in and others have not come to; or, if all came to all, the first that some are in.

    A collective such as a broadcast lets some ranks go on before the others have come, so that they may wait in later
    ones: the first is the one to blame. Ranks that do not answer have come to none, as far as anybody knows.
    """
    inside = sorted({state.current.sequence: state.current for state in states.values() if state.current}.items())
    for sequence, collective in inside:
        if not all_answered or any(state.arrived < sequence for state in states.values()):
            return collective
    return inside[0][1] if inside else None


def _faults(
    states: Mapping[int, State], missing: Sequence[int], silent: Sequence[int], hosts: Sequence[str] | None
) -> str:
    if hosts is None:
        (alone,) = states.values()
        return f"rank {alone.rank} on {alone.host} waits, and cannot ask the others"
    faults = [_named(missing, hosts, "did not arrive")] if missing else []
    faults += [_named(silent, hosts, "did not answer")] if silent else []
    return " and ".join(faults) or "all ranks have arrived: the network or the MPI library has lost something"


def _named(ranks: Sequence[int], hosts: Sequence[str], verb: str) -> str:
    """Such as `rank 3 on node2 did not answer`, or `ranks 3, 4 on node2, 7 on node4 did not answer`."""
    by_host: dict[str, list[int]] = {}
    for rank in sorted(ranks):
        by_host.setdefault(hosts[rank], []).append(rank)
    places = ", ".join(f"{', '.join(map(str, there))} on {host}" for host, there in by_host.items())
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {places} {verb}"


def _facts(collective: Collective) -> str:
    return f"collective {collective.sequence}, {collective.num_bytes} bytes"


def _line(state: State) -> str:
    if state.current:
        doing = f"in {state.current.name} ({_facts(state.current)}) for {state.for_s:.1f} s"
    elif state.last.name:
        doing = f"in no collective, the last was {state.last.name} ({_facts(state.last)})"
    else:
        doing = "in no collective yet"
    step = f"step {state.step}" if state.step >= 0 else "before the first step"
    return f"  rank {state.rank} on {state.host}: {step}, {doing}: {state.main}"


def _stacks(states: Sequence[State]) -> list[str]:
    """All stacks, those that are alike once."""
    alike: dict[str, list[int]] = {}
    for state in states:
        alike.setdefault(state.stacks, []).append(state.rank)
    return [
        f"Stacks of {'rank' if len(ranks) == 1 else 'ranks'} {', '.join(map(str, ranks))}, most recent call last:\n"
        f"{stacks.rstrip()}"
        for stacks, ranks in alike.items()
    ]
