"""What differs between the MPI launchers, as one table, and the mpirun command made from it.

Every flag was tried with Open MPI 4.1.8 and 5.0.11, MPICH 5.0.2, Intel MPI 2021.18 and Slurm 22.05, on one host and
on several.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from launch.placement import Plan

_PROGRAMS = ("mpirun", "mpiexec", "mpirun.openmpi", "mpiexec.openmpi", "mpirun.mpich", "mpiexec.mpich")


@dataclass(frozen=True)
class Flavour:
    """The facts about one kind of mpirun. Flags: tuples of arguments; `{threads}`, `{name}`, `{file}` filled in."""

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
    """Any number of ranks on this host, free to run on every core."""
    bound: tuple[str, ...]
    """`threads` cores for each rank alone, on any hosts."""
    hosts: tuple[str, ...]
    """Reads the hosts, and the number of ranks for each, from `file`; ranks are numbered host by host."""
    host_line: str
    """A line of that file, of `{host}` and `{ranks}`."""
    unbound_hosts: tuple[str, ...]
    """As `unbound`, on the hosts of the file."""
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
    unbound_environment: Mapping[str, str] = field(default_factory=dict, hash=False)
    """The environment that goes with `unbound`."""
    bound_environment: Mapping[str, str] = field(default_factory=dict, hash=False)
    """The environment that goes with `bound`; `{threads}` filled in."""
    hosts_environment: Mapping[str, str] = field(default_factory=dict, hash=False)
    """The environment that goes with `hosts`; `{file}` filled in."""
    even_hosts: tuple[str, ...] = ()
    """As `hosts`, without a file: `names` of so many `hosts`, where the ranks are dealt out evenly."""
    line_per_rank: bool = False
    """Whether that file has a line for each rank, rather than for each host."""
    crowded: tuple[str, ...] = ()
    """Allows more threads than cores."""
    programs: tuple[str, ...] = _PROGRAMS
    """What its mpirun may be called, the best first."""


# Open MPI counts physical cores as slots and refuses more ranks; the plan has judged that already, and it
# counts hardware threads. Its default binding (one core a rank for one and two ranks, wider for more) would
# confine all the threads of a rank to a single core. On several hosts the file has just the plan's ranks as slots;
# OVERSUBSCRIBE would put all ranks on the first of them.
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
    hosts=("--hostfile", "{file}"),
    host_line="{host} slots={ranks}",
    unbound_hosts=("--map-by", "slot", "--bind-to", "none"),
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
    hosts=("-f", "{file}"),
    host_line="{host}:{ranks}",
    unbound_hosts=("-bind-to", "none"),
    export=(),
    quiet=(),
    label=("-prepend-pattern", "<rank %r>"),
    label_pattern=r"<rank (?P<rank>\d+)>",
    whole_lines=False,
    yielding={"MPIR_CVAR_ENABLE_HEAVY_YIELD": "1"},
)
INTEL = replace(
    MPICH,
    name="Intel MPI",
    option="intelmpi",
    vendor="Intel MPI",
    majors=range(2017, 2100),
    version_text=r"Intel\(R\) MPI",
    unbound=(),
    bound=(),
    hosts=("-machinefile", "{file}"),  # `-f` gives every host as many ranks as the first
    unbound_hosts=(),
    yielding={},  # it gives up shared cores by itself: 33 us an Allreduce of 8 ranks on 2 cores
    unbound_environment={"I_MPI_PIN": "0"},  # its default is a core a rank
    bound_environment={"I_MPI_PIN": "1", "I_MPI_PIN_DOMAIN": "{threads}"},
    programs=("mpiexec.hydra", *_PROGRAMS),  # its mpirun is a script that runs the first mpiexec.hydra on PATH
)
FLAVOURS = (OPENMPI_5, OPENMPI_4, INTEL, MPICH)

# All is said explicitly: a batch script's variables (SLURM_CPU_BIND, SLURM_EXPORT_ENV=NONE ...) would decide otherwise.
# --wait ends ranks that go on 5 s after the first one has ended; --kill-on-bad-exit would end them before they could
# all exit with 75, and waits 30 s for one that hangs. Even with --cpu-bind=none, -c confines a rank to T cores.
SRUN = replace(
    MPICH,
    name="srun",
    option="srun",
    vendor="",
    majors=range(0),
    version_text=r"^slurm",
    no_input=("--mpi={pmi}", "--export=ALL", "--wait=5", "--input=none"),
    unbound=("--cpu-bind=none",),
    bound=("--cpus-per-task={threads}", "--cpu-bind=cores"),
    hosts=("--distribution=arbitrary",),  # MPICH then takes each rank for alone on its host: pmi2 tells it so
    even_hosts=("--nodes={hosts}", "--nodelist={names}", "--distribution=block"),
    host_line="{host}",
    unbound_hosts=("--cpu-bind=none",),
    label=("--label",),
    label_pattern=r"(?m:^) *(?P<rank>\d+): ",
    whole_lines=True,
    yielding={"MPIR_CVAR_ENABLE_HEAVY_YIELD": "1", "OMPI_MCA_mpi_yield_when_idle": "1"},
    hosts_environment={"SLURM_HOSTFILE": "{file}"},
    line_per_rank=True,
    crowded=("--overcommit",),
    programs=("srun",),
)
PMI = {"MPICH": "pmi2", "Intel MPI": "pmi2", "Open MPI": "pmix"}
"""What an MPI library speaks with srun; with another `--mpi`, or none, each rank is alone in a world of one."""


def srun_for(vendor: str) -> Flavour:
    """The srun that starts ranks of that vendor's library."""
    return replace(SRUN, no_input=tuple(part.format(pmi=PMI[vendor]) for part in SRUN.no_input))


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
    hostfile: Path | None = None,
    labelled: bool = False,
) -> list[str]:
    """The argument list that starts `plan.ranks` copies of `program` with the `mpirun` of that flavour.

    Args:
        plan: how many, and on which hosts if there is a `hostfile`.
        flavour: the kind of mpirun.
        mpirun: its path.
        program: what each rank runs.
        exported: the variables of mpirun's environment that every rank must see.
        as_root: whether this is the superuser.
        hostfile: the plan's hosts, in the flavour's form; None: this host.
        labelled: whether output is to be marked with its rank.
    """
    unbound = flavour.unbound if hostfile is None else flavour.unbound_hosts
    binding = flavour.bound if plan.bind == "core" else unbound
    hosts = flavour.even_hosts if hostfile is None else flavour.hosts
    names = ",".join(place.host.name for place in plan.hosts)
    return [
        mpirun,
        "-n",
        str(plan.ranks),
        *(part.format(file=hostfile, names=names, hosts=len(plan.hosts)) for part in hosts),
        *(flavour.as_root if as_root else ()),
        *flavour.no_input,
        *flavour.quiet,
        *(flavour.label if labelled else ()),
        *(flavour.crowded if plan.oversubscribed else ()),
        *(part.format(threads=plan.threads) for part in binding),
        *(part.format(name=name) for name in exported for part in flavour.export),
        *program,
    ]


def binding_environment(plan: Plan, flavour: Flavour) -> dict[str, str]:
    """The variables that bind ranks to cores, or leave them free, where the flavour has no flags for it."""
    chosen = flavour.bound_environment if plan.bind == "core" else flavour.unbound_environment
    return {name: value.format(threads=plan.threads) for name, value in chosen.items()}
