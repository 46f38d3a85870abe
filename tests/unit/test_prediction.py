"""Predictions: of any batches the same bits, and mistakes in the order of how sure they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ddp.data import load_dataset
from ddp.models import build_model
from ddp.predict import read_array
from ddp.prediction import Mistake, Predictor, surest_mistakes
from tests.unit.runs import CNN


def test_batches_do_not_matter() -> None:
    dataset = load_dataset(CNN.data, CNN.seed)
    model = build_model(CNN.model, dataset.test.sample_shape, dataset.num_classes, seed=1)
    predictor = Predictor(model, dataset.train, classes=True)
    whole = np.zeros((len(dataset.train), predictor.width), np.float32)
    predictor.predict(range(len(dataset.train)), whole)
    inputs, _ = dataset.train.gather(np.arange(44), predictor.buffer)
    scores = np.exp(model.forward(inputs, training=False).astype(float))
    np.testing.assert_allclose(whole, scores / scores.sum(axis=1, keepdims=True), rtol=1e-5)
    for size in (1, 7):
        predictor.batch_size = size
        parts = np.zeros_like(whole)
        for samples in (range(13), range(13, 13), range(13, 44)):
            predictor.predict(samples, parts)
        assert parts.tobytes() == whole.tobytes()


def test_mistakes_are_ordered_by_probability_then_sample() -> None:
    rows = [[0.5, 0.25, 0.25], [0.25, 0.75, 0], [0, 0.25, 0.75], [0, 1, 0], [0.75, 0, 0.25]]
    probabilities = np.array(rows, np.float32)
    labels = np.array([1, 0, 0, 1, 2])
    assert surest_mistakes(probabilities, labels) == [
        Mistake(1, 0, 1, 0.75),
        Mistake(2, 0, 2, 0.75),
        Mistake(4, 2, 0, 0.75),
        Mistake(0, 1, 0, 0.5),
    ]
    assert surest_mistakes(probabilities, probabilities.argmax(axis=1)) == []


def damaged_header(path: Path) -> None:
    """A dictionary that does not end, of the length that is stated."""
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (5, 8, 8"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)


@pytest.mark.parametrize(
    "write",
    [damaged_header, lambda path: path.write_bytes(b"PK\x03\x04 cut"), lambda path: path.touch(), lambda path: None],
    ids=["header", "archive", "empty", "none"],
)
def test_a_file_that_is_no_array_is_told_of_in_one_line(write: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    write(path)
    with pytest.raises(ValueError, match=r"--input .*x\.npy: cannot be read \(.+\); give an array") as raised:
        read_array(path)
    assert "\n" not in str(raised.value)
