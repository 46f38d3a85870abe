"""All ranks, and what they do together."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from ddp.comm import environment
from ddp.comm.activity import Activity
from ddp.comm.failure import DifferingRankError, UserError, WrongLauncherError

Result = TypeVar("Result")
POLL_S = 0.01
PIECE = 1 << 20
"""Elements of a sum over all ranks that travel at once, 4 MiB of float32. MPI libraries allocate a buffer of that size
in each call: of 36 MB it comes fresh from the kernel, page by page. Between 2 ranks of a node 24 ms in one call, 8 in
pieces (MPICH; Open MPI 39 and 12)."""
USER_MISTAKES = (ValueError, OSError, MemoryError)
"""What bad input raises; anything else is a fault of the program."""


class World:
    """The ranks of this run (MPI_COMM_WORLD, or a part of it), and those of this rank's node.

    Attributes:
        rank: this process, counted from 0.
        size: number of ranks (`world_size`).
        local_rank: this rank among those of its node.
        local_size: ranks on this node.
        smallest_node: ranks on the node that has the fewest.
        node_rank: this node, counted from 0 in the order of its first rank.
        num_nodes: number of nodes.
        host: this node's name.
        activity: what this rank is doing, by the announcements of its collectives.
    """

    def __init__(self, comm: MPI.Intracomm = MPI.COMM_WORLD, activity: Activity | None = None) -> None:
        """Join the world.

        Args:
            comm: its ranks, all of the run's by default; it is duplicated.
            activity: where collectives are announced; by default one of its own.

        Raises:
            WrongLauncherError: if the launcher started more processes than this MPI library sees.
        """
        self.rank, self.size, self.host = comm.rank, comm.size, MPI.Get_processor_name()
        if comm == MPI.COMM_WORLD:
            self._check_launcher()
        self.activity = activity or Activity(self.rank)
        self.activity.rank = self.rank
        with self.collective("meeting of the ranks"):
            self.comm = comm.Dup()
            self.node = self.comm.Split_type(MPI.COMM_TYPE_SHARED, key=self.rank)
            leader = self.node.bcast(self.rank)
            leader_of = self.comm.allgather(leader)
        leaders = sorted(set(leader_of))
        self.local_rank, self.local_size = self.node.rank, self.node.size
        self.smallest_node = min(map(leader_of.count, leaders))
        self.node_rank, self.num_nodes = leaders.index(leader), len(leaders)

    def _check_launcher(self) -> None:
        launched = environment.launched_world_size()
        if self.size < launched:
            vendor, version = MPI.get_vendor()
            raise WrongLauncherError(
                f"{environment.launcher()} started {launched} processes but each is rank 0 of {self.size}: mpi4py"
                f" loads {vendor} {'.'.join(map(str, version))} and the launcher belongs to another MPI (or, under"
                " srun, speaks another PMI; or a batch script starts Python without either); use that library's own"
                " mpirun, as `python -m launch run -n P` does"
            )

    @property
    def is_root(self) -> bool:
        """Whether this is the rank that writes and shows."""
        return self.rank == 0

    def mpi_library(self) -> str:
        """Name and version of the MPI library."""
        name, version = MPI.get_vendor()
        return f"{name} {'.'.join(map(str, version))}"

    def collective(self, name: str, num_bytes: int = 0) -> Activity:
        """Announce a collective: `with world.collective(name, num_bytes): ...` around every call that waits for others.

        All ranks of the world must announce the same ones, or pass over them: the ranks that hang are told apart by it.
        """
        return self.activity.collective(name, num_bytes)

    def run_together(self, action: Callable[[], Result]) -> Result:
        """Run `action` on every rank; if it is the user's mistake on any, fail on all.

        Args:
            action: what each rank does; collectives in it must not depend on its success.

        Raises:
            UserError: on all ranks, where `action` raised one of USER_MISTAKES on one; names that rank.
        """
        result: Result
        message = None
        try:
            result = action()
        except USER_MISTAKES as error:
            message = str(error)
        with self.collective("outcome of every rank"):
            messages = self.comm.allgather(message)
        for rank, text in enumerate(messages):
            if text is not None:
                raise UserError(text, rank)
        return result

    def run_on_root(self, action: Callable[[], Result]) -> Result:
        """Run `action` on rank 0 and give every rank its (pickled) result, or fail on all as `run_together`."""
        result = self.run_together(lambda: (action() if self.is_root else None,))
        with self.collective("result of rank 0"):
            return self.comm.bcast(result, root=0)[0]  # type: ignore[no-any-return]

    def once_on_node(self, action: Callable[[], Result]) -> Result:
        """Run `action` on one rank of each node and give its (pickled) result to the others there.

        Raises:
            ValueError, OSError or MemoryError: on all ranks of the node, where `action` raised it.
        """
        outcome: tuple[Result | None, Exception | None] = (None, None)
        if self.local_rank == 0:
            try:
                outcome = (action(), None)
            except USER_MISTAKES as raised:
                outcome = (None, raised)
        with self.collective("result of the node's first rank"):
            result, error = self.node.bcast(outcome)
        if error is not None:
            raise error
        return cast("Result", result)

    def share_on_node(self, load: Callable[[], npt.NDArray[np.generic]]) -> npt.NDArray[np.generic]:
        """One rank of the node loads an array; all of them get the same memory, read-only.

        The array goes through an unlinked file in $TMPDIR, so its pages are shared and vanish with
        the last rank. Files rather than MPI-3 windows, since containers give /dev/shm only 64 MB.

        Raises:
            ValueError, OSError or MemoryError: on all ranks of the node, where one could not load or map it.
        """
        if self.local_size == 1:
            array = load()
            array.setflags(write=False)
            self.activity.pass_over(2)
            return array
        path = self.once_on_node(lambda: _save_temporary(load()))
        mapped, error = None, None
        try:
            mapped = np.load(path, mmap_mode="r")
        except USER_MISTAKES as raised:
            error = raised
        with self.collective("mapping of the node's shared data"):
            errors = [raised for raised in self.node.allgather(error) if raised is not None]
        if self.local_rank == 0:
            path.unlink()
        if errors:
            raise errors[0]
        return cast("npt.NDArray[np.generic]", mapped)

    def first_on_node(self, lead: Callable[[], None], follow: Callable[[], None]) -> None:
        """Run `lead` on one rank of each node, then `follow` on the others; all ranks leave together."""
        if self.local_rank == 0:
            lead()
        with self.collective("readiness of the node's first rank"):
            _sleep_until_all_arrive(self.node)
        if self.local_rank > 0:
            follow()
        self.wait_for_all()

    def wait_for_all(self) -> None:
        """A barrier at which a waiting rank sleeps."""
        with self.collective("readiness of all ranks"):
            _sleep_until_all_arrive(self.comm)

    def meet(self, name: str) -> None:
        """Wait for all ranks."""
        with self.collective(name):
            self.comm.Barrier()

    def any_rank(self, condition: bool) -> bool:
        """Whether a condition holds on any rank."""
        with self.collective("condition on any rank"):
            return bool(self.comm.allreduce(condition, op=MPI.LOR))

    def check_agreement(self, facts: Mapping[str, str]) -> None:
        """Compare named facts, such as checksums, over all ranks.

        Raises:
            DifferingRankError: on all ranks, naming the first fact and rank that differ from most.
        """
        gathered = self.all_gather((dict(facts), self.host), "comparison of all ranks")
        for name in facts:
            values = [other[name] for other, _ in gathered]
            common = max(values, key=values.count)
            for rank, value in enumerate(values):
                if value != common:
                    raise DifferingRankError(name, rank, gathered[rank][1], value, common)

    def all_reduce(self, array: npt.NDArray[np.generic], name: str = "sum over all ranks") -> None:
        """Sum an array over all ranks, in place, piece by piece if it is long; `name` says what it is."""
        if self.size > 1:
            assert array.flags.c_contiguous
            flat = array.reshape(-1)
            with self.collective(name, array.nbytes):
                for start in range(0, flat.size, PIECE):
                    self.comm.Allreduce(MPI.IN_PLACE, flat[start : start + PIECE], op=MPI.SUM)

    def all_reduce_min(self, array: npt.NDArray[np.float64], name: str) -> None:
        """The smallest of every element over all ranks, in place; `name` says what it is."""
        with self.collective(name, array.nbytes):
            self.comm.Allreduce(MPI.IN_PLACE, array, op=MPI.MIN)

    def all_gather_rows(self, row: npt.NDArray[np.float64], name: str) -> npt.NDArray[np.float64]:
        """Every rank's row of numbers: (n,) -> (world_size, n); `name` says what they are."""
        rows = np.empty((self.size, row.size))
        with self.collective(name, rows.nbytes):
            self.comm.Allgather(row, rows)
        return rows

    def all_gather(self, value: Result, name: str) -> list[Result]:
        """Every rank's (pickled) value, by rank; `name` says what it is."""
        with self.collective(name):
            return self.comm.allgather(value)

    def gather(self, value: Result, name: str) -> list[Result]:
        """The same on rank 0 alone; an empty list on the others."""
        with self.collective(name):
            return self.comm.gather(value, root=0) or []

    def node_cores(self) -> int:
        """Cores of this node that its ranks may use, between them."""
        with self.collective("cores of the node"):
            return len(set().union(*self.node.allgather(os.sched_getaffinity(0))))

    def threads_per_rank(self) -> int:
        """The node's cores divided by its ranks, at least 1 and never more than this rank may use."""
        fair = max(1, self.node_cores() // self.local_size)
        with self.collective("threads of a rank"):
            return int(self.node.allreduce(min(fair, environment.available_cores()), op=MPI.MIN))


def _sleep_until_all_arrive(comm: MPI.Comm) -> None:
    """A barrier that polls: 7 ranks spinning on 2 cores would take most of them from the rank that works."""
    request = comm.Ibarrier()
    while not request.Test():
        time.sleep(POLL_S)


def _save_temporary(array: npt.NDArray[np.generic]) -> Path:
    handle, name = tempfile.mkstemp(prefix="ddp-share-", suffix=".npy")
    try:
        with os.fdopen(handle, "wb") as file:
            np.save(file, array, allow_pickle=False)
    except BaseException:
        os.unlink(name)
        raise
    return Path(name)
