"""What a rank did when, in the trace event format that Perfetto and Chrome show (docs/tracing.md).

    python -m ddp.observe.trace merge RUN_DIR [-o FILE]    # all ranks' files of a run in one: RUN_DIR/trace.json

Source: "Trace Event Format", the Chromium project. Times there are in microseconds.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, Protocol

LIMIT = 200_000
"""Events that a trace keeps: 5 MB of memory, and a file of 25 MB."""
EVENT = struct.Struct("iidd")
"""In memory: which kind (name, track and arguments), step, start, stop."""
_SIZE, _pack = EVENT.size, EVENT.pack_into
Recorder = Callable[..., None]
"""Takes start and stop of an event."""
TRACKS = ("main", "layers", "communication")
"""Tracks of every rank, in the order in which they are shown; others come behind."""


class TraceError(ValueError):
    """Traces that cannot be joined: one line with the path and the fix."""


class HasStep(Protocol):
    """Knows the SGD step that is going on; `ddp.comm.activity.Activity` does."""

    step: int


class Trace:
    """Events of one rank; a full trace takes no more of them.

    An event is a few numbers in memory that is there from the beginning: a tuple for each would be ten times as large,
    and what costs most is to bring new memory into the cache between two kernels.

    Attributes:
        dropped: events that it had no room for.
    """

    def __init__(self, rank: int, host: str, place: HasStep, limit: int = LIMIT) -> None:
        """Begin with none.

        Args:
            rank: whose it is.
            host: where that runs.
            place: what tells the step of each event.
            limit: events to keep.
        """
        self.rank, self.host, self.dropped = rank, host, 0
        self._place = place
        self._events, self._end, self._limit = bytearray(limit * EVENT.size), 0, limit * EVENT.size
        self._kinds: dict[tuple[object, ...], int] = {}

    def add(self, name: str, start: float, stop: float, track: str = "main", **args: object) -> None:
        """Take an event: its times by `time.perf_counter`, in seconds, and what else is to be shown of it.

        Events of one track must lie one in the other or one after the other.
        """
        self._keep(self._kind(name, track, *args.items()), start, stop)

    def recorder(self, name: str, track: str) -> Recorder:
        """A quicker `add` for events of one name: takes start and stop, and passes over what else it is given."""
        return partial(self._keep, self._kind(name, track))

    def _kind(self, *key: object) -> int:
        return self._kinds.setdefault(key, len(self._kinds))

    def _keep(self, kind: int, start: float, stop: float, *_: object) -> None:
        end = self._end
        if end == self._limit:
            self.dropped += 1
        else:
            _pack(self._events, end, kind, self._place.step, start, stop)
            self._end = end + _SIZE

    def contents(self, to_common: Callable[[float], float], clock_error_s: float) -> dict[str, Any]:
        """The file's contents, on the clock that all ranks have in common.

        Args:
            to_common: from `time.perf_counter` to that clock, in seconds; never decreasing.
            clock_error_s: how far it may be off.
        """
        numbers = {track: number for number, track in enumerate(TRACKS)}
        kinds = []
        for name, track, *args in self._kinds:
            tid = numbers.setdefault(str(track), len(numbers))
            kinds.append(({"name": name, "ph": "X", "pid": self.rank, "tid": tid}, args))
        events = []
        for kind, step, *times in EVENT.iter_unpack(memoryview(self._events)[: self._end]):
            common, args = kinds[kind]
            begins, ends = (round(to_common(seconds) * 1e6, 3) for seconds in times)
            about = {"step": step, **dict(args)}
            events.append({**common, "ts": begins, "dur": round(ends - begins, 3), "args": about})
        note = {"rank": self.rank, "host": self.host, "clock_error_us": clock_error_s * 1e6}
        note |= {"events": len(events), "dropped_events": self.dropped}
        return _contents([*self._names(numbers), *sorted(events, key=_begin)], [note])

    def _names(self, tracks: dict[str, int]) -> list[dict[str, Any]]:
        """What the process and its tracks are called, and in which order they are shown."""

        def name(kind: str, tid: int, **args: object) -> dict[str, Any]:
            return {"name": kind, "ph": "M", "pid": self.rank, "tid": tid, "ts": 0, "args": args}

        names = [name("process_name", 0, name=f"rank {self.rank} on {self.host}")]
        names.append(name("process_sort_index", 0, sort_index=self.rank))
        for track, number in tracks.items():
            names.append(name("thread_name", number, name=track))
            names.append(name("thread_sort_index", number, sort_index=number))
        return names


def trace_name(rank: int) -> str:
    """The name of a rank's file in the run directory."""
    return f"trace-rank{rank:05}.json"


