"""Changes of layout: images to vectors, and the network's channels-last inside to its (C, H, W) outside."""

from __future__ import annotations

from ddp.kernels.flatten import flatten_backward, flatten_forward
from ddp.kernels.types import Float32, Int64
from ddp.nn.layer import Draws, Layer, Shape


def is_same_memory(image_shape: Shape) -> bool:
    """Whether (H, W, C) and (C, H, W) are the same memory, so that nothing need be copied."""
    height, width, channels = image_shape
    return channels == 1 or height * width == 1


class Flatten(Layer):
    """An image as a vector in (C, H, W) order, as PyTorch's.

    Attributes:
        keeps_order: the vector is in the image's own order, (H, W, C), and nothing is copied: the weights behind it
            are in that order too, and exchanged with PyTorch's when they go into a state dict.
    """

    keeps_order = False

    def output_shape(self, input_shape: Shape) -> Shape:
        """(C * H * W,), from (H, W, C); vectors stay as they are."""
        features = 1
        for size in input_shape:
            features *= size
        return (features,)

    def build(self, input_shape: Shape, capacity: int, index: int) -> Shape:
        """Make the workspaces, if anything is to be copied."""
        self.is_view = len(input_shape) == 1 or self.keeps_order or is_same_memory(input_shape)
        self.passes = () if self.is_view else type(self).passes
        return super().build(input_shape, 0 if self.is_view else capacity, index)

    def forward(self, x: Float32, training: bool, draws: Draws) -> Float32:
        """Change the shape from (B, H, W, C) to (B, features), and the order if it must."""
        if self.is_view:
            return x.reshape(len(x), *self.shape)
        y = self.y[: len(x)]
        flatten_forward(x, y)
        return y

    def backward(self, dy: Float32, shards: Int64, input_gradient: bool) -> Float32:
        """Change the shape back to (B, H, W, C), and the order if it must."""
        if not input_gradient or self.is_view:
            return dy.reshape(len(dy), *self.input_shape)
        dx = self.dx[: len(dy)]
        flatten_backward(dy, dx)
        return dx


class Unflatten(Layer):
    """The inverse of `Flatten`: takes public (B, C, H, W) images into the channels-last network."""

    def __init__(self, channels: int, height: int, width: int) -> None:
        """Describe the layer.

        Args:
            channels: C of the images to come.
            height: H, in pixels.
            width: W, in pixels.
        """
        self.image_shape = (height, width, channels)

    def output_shape(self, input_shape: Shape) -> Shape:
        """(H, W, C), from (C * H * W,)."""
        return self.image_shape

    def forward(self, x: Float32, training: bool, draws: Draws) -> Float32:
        """Copy (B, C * H * W) to (B, H, W, C)."""
        if is_same_memory(self.image_shape):
            return x.reshape(len(x), *self.image_shape)
        y = self.y[: len(x)]
        flatten_backward(x, y)
        return y

    def backward(self, dy: Float32, shards: Int64, input_gradient: bool) -> Float32:
        """Copy (B, H, W, C) to (B, C * H * W)."""
        if not input_gradient or is_same_memory(self.image_shape):
            return dy.reshape(len(dy), *self.input_shape)
        dx = self.dx[: len(dy)]
        flatten_forward(dy, dx)
        return dx
