"""Arrays of the user's own: archives, folders of mapped files, and one clear line for each mistake."""

from __future__ import annotations

import dataclasses
import io
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddp.config import DataConfig
from ddp.data import DataError, Dataset, load_dataset
from ddp.data.augmentation import Augmentation
from ddp.data.pieces import Pieces

GENERATOR = np.random.default_rng(5)


def split_arrays(
    samples: int, shape: tuple[int, ...] = (2, 5, 4), dtype: Any = np.uint8, labels: Any = np.int32
) -> Any:
    inputs = GENERATOR.integers(0, 256, (samples, *shape)).astype(dtype)
    return inputs, np.append(GENERATOR.integers(0, 7, samples - 1), 6).astype(labels)


def arrays(train: int = 23, test: int = 6, **kind: Any) -> dict[str, Any]:
    (inputs, targets), (test_inputs, test_targets) = split_arrays(train, **kind), split_arrays(test, **kind)
    return {
        "train-inputs": inputs,
        "train-targets": targets,
        "test-inputs": test_inputs,
        "test-targets": test_targets,
    }


def save_folder(folder: Path, content: dict[str, Any], pieces: int = 1) -> Path:
    """Into files of different sizes, whose names do not say in which order they were written."""
    folder.mkdir(exist_ok=True)
    for name, array in content.items():
        for number, part in reversed(list(enumerate(np.array_split(array, pieces)))):
            np.save(folder / (f"{name}-{number:03d}.npy" if pieces > 1 else f"{name}.npy"), part)
    return folder


def load(name: str, root: Path, **fields: Any) -> Dataset:
    return load_dataset(DataConfig(name=name, root=str(root), **fields), seed=0)  # type: ignore[arg-type]


def save(name: str, folder: Path, content: dict[str, Any]) -> Path:
    if name == "npy":
        return save_folder(folder / "arrays", content)
    np.savez_compressed(folder / "arrays.npz", **content)
    return folder / "arrays.npz"


# --- What is read ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["npz", "npy"])
@pytest.mark.parametrize("labels", [np.uint8, np.int64])
def test_arrays_come_back_as_they_were_saved(name: str, labels: Any, tmp_path: Path) -> None:
    content = arrays(labels=labels)
    dataset = load(name, save(name, tmp_path, content))
    assert (dataset.name, dataset.num_classes) == (name, 7)
    for split, which in (dataset.train, "train"), (dataset.test, "test"):
        raw, indices = content[f"{which}-inputs"], np.arange(len(split))[::-1].copy()
        x, targets = split.gather(indices, split.make_buffer(len(split)))
        np.testing.assert_allclose(x, (raw[::-1].astype(np.float64) / 255 - 0.5) / 0.5, atol=1e-6)
        np.testing.assert_array_equal(targets, content[f"{which}-targets"][::-1])


@pytest.mark.parametrize("name", ["npz", "npy"])
@pytest.mark.parametrize(("shape", "seen"), [((3, 4), (1, 3, 4)), ((9,), (9, 1, 1)), ((2, 3, 4), (2, 3, 4))])
def test_images_without_channels_and_features(
    name: str, shape: tuple[int, ...], seen: tuple[int, ...], tmp_path: Path
) -> None:
    content = arrays(shape=shape, dtype=np.float32)
    train = load(name, save(name, tmp_path, content)).train
    assert train.sample_shape == seen
    x, _ = train.gather(np.array([4, 1]), train.make_buffer(2))
    np.testing.assert_array_equal(x.reshape(2, *shape), content["train-inputs"][[4, 1]])


def test_each_channel_has_its_mean_and_deviation(tmp_path: Path) -> None:
    content = arrays()
    train = load("npz", save("npz", tmp_path, content), mean=(0.1, 0.4), std=(0.3,)).train
    x, _ = train.gather(np.array([3]), train.make_buffer(1))
    for channel, mean in enumerate((0.1, 0.4)):
        expected = (content["train-inputs"][3, channel] / 255 - mean) / 0.3
        np.testing.assert_allclose(x[0, channel], expected, atol=1e-6)


