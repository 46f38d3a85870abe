"""Whole networks: their gradients, their shards, their state dicts and their workspaces."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddp import nn
from ddp.kernels import reference

STEP = 2e-3
SEEDS = st.integers(0, 2**32 - 1)

Array = Any


def random(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def f64(*arrays: Array) -> list[Array]:
    return [np.asarray(a, np.float64) for a in arrays]


def small_cnn(seed: int = 0) -> nn.Sequential:
    """Every kind of layer; images of 2 channels, and more channels than pixels behind them."""
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 5, 2, bias=False),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(5 * 2 * 3, 9),
        nn.ReLU(),
        nn.Linear(9, 4),
        seed=seed,
    )


def reference_of_small_cnn(state: dict[str, Array], x: Array, dy: Array) -> tuple[Array, Array, dict[str, Array]]:
    """`small_cnn` in float64, written out: outputs, input gradient, parameter gradients."""
    w = {name: tensor.astype(np.float64) for name, tensor in state.items()}
    a0 = reference.conv2d_forward(x, w["0.weight"], w["0.bias"], 1)
    a1 = reference.relu_forward(a0)
    a2 = reference.conv2d_forward(a1, w["2.weight"], np.zeros(5), 0)
    a3 = reference.relu_forward(a2)
    a4, argmax = reference.max_pool2d_forward(a3, 2)
    a5 = reference.flatten_forward(a4)
    a7 = reference.relu_forward(reference.linear_forward(a5, w["6.weight"], w["6.bias"]))
    y = reference.linear_forward(a7, w["8.weight"], w["8.bias"])
    d7 = reference.relu_backward(a7, reference.linear_backward_input(dy, w["8.weight"]))
    d4 = reference.flatten_backward(reference.linear_backward_input(d7, w["6.weight"]), a4.shape[1:])
    d2 = reference.relu_backward(a3, reference.max_pool2d_backward(d4, argmax, 2, a3.shape[2:]))
    d0 = reference.relu_backward(a1, reference.conv2d_backward_input(d2, w["2.weight"], 0, a1.shape[2:]))
    gradients = {
        "0.weight": reference.conv2d_backward_weight(x, d0, 3, 1),
        "0.bias": reference.conv2d_backward_bias(d0),
        "2.weight": reference.conv2d_backward_weight(a1, d2, 2, 0),
        "6.weight": reference.linear_backward_weight(a5, d7),
        "6.bias": reference.linear_backward_bias(d7),
        "8.weight": reference.linear_backward_weight(a7, dy),
        "8.bias": reference.linear_backward_bias(dy),
    }
    return y, reference.conv2d_backward_input(d0, w["0.weight"], 1, x.shape[2:]), gradients


def assert_norm_close(found: Array, expected: Array, relative: float) -> None:
    assert found.shape == expected.shape
    assert np.linalg.norm(found - expected) <= relative * np.linalg.norm(expected)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_whole_network_is_the_composition_of_the_equations(seed: int) -> None:
    model, x = small_cnn(seed), random(seed, 3, 2, 5, 7)
    y = model.forward(x, training=True).copy()
    dy = random(seed + 1, *y.shape)
    dx, gradients = model.backward(dy), model.gradient_dict()
    expected_y, expected_dx, expected = reference_of_small_cnn(model.state_dict(), *f64(x, dy))
    assert_norm_close(y, expected_y, 1e-6)
    assert_norm_close(dx, expected_dx, 1e-6)
    assert list(gradients) == list(expected)
    for name, gradient in gradients.items():
        assert_norm_close(gradient, expected[name], 1e-6)


def pattern(model: nn.Sequential, batch: int) -> list[bytes]:
    """On which side of each kink of ReLU and max pooling the last forward was."""
    active = [layer.output > 0 for layer in model.layers if isinstance(layer, nn.ReLU)]
    chosen = [layer.argmax[:batch] for layer in model.layers if isinstance(layer, nn.MaxPool2d)]
    return [array.tobytes() for array in active + chosen]


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_gradients_against_central_differences(seed: int) -> None:
    """21mnist's `grad_check.h`: L(w + d/2) - L(w - d/2) is <dL/dw, d> but for terms of third order."""
    model, loss = small_cnn(seed), nn.CrossEntropyLoss()
    x, w, t = random(seed, 2, 2, 5, 7), 3 * model.parameters, np.array([0, 3])

    def loss_at(direction: Array, input_direction: Array) -> tuple[float, list[bytes]]:
        model.parameters[:] = w + direction
        y = model.forward((x + input_direction).astype(np.float32), training=True)
        return loss.forward(y, t), pattern(model, len(x))

    def difference_away_from_kinks(direction: Array, input_direction: Array) -> tuple[float, float]:
        """The difference for the first of STEP, STEP / 2, ... that crosses no kink, and that step."""
        for step in STEP / 2 ** np.arange(7):
            (upper, above), (lower, below) = (
                loss_at(sign * step / 2 * direction, sign * step / 2 * input_direction) for sign in (1, -1)
            )
            if above == below == sides:
                return upper - lower, step
        raise AssertionError("too close to a kink: take another seed")

    _, sides = loss_at(np.zeros(w.size), np.zeros(x.shape))
    dx, gradient = model.backward(loss.backward()).copy(), model.gradient_sums.copy()
    generator = np.random.default_rng(seed)
    for where in [*model.parameter_slices.values(), None]:
        direction, input_direction = np.zeros(w.size), np.zeros(x.shape)
        own, moved = (dx, input_direction) if where is None else (gradient[where], direction[where])
        moved[...] = generator.choice([-1, 1], moved.shape)
        difference, step = difference_away_from_kinks(direction, input_direction)
        # <gradient, random signs> is of the size of the gradient's norm. Measured errors are up to 3e-4 of
        # that, from the float32 losses, whose sum of about 4 is off by some 2^-24 of it.
        assert np.linalg.norm(own) > 1
        tolerance = 2e-3 * step * float(np.linalg.norm(own))
        assert difference == pytest.approx(step * float(np.vdot(own, moved)), abs=tolerance)


