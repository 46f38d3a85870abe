"""What makes a point of a study doubtful, and whether all runs trained the same bits."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from launch.placement import ranges
from launch.scaling.records import Measurement, Point
from launch.scaling.topology import first_siblings, physical_cores
from launch.wording import count

NOISE_BOUND = 0.10
"""Spread of a point's repeats, (largest - smallest) / median step time, above which it is called noisy."""
BUSY_BOUND = 0.25
"""Cores that others keep at work just before a run, above which it is said."""


@dataclass(frozen=True, order=True)
class Flag:
    """One reason for doubt."""

    name: str
    """Short, for a table: one of those of MEANING."""
    text: str
    """A sentence, without its full stop."""


OVERSUBSCRIBED, BOUND, SMT = "oversubscribed", "bound", "smt"
ONE_MACHINE, IDLE, BUSY, NOISY, MIXED = "one machine", "idle ranks", "busy", "noisy", "mixed"
SAME = {"cpu": "processors", "mpi_library": "MPI libraries", "versions": "packages", "git_revision": "revisions"}
"""What must be the same in runs that are compared, by its name in the provenance."""

MEANING = {
    OVERSUBSCRIBED: "more threads than physical cores: they take turns",
    BOUND: "a rank may use fewer cores than it has threads",
    SMT: "threads share physical cores as SMT siblings",
    ONE_MACHINE: "several hosts are one machine: they share its cores and memory, and no real network lies between",
    IDLE: "more ranks than logical shards: some have nothing to compute",
    BUSY: f"others kept more than {BUSY_BOUND:g} of a core at work, where the run was started, just before it",
    NOISY: f"the repeats differ by more than {NOISE_BOUND:.0%} of their median",
    MIXED: "the runs, or those of the baseline, were made on other processors or by other software",
}
"""Of each flag in general, for a legend."""


@dataclass(frozen=True)
class Machine:
    """What the ranks of a run have of one machine."""

    hosts: tuple[str, ...]
    ranks: tuple[int, ...]
    masks: tuple[frozenset[int], ...]
    """The logical cores that each of these ranks may use."""
    siblings: Sequence[Sequence[int]]

    def physical(self, cores: Iterable[int]) -> int:
        """How many physical cores these are."""
        return physical_cores(cores, self.siblings)

    @property
    def all_cores(self) -> frozenset[int]:
        """That any of the ranks may use."""
        return frozenset().union(*self.masks)

    @property
    def name(self) -> str:
        """For messages."""
        return self.hosts[0] if len(self.hosts) == 1 else f"{', '.join(self.hosts[:4])} (one machine)"


def machines(measurement: Measurement) -> list[Machine]:
    """Of a run, by its recorded hosts, affinity masks, kernels and siblings."""
    facts = measurement.provenance
    kernels = facts.get("machines") or measurement.hosts
    found = []
    for kernel in dict.fromkeys(kernels):
        ranks = tuple(rank for rank, other in enumerate(kernels) if other == kernel)
        found.append(
            Machine(
                tuple(dict.fromkeys(measurement.hosts[rank] for rank in ranks)),
                ranks,
                tuple(frozenset(facts["affinity"][rank]) for rank in ranks),
                facts.get("siblings", {}).get(kernel, ()),
            )
        )
    return found


def real_cores(measurement: Measurement) -> int:
    """Physical cores of all ranks together, as far as their masks allow; machines counted once."""
    return sum(machine.physical(machine.all_cores) for machine in machines(measurement))


def flags_of_run(measurement: Measurement) -> tuple[Flag, ...]:
    """What is doubtful about one run, whatever it measured."""
    threads, shards = measurement.point.threads, measurement.point.shards
    flags = [flag for machine in machines(measurement) for flag in _flags_of_machine(machine, threads)]
    if measurement.point.ranks > shards:
        idle = measurement.point.ranks - shards
        flags.append(Flag(IDLE, f"{count(idle, 'rank')} of {measurement.point.ranks} idle: {shards} logical shards"))
    busy = measurement.provenance.get("others_busy_cores", 0.0)
    if busy > BUSY_BOUND:
        flags.append(Flag(BUSY, f"others kept {busy:.1f} cores at work just before it"))
    return _one_of_each(flags)


def _flags_of_machine(machine: Machine, threads: int) -> list[Flag]:
    flags = []
    wanted, cores = len(machine.ranks) * threads, machine.physical(machine.all_cores)
    shared = f"{count(len(machine.ranks), 'rank')} x {count(threads, 'thread')} on {machine.name}"
    if wanted > cores:
        flags.append(Flag(OVERSUBSCRIBED, f"{shared} have {count(cores, 'core')} for {count(wanted, 'thread')}"))
    elif crowded := _crowded(machine, threads):
        flags.append(Flag(OVERSUBSCRIBED, crowded))
    for rank, mask in zip(machine.ranks, machine.masks, strict=True):
        who = f"rank {rank} on {machine.name}"
        if len(mask) < threads:
            may = f"may use {'core' if len(mask) == 1 else 'cores'} {ranges(mask)} alone"
            flags.append(Flag(BOUND, f"{who} {may}, for {count(threads, 'thread')}"))
        elif machine.physical(mask) < threads:
            flags.append(Flag(SMT, f"{who} has SMT siblings for its {count(threads, 'thread')}: {ranges(mask)}"))
    if cores < wanted <= len(machine.all_cores):
        flags.append(Flag(SMT, f"{shared} run on both SMT siblings of a core"))
    if len(machine.hosts) > 1:
        flags.append(Flag(ONE_MACHINE, f"{', '.join(machine.hosts[:8])} are one machine"))
    return flags


