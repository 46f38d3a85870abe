"""Checkpoints: round trip, damage, atomic writing, which are kept, and whose run they are."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from safetensors import safe_open

from ddp import checkpoint as module
from ddp.checkpoint import (
    FREE_SECTIONS,
    Checkpoint,
    CheckpointError,
    check_same_run,
    checkpoint_path,
    delete_old_checkpoints,
    delete_unfinished,
    find_checkpoints,
    load_checkpoint,
    parameters_sha256,
    safetensors_parts,
    save_checkpoint,
    save_model,
    write_atomically,
)
from ddp.config import (
    BatchConfig,
    CommConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
    to_dict,
)

Array = Any


def state(seed: int = 0) -> dict[str, Array]:
    """Names of which the sorted order is not the network's."""
    generator = np.random.default_rng(seed)
    shapes = {"7.weight": (3, 5), "7.bias": (3,), "10.weight": (2, 3, 2, 2), "10.bias": (2,)}
    return {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def make(step: int = 12, seed: int = 0) -> Checkpoint:
    return Checkpoint(
        step, to_dict(Config()), "data", state(seed), {"momentum": state(seed + 1), "other": state(seed + 2)}
    )


def assert_equal(found: dict[str, Array], expected: dict[str, Array]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], tensor)


def test_round_trip(tmp_path: Path) -> None:
    saved = make()
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, saved)
    loaded = load_checkpoint(path)
    assert loaded.step == 12
    assert loaded.config == to_dict(Config())
    assert_equal(loaded.parameters, saved.parameters)
    assert loaded.optimizer.keys() == {"momentum", "other"}
    for buffer in loaded.optimizer:
        assert_equal(loaded.optimizer[buffer], saved.optimizer[buffer])


def test_round_trip_without_optimizer_state_and_with_nan(tmp_path: Path) -> None:
    tensors = state() | {"7.bias": np.array([np.nan, np.inf, -0.0], np.float32)}
    save_checkpoint(tmp_path / "a.safetensors", Checkpoint(0, {}, "data", tensors, {}))
    loaded = load_checkpoint(tmp_path / "a.safetensors")
    assert (loaded.step, loaded.config, loaded.optimizer) == (0, {}, {})
    assert loaded.parameters["7.bias"].tobytes() == tensors["7.bias"].tobytes()


def test_a_checkpoint_is_a_safetensors_file_that_others_read(tmp_path: Path) -> None:
    saved = make()
    save_checkpoint(tmp_path / "a.safetensors", saved)
    tensors = safetensors.numpy.load_file(tmp_path / "a.safetensors")
    assert set(tensors) == {*state(), *(f"optimizer.{b}.{n}" for b in ("momentum", "other") for n in state())}
    np.testing.assert_array_equal(tensors["optimizer.momentum.10.weight"], saved.optimizer["momentum"]["10.weight"])
    with safe_open(tmp_path / "a.safetensors", "numpy") as file:
        metadata = file.metadata()
    assert metadata["step"] == "12"
    assert json.loads(metadata["config"]) == to_dict(Config())


