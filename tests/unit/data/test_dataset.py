"""Splits, the gathering of batches, and the table of loaders."""

from __future__ import annotations

import dataclasses
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from ddp.config import DataConfig
from ddp.data import LOADERS, DataError, Dataset, Split, load_dataset
from ddp.data.dataset import standardisation
from ddp.data.pieces import Array

SCALE, SHIFT = np.float32(0.013), np.float32(-0.42)


def image_split(dtype: type = np.uint8, samples: int = 50, shape: tuple[int, ...] = (3, 4, 5)) -> Split:
    generator = np.random.default_rng(1)
    inputs: Array = generator.integers(0, 256, (samples, *shape)).astype(dtype)
    return Split(inputs, generator.integers(0, 10, samples), SCALE, SHIFT)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_gather_is_the_float64_formula(dtype: type) -> None:
    split = image_split(dtype)
    indices = np.array([7, 0, 49, 7, 23])
    x, targets = split.gather(indices, split.make_buffer(8))
    expected = split.inputs[indices].astype(np.float64) * float(SCALE) + float(SHIFT)
    assert x.dtype == np.float32
    assert x.flags.c_contiguous
    np.testing.assert_allclose(x, expected, rtol=0, atol=5e-7)
    np.testing.assert_array_equal(targets, split.targets[indices])
    assert targets.dtype == np.int64


def test_gather_of_a_regression_split() -> None:
    column = np.linspace(-1, 1, 11, dtype=np.float32)[:, None]
    split = Split(column, column**2, np.float32(1), np.float32(0))
    x, targets = split.gather(np.array([10, 3]), split.make_buffer(2))
    np.testing.assert_array_equal(x, column[[10, 3]])
    np.testing.assert_array_equal(targets, column[[10, 3]] ** 2)


def test_gather_returns_views_and_leaves_the_rest_of_the_buffer_and_the_split() -> None:
    split = image_split(np.float32)
    before = split.inputs.copy()
    buffer = split.make_buffer(4)
    buffer.inputs[:] = 99
    x, targets = split.gather(np.array([1, 2]), buffer)
    assert x.base is buffer.inputs
    assert targets.base is buffer.targets
    assert (buffer.inputs[2:] == 99).all()
    assert not (x == 99).any()
    np.testing.assert_array_equal(split.inputs, before)


def test_gather_of_no_samples_is_empty() -> None:
    split = image_split()
    x, targets = split.gather(np.empty(0, dtype=np.int64), split.make_buffer(3))
    assert x.shape == (0, 3, 4, 5)
    assert targets.shape == (0,)


@pytest.mark.parametrize("indices", [[50], [-1], [0, 1, 2, 3]])
def test_gather_asserts_indices_and_capacity(indices: list[int]) -> None:
    split = image_split()
    buffer = split.make_buffer(3)
    with pytest.raises(AssertionError):
        split.gather(np.array(indices), buffer)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_gather_allocates_nothing_of_batch_size(dtype: type) -> None:
    split = image_split(dtype, samples=2000, shape=(1, 16, 16))
    buffer, indices = split.make_buffer(1000), np.arange(1000)[::-1].copy()
    split.gather(indices, buffer)
    tracemalloc.start()
    split.gather(indices, buffer)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2000  # the batch is 256,000 bytes raw, its labels and indices 8,000 each


def test_arrays_of_a_split_are_read_only() -> None:
    split = image_split()
    for array in (split.inputs, split.targets):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_standardisation_is_the_textbook_formula() -> None:
    scale, shift = standardisation(255, 0.1307, 0.3081)
    raw = np.arange(256, dtype=np.float64)
    np.testing.assert_allclose(raw * scale + shift, (raw / 255 - 0.1307) / 0.3081, atol=1e-6)


def changed(split: Split, **arrays: object) -> Split:
    return dataclasses.replace(split, **arrays)  # type: ignore[arg-type]


def test_checksum_sees_every_part() -> None:
    split = image_split()
    inputs, targets = split.inputs.copy(), split.targets.copy()
    inputs[-1, -1, -1, -1] ^= 1
    targets[-1] += 1
    datasets = [
        Dataset("a", split, split, 10),
        Dataset("a", changed(split, inputs=inputs), split, 10),
        Dataset("a", split, changed(split, targets=targets), 10),
        Dataset("a", split, changed(split, scale=np.float32(0.014)), 10),
        Dataset("a", split, changed(split, shift=np.float32(-0.43)), 10),
        Dataset("a", split, changed(split, inputs=split.inputs.reshape(50, 3, 5, 4)), 10),
        Dataset("a", changed(split, inputs=inputs), changed(split, inputs=inputs), 10),
    ]
    assert len({dataset.checksum() for dataset in datasets}) == len(datasets)
    assert datasets[0].checksum() == Dataset("a", image_split(), image_split(), 10).checksum()
    assert len(datasets[0].checksum()) == 64


@pytest.mark.parametrize("name", ["digits", "synthetic", "polynomial"])
def test_every_decoded_array_goes_through_share(name: str) -> None:
    shared: list[Array] = []

    def share(load: Callable[[], Array]) -> Array:
        shared.append(load())
        shared[-1].flags.writeable = False
        return shared[-1]

    config = DataConfig(name=name, samples=20)  # type: ignore[arg-type]
    dataset = load_dataset(config, seed=3, share=share)
    assert len(shared) == 4
    for split in (dataset.train, dataset.test):
        for array in (split.inputs, split.targets):
            assert any(np.shares_memory(array, original) for original in shared)
    assert dataset.checksum() == load_dataset(config, seed=3).checksum()


@pytest.mark.parametrize("name", LOADERS)
def test_loaders_cover_the_names_of_the_configuration(name: str) -> None:
    assert name in DataConfig.__annotations__["name"]


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(DataError, match=r"data\.name = cifar: .* digits, mnist"):
        load_dataset(DataConfig(name="cifar"), seed=0)  # type: ignore[arg-type]
