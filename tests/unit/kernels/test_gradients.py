"""The reference's gradients against central differences, in float64.

The check of the slides' own programs (21mnist, `grad_check.h`): for L = <alpha, y>, random directions
d of every input, the gradients' A = sum <dL/dx, dx> against B = L(x + dx / 2) - L(x - dx / 2).
ReLU and max pooling are checked away from their kinks.
"""

from __future__ import annotations

import numpy as np
import pytest

from ddp.kernels import reference

STEP = 1e-4


def normal(generator, *shape):
    return generator.standard_normal(shape)


def away_from_zero(generator, *shape):
    return generator.choice([-1.0, 1.0], shape) * generator.uniform(10 * STEP, 1, shape)


def distinct(generator, *shape):
    return generator.permutation(np.linspace(-1, 1, int(np.prod(shape)))).reshape(shape)


def linear(generator):
    x, w, b = normal(generator, 4, 5), normal(generator, 3, 5), normal(generator, 3)

    def backward(inputs, dy):
        x, w, _ = inputs
        return (
            reference.linear_backward_input(dy, w),
            reference.linear_backward_weight(x, dy),
            reference.linear_backward_bias(dy),
        )

    return (x, w, b), reference.linear_forward, backward


def conv2d(kernel_size, padding):
    def function(generator):
        x, w = normal(generator, 2, 3, 6, 5), normal(generator, 4, 3, kernel_size, kernel_size)
        b = normal(generator, 4)

        def backward(inputs, dy):
            x, w, _ = inputs
            return (
                reference.conv2d_backward_input(dy, w, padding, (6, 5)),
                reference.conv2d_backward_weight(x, dy, kernel_size, padding),
                reference.conv2d_backward_bias(dy),
            )

        return (x, w, b), lambda x, w, b: reference.conv2d_forward(x, w, b, padding), backward

    return function


def relu(generator):
    def backward(inputs, dy):
        return (reference.relu_backward(reference.relu_forward(*inputs), dy),)

    return (away_from_zero(generator, 30),), reference.relu_forward, backward


def batchnorm(generator):
    def backward(inputs, dy):
        x, gamma, _ = inputs
        return reference.batchnorm_backward(x, dy, gamma, 1e-3)

    inputs = normal(generator, 7, 3), normal(generator, 3), normal(generator, 3)
    return inputs, lambda x, gamma, beta: reference.batchnorm_forward(x, gamma, beta, 1e-3), backward


def dropout(generator):
    mask = generator.integers(0, 2, (4, 6)).astype(np.float64)
    return (
        (normal(generator, 4, 6),),
        lambda x: reference.dropout(x, mask, 0.3),
        lambda _, dy: (reference.dropout(dy, mask, 0.3),),
    )


def max_pool2d(generator):
    def backward(inputs, dy):
        _, argmax = reference.max_pool2d_forward(*inputs, 2)
        return (reference.max_pool2d_backward(dy, argmax, 2, (5, 4)),)

    x = distinct(generator, 2, 3, 5, 4)
    return (x,), lambda x: reference.max_pool2d_forward(x, 2)[0], backward


def flatten(generator):
    x = normal(generator, 2, 3, 4, 5)
    return (x,), reference.flatten_forward, lambda _, dy: (reference.flatten_backward(dy, (3, 4, 5)),)


def softmax(generator):
    def backward(inputs, dy):
        return (reference.softmax_backward(reference.softmax_forward(*inputs), dy),)

    return (normal(generator, 4, 10),), reference.softmax_forward, backward


def cross_entropy(generator):
    t = reference.one_hot(generator.integers(0, 10, 4), 10)
    return (
        (generator.uniform(0.1, 1, (4, 10)),),
        lambda y: reference.cross_entropy_forward(y, t),
        lambda inputs, dz: (dz[:, None] * reference.cross_entropy_backward(*inputs, t),),
    )


def softmax_cross_entropy(generator):
    t = reference.one_hot(generator.integers(0, 10, 4), 10)
    return (
        (normal(generator, 4, 10),),
        lambda x: reference.softmax_cross_entropy(x, t)[0],
        lambda inputs, dz: (dz[:, None] * reference.softmax_cross_entropy(*inputs, t)[1],),
    )


def squared_error(generator):
    t = normal(generator, 4, 3)
    return (
        (normal(generator, 4, 3),),
        lambda y: reference.squared_error(y, t)[0],
        lambda inputs, dz: (dz[:, None] * reference.squared_error(*inputs, t)[1],),
    )


def powers(generator):
    return (
        (normal(generator, 6, 1),),
        lambda x: reference.powers_forward(x, 4),
        lambda inputs, dy: (reference.powers_backward(*inputs, dy),),
    )


FUNCTIONS = {
    "linear": linear,
    "conv2d valid": conv2d(3, 0),
    "conv2d same": conv2d(5, 2),
    "conv2d even": conv2d(2, 3),
    "relu": relu,
    "batchnorm": batchnorm,
    "dropout": dropout,
    "max_pool2d": max_pool2d,
    "flatten": flatten,
    "softmax": softmax,
    "cross_entropy": cross_entropy,
    "softmax_cross_entropy": softmax_cross_entropy,
    "squared_error": squared_error,
    "powers": powers,
}


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_equal_central_differences(name, seed):
    generator = np.random.default_rng(seed)
    inputs, forward, backward = FUNCTIONS[name](generator)
    alpha = normal(generator, *forward(*inputs).shape)
    directions = [generator.uniform(-STEP, STEP, x.shape) for x in inputs]
    gradients = backward(inputs, alpha)
    terms = [g * d for g, d in zip(gradients, directions, strict=True)]
    predicted = sum(np.sum(term) for term in terms)

    def loss(sign):
        return np.sum(alpha * forward(*(x + sign / 2 * d for x, d in zip(inputs, directions, strict=True))))

    # The central difference is off by a third derivative times STEP**3, i.e. by ~1e-8 of its terms.
    assert loss(+1) - loss(-1) == pytest.approx(predicted, rel=0, abs=1e-6 * sum(np.abs(t).sum() for t in terms))


def test_chain_of_softmax_and_cross_entropy_is_y_minus_t():
    x = normal(np.random.default_rng(0), 6, 10)
    t = reference.one_hot(np.arange(6), 10)
    y = reference.softmax_forward(x)
    loss, dx = reference.softmax_cross_entropy(x, t)
    assert loss == pytest.approx(reference.cross_entropy_forward(y, t), rel=1e-13)
    chained = reference.softmax_backward(y, reference.cross_entropy_backward(y, t))
    assert chained == pytest.approx(dx, abs=1e-14)


def test_momentum_approaches_its_geometric_sum():
    w, v, g = np.zeros(1), np.zeros(1), np.full(1, 3.0)
    for _ in range(5):
        w, v = reference.sgd_update(w, g, v, 0.5, 0.1, 0.8, False, 0.0)
    velocities = [1.5 * (1 - 0.8**step) / (1 - 0.8) for step in range(1, 6)]
    assert v == pytest.approx(velocities[-1:])
    assert w == pytest.approx([-0.1 * sum(velocities)])


def test_nesterov_looks_ahead_and_weight_decay_is_l2():
    w, v = reference.sgd_update(np.full(1, 2.0), np.full(1, 4.0), np.full(1, 1.0), 0.25, 0.1, 0.5, True, 0.1)
    assert v == pytest.approx([0.5 * 1 + (1 + 0.2)])
    assert w == pytest.approx([2 - 0.1 * (1.2 + 0.5 * 1.7)])
