"""The command `python -m launch doctor`: makes all checks, each within a time limit, and shows what they find."""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from launch.argument_types import positive
from launch.discovery import Launcher, Library
from launch.doctor import affinity, directory, hosts, kernels, mpi, network, ranks, report
from launch.doctor.capture import capture
from launch.doctor.finding import Finding, not_made, worst
from launch.doctor.hosts import Visit
from launch.doctor.ranks import Diagnosis
from launch.errors import UsageError
from launch.hosts import is_local, this_host
from launch.job import Job, Request, build_job, requested_hosts
from launch.placement import Available, available_on, make_plan

EXIT_BAD = 1
LEAST_RANKS = 2
"""By default: one alone has no one to talk to."""


def run(
    options: argparse.Namespace, _program: Sequence[str], trainer: Sequence[str], library: Callable[[], Library]
) -> int:
    """Run the command; 0 if there is no error, else EXIT_BAD.

    Raises:
        UsageError: for mistakes in its own arguments.
    """
    if trainer:
        raise UsageError(f"{trainer[0]} after a --: the doctor starts no trainer, leave it out")
    examination = Examination(options, library)
    previous = signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))  # and so end the ranks
    try:
        findings = (report.show_json if options.json else report.show_table)(examination.findings())
    finally:
        signal.signal(signal.SIGTERM, previous)
    return EXIT_BAD if worst(findings) == "error" else 0


class Examination:
    """All checks, in an order in which each can use what was found before."""

    def __init__(self, options: argparse.Namespace, library: Callable[[], Library]) -> None:
        """Take the arguments.

        Raises:
            UsageError: for those that make no sense.
        """
        named, _ = requested_hosts(options.hosts, options.hostfile, os.environ)
        self.hosts = named or [this_host()]
        self.directory = Path(options.directory).absolute()
        self.ranks: int | None = options.n
        self.threads: int | None = options.threads
        self.wanted_mpi: str = options.mpi
        self.library = library
        make_plan(self.ranks or 1, self.threads, "none", [Available(host, (0,)) for host in self.hosts])

    def findings(self) -> Iterator[Finding]:
        """Make the checks one after the other."""
        finding, library = mpi.check_library(self.library)
        yield finding
        launcher = None
        if library is not None:
            finding, launcher = mpi.check_mpirun(library, self.wanted_mpi)
            yield finding
        visits, findings = self._check_hosts()
        yield from findings
        reached = [visit for visit in visits if visit.facts is not None]
        if launcher is None or not reached:
            reason = "no host answers" if launcher else "no mpirun to start ranks with"
            for check in ("world", "affinity", "threading layer", "threads", "network", "peak"):
                yield not_made(check, reason)
            return
        yield from self._check_ranks(launcher, reached)

    def _check_hosts(self) -> tuple[list[Visit], list[Finding]]:
        """Call on every host, once, and look at what was seen there."""
        token = secrets.token_hex(6)
        with directory.prepared(self.directory, token, len(self.hosts)) as problem:
            visits = hosts.visit(self.hosts, self.directory, token)
            shared = directory.check_directory(self.directory, token, problem, visits)
            directory.remove_elsewhere(self.directory, token, visits)
        return visits, [
            *hosts.check_reached(visits),
            *hosts.check_packages(visits),
            *hosts.check_clocks(visits),
            *shared,
        ]

    def _check_ranks(self, launcher: Launcher, reached: Sequence[Visit]) -> Iterator[Finding]:
        """What one job on the hosts that can be reached finds, and then a plain mpirun here."""
        available = _available(reached)
        request = Request(
            self._number_of_ranks(available), self.threads, "none", tuple(each.host for each in available)
        )
        with tempfile.TemporaryDirectory(prefix="ddp-doctor-") as folder:
            job = build_job(request, launcher, ranks.PROGRAM, available, Path(folder) / "hosts")
            diagnosis = _start(job)
        plan = job.plan
        yield ranks.check_world(diagnosis, plan.ranks)
        own_cores = len(os.sched_getaffinity(0))
        cores = {
            visit.facts.host_name: len(each.cores)
            for visit, each in zip(reached, available, strict=True)
            if visit.facts
        }
        yield from affinity.check_affinity(diagnosis, plan.threads, cores, os.environ, own_cores)
        here = next((place.ranks for place in plan.hosts if is_local(place.host)), 0)
        # With fewer cores here than threads, each rank lacks some, whatever mpirun does.
        if here and own_cores >= plan.threads and launcher.flavour.option != "srun":
            plain = _start_plainly(launcher, here)
            yield from affinity.check_plain_mpirun(plain, plan.threads, own_cores, os.environ, launcher.flavour)
        yield from kernels.check_threading_layer(diagnosis)
        yield from kernels.check_loaded_versions(diagnosis)
        yield from kernels.check_threads(diagnosis, cores)
        yield from network.check_network(diagnosis)
        yield from kernels.check_peak(diagnosis)

    def _number_of_ranks(self, available: Sequence[Available]) -> int:
        """As asked for, as far as the hosts that answer have slots; by default all of these."""
        slots = [each.host.slots for each in available]
        stated = [number for number in slots if number is not None]
        if len(stated) < len(slots):
            return self.ranks or max(LEAST_RANKS, len(slots))
        return min(self.ranks or sum(stated), sum(stated))


