"""Batch normalisation as a layer: shards, fused ReLUs, running statistics, state dict."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddp import nn
from ddp.kernels import reference

Array = Any
SHARDS = np.array([0, 2, 2, 5])  # one of them empty


def random(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def step(*shards: int, step: int = 0) -> nn.Draws:
    return nn.Draws(0, step, np.arange(shards[-1]), np.array(shards))


def as_rows(images: Array) -> Array:
    """A row a pixel, float64."""
    return np.moveaxis(images.astype(np.float64), 1, -1).reshape(-1, images.shape[1])


def as_images(rows: Array, shape: tuple[int, ...]) -> Array:
    batch, channels, *size = shape
    return np.moveaxis(rows.reshape(batch, *size, channels), -1, 1)


def batchnorm(channels: int, images: bool) -> nn.Layer:
    return nn.BatchNorm2d(channels) if images else nn.BatchNorm1d(channels)


def randomise(model: nn.Sequential, seed: int) -> None:
    model.parameters[:] = random(seed, model.num_parameters)


@pytest.mark.parametrize("size", [(4, 3), ()], ids=["images", "vectors"])
@pytest.mark.parametrize("relus", ["none", "behind", "before", "both"])
def test_each_shard_is_normalised_by_itself(size: tuple[int, ...], relus: str) -> None:
    shape = (5, 6, *size)
    layers: list[nn.Layer] = [batchnorm(6, bool(size))]
    if relus in ("before", "both"):
        layers.insert(0, nn.ReLU())
    if relus in ("behind", "both"):
        layers.append(nn.ReLU())
    model = nn.Sequential(*layers)
    randomise(model, 1)
    gamma, beta = (tensor.astype(np.float64) for tensor in model.parameter_dict().values())
    x, dy = random(2, *shape), random(3, *shape)
    y = model.forward(x, True, step(*SHARDS)).copy()
    dx = model.backward(dy)
    gradients = list(model.gradient_dict().values())
    expected_gradients = np.zeros((2, 6))
    for first, last in ((0, 2), (2, 5)):
        own = slice(first, last)
        a = as_rows(x[own])
        a = reference.relu_forward(a) if relus in ("before", "both") else a
        z = reference.batchnorm_forward(a, gamma, beta, 1e-5)
        d = as_rows(dy[own])
        if relus in ("behind", "both"):
            d, z = reference.relu_backward(z, d), reference.relu_forward(z)
        d_a, d_gamma, d_beta = reference.batchnorm_backward(a, d, gamma, 1e-5)
        d_x = reference.relu_backward(a, d_a) if relus in ("before", "both") else d_a
        np.testing.assert_allclose(y[own], as_images(z, x[own].shape), atol=2e-6)
        np.testing.assert_allclose(dx[own], as_images(d_x, x[own].shape), atol=1e-5)
        expected_gradients += d_gamma, d_beta
    np.testing.assert_allclose(gradients, expected_gradients, atol=1e-5)


def test_shards_matter_and_one_shard_is_the_default() -> None:
    model, x = nn.Sequential(nn.BatchNorm2d(3)), random(0, 4, 3, 2, 2)
    default = model.forward(x, True).copy()
    np.testing.assert_array_equal(model.forward(x, True, step(0, 4)), default)
    assert np.abs(model.forward(x, True, step(0, 2, 4)) - default).max() > 0.1


@given(st.lists(st.integers(0, 6), max_size=5), st.integers(0, 2**32 - 1))
def test_a_shard_has_the_same_bits_in_any_company(cuts: list[int], seed: int) -> None:
    model, shards = nn.Sequential(nn.BatchNorm1d(5), nn.ReLU(), exact=True), [0, *sorted(cuts), 6]
    model.scales[:] = 2.0**18
    x, dy = random(seed, 6, 5) + np.float32(3), random(seed + 1, 6, 5)
    y = model.forward(x, True, step(*shards)).copy()
    dx, sums = model.backward(dy).copy(), model.gradient_sums.copy()
    total = np.zeros_like(sums)
    for first, last in itertools.pairwise(shards):
        assert model.forward(x[first:last], True, step(0, last - first)).tobytes() == y[first:last].tobytes()
        assert model.backward(dy[first:last]).tobytes() == dx[first:last].tobytes()
        total += model.gradient_sums
    assert total.tobytes() == sums.tobytes()


def test_running_statistics_move_towards_the_average_over_shards_that_are_not_empty() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2))
    layer = model.layers[0]
    mean, variance = np.zeros(2), np.ones(2)
    for number in range(3):
        x = 2 * random(number, 5, 2, 3, 3) + np.float32(1)
        model.forward(x, True, step(*SHARDS))
        model.update_statistics()
        parts = [as_rows(x[:2]), as_rows(x[2:])]
        mean = 0.9 * mean + 0.1 * np.mean([part.mean(axis=0) for part in parts], axis=0)
        variance = 0.9 * variance + 0.1 * np.mean([part.var(axis=0, ddof=1) for part in parts], axis=0)
        np.testing.assert_allclose(layer.buffers()["running_mean"], mean, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(layer.buffers()["running_var"], variance, rtol=1e-6)
        assert layer.buffers()["num_batches_tracked"] == number + 1


def test_the_sum_over_ranks_is_what_updates() -> None:
    """Two ranks' sums added, as a reducer does, give what one rank with all the shards computes."""
    together, one, other = (nn.Sequential(nn.BatchNorm1d(4), exact=True) for _ in range(3))
    for model in together, one, other:
        model.scales[:] = 2.0**18
    x = random(0, 5, 4)
    together.forward(x, True, step(*SHARDS))
    together.backward(x)
    one.forward(x[:2], True, step(0, 2, 2))
    one.backward(x[:2])
    other.forward(x[2:], True, step(0, 3))
    other.backward(x[2:])
    one.gradient_sums += other.gradient_sums
    assert one.gradient_sums.tobytes() == together.gradient_sums.tobytes()
    rows = np.zeros((3, one.num_statistics), np.float32)
    one.write_statistics(rows[:2])
    other.write_statistics(rows[2:])
    one.update_statistics(rows)
    together.update_statistics()
    for name, tensor in one.state_dict().items():
        assert tensor.tobytes() == together.state_dict()[name].tobytes()


