"""SGD against closed forms, in float64 written out here."""

from __future__ import annotations

import numpy as np
import pytest

from ddp import nn
from ddp.config import OptimizerConfig
from ddp.kernels.update import make_blocks
from ddp.optim import SGD, build_optimizer

LR, MOMENTUM = 0.125, 0.5  # powers of two: exact in float32, as are sums of few products


def constant_gradient(steps: int, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0) -> float:
    """What is left of w = 8 after steps along the gradient 2, which is the sum 4 scaled by 1/2."""
    w, g = np.full(3, 8, np.float32), np.full(3, 4, np.float32)
    optimizer = SGD(w, g, momentum, nesterov, weight_decay)
    for _ in range(steps):
        optimizer.step(LR, 0.5)
    assert (g == 4).all()
    assert (w == w[0]).all()
    return float(w[0])


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_plain_sgd_falls_by_lr_times_gradient_each_step(steps: int) -> None:
    assert constant_gradient(steps) == 8 - steps * LR * 2


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_momentum_is_a_geometric_sum(steps: int) -> None:
    # v_n = g (1 - m^n) / (1 - m), so the way is lr g (n - m (1 - m^n) / (1 - m)) / (1 - m).
    way = LR * 2 * (steps - MOMENTUM * (1 - MOMENTUM**steps) / (1 - MOMENTUM)) / (1 - MOMENTUM)
    assert constant_gradient(steps, MOMENTUM) == pytest.approx(8 - way, rel=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_nesterov_looks_one_step_of_momentum_ahead(steps: int) -> None:
    velocities = [2 * (1 - MOMENTUM**n) / (1 - MOMENTUM) for n in range(1, steps + 1)]
    way = LR * sum(2 + MOMENTUM * v for v in velocities)
    assert constant_gradient(steps, MOMENTUM, nesterov=True) == pytest.approx(8 - way, rel=1e-6)


def test_weight_decay_alone_shrinks_geometrically() -> None:
    w, g = np.array([8, -4, 1], np.float32), np.zeros(3, np.float32)
    optimizer = SGD(w, g, weight_decay=0.5)
    for _ in range(10):
        optimizer.step(LR, 1.0)
    np.testing.assert_allclose(w, np.array([8, -4, 1]) * (1 - LR * 0.5) ** 10, rtol=1e-6)


def test_weight_decay_is_not_scaled_with_the_gradient() -> None:
    assert constant_gradient(1, weight_decay=0.25) == 8 - LR * (0.5 * 4 + 0.25 * 8)


def test_momentum_on_a_parabola_follows_its_linear_recurrence() -> None:
    # On the loss a w^2 / 2 the iterates obey w_{n+1} = (1 + m - lr a) w_n - m w_{n-1} (Polyak 1964).
    a, lr, momentum = 0.9, 0.3, 0.8
    w, g = np.array([1], np.float32), np.zeros(1, np.float32)
    optimizer = SGD(w, g, momentum)
    expected = [1.0, 1 - lr * a]
    for _ in range(30):
        expected.append((1 + momentum - lr * a) * expected[-1] - momentum * expected[-2])
    for value in expected[1:]:
        g[:] = a * w
        optimizer.step(lr, 1.0)
        assert w[0] == pytest.approx(value, abs=2e-6)


def test_state_is_what_a_checkpoint_must_keep() -> None:
    def steps(optimizer: SGD, number: int) -> None:
        for _ in range(number):
            optimizer.step(LR, 0.5)

    gradient = np.array([1, -2, 3], np.float32)
    straight = SGD(np.ones(3, np.float32), gradient, 0.9)
    steps(straight, 5)
    first = SGD(np.ones(3, np.float32), gradient, 0.9)
    steps(first, 2)
    second = SGD(first.parameters.copy(), gradient, 0.9)
    second.state["momentum"][:] = first.state["momentum"]
    steps(second, 3)
    assert second.parameters.tobytes() == straight.parameters.tobytes()
    assert SGD(np.ones(3, np.float32), gradient).state == {}


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_warm_up_leaves_everything_untouched(momentum: float) -> None:
    w, g = np.array([1, np.nan], np.float32), np.array([2, 3], np.float32)
    optimizer = SGD(w, g, momentum, weight_decay=0.1)
    for buffer in optimizer.state.values():
        buffer[:] = 7
    before = [array.tobytes() for array in (w, g, *optimizer.state.values())]
    optimizer.warm_up()
    assert [array.tobytes() for array in (w, g, *optimizer.state.values())] == before


def test_the_configured_optimizer_updates_the_models_buffers() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    before = model.parameters.astype(np.float64)
    model.gradient_sums[:] = np.arange(8)
    buffers = model.parameters, model.gradient_sums, make_blocks(model.parameter_slices.values())
    optimizer = build_optimizer(OptimizerConfig(momentum=0.9, nesterov=True, weight_decay=0.01), *buffers)
    optimizer.step(0.1, 0.5)
    direction = np.arange(8) * 0.5 + 0.01 * before
    np.testing.assert_allclose(model.parameters, before - 0.1 * 1.9 * direction, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(optimizer.state["momentum"], direction, rtol=1e-6)
