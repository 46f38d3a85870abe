"""Every kernel against the NumPy float64 reference, at shapes and values drawn by hypothesis.

Each case returns triples (kernel's result, reference's result, bound on their difference). A sum of n
products in float32, in any order, is off by at most about n u sum |a| |b| with u = 2**-24 (Higham,
"Accuracy and Stability of Numerical Algorithms", section 3.1), and the reference evaluated on absolute
values is that sum. Bounds of other functions count their roundings in u, term by term. Outputs start
as NaN, so an element left unwritten, or added to, fails.
"""

from __future__ import annotations

import itertools
from unittest import mock

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ddp import rng
from ddp.kernels import (
    batchnorm,
    conv2d,
    dropout,
    flatten,
    linear,
    panel,
    pool,
    powers,
    reference,
    relu,
    sgd,
    softmax,
    squared_error,
    update,
)

U = 2.0**-24
LARGEST = np.zeros(16, np.int64)
BATCHES = st.sampled_from([0, 1, 2, 5])
SIZES = st.sampled_from([1, 2, 3, 7, 10, 16, 17, 33])
IMAGE = st.integers(1, 9)
SEEDS = st.integers(0, 2**32 - 1)


class Values:
    """Random float32 arrays, and arrays to be overwritten."""

    def __init__(self, seed):
        self.generator = np.random.default_rng(seed)

    def __call__(self, *shape):
        return self.generator.standard_normal(shape).astype(np.float32)

    def labels(self, size, classes):
        return self.generator.integers(0, classes, size)


def out(*shape, dtype=np.float32):
    return np.full(shape, 255 if dtype is np.uint8 else np.nan, dtype)


def draw_shards(draw, batch):
    """Where the shards of a batch begin, and its end; empty shards included."""
    inner = draw(st.lists(st.integers(0, batch), max_size=4))
    return np.array([0, *sorted(inner), batch])


def f64(*arrays):
    return [a.astype(np.float64) for a in arrays]


def channels_first(image):
    return image.astype(np.float64).transpose(0, 3, 1, 2)


def channels_last(image):
    return image.transpose(0, 2, 3, 1)


def linear_case(draw):
    B, I, O, values = draw(BATCHES), draw(SIZES), draw(SIZES), Values(draw(SEEDS))  # noqa: E741
    x, w, dy = values(B, I), values(I, O), values(B, O)
    b = values(O) if draw(st.booleans()) else values(0)
    is_relu, is_masked = draw(st.booleans()), draw(st.booleans())
    y, dx, shards = out(B, O), out(B, I), draw_shards(draw, B)
    dw, db, scale = out(I, O), out(O), np.float32(draw(st.sampled_from([1, 2.0**-9])))
    linear.linear_forward(x, w, b, is_relu, y)
    linear.linear_backward_weight(x, dy, shards, scale, dw, LARGEST)
    linear.linear_backward_bias(dy, shards, scale, db, LARGEST)
    linear.linear_backward_input(dy, w, x if is_masked else x[:0], dx)

    def equations(x, w, b, dy):
        return (
            reference.linear_forward(x, w.T, b if b.size else np.zeros(O)),
            scale * reference.linear_backward_weight(x, dy).T,
            scale * reference.linear_backward_bias(dy),
            reference.linear_backward_input(dy, w.T),
        )

    expected, magnitude = equations(*f64(x, w, b, dy)), equations(*map(np.abs, f64(x, w, b, dy)))
    expected = with_relu(expected, x, is_relu, is_masked)
    lengths = (I + 1, B, B, O)
    return [(a, e, n * U * m) for a, e, n, m in zip((y, dw, db, dx), expected, lengths, magnitude, strict=True)]


def with_relu(expected, x, is_relu, is_masked):
    """Apply the ReLU behind the layer to its output, and the derivative of the one before it to its dx."""
    y, dw, db, dx = expected
    y = reference.relu_forward(y) if is_relu else y
    return y, dw, db, reference.relu_backward(x.astype(np.float64), dx) if is_masked else dx