def test_tensors_lie_where_their_header_says_and_at_multiples_of_their_items() -> None:
    tensors = {
        "a": np.arange(3, dtype=np.float32),
        "b": np.array(7, np.int64),
        "none": np.zeros((0, 4), np.float32),
        "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    }
    content = b"".join(safetensors_parts(tensors, {"k": "v"}))
    read = safetensors.numpy.load(content)
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (read[name].dtype, read[name].shape) == (tensor.dtype, tensor.shape)
        np.testing.assert_array_equal(read[name], tensor)
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    for name, tensor in tensors.items():
        assert (8 + length + header[name]["data_offsets"][0]) % tensor.itemsize == 0


@pytest.mark.parametrize("evaluated", [True, False])
def test_whether_the_step_was_evaluated_is_kept(evaluated: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, dataclasses.replace(make(), evaluated=evaluated))
    assert load_checkpoint(path).evaluated is evaluated


def test_save_model_writes_the_parameters_alone(tmp_path: Path) -> None:
    save_model(tmp_path / "model.safetensors", state())
    assert_equal(safetensors.numpy.load_file(tmp_path / "model.safetensors"), state())
    with safe_open(tmp_path / "model.safetensors", "numpy") as file:
        assert file.metadata() == {"parameters_sha256": parameters_sha256(state())}


def test_parameters_sha256_is_of_little_endian_float32_in_state_dict_order() -> None:
    tensors = state()
    content = b"".join(tensor.astype("<f4").tobytes() for tensor in tensors.values())
    expected = hashlib.sha256(content).hexdigest()
    assert parameters_sha256(tensors) == expected
    assert parameters_sha256({name: np.asfortranarray(tensor) for name, tensor in tensors.items()}) == expected
    assert parameters_sha256({name: tensor.astype(">f4") for name, tensor in tensors.items()}) == expected
    assert parameters_sha256(dict(reversed(tensors.items()))) != expected


def test_counters_keep_their_type_and_are_part_of_the_checksum(tmp_path: Path) -> None:
    tensors = state() | {"8.num_batches_tracked": np.array(2**24 + 1, np.int64)}
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, Checkpoint(1, {}, "data", tensors, {}))
    counter = load_checkpoint(path).parameters["8.num_batches_tracked"]
    assert (counter.shape, counter.dtype, counter) == ((), np.int64, 2**24 + 1)
    other = tensors | {"8.num_batches_tracked": np.array(2**24, np.int64)}
    assert parameters_sha256(other) != parameters_sha256(tensors)


# --- Damage -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["first tensor", "last tensor", "optimizer"])
def test_a_flipped_bit_is_found(where: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, make())
    content = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    size = len(content) - header
    content[header + {"first tensor": 0, "last tensor": size - 1, "optimizer": size // 2}[where]] ^= 4
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.safetensors: .*its checksum is wrong"):
        load_checkpoint(path)


@pytest.mark.parametrize("keep", [0, 5, 8, 100, -1])
def test_a_truncated_file_is_found(keep: int, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, make())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"a\.safetensors: cannot be used .*--resume"):
        load_checkpoint(path)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path / "model.safetensors", state())
    with pytest.raises(CheckpointError, match="checksum is wrong or missing"):
        load_checkpoint(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"none\.safetensors: cannot be used"):
        load_checkpoint(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="cannot be used"):
        load_checkpoint(tmp_path)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    path, witness = tmp_path / "a.safetensors", tmp_path / "executed"

    class Attack:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.mkdir, (str(witness),)

    path.write_bytes(pickle.dumps(Attack()))
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    assert not witness.exists()


def test_errors_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError) as raised:
        load_checkpoint(tmp_path / "a.safetensors")
    assert "\n" not in str(raised.value)


# --- Writing ----------------------------------------------------------------------------------------


def test_write_atomically_replaces_a_file_and_leaves_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"old", b"", b"new" * 1000):
        write_atomically(path, content)
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failure_while_writing_leaves_the_old_file(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = checkpoint_path(tmp_path, 5)
    save_checkpoint(path, make(step=5, seed=1))

    def fail(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(module.os, call, fail)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, make(step=5, seed=2))
    monkeypatch.undo()
    assert_equal(load_checkpoint(path).parameters, state(1))
    assert find_checkpoints(tmp_path) == [path]
    save_checkpoint(path, make(step=5, seed=2))
    assert_equal(load_checkpoint(path).parameters, state(2))
    assert list(tmp_path.iterdir()) == [path]


def test_content_is_on_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)
        monkeypatch.setattr(
            module.os, name, lambda *a, name=name, original=original: (calls.append(name), original(*a))
        )
    write_atomically(tmp_path / "file", b"content")
    assert calls == ["fsync", "replace", "fsync"]


# --- Which are kept, and which are found ------------------------------------------------------------


