"""Runs a command with a time limit and keeps what it says."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

GRACE_S = 2.0


@dataclass(frozen=True)
class Captured:
    """How a command ended."""

    code: int | None
    """None: it was ended after its time."""
    output: str
    errors: str

    @property
    def last_words(self) -> str:
        """The last line that it wrote, for a message."""
        lines = [line.strip() for line in (self.output + self.errors).splitlines() if line.strip(" -\t")]
        return lines[-1] if lines else "nothing"


def capture(command: Sequence[str], environment: Mapping[str, str], limit_s: float) -> Captured:
    """Run `command` in a session of its own, which is ended after `limit_s` seconds, or when this call is."""
    try:
        child = subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        return Captured(127, "", f"{command[0]}: {error.strerror}")
    try:
        output, errors = child.communicate(timeout=limit_s)
        return Captured(child.returncode, output, errors)
    except subprocess.TimeoutExpired:
        return Captured(None, *_end(child))
    finally:
        if child.poll() is None:
            _end(child)


def _end(child: subprocess.Popen[str]) -> tuple[str, str]:
    """Ask mpirun to end its ranks, then end it; what was said until then."""
    output, errors = "", ""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        try:
            output, errors = child.communicate(timeout=GRACE_S)
            break
        except subprocess.TimeoutExpired as expired:  # what still holds the pipes ends itself, by its alarm
            output, errors = _text(expired.stdout), _text(expired.stderr)
    return output, errors


def _text(data: bytes | str | None) -> str:
    return data.decode(errors="replace") if isinstance(data, bytes) else data or ""
