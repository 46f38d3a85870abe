"""The run directory: where rank 0 puts everything that a run leaves behind."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from ddp.checkpoint import CheckpointError, find_checkpoints, load_checkpoint, write_atomically
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


def create_run_directory(config: Config, resuming: bool) -> RunDirectory:
    """Make the run directory and put the configuration there.

    Args:
        config: the whole configuration.
        resuming: whether a run may already be there.

    Raises:
        ValueError: if a run is there already, which would mix the two.
        OSError: if the directory cannot be made.
    """
    run = RunDirectory(Path(config.output.dir) / run_name(config))
    if run.metrics.exists() and not resuming:
        raise ValueError(
            f"output.name = {run.path.name}: {run.path} already holds a run; choose another name,"
            " or continue it with --resume auto"
        )
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    write_atomically(run.path / "config.toml", tomli_w.dumps(to_dict(config)).encode())
    return run


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
