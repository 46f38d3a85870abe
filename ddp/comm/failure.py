"""How a run fails: the user's mistakes as one line, everything else as one traceback and an abort."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator

EXIT_USER_ERROR = 2
EXIT_NONFINITE = 3
EXIT_FAILURE = 4
EXIT_RESUMABLE = 75
EXIT_INTERRUPTED = 130

STAGGER_S = 0.1
MAX_STAGGER_S = 2.0


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


@contextlib.contextmanager
def abort_all_on_exception(rank: int, abort: Callable[[int], None]) -> Iterator[None]:
    """End every rank when this one raises what is not agreed on by all.

    An uncaught exception would leave the others waiting in a collective for ever. User errors, parameters that differ
    and non-finite numbers are raised by all ranks alike and pass through, as do interruptions and SystemExit.

    Args:
        rank: this rank.
        abort: ends all ranks with an exit code.
    """

    def fail(error: BaseException) -> None:
        stagger(rank)
        sys.stderr.write(f"error: rank {rank} on {os.uname().nodename} failed:\n")
        traceback.print_exception(error)
        sys.stderr.flush()
        abort(EXIT_FAILURE)

    def fail_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None:
            fail(args.exc_value)

    threading.excepthook = fail_thread
    try:
        yield
    except (UserError, DivergedError, Interrupted, SystemExit):
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


__all__ = [
    "EXIT_FAILURE",
    "EXIT_INTERRUPTED",
    "EXIT_NONFINITE",
    "EXIT_RESUMABLE",
    "EXIT_USER_ERROR",
    "STAGGER_S",
    "DifferingRankError",
    "DivergedError",
    "Interrupted",
    "NonFiniteError",
    "UserError",
    "WrongLauncherError",
    "abort_all_on_exception",
    "print_error",
    "stagger",
]
