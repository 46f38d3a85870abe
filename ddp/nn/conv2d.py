"""Two-dimensional convolution (slides "Convolution" and "Convolution (Back propagation)")."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ddp.kernels import conv2d, panel, winograd, winograd_weight
from ddp.kernels.jit import get_num_threads
from ddp.kernels.types import Float32, Int64
from ddp.kernels.winograd_workspace import Workspace
from ddp.nn.convolution_method import METHODS, choose_patch
from ddp.nn.layer import Draws, Layer, ParameterSpec, Shape, Tensor


class Conv2d(Layer):
    """Cross-correlation with a square kernel, stride 1, zero outside the image.

    `padding=0` is the valid form, `padding=kernel_size // 2` the slides' zero-padded "same" form.
    """

    can_fuse_relu = True
    passes = ("forward", "backward_weight", "backward_input")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        padding: int = 0,
        bias: bool = True,
        method: str = "auto",
    ) -> None:
        """Describe the layer.

        Args:
            in_channels: channels of the input image.
            out_channels: channels of the output image.
            kernel_size: height and width of the kernel, in pixels.
            padding: zeros around the input image, in pixels.
            bias: whether a value per output channel is added.
            method: `direct`, `winograd` (3x3 kernels), or `auto`: whichever is the cheaper by `convolution_method`.

        Raises:
            ValueError: if a size is below 1, if there is no such method, or not for that kernel.
        """
        if min(in_channels, out_channels, kernel_size) < 1 or padding < 0:
            sizes = f"{in_channels}, {out_channels}, {kernel_size}, padding={padding}"
            raise ValueError(f"Conv2d({sizes}): use at least 1 of each, and padding 0 or more")
        if method not in METHODS:
            raise ValueError(f"Conv2d has no method {method!r}: use one of {', '.join(METHODS)}")
        if method == "winograd" and kernel_size != 3:
            raise ValueError(f"Conv2d's method winograd needs kernel_size 3, got {kernel_size}: use direct or auto")
        self.method = method
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.padding, self.has_bias = kernel_size, padding, bias

    def parameter_specs(self) -> tuple[ParameterSpec, ...]:
        """`weight` (oc, ic, kh, kw), kept as (kh, kw, ic, oc) so that outputs are contiguous; `bias` (oc,)."""
        k, fan_in = self.kernel_size, self.in_channels * self.kernel_size**2
        weight = ParameterSpec("weight", (self.out_channels, self.in_channels, k, k), (2, 3, 1, 0), fan_in)
        bias = ParameterSpec("bias", (self.out_channels,), (0,), fan_in)
        return (weight, bias) if self.has_bias else (weight,)

    def bind(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the views of the flat buffers."""
        self.weight, self.bias = tensors["weight"], tensors.get("bias")
        self.b = self.bias.value if self.bias else np.empty(0, np.float32)

    def output_shape(self, input_shape: Shape) -> Shape:
        """(H + 2 padding - K + 1, W + 2 padding - K + 1, out_channels), from (H, W, in_channels)."""
        if len(input_shape) != 3 or input_shape[2] != self.in_channels:
            raise ValueError(f"Conv2d takes images of {self.in_channels} channels, got (H, W, C) = {input_shape}")
        grow = 2 * self.padding - self.kernel_size + 1
        height, width = input_shape[0] + grow, input_shape[1] + grow
        if height < 1 or width < 1:
            raise ValueError(
                f"Conv2d with kernel_size {self.kernel_size} and padding {self.padding} needs a larger image"
                f" than (H, W, C) = {input_shape}"
            )
        return (height, width, self.out_channels)

    def build(self, input_shape: Shape, capacity: int, index: int) -> Shape:
        """Choose the method and make its workspaces, besides y and dx."""
        shape = super().build(input_shape, capacity, index)
        k = self.kernel_size
        channels = self.in_channels, self.out_channels
        self.panels, self.turned = panel.make_panels(k, *channels), panel.make_panels(k, *channels[::-1])
        self.patch = choose_patch(self.method, k, (shape[0], shape[1]), channels)
        if self.patch:
            self.winograd = Workspace(self.patch, *channels, get_num_threads(), self.weight.gradient.dtype)
        else:
            height, width, _ = input_shape
            wide = (capacity, height + 2 * self.padding, width + 2 * self.padding, self.in_channels)
            self.padded_x = np.empty(wide if self.padding else (0, *wide[1:]), np.float32)
            self.padded_dy = np.empty((capacity, height + k - 1, width + k - 1, self.out_channels), np.float32)
            self.pixels = conv2d.locate_pixels((shape[0], shape[1]), wide[2], self.in_channels)
            self.taps = conv2d.locate_taps(k, wide[2], self.in_channels)
            self.leaves = conv2d.make_leaves(k * k * self.in_channels, self.out_channels, get_num_threads())
            self.input_pixels = conv2d.locate_pixels((height, width), width + k - 1, self.out_channels)
        return shape

    def workspace_bytes(self) -> int:
        """Also of the panels, and of what Winograd's passes write in between."""
        panels = self.panels.nbytes + self.turned.nbytes
        return super().workspace_bytes() + panels + (self.winograd.nbytes if self.patch else self.leaves[0].nbytes)

    def forward(self, x: Float32, training: bool, draws: Draws) -> Float32:
        """Compute y[oc, i, j] = b[oc] + sum w[oc, ic, i', j'] x[ic, i + i', j + j']."""
        self.x = self.surrounded_x = x
        y = self.y[: len(x)]
        panel.pack_weight(self.weight.value, self.panels)
        if self.patch:
            work = self.winograd
            winograd.winograd_forward(x, self.padding, self.panels, self.b, self.applies_relu, work.forward, y)
            return y
        if self.padding:
            self.surrounded_x = self.padded_x[: len(x)]
            conv2d.pad_image(x, self.padding, self.surrounded_x)
        conv2d.conv2d_forward(self.surrounded_x, self.panels, self.pixels, self.b, self.applies_relu, y)
        return y

    def backward(self, dy: Float32, shards: Int64, input_gradient: bool) -> Float32:
        """Compute dw, db and dx."""
        self.backward_weight(dy, shards)
        self.gradient_ready()
        return self.backward_input(dy) if input_gradient else self.dx[: len(dy)]

    def backward_weight(self, dy: Float32, shards: Int64) -> None:
        """Compute dw and db."""
        self._sum_leaves(dy, shards)

    def backward_shard(self, dy: Float32, shards: Int64, number: int) -> None:
        """Compute dw and db of one shard."""
        self._sum_leaves(dy, shards[number : number + 2])

    def _sum_leaves(self, dy: Float32, shards: Int64) -> None:
        if self.bias:
            conv2d.conv2d_backward_bias(dy, shards, *self.bias.sum())
        if self.patch:
            work = self.winograd
            arguments = self.x, self.padding, dy, shards, work.chunk, work.backward_weight
            winograd_weight.winograd_backward_weight(*arguments, *self.weight.sum())
        else:
            conv2d.conv2d_backward_weight(self.surrounded_x, dy, self.taps, shards, self.leaves, *self.weight.sum())

    def backward_input(self, dy: Float32) -> Float32:
        """Compute dx, and where asked to, its product with the derivative of the ReLU before."""
        dx, mask = self.dx[: len(dy)], self.x if self.masks_input else self.x[:0]
        panel.turn_weight(self.weight.value, self.turned)
        if self.patch:
            work = self.winograd
            winograd.winograd_backward_input(dy, self.padding, self.turned, mask, work.backward_input, dx)
        else:
            surrounded_dy = self.padded_dy[: len(dy)]
            conv2d.pad_image(dy, self.kernel_size - 1 - self.padding, surrounded_dy)
            conv2d.conv2d_backward_input(surrounded_dy, self.turned, self.input_pixels, mask, dx)
        return dx

    def pass_flops(self) -> int:
        """2 K K IC OC operations a pixel, by the direct method."""
        pixels = self.shape[0] * self.shape[1]
        return 2 * self.kernel_size**2 * self.in_channels * self.out_channels * pixels
