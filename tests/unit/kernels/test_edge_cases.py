"""What the shapes and values drawn at random seldom meet: kinks, ties, infinities, NaNs."""

from __future__ import annotations

import numpy as np
import pytest

from ddp.kernels import conv2d, dropout, flatten, linear, panel, pool, relu, softmax


def array(*values):
    return np.array(values, dtype=np.float32)


def test_relu_derivative_at_zero_is_zero():
    y, dx = np.empty(4, np.float32), np.empty(4, np.float32)
    relu.relu_forward(array(-1, -0.0, 0, 1e-40), y)
    relu.relu_backward(y, array(5, 6, 7, 8), dx)
    assert dx.tolist() == [0, 0, 0, 8]


def test_relu_keeps_nan():
    # Long enough for vectorised and remaining elements.
    x, y = np.full(67, np.nan, np.float32), np.zeros(67, np.float32)
    relu.relu_forward(x, y)
    assert np.isnan(y).all()


def test_dropout_keeps_nan():
    x, y = np.full((3, 33), np.nan, np.float32), np.zeros((3, 33), np.float32)
    dropout.dropout(x, 1, 2, 3, np.arange(3), 0.5, y)
    assert np.isnan(y).all()


def test_dropout_with_probability_zero_is_the_identity():
    x = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    y = np.full_like(x, np.nan)
    dropout.dropout(x, 1, 2, 3, np.arange(5), 0.0, y)
    assert np.array_equal(x, y)


def test_dropout_takes_any_seed_modulo_64_bits():
    x = np.ones((3, 50), np.float32)
    masks = [np.empty_like(x) for _ in range(4)]
    for seed, y in zip((1, -1, 2**64 - 1, 2**63), masks, strict=True):
        dropout.dropout(x, seed, 2, 3, np.arange(3), 0.5, y)
    assert np.array_equal(masks[1], masks[2])
    assert not np.array_equal(masks[0], masks[1])
    assert not np.array_equal(masks[1], masks[3])


def test_dropout_in_place_equals_out_of_place():
    x = np.random.default_rng(0).standard_normal((5, 18)).astype(np.float32)
    y = np.empty_like(x)
    dropout.dropout(x, 1, 2, 3, np.arange(5), 0.5, y)
    dropout.dropout(x, 1, 2, 3, np.arange(5), 0.5, x)
    assert np.array_equal(x, y)


@pytest.mark.parametrize(
    ("window", "place"),
    [
        ([1, 1, 1, 1], 0),
        ([0, 2, 2, 1], 1),
        ([0, 0, 3, 3], 2),
        ([-np.inf] * 4, 0),
        ([1, np.inf, 0, np.inf], 1),
    ],
)
def test_first_of_equal_maxima_wins(window, place):
    x = np.repeat(array(*window).reshape(1, 2, 2, 1), 19, axis=3)
    y, argmax = np.empty((1, 1, 1, 19), np.float32), np.empty((1, 1, 1, 19), np.uint8)
    pool.max_pool2d_forward(x, 2, False, y, argmax)
    assert (y == max(window)).all()
    assert (argmax == place).all()


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("place", range(4))
def test_pooling_keeps_nan(place, relu):
    x = np.full((1, 4, 19), 7, np.float32)
    x[0, place] = np.nan
    y, argmax = np.zeros((1, 1, 1, 19), np.float32), np.empty((1, 1, 1, 19), np.uint8)
    pool.max_pool2d_forward(x.reshape(1, 2, 2, 19), 2, relu, y, argmax)
    assert np.isnan(y).all()
    assert (argmax == (pool.NOWHERE if relu else place)).all()


def test_pooling_gradient_is_zero_outside_whole_windows():
    dx = np.full((1, 3, 3, 2), np.nan, np.float32)
    dy, argmax = np.ones((1, 1, 1, 2), np.float32), np.full((1, 1, 1, 2), 3, np.uint8)
    pool.max_pool2d_backward(dy, argmax, 2, dx)
    assert dx[0, 1, 1].tolist() == [1, 1]
    assert np.count_nonzero(dx) == 2


