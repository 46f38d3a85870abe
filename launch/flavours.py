"""What differs between the MPI launchers, as one table, and the mpirun command made from it.

Every flag was tried with Open MPI 4.1.8 and 5.0.11 and MPICH 5.0.2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from launch.placement import Plan


@dataclass(frozen=True)
class Flavour:
    """The facts about one kind of mpirun. Flags: tuples of arguments; `{threads}` and `{name}` filled in."""

    name: str
    option: str
    """Its name on the command line (`--mpi`)."""
    vendor: str
    """Its name as the MPI library itself gives it."""
    majors: range
    """The major versions of the MPI library that this mpirun can start."""
    version_text: str
    """A regular expression found in the output of its `mpirun --version` and in no other's."""
    as_root: tuple[str, ...]
    no_input: tuple[str, ...]
    """Gives ranks an empty standard input, where mpirun's own being empty is not enough."""
    unbound: tuple[str, ...]
    """Any number of ranks, free to run on every core."""
    bound: tuple[str, ...]
    """`threads` cores for each rank alone."""
    export: tuple[str, ...]
    """Passes the variable `name` of mpirun's environment on to ranks; empty where mpirun passes on all."""
    quiet: tuple[str, ...]
    """Leaves out mpirun's own lines about a rank that ended with an exit code other than 0."""
    label: tuple[str, ...]
    """Marks the output of each rank, where a line of it begins or another rank's came in between."""
    label_pattern: str
    """A regular expression for such a mark, with a group `rank`."""
    whole_lines: bool
    """Whether marked output is held back until a line is complete: a live display would show nothing."""
    yielding: Mapping[str, str] = field(hash=False)
    """The environment that makes a waiting rank give up its core to one that has work."""


# Open MPI counts physical cores as slots and refuses more ranks; the plan has judged that already, and it
# counts hardware threads. Its default binding (one core a rank for one and two ranks, wider for more) would
# confine all the threads of a rank to a single core.
OPENMPI_5 = Flavour(
    name="Open MPI 5",
    option="openmpi",
    vendor="Open MPI",
    majors=range(5, 100),
    version_text=r"\(Open MPI\) (?:[5-9]|\d\d)\.|PRRTE",
    as_root=("--allow-run-as-root",),
    no_input=("--stdin", "none"),  # else 5 never tells rank 0 that the input has ended
    unbound=("--map-by", ":OVERSUBSCRIBE", "--bind-to", "none"),
    bound=("--map-by", "slot:PE={threads}", "--bind-to", "core"),
    export=("-x", "{name}"),
    quiet=(),  # 5 knows no such flag
    label=("--output", "tag"),
    label_pattern=r"\[\d+,(?P<rank>\d+)\]<std(?:out|err)>: ",
    whole_lines=True,
    yielding={"OMPI_MCA_mpi_yield_when_idle": "1"},
)
OPENMPI_4 = replace(
    OPENMPI_5,
    name="Open MPI 4",
    majors=range(4, 5),
    version_text=r"\((?:Open MPI|OpenRTE)\) 4\.",
    quiet=("--quiet",),
    label=("--tag-output",),
    label_pattern=r"\[\d+,(?P<rank>\d+)\]<std(?:out|err)>:",
    whole_lines=False,
)
MPICH = Flavour(
    name="MPICH",
    option="mpich",
    vendor="MPICH",
    majors=range(3, 100),
    version_text=r"HYDRA|MPICH",
    as_root=(),
    no_input=(),
    unbound=("-bind-to", "none"),
    bound=("-bind-to", "core:{threads}"),
    export=(),
    quiet=(),
    label=("-prepend-pattern", "<rank %r>"),
    label_pattern=r"<rank (?P<rank>\d+)>",
    whole_lines=False,
    yielding={"MPIR_CVAR_ENABLE_HEAVY_YIELD": "1"},
)
FLAVOURS = (OPENMPI_5, OPENMPI_4, MPICH)


def recognise(version_output: str) -> Flavour | None:
    """The flavour whose `mpirun --version` printed this text; None for an unknown one."""
    return next((f for f in FLAVOURS if re.search(f.version_text, version_output)), None)


def build_command(
    plan: Plan,
    flavour: Flavour,
    *,
    mpirun: str,
    program: Sequence[str],
    exported: Iterable[str],
    as_root: bool,
    labelled: bool = False,
) -> list[str]:
    """The argument list that starts `plan.ranks` copies of `program` with the `mpirun` of that flavour.

    `exported` names the variables of mpirun's environment that every rank must see.
    """
    binding = flavour.bound if plan.bind == "core" else flavour.unbound
    return [
        mpirun,
        "-n",
        str(plan.ranks),
        *(flavour.as_root if as_root else ()),
        *flavour.no_input,
        *flavour.quiet,
        *(flavour.label if labelled else ()),
        *(part.format(threads=plan.threads) for part in binding),
        *(part.format(name=name) for name in exported for part in flavour.export),
        *program,
    ]
