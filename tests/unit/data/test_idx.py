"""The IDX reader: round trips, memory maps, and one clear line for each kind of damage."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ddp.config import DataConfig
from ddp.data import DataError, load_dataset, unshared
from ddp.data.idx import encode_idx, find_idx, read_images, read_labels
from ddp.data.pieces import Array

NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def idx_bytes(array: np.ndarray) -> bytes:
    """The format from its description, apart from the code under test."""
    header = struct.pack(">HBB", 0, 8, array.ndim) + b"".join(struct.pack(">I", n) for n in array.shape)
    return header + bytes(array.astype(np.uint8).ravel().tolist())


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_dataset(folder: Path, suffix: str = "", shape: tuple[int, ...] = (4, 5)) -> list[np.ndarray]:
    generator = np.random.default_rng(2)
    arrays = []
    for name, size in zip(NAMES, (12, 12, 6, 6), strict=True):
        is_images = "images" in name
        array = generator.integers(0, 256 if is_images else 10, (size, *shape) if is_images else size)
        arrays.append(array)
        write(folder / (name + suffix), idx_bytes(array))
    return arrays


def load(folder: Path) -> object:
    return load_dataset(DataConfig(name="mnist", root=str(folder)), seed=0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_dataset(tmp_path)
    return tmp_path


def message(run: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        run()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 5)])
def test_a_data_set_is_read_as_written(tmp_path: Path, suffix: str, shape: tuple[int, ...]) -> None:
    images, labels, test_images, test_labels = write_dataset(tmp_path, suffix, shape)
    dataset = load_dataset(DataConfig(name="mnist", root=str(tmp_path)), seed=0)
    assert dataset.train.inputs.shape == (12, *((1, 4, 5) if len(shape) == 2 else shape))
    np.testing.assert_array_equal(dataset.train.inputs.reshape(images.shape), images)
    np.testing.assert_array_equal(dataset.test.inputs.reshape(test_images.shape), test_images)
    np.testing.assert_array_equal(dataset.train.targets, labels)
    np.testing.assert_array_equal(dataset.test.targets, test_labels)
    assert dataset.train.targets.dtype == np.int64
    assert dataset.num_classes == 10


@settings(deadline=None, max_examples=25)
@given(npst.arrays(np.uint8, st.one_of(*(npst.array_shapes(min_dims=d, max_dims=d) for d in (1, 3, 4)))))
def test_encode_idx_follows_the_description(array: np.ndarray) -> None:
    assert encode_idx(array) == idx_bytes(array)


def test_the_files_may_be_spelt_with_a_dot(tmp_path: Path) -> None:
    path = write(tmp_path / "train-images.idx3-ubyte.gz", b"")
    assert find_idx(tmp_path, "train-images-idx3-ubyte") == path


def test_the_plain_file_comes_before_the_compressed(tmp_path: Path) -> None:
    for suffix in ("", ".gz"):
        write(tmp_path / f"train-images-idx3-ubyte{suffix}", b"")
    assert find_idx(tmp_path, "train-images-idx3-ubyte") == tmp_path / "train-images-idx3-ubyte"


def refuse(load: Callable[[], Array]) -> Array:
    raise AssertionError("decoded")


def test_plain_images_are_mapped_and_compressed_ones_shared(folder: Path) -> None:
    plain = folder / "train-images-idx3-ubyte"
    images = read_images(plain, refuse)
    assert isinstance(images, np.memmap)
    assert images.mode == "r"
    compressed = write(folder / "train-images-idx3-ubyte.gz", plain.read_bytes())
    with pytest.raises(AssertionError, match="decoded"):
        read_images(compressed, refuse)


def test_a_map_survives_in_the_data_set(folder: Path) -> None:
    dataset = load_dataset(DataConfig(name="mnist", root=str(folder)), seed=0)
    assert isinstance(dataset.train.inputs, np.memmap)
    x, _ = dataset.train.gather(np.array([3]), dataset.train.make_buffer(1))
    expected = (dataset.train.inputs[3].astype(np.float64) / 255 - 0.1307) / 0.3081
    np.testing.assert_allclose(x[0], expected, atol=1e-6)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "IDX magic number is missing, expected 00 00 08 03 or 00 00 08 04"),
        (b"\x89PNG\r\n", "IDX magic number is 89 50 4e 47"),
        (b"\x00\x00\x0d\x03" + bytes(12), "IDX magic number is 00 00 0d 03"),
        (idx_bytes(np.zeros(5)), "IDX magic number is 00 00 08 01"),
        (idx_bytes(np.zeros((2, 3, 4)))[:9], "truncated, expected a header of 16 bytes, found 9"),
        (
            idx_bytes(np.zeros((2, 3, 4)))[:-1],
            "truncated, expected 40 bytes for shape (2, 3, 4), found 39",
        ),
        (
            idx_bytes(np.zeros((2, 3, 4))) + b"\n",
            "too long, expected 40 bytes for shape (2, 3, 4), found 41",
        ),
        (struct.pack(">4B4I", 0, 0, 8, 4, *[2**32 - 1] * 4), "truncated"),
        (idx_bytes(np.zeros((0, 3, 4))), "holds no samples, its shape is (0, 3, 4)"),
    ],
)
def test_damaged_images_are_named(tmp_path: Path, suffix: str, data: bytes, words: str) -> None:
    path = write(tmp_path / f"images{suffix}", data)
    text = message(lambda: read_images(path, unshared))
    assert text.startswith(f"{path}: {words}")


def test_images_in_place_of_labels_are_refused(folder: Path) -> None:
    text = message(lambda: read_labels(folder / "train-images-idx3-ubyte", unshared))
    assert "magic number is 00 00 08 03, expected 00 00 08 01;" in text


def test_a_label_out_of_range_is_shown_with_its_position(tmp_path: Path) -> None:
    path = write(tmp_path / "labels", idx_bytes(np.array([0, 9, 10, 255])))
    assert "label 10 at position 2, expected 0 to 9" in message(lambda: read_labels(path, unshared))


def test_labels_are_checked_inside_the_shared_load(tmp_path: Path) -> None:
    path = write(tmp_path / "labels", idx_bytes(np.array([10])))
    placeholder = np.zeros(1, dtype=np.int64)
    assert read_labels(path, lambda load: placeholder) is placeholder


def damaged_gzip() -> list[bytes]:
    good = gzip.compress(idx_bytes(np.arange(60).reshape(3, 4, 5)), mtime=0)
    flipped = bytearray(good)
    flipped[-8] ^= 1  # the checksum
    return [b"not gzip", b"", good[: len(good) // 2], bytes(flipped), good[:12] + b"\xff" * 8 + good[20:]]


@pytest.mark.parametrize("data", damaged_gzip())
def test_gzip_damage_is_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(data)
    text = message(lambda: read_images(path, unshared))
    assert text.startswith(f"{path}: ")
    assert ("magic number is missing" if data == b"" else "damaged gzip file") in text


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"images{suffix}"
    path.mkdir()
    assert f"{path}: cannot be read (Is a directory)" in message(lambda: read_images(path, unshared))


def test_lengths_of_images_and_labels_must_agree(folder: Path) -> None:
    write(folder / "train-labels-idx1-ubyte", idx_bytes(np.zeros(11)))
    text = message(lambda: load(folder))
    assert "train-images-idx3-ubyte: 12 images, but" in text
    assert "train-labels-idx1-ubyte has 11 labels" in text


def test_shapes_of_training_and_test_images_must_agree(folder: Path) -> None:
    write(folder / "t10k-images-idx3-ubyte", idx_bytes(np.zeros((6, 5, 4))))
    assert "training images are (1, 4, 5), test images (1, 5, 4)" in message(lambda: load(folder))


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named_with_the_fix(folder: Path, name: str) -> None:
    (folder / name).unlink()
    text = message(lambda: load(folder))
    assert text.startswith(f"{folder / name}: no such file, nor with .gz; ")
    assert "--data.root" in text


def test_a_missing_folder_is_named_with_the_fix(tmp_path: Path) -> None:
    text = message(lambda: load(tmp_path / "nowhere"))
    assert text.startswith(f"{tmp_path / 'nowhere'}: no such folder, ")
    assert "--data.root" in text


def test_an_empty_folder_is_named_with_the_fix(tmp_path: Path) -> None:
    text = message(lambda: load(tmp_path))
    assert text.startswith(f"{tmp_path / NAMES[0]}: no such file")
    assert "--data.root" in text