def _crowded(machine: Machine, threads: int) -> str:
    """Ranks that are bound to cores too few for them, while others have cores to spare; empty if there are none."""
    cores = [first_siblings(mask, machine.siblings) for mask in machine.masks]
    for mine in sorted(cores, key=lambda mine: (len(mine), sorted(mine))):
        inside = [rank for rank, other in zip(machine.ranks, cores, strict=True) if other <= mine]
        if len(inside) > 1 and (wanted := len(inside) * threads) > len(mine):
            return f"ranks {ranges(inside)} on {machine.name} share {count(len(mine), 'core')} for {wanted} threads"
    return ""


def flags_of_point(measurements: Iterable[Measurement], baseline: Iterable[Measurement] = ()) -> tuple[Flag, ...]:
    """What is doubtful about a point: its runs, and how they differ.

    Args:
        measurements: all runs of one point.
        baseline: those that it is compared with.
    """
    runs = list(measurements)
    flags = [flag for run in runs for flag in flags_of_run(run)]
    if (size := spread(runs)) > NOISE_BOUND:
        fastest, slowest = min(run.step_ms for run in runs), max(run.step_ms for run in runs)
        text = f"{count(len(runs), 'run')} took {fastest:.4g} to {slowest:.4g} ms a step, a spread of {size:.0%}"
        flags.append(Flag(NOISY, text))
    compared = [run.provenance for run in [*runs, *baseline]]
    if different := [what for name, what in SAME.items() if len({str(facts.get(name)) for facts in compared}) > 1]:
        flags.append(Flag(MIXED, f"not all runs, with those of the baseline, had the same {', '.join(different)}"))
    return _one_of_each(flags)


def spread(measurements: Sequence[Measurement]) -> float:
    """(largest - smallest) / median of a point's step times; 0 for less than two runs."""
    times = [measurement.step_ms for measurement in measurements]
    return (max(times) - min(times)) / statistics.median(times) if len(times) > 1 else 0.0


def _one_of_each(flags: Iterable[Flag]) -> tuple[Flag, ...]:
    """The first of each name, in the order of MEANING; of the busy ones the worst."""
    found: dict[str, Flag] = {}
    for flag in flags:
        kept = found.setdefault(flag.name, flag)
        if flag.name == BUSY:
            found[BUSY] = max(kept, flag)
    return tuple(found[name] for name in MEANING if name in found)


@dataclass(frozen=True)
class Bits:
    """Whether runs that should have trained the same bits have."""

    points: tuple[Point, ...]
    """That were compared: the same batch and shards, at different ranks or threads."""
    runs: int
    digests: dict[str, tuple[Point, ...]]
    """Of the parameters, and at which points each came out; one, if all is well."""

    @property
    def same(self) -> bool:
        """Whether all are the same."""
        return len(self.digests) == 1

    @property
    def text(self) -> str:
        """A sentence."""
        ranks = ", ".join(str(number) for number in sorted({point.ranks for point in self.points}))
        batch = self.points[0].batch
        if self.same:
            (digest,) = self.digests
            return (
                f"all {self.runs} runs with batch {batch}, on {ranks} ranks, trained the same bits:"
                f" SHA-256 {digest[:12]} of the parameters"
            )
        parts = [
            f"{digest[:12]} at {', '.join(point.name for point in points)}" for digest, points in self.digests.items()
        ]
        return f"error: runs with batch {batch} trained different bits though comm.exact is on: {'; '.join(parts)}"


def same_bits(measurements: Iterable[Measurement]) -> Bits | None:
    """Compare the parameters of all points of strong scaling; None if none can be compared.

    Points that compute the same (batch, shards and exact sums) must end with the same bits, whatever their ranks and
    threads. Those of strong scaling do; of several such groups (repeats of a point of weak scaling are one too) the
    first that differs is told, else the one with the most points.
    """
    groups: dict[tuple[int, int], list[Measurement]] = {}
    for run in measurements:
        if run.exact:
            groups.setdefault((run.point.batch, run.point.shards), []).append(run)
    found = [_compare(runs) for runs in groups.values() if len(runs) > 1]
    different = [bits for bits in found if not bits.same]
    strong = [bits for bits in found if len(bits.points) > 1]
    return max(different or strong, key=lambda bits: len(bits.points), default=None)


def _compare(runs: Sequence[Measurement]) -> Bits:
    points = tuple(sorted({run.point for run in runs}))
    by_digest = {
        digest: tuple(sorted({run.point for run in runs if run.parameters_sha256 == digest}))
        for digest in dict.fromkeys(run.parameters_sha256 for run in runs)
    }
    return Bits(points, len(runs), by_digest)
