"""Every layer, through the network's public surface, against the float64 reference.

A sum of n products in float32, in any order, is off by at most about n u sum |a| |b| with u = 2**-24
(Higham, "Accuracy and Stability of Numerical Algorithms", section 3.1); the reference evaluated on
absolute values is that sum. Layers that only choose or copy must be exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddp import nn
from ddp.kernels import reference
from ddp.rng import Purpose, random_words

U = 2.0**-24
BATCHES = st.sampled_from([1, 2, 5])
SIZES = st.sampled_from([1, 2, 3, 7, 16, 17, 33])
SEEDS = st.integers(0, 2**32 - 1)

Array = Any


def random(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def passes(model: nn.Sequential, x: Array, seed: int) -> tuple[Array, Array, Array, dict[str, Array]]:
    """A forward and a backward pass: dy, y, dx and the parameters' gradients; checks shapes and types."""
    y = model.forward(x, training=True)
    assert (y.dtype, y.flags.c_contiguous) == (np.float32, True)
    y = y.copy()
    dy = random(seed, *y.shape)
    dx = model.backward(dy)
    assert (dx.shape, dx.dtype, dx.flags.c_contiguous) == (x.shape, np.float32, True)
    return dy, y, dx.copy(), model.gradient_dict()


def f64(*arrays: Array) -> list[Array]:
    return [np.asarray(a, np.float64) for a in arrays]


def assert_close(found: Array, expected: Array, length: float, magnitude: Array) -> None:
    """Each element within the rounding of a sum of `length` products whose absolute values sum to `magnitude`."""
    assert found.shape == expected.shape
    assert np.all(np.abs(found - expected) <= (length + 1) * U * magnitude + 1e-37)


@given(BATCHES, SIZES, SIZES, st.booleans(), SEEDS)
def test_linear(batch: int, inputs: int, outputs: int, bias: bool, seed: int) -> None:
    model = nn.Sequential(nn.Linear(inputs, outputs, bias), seed=seed)
    x = random(seed, batch, inputs)
    dy, y, dx, gradients = passes(model, x, seed + 1)
    state = model.state_dict()

    def equations(x: Array, w: Array, b: Array, dy: Array) -> list[Array]:
        return [
            reference.linear_forward(x, w, b),
            reference.linear_backward_input(dy, w),
            reference.linear_backward_weight(x, dy),
            reference.linear_backward_bias(dy),
        ]

    arguments = f64(x, state["0.weight"], state.get("0.bias", np.zeros(outputs)), dy)
    expected, magnitude = equations(*arguments), equations(*map(np.abs, arguments))
    found = [y, dx, *gradients.values()]
    assert list(gradients) == (["0.weight", "0.bias"] if bias else ["0.weight"])
    for a, e, m, n in zip(found, expected, magnitude, (inputs + 1, outputs, batch, batch), strict=False):
        assert_close(a, e, n, m)


@given(
    st.tuples(BATCHES, st.sampled_from([1, 2, 3, 8, 17]), st.sampled_from([1, 3, 16, 20])),
    st.sampled_from([(1, 0), (2, 0), (3, 0), (3, 1), (5, 2), (2, 1)]),
    st.tuples(st.integers(0, 4), st.integers(0, 4)),
    st.booleans(),
    SEEDS,
)
def test_conv2d(
    sizes: tuple[int, int, int], kernel: tuple[int, int], more: tuple[int, int], bias: bool, seed: int
) -> None:
    (batch, ic, oc), (k, padding) = sizes, kernel
    height, width = (max(1, k - 2 * padding) + extra for extra in more)
    model = nn.Sequential(nn.Conv2d(ic, oc, k, padding, bias, "direct"), seed=seed)
    x = random(seed, batch, ic, height, width)
    dy, y, dx, gradients = passes(model, x, seed + 1)
    oh, ow = height + 2 * padding - k + 1, width + 2 * padding - k + 1
    assert y.shape == (batch, oc, oh, ow)
    state = model.state_dict()

    def equations(x: Array, w: Array, b: Array, dy: Array) -> list[Array]:
        return [
            reference.conv2d_forward(x, w, b, padding),
            reference.conv2d_backward_input(dy, w, padding, (height, width)),
            reference.conv2d_backward_weight(x, dy, k, padding),
            reference.conv2d_backward_bias(dy),
        ]

    arguments = f64(x, state["0.weight"], state.get("0.bias", np.zeros(oc)), dy)
    expected, magnitude = equations(*arguments), equations(*map(np.abs, arguments))
    pixels = batch * oh * ow
    found = [y, dx, *gradients.values()]
    assert list(gradients) == (["0.weight", "0.bias"] if bias else ["0.weight"])
    for a, e, m, n in zip(found, expected, magnitude, (ic * k * k + 1, oc * k * k, pixels, pixels), strict=False):
        assert_close(a, e, n, m)


