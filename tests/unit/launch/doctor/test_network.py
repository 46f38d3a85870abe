"""Which pairs of hosts are slow."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest

from launch.doctor.capture import Captured
from launch.doctor.network import check_network, slow_links
from launch.doctor.ranks import Diagnosis


def links(hosts: str, slow: dict[str, tuple[float, float]]) -> list[dict[str, Any]]:
    """All pairs: 20 us and 1 GB/s, but for those in `slow`."""
    found = []
    for pair in combinations(hosts, 2):
        latency_s, bytes_per_s = slow.get("".join(pair), (20e-6, 1e9))
        found.append({"hosts": list(pair), "ranks": [0, 1], "latency_s": latency_s, "bytes_per_s": bytes_per_s})
    return found


@pytest.mark.parametrize(
    ("hosts", "slow", "named"),
    [
        ("ab", {}, []),
        ("ab", {"ab": (1.0, 1.0)}, []),  # nothing to compare with
        ("abc", {}, []),
        ("abcd", {"ac": (25e-6, 0.5e9)}, []),  # as another switch would do
        ("abc", {"ab": (20e-6, 1e8)}, ["a - b"]),
        ("abcd", {"bd": (200e-6, 1e9)}, ["b - d"]),
        ("abcd", {"ad": (49e-6, 1e9)}, []),
        ("abc", {"ac": (20e-6, 1e8), "bc": (20e-6, 1e8)}, ["every pair of c"]),
        ("abcd", {"ac": (2e-3, 1e8), "bc": (2e-3, 1e8), "cd": (2e-3, 1e8)}, ["every pair of c"]),
    ],
)
def test_slow_links(hosts: str, slow: dict[str, tuple[float, float]], named: list[str]) -> None:
    texts = slow_links(links(hosts, slow))
    assert [text.partition(" (")[0] for text in texts] == named


def check(found: list[dict[str, Any]]) -> tuple[str, str]:
    stages = {"network": {"links": found}}
    (finding,) = check_network(Diagnosis(Captured(0, "", ""), stages=stages))
    return finding.state, finding.measured


def test_in_words() -> None:
    assert check(links("abc", {})) == (
        "ok",
        "20.0 us, 1 GB/s: median of 3 pairs of hosts; the slowest is a - b (20.0 us, 1 GB/s)",
    )
    assert check(links("ab", {})) == ("ok", "20.0 us, 1 GB/s: a - b")
    assert check(links("aa", {})) == ("ok", "20.0 us, 1 GB/s: ranks 0 and 1 on a")
    state, measured = check(links("abc", {"ab": (20e-6, 1e8)}))
    assert state == "warning"
    assert measured.startswith("slow: a - b (20.0 us, 0.1 GB/s)")
    assert check([])[0] == "ok"
