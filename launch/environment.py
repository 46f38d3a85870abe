"""The environment variables that all ranks share."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

from launch.errors import UsageError
from launch.flavours import Flavour, binding_environment
from launch.placement import Plan


def rank_environment(plan: Plan, flavour: Flavour, user: Mapping[str, str]) -> dict[str, str]:
    """What is set for every rank, in a fixed order; the variables of `user` (`--env`) come last and win.

    Numba and OpenMP get the plan's threads, BLAS one: the kernels are Numba's, and a second pool of threads
    would compete with theirs. Waiting threads and ranks spin by default, which is fastest while everyone has
    a core. Where they share cores, a spinning waiter keeps the core from the one that it waits for (a
    parallel region took 2000 us instead of 4), so there they give it up.

    Raises:
        UsageError: if `user` sets the number of threads, which belongs to `--threads`.
    """
    threads = str(plan.threads)
    counted = {"NUMBA_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
    for name in counted.keys() & user.keys():
        if user[name] != threads:
            raise UsageError(f"--env {name}={user[name]} differs from {threads} threads: give --threads only")
    single = {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    patient = {"OMP_WAIT_POLICY": "passive", **flavour.yielding} if plan.oversubscribed else {}
    told = {"DDP_WORLD_SIZE": str(plan.ranks), "DDP_THREADS": threads}
    return {**counted, **single, **patient, **binding_environment(plan, flavour), **told, **user}


FORWARDED = ("PATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
FORWARDED_PREFIXES = ("PYTHON", "DDP_", "NUMBA_", "OMP_", "KMP_", "GOMP_", "MPI4PY_", "UCX_", "FI_")
"""Variables of the launcher that change what a rank computes, or how: ranks on other hosts must have them too, which
Open MPI's do not by themselves. What belongs to one host, such as TMPDIR or HOSTNAME, is left there."""


def forwarded(present: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """The variables to be passed on to other hosts beside those that are `wanted` anyway."""
    return sorted(
        name for name in present if name not in wanted and (name in FORWARDED or name.startswith(FORWARDED_PREFIXES))
    )


def parse_assignment(text: str) -> tuple[str, str]:
    """Split `K=V` of `--env`; the value may be empty and may contain `=`.

    Raises:
        UsageError: if there is no `=`, or what stands before it is not a variable's name.
    """
    name, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise UsageError(f"--env {text!r} is not NAME=VALUE: write for example --env OMP_WAIT_POLICY=active")
    return name, value


def shell_line(command: Sequence[str], wanted: Mapping[str, str], present: Mapping[str, str]) -> str:
    """The command as a line for a POSIX shell, led by those `wanted` variables that `present` lacks."""
    changed = [f"{name}={shlex.quote(value)}" for name, value in wanted.items() if present.get(name) != value]
    return " ".join([*changed, shlex.join(command)])