def _available(reached: Sequence[Visit]) -> list[Available]:
    """What a job may use of these hosts; within a Slurm job as srun tells, since ssh may be outside of it."""
    in_job, _ = available_on([visit.host for visit in reached]) if "SLURM_JOB_ID" in os.environ else ([], {})
    known = {each.host: each for each in in_job}
    return [
        known.get(visit.host) or Available(visit.host, visit.facts.cores, visit.facts.machine)
        for visit in reached
        if visit.facts is not None
    ]


def _start(job: Job) -> Diagnosis:
    if job.hostfile is not None:
        job.hostfile.write_text(job.hostfile_text, encoding="utf-8")
    environment = {**os.environ, **job.environment}
    return ranks.read_diagnosis(capture(job.command, environment, ranks.LIMIT_S), job.shell())


def _start_plainly(launcher: Launcher, number: int) -> Diagnosis:
    """As `mpirun -n P python -m ddp.train` would, by whatever options the environment and files give to mpirun."""
    as_root = launcher.flavour.as_root if os.geteuid() == 0 else ()
    command = [launcher.mpirun, "-n", str(number), *as_root, *ranks.WHERE]
    return ranks.read_diagnosis(capture(command, os.environ, ranks.WHERE_LIMIT_S))


def add_parser(commands: Any) -> None:
    """Add the command to those of `python -m launch`."""
    parser = commands.add_parser(
        "doctor",
        help="measure hosts, MPI, cores, threads, network and directory, and say what to mend",
        description="Measure what a job would run on, by a process on every host and one real job: the MPI library "
        "and its mpirun, whether ranks see each other, their cores, threads and peak, the packages and clocks of all "
        "hosts, the run directory, and the network between hosts.",
        epilog="Exit code: 0 no errors; 1 at least one; 2 a mistake in the arguments. Nothing is left on disk.",
        allow_abbrev=False,
    )
    parser.add_argument("-H", dest="hosts", metavar="h1:4,h2:4", help="hosts, and ranks for each (default: this host)")
    parser.add_argument("--hostfile", metavar="F", help="a file with a host a line, as of run")
    parser.add_argument(
        "-n",
        type=positive,
        metavar="P",
        help="number of ranks (default: the hosts' slots; else one a host, at least 2)",
    )
    parser.add_argument("--threads", type=positive, metavar="T", help="threads per rank (default: as of run)")
    parser.add_argument(
        "--directory", "--output.dir", default="runs", metavar="DIR", help="the run directory (default: %(default)s)"
    )
    parser.add_argument(
        "--mpi",
        choices=("auto", "openmpi", "mpich", "intelmpi", "srun"),
        default="auto",
        help="the MPI to use, as of run (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