def shard_bounds(batch: int) -> st.SearchStrategy[Array]:
    inner = st.lists(st.integers(0, batch), max_size=6)
    return inner.map(lambda cuts: np.array([0, *sorted(cuts), batch]))


@given(shard_bounds(9), SEEDS)
def test_any_split_into_shards_has_the_same_sums(shards: Array, seed: int) -> None:
    model, x = small_cnn(seed), random(seed, 9, 2, 5, 7)
    y = model.forward(x, training=True)
    dy = random(seed + 1, *y.shape)
    dx = model.backward(dy).copy()
    whole = model.gradient_sums.copy()
    np.testing.assert_array_equal(model.backward(dy, shards), dx)
    split = model.gradient_sums
    for where in model.parameter_slices.values():
        assert_norm_close(split[where], whole[where], 1e-6)


def test_gradients_are_overwritten_not_added_to() -> None:
    model, x = small_cnn(), random(0, 3, 2, 5, 7)
    dy = random(1, *model.forward(x, training=True).shape)
    model.backward(dy)
    first = model.gradient_sums.tobytes()
    model.backward(dy)
    assert model.gradient_sums.tobytes() == first


def test_gradients_are_sums_over_the_samples() -> None:
    model, x = small_cnn(), random(0, 4, 2, 5, 7)
    dy = random(1, 4, 4)
    model.forward(x, training=True)
    model.backward(dy)
    together, alone = model.gradient_sums.copy(), np.zeros(model.num_parameters)
    for sample in range(4):
        model.forward(x[sample : sample + 1], training=True)
        model.backward(dy[sample : sample + 1])
        alone += model.gradient_sums
    assert_norm_close(together, alone, 1e-6)