def test_convolution_is_cross_correlation():
    x = np.zeros((1, 3, 3, 1), np.float32)
    x[0, 1, 1, 0] = 1
    w = np.arange(9, dtype=np.float32).reshape(3, 3, 1, 1)
    y, wide = np.empty((1, 3, 3, 1), np.float32), np.empty((1, 5, 5, 1), np.float32)
    conv2d.pad_image(x, 1, wide)
    panels = panel.make_panels(3, 1, 1)
    panel.pack_weight(w, panels)
    conv2d.conv2d_forward(wide, panels, conv2d.locate_pixels((3, 3), 5, 1), array(), False, y)
    assert y[0, :, :, 0].tolist() == w[::-1, ::-1, 0, 0].tolist()


def test_flatten_is_channel_major():
    x = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    y = np.empty((1, 24), np.float32)
    flatten.flatten_forward(x, y)
    assert y[0, :6].tolist() == [0, 4, 8, 12, 16, 20]


def test_empty_batch_gives_zero_gradients():
    x, dy = np.empty((0, 4), np.float32), np.empty((0, 3), np.float32)
    shards = np.array([0, 0])
    dw, db = np.full((4, 3), 7, np.int32), np.full(3, 7, np.int32)
    largest = np.zeros(16, np.int64)
    linear.linear_backward_weight(x, dy, shards, np.float32(1), dw, largest)
    linear.linear_backward_bias(dy, shards, np.float32(1), db, largest)
    assert not dw.any()
    assert not db.any()
    x, dy = np.empty((0, 5, 5, 2), np.float32), np.empty((0, 3, 3, 3), np.float32)
    dw = np.full((3, 3, 2, 3), 7, np.int32)
    conv2d.conv2d_backward_weight(
        x, dy, conv2d.locate_taps(3, 5, 2), shards, conv2d.make_leaves(18, 3, 1), np.float32(1), dw, largest
    )
    assert not dw.any()
    assert not largest.any()


@pytest.mark.parametrize("scale", [1, 1e4, 1e38])
def test_softmax_cross_entropy_is_finite_and_its_gradient_sums_to_zero(scale):
    x = (np.random.default_rng(0).uniform(-1, 1, (8, 10)) * scale).astype(np.float32)
    y, dx, loss = np.empty_like(x), np.empty_like(x), np.empty(8, np.float32)
    softmax.softmax_forward(x, y)
    softmax.softmax_cross_entropy(x, np.arange(8), loss, dx)
    assert np.isfinite(loss).all()
    assert np.isfinite(dx).all()
    # Ten probabilities, each rounded to 2**-24 of itself after a sum of ten, add up to 1.
    assert y.astype(np.float64).sum(axis=1) == pytest.approx(np.ones(8), abs=32 * 2.0**-24)
    assert dx.astype(np.float64).sum(axis=1) == pytest.approx(np.zeros(8), abs=32 * 2.0**-24)


def test_huge_logits_give_the_exact_loss():
    loss, dx = np.empty(2, np.float32), np.empty((2, 3), np.float32)
    softmax.softmax_cross_entropy(array(1e4, 0, 0, 1e4, 0, 0).reshape(2, 3), np.array([0, 1]), loss, dx)
    assert loss.tolist() == [0, 1e4]
    assert dx.tolist() == [[0, 0, 0], [1, -1, 0]]


def test_nan_logit_gives_nan_loss():
    loss, dx = np.zeros(3, np.float32), np.zeros((3, 3), np.float32)
    x = np.zeros((3, 3), np.float32)
    np.fill_diagonal(x, np.nan)
    softmax.softmax_cross_entropy(x, np.array([0, 0, 0]), loss, dx)
    assert np.isnan(loss).all()
    assert np.isnan(dx).all()
