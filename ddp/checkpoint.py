"""Checkpoints: atomic, pickle-free, independent of the number of ranks.

A checkpoint is one safetensors file: the parameters under PyTorch's names, the optimizer's buffers beside them as
`optimizer.<buffer>.<parameter>`, the exponents of the gradient sums' scales as `scales.exponents`, and the step,
configuration and a checksum as metadata.
The learning rate, the position in the epoch and every random draw are functions of the step, so these resume
the run exactly where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from ddp.config import Config, to_dict
from ddp.kernels.types import Float32, Int64

SUFFIX = ".safetensors"
TEMPORARY = ".tmp"
EXPONENTS = "scales.exponents"
# What a resumed run may set anew; everything else decides which numbers are computed.
FREE_SECTIONS = {"threads", "train", "comm", "checkpoint", "output"}
FREE_FIELDS = {"data.root", "data.download"}  # the data's checksum counts
BOUND_FIELDS = {"comm.exact", "comm.compression", "comm.sync_every"}
BOUND_FIELDS |= {"train.epochs"}  # but where the schedule does not depend on it


StateDict = Mapping[str, npt.NDArray[Any]]
Buffer = bytes | memoryview


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: missing, damaged, or of another run."""


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after `step` steps."""

    step: int
    config: dict[str, Any]
    data_checksum: str
    parameters: dict[str, npt.NDArray[Any]]
    """The model's state dict: parameters, and the running statistics of batch normalisation."""
    optimizer: dict[str, dict[str, Float32]]
    """By buffer, then by parameter."""
    evaluated: bool = True
    """Whether the evaluation that was due at this step, if any, is done."""
    exponents: Int64 = field(default_factory=lambda: np.zeros(0, np.int64))
    """Of the scales of the gradient sums, one for each parameter; none where sums are float32."""


def parameters_sha256(state: StateDict) -> str:
    """SHA-256 of the parameters in state-dict order, as little-endian float32 (of integers, int64)."""
    digest = hashlib.sha256()
    for tensor in state.values():
        digest.update(np.ascontiguousarray(tensor, _stored_type(tensor)).data)
    return digest.hexdigest()


