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


def mnist_cnn(channels: int, height: int, width: int, num_classes: int, dropout: bool, method: str) -> list[nn.Layer]:
    """Two convolutions and two linear layers: the MNIST network of PyTorch's examples and the course's 21mnist."""
    ratios = (0.25, 0.5) if dropout else (0.0, 0.0)
    features = 64 * ((height - 4) // 2) * ((width - 4) // 2)
    return [
        nn.Conv2d(channels, 32, 3, method=method),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, method=method),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(ratios[0]),
        nn.Flatten(),
        nn.Linear(features, 128),
        nn.ReLU(),
        nn.Dropout(ratios[1]),
        nn.Linear(128, num_classes),
    ]


# Channels of the 3x3 convolutions; 0 is a 2x2 max pooling.
VGG_BLOCKS = {
    11: (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0),
    16: (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0),
}
VGG_SHRINK = 32  # five poolings halve the image


def vgg(
    channels: int, height: int, width: int, num_classes: int, depth: int, dropout: bool, convolution: str = "auto"
) -> list[nn.Layer]:
    """Blocks of 3x3 convolution, batch normalisation and ReLU between max poolings.

    Depth 11 has one linear layer behind them (K. Simonyan and A. Zisserman, ICLR 2015, configuration A, with the
    small head usual for 32x32 images); depth 16 has two, without bias, and is the course's 20vgg, which is the VGG of
    Chainer's CIFAR examples.
    """
    layers: list[nn.Layer] = []
    eps, blocks = (1e-5, VGG_BLOCKS[11]) if depth == 11 else (2e-5, VGG_BLOCKS[16])
    for outputs, following in itertools.pairwise((*blocks, 0)):
        if outputs == 0:
            layers.append(nn.MaxPool2d(2))
            continue
        layers.append(nn.Conv2d(channels, outputs, 3, padding=1, bias=False, method=convolution))
        layers += [nn.BatchNorm2d(outputs, eps), nn.ReLU()]
        if depth == 16 and following:
            layers.append(nn.Dropout((0.3 if outputs == 64 else 0.4) if dropout else 0.0))
        channels = outputs
    features = channels * (height // VGG_SHRINK) * (width // VGG_SHRINK)
    if depth == 11:
        return [*layers, nn.Flatten(), nn.Linear(features, num_classes)]
    ratio = 0.5 if dropout else 0.0
    layers += [nn.Flatten(), nn.Dropout(ratio), nn.Linear(features, 512, bias=False), nn.BatchNorm1d(512, eps)]
    return [*layers, nn.ReLU(), nn.Dropout(ratio), nn.Linear(512, num_classes, bias=False)]


def build_model(
    config: ModelConfig, sample_shape: tuple[int, ...], num_classes: int, seed: int, exact: bool = False
) -> nn.Sequential:
    """The configured network for samples of a shape, with its initial parameters.

    Args:
        config: the `model` section.
        sample_shape: (C, H, W), or (1,) for `polynomial`.
        num_classes: width of the last layer; unused by `polynomial`.
        seed: key of the initial parameters.
        exact: whether gradients are summed in fixed point.

    Raises:
        ValueError: if the network cannot take samples of that shape.
    """
    if config.name == "polynomial":
        return nn.Sequential(*polynomial(config.degree), seed=seed, exact=exact)
    channels, height, width = sample_shape
    if config.name == "mlp":
        layers = mlp(channels * height * width, config.hidden, num_classes, config.bias)
    else:
        smallest = VGG_SHRINK if config.name == "vgg" else 6
        if min(height, width) < smallest:
            raise ValueError(
                f"model.name = {config.name} needs images of at least {smallest}x{smallest} pixels,"
                f" got {height}x{width}"
            )
        if config.name == "vgg":
            layers = vgg(channels, height, width, num_classes, config.depth, config.dropout, config.convolution)
        else:
            layers = mnist_cnn(channels, height, width, num_classes, config.dropout, config.convolution)
    return nn.Sequential(*layers, seed=seed, exact=exact)


def build_loss(config: ModelConfig) -> nn.CrossEntropyLoss | nn.MSELoss:
    """The loss that belongs to the configured network."""
    return nn.MSELoss() if config.name == "polynomial" else nn.CrossEntropyLoss()
