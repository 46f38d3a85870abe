"""What a trained network takes: the record of it, what fits, and what a run without a record falls back on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ddp.config import Config, DataConfig
from ddp.data import DataError, Dataset, Split, load_dataset
from ddp.run_directory import RunDirectory
from ddp.trained import InputFormat, read_input_format

GREY = InputFormat((1, 2, 3), "uint8", (0.5,), (-1.0,), 4)
COLOUR = InputFormat((3, 2, 2), "float32", (1.0, 2.0, 3.0), (0.0, 10.0, 20.0), 4)
POINTS = InputFormat((1,), "float32", (1.0,), (0.0,), 0)
FEATURES = InputFormat((6, 1, 1), "float32", (1.0,), (0.0,), 4)


@pytest.mark.parametrize("name", ["digits", "synthetic", "polynomial"])
def test_a_record_is_read_back_to_the_same_bits(name: str) -> None:
    dataset = load_dataset(DataConfig(name=name, samples=20), 0)  # type: ignore[arg-type]
    form = InputFormat.of(dataset)
    again = InputFormat.from_record(json.loads(json.dumps(form.to_record())))
    assert again == form
    split, indices = again.split(dataset.test.inputs, "X"), np.array([3, 0, 1])
    mine, _ = split.gather(indices, split.make_buffer(3))
    theirs, _ = dataset.test.gather(indices, dataset.test.make_buffer(3))
    assert mine.tobytes() == theirs.tobytes()


def test_samples_are_normalised_by_channel() -> None:
    split = COLOUR.split(np.ones((2, 3, 2, 2), np.float32), "X")
    inputs, _ = split.gather(np.array([1]), split.make_buffer(1))
    assert inputs[0, :, 0, 0].tolist() == [1.0, 12.0, 23.0]


@pytest.mark.parametrize(
    ("form", "shape"),
    [
        (GREY, (5, 1, 2, 3)),
        (GREY, (5, 2, 3)),
        (COLOUR, (5, 3, 2, 2)),
        (POINTS, (5, 1)),
        (POINTS, (5,)),
        (FEATURES, (5, 6)),
    ],
)
def test_an_axis_of_one_may_be_left_out(form: InputFormat, shape: tuple[int, ...]) -> None:
    assert form.split(np.zeros(shape, form.dtype), "X").inputs.shape == (5, *form.shape)


@pytest.mark.parametrize(
    ("form", "shape"),
    [
        (GREY, (5, 3, 2)),
        (GREY, (5, 6)),
        (GREY, (0, 2, 3)),
        (GREY, ()),
        (COLOUR, (5, 2, 2)),
        (POINTS, (5, 2)),
        (COLOUR, (5, 3)),
    ],
)
def test_another_shape_is_refused(form: InputFormat, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="the network takes") as raised:
        form.split(np.zeros(shape, form.dtype), "--input x.npy")
    assert str(raised.value).startswith(f"--input x.npy: an array of shape {shape}")


def test_pixels_that_have_been_scaled_are_refused() -> None:
    with pytest.raises(ValueError, match="holds float32; the network takes uint8, bytes from 0 to 255"):
        GREY.split(np.zeros((5, 2, 3), np.float32), "X")


def test_another_byte_order_is_refused() -> None:
    """Its bytes would be taken for other numbers."""
    with pytest.raises(ValueError, match="holds float32 in another byte order; the network takes float32"):
        COLOUR.split(np.zeros((5, 3, 2, 2), np.dtype(np.float32).newbyteorder()), "X")


def own_data(inputs: np.ndarray, labels: list[int], scale: float = 1.0) -> Dataset:
    split = Split(inputs, np.array(labels), np.float32(scale), np.float32(0))
    return Dataset("npz", split, split, max(2, 1 + max(labels)))


def test_a_test_split_may_lack_the_last_classes() -> None:
    form = InputFormat.of(own_data(np.zeros((3, 6, 1, 1), np.float32), [0, 3, 1]))
    other = own_data(np.zeros((2, 6, 1, 1), np.float32), [2, 0])
    assert form.fit(other, "data.root = x").num_classes == form.num_classes == 4


@pytest.mark.parametrize(
    ("dataset", "named"),
    [
        (own_data(np.zeros((2, 6, 1, 1), np.float32), [0, 4]), "label 4 in the test split; .* 4 classes"),
        (own_data(np.zeros((2, 6, 1, 1), np.uint8), [0, 3]), "dtype is uint8, in training it was float32"),
        (own_data(np.zeros((2, 5, 1, 1), np.float32), [0, 3]), r"shape is \(5, 1, 1\), in training"),
        (own_data(np.zeros((2, 6, 1, 1), np.float32), [0, 3], 0.5), r"scale is \(0.5,\), in training it was \(1.0,\)"),
    ],
)
def test_data_of_another_kind_are_refused(dataset: Dataset, named: str) -> None:
    with pytest.raises(DataError, match=f"data.root = x: .*{named}"):
        FEATURES.fit(dataset, "data.root = x")


def test_a_run_that_recorded_nothing_has_the_format_of_its_data(tmp_path: Path) -> None:
    run, config = RunDirectory(tmp_path), Config()
    expected = InputFormat.of(load_dataset(config.data, config.seed))
    assert read_input_format(run, config) == expected
    run.metrics.write_text('{"event": "start", "world_size": 1}\n')
    assert read_input_format(run, config) == expected
    record = {"event": "start", "inputs": GREY.to_record()}
    run.metrics.write_text(json.dumps(record) + '\n{"event": "st')
    assert read_input_format(run, config) == GREY
    run.metrics.write_text('{"event": "start", "inputs": 3}\n')
    with pytest.raises(ValueError, match="start record is damaged"):
        read_input_format(run, config)
