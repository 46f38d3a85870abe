"""One thread that waits for whatever comes first: data on a file descriptor, or a moment in time."""

from __future__ import annotations

import heapq
import itertools
import selectors
import time
from collections.abc import Callable

Action = Callable[[], object]


class EventLoop:
    """Calls back when a file can be read, or when a time has come; nothing is polled."""

    def __init__(self) -> None:
        """Begin with nothing to wait for."""
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Action]] = []
        self._order = itertools.count()

    def on_readable(self, file: int, action: Action) -> None:
        """Call `action` whenever `file`, a descriptor, has something to read or has come to its end."""
        self._selector.register(file, selectors.EVENT_READ, action)

    def forget(self, file: int) -> None:
        """Wait for that descriptor no more."""
        self._selector.unregister(file)

    def after(self, seconds: float, action: Action) -> None:
        """Call `action` once, so many seconds from now."""
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._order), action))

    def every(self, seconds: float, action: Action) -> None:
        """Call `action` again and again, the first time so many seconds from now."""

        def again() -> None:
            action()
            self.after(seconds, again)

        self.after(seconds, again)

    def run(self, until: Callable[[], bool]) -> None:
        """Wait and call back until the condition holds; it is looked at after each event."""
        while not until():
            wait_s = self._timers[0][0] - time.monotonic() if self._timers else None
            for key, _ in self._selector.select(wait_s if wait_s is None else max(0.0, wait_s)):
                key.data()
            while self._timers and self._timers[0][0] <= time.monotonic():
                heapq.heappop(self._timers)[2]()

    def close(self) -> None:
        """Free the selector; the descriptors stay open."""
        self._selector.close()