@pytest.mark.parametrize(("keep", "left"), [(0, [1, 9, 10, 200]), (1, [200]), (2, [10, 200]), (9, [1, 9, 10, 200])])
def test_the_newest_are_kept(keep: int, left: list[int], tmp_path: Path) -> None:
    for step in (10, 1, 200, 9):
        save_checkpoint(checkpoint_path(tmp_path, step), make(step))
    (tmp_path / "notes.txt").write_text("mine")
    delete_old_checkpoints(tmp_path, keep, find_checkpoints(tmp_path)[-1])
    assert find_checkpoints(tmp_path) == [checkpoint_path(tmp_path, step) for step in left]
    assert (tmp_path / "notes.txt").exists()


def test_names_sort_by_step() -> None:
    assert checkpoint_path(Path("a"), 1234) == Path("a/step-00001234.safetensors")


def test_a_missing_directory_has_no_checkpoints(tmp_path: Path) -> None:
    assert find_checkpoints(tmp_path / "none") == []


# --- Whose run they are -----------------------------------------------------------------------------


def same_run(saved: Config, mine: Config) -> None:
    # As a file holds it: through JSON.
    config = json.loads(json.dumps(to_dict(saved)))
    check_same_run(Checkpoint(0, config, "data", {}, {}), mine, "data", Path("a.safetensors"))


@pytest.mark.parametrize(
    ("mine", "message"),
    [
        (Config(seed=1), "seed = 1: checkpoint a.safetensors was made with 0; use that, or start a new run"),
        (Config(batch=BatchConfig(size=32)), "batch.size = 32: checkpoint a.safetensors was made with 64"),
        (Config(batch=BatchConfig(shards=4)), "batch.shards = 4: checkpoint a.safetensors was made with 8"),
        (Config(optimizer=OptimizerConfig(lr=0.2)), "optimizer.lr = 0.2: checkpoint a.safetensors was made with 0.1"),
        (
            Config(model=ModelConfig(hidden=(4,))),
            "model.hidden = [4]: checkpoint a.safetensors was made with [512, 512]",
        ),
        (
            Config(comm=CommConfig(compression="bf16")),
            "comm.compression = bf16: checkpoint a.safetensors was made with none",
        ),
        (Config(comm=CommConfig(sync_every=2)), "comm.sync_every = 2: checkpoint a.safetensors was made with 1"),
    ],
)
def test_another_configuration_is_refused_by_field(mine: Config, message: str) -> None:
    with pytest.raises(CheckpointError) as raised:
        same_run(Config(), mine)
    assert str(raised.value).startswith(message)


def test_every_field_that_differs_is_named() -> None:
    mine = Config(seed=1, batch=BatchConfig(size=32), optimizer=OptimizerConfig(lr=0.2))
    with pytest.raises(CheckpointError) as raised:
        same_run(Config(), mine)
    assert str(raised.value) == (
        "seed = 1, batch.size = 32, optimizer.lr = 0.2: checkpoint a.safetensors was made with"
        " seed = 0, batch.size = 64, optimizer.lr = 0.1; use those, or start a new run"
    )


def test_the_same_configuration_is_accepted() -> None:
    same_run(Config(), Config())


FREE = {
    "threads": 3,
    "train": {"epochs": 1},
    "comm": {"reducer": "naive"},
    "checkpoint": {"keep": 9},
    "output": {"name": "x"},
}


@pytest.mark.parametrize(("name", "changed"), FREE.items())
def test_what_changes_no_number_may_change(name: str, changed: Any) -> None:
    value = dataclasses.replace(getattr(Config(), name), **changed) if isinstance(changed, dict) else changed
    same_run(Config(), dataclasses.replace(Config(), **{name: value}))


def test_the_number_of_epochs_is_bound_where_the_schedule_ends_with_the_last() -> None:
    cosine = Config(schedule=ScheduleConfig(name="cosine"))
    with pytest.raises(CheckpointError, match=r"train\.epochs = 1: checkpoint .* was made with 20"):
        same_run(cosine, dataclasses.replace(cosine, train=TrainConfig(epochs=1)))
    same_run(cosine, dataclasses.replace(cosine, train=TrainConfig(steps=1)))


