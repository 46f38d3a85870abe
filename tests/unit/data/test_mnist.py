"""MNIST and Fashion-MNIST: where they are looked for, and what Debian's package holds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from ddp.config import DataConfig
from ddp.data import DataError, load_dataset, mnist
from ddp.data.idx import encode_idx

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def search_only(monkeypatch: pytest.MonkeyPatch, name: str, *places: str) -> None:
    source = dataclasses.replace(mnist.SOURCES[name], places=places)
    monkeypatch.setitem(mnist.SOURCES, name, source)


def write_dataset(folder: Path, value: int) -> None:
    folder.mkdir(parents=True)
    for prefix in ("train", "t10k"):
        images, labels = np.full((3, 2, 2), value, np.uint8), np.zeros(3, np.uint8)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(encode_idx(images))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(encode_idx(labels))


@pytest.mark.parametrize(("name", "fix"), [("mnist", "--data.root"), ("fashion_mnist", "dataset-fashion-mnist")])
def test_not_found_names_every_place_and_the_fix(name: str, fix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    search_only(monkeypatch, name, "no/such/place", "~/no/such/place")
    with pytest.raises(DataError) as caught:
        load_dataset(DataConfig(name=name), seed=0)  # type: ignore[arg-type]
    text = str(caught.value)
    assert text.startswith(f"data.name = {name}: no train-images-idx3-ubyte")
    assert "no/such/place, ~/no/such/place" in text
    assert "--data.root" in text
    assert fix in text


def test_places_are_searched_in_order_from_the_working_and_home_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write_dataset(tmp_path / "home/.cache/ddp/mnist", value=7)
    assert load_dataset(DataConfig(name="mnist"), seed=0).train.inputs[0, 0, 0, 0] == 7
    (tmp_path / "data/mnist").mkdir(parents=True)  # empty, so it is passed over
    assert load_dataset(DataConfig(name="mnist"), seed=0).train.inputs[0, 0, 0, 0] == 7
    (tmp_path / "data/mnist").rmdir()
    write_dataset(tmp_path / "data/mnist", value=8)
    assert load_dataset(DataConfig(name="mnist"), seed=0).train.inputs[0, 0, 0, 0] == 8


def test_a_root_in_the_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_dataset(tmp_path / "images", value=9)
    assert load_dataset(DataConfig(name="mnist", root="~/images"), seed=0).name == "mnist"


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_fashion_mnist_is_found_where_debian_puts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    dataset = load_dataset(DataConfig(name="fashion_mnist"), seed=0)
    assert dataset.train.inputs.shape == (60_000, 1, 28, 28)
    assert dataset.test.inputs.shape == (10_000, 1, 28, 28)
    np.testing.assert_array_equal(np.bincount(dataset.train.targets), 6000)
    np.testing.assert_array_equal(np.bincount(dataset.test.targets), 1000)
    pixels = np.bincount(dataset.train.inputs.ravel(), minlength=256)
    x = np.arange(256) * float(dataset.train.scale) + float(dataset.train.shift)
    mean = np.average(x, weights=pixels)
    assert abs(mean) < 1e-3
    assert abs(np.average((x - mean) ** 2, weights=pixels) - 1) < 1e-3
