"""ReLU and dropout: layers that work element by element."""

from __future__ import annotations

import numpy as np

from ddp.kernels.dropout import dropout, dropout_relu_backward
from ddp.kernels.relu import relu_backward, relu_forward
from ddp.kernels.types import Float32, Int64
from ddp.nn.layer import Draws, Layer, Shape


class ReLU(Layer):
    """y = max(x, 0) (slide "ReLU"); its derivative at 0 is 0.

    Attributes:
        is_applied: the layer before has applied it to its output already.
        is_masked: the layer behind applies its derivative to the gradient that it passes back.
    """

    is_applied = False
    is_masked = False

    def build(self, input_shape: Shape, capacity: int, index: int) -> Shape:
        """Make the workspaces; passes that the neighbours do are none."""
        done = {"forward": self.is_applied, "backward": self.is_masked}
        self.passes = tuple(name for name in type(self).passes if not done[name])
        return super().build(input_shape, capacity, index)

    def forward(self, x: Float32, training: bool, draws: Draws) -> Float32:
        """Compute y = max(x, 0)."""
        self.output = x
        if not self.is_applied:
            self.output = self.y[: len(x)]
            relu_forward(x.reshape(-1), self.output.reshape(-1))
        return self.output

    def backward(self, dy: Float32, shards: Int64, input_gradient: bool) -> Float32:
        """Pass dy where y > 0, which is where x > 0."""
        if self.is_masked:
            return dy
        dx = self.dx[: len(dy)]
        if input_gradient:
            relu_backward(self.output.reshape(-1), dy.reshape(-1), dx.reshape(-1))
        return dx


class Dropout(Layer):
    """In training, zero each element with probability p and scale the others by 1 / (1 - p).

    The mask is a function of (seed, step, layer, sample, element), so it is the same for any number of ranks. The
    backward pass draws it again instead of storing it, or has no need to: behind a ReLU what is not above 0 in the
    output passes no gradient, dropped or not.
    Source: Srivastava et al., "Dropout", JMLR 2014, in its inverted form.
    """

    def __init__(self, p: float) -> None:
        """Describe the layer.

        Args:
            p: probability of dropping an element, in [0, 1).
        """
        if not 0 <= p < 1:
            raise ValueError(f"Dropout p = {p}: use a probability in [0, 1)")
        self.p = p

    def forward(self, x: Float32, training: bool, draws: Draws) -> Float32:
        """Compute y = x * mask / (1 - p) in training, else pass x on."""
        self.draws = draws if training and self.p > 0 else None
        self.output = x if self.draws is None else self._drop(x, self.y[: len(x)])
        return self.output

    def backward(self, dy: Float32, shards: Int64, input_gradient: bool) -> Float32:
        """Compute dx = dy * mask / (1 - p), where asked to with the derivative of the ReLU before."""
        dx = self.dx[: len(dy)]
        if self.masks_input:
            scale = np.float32(1 if self.draws is None else 1 / (1 - self.p))
            dropout_relu_backward(self.output.reshape(-1), dy.reshape(-1), scale, dx.reshape(-1))
            return dx
        return dy if self.draws is None else self._drop(dy, dx)

    def _drop(self, values: Float32, out: Float32) -> Float32:
        assert self.draws is not None
        rows, draws = (len(values), -1), self.draws
        seed, step, samples = draws.seed, draws.step, draws.samples
        if len(values):
            dropout(values.reshape(rows), seed, step, self.index, samples, self.p, out.reshape(rows))
        return out
