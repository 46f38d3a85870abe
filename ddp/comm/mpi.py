"""Starts MPI in a way that lets this process's other threads live on meanwhile, and ends it.

mpi4py starts it when it is imported, and keeps Python's lock (GIL) until all ranks have come: no heartbeat, no
time-out, no signal is heeded then. Called by ctypes, the library's own function does the same without the lock.
"""

from __future__ import annotations

import ctypes
import sys
import threading

_begun = threading.Lock()


def start() -> None:
    """Load the MPI library and start it, unless it has been started.

    Raises:
        ImportError or RuntimeError: if mpi4py is missing or finds no library.
    """
    import mpi4py

    mpi4py.rc.initialize, mpi4py.rc.finalize = False, True
    from mpi4py import MPI

    if not _begun.acquire(blocking=False) or MPI.Is_initialized():
        return
    try:
        initialize = ctypes.CDLL(MPI.__file__).MPI_Init_thread
    except (AttributeError, OSError):  # linked in another way than as a shared library
        MPI.Init_thread(MPI.THREAD_MULTIPLE)
        return
    initialize(None, None, MPI.THREAD_MULTIPLE, ctypes.byref(ctypes.c_int()))
    for comm in (MPI.COMM_WORLD, MPI.COMM_SELF):
        comm.Set_errhandler(MPI.ERRORS_RETURN)  # as mpi4py does: errors become exceptions


def is_started() -> bool:
    """Whether MPI runs in this process; does not load it."""
    mpi = sys.modules.get("mpi4py.MPI")
    return mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized()


def finish() -> None:
    """End MPI on this rank, which waits for the others to do so too."""
    from mpi4py import MPI

    MPI.Finalize()


def abort_all(code: int) -> None:
    """End every rank with an exit code; returns if there is no MPI, or if it is just being started.

    Keeps Python's lock, as no thread should go on while the library ends this process.
    """
    try:
        start()
        from mpi4py import MPI
    except Exception:  # whatever it is, the run is failing for another reason
        return
    if is_started():
        MPI.COMM_WORLD.Abort(code)
