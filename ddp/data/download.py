"""Files of published data sets: found where they are, or fetched, checked and put in place at once.

Fetching needs pooch, which checks what has come before it gives the file its name (the extra `download`).
"""

from __future__ import annotations

import os
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ddp.data.dataset import DataError, Share
from ddp.data.pieces import Array

if TYPE_CHECKING:
    from ddp.config import DataConfig

ELSEWHERE = "without a network, fetch it on another machine and name its folder with --data.root"


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

    def search() -> Array:
        folder = find()
        if folder is None and config.download:
            folder = Path(config.root or f"~/.cache/ddp/{config.name}").expanduser()
            _make(folder)
            fetch_to(folder)
            folder = find()
            assert folder is not None
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
    reasons = []
    for mirror in remote.mirrors:
        try:
            return Path(pooch.retrieve(mirror + remote.name, f"sha256:{remote.sha256}", remote.name, folder))
        except (OSError, ValueError) as error:  # no network, no space; another content
            reasons.append(f"{mirror}{remote.name} ({_reason(error)})")
    raise DataError(f"data.download = true: cannot fetch {' nor '.join(reasons)}; {ELSEWHERE}")


def fetch_archive(remote: Remote, folder: Path, unpacked: str) -> None:
    """Put the folder `unpacked` of a published archive into a folder: all of it, or nothing.

    Raises:
        DataError: if it cannot be fetched or unpacked.
    """
    archive = fetch(remote, folder)
    try:
        # Under its own name only when it is complete, so that no other run finds a part of it.
        with tempfile.TemporaryDirectory(dir=folder, prefix=f".{unpacked}-") as temporary:
            with tarfile.open(archive) as files:
                files.extractall(temporary, filter="data")
            os.rename(Path(temporary, unpacked), folder / unpacked)
        archive.unlink()
    except (OSError, tarfile.TarError) as error:
        if not (folder / unpacked).is_dir():  # where it is, another node has been faster
            raise DataError(f"{archive}: cannot be unpacked ({_reason(error)}); free space there, or mend it") from None


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be made ({error.strerror}); name another with --data.root") from None


def _reason(error: Exception) -> str:
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    return "no connection" if type(error).__name__ in ("ConnectionError", "ConnectTimeout") else text
