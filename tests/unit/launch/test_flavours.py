"""The commands as text, and which mpirun said what."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from launch.flavours import (
    FLAVOURS,
    INTEL,
    MPICH,
    OPENMPI_4,
    OPENMPI_5,
    SRUN,
    Flavour,
    binding_environment,
    build_command,
    recognise,
    srun_for,
)
from launch.hosts import Host
from launch.placement import Available, Plan, make_plan

FREE = make_plan(2, 1, "none", [Available(Host("a"), (0, 1, 2, 3))])
CROWDED = make_plan(3, 2, "none", [Available(Host("a"), (0, 1))])
BOUND = make_plan(2, 2, "core", [Available(Host("a"), (0, 1, 2, 3))])
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


ACROSS = make_plan(3, 2, "none", [Available(Host(name, 2), (0, 1, 2, 3)) for name in "ab"])
ACROSS_BOUND = make_plan(3, 2, "core", [Available(Host(name, 2), (0, 1, 2, 3)) for name in "ab"])

SRUN_START = "mpirun -n 3 --distribution=arbitrary --mpi=pmix --export=ALL --wait=5 --input=none --label"
HOST_COMMANDS = [
    (srun_for("Open MPI"), ACROSS, f"{SRUN_START} --cpu-bind=none prog"),
    (srun_for("Open MPI"), ACROSS_BOUND, f"{SRUN_START} --cpus-per-task=2 --cpu-bind=cores prog"),
    (MPICH, ACROSS, "mpirun -n 3 -f F -prepend-pattern '<rank %r>' -bind-to none prog"),
    (MPICH, ACROSS_BOUND, "mpirun -n 3 -f F -prepend-pattern '<rank %r>' -bind-to core:2 prog"),
    (INTEL, ACROSS, "mpirun -n 3 -machinefile F -prepend-pattern '<rank %r>' prog"),
    (
        OPENMPI_5,
        ACROSS,
        "mpirun -n 3 --hostfile F --stdin none --output tag --map-by slot --bind-to none -x A prog",
    ),
    (
        OPENMPI_5,
        ACROSS_BOUND,
        "mpirun -n 3 --hostfile F --stdin none --output tag --map-by slot:PE=2 --bind-to core -x A prog",
    ),
    (
        OPENMPI_4,
        ACROSS,
        "mpirun -n 3 --hostfile F --stdin none --quiet --tag-output --map-by slot --bind-to none -x A prog",
    ),
]


def test_srun_names_hosts_that_share_evenly() -> None:
    command = build_command(ACROSS, srun_for("MPICH"), mpirun="srun", program=["prog"], exported=[], as_root=True)
    start = "srun -n 3 --nodes=2 --nodelist=a,b --distribution=block --mpi=pmi2"
    assert shlex.join(command) == f"{start} --export=ALL --wait=5 --input=none --cpu-bind=none prog"
    crowded = make_plan(3, 9, "none", [Available(Host(name, 2), (0,)) for name in "ab"])
    command = build_command(crowded, srun_for("MPICH"), mpirun="srun", program=["prog"], exported=[], as_root=True)
    assert "--overcommit" in command


@pytest.mark.parametrize(("flavour", "plan", "text"), HOST_COMMANDS)
def test_command_for_several_hosts_with_labels(flavour: Flavour, plan: Plan, text: str) -> None:
    command = build_command(
        plan,
        flavour,
        mpirun="mpirun",
        program=["prog"],
        exported=["A"],
        as_root=False,
        hostfile=Path("F"),
        labelled=True,
    )
    assert shlex.join(command) == text


def test_intel_mpi_binds_by_its_environment() -> None:
    assert binding_environment(ACROSS, INTEL) == {"I_MPI_PIN": "0"}
    assert binding_environment(ACROSS_BOUND, INTEL) == {"I_MPI_PIN": "1", "I_MPI_PIN_DOMAIN": "2"}
    assert binding_environment(ACROSS_BOUND, MPICH) == {}


# As seen: what the ranks wrote is in capitals.
MARKED = [
    (MPICH, "<rank 0>A<rank 11>B C\n<rank 0>D\n", [("0", "A"), ("11", "B C\n"), ("0", "D\n")]),
    (OPENMPI_5, "[1,0]<stdout>: A\n[1,11]<stderr>: B\n", [("0", "A\n"), ("11", "B\n")]),
    (OPENMPI_4, "[1,0]<stdout>:A[1,11]<stdout>:B\n", [("0", "A"), ("11", "B\n")]),
    (INTEL, "<rank 1>A\n", [("1", "A\n")]),
    (SRUN, " 0: A 3: B\n11: C\n", [("0", "A 3: B\n"), ("11", "C\n")]),
]


@pytest.mark.parametrize(("flavour", "text", "parts"), MARKED)
def test_marks_of_ranks(flavour: Flavour, text: str, parts: list[tuple[str, str]]) -> None:
    split = re.split(flavour.label_pattern, text)
    assert split[0] == ""
    assert list(zip(split[1::2], split[2::2], strict=True)) == parts


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
    ("Intel(R) MPI Library for Linux* OS, Version 2021.18 Build 20260101\n", INTEL),
    ("mpirun (Open MPI) 1.10.7\n", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "flavour"), VERSION_TEXTS)
def test_version_texts(text: str, flavour: Flavour | None) -> None:
    assert recognise(text) is flavour


def test_each_mpi_version_has_one_flavour() -> None:
    served = [(flavour.vendor, major) for flavour in FLAVOURS for major in flavour.majors]
    assert len(served) == len(set(served))
