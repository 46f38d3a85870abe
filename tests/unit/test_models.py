"""The networks: shapes, parameter counts, and what they compute, in the slides' words."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ddp import nn
from ddp.config import ModelConfig
from ddp.kernels import reference
from ddp.models import build_loss, build_model


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


# Counted by hand: the sum over the layers of out x in (x kernel area), and a bias for each output.
@pytest.mark.parametrize(
    ("config", "shape", "parameters"),
    [
        (ModelConfig(), (1, 8, 8), 64 * 512 + 512 * 512 + 512 * 10),
        (ModelConfig(bias=True), (1, 8, 8), 300_032 + 512 + 512 + 10),
        (ModelConfig(hidden=()), (3, 4, 5), 60 * 10),
        (ModelConfig(hidden=(7,), bias=True), (2, 3, 3), 18 * 7 + 7 + 7 * 10 + 10),
        (ModelConfig(name="mnist_cnn"), (1, 28, 28), 1_199_882),
        (ModelConfig(name="mnist_cnn"), (3, 7, 10), 27 * 32 + 32 + 288 * 64 + 64 + 64 * 1 * 3 * 128 + 128 + 1290),
    ],
)
def test_outputs_and_number_of_parameters(config: ModelConfig, shape: tuple[int, ...], parameters: int) -> None:
    model = build_model(config, shape, 10, seed=1)
    assert model.num_parameters == parameters
    assert sum(tensor.size for tensor in model.state_dict().values()) == parameters
    assert model.forward(images(3, *shape), training=True).shape == (3, 10)


def test_the_default_mlp_has_the_slides_300032_parameters() -> None:
    assert build_model(ModelConfig(), (1, 8, 8), 10, seed=0).num_parameters == 300_032


@pytest.mark.parametrize("dropout", [True, False])
def test_mnist_cnn_is_the_network_of_21mnist(dropout: bool) -> None:
    model = build_model(ModelConfig(name="mnist_cnn", dropout=dropout), (1, 28, 28), 10, seed=0)
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == {
        "0.weight": (32, 1, 3, 3),
        "0.bias": (32,),
        "2.weight": (64, 32, 3, 3),
        "2.bias": (64,),
        "7.weight": (128, 9216),
        "7.bias": (128,),
        "10.weight": (10, 128),
        "10.bias": (10,),
    }
    ratios = [layer.p for layer in model.layers if isinstance(layer, nn.Dropout)]
    assert ratios == ([0.25, 0.5] if dropout else [0, 0])


def test_mlp_is_w2_relu_w1_relu_w0_x() -> None:
    model = build_model(ModelConfig(hidden=(16, 9)), (2, 3, 4), 5, seed=3)
    x = images(6, 2, 3, 4)
    w0, w1, w2 = (tensor.astype(np.float64) for tensor in model.state_dict().values())
    expected = np.maximum(np.maximum(x.reshape(6, 24) @ w0.T, 0) @ w1.T, 0) @ w2.T
    np.testing.assert_allclose(model.forward(x, training=True), expected, atol=1e-6)


@pytest.mark.parametrize("degree", [0, 1, 4])
def test_polynomial_is_the_polynomial_of_its_weights(degree: int) -> None:
    model = build_model(ModelConfig(name="polynomial", degree=degree), (1,), 0, seed=3)
    coefficients = np.linspace(-1, 2, degree + 1, dtype=np.float32)
    model.load_state_dict({"1.weight": coefficients[None]})
    x = np.linspace(-1, 1, 11, dtype=np.float32)[:, None]
    expected = np.polynomial.polynomial.polyval(x.astype(np.float64), coefficients)
    np.testing.assert_allclose(model.forward(x, training=True), expected, atol=1e-6)


def convolutions(*channels: int) -> int:
    """Parameters of 3x3 convolutions without bias, each with the factors and offsets of its normalisation."""
    return sum(9 * ic * oc + 2 * oc for ic, oc in itertools.pairwise(channels))


VGG_11 = convolutions(3, 64, 128, 256, 256, 512, 512, 512, 512)
VGG_16 = convolutions(3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)


@pytest.mark.parametrize(
    ("depth", "size", "parameters"),
    [
        (11, (32, 32), VGG_11 + 512 * 10 + 10),
        (11, (64, 37), VGG_11 + 1024 * 10 + 10),
        (16, (32, 32), VGG_16 + 512 * 512 + 2 * 512 + 512 * 10),
    ],
)
def test_vgg_has_the_parameters_counted_by_hand(depth: int, size: tuple[int, int], parameters: int) -> None:
    model = build_model(ModelConfig(name="vgg", depth=depth), (3, *size), 10, seed=0)
    assert model.num_parameters == parameters
    assert model.forward(images(2, 3, *size), training=False).shape == (2, 10)
    assert sum(isinstance(layer, nn.Conv2d) for layer in model.layers) == {11: 8, 16: 13}[depth]


def test_flops_of_vgg_11_are_those_of_its_products() -> None:
    model = build_model(ModelConfig(name="vgg"), (3, 32, 32), 10, seed=0)
    model.build((3, 32, 32), 1)
    channels, sizes = (3, 64, 128, 256, 256, 512, 512, 512, 512), (32, 16, 8, 8, 4, 4, 2, 2)
    layers = [9 * ic * oc * size**2 for (ic, oc), size in zip(itertools.pairwise(channels), sizes, strict=True)]
    assert model.flops() == 2 * (3 * (sum(layers) + 512 * 10) - layers[0])


@pytest.mark.parametrize(("dropout", "ratios"), [(False, [0.0] * 10), (True, [0.3, *[0.4] * 7, 0.5, 0.5])])
def test_vgg_16_is_the_network_of_20vgg(dropout: bool, ratios: list[float]) -> None:
    model = build_model(ModelConfig(name="vgg", depth=16, dropout=dropout), (3, 32, 32), 10, seed=0)
    assert [layer.p for layer in model.layers if isinstance(layer, nn.Dropout)] == ratios
    assert {layer.eps for layer in model.layers if isinstance(layer, nn.BatchNorm)} == {2e-5}
    assert not any(layer.has_bias for layer in model.layers if isinstance(layer, nn.Conv2d | nn.Linear))
    tail = [type(layer).__name__ for layer in model.layers[-8:]]
    assert tail == ["MaxPool2d", "Flatten", "Dropout", "Linear", "BatchNorm1d", "ReLU", "Dropout", "Linear"]


@pytest.mark.parametrize("size", [(31, 32), (32, 8)])
def test_vgg_refuses_images_that_are_too_small(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"vgg needs images of at least 32x32 pixels, got {size[0]}x{size[1]}"):
        build_model(ModelConfig(name="vgg"), (3, *size), 10, seed=0)


@pytest.mark.parametrize("shape", [(1, 5, 28), (1, 28, 5), (3, 1, 1)])
def test_mnist_cnn_refuses_images_that_are_too_small(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"mnist_cnn needs images of at least 6x6 pixels, got {shape[1]}x{shape[2]}"):
        build_model(ModelConfig(name="mnist_cnn"), shape, 10, seed=0)


def test_mnist_cnn_takes_the_smallest_image() -> None:
    model = build_model(ModelConfig(name="mnist_cnn"), (1, 6, 6), 10, seed=0)
    assert model.forward(images(2, 1, 6, 6), training=False).shape == (2, 10)


def test_initial_parameters_are_a_function_of_the_seed() -> None:
    config = ModelConfig(hidden=(50,), bias=True)
    first, again, other = (build_model(config, (1, 8, 8), 10, seed) for seed in (5, 5, 6))
    assert first.parameters.tobytes() == again.parameters.tobytes()
    assert not np.any(first.parameters == other.parameters)


def test_initial_parameters_are_uniform_within_one_over_the_root_of_fan_in() -> None:
    model = build_model(ModelConfig(name="mnist_cnn"), (1, 28, 28), 10, seed=0)
    fan_in = {"0": 9, "2": 32 * 9, "7": 9216, "10": 128}
    for name, tensor in model.state_dict().items():
        bound = fan_in[name.split(".")[0]] ** -0.5
        assert np.abs(tensor).max() <= bound * (1 + 1e-6)
        # The mean of n uniform draws has the standard deviation bound / sqrt(3 n); their square bound^2 / 3.
        assert abs(tensor.mean(dtype=np.float64)) < 5 * bound / np.sqrt(3 * tensor.size)
        if tensor.size > 1000:
            assert tensor.std(dtype=np.float64) == pytest.approx(bound / np.sqrt(3), rel=0.05)


def test_the_loss_belongs_to_the_model() -> None:
    y = images(4, 3)
    labels = np.array([0, 2, 1, 1])
    expected = reference.softmax_cross_entropy(y.astype(np.float64), reference.one_hot(labels, 3))[0].sum()
    assert build_loss(ModelConfig(name="mnist_cnn")).forward(y, labels) == pytest.approx(expected, rel=1e-6)
    targets = images(4, 3)[::-1].copy()
    squares = ((y.astype(np.float64) - targets) ** 2).sum()
    assert build_loss(ModelConfig(name="polynomial")).forward(y, targets) == pytest.approx(squares, rel=1e-6)
