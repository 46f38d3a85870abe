"""Starts MPI in a way that lets this process's other threads live on meanwhile.

mpi4py starts it when it is imported, and keeps Python's lock (GIL) until all ranks have come: no heartbeat, no
time-out, no signal is heeded then. Called by ctypes, the library's own function does the same without the lock.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable

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


def abort_all() -> Callable[[int], object] | None:
    """What ends all ranks; None if there is no MPI, or it is just being started."""
    try:
        start()
        from mpi4py import MPI
    except Exception:  # whatever it is, the run is failing for another reason
        return None
    return MPI.COMM_WORLD.Abort if MPI.Is_initialized() else None