def test_a_rank_without_samples_adds_nothing_and_all_without_change_nothing() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3))
    for shards in ([0], [0, 0, 0]):
        model.gradient_sums[:] = np.nan
        empty = np.empty((0, 3, 2, 2), np.float32)
        assert model.forward(empty, True, nn.Draws(0, 0, np.arange(0), np.array(shards))).shape == empty.shape
        model.backward(empty)
        assert not model.gradient_sums.any()
        model.update_statistics()
    state = model.state_dict()
    assert (state["0.running_var"] == 1).all()
    assert state["0.num_batches_tracked"] == 0


@pytest.mark.parametrize("relu", [False, True])
def test_evaluation_uses_the_running_statistics_and_changes_nothing(relu: bool) -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), *([nn.ReLU()] if relu else []))
    randomise(model, 0)
    model.forward(random(1, 8, 3, 4, 4) + np.float32(2), True)
    model.update_statistics()
    state, x = model.state_dict(), random(2, 4, 3, 4, 4)
    gamma, beta, mean, variance, _ = (tensor.astype(np.float64) for tensor in state.values())
    expected = reference.batchnorm_inference(as_rows(x), gamma, beta, mean, variance, 1e-5)
    expected = reference.relu_forward(expected) if relu else expected
    y = model.forward(x, training=False).copy()
    np.testing.assert_allclose(y, as_images(expected, x.shape), atol=1e-5)
    assert {n: t.tobytes() for n, t in model.state_dict().items()} == {n: t.tobytes() for n, t in state.items()}
    for sample in range(4):
        np.testing.assert_array_equal(model.forward(x[sample : sample + 1], training=False)[0], y[sample])


def test_more_shards_than_before_are_taken() -> None:
    model, x = nn.Sequential(nn.BatchNorm1d(2)), random(0, 6, 2)
    for shards in ([0, 6], [0, 2, 4, 6], [0, 3, 6]):
        y = model.forward(x, True, step(*shards))
        for first, last in itertools.pairwise(shards):
            np.testing.assert_allclose(y[first:last].mean(axis=0), 0, atol=1e-6)


def test_state_dict_has_pytorchs_names_types_and_order() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    state = model.state_dict()
    names = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    assert list(state) == ["0.weight", *(f"1.{name}" for name in names), "3.weight", "3.bias"]
    assert [(state[f"1.{name}"].shape, state[f"1.{name}"].dtype.name) for name in names] == [
        *[((2,), "float32")] * 4,
        ((), "int64"),
    ]
    assert list(model.parameter_dict()) == ["0.weight", "1.weight", "1.bias", "3.weight", "3.bias"]
    assert (state["1.weight"] == 1).all()
    assert (state["1.bias"] == 0).all()
    assert model.num_parameters == 18 + 2 + 2 + 27


def test_load_state_dict_takes_buffers_and_checks_them_first() -> None:
    model, other = nn.Sequential(nn.BatchNorm2d(3)), nn.Sequential(nn.BatchNorm2d(3))
    model.forward(random(0, 4, 3, 2, 2) + np.float32(1), True)
    model.update_statistics()
    randomise(model, 5)
    state = model.state_dict()
    fresh = other.state_dict()
    for wrong in (state | {"0.running_mean": np.zeros(2)}, {k: v for k, v in state.items() if "var" not in k}):
        with pytest.raises(ValueError, match=r"0\.running_(mean has shape \(2,\)|var has shape None)"):
            other.load_state_dict(wrong)
        assert {n: t.tobytes() for n, t in other.state_dict().items()} == {n: t.tobytes() for n, t in fresh.items()}
    other.load_state_dict(state)
    assert {n: t.tobytes() for n, t in other.state_dict().items()} == {n: t.tobytes() for n, t in state.items()}


def test_a_nan_is_kept() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.ReLU())
    x = random(0, 4, 2)
    x[1, 0] = np.nan
    y = model.forward(x, True, step(0, 2, 4))
    assert np.isnan(y[:2, 0]).all()
    assert np.isfinite(y[2:]).all()
    assert np.isfinite(y[:, 1]).all()
    np.testing.assert_array_equal(np.isnan(model.forward(x, training=False)), np.isnan(x))


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (nn.BatchNorm2d(3), (2, 4, 4), r"BatchNorm2d takes images of 3 channels, got \(H, W, C\) = \(4, 4, 2\)"),
        (nn.BatchNorm2d(3), (3,), "BatchNorm2d takes images of 3 channels"),
        (nn.BatchNorm1d(3), (4,), r"BatchNorm1d takes samples of shape \(3,\), got \(4,\)"),
        (nn.BatchNorm1d(3), (3, 1, 1), "BatchNorm1d takes samples"),
    ],
)
def test_other_inputs_are_refused(layer: nn.Layer, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nn.Sequential(layer).build(shape, 2)
