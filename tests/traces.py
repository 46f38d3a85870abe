"""Traces as tests read them."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

ROUNDING_US = 0.002

Event = dict[str, Any]


def by_track(contents: dict[str, Any]) -> dict[tuple[int, str], list[Event]]:
    """By rank and track, in the file's order."""
    tracks = {
        (event["pid"], event["tid"]): event["args"]["name"]
        for event in contents["traceEvents"]
        if event["name"] == "thread_name"
    }
    found: dict[tuple[int, str], list[Event]] = defaultdict(list)
    for event in contents["traceEvents"]:
        if event["ph"] == "X":
            found[event["pid"], tracks[event["pid"], event["tid"]]].append(event)
    return found


def stop(event: Event) -> float:
    return float(event["ts"] + event["dur"])


def lies_in(inner: Event, outer: Event) -> bool:
    return bool(inner["ts"] >= outer["ts"] - ROUNDING_US and stop(inner) <= stop(outer) + ROUNDING_US)


def outermost(track: list[Event]) -> list[Event]:
    """Those that lie in no other; fails the test if two overlap by a part."""
    found: list[Event] = []
    for event in track:
        if not found or event["ts"] >= stop(found[-1]) - ROUNDING_US:
            found.append(event)
        else:
            assert lies_in(event, found[-1]), (event, found[-1])
    return found