@pytest.mark.parametrize("augmentation", [None, Augmentation(3, padding=1, flips=True, rotation=0.4)])
def test_pieces_are_one_array(augmentation: Augmentation | None, tmp_path: Path) -> None:
    """The same bits, whichever file a sample is in, also where its number decides what is drawn."""
    content = arrays(train=50)
    whole = load("npy", save_folder(tmp_path / "whole", content)).train
    cut = load("npy", save_folder(tmp_path / "cut", content, pieces=4)).train
    assert isinstance(cut.inputs, Pieces)
    assert len(cut.inputs.arrays) == 4
    for indices in np.random.default_rng(1).permutation(50), np.arange(13), np.zeros(0, np.int64), np.array([49, 49]):
        one, other = (split.gather(indices, split.make_buffer(60), augmentation, epoch=7) for split in (whole, cut))
        assert one[0].tobytes() == other[0].tobytes()
        assert one[1].tobytes() == other[1].tobytes()


def test_the_checksum_sees_names_sizes_and_targets_but_reads_no_inputs(tmp_path: Path) -> None:
    content = arrays(train=20)

    def checksum(name: str, content: dict[str, Any], pieces: int) -> str:
        return load("npy", save_folder(tmp_path / name, content, pieces)).checksum()

    other_targets = content | {"train-targets": content["train-targets"][::-1]}
    other_shape = {name: a.reshape(-1, 2, 4, 5) if "inputs" in name else a for name, a in content.items()}
    found = [
        checksum("a", content, 2),
        checksum("b", content, 3),
        checksum("c", other_targets, 2),
        checksum("d", other_shape, 2),
    ]
    assert len(set(found)) == 4
    assert checksum("e", content, 2) == found[0]
    other_inputs = content | {"train-inputs": 255 - content["train-inputs"]}
    assert checksum("f", other_inputs, 2) == found[0]


# --- Larger than memory ------------------------------------------------------------------------------

LIMITED = """
import resource, sys
import numpy as np
from ddp.config import DataConfig
from ddp.data import load_dataset

def status(name):
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith(name))

root, limit = sys.argv[1], int(sys.argv[2])
load_dataset(DataConfig(name="digits"), 0)  # what does not belong to the data: imports, threads
warm = load_dataset(DataConfig(name="npy", root=root), 0)
warm.train.gather(np.array([0]), warm.train.make_buffer(8))
mine = np.random.default_rng(0).permutation(len(warm.train))[:64]
data, rss = status("VmData"), status("RssFile")
resource.setrlimit(resource.RLIMIT_DATA, (data + limit, data + limit))
dataset = load_dataset(DataConfig(name="npy", root=root), 0)
dataset.checksum()
buffer = dataset.train.make_buffer(8)
for start in range(0, len(mine), 8):
    x, targets = dataset.train.gather(mine[start : start + 8], buffer)
    assert (np.rint((x[:, 0, 0, 0] + 1) * 127.5) == mine[start : start + 8] % 251).all()
    assert (targets == mine[start : start + 8] % 10).all()
print(status("RssFile") - rss)
try:
    dataset.train.inputs.arrays[0].copy()
except MemoryError:
    print("too large")
"""


def test_a_rank_touches_only_what_it_trains_on(tmp_path: Path) -> None:
    """Of 1 GiB of inputs it reads 64 images, in a process that may not allocate a tenth of that."""
    samples, shape, limit = 4096, (1, 512, 512), 96 << 20
    for name, count in (("train", samples), ("test", 4)):
        inputs = np.lib.format.open_memmap(tmp_path / f"{name}-inputs.npy", "w+", np.uint8, (count, *shape))
        inputs[:, 0, 0, 0] = np.arange(count) % 251  # the rest stays a hole, which takes no space on the disk
        del inputs
        np.save(tmp_path / f"{name}-targets.npy", np.arange(count) % 10)
        with open(tmp_path / f"{name}-inputs.npy", "rb") as file:  # out of the system's cache, which maps more at once
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    program = [sys.executable, "-c", LIMITED, str(tmp_path), str(limit)]
    run = subprocess.run(program, capture_output=True, text=True, timeout=200, check=False)
    assert run.returncode == 0, run.stderr
    touched, copy = run.stdout.splitlines()
    assert 64 << 18 < int(touched) < (64 << 18) + (2 << 20)  # their 256 KiB each, from the middle of a page
    assert copy == "too large"