def find_traces(run: Path) -> list[Path]:
    """The ranks' files in a run directory, by rank."""
    return sorted(run.glob("trace-rank*.json"))


def to_json(contents: dict[str, Any]) -> str:
    """One event a line."""
    rest = {key: value for key, value in contents.items() if key != "traceEvents"}
    events = ",\n".join(map(json.dumps, contents["traceEvents"]))
    return f'{{"traceEvents": [\n{events}\n],\n{json.dumps(rest)[1:]}\n'


def merge(run: Path) -> dict[str, Any]:
    """The contents of one file for all ranks, by time.

    Raises:
        TraceError: if there is no such directory, no trace in it, or something else in a trace's place.
    """
    if not run.is_dir():
        raise TraceError(f"{run}: no such directory; give the directory of a run")
    paths = find_traces(run)
    if not paths:
        raise TraceError(f"{run}: no {trace_name(0)} there; trace a run with --output.trace true")
    names: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []
    notes: list[Any] = []
    for path in paths:
        contents = _read(path)
        notes += contents["otherData"]["ranks"]
        for event in contents["traceEvents"]:
            (names if event["ph"] == "M" else events).append(event)
    return _contents([*names, *sorted(events, key=_begin)], notes)


def _contents(events: list[dict[str, Any]], notes: list[Any]) -> dict[str, Any]:
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"ranks": notes}}


def _begin(event: dict[str, Any]) -> tuple[float, float]:
    """By which events are sorted: what encloses others of the same beginning comes first."""
    return event["ts"], -event["dur"]


def _read(path: Path) -> dict[str, Any]:
    try:
        contents = json.loads(path.read_bytes())
        is_trace = all(
            isinstance(event["ph"], str) and (event["ph"] == "M" or (_is_time(event["ts"]) and _is_time(event["dur"])))
            for event in contents["traceEvents"]
        ) and isinstance(contents["otherData"]["ranks"], list)
    except OSError as error:
        raise TraceError(f"{path}: cannot be read ({error.strerror}); make it readable") from None
    except (ValueError, TypeError, KeyError, RecursionError):  # of other bytes, no JSON, or JSON of something else
        is_trace = False
    if not is_trace:
        raise TraceError(f"{path}: not a rank's trace; delete it, or trace the run again")
    return contents  # type: ignore[no-any-return]


def _is_time(value: object) -> bool:
    return isinstance(value, int | float)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise TraceError(f"{message}; --help tells more")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; the exit code."""
    parser = _Parser(prog="python -m ddp.observe.trace", description="Traces of runs.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("merge", help="join the traces of all ranks of a run")
    command.add_argument("run", type=Path, metavar="RUN_DIR", help="the run's directory")
    command.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: RUN_DIR/trace.json")
    try:
        given = parser.parse_args(arguments)
        output = given.output or given.run / "trace.json"
        contents = merge(given.run)
        try:
            output.write_text(to_json(contents))
        except OSError as error:
            raise TraceError(f"{output}: cannot be written ({error.strerror}); choose another with -o") from None
    except TraceError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    count = sum(event["ph"] != "M" for event in contents["traceEvents"])
    sys.stdout.write(f"{output}: {count} events of {len(contents['otherData']['ranks'])} ranks\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
