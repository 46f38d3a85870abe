"""Max pooling."""

from __future__ import annotations

import numpy as np

from ddp.kernels.pool import max_pool2d_backward, max_pool2d_forward
from ddp.kernels.types import Float32, Int64
from ddp.nn.layer import Draws, Layer, Shape


class MaxPool2d(Layer):
    """The largest value of each kernel_size x kernel_size window, stride kernel_size, ragged edges cut off."""

    def __init__(self, kernel_size: int) -> None:
        """Describe the layer.

        Args:
            kernel_size: height and width of a window, in pixels; 1 to 16.
        """
        if not 1 <= kernel_size <= 16:
            raise ValueError(f"MaxPool2d kernel_size = {kernel_size}: use 1 to 16")
        self.kernel_size = kernel_size
        self.can_fuse_relu = kernel_size < 16  # of 8 bits, 16 x 16 positions leave none to say "nowhere"

    def output_shape(self, input_shape: Shape) -> Shape:
        """(H // kernel_size, W // kernel_size, C), from (H, W, C)."""
        if len(input_shape) != 3 or min(input_shape[:2]) < self.kernel_size:
            raise ValueError(f"MaxPool2d({self.kernel_size}) needs a larger image than (H, W, C) = {input_shape}")
        height, width, channels = input_shape
        return (height // self.kernel_size, width // self.kernel_size, channels)

    def build(self, input_shape: Shape, capacity: int, index: int) -> Shape:
        """Make the workspaces, one of them for which element of each window was the largest."""
        self.argmax = np.empty((capacity, *self.output_shape(input_shape)), np.uint8)
        return super().build(input_shape, capacity, index)

    def forward(self, x: Float32, training: bool, draws: Draws) -> Float32:
        """Take the maximum of each window; of equal ones the first in row-major order."""
        y, relu = self.y[: len(x)], self.applies_relu or self.masks_input
        max_pool2d_forward(x, self.kernel_size, relu, y, self.argmax[: len(x)])
        return y

    def backward(self, dy: Float32, shards: Int64, input_gradient: bool) -> Float32:
        """Pass each dy to the element that was the maximum, and with a ReLU before or behind only if it is above 0."""
        dx = self.dx[: len(dy)]
        if input_gradient:
            max_pool2d_backward(dy, self.argmax[: len(dy)], self.kernel_size, dx)
        return dx