def test_reading_ahead_changes_nothing_and_finds_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("os.posix_fadvise", lambda _, offset, size, __: asked.append((offset, size)))
    content = arrays(train=10)
    inputs = load("npy", save_folder(tmp_path / "cut", content, pieces=2)).train.inputs
    assert isinstance(inputs, Pieces)
    inputs.read_ahead(np.array([7, 1]))
    assert sorted(asked) == [(128 + 40, 40), (128 + 2 * 40, 40)]
    for path, offset in inputs.files:
        assert np.fromfile(path, np.uint8, offset=offset).size == 5 * 40


def test_reading_ahead_is_a_hint(tmp_path: Path) -> None:
    """A file that is gone is still mapped: an evaluation goes on."""
    content = arrays(train=10)
    folder = save_folder(tmp_path / "cut", content, pieces=2)
    split = load("npy", folder).train
    for path in folder.iterdir():
        path.unlink()
    split.read_ahead(np.array([7, 1]))
    x, _ = split.gather(np.array([7, 1]), split.make_buffer(2))
    np.testing.assert_allclose(x, content["train-inputs"][[7, 1]] / 127.5 - 1, atol=1e-6)


# --- Mistakes ----------------------------------------------------------------------------------------


def message(name: str, root: Path, **fields: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(name, root, **fields)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["npz", "npy"])
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"train-inputs": np.zeros((23, 2, 5, 4))}, "train-inputs.*inputs are <f8 of shape .*uint8 or float32"),
        ({"test-inputs": np.zeros((6, 2, 5, 4), ">f4")}, "test-inputs.*inputs are >f4"),
        ({"test-inputs": np.zeros(6, np.uint8)}, "test-inputs.*of shape .6,.; save inputs as"),
        ({"train-inputs": np.zeros((0, 2, 5, 4), np.uint8)}, "holds no samples"),
        ({"train-targets": np.zeros(22, int)}, "22 (train-)?targets"),
        ({"train-targets": np.zeros(23)}, "train-targets.*targets are <f8"),
        ({"test-targets": np.array([0, 1, 2, -1, 4, 5])}, "test-targets.*target -1 at position 3"),
        ({"test-inputs": np.zeros((6, 2, 4, 5), np.uint8)}, "train-inputs are uint8 .2, 5, 4., test-inputs uint8"),
        ({"test-targets": np.array([{}] * 6)}, "test-targets.*(Object arrays cannot be loaded)"),
    ],
)
def test_arrays_that_are_no_data_set(name: str, changes: Any, expected: str, tmp_path: Path) -> None:
    assert re.search(expected, message(name, save(name, tmp_path, arrays() | changes)))


def test_a_folder_without_the_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.root = \(empty\): no such folder; give that of train-inputs"):
        load_dataset(DataConfig(name="npy"), seed=0)
    assert "no such folder" in message("npy", tmp_path / "none")
    folder = save_folder(tmp_path / "arrays", arrays(), pieces=2)
    (folder / "train-targets-001.npy").unlink()
    assert "train-targets-001.npy: no such file" in message("npy", folder)
    for path in folder.glob("test-*"):
        path.unlink()
    (folder / "train-inputs-001.npy").unlink()
    assert "no test-inputs*.npy" in message("npy", folder)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes, expected"),
        (lambda path: path.write_bytes(path.read_bytes()[:50]), "cannot be read"),
        (lambda path: path.write_bytes(b"no array"), "cannot be read"),
        (lambda path: np.save(path, np.asfortranarray(np.load(path))), "Fortran"),
        (lambda path: np.save(path, np.load(path)[:, :1]), "those of train-inputs-000.npy"),
        (lambda path: (path.unlink(), path.mkdir()), "cannot be read"),
    ],
)
def test_a_damaged_file_is_named(damage: Callable[[Path], object], expected: str, tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "arrays", arrays(), pieces=2)
    damage(folder / "train-inputs-001.npy")
    text = message("npy", folder)
    assert "train-inputs-001.npy" in text
    assert expected in text


