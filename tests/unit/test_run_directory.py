"""The run directory, and where a run continues."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

from ddp.checkpoint import Checkpoint, CheckpointError, checkpoint_path, find_checkpoints, save_checkpoint
from ddp.config import Config, OutputConfig, to_dict
from ddp.run_directory import RunDirectory, create_run_directory, find_resume_point, run_name


def config(tmp_path: Path, name: str = "run", seed: int = 0) -> Config:
    return Config(seed=seed, output=OutputConfig(dir=str(tmp_path / "runs"), name=name))


def write_checkpoint(run: RunDirectory, step: int) -> Path:
    path = checkpoint_path(run.checkpoints, step)
    save_checkpoint(path, Checkpoint(step, to_dict(Config()), "data", {"0.weight": np.ones((2, 2), np.float32)}, {}))
    return path


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_layout_is_as_documented(tmp_path: Path) -> None:
    run = create_run_directory(config(tmp_path), resume_step=None)
    assert run.path == tmp_path / "runs" / "run"
    assert run.checkpoints == run.path / "checkpoints"
    assert run.checkpoints.is_dir()
    assert (run.metrics, run.model) == (run.path / "metrics.jsonl", run.path / "model.safetensors")
    assert tomllib.loads((run.path / "config.toml").read_text()) == to_dict(config(tmp_path))


@pytest.mark.parametrize(("chosen", "kept"), [("run", ""), ("other", "run"), ("", "run")])
def test_a_name_that_the_launcher_chose_is_not_the_configurations(
    chosen: str, kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DDP_CHOSEN_NAME", chosen)
    run = create_run_directory(config(tmp_path), resume_step=None)
    assert run.path.name == "run"
    assert tomllib.loads((run.path / "config.toml").read_text())["output"]["name"] == kept


def test_an_unnamed_run_is_named_by_model_data_and_time() -> None:
    assert re.fullmatch(r"mlp-digits-\d{8}-\d{6}", run_name(Config()))
    assert run_name(Config(output=OutputConfig(name="mine"))) == "mine"


def test_an_existing_run_is_refused_and_left_alone(tmp_path: Path) -> None:
    run = create_run_directory(config(tmp_path), resume_step=None)
    run.metrics.write_text("{}\n")
    with pytest.raises(ValueError, match=r"output\.name = run: .*runs/run already holds a run; .*--resume auto"):
        create_run_directory(config(tmp_path, seed=1), resume_step=None)
    assert tomllib.loads((run.path / "config.toml").read_text())["seed"] == 0
    assert run.metrics.read_text() == "{}\n"


def test_a_resumed_run_keeps_its_files(tmp_path: Path) -> None:
    run = create_run_directory(config(tmp_path), resume_step=None)
    run.metrics.write_text("{}\n")
    path = write_checkpoint(run, 3)
    assert create_run_directory(config(tmp_path), resume_step=3) == run
    assert run.metrics.read_text() == "{}\n"
    assert path.exists()


def test_the_torn_last_line_of_a_killed_run_is_cut(tmp_path: Path) -> None:
    run = create_run_directory(config(tmp_path), resume_step=None)
    run.metrics.write_text('{"event": "start"}\n{"event": "st')
    create_run_directory(config(tmp_path), resume_step=0)
    assert run.metrics.read_text() == '{"event": "start"}\n'


def test_a_directory_that_never_became_a_run_may_be_taken(tmp_path: Path) -> None:
    create_run_directory(config(tmp_path), resume_step=None)
    create_run_directory(config(tmp_path), resume_step=None)


def test_auto_finds_the_newest_valid_checkpoint(tmp_path: Path) -> None:
    output = config(tmp_path).output
    run = create_run_directory(config(tmp_path), resume_step=None)
    assert find_resume_point(output, "auto") == (None, [])
    paths = [write_checkpoint(run, step) for step in (9, 10, 100)]
    assert find_resume_point(output, "auto") == (paths[-1], [])


def test_auto_passes_over_damaged_checkpoints_and_says_so(tmp_path: Path) -> None:
    output = config(tmp_path).output
    run = create_run_directory(config(tmp_path), resume_step=None)
    first, second, third = (write_checkpoint(run, step) for step in (1, 2, 3))
    damage(third)
    second.write_bytes(second.read_bytes()[:50])
    found, passed_over = find_resume_point(output, "auto")
    assert found == first
    assert [str(third) in passed_over[0], str(second) in passed_over[1]] == [True, True]
    assert ["checksum" in passed_over[0], "cannot be used" in passed_over[1]] == [True, True]
    damage(first)
    found, passed_over = find_resume_point(output, "auto")
    assert (found, len(passed_over)) == (None, 3)


def test_auto_needs_a_name() -> None:
    with pytest.raises(CheckpointError, match=r"--resume auto: which run\? name it with --output\.name"):
        find_resume_point(OutputConfig(), "auto")


def test_a_run_that_does_not_exist_yet_starts_anew(tmp_path: Path) -> None:
    assert find_resume_point(config(tmp_path).output, "auto") == (None, [])


def test_a_named_checkpoint_is_taken_or_refused(tmp_path: Path) -> None:
    run = create_run_directory(config(tmp_path), resume_step=None)
    older, newer = write_checkpoint(run, 1), write_checkpoint(run, 2)
    assert find_resume_point(OutputConfig(), str(older)) == (older, [])
    damage(newer)
    with pytest.raises(CheckpointError, match="checksum"):
        find_resume_point(config(tmp_path).output, str(newer))


def test_checkpoints_after_the_resumed_step_are_set_aside(tmp_path: Path) -> None:
    """Else the next `--resume auto` would follow the abandoned run."""
    run = create_run_directory(config(tmp_path), resume_step=None)
    kept, *later = [write_checkpoint(run, step) for step in (10, 20, 30)]
    create_run_directory(config(tmp_path), resume_step=10)
    assert find_checkpoints(run.checkpoints) == [kept]
    assert sorted(run.checkpoints.glob("*.abandoned")) == [path.with_name(f"{path.name}.abandoned") for path in later]


def test_a_run_that_goes_on_has_no_final_parameters(tmp_path: Path) -> None:
    """Else they would be evaluated, though newer checkpoints are there."""
    run = create_run_directory(config(tmp_path), resume_step=None)
    run.model.write_bytes(b"of fewer epochs")
    create_run_directory(config(tmp_path), resume_step=10)
    assert not run.model.exists()


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nowhere"])
def test_a_directory_that_cannot_be_made_names_the_field(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    unusable = Config(output=OutputConfig(dir=str(tmp_path / place), name="run"))
    with pytest.raises(ValueError, match=r"output\.dir = .*: cannot write there .*; choose a writable directory"):
        create_run_directory(unusable, resume_step=None)
