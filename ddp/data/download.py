"""Files of published data sets: found where they are, or fetched, checked and put in place at once.

Fetching needs pooch, which checks what has come before it gives the file its name (the extra `download`).
"""

from __future__ import annotations

import math
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from ddp.data.dataset import DataError, Share
from ddp.data.pieces import Array

if TYPE_CHECKING:
    from ddp.config import DataConfig

ELSEWHERE = "without a network, fetch it on another machine and name its folder with --data.root"
UNFINISHED = ".fetching-"
"""How the names of folders begin whose content is on its way."""
ABANDONED_S = 600.0
"""Without a byte written for so long, nobody fetches into one: pooch waits 30 s for the next."""


@dataclass(frozen=True)
class Remote:
    """A published file.

    Attributes:
        name: of the file.
        mirrors: addresses of folders that have it, tried in order; each ends with a slash.
        sha256: of its content, in hexadecimal.
    """

    name: str
    mirrors: tuple[str, ...]
    sha256: str


def find_or_fetch(
    config: DataConfig, share: Share, find: Callable[[], Path | None], fetch_to: Callable[[Path], None], missing: str
) -> Path:
    """The folder of a data set's files: where they are found, or else, with `data.download`, where they are put.

    One rank of each node fetches, into `data.root`, or the user's cache where that is empty.

    Args:
        config: the section `data`.
        share: tells the other ranks of the node.
        find: the folder that has all files; None if there is none.
        fetch_to: puts them into a folder.
        missing: what to say where there is none, and nothing may be fetched.

    Raises:
        DataError: if there is none, or a file cannot be fetched.
    """

    def fetched(folder: Path) -> Path:
        try:
            fetch_to(folder)
        except DataError:
            if (found := find()) is None:  # or else another node, with the same home, has been faster
                raise
            return found
        if (found := find()) is None:
            raise DataError(f"{folder}: has not all files of {config.name} after fetching; empty it and try again")
        return found

    def search() -> Array:
        folder = find()
        if folder is None and config.download:
            folder = Path(config.root or f"~/.cache/ddp/{config.name}").expanduser()
            _make(folder)
            folder = fetched(folder)
        if folder is None:
            raise DataError(missing)
        return np.frombuffer(os.fsencode(folder), np.uint8)

    return Path(os.fsdecode(share(search).tobytes()))


def fetch(remote: Remote, folder: Path) -> Path:
    """Put a published file into a folder, unless it is there: all of it, its checksum verified, or nothing.

    Raises:
        DataError: if pooch is not installed, no mirror answers, or what has come is not the file.
    """
    try:
        import pooch
    except ImportError:
        raise DataError("data.download = true: needs pooch; install ddp-sgd[download]") from None
    target, reasons = folder / remote.name, []
    for mirror in remote.mirrors:
        try:
            if target.is_file() and pooch.file_hash(str(target)) == remote.sha256:
                return target
            with _unfinished(folder) as temporary:
                came = pooch.retrieve(mirror + remote.name, f"sha256:{remote.sha256}", remote.name, temporary)
                return Path(came).replace(target)
        except (OSError, ValueError) as error:  # no network, no space; another content
            reasons.append(f"{mirror}{remote.name} ({_reason(error)})")
    raise DataError(f"data.download = true: cannot fetch {' nor '.join(reasons)}; {ELSEWHERE}")


def fetch_archive(remote: Remote, folder: Path, unpacked: str) -> None:
    """Put the files of the folder `unpacked` of a published archive into a folder of that name: all, or nothing.

    Raises:
        DataError: if it cannot be fetched or unpacked, or there is such a folder.
    """
    target = folder / unpacked
    if os.path.lexists(target):
        raise DataError(f"{target}: lacks files of the data set; remove it, and all are fetched")
    archive = fetch(remote, folder)
    try:
        # Under its own name only when it is complete, so that no other run finds a part of it.
        with _unfinished(folder) as temporary:
            complete = temporary / unpacked  # not itself, which only this user may enter
            complete.mkdir()
            _unpack(archive, unpacked, complete)
            complete.rename(target)
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise DataError(
            f"{target}: cannot be unpacked ({_reason(error)}); free space, or use another --data.root"
        ) from None
    finally:
        archive.unlink(missing_ok=True)


def _unpack(archive: Path, unpacked: str, folder: Path) -> None:
    """Write the plain files of one folder of an archive; what else is in it is left out."""
    # Not `extractall`: its filter against names outside the folder came with Python 3.11.4.
    with tarfile.open(archive) as members:
        for member in members:
            inside, _, name = member.name.rpartition("/")
            content = members.extractfile(member) if member.isfile() and inside == unpacked else None
            if content is not None:
                with content, (folder / name).open("wb") as file:
                    shutil.copyfileobj(content, file)


@contextmanager
def _unfinished(folder: Path) -> Iterator[Path]:
    """A folder in a folder for what is not complete, removed at the end, with those that killed runs have left."""
    with TemporaryDirectory(dir=folder, prefix=UNFINISHED) as name:
        temporary = Path(name)
        now = temporary.stat().st_mtime  # by the clock of the file system, which may be another host's
        for other in folder.glob(f"{UNFINISHED}*"):
            if _last_change(other) < now - ABANDONED_S:
                shutil.rmtree(other, ignore_errors=True)
        yield temporary


def _last_change(folder: Path) -> float:
    try:
        return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
    except OSError:  # gone, or just going
        return math.inf


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be made ({error.strerror}); name another with --data.root") from None


def _reason(error: Exception) -> str:
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    return "no connection" if type(error).__name__ in ("ConnectionError", "ConnectTimeout") else text