def test_a_damaged_archive(tmp_path: Path) -> None:
    path = save("npz", tmp_path, arrays())
    save("npz", tmp_path, {name: array for name, array in arrays().items() if name != "test-inputs"})
    assert "has no array test-inputs; save train-inputs, train-targets" in message("npz", path)
    path.write_bytes(b"no archive")
    assert "train-inputs: cannot be read" in message("npz", path)
    assert "no such file" in message("npz", tmp_path / "none.npz")


def zipped(content: bytes) -> bytes:
    """An archive as numpy.savez writes it, whose first member has this content."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("train-inputs.npy", content)
    return archive.getvalue()


def npy(header: bytes) -> bytes:
    """An `.npy` file of that header."""
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


ARCHIVE = zipped(npy(b"{'descr': '|u1', 'fortran_order': False, 'shape': (1,), }\n") + b"1")
HEADERS = {
    "an open bracket": b"{'descr': '|u1', 'fortran_order': False, 'shape': (5, 4\n",
    "keys of two kinds": b"{1: 2, 'descr': '|u1', 'fortran_order': False}\n",
    "a size beyond all": b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d,)}\n" % 10**30,
    "wrong indentation": b"  1\n 2\n3\n",
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
@pytest.mark.parametrize("file", ["train-inputs.npy", "test-targets.npy"])
def test_a_damaged_header_is_one_line(header: bytes, file: str, tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "arrays", arrays())
    (folder / file).write_bytes(npy(header))
    assert file in message("npy", folder)
    path = tmp_path / "arrays.npz"
    path.write_bytes(zipped(npy(header)))
    assert message("npz", path).startswith(f"{path}: train-inputs: cannot be read (")


@pytest.mark.parametrize("damaged", [ARCHIVE, ARCHIVE[:-30], ARCHIVE[:40]], ids=["whole", "truncated", "its beginning"])
@pytest.mark.parametrize("file", ["train-inputs.npy", "train-targets.npy"])
def test_an_archive_under_the_name_of_an_array(damaged: bytes, file: str, tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "arrays", arrays())
    (folder / file).write_bytes(damaged)
    assert message("npy", folder).startswith(f"{folder / file}: cannot be read (")


def test_an_encrypted_archive(tmp_path: Path) -> None:
    content, flags = bytearray(ARCHIVE), ARCHIVE.index(b"PK\x01\x02") + 8  # of the directory's entry
    content[flags] |= 1
    path = tmp_path / "arrays.npz"
    path.write_bytes(content)
    assert "train-inputs: cannot be read (File 'train-inputs.npy' is encrypted" in message("npz", path)


@pytest.mark.parametrize("field", ["mean", "std"])
def test_a_normalisation_of_other_channels(field: str, tmp_path: Path) -> None:
    path = save("npz", tmp_path, arrays())
    assert f"data.{field} = [0.1, 0.2, 0.3]: images have 2 channels" in message("npz", path, **{field: (0.1, 0.2, 0.3)})


def test_a_crop_that_leaves_nothing_of_an_image(tmp_path: Path) -> None:
    path = save("npz", tmp_path, arrays())
    assert "data.crop_padding = 4: images are 5 x 4 pixels; use less than 4" in message("npz", path, crop_padding=4)
    assert load("npz", path, crop_padding=3).num_classes == 7


def test_more_files_than_a_process_may_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    folder = save_folder(tmp_path / "arrays", arrays())
    monkeypatch.setattr("ddp.data.npy.map_piece", refuse)
    assert "cannot map 1 files (Too many open files); use fewer" in message("npy", folder)


def test_pieces_are_frozen(tmp_path: Path) -> None:
    inputs = load("npy", save_folder(tmp_path / "arrays", arrays())).train.inputs
    assert isinstance(inputs, Pieces)
    with pytest.raises(ValueError, match="read-only"):
        inputs.arrays[0][0] = 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        inputs.files = ()  # type: ignore[misc]
