"""What the launcher must know of the trainer's configuration: read from its arguments, without importing it.

Only what decides how a job is started, ended and started again. Whether a value makes sense, the trainer says.
"""

from __future__ import annotations

import contextlib
import math
import time
import tomllib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

DEFAULTS = {
    "checkpoint.grace_s": "30.0",
    "data.name": "digits",
    "model.name": "mlp",
    "output.dir": "runs",
    "output.name": "",
}
"""The trainer's own, which a test compares."""


def option_values(arguments: Sequence[str], name: str) -> list[str]:
    """The values of all `--NAME V` and `--NAME=V`, in order."""
    values = []
    for argument, following in pairwise([*arguments, ""]):
        option, equals, value = argument.partition("=")
        if option == f"--{name}":
            values.append(value if equals else following)
    return values


def field(arguments: Sequence[str], name: str) -> str:
    """The value of a field of DEFAULTS: of the command line, else of the configuration files, else the default."""
    given = option_values(arguments, name)
    section, _, key = name.partition(".")
    for file in () if given else option_values(arguments, "config"):
        with contextlib.suppress(OSError, ValueError):  # the trainer names the file, and what is wrong with it
            content = tomllib.loads(Path(file).read_text(encoding="utf-8")).get(section)
            given += [str(content[key])] if isinstance(content, dict) and key in content else []
    return given[-1] if given else DEFAULTS[name]


def asks_only(arguments: Sequence[str]) -> bool:
    """Whether the trainer is asked to show something, rather than to train."""
    return any(argument in ("-h", "--help", "--print-config", "--print-config=true") for argument in arguments)


def checkpoint_grace_s(arguments: Sequence[str]) -> float:
    """Seconds that the trainer may take from a signal to its end."""
    try:
        grace_s = float(field(arguments, "checkpoint.grace_s"))
    except ValueError:
        grace_s = math.nan
    return grace_s if 0 < grace_s < math.inf else float(DEFAULTS["checkpoint.grace_s"])


def with_run_name(arguments: Sequence[str]) -> list[str]:
    """The arguments with a name for the run's directory, as the trainer would choose it, if they give none.

    A run that is to be started again must be found again.
    """
    if field(arguments, "output.name") or asks_only(arguments):
        return list(arguments)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    name = f"{field(arguments, 'model.name')}-{field(arguments, 'data.name')}-{stamp}"
    return [*arguments, "--output.name", name]


def run_directory(arguments: Sequence[str]) -> Path:
    """Where a run with a name puts what it leaves."""
    return Path(field(arguments, "output.dir")) / field(arguments, "output.name")


def resuming(arguments: Sequence[str]) -> list[str]:
    """The arguments with `--resume auto` in place of any other `--resume`."""
    kept: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--resume":
            next(rest, None)
        elif not argument.startswith("--resume="):
            kept.append(argument)
    return [*kept, "--resume", "auto"]
