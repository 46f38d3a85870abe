"""The command lines of what is done with a run after training: which run, where its data are, how many threads.

Like all that rank 0 reads for the others, this loads neither NumPy nor Numba.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ddp.config import MAX_THREADS, Config, ConfigError

CONFIG = "config.toml"


@dataclass(frozen=True)
class RunArguments:
    """What a command is to work on."""

    path: Path
    """The run directory."""
    config: Config
    """The run's own, but for the place of the data."""
    threads: int
    """Of each rank's kernels; 0: not given."""
    options: argparse.Namespace
    """All options of the command."""


class RunParser(argparse.ArgumentParser):
    """A parser whose mistakes are ConfigErrors, with the options that all these commands have."""

    def __init__(self, program: str, description: str, several: bool = False) -> None:
        """Take the program's name, what it does, and whether it takes more runs than one."""
        super().__init__(prog=program, description=description, allow_abbrev=False)
        self.add_argument(
            "run" if not several else "runs",
            metavar="RUN",
            nargs="+" if several else None,
            type=Path,
            help="run directory, as ddp.train leaves it",
        )
        self.add_argument(
            "--data.root", dest="root", metavar="DIR", help="directory of the data set's files; default: as in training"
        )

    def add_threads(self) -> None:
        """Add `--threads`."""
        self.add_argument(
            "--threads", type=int, default=0, metavar="T", help="threads of a rank; default: as in training"
        )

    def error(self, message: str) -> NoReturn:
        """Refuse the command line.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"{message}; see --help")


def read_run_arguments(parser: RunParser, arguments: Sequence[str]) -> RunArguments | None:
    """Parse the command line of a command for one run, and read the run's configuration; None after `--help`.

    Raises:
        ConfigError: for a mistake in the command line, or a directory that holds no run; one line with the fix.
    """
    try:
        options = parser.parse_args(arguments)
    except SystemExit:
        return None
    if not 0 <= options.threads <= MAX_THREADS:
        raise ConfigError(f"--threads {options.threads}: use 0 to {MAX_THREADS}")
    return RunArguments(options.run, read_config(options.run, options.root), options.threads, options)


def read_config(run: Path, root: str | None = None) -> Config:
    """The configuration of a run.

    Args:
        run: its directory.
        root: in place of the configuration's `data.root`, if given.

    Raises:
        ConfigError: if there is none, or it cannot be used.
    """
    from ddp.command_line import parse  # slow to load

    path = run / CONFIG
    if not path.is_file():
        what = f"has no {CONFIG}" if run.is_dir() else "no such directory"
        raise ConfigError(f"{run}: {what}; give a run directory of ddp.train, such as runs/NAME")
    return parse(["--config", str(path), *([] if root is None else ["--data.root", root])]).config


def check_output(path: Path, option: str = "--output") -> None:
    """Refuse a file that could not be written, before the work; `option` names it.

    Raises:
        ConfigError: one line with the fix.
    """
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ConfigError(f"{option} {path}: no file can be written there; give one in a folder that exists")
