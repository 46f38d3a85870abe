"""What the ranks of a job find: `mpirun -n P python -m ddp.comm.diagnose SECONDS`, for `python -m launch doctor`.

Each stage ends with one line of MARK and a JSON object, of rank 0 but for the first: so whatever hangs or fails, what
was found before is told. After SECONDS every rank ends itself, wherever it waits, on a host that the launcher may no
longer reach. With a second argument `start` the ranks only tell where they are, and their BLAS, without MPI.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddp.comm import environment
from ddp.comm.failure import EXIT_USER_ERROR, WrongLauncherError

if TYPE_CHECKING:
    from ddp.comm.world import World

MARK = "ddp.comm.diagnose: "
THREAD_VARIABLES = (
    "NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY",
)  # fmt: skip

IMPORTED = ("numpy", "numba", "llvmlite", "mpi4py")


def main(arguments: Sequence[str] | None = None) -> int:
    """Go through the stages; the exit code of this rank."""
    limit_s, *only = sys.argv[1:] if arguments is None else arguments
    signal.alarm(int(limit_s))  # its default action ends the process even inside of an MPI call
    environment.prepare()
    place = {"rank": environment.launched_rank(), "host": os.uname().nodename, "cores": sorted(os.sched_getaffinity(0))}
    if only == ["start"]:
        _say("started", **place, blas_threads=_blas_threads(), variables=_thread_variables())
        return 0
    _say("started", **place)
    blas_threads = _blas_threads()
    try:
        from ddp.comm.world import World

        world = World()
    except (ImportError, RuntimeError, WrongLauncherError) as error:
        _say("world", size=1, error=str(error))
        return EXIT_USER_ERROR
    if world.is_root:
        _say("world", size=world.size, hosts=world.num_nodes)
    ranks = world.comm.gather(_rank_facts(world, blas_threads), root=0)
    if world.is_root:
        _say("ranks", ranks=ranks)
    kernels = world.comm.gather(_kernels(world), root=0)
    if world.is_root:
        _say("kernels", ranks=kernels)
    from ddp.comm.network import links_between_hosts

    links = links_between_hosts(world)
    if world.is_root:
        _say("network", links=links)
    return 0


def _say(stage: str, **facts: Any) -> None:
    # A line of its own even where another rank's has no end yet; in one piece.
    sys.stdout.write(f"\n{MARK}{json.dumps({'stage': stage, **facts})}\n")
    sys.stdout.flush()


def _tasks() -> set[int]:
    """The threads that this process has now, by the kernel's word."""
    return {int(task.name) for task in Path("/proc/self/task").iterdir()}


def _blas_threads() -> int:
    """Threads of NumPy's BLAS: those that come with its first product, and the caller's own."""
    before = len(_tasks())
    import numpy as np

    square = np.ones((512, 512), np.float32)
    _ = square @ square
    return len(_tasks()) - before + 1


def _thread_variables() -> dict[str, str]:
    return {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ}


def _rank_facts(world: World, blas_threads: int) -> dict[str, Any]:
    return {
        "rank": world.rank,
        "host": world.host,
        "node_rank": world.node_rank,
        "cores": sorted(os.sched_getaffinity(0)),
        "blas_threads": blas_threads,
        "variables": _thread_variables(),
        "mpi_library": world.mpi_library(),
    }


def _kernels(world: World) -> dict[str, Any]:
    """Numba's threading layer and the peak, which all ranks measure at the same time; collective."""
    facts: dict[str, Any] = {}

    def measure() -> None:
        try:
            from ddp.kernels.jit import exclusive_cache, get_num_threads, threading_layer
            from ddp.kernels.peak import measure_peak_gflops

            before = _tasks()
            with exclusive_cache():
                measure_peak_gflops()  # compiles, or loads what another rank has compiled
            layer = threading_layer()
            pool = _tasks() - before
            if layer != "workqueue":  # whose starting thread only waits for it
                pool.add(os.getpid())
            # The OpenMP library may have bound them by now.
            cores = sorted(set().union(*(os.sched_getaffinity(thread) for thread in pool)))
            facts.update(threading_layer=layer, threads=get_num_threads(), pool=len(pool), cores=cores)
            # Of what was imported, whatever the packages' metadata say.
            facts.update(loaded={name: sys.modules[name].__version__ for name in IMPORTED})
        except Exception as error:  # whatever it is, the others wait for this rank
            facts.update(error=f"{type(error).__name__}: {error}")

    world.first_on_node(measure, measure)
    if "error" not in facts:
        from ddp.kernels.peak import measure_peak_gflops

        facts.update(peak_gflops=measure_peak_gflops())
    return {"rank": world.rank, "host": world.host, "node_rank": world.node_rank, **facts}


if __name__ == "__main__":
    sys.exit(main())
