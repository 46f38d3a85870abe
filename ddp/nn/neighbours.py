"""What layers of a network do for each other, so that no pass over memory is made for it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from ddp.nn.activation import Dropout, ReLU
from ddp.nn.batchnorm import BatchNorm2d
from ddp.nn.conv2d import Conv2d
from ddp.nn.flatten import Flatten
from ddp.nn.layer import Layer
from ddp.nn.linear import Linear
from ddp.nn.pool import MaxPool2d

ELEMENTWISE = (ReLU, Dropout)


def fuse_relus(layers: Sequence[Layer]) -> None:
    """Let the layers around each ReLU do its work, where they can; layers that change no value do not stand between."""
    layers = [layer for layer in layers if not (isinstance(layer, Flatten) or _drops_nothing(layer))]
    for index, (layer, following) in enumerate(itertools.pairwise(layers)):
        if isinstance(following, ReLU) and layer.can_fuse_relu:
            layer.applies_relu = following.is_applied = True
        if isinstance(following, Dropout):
            # Of a pooling's gradient too only that counts which the ReLU before it passes.
            following.masks_input = isinstance(_last(layers[: index + 1], MaxPool2d), ReLU)
        if isinstance(layer, ReLU) and (following.can_fuse_relu or following.masks_input):
            following.masks_input = layer.is_masked = True


def _drops_nothing(layer: Layer) -> bool:
    return isinstance(layer, Dropout) and layer.p == 0


def _last(layers: Sequence[Layer], ignored: type[Layer] | tuple[type[Layer], ...]) -> Layer | None:
    """The last layer that is of no ignored type."""
    return next((layer for layer in reversed(layers) if not isinstance(layer, ignored)), None)


def order_features(layers: Sequence[Layer]) -> None:
    """Let the Linear behind each Flatten take an image in its own order, (H, W, C), where the channels are known.

    The order of its weights follows from the channels alone, not from height and width: so it is settled before the
    network has seen an image.
    """
    for index, layer in enumerate(layers):
        if isinstance(layer, Flatten):
            layer.keeps_order = False
        elif isinstance(layer, Linear):
            layer.in_channels = 1
            flatten = _last(layers[:index], ELEMENTWISE)
            if isinstance(flatten, Flatten):
                channels = _image_channels(layers[: layers.index(flatten)])
                flatten.keeps_order = channels > 0 and layer.in_features % channels == 0
                layer.in_channels = channels if flatten.keeps_order else 1


def _image_channels(layers: Sequence[Layer]) -> int:
    """Channels of the last layer's output, an image; 0 if they are not known yet."""
    source = _last(layers, (*ELEMENTWISE, MaxPool2d, BatchNorm2d))
    return source.out_channels if isinstance(source, Conv2d) else 0