def test_a_checkpoint_of_before_a_field_was_made_has_its_default() -> None:
    config = to_dict(Config())
    del config["optimizer"]["dampening"]
    made = Checkpoint(0, config, "data", {}, {})
    check_same_run(made, Config(), "data", Path("a.safetensors"))
    with pytest.raises(CheckpointError, match=r"optimizer\.dampening = 0\.5: checkpoint .* was made with 0\.0"):
        check_same_run(made, Config(optimizer=OptimizerConfig(dampening=0.5)), "data", Path("a.safetensors"))


@pytest.mark.parametrize("name", ["step", "multi_step"])
def test_the_number_of_epochs_is_free_where_the_schedule_counts_them_from_the_first(name: Any) -> None:
    config = Config(schedule=ScheduleConfig(name=name, step_epochs=2, milestones=(1, 2)))
    same_run(config, dataclasses.replace(config, train=TrainConfig(epochs=30)))


def test_a_field_that_a_checkpoint_does_not_know_had_its_default() -> None:
    config = to_dict(Config())
    del config["schedule"]["gamma"], config["schedule"]["base_batch"]
    earlier = Checkpoint(0, config, "data", {}, {})
    check_same_run(earlier, Config(), "data", Path("a.safetensors"))
    scaled = Config(schedule=ScheduleConfig(base_batch=32))
    with pytest.raises(CheckpointError, match=r"schedule\.base_batch = 32: checkpoint .* was made with 0"):
        check_same_run(earlier, scaled, "data", Path("a.safetensors"))


def test_the_free_sections_are_these() -> None:
    assert set(FREE) == FREE_SECTIONS


def test_the_checkpoint_just_written_is_never_deleted(tmp_path: Path) -> None:
    """A run that goes on from an earlier step writes steps below those of the run before."""
    for step in 40, 50, 10:
        save_checkpoint(checkpoint_path(tmp_path, step), make(step))
    written = checkpoint_path(tmp_path, 10)
    delete_old_checkpoints(tmp_path, 1, written)
    assert find_checkpoints(tmp_path) == [written]


def test_other_data_of_the_same_name_is_refused_and_another_folder_is_not() -> None:
    made = Checkpoint(0, to_dict(Config()), "data", {}, {})
    check_same_run(made, Config(data=DataConfig(root="elsewhere")), "data", Path("a.safetensors"))
    with pytest.raises(CheckpointError, match=r"data\.name = digits: .* other data of that name"):
        check_same_run(made, Config(), "other", Path("a.safetensors"))


@pytest.mark.parametrize(
    "metadata",
    [
        {"config": "{}", "data_checksum": ""},
        {"step": "x", "config": "{}", "data_checksum": ""},
        {"step": "-5", "config": "{}", "data_checksum": ""},
        {"step": "1", "config": "[]", "data_checksum": ""},
        {"step": "1", "config": "{", "data_checksum": ""},
        {"step": "1", "config": "{}"},
    ],
)
def test_odd_metadata_is_told_with_the_files_name(tmp_path: Path, metadata: dict[str, str]) -> None:
    tensors = {"0.weight": np.ones((2, 2), np.float32)}
    path = tmp_path / "odd.safetensors"
    path.write_bytes(safetensors.numpy.save(tensors, {**metadata, "sha256": parameters_sha256(tensors)}))
    with pytest.raises(CheckpointError, match=r"odd\.safetensors: cannot be used \(.+\); give another"):
        load_checkpoint(path)


def test_what_a_killed_run_left_half_written_is_deleted_and_nothing_else(tmp_path: Path) -> None:
    save_checkpoint(checkpoint_path(tmp_path, 3), make(3))
    (tmp_path / ".step-00000004.safetensors.tmp").write_bytes(b"half")
    (tmp_path / ".mine.tmp").touch()
    delete_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.tmp", "step-00000003.safetensors"]


def test_a_failed_write_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        write_atomically(tmp_path / "taken", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
