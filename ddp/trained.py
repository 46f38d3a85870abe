"""A trained network, as its run directory holds it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from ddp.checkpoint import CheckpointError, find_checkpoints, load_checkpoint, parameters_sha256
from ddp.config import Config
from ddp.data import DataError, Dataset, Split, load_dataset
from ddp.models import build_model
from ddp.nn import Sequential
from ddp.run_directory import RunDirectory

INPUTS = "inputs"
"""The field of the `start` record that holds an InputFormat."""


@dataclass(frozen=True)
class InputFormat:
    """What a network's inputs are before they are normalised, and after."""

    shape: tuple[int, ...]
    """Of one sample: (C, H, W) or (1,)."""
    dtype: str
    """uint8 or float32."""
    scale: tuple[float, ...]
    """Factor of the normalisation, for all values or for each channel."""
    shift: tuple[float, ...]
    """Added after scaling."""
    num_classes: int
    """Labels that are told apart; 0 for regression."""

    @staticmethod
    def of(dataset: Dataset) -> InputFormat:
        """That of a data set's samples."""
        split = dataset.train
        scale, shift = (tuple(np.ravel(values).tolist()) for values in (split.scale, split.shift))
        return InputFormat(split.sample_shape, split.inputs.dtype.name, scale, shift, dataset.num_classes)

    def to_record(self) -> dict[str, Any]:
        """All of it as JSON has it, with lists."""
        fields = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> InputFormat:
        """The inverse of `to_record`."""
        shape, scale, shift = (tuple(record[name]) for name in ("shape", "scale", "shift"))
        return InputFormat(shape, record["dtype"], scale, shift, record["num_classes"])

    def split(self, inputs: npt.NDArray[Any], source: str) -> Split:
        """Samples without known targets.

        Args:
            inputs: (N, *shape), or without one channel's axis, or (N, F) of F features, of the type `dtype`; may be a
                memory map.
            source: what the samples are called in an error.

        Raises:
            ValueError: if they are none of this network's.
        """
        wanted = f"(N, {', '.join(map(str, self.shape))})"
        if inputs.ndim < 1 or len(inputs) == 0 or inputs.shape[1:] not in self._fitting():
            raise ValueError(f"{source}: an array of shape {inputs.shape}; the network takes {wanted}, N 1 or more")
        if inputs.dtype != np.dtype(self.dtype):
            kind = "bytes from 0 to 255, as the files of its data set hold them" if self.dtype == "uint8" else "numbers"
            held = inputs.dtype.name if inputs.dtype.isnative else f"{inputs.dtype.name} in another byte order"
            raise ValueError(f"{source}: holds {held}; the network takes {self.dtype}, {kind}")
        targets = np.broadcast_to(np.int64(0), len(inputs))
        return Split(
            inputs.reshape(len(inputs), *self.shape), targets, _by_channel(self.scale), _by_channel(self.shift)
        )

    def fit(self, dataset: Dataset, source: str) -> Dataset:
        """A data set as this network's: with its classes, of which the test split may lack some.

        Args:
            dataset: as its files have it.
            source: what it is called in an error.

        Raises:
            DataError: if the network was trained on other inputs, or does not know a label of the test split.
        """
        given = InputFormat.of(dataset)
        for name in ("dtype", "shape", "scale", "shift"):
            found, wanted = getattr(given, name), getattr(self, name)
            if found != wanted:
                fix = "give the data set that it was trained on, or one like it, with --data.root"
                raise DataError(f"{source}: the samples' {name} is {found}, in training it was {wanted}; {fix}")
        if self.num_classes and (label := int(dataset.test.targets.max())) >= self.num_classes:
            fix = f"the network tells {self.num_classes} classes apart; give data with labels below"
            raise DataError(f"{source}: label {label} in the test split; {fix}")
        return dataclasses.replace(dataset, num_classes=self.num_classes)

    def _fitting(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of a sample in a user's array: one channel, and the one pixel of features, need no axis."""
        if self.shape[0] == 1:
            return self.shape, self.shape[1:]
        return (self.shape, self.shape[:1]) if self.shape[1:] == (1, 1) else (self.shape,)


def _by_channel(values: tuple[float, ...]) -> np.float32 | npt.NDArray[np.float32]:
    return np.float32(values[0]) if len(values) == 1 else np.array(values, np.float32).reshape(-1, 1, 1)


def read_input_format(run: RunDirectory, config: Config) -> InputFormat:
    """What the run recorded at its start; of runs that did not, what its data set has.

    Raises:
        DataError: if the data set must be looked at and is not there.
    """
    record = None
    if run.metrics.is_file():
        with open(run.metrics, encoding="utf-8", errors="replace") as file:
            record = next((line for line in file if INPUTS in line and '"start"' in line), None)
    if record is not None:
        try:
            return InputFormat.from_record(json.loads(record)[INPUTS])
        except (ValueError, KeyError, TypeError):
            raise CheckpointError(f"{run.metrics}: its start record is damaged; restore the file") from None
    return InputFormat.of(load_dataset(config.data, config.seed))


def find_parameters(run: RunDirectory) -> Path:
    """The file of the final parameters, or the newest usable checkpoint of a run that has not ended.

    As the run may still write, one rank looks for all.

    Raises:
        CheckpointError: if there is neither.
    """
    if run.model.is_file():
        return run.model
    for path in reversed(find_checkpoints(run.checkpoints)):
        try:
            load_checkpoint(path)
        except CheckpointError:
            continue
        return path
    raise CheckpointError(
        f"{run.path}: no {run.model.name}, nor a checkpoint that can be used; train on with --output.name"
        f" {run.path.name} --resume auto"
    )


def load_trained(run: RunDirectory, path: Path, config: Config, inputs: InputFormat) -> Sequential:
    """The network of a run with the parameters in `path`, as `find_parameters` has found it.

    Raises:
        CheckpointError: if the file is damaged, or of another network.
    """
    model = build_model(config.model, inputs.shape, inputs.num_classes, config.seed)
    state, digest = _read_model(path) if path == run.model else (load_checkpoint(path).parameters, None)
    try:
        model.load_state_dict(state)
    except ValueError as error:
        raise CheckpointError(f"{path}: not of the network in {run.path / 'config.toml'} ({error})") from None
    if digest not in (None, parameters_sha256(model.parameter_dict())):
        raise CheckpointError(f"{path}: damaged (its checksum is wrong); restore it, or train again")
    return model


def _read_model(path: Path) -> tuple[dict[str, npt.NDArray[Any]], str | None]:
    """The state dict, and the checksum of its parameters, if it has one: PyTorch's writer knows of none."""
    try:
        with safe_open(path, "numpy") as file:
            digest = (file.metadata() or {}).get("parameters_sha256")
            return {name: file.get_tensor(name) for name in file.keys()}, digest
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: cannot be used ({reason}); restore it, or train again") from None
