"""What layers do for each other changes where work is done, not what a network computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from ddp import nn
from ddp.kernels import reference
from ddp.rng import Purpose, random_words, uniform

IMAGE = (3, 6, 8)
SHAPE = (4, 3, 4)  # (C, H, W) behind the convolution and the pooling
FEATURES = 48


def convolution() -> list[nn.Layer]:
    return [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]


def images(seed: int = 0, batch: int = 5, shape: tuple[int, ...] = IMAGE) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((batch, *shape)).astype(np.float32)


ORDERED = {
    "at once": [nn.Flatten],
    "behind normalisation": [lambda: nn.BatchNorm2d(4), nn.Flatten],
    "with a ReLU between": [nn.Flatten, nn.ReLU],
    "with dropout between": [nn.Flatten, lambda: nn.Dropout(0.5), nn.ReLU],
}
COPIED = {
    "unknown channels": (False, [lambda: nn.MaxPool2d(1), nn.Flatten]),
    "normalisation between": (True, [nn.Flatten, lambda: nn.BatchNorm1d(FEATURES)]),
}


def network(layers: Sequence[nn.Layer], seed: int = 3) -> nn.Sequential:
    return nn.Sequential(*layers, nn.Linear(FEATURES, 7), seed=seed)


def flatten_of(model: nn.Sequential) -> nn.Flatten:
    return next(layer for layer in model.layers if isinstance(layer, nn.Flatten))


@pytest.mark.parametrize("between", ORDERED.values(), ids=ORDERED)
def test_flatten_in_front_of_a_linear_moves_nothing(between: list[type[nn.Layer]]) -> None:
    model = network([*convolution(), *(make() for make in between)])
    flatten, x = flatten_of(model), images()
    y = model.forward(x, training=True)
    model.backward(np.ones_like(y))
    before = model.layers[model.layers.index(flatten) - 1]
    assert np.shares_memory(flatten.forward(before.y, True, None), before.y)
    assert flatten.workspace_bytes() == 0


@pytest.mark.parametrize(("has_channels", "between"), COPIED.values(), ids=COPIED)
def test_elsewhere_it_has_pytorchs_order(has_channels: bool, between: list[type[nn.Layer]]) -> None:
    model = network([*(convolution() if has_channels else []), *(make() for make in between)])
    model.forward(images(shape=IMAGE if has_channels else SHAPE), training=True)
    assert not flatten_of(model).is_view


@pytest.mark.parametrize("between", [ORDERED["at once"], ORDERED["behind normalisation"]], ids=["plain", "norm"])
def test_outputs_and_gradients_are_those_of_flattening_by_pytorch(between: list[type[nn.Layer]]) -> None:
    """The same layers as two networks, the image between them made public: there (C, H, W) cannot but hold."""
    whole = network([*convolution(), *(make() for make in between)])
    head = nn.Sequential(*convolution(), *(make() for make in between[:-1]))
    tail = nn.Sequential(nn.Flatten(), nn.Linear(FEATURES, 7))
    state, last = whole.state_dict(), len(whole.layers) - 1
    head.load_state_dict({name: value for name, value in state.items() if not name.startswith(f"{last}.")})
    tail.load_state_dict({f"1.{kind}": state[f"{last}.{kind}"] for kind in ("weight", "bias")})
    y = whole.forward(images(), training=True)
    dy = images(1, shape=(7,))
    dx, gradients = whole.backward(dy), whole.gradient_dict()
    between_y = head.forward(images(), training=True)
    np.testing.assert_allclose(tail.forward(between_y, training=True), y, rtol=0, atol=1e-5)
    np.testing.assert_allclose(head.backward(tail.backward(dy).copy()), dx, rtol=0, atol=1e-5)
    for kind in "weight", "bias":
        np.testing.assert_allclose(tail.gradient_dict()[f"1.{kind}"], gradients[f"{last}.{kind}"], rtol=0, atol=1e-4)


def test_initial_weights_are_drawn_in_the_state_dicts_order() -> None:
    model = network([*convolution(), nn.Flatten()], seed=9)
    number = list(model.specs).index("4.weight")
    draws = uniform(9, Purpose.INITIALIZE, number, 0, [0], 7 * FEATURES)[0]
    expected = ((2 * draws - 1) * np.float32(1 / np.sqrt(FEATURES))).reshape(7, FEATURES)
    assert model.state_dict()["4.weight"].tobytes() == expected.tobytes()
    inside = model.parameters[model.parameter_slices["4.weight"]]
    assert inside.tobytes() != expected.tobytes()
    assert sorted(inside) == sorted(expected.reshape(-1))


def test_other_images_with_as_many_features_need_no_other_weights() -> None:
    """Height and width change places: as a network of PyTorch, it takes them with the weights that it has."""
    model = network([*convolution(), nn.Flatten()])
    model.forward(images(), training=True)
    state = model.state_dict()
    x = images(1, shape=(3, 8, 6))
    again = network([*convolution(), nn.Flatten()], seed=4)
    again.load_state_dict(state)
    assert model.forward(x, training=True).tobytes() == again.forward(x, training=True).tobytes()


def test_part_of_a_network_flattens_as_pytorch() -> None:
    layers = [*convolution(), nn.Flatten(), nn.Linear(FEATURES, 7)]
    nn.Sequential(*layers)
    image = nn.Sequential(*layers[:3], seed=1).forward(images(), training=True).copy()
    assert nn.Sequential(*layers[:4], seed=1).forward(images(), training=True).tobytes() == image.tobytes()


def test_a_wrong_number_of_features_is_named_when_the_image_comes() -> None:
    model = nn.Sequential(*convolution(), nn.Flatten(), nn.Linear(FEATURES + 1, 7))
    with pytest.raises(ValueError, match=r"layer 4 \(Linear\): Linear takes samples of shape \(49,\), got \(48,\)"):
        model.forward(images(), training=True)


def linear(outputs: int = FEATURES) -> nn.Linear:
    return nn.Linear(FEATURES, outputs)


RELU_WITHOUT_A_PASS = {
    "Linear": lambda: [nn.ReLU(), linear()],
    "MaxPool2d": lambda: [nn.ReLU(), nn.MaxPool2d(2)],
    "Flatten and Linear": lambda: [nn.ReLU(), nn.Flatten(), linear()],
    "no dropout and Linear": lambda: [nn.ReLU(), nn.Dropout(0), linear()],
    "Dropout": lambda: [nn.ReLU(), nn.Dropout(0.5)],
}


@pytest.mark.parametrize("make", RELU_WITHOUT_A_PASS.values(), ids=RELU_WITHOUT_A_PASS)
def test_the_layer_behind_takes_on_a_relus_derivative(make: Callable[[], list[nn.Layer]]) -> None:
    relu, *others = make()
    model = nn.Sequential(relu, *others)
    needs_image = any(isinstance(layer, nn.MaxPool2d | nn.Flatten) for layer in others)
    x = images(shape=SHAPE if needs_image else (FEATURES,))
    y = model.forward(x, training=True)
    dx = model.backward(np.ones_like(y))
    assert relu.backward(relu.y, np.array([0, len(x)]), True) is relu.y
    assert not dx[x <= 0].any()
    assert (dx[x > 0] != 0).any()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [1, 2])
def test_dropout_behind_a_relu_passes_what_the_reference_passes(size: int, training: bool) -> None:
    """Directly, or with a pooling between; in training a forward pass drops, and in evaluation it does not."""
    layers = nn.ReLU(), *([nn.MaxPool2d(size)] if size > 1 else []), nn.Dropout(0.25)
    model, x = nn.Sequential(*layers), images()
    x[0] = -1
    y = model.forward(x, training, nn.Draws(5, 2, np.arange(len(x)))).copy()
    dy = images(1, shape=y.shape[1:])
    dx = model.backward(dy)
    words = random_words(5, Purpose.DROPOUT, len(layers) - 1, 2, np.arange(len(x)), y[0].size)
    kept = np.moveaxis((words >= round(0.25 * 2**32)).reshape(len(x), *y.shape[2:], 3), 3, 1)
    mask = kept / 0.75 if training else np.ones(y.shape)
    positive = reference.relu_forward(x.astype(np.float64))
    pooled, argmax = reference.max_pool2d_forward(positive, size)
    np.testing.assert_allclose(y, pooled * mask, rtol=1e-6)
    dpositive = reference.max_pool2d_backward(dy * mask, argmax, size, x.shape[2:])
    np.testing.assert_allclose(dx, reference.relu_backward(positive, dpositive), rtol=1e-6)