def write_atomically(path: Path, *parts: Buffer) -> None:
    """Write a file so that it is either all there or not at all, even if the machine stops meanwhile.

    Raises:
        OSError: if it cannot be written; what was there before stays, and nothing else is left.
    """
    temporary = path.with_name(f".{path.name}{TEMPORARY}")
    try:
        with open(temporary, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def safetensors_parts(tensors: StateDict, metadata: Mapping[str, str]) -> list[Buffer]:
    """The content of a safetensors file: its length and header, then the tensors as they lie in memory.

    The library's own `save` copies all of them first, and keeps every other Python thread waiting meanwhile.
    """
    # The widest type first, so that each tensor lies at a multiple of its item's size.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0]))
    arrays = {name: np.ascontiguousarray(tensor, _stored_type(tensor)) for name, tensor in ordered}
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        kind = "I64" if array.dtype.kind == "i" else "F32"
        header[name] = {"dtype": kind, "shape": list(tensors[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little"), text, *(array.reshape(-1).data for array in arrays.values())]


def _stored_type(tensor: npt.NDArray[Any]) -> str:
    return "<i8" if np.issubdtype(tensor.dtype, np.integer) else "<f4"


def save_model(path: Path, state: StateDict, parameters: StateDict | None = None) -> None:
    """Write a state dict alone, as `torch.nn.Module.load_state_dict` takes it.

    Args:
        path: the file.
        state: parameters and buffers.
        parameters: the parameters alone, of which the checksum in the metadata is; default: all of `state`.
    """
    digest = parameters_sha256(state if parameters is None else parameters)
    write_atomically(path, *safetensors_parts(state, {"parameters_sha256": digest}))


def checkpoint_path(directory: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return directory / f"step-{step:08d}{SUFFIX}"


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint."""
    tensors = dict(checkpoint.parameters)
    for buffer, state in checkpoint.optimizer.items():
        tensors |= {f"optimizer.{buffer}.{name}": tensor for name, tensor in state.items()}
    if checkpoint.exponents.size:
        tensors[EXPONENTS] = checkpoint.exponents
    metadata = {
        "step": str(checkpoint.step),
        "config": json.dumps(checkpoint.config),
        "data_checksum": checkpoint.data_checksum,
        "evaluated": json.dumps(checkpoint.evaluated),
        "sha256": parameters_sha256(dict(sorted(tensors.items()))),
    }
    write_atomically(path, *safetensors_parts(tensors, metadata))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint and verify its checksum.

    Raises:
        CheckpointError: if the file is missing, truncated, damaged, or not a checkpoint.
    """
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            tensors: dict[str, npt.NDArray[Any]] = {name: file.get_tensor(name) for name in file.keys()}
        if metadata.get("sha256") != parameters_sha256(dict(sorted(tensors.items()))):
            raise ValueError("its checksum is wrong or missing")
        return _from_tensors(metadata, tensors)
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"checkpoint {path}: cannot be used ({reason}); give another with --resume") from None


def _from_tensors(metadata: Mapping[str, str], tensors: dict[str, npt.NDArray[Any]]) -> Checkpoint:
    step, config = int(metadata["step"]), json.loads(metadata["config"])
    if step < 0 or not isinstance(config, dict):
        raise ValueError("its step or its configuration is none")
    optimizer: dict[str, dict[str, Float32]] = {}
    for key in [key for key in tensors if key.startswith("optimizer.")]:
        _, buffer, name = key.split(".", 2)
        optimizer.setdefault(buffer, {})[name] = tensors.pop(key)
    evaluated, exponents = metadata.get("evaluated") != "false", tensors.pop(EXPONENTS, np.zeros(0, np.int64))
    return Checkpoint(step, config, metadata["data_checksum"], tensors, optimizer, evaluated, exponents)


def find_checkpoints(directory: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted(directory.glob(f"step-*{SUFFIX}"))


def delete_old_checkpoints(directory: Path, keep: int, newest: Path) -> None:
    """Delete all but the `keep` newest, of which one is that just written; 0 keeps all."""
    if keep:
        others = [path for path in find_checkpoints(directory) if path != newest]
        for path in others[: len(others) - (keep - 1)]:
            path.unlink()


def set_aside_later_checkpoints(directory: Path, step: int) -> None:
    """Rename the checkpoints after a step, which a run that goes on from there leaves behind.

    Otherwise the next `--resume auto` would follow them and not the run.
    """
    for path in find_checkpoints(directory):
        if path > checkpoint_path(directory, step):
            path.rename(path.with_name(f"{path.name}.abandoned"))


def delete_unfinished(directory: Path) -> None:
    """Delete what runs that were killed while they wrote have left; only where no other run writes."""
    for path in directory.glob(f".step-*{SUFFIX}{TEMPORARY}"):
        path.unlink()


def check_same_run(checkpoint: Checkpoint, config: Config, data_checksum: str, path: Path) -> None:
    """Refuse a checkpoint whose configuration would have computed other numbers.

    Raises:
        CheckpointError: naming every field that differs, and both values.
    """
    mine = _flatten(to_dict(config))
    theirs = _flatten(to_dict(Config())) | _flatten(checkpoint.config)  # of before a field was made: as by its default
    free = FREE_FIELDS | (set() if config.schedule.ends_with_training else {"train.epochs"})
    bound = [name for name in mine if name in BOUND_FIELDS or name.split(".")[0] not in FREE_SECTIONS]
    differing = [name for name in bound if name not in free and theirs.get(name) != mine[name]]
    if differing:
        only = differing[0] if len(differing) == 1 else None
        raise CheckpointError(
            f"{_values(differing, mine)}: checkpoint {path} was made with"
            f" {theirs.get(only) if only else _values(differing, theirs)};"
            f" use {'that' if only else 'those'}, or start a new run"
        )
    if checkpoint.data_checksum != data_checksum:
        raise CheckpointError(
            f"data.name = {config.data.name}: checkpoint {path} was made with other data of that name"
            f" (checksum {checkpoint.data_checksum[:12]}, now {data_checksum[:12]}); give the same files"
        )


def _values(names: Iterable[str], config: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {config.get(name)}" for name in names)


def _flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= {f"{name}.{field}": item for field, item in value.items()} if isinstance(value, dict) else {name: value}
    return flat
