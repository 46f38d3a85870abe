"""Linear, a.k.a. fully connected (slide "Linear (a.k.a. Fully Connected Layer)")."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ddp.kernels import linear
from ddp.kernels.types import Float32, Int64
from ddp.nn.layer import Draws, Layer, ParameterSpec, Shape, Tensor


class Linear(Layer):
    """y = W x + b for every sample; the slides' form has no b.

    Attributes:
        in_channels: channels of the image whose pixels the inputs are, in (H, W, C) order; 1 for plain vectors.
    """

    can_fuse_relu = True
    in_channels = 1
    passes = ("forward", "backward_weight", "backward_input")

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        """Describe the layer.

        Args:
            in_features: length of an input sample.
            out_features: length of an output sample.
            bias: whether b is added.
        """
        if min(in_features, out_features) < 1:
            raise ValueError(f"Linear({in_features}, {out_features}): use at least 1 of each")
        self.in_features, self.out_features, self.has_bias = in_features, out_features, bias

    def parameter_specs(self) -> tuple[ParameterSpec, ...]:
        """`weight` (out, in), its inputs in (C, H, W) order, kept as (in, out), inputs in ours; `bias` (out,)."""
        cut = (self.out_features, self.in_channels, self.in_features // self.in_channels)
        shape = (self.out_features, self.in_features)
        weight = ParameterSpec("weight", shape, (2, 1, 0), self.in_features, cut=cut)
        bias = ParameterSpec("bias", (self.out_features,), (0,), self.in_features)
        return (weight, bias) if self.has_bias else (weight,)

    def bind(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the views of the flat buffers."""
        self.weight = tensors["weight"].reshape(self.in_features, self.out_features)
        self.bias = tensors.get("bias")
        self.b = self.bias.value if self.bias else np.empty(0, np.float32)

    def output_shape(self, input_shape: Shape) -> Shape:
        """(out_features,), from (in_features,)."""
        if input_shape != (self.in_features,):
            raise ValueError(f"Linear takes samples of shape ({self.in_features},), got {input_shape}")
        return (self.out_features,)

    def forward(self, x: Float32, training: bool, draws: Draws) -> Float32:
        """Compute y = W x + b."""
        self.x, y = x, self.y[: len(x)]
        linear.linear_forward(x, self.weight.value, self.b, self.applies_relu, y)
        return y

    def backward(self, dy: Float32, shards: Int64, input_gradient: bool) -> Float32:
        """Compute dW = dy (outer product) x, db = dy, dx = dy W."""
        self.backward_weight(dy, shards)
        self.gradient_ready()
        return self.backward_input(dy) if input_gradient else self.dx[: len(dy)]

    def backward_weight(self, dy: Float32, shards: Int64) -> None:
        """Compute dW and db."""
        self._sum_leaves(dy, shards)

    def backward_shard(self, dy: Float32, shards: Int64, number: int) -> None:
        """Compute dW and db of one shard."""
        self._sum_leaves(dy, shards[number : number + 2])

    def _sum_leaves(self, dy: Float32, shards: Int64) -> None:
        linear.linear_backward_weight(self.x, dy, shards, *self.weight.sum())
        if self.bias:
            linear.linear_backward_bias(dy, shards, *self.bias.sum())

    def backward_input(self, dy: Float32) -> Float32:
        """Compute dx, and where asked to, its product with the derivative of the ReLU before."""
        dx = self.dx[: len(dy)]
        linear.linear_backward_input(dy, self.weight.value, self.x if self.masks_input else self.x[:0], dx)
        return dx

    def pass_flops(self) -> int:
        """A product of in x out."""
        return 2 * self.in_features * self.out_features
