"""How a run fails: the user's mistakes as one line, everything else as one traceback and an abort."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import NoReturn

from ddp.comm import environment, mpi
from ddp.comm.activity import Activity

EXIT_USER_ERROR = 2
EXIT_NONFINITE = 3
EXIT_FAILURE = 4
EXIT_RESUMABLE = 75
EXIT_INTERRUPTED = 130

SAID_S = 0.2
"""From a rank's last words to the abort, which may overtake them: MPICH lost all of a traceback but its first line."""
STAGGER_S = 0.25
MAX_STAGGER_S = 2.0
ABORT_S = 3.0
"""How long an abort by the MPI library may take, before this process just ends."""
FINALIZE_S = 60.0
"""How long MPI's own end may take: all ranks have come to the end of the run, so it takes milliseconds."""
STDERR = 2
"""The file descriptor: for `faulthandler`, which must write it without Python's help."""


class UserError(ValueError):
    """A mistake of the user that all ranks agree on; `rank` is the one that says it."""

    def __init__(self, message: str, rank: int = 0) -> None:
        """Take the one-line message, and the rank that is to print it."""
        super().__init__(message)
        self.rank = rank


class WrongLauncherError(ValueError):
    """Every process is rank 0 of 1: mpirun and the loaded library are of different MPIs."""


class NonFiniteError(ArithmeticError):
    """A gradient has a NaN or an infinity."""

    def __init__(self, message: str, agreed: bool) -> None:
        """Take the one-line message, and whether all ranks raise this at the same step."""
        super().__init__(message)
        self.agreed = agreed


class Interrupted(Exception):
    """A signal asked the run to stop; raised by all ranks alike, when a checkpoint of what is done exists."""


class DifferingRankError(UserError):
    """A rank has other data, configuration or parameters than the rest."""

    def __init__(self, fact: str, rank: int, host: str, value: str, common: str) -> None:
        """Name what differs, where, and both values."""
        super().__init__(
            f"rank {rank} on {host} has another {fact} than the other ranks ({value[:12]}, they have"
            f" {common[:12]}); give every node the same files and the same version of this package"
        )


class DivergedError(RuntimeError):
    """The ranks' parameters differ, though computed from the same sums; raised by all ranks at the same step."""


def print_error(message: str) -> None:
    """Write the one line of a user's mistake."""
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    sys.stderr.flush()


def stagger(rank: int, seconds: float = STAGGER_S) -> None:
    """Where all ranks fail alike, let the first to print end the others before they print too."""
    time.sleep(min(seconds * rank, MAX_STAGGER_S))


class Abort:
    """Ends the run: `abort(code)` from any thread.

    Attributes:
        begun: whether an end is certain by now.
    """

    def __init__(self) -> None:
        """Nothing ends yet."""
        self.begun = False

    def __call__(self, code: int) -> None:
        """End every rank with an exit code, and this one in any case; does not return.

        MPI is started for it where it has not been: MPICH's mpirun takes no notice of a rank that ends before, for
        which the others then wait in MPI's start.
        """
        self.within(ABORT_S, code)
        if environment.is_launched() or mpi.is_started():
            mpi.abort_all(code)
        os._exit(code)

    def within(self, seconds: float, code: int) -> None:
        """End this process with a code in so many seconds at the latest, whatever its threads do meanwhile.

        The code is 1 if one of them keeps Python's lock (GIL) until a second later, as MPI's abort does.
        """
        self.begun = True
        timer = threading.Timer(seconds, os._exit, [code])
        timer.daemon = True
        timer.start()
        faulthandler.dump_traceback_later(seconds + 1, exit=True, file=STDERR)


@contextlib.contextmanager
def abort_all_on_exception(activity: Activity, abort: Callable[[int], object]) -> Iterator[None]:
    """End every rank when any thread of this one raises what is not agreed on by all.

    An uncaught exception would leave the others waiting in a collective for ever; on another thread than the main one,
    Python would even go on without it. User errors, parameters that differ and non-finite numbers are raised by all
    ranks alike and pass through, as do interruptions.

    Args:
        activity: of this rank, which is named with its step.
        abort: ends all ranks with an exit code.
    """

    def fail(error: BaseException) -> None:
        stagger(activity.rank)
        trace = "".join(traceback.format_exception(error))
        sys.stderr.write(f"error: rank {activity.rank} on {activity.host} failed {activity.place()}:\n{trace}")
        sys.stderr.flush()
        time.sleep(SAID_S)
        abort(EXIT_FAILURE)

    def fail_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None:
            fail(args.exc_value)

    threading.excepthook = fail_thread
    try:
        yield
    except (UserError, DivergedError, Interrupted):
        raise
    except NonFiniteError as error:
        if error.agreed:
            raise
        print_error(str(error))
        abort(EXIT_NONFINITE)
    except KeyboardInterrupt:
        abort(EXIT_INTERRUPTED)
    except BaseException as error:
        fail(error)
    finally:
        threading.excepthook = threading.__excepthook__


def leave(code: int) -> NoReturn:
    """End this process, after the last collective of a run, whatever other threads of it do.

    Python itself waits for every thread that is no daemon, before it lets MPI end. C's exit does not, and still lets
    MPICH take leave of its mpirun, which it does after MPI's end: of 720 jobs of 3 ranks that left by `os._exit`
    instead, 83 ended with code 9, as mpirun killed the ranks that came second.
    """
    faulthandler.dump_traceback_later(FINALIZE_S, exit=True, file=STDERR)
    if mpi.is_started():
        mpi.finish()
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        sys.stdout.flush()
        sys.stderr.flush()
        ctypes.CDLL(None).exit(code)
    faulthandler.cancel_dump_traceback_later()
    sys.exit(code)


__all__ = [
    "ABORT_S",
    "EXIT_FAILURE",
    "EXIT_INTERRUPTED",
    "EXIT_NONFINITE",
    "EXIT_RESUMABLE",
    "EXIT_USER_ERROR",
    "MAX_STAGGER_S",
    "STAGGER_S",
    "STDERR",
    "Abort",
    "DifferingRankError",
    "DivergedError",
    "Interrupted",
    "NonFiniteError",
    "UserError",
    "WrongLauncherError",
    "abort_all_on_exception",
    "leave",
    "print_error",
    "stagger",
]