def conv2d_case(draw):
    B, H, W, IC, OC = draw(BATCHES), draw(IMAGE), draw(IMAGE), draw(SIZES), draw(SIZES)
    K = draw(st.sampled_from([1, 2, 3, 4, 5, 7]))
    padding = draw(st.sampled_from([0, (K - 1) // 2, 1, K - 1, K + 1]))
    OH, OW = H + 2 * padding - K + 1, W + 2 * padding - K + 1
    assume(OH > 0 and OW > 0)
    values = Values(draw(SEEDS))
    x, w, dy = values(B, H, W, IC), values(K, K, IC, OC), values(B, OH, OW, OC)
    b = values(OC) if draw(st.booleans()) else values(0)
    is_relu, is_masked = draw(st.booleans()), draw(st.booleans())
    y, dx = out(B, OH, OW, OC), out(B, H, W, IC)
    panels, turned = out(*panel.make_panels(K, IC, OC).shape), out(*panel.make_panels(K, OC, IC).shape)
    dw, db, shards, scale = out(K, K, IC, OC), out(OC), draw_shards(draw, B), np.float32(0.25)
    wide_x = out(B, H + 2 * padding, W + 2 * padding, IC)
    wide_dy = out(B, H + K - 1, W + K - 1, OC)
    conv2d.pad_image(x, padding, wide_x)
    conv2d.pad_image(dy, K - 1 - padding, wide_dy)
    panel.pack_weight(w, panels)
    panel.turn_weight(w, turned)
    conv2d.conv2d_forward(wide_x, panels, conv2d.locate_pixels((OH, OW), W + 2 * padding, IC), b, is_relu, y)
    taps, leaves = conv2d.locate_taps(K, W + 2 * padding, IC), conv2d.make_leaves(K * K * IC, OC, 2)
    conv2d.conv2d_backward_weight(wide_x, dy, taps, shards, leaves, scale, dw, LARGEST)
    conv2d.conv2d_backward_bias(dy, shards, scale, db, LARGEST)
    pixels = conv2d.locate_pixels((H, W), W + K - 1, OC)
    conv2d.conv2d_backward_input(wide_dy, turned, pixels, x if is_masked else x[:0], dx)

    def equations(x, w, b, dy):
        return (
            channels_last(reference.conv2d_forward(x, w, b if b.size else np.zeros(OC), padding)),
            scale * reference.conv2d_backward_weight(x, dy, K, padding).transpose(2, 3, 1, 0),
            scale * reference.conv2d_backward_bias(dy),
            channels_last(reference.conv2d_backward_input(dy, w, padding, (H, W))),
        )

    inputs = channels_first(x), w.astype(np.float64).transpose(3, 2, 0, 1), b, channels_first(dy)
    expected, magnitude = equations(*inputs), equations(*map(np.abs, inputs))
    expected = with_relu(expected, x, is_relu, is_masked)
    lengths = (K * K * IC + 1, B * OH * OW, B * OH * OW, K * K * OC)
    return [(a, e, n * U * m) for a, e, n, m in zip((y, dw, db, dx), expected, lengths, magnitude, strict=True)]


def relu_case(draw):
    values = Values(draw(SEEDS))
    x = values(draw(SIZES))
    x[:: draw(st.integers(1, 3))] = 0
    dy = values(x.size)
    y, dx = out(x.size), out(x.size)
    relu.relu_forward(x, y)
    relu.relu_backward(y, dy, dx)
    expected = reference.relu_forward(*f64(x))
    return [(y, expected, 0), (dx, reference.relu_backward(expected, *f64(dy)), 0)]


def batchnorm_case(draw):
    N, C = draw(st.sampled_from([0, 1, 2, 5, 40])), draw(st.sampled_from([1, 3, 17, 128, 131]))
    values, centre, eps = Values(draw(SEEDS)), draw(st.sampled_from([0, -30])), 1e-5
    x, dy, gamma, beta = values(N, C) + np.float32(centre), values(N, C), values(C), values(C)
    shards, is_relu, is_masked = draw_shards(draw, N), draw(st.booleans()), draw(st.booleans())
    S = len(shards) - 1
    with mock.patch.object(batchnorm, "PART", draw(st.sampled_from([1, 1000, batchnorm.PART]))):
        parts, first_parts = batchnorm.cut_shards(shards, C)
    y, dx, sums = out(N, C), out(N, C), out(len(parts), 2, C, dtype=np.float64)
    variance, inv_std, dgamma, dbeta = (out(S, C) for _ in range(4))
    mean = out(S, C, dtype=np.float64)
    batchnorm.batchnorm_forward_sums(x, parts, sums)
    batchnorm.batchnorm_statistics(sums, parts, first_parts, eps, mean, variance, inv_std)
    batchnorm.batchnorm_normalise(x, parts, gamma, beta, mean, inv_std, is_relu, y)
    batchnorm.batchnorm_backward_sums(x, dy, parts, mean, sums)
    batchnorm.batchnorm_gradients(sums, first_parts, inv_std, dgamma, dbeta)
    batchnorm.batchnorm_backward_input(x, dy, parts, gamma, mean, inv_std, dgamma, dbeta, is_masked, dx)
    results = []
    for shard, (first, end) in enumerate(itertools.pairwise(shards)):
        if first == end:
            results += [(a[shard], np.zeros(C), 0) for a in (mean, variance, dgamma, dbeta)]
            continue
        arrays = x[first:end], dy[first:end], gamma, beta
        expected, bounds = batchnorm_of_a_shard(*f64(*arrays), eps, is_relu, is_masked)
        found = y[first:end], mean[shard], variance[shard], inv_std[shard], dgamma[shard], dbeta[shard], dx[first:end]
        results += zip(found, expected, bounds, strict=True)
    return results


def batchnorm_of_a_shard(x, dy, gamma, beta, eps, is_relu, is_masked):
    """What the reference gives for one shard, and bounds on the kernels' errors."""
    n, mean, factor = len(x), x.mean(axis=0), 1 / np.sqrt(x.var(axis=0) + eps)
    unbiased = x.var(axis=0, ddof=1) if n > 1 else np.zeros(x.shape[1])
    y = reference.batchnorm_forward(x, gamma, beta, eps)
    dx, dgamma, dbeta = reference.batchnorm_backward(x, dy, gamma, eps)
    x_hat = np.abs(x - mean) * factor
    # x^ carries the roundings of the mean, which is of x's size, of the difference, inverse deviation and product.
    error = 4 * U * (x_hat + np.abs(mean) * factor)
    sums = np.abs(dy).sum(axis=0)
    dgamma_error = 2 * U * np.abs(dgamma) + (np.abs(dy) * error).sum(axis=0)
    terms = np.abs(dy) + sums / n + x_hat * np.abs(dgamma) / n
    uncertain = error * np.abs(dgamma) / n + (x_hat + error) * dgamma_error / n
    expected = (
        reference.relu_forward(y) if is_relu else y,
        mean,
        unbiased,
        factor,
        dgamma,
        dbeta,
        reference.relu_backward(x, dx) if is_masked else dx,
    )
    bounds = (
        np.abs(gamma) * error + 3 * U * (np.abs(gamma) * x_hat + np.abs(beta)),
        U * np.abs(mean) + 1e-14,
        2 * U * unbiased + 1e-11,
        2 * U * factor,
        dgamma_error + 1e-11 * sums,
        2 * U * np.abs(dbeta) + 1e-14 * sums,
        np.abs(gamma) * factor * (8 * U * terms + uncertain),
    )
    return expected, bounds


def batchnorm_inference_case(draw):
    N, C, values = draw(BATCHES), draw(st.sampled_from([1, 3, 17, 131])), Values(draw(SEEDS))
    x, gamma, beta, mean, variance = values(N, C), values(C), values(C), values(C), np.abs(values(C))
    is_relu, y = draw(st.booleans()), out(N, C)
    inv_std = (1 / np.sqrt(variance.astype(np.float64) + 1e-5)).astype(np.float32)
    parts, _ = batchnorm.cut_shards(np.array([0, N]), C)
    batchnorm.batchnorm_normalise(x, parts, gamma, beta, mean[None].astype(np.float64), inv_std[None], is_relu, y)
    arguments = f64(x, gamma, beta, mean, variance)
    expected = reference.batchnorm_inference(*arguments, 1e-5)
    magnitude = np.abs(gamma) * np.abs(x - mean) * inv_std + np.abs(beta)
    return [(y, reference.relu_forward(expected) if is_relu else expected, 5 * U * magnitude)]


def dropout_case(draw):
    B, F, values = draw(BATCHES), draw(SIZES), Values(draw(SEEDS))
    seed, step, stream = draw(st.integers(0, 2**64 - 1)), draw(SEEDS), draw(st.integers(0, 2**16 - 1))
    p = draw(st.floats(0, 0.99))
    samples = values.generator.integers(0, 2**32, B)
    x, y = values(B, F), out(B, F)
    dropout.dropout(x, seed, step, stream, samples, p, y)
    words = rng.random_words(seed, rng.Purpose.DROPOUT, stream, step, samples, F)
    mask = (words >= round(p * 2**32)).astype(np.float64)
    expected = reference.dropout(*f64(x), mask, p)
    # Behind a ReLU: of the output of `dropout`, and with the scale that is its.
    positive, dy, dx = np.maximum(y, 0).reshape(-1), values(B * F), out(B * F)
    dropout.dropout_relu_backward(positive, dy, np.float32(1 / (1 - p)), dx)
    dx_expected = reference.dropout(*f64(dy), (mask * (x > 0)).reshape(-1), p)
    return [
        (y, expected, 3 * U * np.abs(expected)),
        (y != 0, mask != 0, 0),
        (dx, dx_expected, 3 * U * np.abs(dx_expected)),
    ]


def pool_case(draw):
    B, C, k, values = draw(BATCHES), draw(SIZES), draw(st.sampled_from([1, 2, 3, 16])), Values(draw(SEEDS))
    H, W = draw(IMAGE) + k - 1, draw(IMAGE) + k - 1
    x = np.round(values(B, H, W, C))  # few distinct values: many ties
    dy = values(B, H // k, W // k, C)
    is_relu = k < 16 and draw(st.booleans())
    y, argmax, dx = out(*dy.shape), out(*dy.shape, dtype=np.uint8), out(*x.shape)
    pool.max_pool2d_forward(x, k, is_relu, y, argmax)
    pool.max_pool2d_backward(dy, argmax, k, dx)
    maxima, places = reference.max_pool2d_forward(channels_first(x), k)
    expected_y, dy = maxima, channels_first(dy).astype(np.float64)
    if is_relu:
        expected_y, dy = reference.relu_forward(maxima), reference.relu_backward(maxima, dy)
    expected_dx = reference.max_pool2d_backward(dy, places, k, (H, W))
    places = np.where((maxima > 0) | (not is_relu), places, pool.NOWHERE)
    return [(y, channels_last(expected_y), 0), (argmax, channels_last(places), 0), (dx, channels_last(expected_dx), 0)]


def flatten_case(draw):
    B, H, W, C, values = draw(BATCHES), draw(IMAGE), draw(IMAGE), draw(SIZES), Values(draw(SEEDS))
    x, dy, y, dx = values(B, H, W, C), values(B, C * H * W), out(B, C * H * W), out(B, H, W, C)
    flatten.flatten_forward(x, y)
    flatten.flatten_backward(dy, dx)
    return [
        (y, reference.flatten_forward(channels_first(x)), 0),
        (dx, channels_last(reference.flatten_backward(dy, (C, H, W))), 0),
    ]


def softmax_case(draw):
    B, C, values = draw(BATCHES), draw(SIZES), Values(draw(SEEDS))
    x, dy, t = values(B, C) * np.float32(draw(st.sampled_from([1, 10]))), values(B, C), values.labels(B, C)
    y, dx, loss, dx_fused = out(B, C), out(B, C), out(B), out(B, C)
    softmax.softmax_forward(x, y)
    softmax.softmax_backward(y, dy, dx)
    softmax.softmax_cross_entropy(x, t, loss, dx_fused)
    expected_y = reference.softmax_forward(*f64(x))
    expected_dx = reference.softmax_backward(*f64(y, dy))
    expected_loss, expected_dx_fused = reference.softmax_cross_entropy(*f64(x), reference.one_hot(t, C))
    # An exponential carries the rounding of its argument, u |x - peak|; a sum of C adds C u.
    relative = (C + 8 + 2 * np.ptp(x, axis=1, keepdims=True).astype(np.float64)) * U
    inner = np.sum(np.abs(dy * y), axis=1, keepdims=True)
    tiny = np.finfo(np.float32).tiny
    return [
        (y, expected_y, relative * expected_y + tiny),
        (dx, expected_dx, (C + 4) * U * y * (np.abs(dy) + inner) + tiny),
        (loss, expected_loss, relative[:, 0] + 4 * U * np.abs(expected_loss)),
        (dx_fused, expected_dx_fused, relative * expected_y + U),
    ]


def cross_entropy_case(draw):
    B, C, values = draw(BATCHES), draw(SIZES), Values(draw(SEEDS))
    y = reference.softmax_forward(values(B, C)).astype(np.float32)
    t, loss, dy = values.labels(B, C), out(B), out(B, C)
    softmax.cross_entropy_forward(y, t, loss)
    softmax.cross_entropy_backward(y, t, dy)
    one_hot = reference.one_hot(t, C)
    expected_loss = reference.cross_entropy_forward(*f64(y), one_hot)
    expected_dy = reference.cross_entropy_backward(*f64(y), one_hot)
    return [(loss, expected_loss, 8 * U * np.abs(expected_loss)), (dy, expected_dy, U * np.abs(expected_dy))]


def squared_error_case(draw):
    B, O, values = draw(BATCHES), draw(SIZES), Values(draw(SEEDS))  # noqa: E741
    y, t, loss, dy = values(B, O), values(B, O), out(B), out(B, O)
    squared_error.squared_error(y, t, loss, dy)
    expected_loss, expected_dy = reference.squared_error(*f64(y, t))
    return [(loss, expected_loss, (O + 3) * U * expected_loss), (dy, expected_dy, U * np.abs(expected_dy))]


def powers_case(draw):
    B, D, values = draw(BATCHES), draw(st.integers(0, 8)), Values(draw(SEEDS))
    x, dy, y, dx = values(B, 1), values(B, D + 1), out(B, D + 1), out(B, 1)
    powers.powers_forward(x, y)
    powers.powers_backward(x, dy, dx)
    expected_y, expected_dx = reference.powers_forward(*f64(x), D), reference.powers_backward(*f64(x, dy))
    magnitude = reference.powers_backward(*map(np.abs, f64(x, dy)))
    return [(y, expected_y, D * U * np.abs(expected_y)), (dx, expected_dx, (2 * D + 2) * U * magnitude)]


def sgd_update_case(draw):
    N, values, has_velocity = draw(SIZES), Values(draw(SEEDS)), draw(st.booleans())
    R, start = draw(st.integers(1, 3)), draw(st.integers(0, 5))  # rows of sums, and where in them they begin
    own = draw(st.integers(0, R - 1))
    w, g, v = values(N), values(R, start + N), values(N if has_velocity else 0)
    momentum = draw(st.floats(0.1, 0.99)) if has_velocity else 0.0
    rest = (momentum, draw(st.booleans()) and has_velocity, draw(st.floats(0, 0.1)))
    scale, lr, gain = (draw(st.floats(1e-3, 1)) for _ in range(3))
    dtype, blocks = (
        draw(st.sampled_from([np.float32, np.int32])),
        update.make_blocks([slice(0, N // 2), slice(N // 2, N)]),
    )
    rows, squares = (1000 * g).astype(dtype), np.full(len(blocks), np.nan)
    mine = rows[:, start:]
    g, g_magnitude = f64(mine)[0].sum(axis=0), np.abs(f64(mine)[0]).sum(axis=0)

    def equations(w, g, v, lr):
        new_w, new_v = reference.sgd_update(w, g, v if has_velocity else None, scale, lr, *rest, gain)
        return new_w, np.zeros(0) if new_v is None else new_v

    expected = equations(*f64(w, g, v), lr)
    magnitude = equations(*map(np.abs, f64(w, g_magnitude, v)), -lr)
    momentum, nesterov, weight_decay = rest
    of_tensors = [np.full(2, factor, np.float32) for factor in (scale, weight_decay, gain, lr)]
    factors = *of_tensors, np.float32(momentum), nesterov
    lanes = np.full((len(blocks), update.LANES), np.nan)
    scales = of_tensors[0]
    if draw(st.booleans()):  # add before the update
        update.add_up(rows, own, start, blocks, scales, lanes, squares)
        norm_first, others = squares.copy(), np.delete(rows, own, axis=0)
        rows, own = rows[own : own + 1], 0
    else:
        norm_first, others = None, np.delete(rows, own, axis=0)
    before = others.copy()
    sgd.sgd_update(w, rows, own, start, v, blocks, *factors, lanes, squares)
    assert others.tobytes() == before.tobytes()
    assert norm_first is None or norm_first.tobytes() == squares.tobytes()
    np.testing.assert_allclose(rows[own, start:], g, rtol=0, atol=R * U * g_magnitude.max(initial=0))
    assert squares.sum() == pytest.approx(scale**2 * reference.sum_of_squares(f64(rows[own, start:])[0]), rel=1e-6)
    # Each term of the update is a product of at most six rounded factors, added in at most four steps, and the rows.
    return [(a, e, (10 + R) * U * m) for a, e, m in zip((w, v), expected, magnitude, strict=True)]


@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_a_part_is_added_to_a_total_or_begins_it(data):
    N, values = data.draw(st.sampled_from([0, 1, 100, 16384, 40000])), Values(data.draw(SEEDS))
    dtype = data.draw(st.sampled_from([np.float32, np.int32]))
    part, total = (1000 * values(N)).astype(dtype), (1000 * values(N)).astype(dtype)
    expected = part + total
    update.add_part(part, False, total)
    np.testing.assert_array_equal(total, expected)
    update.add_part(part, True, total)
    np.testing.assert_array_equal(total, part)


COMPARISONS = {
    case.__name__.removesuffix("_case"): case
    for case in (
        linear_case,
        conv2d_case,
        relu_case,
        batchnorm_case,
        batchnorm_inference_case,
        dropout_case,
        pool_case,
        flatten_case,
        softmax_case,
        cross_entropy_case,
        squared_error_case,
        powers_case,
        sgd_update_case,
    )
}


@pytest.mark.parametrize("name", COMPARISONS)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_kernel_equals_reference(name, data):
    for actual, expected, bound in COMPARISONS[name](data.draw):
        assert actual.shape == expected.shape
        difference = np.abs(actual.astype(np.float64) - expected.astype(np.float64))
        assert np.all(difference <= bound), f"off by {difference.max()}"


@pytest.mark.parametrize("n", [0, 1, update.BLOCK - 1, update.BLOCK, update.BLOCK + 1, 200_001])
def test_blocks_cover_every_tensor_once(n):
    blocks = update.make_blocks([slice(0, n), slice(n, n), slice(n, n + 3)])
    tensors = np.concatenate([np.full(end - start, tensor) for start, end, tensor in blocks])
    assert tensors.tolist() == [0] * n + [2] * 3
    assert blocks[1:, 0].tolist() == blocks[:-1, 1].tolist()
    assert (blocks[:, 1] - blocks[:, 0] <= update.BLOCK).all()
