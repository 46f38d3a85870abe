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
    """Let the layers around each ReLU do its work, where they can."""
    for layer, following in itertools.pairwise(layers):
        if isinstance(following, ReLU) and layer.can_fuse_relu:
            layer.applies_relu = following.is_applied = True
        if isinstance(layer, ReLU) and following.can_fuse_relu:
            following.masks_input = layer.is_masked = True


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
            before = _without_elementwise(layers[:index])
            if before and isinstance(flatten := before.pop(), Flatten):
                channels = _image_channels(before)
                flatten.keeps_order = channels > 0 and layer.in_features % channels == 0
                layer.in_channels = channels if flatten.keeps_order else 1


def _without_elementwise(layers: Sequence[Layer]) -> list[Layer]:
    """The layers up to the last that does not work element by element."""
    kept = list(layers)
    while kept and isinstance(kept[-1], ELEMENTWISE):
        kept.pop()
    return kept


def _image_channels(layers: Sequence[Layer]) -> int:
    """Channels of the last layer's output, an image; 0 if they are not known yet."""
    for layer in reversed(layers):
        if isinstance(layer, Conv2d):
            return layer.out_channels
        if not isinstance(layer, (*ELEMENTWISE, MaxPool2d, BatchNorm2d)):
            break
    return 0
