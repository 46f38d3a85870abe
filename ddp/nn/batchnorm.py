"""Batch normalisation, of images and of vectors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ddp.fixed_point import sum_leaves
from ddp.kernels import batchnorm
from ddp.kernels.types import Float32, Float64, Int64
from ddp.nn.layer import Buffers, Draws, Layer, ParameterSpec, Shape, Tensor


class BatchNorm(Layer):
    """y = weight (x - mean) / sqrt(variance + eps) + bias, mean and variance of each channel.

    In training they are those of the sample's logical shard, so that they depend on no rank ("ghost batch
    normalisation"); in evaluation they are the running ones. These move with every step towards the average
    over the shards of all ranks: `update_statistics` does it, after the sums have been reduced.
    Source: Ioffe and Szegedy, "Batch Normalization", ICML 2015; names, shapes and defaults are PyTorch's.
    """

    can_fuse_relu = True

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        """Describe the layer.

        Args:
            num_features: channels of the input.
            eps: added to the variance, above 0.
            momentum: weight of a step's statistics in the running ones.
        """
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.running_mean, self.running_var = np.zeros(num_features, np.float32), np.ones(num_features, np.float32)
        self.num_batches_tracked = np.zeros((), np.int64)
        self.num_statistics = 2 * num_features + 1

    def parameter_specs(self) -> tuple[ParameterSpec, ...]:
        """`weight` (the paper's gamma), 1 at first, and `bias` (beta), 0, both (num_features,)."""
        shape = (self.num_features,)
        return ParameterSpec("weight", shape, (0,), 1, 1.0), ParameterSpec("bias", shape, (0,), 1, 0.0)

    def bind(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the views of the flat buffers."""
        self.weight, self.bias = tensors["weight"], tensors["bias"]

    def buffers(self) -> Buffers:
        """`running_mean`, `running_var` (num_features,) and `num_batches_tracked`, a scalar."""
        return {
            "running_mean": self.running_mean,
            "running_var": self.running_var,
            "num_batches_tracked": self.num_batches_tracked,
        }

    def write_statistics(self, rows: Float32) -> None:
        """Write each shard's means, unbiased variances, and whether it has samples."""
        assert self.shards is not None
        c, sizes = self.num_features, np.diff(self.shards)
        rows[:, :c], rows[:, c : 2 * c] = self.mean[: len(sizes)], self.variance[: len(sizes)]
        rows[:, 2 * c] = sizes > 0

    def build(self, input_shape: Shape, capacity: int, index: int) -> Shape:
        """Make the workspaces; those for the shards grow with the first step that has more of them."""
        shape = super().build(input_shape, capacity, index)
        self.shards: Int64 | None = None
        self._make_shard_workspaces(1, 1)
        return shape

    def forward(self, x: Float32, training: bool, draws: Draws) -> Float32:
        """Normalise by the shards' statistics in training, by the running ones in evaluation."""
        y, rows = self.y[: len(x)], (-1, self.num_features)
        self.x = x if training else None
        shards = np.array([0, len(x)]) if draws.shards is None or not training else draws.shards
        self._cut(shards, len(x))
        if training:
            mean, inv_std = self._shards_statistics(x.reshape(rows), shards)
        else:
            mean = self.running_mean[None].astype(np.float64)
            inv_std = (1 / np.sqrt(self.running_var + self.eps, dtype=np.float64)).astype(np.float32)[None]
        arguments = self.parts, self.weight.value, self.bias.value, mean, inv_std, self.applies_relu
        batchnorm.batchnorm_normalise(x.reshape(rows), *arguments, y.reshape(rows))
        return y

    def _cut(self, shards: Int64, num_samples: int) -> None:
        """Cut the shards into the kernels' tasks, unless they are those of the last step."""
        assert shards[-1] == num_samples, "the shards are not those of this batch"
        if self.shards is not None and np.array_equal(shards, self.shards):
            return
        self.shards = shards.copy()
        pixels = int(np.prod(self.input_shape[:-1]))
        self.parts, self.first_parts = batchnorm.cut_shards(shards * pixels, self.num_features)
        if len(shards) - 1 > len(self.mean) or len(self.parts) > len(self.sums):
            self._make_shard_workspaces(max(len(shards) - 1, len(self.mean)), max(len(self.parts), len(self.sums)))

    def _shards_statistics(self, x: Float32, shards: Int64) -> tuple[Float64, Float32]:
        """Means and 1 / standard deviations of each shard."""
        num_shards = len(shards) - 1
        mean, variance, inv_std = self.mean[:num_shards], self.variance[:num_shards], self.inv_std[:num_shards]
        batchnorm.batchnorm_forward_sums(x, self.parts, self.sums)
        batchnorm.batchnorm_statistics(self.sums, self.parts, self.first_parts, self.eps, mean, variance, inv_std)
        return mean, inv_std

    def backward(self, dy: Float32, shards: Int64, input_gradient: bool) -> Float32:
        """Compute the gradients by weight, bias and x, for the shards of the forward pass."""
        assert self.x is not None, "backward needs a forward in training before it"
        assert self.shards is not None
        dx, rows, num_shards = self.dx[: len(dy)], (-1, self.num_features), len(self.shards) - 1
        x, dy, parts = self.x.reshape(rows), dy.reshape(rows), self.parts
        mean, inv_std = self.mean[:num_shards], self.inv_std[:num_shards]
        leaves = self.weight_leaves[:num_shards], self.bias_leaves[:num_shards]
        batchnorm.batchnorm_backward_sums(x, dy, parts, mean, self.sums)
        batchnorm.batchnorm_gradients(self.sums, self.first_parts, inv_std, *leaves)
        for tensor, leaf in zip((self.weight, self.bias), leaves, strict=True):
            sum_leaves(leaf, *tensor.sum())
        self.gradient_ready()
        if input_gradient:
            arguments = parts, self.weight.value, mean, inv_std, *leaves, self.masks_input
            batchnorm.batchnorm_backward_input(x, dy, *arguments, dx.reshape(rows))
        return dx

    def backward_shard(self, dy: Float32, shards: Int64, number: int) -> None:
        """Take the gradients of one shard from where `backward` has left them."""
        for tensor, leaves in (self.weight, self.weight_leaves), (self.bias, self.bias_leaves):
            sum_leaves(leaves[number : number + 1], *tensor.sum())

    def update_statistics(self, rows: Float32) -> None:
        """Move the running statistics by `momentum` towards the average over the step's shards, in their order."""
        c, num_shards = self.num_features, np.count_nonzero(rows[:, -1])
        if num_shards == 0:
            return
        sums = rows.sum(axis=0, dtype=np.float64)
        for running, total in (self.running_mean, sums[:c]), (self.running_var, sums[c : 2 * c]):
            running[:] = (1 - self.momentum) * running.astype(np.float64) + self.momentum * (total / num_shards)
        self.num_batches_tracked += 1

    def _make_shard_workspaces(self, num_shards: int, num_parts: int) -> None:
        shape = (num_shards, self.num_features)
        self.mean = np.empty(shape, np.float64)
        self.variance, self.inv_std = np.empty(shape, np.float32), np.empty(shape, np.float32)
        self.weight_leaves, self.bias_leaves = (np.empty(shape, np.float32) for _ in range(2))
        self.sums = np.empty((num_parts, 2, self.num_features), np.float64)


class BatchNorm1d(BatchNorm):
    """Batch normalisation of vectors: a channel is a feature."""

    def output_shape(self, input_shape: Shape) -> Shape:
        """The input's, (num_features,)."""
        if input_shape != (self.num_features,):
            raise ValueError(f"BatchNorm1d takes samples of shape ({self.num_features},), got {input_shape}")
        return input_shape


class BatchNorm2d(BatchNorm):
    """Batch normalisation of images: over samples and pixels."""

    def output_shape(self, input_shape: Shape) -> Shape:
        """The input's, (H, W, num_features)."""
        if len(input_shape) != 3 or input_shape[2] != self.num_features:
            raise ValueError(f"BatchNorm2d takes images of {self.num_features} channels, got (H, W, C) = {input_shape}")
        return input_shape
