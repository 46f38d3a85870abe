"""The generated data sets: deterministic, a function of each sample's index, and learnable."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddp.config import DataConfig
from ddp.data import DataError, Dataset, load_dataset, synthetic, unshared
from ddp.data.polynomial import make_polynomial
from ddp.data.synthetic import make_synthetic


def images(samples: int = 200, seed: int = 0, classes: int = 4, shape: tuple[int, int, int] = (3, 7, 5)) -> Dataset:
    return make_synthetic(shape, samples, classes, seed, unshared)


def points(
    coefficients: tuple[float, ...] = (1.0, -2.0, 3.0), samples: int = 500, noise: float = 0.1, seed: int = 0
) -> Dataset:
    return make_polynomial(coefficients, samples, noise, seed, unshared)


@settings(deadline=None, max_examples=25)
@given(shape=st.tuples(*[st.integers(1, 6)] * 3), samples=st.integers(1, 40), classes=st.integers(2, 12))
def test_images_have_the_asked_sizes_and_balanced_labels(
    shape: tuple[int, int, int], samples: int, classes: int
) -> None:
    dataset = images(samples, classes=classes, shape=shape)
    assert dataset.train.inputs.shape == (samples, *shape)
    assert dataset.test.inputs.shape == (samples // 5 + 1, *shape)
    assert dataset.train.inputs.dtype == np.uint8
    counts = np.bincount(dataset.train.targets, minlength=classes)
    assert len(counts) == classes
    assert np.ptp(counts) <= 1
    assert dataset.num_classes == classes


@pytest.mark.parametrize("make", [images, points])
def test_the_seed_alone_decides(make: Any) -> None:
    assert make(seed=5).checksum() == make(seed=5).checksum()
    assert make(seed=5).checksum() != make(seed=6).checksum()


@pytest.mark.parametrize("make", [images, points])
def test_a_sample_does_not_depend_on_the_number_of_samples(make: Any) -> None:
    few, many = make(samples=20), make(samples=203)
    for split in ("train", "test"):
        short, long = getattr(few, split), getattr(many, split)
        np.testing.assert_array_equal(short.inputs, long.inputs[: len(short)])
        np.testing.assert_array_equal(short.targets, long.targets[: len(short)])


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = images().checksum()
    monkeypatch.setattr(synthetic, "CHUNK_BYTES", 3 * 105 + 1)
    assert images().checksum() == whole


@pytest.mark.parametrize("make", [images, points])
def test_training_and_test_samples_differ(make: Any) -> None:
    dataset = make()
    train = {sample.tobytes() for sample in dataset.train.inputs}
    assert len(train) == len(dataset.train)
    assert not train & {sample.tobytes() for sample in dataset.test.inputs}


def test_normalised_images_have_mean_0_and_deviation_1() -> None:
    train = images(samples=1000, classes=500, shape=(1, 16, 16)).train
    x, _ = train.gather(np.arange(1000), train.make_buffer(1000))
    assert abs(x.mean(dtype=np.float64)) < 0.02
    assert abs(x.std(dtype=np.float64) - 1) < 0.02
    assert train.inputs.min() < 10
    assert train.inputs.max() > 244


def test_class_means_of_the_training_images_recognise_the_test_images() -> None:
    dataset = images(samples=200, classes=10, shape=(1, 10, 10))
    train = dataset.train.inputs.reshape(200, -1).astype(np.float64)
    means = np.stack([train[dataset.train.targets == c].mean(0) for c in range(10)])
    test = dataset.test.inputs.reshape(len(dataset.test), -1)
    predicted = ((test[:, None] - means) ** 2).sum(2).argmin(1)
    np.testing.assert_array_equal(predicted, dataset.test.targets)


def test_points_without_noise_lie_on_the_polynomial() -> None:
    train = points((0.5, -2.0, 0.0, 4.0), noise=0.0).train
    x = train.inputs.astype(np.float64)
    assert train.inputs.shape == train.targets.shape == (500, 1)
    assert train.inputs.dtype == train.targets.dtype == np.float32
    np.testing.assert_allclose(train.targets, 0.5 - 2.0 * x + 4.0 * x**3, atol=1e-6)
    assert (train.scale, train.shift) == (1, 0)


def test_inputs_are_uniform_and_noise_is_normal() -> None:
    train = points((3.0,), samples=20_000, noise=0.2).train
    x, noise = train.inputs.ravel().astype(np.float64), train.targets.ravel() - 3.0
    counts = np.histogram(x, bins=10, range=(-1, 1))[0]
    assert counts.sum() == 20_000
    np.testing.assert_allclose(counts, 2000, atol=5 * np.sqrt(2000))
    assert abs(noise.mean()) < 5 * 0.2 / np.sqrt(20_000)
    assert noise.std() == pytest.approx(0.2, rel=0.03)
    assert (np.abs(noise) < 0.2).mean() == pytest.approx(0.6827, abs=0.02)
    for power in (1, 2):  # the square shows the radius of Box and Muller's transform
        assert abs(np.corrcoef(x, noise**power)[0, 1]) < 5 / np.sqrt(20_000)


def test_least_squares_finds_the_coefficients() -> None:
    train = points((1.0, -2.0, 3.0), samples=2000, noise=0.1).train
    found = np.polynomial.polynomial.polyfit(train.inputs.ravel(), train.targets.ravel(), 2)
    np.testing.assert_allclose(found, [1.0, -2.0, 3.0], atol=0.05)


@pytest.mark.parametrize(("samples", "test_samples"), [(1, 1), (5, 1), (12, 2)])
def test_the_test_split_of_points_has_a_fifth(samples: int, test_samples: int) -> None:
    dataset = points(samples=samples)
    assert (len(dataset.train), len(dataset.test)) == (samples, test_samples)
    assert dataset.num_classes == 0


def test_the_configuration_reaches_the_generators() -> None:
    config = DataConfig(name="synthetic", shape=(2, 3, 4), samples=9, classes=3)
    assert load_dataset(config, 8).checksum() == images(9, 8, 3, (2, 3, 4)).checksum()
    config = DataConfig(name="polynomial", coefficients=(1.0, 2.0), samples=9, noise=0.3)
    assert load_dataset(config, 8).checksum() == points((1.0, 2.0), 9, 0.3, 8).checksum()


@pytest.mark.parametrize(
    ("make", "wrong", "field"),
    [
        (images, {"samples": 0}, r"data\.samples = 0:"),
        (images, {"classes": 1}, r"data\.classes = 1:"),
        (images, {"shape": (3, 0, 5)}, r"data\.shape = \[3, 0, 5\]:"),
        (images, {"shape": (3, 5)}, r"data\.shape = \[3, 5\]:"),
        (points, {"samples": -1}, r"data\.samples = -1:"),
        (points, {"coefficients": ()}, r"data\.coefficients = \[\]:"),
        (points, {"coefficients": (1.0, np.inf)}, r"data\.coefficients = \[1\.0, inf\]:"),
        (points, {"noise": -0.5}, r"data\.noise = -0\.5:"),
        (points, {"noise": np.nan}, r"data\.noise = nan:"),
    ],
)
def test_a_wrong_field_is_named(make: Any, wrong: dict[str, Any], field: str) -> None:
    with pytest.raises(DataError, match=field):
        make(**wrong)
