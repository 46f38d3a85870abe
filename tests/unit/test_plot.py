"""What runs are called in a picture, and what is drawn of them."""

from __future__ import annotations

from pathlib import Path

from ddp.config import DataConfig
from ddp.data import load_dataset
from ddp.data.classes import class_names
from ddp.plot import _images, names
from ddp.prediction import Mistake


def test_runs_are_told_apart() -> None:
    assert names([Path("runs/a"), Path("runs/b/")]) == ["a", "b"]
    assert names([Path("x/a"), Path("y/a"), Path("y/b")]) == ["x/a", "y/a", "b"]


def test_images_are_those_of_the_files_scaled() -> None:
    dataset = load_dataset(DataConfig(name="synthetic", shape=(3, 4, 5), samples=50), 0)
    raw = dataset.test.inputs[[7, 2]].astype(float)
    expected = (raw - raw.min()) / (raw.max() - raw.min())
    found = _images(dataset, [Mistake(7, 0, 1, 0.9), Mistake(2, 0, 1, 0.8)])
    assert found.shape == (2, 3, 4, 5)
    assert abs(found - expected).max() < 1e-5


def test_classes_have_names_where_they_fit() -> None:
    assert class_names("fashion_mnist", 10)[9] == "Ankle boot"
    assert class_names("cifar10", 10)[0] == "airplane"
    assert class_names("fashion_mnist", 3) == ("0", "1", "2")
    assert class_names("digits", 2) == ("0", "1")
