"""An Ethernet switch in user space that holds every frame for a fixed time: `python delay_switch.py MS RATE PORT...`.

It learns which port an address is behind, as a switch does. RATE, such as 100mbit, is what each port sends at most; 0
is no limit. It runs in the switch's network namespace, on ports that are on no bridge. The offloads of the hosts must
be off, else frames arrive that are larger than the wire's, or have no checksum.
"""

from __future__ import annotations

import contextlib
import heapq
import select
import socket
import sys
import time
from dataclasses import dataclass, field

ETH_P_ALL, SOL_PACKET, PACKET_IGNORE_OUTGOING = 3, 263, 23
BUFFER, FRAME, FRAMES_AT_ONCE = 64 << 20, 70_000, 64
QUEUE_S = 0.2
"""A port whose queue is longer drops frames."""
READY = "ready"
"""What it says when it takes frames."""
UNITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}


@dataclass
class Port:
    """One cable, and until when it is busy with what it sends."""

    name: str
    busy_until: float = 0.0
    socket: socket.socket = field(init=False)

    def __post_init__(self) -> None:
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self.socket.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        self.socket.bind((self.name, 0))
        self.socket.setblocking(False)

    def fileno(self) -> int:
        """For select."""
        return self.socket.fileno()


class DelaySwitch:
    """The ports, the addresses behind them, and the frames that wait."""

    def __init__(self, delay_s: float, bytes_per_s: float, ports: list[Port]) -> None:
        self.delay_s, self.bytes_per_s, self.ports = delay_s, bytes_per_s, ports
        self.behind: dict[bytes, Port] = {}
        self.waiting: list[tuple[float, int, list[Port], bytes]] = []
        self.count = 0

    def run(self) -> None:
        """For ever."""
        print(READY, flush=True)
        while True:
            self.send_due()
            wait = self.waiting[0][0] - time.monotonic() if self.waiting else 1.0
            # select counts in microseconds; epoll would round up to a millisecond.
            for port in select.select(self.ports, [], [], max(0.0, wait))[0]:
                with contextlib.suppress(OSError):  # no frame any more, or the cable is pulled
                    for _ in range(FRAMES_AT_ONCE):
                        self.take(port, port.socket.recv(FRAME))

    def send_due(self) -> None:
        while self.waiting and self.waiting[0][0] <= time.monotonic():
            _, _, ports, frame = heapq.heappop(self.waiting)
            for port in ports:
                with contextlib.suppress(OSError):
                    port.socket.send(frame)

    def take(self, source: Port, frame: bytes) -> None:
        target, origin = frame[:6], frame[6:12]
        self.behind[origin] = source
        due = time.monotonic()
        port = self.behind.get(target)
        if port is source:
            return
        if port is None:  # a broadcast, or not known yet
            self.keep(due, [other for other in self.ports if other is not source], frame)
            return
        if self.bytes_per_s:
            begin = max(port.busy_until, due)
            if begin - due > QUEUE_S:
                return
            port.busy_until = due = begin + len(frame) / self.bytes_per_s
        self.keep(due, [port], frame)

    def keep(self, due: float, ports: list[Port], frame: bytes) -> None:
        self.count += 1  # keeps the order of frames that are due at once
        heapq.heappush(self.waiting, (due + self.delay_s, self.count, ports, frame))


def bytes_per_second(rate: str) -> float:
    """Of a rate such as 100mbit; 0 is 0."""
    return float(rate[:-4]) * UNITS[rate[-4:].lower()] / 8 if rate != "0" else 0.0


if __name__ == "__main__":
    DelaySwitch(float(sys.argv[1]) / 1e3, bytes_per_second(sys.argv[2]), [Port(name) for name in sys.argv[3:]]).run()
