"""The networks: sequences of layers and nothing else."""

from __future__ import annotations

import itertools

from ddp import nn
from ddp.config import ModelConfig


def polynomial(degree: int) -> list[nn.Layer]:
    """w0 + w1 x + ... + w_d x^d (slide "A simple example (linear regression)")."""
    return [nn.Powers(degree), nn.Linear(degree + 1, 1, bias=False)]


def mlp(in_features: int, hidden: tuple[int, ...], num_classes: int, bias: bool) -> list[nn.Layer]:
    """W2 ReLU(W1 ReLU(W0 x)) (slide "A handwritten digits recognition"); the softmax is in the loss."""
    widths = (in_features, *hidden, num_classes)
    layers: list[nn.Layer] = [nn.Flatten()]
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs, bias=bias), nn.ReLU()]
    return layers[:-1]


def mnist_cnn(channels: int, height: int, width: int, num_classes: int, dropout: bool) -> list[nn.Layer]:
    """Two convolutions and two linear layers: the MNIST network of PyTorch's examples and the course's 21mnist."""
    ratios = (0.25, 0.5) if dropout else (0.0, 0.0)
    features = 64 * ((height - 4) // 2) * ((width - 4) // 2)
    return [
        nn.Conv2d(channels, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(ratios[0]),
        nn.Flatten(),
        nn.Linear(features, 128),
        nn.ReLU(),
        nn.Dropout(ratios[1]),
        nn.Linear(128, num_classes),
    ]


def build_model(config: ModelConfig, sample_shape: tuple[int, ...], num_classes: int, seed: int) -> nn.Sequential:
    """The configured network for samples of a shape, with its initial parameters.

    Args:
        config: the `model` section.
        sample_shape: (C, H, W), or (1,) for `polynomial`.
        num_classes: width of the last layer; unused by `polynomial`.
        seed: key of the initial parameters.

    Raises:
        ValueError: if the network cannot take samples of that shape.
    """
    if config.name == "polynomial":
        return nn.Sequential(*polynomial(config.degree), seed=seed)
    channels, height, width = sample_shape
    if config.name == "mlp":
        layers = mlp(channels * height * width, config.hidden, num_classes, config.bias)
    else:
        if min(height, width) < 6:
            raise ValueError(f"model.name = mnist_cnn needs images of at least 6x6 pixels, got {height}x{width}")
        layers = mnist_cnn(channels, height, width, num_classes, config.dropout)
    return nn.Sequential(*layers, seed=seed)


def build_loss(config: ModelConfig) -> nn.CrossEntropyLoss | nn.MSELoss:
    """The loss that belongs to the configured network."""
    return nn.MSELoss() if config.name == "polynomial" else nn.CrossEntropyLoss()