@pytest.mark.parametrize("image", [(12, 13), (2, 3), (3, 2)])  # 4x4 outputs of a patch, and 2x2
@pytest.mark.parametrize("padding", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_conv2d_by_winograd_is_conv2d(image: tuple[int, int], padding: int, bias: bool) -> None:
    """With the ReLUs around it, whose work it does; the rounding itself is bounded in kernels/test_winograd.py."""
    x, results = random(1, 5, 17, *image), {}
    for method in "direct", "winograd":
        layers = nn.Conv2d(17, 9, 1), nn.ReLU(), nn.Conv2d(9, 33, 3, padding, bias, method), nn.ReLU()
        model = nn.Sequential(*layers, nn.Conv2d(33, 2, 1), seed=2)
        _, y, dx, gradients = passes(model, x, 3)
        results[method] = [y, dx, *gradients.values()]
        assert (layers[2].patch > 0) == (method == "winograd")
    for direct, by_winograd in zip(*results.values(), strict=True):
        assert np.abs(direct - by_winograd).max() <= 1e-5 * np.abs(direct).max()
    assert any(not np.array_equal(*pair) for pair in zip(*results.values(), strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, "fft"), "Conv2d has no method 'fft': use one of auto, direct, winograd"),
        ((5, "winograd"), "Conv2d's method winograd needs kernel_size 3, got 5: use direct or auto"),
    ],
)
def test_conv2d_says_which_methods_there_are(arguments: tuple[int, str], message: str) -> None:
    kernel_size, method = arguments
    with pytest.raises(ValueError, match="^" + message + "$"):
        nn.Conv2d(1, 1, kernel_size, method=method)


@given(st.sampled_from([(3, 7), (1, 1), (2, 3, 4, 5), (3, 1, 2, 2)]), SEEDS)
def test_relu(shape: tuple[int, ...], seed: int) -> None:
    x = random(seed, *shape)
    x.reshape(-1)[0] = 0
    dy, y, dx, _ = passes(nn.Sequential(nn.ReLU()), x, seed + 1)
    np.testing.assert_array_equal(y, reference.relu_forward(*f64(x)))
    np.testing.assert_array_equal(dx, reference.relu_backward(*f64(y, dy)))
    assert dx.reshape(-1)[0] == 0


@given(BATCHES, st.sampled_from([1, 3, 17]), st.integers(1, 4), st.integers(0, 5), st.integers(0, 5), SEEDS)
def test_max_pool2d(batch: int, channels: int, k: int, more_h: int, more_w: int, seed: int) -> None:
    x = random(seed, batch, channels, k + more_h, k + more_w)
    dy, y, dx, _ = passes(nn.Sequential(nn.MaxPool2d(k)), x, seed + 1)
    expected, argmax = reference.max_pool2d_forward(*f64(x), k)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(dx, reference.max_pool2d_backward(*f64(dy), argmax, k, x.shape[2:]))


@pytest.mark.parametrize("k", [2, 3, 16])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_relu_around_a_max_pooling(k: int, is_first: bool) -> None:
    """The pooling does its work, but for the window whose positions fill all of 8 bits."""
    x = random(k, 3, 5, 2 * k + 1, k)
    x[0] -= 10  # windows without a positive element
    layers = (nn.ReLU(), nn.MaxPool2d(k)) if is_first else (nn.MaxPool2d(k), nn.ReLU())
    dy, y, dx, _ = passes(nn.Sequential(*layers), x, k + 1)
    largest, argmax = reference.max_pool2d_forward(*f64(x), k)
    np.testing.assert_array_equal(y, reference.relu_forward(largest))
    dlargest = reference.relu_backward(largest, *f64(dy))
    np.testing.assert_array_equal(dx, reference.max_pool2d_backward(dlargest, argmax, k, x.shape[2:]))
    assert not dx[0].any()


@given(BATCHES, st.sampled_from([(3, 4, 5), (1, 3, 2), (6, 1, 1), (17, 2, 3), (7,)]), st.booleans(), SEEDS)
def test_flatten_is_in_pytorchs_order(batch: int, shape: tuple[int, ...], is_first: bool, seed: int) -> None:
    x = random(seed, batch, *shape)
    before = () if is_first or len(shape) == 1 else (nn.MaxPool2d(1),)
    dy, y, dx, _ = passes(nn.Sequential(*before, nn.Flatten()), x, seed + 1)
    np.testing.assert_array_equal(y, x.reshape(batch, -1))
    np.testing.assert_array_equal(dx, dy.reshape(x.shape))


