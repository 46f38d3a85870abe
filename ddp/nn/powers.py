"""The features of the slides' linear regression."""

from __future__ import annotations

from ddp.kernels.powers import powers_backward, powers_forward
from ddp.kernels.types import Float32, Int64
from ddp.nn.layer import Draws, Layer, Shape


class Powers(Layer):
    """(1, x, x^2, ..., x^degree) of a scalar x (slide "A simple example (linear regression)")."""

    def __init__(self, degree: int) -> None:
        """Describe the layer.

        Args:
            degree: the highest power.
        """
        self.degree = degree

    def output_shape(self, input_shape: Shape) -> Shape:
        """(degree + 1,), from (1,)."""
        if input_shape != (1,):
            raise ValueError(f"Powers takes samples of shape (1,), got {input_shape}; use data.name = polynomial")
        return (self.degree + 1,)

    def forward(self, x: Float32, training: bool, draws: Draws) -> Float32:
        """Compute y_k = x^k."""
        self.x, y = x, self.y[: len(x)]
        powers_forward(x, y)
        return y

    def backward(self, dy: Float32, shards: Int64, input_gradient: bool) -> Float32:
        """Compute dx = sum_k k x^(k-1) dy_k."""
        dx = self.dx[: len(dy)]
        if input_gradient:
            powers_backward(self.x, dy, dx)
        return dx
