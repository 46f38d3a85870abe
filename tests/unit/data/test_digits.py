"""The embedded digits are scikit-learn's, split by position, and made by the committed script."""

from __future__ import annotations

import gzip
import runpy
from pathlib import Path

import numpy as np
import pytest

from ddp.config import DataConfig
from ddp.data import Dataset, load_dataset
from ddp.data.digits import FOLDER

SCRIPT = Path(__file__).parents[3] / "scripts" / "make_digits.py"
PER_DIGIT = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # as the source's documentation states


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset(DataConfig(name="digits"), seed=0)


def test_shapes_and_range(digits: Dataset) -> None:
    assert digits.train.inputs.shape == (1438, 1, 8, 8)
    assert digits.test.inputs.shape == (359, 1, 8, 8)
    assert digits.train.inputs.dtype == np.uint8
    assert digits.train.inputs.max() == digits.test.inputs.max() == 16
    assert digits.num_classes == 10


def test_labels_add_up_and_every_digit_is_in_both_splits(digits: Dataset) -> None:
    train, test = np.bincount(digits.train.targets), np.bincount(digits.test.targets)
    np.testing.assert_array_equal(train + test, PER_DIGIT)
    assert train.min() > 120
    assert test.min() > 20


def test_normalised_inputs_have_mean_0_and_deviation_1(digits: Dataset) -> None:
    x, _ = digits.train.gather(np.arange(1438), digits.train.make_buffer(1438))
    assert abs(x.mean(dtype=np.float64)) < 1e-3
    assert abs(x.std(dtype=np.float64) - 1) < 1e-3


def test_a_nearest_neighbour_reads_the_test_digits(digits: Dataset) -> None:
    train, test = (s.inputs.reshape(len(s), -1).astype(np.int64) for s in (digits.train, digits.test))
    distance = (train**2).sum(1) - 2 * test @ train.T
    predicted = digits.train.targets[distance.argmin(1)]
    assert (predicted == digits.test.targets).mean() > 0.97  # so images and labels belong together


def test_contents_are_scikit_learns(digits: Dataset) -> None:
    source = pytest.importorskip("sklearn.datasets").load_digits()
    is_test = np.arange(1797) % 5 == 4
    for split, chosen in ((digits.train, ~is_test), (digits.test, is_test)):
        np.testing.assert_array_equal(split.inputs[:, 0], source.images[chosen])
        np.testing.assert_array_equal(split.targets, source.target[chosen])


def test_the_script_makes_the_embedded_files(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    runpy.run_path(str(SCRIPT))["make_digits"](tmp_path)
    made = sorted(path.name for path in tmp_path.iterdir())
    assert made == sorted(path.name for path in FOLDER.glob("*.gz"))
    assert len(made) == 4
    for name in made:
        data = (tmp_path / name).read_bytes()
        assert gzip.decompress(data) == gzip.decompress((FOLDER / name).read_bytes())
        assert data[4:8] == bytes(4)  # no time of making