def test_without_input_gradient_the_parameters_gradients_are_the_same() -> None:
    model, x = small_cnn(), random(0, 3, 2, 5, 7)
    dy = random(1, *model.forward(x, training=True).shape)
    model.backward(dy)
    with_it = model.gradient_sums.tobytes()
    model.gradient_sums[:] = np.nan
    model.backward(dy, input_gradient=False)
    assert model.gradient_sums.tobytes() == with_it


def test_no_samples_give_no_outputs_and_zero_gradients() -> None:
    model = small_cnn()
    y = model.forward(np.empty((0, 2, 5, 7), np.float32), training=True)
    assert y.shape == (0, 4)
    assert model.backward(y, np.array([0, 0, 0])).shape == (0, 2, 5, 7)
    assert not model.gradient_sums.any()


# --- State dicts ------------------------------------------------------------------------------------


def test_state_dict_has_pytorchs_names_shapes_and_order() -> None:
    state = small_cnn().state_dict()
    assert {name: tensor.shape for name, tensor in state.items()} == {
        "0.weight": (6, 2, 3, 3),
        "0.bias": (6,),
        "2.weight": (5, 6, 2, 2),
        "6.weight": (9, 30),
        "6.bias": (9,),
        "8.weight": (4, 9),
        "8.bias": (4,),
    }
    assert list(state) == ["0.weight", "0.bias", "2.weight", "6.weight", "6.bias", "8.weight", "8.bias"]
    assert all(tensor.dtype == np.float32 and tensor.flags.c_contiguous for tensor in state.values())


def test_state_dict_holds_copies() -> None:
    model = small_cnn()
    before = model.parameters.copy()
    for tensor in model.state_dict().values():
        tensor[...] = 0
    np.testing.assert_array_equal(model.parameters, before)


def test_load_state_dict_is_the_inverse_of_state_dict() -> None:
    model, other = small_cnn(seed=1), small_cnn(seed=2)
    state = model.state_dict()
    other.load_state_dict(dict(reversed(state.items())))
    assert other.parameters.tobytes() == model.parameters.tobytes()
    numbers = {name: np.arange(tensor.size, dtype=np.float32).reshape(tensor.shape) for name, tensor in state.items()}
    other.load_state_dict(numbers)
    for name, tensor in other.state_dict().items():
        np.testing.assert_array_equal(tensor, numbers[name])


def without(state: dict[str, Array], name: str) -> dict[str, Array]:
    return {key: tensor for key, tensor in state.items() if key != name}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: without(s, "6.bias"), r"6\.bias has shape None, the model needs \(9,\)"),
        (
            lambda s: s | {"7.weight": np.zeros((2, 2), np.float32)},
            r"7\.weight has shape \(2, 2\), the model needs None",
        ),
        (lambda s: s | {"8.weight": s["8.weight"].T}, r"8\.weight has shape \(9, 4\), the model needs \(4, 9\)"),
        (lambda s: s | {"8.bias": s["8.bias"][:, None]}, r"8\.bias has shape \(4, 1\), the model needs \(4,\)"),
        (lambda s: {}, r"0\.bias has shape None"),
    ],
)
def test_a_state_dict_that_does_not_fit_changes_nothing(spoil: Callable[..., Any], message: str) -> None:
    model = small_cnn(seed=1)
    before = model.parameters.tobytes()
    with pytest.raises(ValueError, match=message):
        model.load_state_dict(spoil(small_cnn(seed=2).state_dict()))
    assert model.parameters.tobytes() == before


# --- Workspaces -------------------------------------------------------------------------------------


def test_larger_batches_and_other_images_rebuild_the_workspaces() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 2), nn.MaxPool2d(2), seed=5)
    w = [tensor.astype(np.float64) for tensor in model.state_dict().values()]
    for shape in [(2, 2, 5, 6), (5, 2, 5, 6), (1, 2, 5, 6), (2, 2, 8, 4), (2, 2, 5, 6)]:
        x = random(0, *shape)
        a1 = reference.relu_forward(reference.conv2d_forward(*f64(x), w[0], w[1], 1))
        a2 = reference.conv2d_forward(a1, w[2], w[3], 0)
        y, argmax = reference.max_pool2d_forward(a2, 2)
        dy = random(1, *y.shape)
        d2 = reference.max_pool2d_backward(*f64(dy), argmax, 2, a2.shape[2:])
        d1 = reference.relu_backward(a1, reference.conv2d_backward_input(d2, w[2], 0, a1.shape[2:]))
        assert_norm_close(model.forward(x, training=True), y, 1e-6)
        assert_norm_close(model.backward(dy), reference.conv2d_backward_input(d1, w[0], 1, x.shape[2:]), 1e-6)


