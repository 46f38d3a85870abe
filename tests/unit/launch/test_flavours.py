"""The commands as text, and which mpirun said what."""

from __future__ import annotations

import shlex

import pytest

from launch.flavours import FLAVOURS, MPICH, OPENMPI_4, OPENMPI_5, Flavour, build_command, recognise
from launch.placement import Plan

FREE = Plan(ranks=2, threads=1, cores=4)
CROWDED = Plan(ranks=3, threads=2, cores=2)
BOUND = Plan(ranks=2, threads=2, cores=4, bind="core")
EXPORTS = "-x A -x B"

COMMANDS = [
    (MPICH, FREE, False, "mpirun -n 2 -bind-to none prog 1"),
    (MPICH, FREE, True, "mpirun -n 2 -bind-to none prog 1"),
    (MPICH, CROWDED, False, "mpirun -n 3 -bind-to none prog 1"),
    (MPICH, CROWDED, True, "mpirun -n 3 -bind-to none prog 1"),
    (MPICH, BOUND, False, "mpirun -n 2 -bind-to core:2 prog 1"),
    (MPICH, BOUND, True, "mpirun -n 2 -bind-to core:2 prog 1"),
    (
        OPENMPI_5,
        FREE,
        False,
        f"mpirun -n 2 --stdin none --map-by :OVERSUBSCRIBE --bind-to none {EXPORTS} prog 1",
    ),
    (
        OPENMPI_5,
        FREE,
        True,
        f"mpirun -n 2 --allow-run-as-root --stdin none --map-by :OVERSUBSCRIBE --bind-to none {EXPORTS} prog 1",
    ),
    (
        OPENMPI_5,
        CROWDED,
        False,
        f"mpirun -n 3 --stdin none --map-by :OVERSUBSCRIBE --bind-to none {EXPORTS} prog 1",
    ),
    (
        OPENMPI_5,
        CROWDED,
        True,
        f"mpirun -n 3 --allow-run-as-root --stdin none --map-by :OVERSUBSCRIBE --bind-to none {EXPORTS} prog 1",
    ),
    (OPENMPI_5, BOUND, False, f"mpirun -n 2 --stdin none --map-by slot:PE=2 --bind-to core {EXPORTS} prog 1"),
    (
        OPENMPI_5,
        BOUND,
        True,
        f"mpirun -n 2 --allow-run-as-root --stdin none --map-by slot:PE=2 --bind-to core {EXPORTS} prog 1",
    ),
    (
        OPENMPI_4,
        FREE,
        False,
        f"mpirun -n 2 --stdin none --quiet --map-by :OVERSUBSCRIBE --bind-to none {EXPORTS} prog 1",
    ),
    (
        OPENMPI_4,
        CROWDED,
        True,
        f"mpirun -n 3 --allow-run-as-root --stdin none --quiet --map-by :OVERSUBSCRIBE --bind-to none {EXPORTS} prog 1",
    ),
    (
        OPENMPI_4,
        BOUND,
        False,
        f"mpirun -n 2 --stdin none --quiet --map-by slot:PE=2 --bind-to core {EXPORTS} prog 1",
    ),
]


@pytest.mark.parametrize(("flavour", "plan", "as_root", "text"), COMMANDS)
def test_command(flavour: Flavour, plan: Plan, as_root: bool, text: str) -> None:
    command = build_command(plan, flavour, mpirun="mpirun", program=["prog", "1"], exported=["A", "B"], as_root=as_root)
    assert shlex.join(command) == text


VERSION_TEXTS = [
    ("mpirun (Open MPI) 5.0.11\n\nReport bugs to https://www.open-mpi.org/community/help/\n", OPENMPI_5),
    ("mpirun (Open MPI) 10.0.0\n", OPENMPI_5),
    ("prterun (PRRTE) 3.0.9\n\nReport bugs to https://github.com/openpmix/prrte/issues\n", OPENMPI_5),
    ("mpirun (Open MPI) 4.1.4\n\nReport bugs to http://www.open-mpi.org/community/help/\n", OPENMPI_4),
    ("mpirun (OpenRTE) 4.0.3\n", OPENMPI_4),
    (
        "HYDRA build details:\n    Version:                                 5.0.2\n"
        "    Configure options:                       --with-device=ch4:ucx,ofi\n",
        MPICH,
    ),
    ("Intel(R) MPI Library for Linux* OS, Version 2021.18 Build 20260101\n", None),
    ("mpirun (Open MPI) 1.10.7\n", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "flavour"), VERSION_TEXTS)
def test_version_texts(text: str, flavour: Flavour | None) -> None:
    assert recognise(text) is flavour


def test_each_mpi_version_has_one_flavour() -> None:
    served = [(flavour.vendor, major) for flavour in FLAVOURS for major in flavour.majors]
    assert len(served) == len(set(served))
