"""The run directory: where rank 0 puts everything that a run leaves behind."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from ddp.checkpoint import (
    CheckpointError,
    delete_unfinished,
    find_checkpoints,
    load_checkpoint,
    set_aside_later_checkpoints,
    write_atomically,
)
from ddp.comm import environment
from ddp.config import Config, OutputConfig, to_dict

METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class RunDirectory:
    """`OUTPUT_DIR/NAME/`: config.toml, metrics.jsonl, checkpoints/, model.safetensors."""

    path: Path

    @property
    def metrics(self) -> Path:
        """The event log."""
        return self.path / METRICS

    @property
    def model(self) -> Path:
        """The final parameters."""
        return self.path / "model.safetensors"

    @property
    def checkpoints(self) -> Path:
        """The directory of checkpoints."""
        return self.path / "checkpoints"


def run_name(config: Config) -> str:
    """The configured name, or <model>-<data>-<time>."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return config.output.name or f"{config.model.name}-{config.data.name}-{stamp}"


def create_run_directory(config: Config, resume_step: int | None) -> RunDirectory:
    """Make the run directory and put the configuration there.

    Args:
        config: the whole configuration.
        resume_step: the step that a run goes on from; checkpoints of later steps are then set aside, and final
            parameters deleted, which the run writes anew at its end. None for a new run.

    Raises:
        ValueError: if a run is there already, which would mix the two, or if the directory cannot be written to.
    """
    run = RunDirectory(Path(config.output.dir) / run_name(config))
    if resume_step is None and run.metrics.exists() and run.metrics.stat().st_size > 0:
        raise ValueError(
            f"output.name = {run.path.name}: {run.path} already holds a run; choose another name,"
            " or continue it with --resume auto"
        )
    try:
        run.checkpoints.mkdir(parents=True, exist_ok=True)
        write_atomically(run.path / "config.toml", tomli_w.dumps(_repeatable(config)).encode())
        _cut_torn_line(run.metrics)
        if resume_step is not None:
            delete_unfinished(run.checkpoints)
            set_aside_later_checkpoints(run.checkpoints, resume_step)
            run.model.unlink(missing_ok=True)
    except OSError as error:
        raise ValueError(
            f"output.dir = {config.output.dir}: cannot write there ({error.strerror}: {error.filename});"
            " choose a writable directory with --output.dir"
        ) from None
    return run


def _repeatable(config: Config) -> dict[str, Any]:
    """The configuration, without a name that its user has not given: a run that repeats this one needs another."""
    content = to_dict(config)
    if config.output.name == environment.chosen_name():
        content["output"]["name"] = ""
    return content


def _cut_torn_line(metrics: Path) -> None:
    """Make the event log, or end it after its last whole line: a run that was killed may have left part of one."""
    with open(metrics, "ab+") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


def find_resume_point(output: OutputConfig, resume: str) -> tuple[Path | None, list[str]]:
    """The checkpoint to continue from.

    Args:
        output: the `output` section.
        resume: `auto` or a checkpoint's path.

    Returns:
        The checkpoint, or None where `auto` finds no valid one; and a line about each that was passed over.

    Raises:
        CheckpointError: if a named checkpoint cannot be used, or `auto` is asked of an unnamed run.
    """
    if resume != "auto":
        load_checkpoint(Path(resume))
        return Path(resume), []
    if not output.name:
        raise CheckpointError("--resume auto: which run? name it with --output.name, or give a checkpoint's path")
    passed_over = []
    for path in reversed(find_checkpoints(Path(output.dir) / output.name / "checkpoints")):
        try:
            load_checkpoint(path)
        except CheckpointError as error:
            passed_over.append(str(error))
        else:
            return path, passed_over
    return None, passed_over
