"""What the launcher's environment tells before MPI starts, and the settings that must be made by then.

Under plain `mpirun` nobody else can make them: MPI libraries, BLAS and OpenMP read their settings once,
when they are loaded.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path

# Set by: Open MPI; Hydra (MPICH, Intel MPI); Slurm's srun (may read "4(x2)").
LOCAL_SIZE_VARIABLES = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_STEP_TASKS_PER_NODE")
LAUNCHERS = {
    "DDP_WORLD_SIZE": "`python -m launch`",
    "OMPI_COMM_WORLD_SIZE": "Open MPI's mpirun",
    "PMI_SIZE": "the mpirun of MPICH or Intel MPI, or srun,",
    "SLURM_STEP_NUM_TASKS": "srun",
    "SLURM_NTASKS": "Slurm",  # also for the job as a whole, of which an mpirun inside may use a part: it comes last
}
"""Who tells the number of ranks, by the variable that holds it; the first that is set counts."""
WORLD_SIZE_VARIABLES = tuple(LAUNCHERS)
RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")

# An idle rank that spins takes the core from one that computes. Measured with 8 ranks on 2 cores while
# one of them worked: MPICH 3.0 s spinning, 0.9 s yielding; Open MPI across hosts 40 ms against 0.08 ms
# an Allreduce. On free cores MPICH's yielding costs latency (0.5 ms against 0.05), so only where shared.
YIELD = {"OMPI_MCA_mpi_yield_when_idle": "1", "MPIR_CVAR_ENABLE_HEAVY_YIELD": "1"}


def _first_number(environment: Mapping[str, str], names: tuple[str, ...]) -> int | None:
    for name in names:
        digits = environment.get(name, "").split("(")[0].split(",")[0]
        if digits.isdigit():
            return int(digits)
    return None


def launched_local_size(environment: Mapping[str, str] = os.environ) -> int:
    """How many ranks the launcher says it started on this node; 1 where it says nothing."""
    return _first_number(environment, LOCAL_SIZE_VARIABLES) or 1


def launched_world_size(environment: Mapping[str, str] = os.environ) -> int:
    """How many ranks the launcher says it started; 1 where it says nothing."""
    return _first_number(environment, WORLD_SIZE_VARIABLES) or 1


def is_launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a launcher such as mpirun or srun started this process."""
    return any(variable in environment for variable in WORLD_SIZE_VARIABLES)


def launcher(environment: Mapping[str, str] = os.environ) -> str:
    """Who says so, for a message."""
    return next((name for variable, name in LAUNCHERS.items() if variable in environment), "the launcher")


def planned_threads(environment: Mapping[str, str] = os.environ) -> int | None:
    """Threads per rank as `python -m launch` has planned them, knowing all hosts; None under plain mpirun."""
    return _first_number(environment, ("DDP_THREADS",))


def launched_rank(environment: Mapping[str, str] = os.environ) -> int:
    """Which of them this process is, by the launcher's word; 0 where it says nothing."""
    return _first_number(environment, RANK_VARIABLES) or 0


def terminal_width(environment: Mapping[str, str] = os.environ) -> int | None:
    """Width of the terminal that shows this rank's standard output, in characters; None if none does.

    Under mpirun only the launcher knows, and says so in DDP_TERMINAL: Open MPI gives each rank a terminal
    of its own even where mpirun writes to a file, and MPICH gives it none even on a terminal.
    """
    if width := _first_number(environment, ("DDP_TERMINAL",)):
        return width
    if is_launched(environment) or not sys.stdout.isatty():
        return None
    return shutil.get_terminal_size().columns


def chosen_name(environment: Mapping[str, str] = os.environ) -> str:
    """The name of the run directory, where the launcher chose it because nobody had; else empty."""
    return environment.get("DDP_CHOSEN_NAME", "")


def parameter_log(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The file that is to get digests of the parameters after every step: DDP_PARAMETER_LOG; None if there is none.

    Not a field of the configuration: it is how the launcher looks on, and belongs to no run.
    """
    path = environment.get("DDP_PARAMETER_LOG")
    return Path(path) if path else None


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def launched_cores(environment: Mapping[str, str] = os.environ) -> int:
    """Cores that the ranks of this node have between them, as far as one of them can tell before MPI starts.

    A rank may be bound to a core of its own. The process that started it is not, and has those of all.
    """
    cores = os.sched_getaffinity(0)
    if is_launched(environment):
        with contextlib.suppress(OSError):
            cores |= os.sched_getaffinity(os.getppid())
    of_the_job = _first_number(environment, ("SLURM_CPUS_ON_NODE",))  # srun's daemon may have more
    return min(len(cores), of_the_job or len(cores))


def prepare(environment: MutableMapping[str, str] = os.environ) -> None:
    """Make the settings that must stand before NumPy, Numba and MPI are loaded.

    What the user or a launcher has set stays. Mutates `environment`.
    """
    settings = {
        # No BLAS on the training path: its threads would only be created to sleep.
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        # mpi4py would only warn of a foreign launcher; `World` makes it an error.
        "MPI4PY_CHECK_MPIEXEC": "0",
        # Open MPI sums in place by sending everything to one rank and back, one after the other: twice the time of the
        # bytes, which then outlast the backward pass (docs/tracing.md).
        "OMPI_MCA_coll_libnbc_iallreduce_algorithm": "rabenseifner",
        # Open MPI 5 would write `Error: OSC UCX component priority set` for each window, which needs none of UCX.
        "OMPI_MCA_osc": "^ucx",
    }
    if launched_local_size(environment) > launched_cores(environment):
        # Passive waiting: a parallel region of two spinning teams on shared cores takes 2,000 us, not 4.
        settings |= {**YIELD, "OMP_WAIT_POLICY": "passive"}
    for name, value in settings.items():
        environment.setdefault(name, value)
