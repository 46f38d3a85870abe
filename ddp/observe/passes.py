"""Looks on at the passes of layers: whoever listens is told of every call in training, and how long it took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

Listener = Callable[[float, float, Any, Any], None]
"""Told after a call: start and stop by `time.perf_counter`, in seconds, the first argument, and the result."""


class HasPasses(Protocol):
    """What must be known of a layer; that of `ddp.nn` has it."""

    passes: tuple[str, ...]


Watched = TypeVar("Watched", bound=HasPasses)


def watch_passes(layers: Iterable[Watched], listen: Callable[[int, Watched, str], Listener]) -> None:
    """Replace the layers' passes by ones that are listened to; `listen(index, layer, name of the pass)` says by whom.

    Replaces attributes of the layers, which must have been built; the classes stay as they are.
    """
    for index, layer in enumerate(layers):
        for name in layer.passes:
            setattr(layer, name, _watched(getattr(layer, name), name == "forward", listen(index, layer, name)))


def _watched(method: Callable[..., Any], is_forward: bool, tell: Listener) -> Callable[..., Any]:
    clock = time.perf_counter

    def call(values: Any, *arguments: Any) -> Any:
        if is_forward and not arguments[0]:  # evaluation
            return method(values, *arguments)
        start = clock()
        result = method(values, *arguments)
        tell(start, clock(), values, result)
        return result

    return call
