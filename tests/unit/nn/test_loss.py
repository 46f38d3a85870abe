"""Loss functions: the reference's values and gradients, as sums over the batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddp import nn
from ddp.kernels import reference

U = 2.0**-24
BATCHES = st.integers(1, 9)
SEEDS = st.integers(0, 2**32 - 1)

Array = Any


def random(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@given(BATCHES, st.integers(2, 40), st.sampled_from([1e-3, 1.0, 30.0]), SEEDS)
def test_cross_entropy(batch: int, classes: int, size: float, seed: int) -> None:
    y = np.float32(size) * random(seed, batch, classes)
    labels = np.random.default_rng(seed).integers(0, classes, batch)
    loss = nn.CrossEntropyLoss()
    value, dy = loss.forward(y, labels), loss.backward()
    losses, expected = reference.softmax_cross_entropy(y.astype(np.float64), reference.one_hot(labels, classes))
    # The logarithm's argument is a sum of `classes` terms; the exponents are rounded in proportion to y.
    roundings = U * (classes + 8 + 4 * float(np.abs(y).max()))
    assert value == pytest.approx(losses.sum(), abs=batch * roundings)
    np.testing.assert_allclose(dy, expected, rtol=0, atol=roundings)


@given(BATCHES, st.integers(1, 20), SEEDS)
def test_squared_error(batch: int, outputs: int, seed: int) -> None:
    y, t = random(seed, batch, outputs), random(seed + 1, batch, outputs)
    loss = nn.MSELoss()
    value, dy = loss.forward(y, t), loss.backward()
    losses, expected = reference.squared_error(y.astype(np.float64), t.astype(np.float64))
    assert value == pytest.approx(losses.sum(), rel=(outputs + 4) * U)
    np.testing.assert_allclose(dy, expected, rtol=2 * U)


@pytest.mark.parametrize("kind", [nn.CrossEntropyLoss, nn.MSELoss])
def test_a_loss_is_a_sum_and_no_mean(kind: type[nn.Loss]) -> None:
    y = random(0, 6, 4)
    t = np.array([0, 3, 1, 1, 2, 0]) if kind is nn.CrossEntropyLoss else random(1, 6, 4)
    loss = kind()
    together = loss.forward(y, t)
    gradient = loss.backward().copy()
    alone = 0.0
    for sample in range(6):
        alone += loss.forward(y[sample : sample + 1], t[sample : sample + 1])
        np.testing.assert_array_equal(loss.backward()[0], gradient[sample])
    assert together == pytest.approx(alone, rel=1e-12)
    twice = kind().forward(np.concatenate([y, y]), np.concatenate([t, t]))
    assert twice == pytest.approx(2 * together, rel=1e-12)


def test_cross_entropy_of_equal_outputs_is_the_logarithm_of_the_classes() -> None:
    assert nn.CrossEntropyLoss().forward(np.zeros((3, 10), np.float32), np.array([0, 5, 9])) == pytest.approx(
        3 * np.log(10), rel=1e-6
    )


@pytest.mark.parametrize("kind", [nn.CrossEntropyLoss, nn.MSELoss])
def test_gradient_against_central_differences(kind: type[nn.Loss]) -> None:
    y, direction, step = random(0, 5, 4), random(1, 5, 4), np.float32(1 / 64)
    t = np.array([0, 3, 1, 1, 2]) if kind is nn.CrossEntropyLoss else random(2, 5, 4)
    loss = kind()
    loss.forward(y, t)
    expected = float(np.vdot(loss.backward(), direction))
    upper, lower = (loss.forward(y + sign * step / 2 * direction, t) for sign in (np.float32(1), np.float32(-1)))
    assert (upper - lower) / step == pytest.approx(expected, rel=1e-3)


def test_workspaces_grow_with_the_batch_and_are_reused() -> None:
    loss = nn.CrossEntropyLoss()
    for batch, classes in ((2, 3), (5, 3), (1, 3), (3, 7)):
        y, labels = random(batch, batch, classes), np.arange(batch) % classes
        loss.forward(y, labels)
        expected = reference.softmax_cross_entropy(y.astype(np.float64), reference.one_hot(labels, classes))[1]
        np.testing.assert_allclose(loss.backward(), expected, atol=1e-6)
    first = loss.backward()
    loss.forward(random(9, 2, 7), np.array([0, 1]))
    assert np.shares_memory(loss.backward(), first)


@pytest.mark.parametrize("kind", [nn.CrossEntropyLoss, nn.MSELoss])
def test_no_samples_lose_nothing(kind: type[nn.Loss]) -> None:
    loss = kind()
    t = np.empty(0, np.int64) if kind is nn.CrossEntropyLoss else np.empty((0, 4), np.float32)
    assert loss.forward(np.empty((0, 4), np.float32), t) == 0
    assert loss.backward().shape == (0, 4)


@pytest.mark.parametrize("labels", [[0, 1], [0, 1, 4], [0, -1, 1], [0.0, 1.0, 2.0], [[0], [1], [2]], [0, 1, 300_000]])
def test_labels_that_do_not_fit_are_refused(labels: Any) -> None:
    """A kernel would read outside the outputs."""
    with pytest.raises(ValueError, match=r"^labels "):
        nn.CrossEntropyLoss().forward(random(0, 3, 4), np.array(labels))


@pytest.mark.parametrize("shape", [(3,), (3, 1), (4, 3)])
def test_targets_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^targets of shape"):
        nn.MSELoss().forward(random(0, 3, 4), random(1, *shape))


def test_labels_and_targets_of_other_types_are_converted() -> None:
    y = random(0, 3, 4)
    labels = np.array([1, 0, 3])
    assert nn.CrossEntropyLoss().forward(y, labels.astype(np.uint8)) == nn.CrossEntropyLoss().forward(y, labels)
    assert nn.MSELoss().forward(y, np.ones((3, 4))) == nn.MSELoss().forward(y, np.ones((3, 4), np.float32))
