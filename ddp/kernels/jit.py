"""The one place for Numba: compiler options, cache policy, thread count.

Kernels are compiled on first call and kept in an on-disk cache, so that a warm start compiles
nothing. Numba's cache is not safe against concurrent writers (numba issues 4807 and 10128): only
the process that holds `exclusive_cache()` may compile, the others wait and then load. The cache
directory is private to the user, the host, the Numba version and the kernels' sources.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numba
from numba import get_thread_id  # type: ignore[attr-defined]

if TYPE_CHECKING:
    prange = range
else:
    from numba import prange

__all__ = [
    "MOST_THREADS",
    "cache_directory",
    "exclusive_cache",
    "get_num_threads",
    "get_thread_id",
    "inline",
    "kernel",
    "prange",
    "set_num_threads",
    "threading_layer",
]

MOST_THREADS: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
"""Numbers that `get_thread_id` gives inside of kernels."""

Function = TypeVar("Function", bound=Callable[..., Any])

# No fast-math flag, so that the compiler has no choice: a process that compiles a kernel runs other machine code than
# one that loads the kernel from the cache (Numba optimises the code of parallel regions once for the first, twice for
# the second), and with `contract` and `reassoc` the two gave other bits. Where a fused multiply-add or sums in vector
# lanes are wanted, the kernels say so themselves.
FASTMATH = False


def sources_digest() -> str:
    """Of everything that compiled kernels are made from.

    Numba looks only at a kernel's own file when it decides whether cached code is stale, not at the tile or
    the options that went into it.
    """
    package = Path(__file__).resolve().parents[1]
    files = [*sorted((package / "kernels").glob("*.py")), package / "rng.py"]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def cache_directory() -> Path:
    """Where compiled kernels are kept: `$NUMBA_CACHE_DIR`, else a private one under the user's cache."""
    name = f"ddp-kernels-numba{numba.__version__}-{sources_digest()}"
    if configured := os.environ.get("NUMBA_CACHE_DIR"):
        return Path(configured) / name
    with contextlib.suppress(RuntimeError):  # no home directory, as in some containers
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        private = base / "ddp" / socket.gethostname() / name
        if _is_usable(private):
            return private
    return Path(tempfile.gettempdir()) / f"ddp-{os.getuid()}" / name


def _is_usable(directory: Path) -> bool:
    """Whether the directory exists or can be made, is this user's, and can be written to."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        return directory.stat().st_uid == os.getuid() and os.access(directory, os.W_OK)
    except OSError:
        return False


def _use_private_cache() -> Path:
    directory = cache_directory()
    if not _is_usable(directory):
        raise OSError(f"no place for compiled kernels: cannot write to {directory}; set NUMBA_CACHE_DIR to one")
    settings: Any = numba.config
    settings.CACHE_DIR = str(directory)
    return directory


CACHE = _use_private_cache()
if "NUMBA_THREADING_LAYER_PRIORITY" not in os.environ:
    # Measured in docs/performance.md. Numba takes the first that it finds; its own order begins with tbb.
    numba.config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]  # type: ignore[attr-defined]


def kernel(function: Function) -> Function:
    """Compile a kernel: threads over its `prange`, cached on disk, the interpreter's lock released."""
    compile_ = numba.njit(
        parallel=True, cache=True, nogil=True, fastmath=FASTMATH, error_model="numpy", boundscheck=None
    )
    return cast(Function, compile_(function))


def inline(function: Function) -> Function:
    """Compile a small function for use inside kernels."""
    compile_ = numba.njit(nogil=True, inline="always", fastmath=FASTMATH, error_model="numpy")
    return cast(Function, compile_(function))


@contextlib.contextmanager
def exclusive_cache() -> Iterator[None]:
    """Hold the right to compile and write the cache against every other process of this host."""
    with open(CACHE / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)


def set_num_threads(threads: int) -> None:
    """Run kernels on `threads` threads from now on.

    Raises:
        ValueError: if `threads` exceeds `NUMBA_NUM_THREADS`, which is fixed when Numba is imported.
    """
    numba.set_num_threads(threads)


def get_num_threads() -> int:
    """Threads that kernels run on."""
    return int(numba.get_num_threads())


def threading_layer() -> str:
    """Numba's threading layer: `omp`, `tbb` or `workqueue`.

    Raises:
        ValueError: before the first parallel kernel has run.
    """
    return str(numba.threading_layer())  # type: ignore[attr-defined]