@given(BATCHES, st.integers(0, 5), SEEDS)
def test_powers(batch: int, degree: int, seed: int) -> None:
    x = np.clip(random(seed, batch, 1), -2, 2)
    dy, y, dx, _ = passes(nn.Sequential(nn.Powers(degree)), x, seed + 1)
    expected = reference.powers_forward(*f64(x), degree)
    assert_close(y, expected, degree, np.abs(expected))
    magnitude = reference.powers_backward(*map(np.abs, f64(x, dy)))
    assert_close(dx, reference.powers_backward(*f64(x, dy)), 2 * degree + 2, magnitude)


def draws(step: int, samples: Sequence[int], seed: int = 11) -> nn.Draws:
    return nn.Draws(seed, step, np.array(samples, np.int64))


@pytest.mark.parametrize("shape", [(40,), (3, 4, 5)])
@pytest.mark.parametrize("p", [0.25, 0.5, 0.9])
def test_dropout_masks_forward_and_backward_alike(shape: tuple[int, ...], p: float) -> None:
    model = nn.Sequential(nn.Dropout(p))
    ones = np.ones((4, *shape), np.float32)
    y = model.forward(ones, True, draws(3, [7, 0, 2, 900])).copy()
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / (1 - p))}
    np.testing.assert_array_equal(model.backward(ones), y)


def test_dropout_draws_by_seed_step_layer_sample_and_element() -> None:
    model = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.25), nn.Linear(8, 8), nn.Dropout(0.5))
    x, samples = np.ones((3, 2), np.float32), [4, 1, 70_000]
    model.forward(x, True, draws(9, samples))
    for layer, p in ((1, 0.25), (3, 0.5)):
        kept = random_words(11, Purpose.DROPOUT, layer, 9, samples, 8) >= round(p * 2**32)
        np.testing.assert_array_equal(model.layers[layer].y[:3] != 0, kept)


@pytest.mark.parametrize("shape", [(40,), (3, 4, 5)])
def test_a_samples_mask_is_the_same_in_every_batch(shape: tuple[int, ...]) -> None:
    model = nn.Sequential(nn.Dropout(0.5))
    ones = np.ones((3, *shape), np.float32)
    together = model.forward(ones, True, draws(2, [5, 9, 1])).copy()
    for position, sample in enumerate([5, 9, 1]):
        np.testing.assert_array_equal(model.forward(ones[:1], True, draws(2, [sample]))[0], together[position])
    assert not np.array_equal(together[0], together[1])


def test_masks_of_other_steps_layers_and_seeds_differ() -> None:
    model = nn.Sequential(nn.Dropout(0.5))
    deeper = nn.Sequential(nn.Flatten(), nn.Dropout(0.5))
    ones = np.ones((1, 200), np.float32)
    masks = [
        model.forward(ones, True, draws(2, [5])).tobytes(),
        model.forward(ones, True, draws(3, [5])).tobytes(),
        model.forward(ones, True, draws(2, [6])).tobytes(),
        model.forward(ones, True, draws(2, [5], seed=12)).tobytes(),
        deeper.forward(ones, True, draws(2, [5])).tobytes(),
    ]
    assert len(set(masks)) == len(masks)
    assert model.forward(ones, True, draws(2, [5])).tobytes() == masks[0]


@pytest.mark.parametrize(("p", "training"), [(0.5, False), (0.0, True)])
def test_dropout_is_the_identity_in_evaluation_and_at_p_0(p: float, training: bool) -> None:
    model = nn.Sequential(nn.Dropout(p))
    x, dy = random(0, 4, 30), random(1, 4, 30)
    np.testing.assert_array_equal(model.forward(x, training), x)
    np.testing.assert_array_equal(model.backward(dy), dy)


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5])
def test_dropout_refuses_what_is_no_probability(p: float) -> None:
    with pytest.raises(ValueError, match=rf"p = {p}"):
        nn.Dropout(p)


@pytest.mark.parametrize("kernel_size", [0, -1, 17])
def test_max_pool2d_refuses_windows_it_cannot_count(kernel_size: int) -> None:
    with pytest.raises(ValueError, match=f"kernel_size = {kernel_size}"):
        nn.MaxPool2d(kernel_size)