def test_a_batch_that_fits_reuses_the_workspaces() -> None:
    model = small_cnn()
    first = model.forward(random(0, 5, 2, 5, 7), training=True)
    assert np.shares_memory(first, model.forward(random(1, 3, 2, 5, 7), training=True))
    assert not np.shares_memory(first, model.forward(random(1, 6, 2, 5, 7), training=True))


def test_workspaces_begin_with_a_cache_line() -> None:
    model = small_cnn()
    model.build((2, 5, 7), 3)
    workspaces = [a for layer in model.layers for a in (layer.y, layer.dx) if a.size]
    assert len(workspaces) == 2 * (len(model.layers) - 1)  # Flatten has none
    assert all(a.ctypes.data % 64 == 0 for a in workspaces)


@pytest.mark.parametrize(
    ("layers", "shape", "message"),
    [
        ([nn.Linear(4, 3)], (5,), r"layer 0 \(Linear\): Linear takes samples of shape \(4,\), got \(5,\)"),
        ([nn.Flatten(), nn.Linear(4, 3)], (2, 3, 3), r"layer 1 \(Linear\)"),
        ([nn.Linear(4, 3), nn.Conv2d(1, 1, 1)], (4,), r"layer 1 \(Conv2d\): Conv2d takes images of 1 channels"),
        ([nn.Conv2d(2, 3, 3)], (1, 5, 5), r"layer 0 \(Conv2d\): Conv2d takes images of 2 channels"),
        ([nn.Conv2d(2, 3, 3)], (2, 2, 5), "needs a larger image"),
        ([nn.MaxPool2d(3)], (2, 2, 5), r"layer 0 \(MaxPool2d\): MaxPool2d\(3\) needs a larger image"),
        ([nn.Powers(2)], (3,), r"Powers takes samples of shape \(1,\)"),
    ],
)
def test_layers_that_do_not_fit_are_named(layers: list[nn.Layer], shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nn.Sequential(*layers).forward(np.zeros((1, *shape), np.float32), training=False)


def test_flops_count_three_passes_but_for_the_first_layers_input_gradient() -> None:
    model = small_cnn()
    model.forward(random(0, 1, 2, 5, 7), training=True)
    multiply_adds = {"conv 0": 9 * 2 * 6 * 35 * 2, "conv 2": 4 * 6 * 5 * 24 * 3, "linear": (30 * 9 + 9 * 4) * 3}
    assert model.flops() == 2 * sum(multiply_adds.values())


def test_workspaces_are_proportional_to_the_batch() -> None:
    sizes = []
    for capacity in (0, 10, 20, 50):
        model = small_cnn()
        model.build((2, 5, 7), capacity)
        sizes.append(model.workspace_bytes())
    fixed, ten, *_ = sizes
    assert [size - fixed for size in sizes] == [0, ten - fixed, 2 * (ten - fixed), 5 * (ten - fixed)]
    outputs = 4 * (6 * 35 + 6 * 35 + 5 * 24)  # of the convolutions and a ReLU, float32
    assert ten - fixed > 10 * outputs
    model.forward(random(0, 50, 2, 5, 7), training=True)
    assert model.workspace_bytes() == sizes[-1]


def test_parameters_of_a_network_do_not_overlap() -> None:
    slices = list(small_cnn().parameter_slices.values())
    assert slices[0].start == 0
    assert slices[-1].stop == small_cnn().num_parameters
    assert all(before.stop == after.start for before, after in itertools.pairwise(slices))
