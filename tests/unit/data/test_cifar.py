"""The binary files of CIFAR-10 and CIFAR-100: what is read from them, and one clear line for each kind of damage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddp.config import DataConfig
from ddp.data import DataError, Dataset, load_dataset
from ddp.data.cifar import FORMATS

RECORD, UNPACKED = 3073, FORMATS["cifar10"].unpacked
MEANS, STDS = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]
NAMES = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]


def records(seed: int, samples: int) -> Any:
    generator = np.random.default_rng(seed)
    data = generator.integers(0, 256, (samples, RECORD), dtype=np.uint8)
    data[:, 0] = generator.integers(0, 10, samples)
    return data


def write(folder: Path) -> list[Any]:
    """Six files of 2, 3, ... samples."""
    folder.mkdir(parents=True, exist_ok=True)
    written = [records(number, 2 + number) for number in range(6)]
    for name, data in zip(NAMES, written, strict=True):
        (folder / name).write_bytes(data.tobytes())
    return written


def load(root: Path) -> Dataset:
    return load_dataset(DataConfig(name="cifar10", root=str(root)), seed=0)


@pytest.mark.parametrize("below", ["", UNPACKED])
def test_records_are_a_label_and_three_planes(below: str, tmp_path: Path) -> None:
    written = write(tmp_path / below)
    dataset = load(tmp_path)
    assert (dataset.name, dataset.num_classes) == ("cifar10", 10)
    for split, files in (dataset.train, written[:5]), (dataset.test, written[5:]):
        data = np.concatenate(files)
        assert split.inputs.shape == (len(data), 3, 32, 32)
        assert split.inputs.flags.c_contiguous
        np.testing.assert_array_equal(split.targets, data[:, 0])
        for channel, row, column in [(0, 0, 0), (1, 0, 31), (2, 31, 5), (0, 7, 9)]:
            pixel = data[:, 1 + channel * 1024 + row * 32 + column]
            np.testing.assert_array_equal(split.inputs[:, channel, row, column], pixel)


def test_of_two_labels_the_second_is_the_fine_one(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    written = {name: generator.integers(0, 100, (n, 3074), dtype=np.uint8) for name, n in (("train", 7), ("test", 4))}
    for name, data in written.items():
        (tmp_path / f"{name}.bin").write_bytes(data.tobytes())
    dataset = load_dataset(DataConfig(name="cifar100", root=str(tmp_path)), seed=0)
    assert dataset.num_classes == 100
    for split, data in (dataset.train, written["train"]), (dataset.test, written["test"]):
        np.testing.assert_array_equal(split.targets, data[:, 1])
        np.testing.assert_array_equal(np.asarray(split.inputs)[:, 2, 3, 4], data[:, 2 + 2 * 1024 + 3 * 32 + 4])
    written["test"][2, 1] = 100
    (tmp_path / "test.bin").write_bytes(written["test"].tobytes())
    with pytest.raises(DataError, match="label 100 at position 2, expected 0 to 99"):
        load_dataset(DataConfig(name="cifar100", root=str(tmp_path)), seed=0)


def test_each_channel_is_normalised_by_its_own_mean_and_deviation(tmp_path: Path) -> None:
    write(tmp_path)
    split = load(tmp_path).train
    indices = np.array([3, 0, 19])
    x, _ = split.gather(indices, split.make_buffer(4))
    assert x.dtype == np.float32
    for channel, (mean, std) in enumerate(zip(MEANS, STDS, strict=True)):
        expected = (split.inputs[indices, channel].astype(np.float64) / 255 - mean) / std
        np.testing.assert_allclose(x[:, channel], expected, atol=1e-6)


def test_the_checksum_sees_the_pixels(tmp_path: Path) -> None:
    written = write(tmp_path)
    before = load(tmp_path).checksum()
    assert load(tmp_path).checksum() == before
    written[2][1, 100] ^= 1
    (tmp_path / NAMES[2]).write_bytes(written[2].tobytes())
    assert load(tmp_path).checksum() != before


def test_not_found_names_every_place_and_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(DataError) as caught:
        load_dataset(DataConfig(name="cifar10"), seed=0)
    text = str(caught.value)
    assert text.startswith("data.name = cifar10: no data_batch_1.bin in data/cifar10, ~/.cache/ddp/cifar10")
    assert "--data.root" in text
    assert "\n" not in text
    write(tmp_path / ".cache/ddp/cifar10")
    assert len(load_dataset(DataConfig(name="cifar10"), seed=0).test) == 7


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("data_batch_3.bin", lambda path: path.unlink(), "no such file; name the folder"),
        ("test_batch.bin", lambda path: path.unlink(), "no such file; name the folder"),
        ("data_batch_1.bin", lambda path: path.write_bytes(b""), "0 bytes, expected a multiple of 3073"),
        ("data_batch_5.bin", lambda path: path.write_bytes(bytes(RECORD - 1)), "3072 bytes, expected a multiple"),
        ("test_batch.bin", lambda path: path.write_bytes(bytes(RECORD) + b"\n"), "3074 bytes, expected a multiple"),
        (
            "data_batch_2.bin",
            lambda path: path.write_bytes(bytes(RECORD) + bytes([10]) + bytes(RECORD - 1)),
            "label 10 at position 1, expected 0 to 9",
        ),
        ("data_batch_4.bin", lambda path: (path.unlink(), path.mkdir()), "data_batch_4.bin: "),
    ],
)
def test_damage_is_told_in_one_line(name: str, damage: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    write(tmp_path)
    damage(tmp_path / name)
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    assert name in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
