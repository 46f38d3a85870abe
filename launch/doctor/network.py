"""Latency and bandwidth of every pair of hosts, as MPI has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from launch.doctor.finding import Finding, listing
from launch.doctor.ranks import Diagnosis, unfinished

CHECK = "network"
SLOW = 3.0
"""How many times slower than usual a pair must be to be told."""
LEAST_LATENCY_S = 50e-6
"""A shorter latency is never slow: ratios of a few microseconds are noise."""
FIX = "see that link: ethtool eth0 (speed, duplex), ip -s link (errors), its cable and port; or leave the host out"

Link = Mapping[str, Any]


def check_network(diagnosis: Diagnosis) -> list[Finding]:
    """All pairs, and which are slow."""
    if "network" not in diagnosis.stages:
        return [unfinished(CHECK, diagnosis, "network")]
    links = diagnosis.stages["network"]["links"]
    if not links:
        return [Finding(CHECK, "ok", "one rank alone has no one to talk to")]
    details = {"links": links}
    if slow := slow_links(links):
        return [Finding(CHECK, "warning", f"slow: {listing(slow, most=4)}; {_usual(links)}", FIX, details)]
    return [Finding(CHECK, "ok", _usual(links), "", details)]


def slow_links(links: Sequence[Link], slow: float = SLOW) -> list[str]:
    """What is slow, as texts: a host whose every pair is slow once, else pairs.

    A pair is compared with the best pairs of its two hosts, and a host's best with the median of all hosts': so one
    slow host among three, which slows most of the pairs, is named alone. `slow`: how many times less bandwidth than
    that.
    """
    hosts = sorted({name for link in links for name in link["hosts"]})
    if len(links) < 2:
        return []
    fastest = {host: max(link["bytes_per_s"] for link in links if host in link["hosts"]) for host in hosts}
    nearest = {host: min(link["latency_s"] for link in links if host in link["hosts"]) for host in hosts}
    usual_bandwidth, usual_latency = median(fastest.values()), median(nearest.values())

    def is_slow(bandwidth: float, latency: float, than_bandwidth: float, than_latency: float) -> bool:
        return bandwidth * slow < than_bandwidth or latency > max(SLOW * than_latency, LEAST_LATENCY_S)

    bad = [h for h in hosts if is_slow(fastest[h], nearest[h], usual_bandwidth, usual_latency)]
    texts = [f"every pair of {host} ({_speed(nearest[host], fastest[host])} at best)" for host in bad]
    for link in links:
        first, second = link["hosts"]
        best = min(fastest[first], fastest[second]), max(nearest[first], nearest[second])
        if is_slow(link["bytes_per_s"], link["latency_s"], *best):
            texts.append(f"{first} - {second} ({_speed(link['latency_s'], link['bytes_per_s'])})")
    return texts


def _usual(links: Sequence[Link]) -> str:
    if len(links) == 1:
        (first, second), ranks = links[0]["hosts"], links[0]["ranks"]
        where = f"ranks {ranks[0]} and {ranks[1]} on {first}" if first == second else f"{first} - {second}"
        return f"{_speed(links[0]['latency_s'], links[0]['bytes_per_s'])}: {where}"
    usual = _speed(median(link["latency_s"] for link in links), median(link["bytes_per_s"] for link in links))
    last = min(links, key=lambda link: float(link["bytes_per_s"]))
    slowest = f"{' - '.join(last['hosts'])} ({_speed(last['latency_s'], last['bytes_per_s'])})"
    return f"{usual}: median of {len(links)} pairs of hosts; the slowest is {slowest}"


def _speed(latency_s: float, bytes_per_s: float) -> str:
    return f"{latency_s * 1e6:.1f} us, {bytes_per_s / 1e9:.3g} GB/s"
