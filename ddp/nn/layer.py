"""What every layer is: parameters in views of the flat buffers, workspaces made once, two passes.

Inside a network activations are channels-last, (B, H, W, C) or (B, F), float32 and C-contiguous.
A layer knows nothing of ranks. Gradients are sums over the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ddp.kernels.types import Float32, GradientSum, Int64

Shape = tuple[int, ...]
Buffers = dict[str, Float32 | Int64]
"""What a layer keeps from step to step that no gradient changes, by name."""


@dataclass(frozen=True, slots=True)
class Draws:
    """What a step is: the address of its random draws, so that they depend on no rank, and its logical shards."""

    seed: int
    """The run's key."""
    step: int
    """The SGD step, counted from 0 over the whole run."""
    samples: Int64
    """(B,) the index in the training set of each sample of the batch."""
    shards: Int64 | None = None
    """(S + 1,) where each logical shard of the batch begins, and the end B; None: one shard."""


@dataclass(frozen=True)
class ParameterSpec:
    """A parameter tensor: its name and shape in the state dict, and how the kernels want it laid out."""

    name: str
    """`weight` or `bias`."""
    shape: Shape
    """As in the state dict, which is PyTorch's."""
    kernel_axes: tuple[int, ...]
    """The kernels' layout is the state dict's, cut by `cut`, transposed by these axes."""
    fan_in: int
    """Inputs of one output; the initial values are uniform within 1/sqrt(fan_in)."""
    initial: float | None = None
    """The initial value of every element, where it is not drawn."""
    cut: Shape = ()
    """The state dict's shape with an axis cut into several, where they are to be transposed one by one."""

    @property
    def kernel_shape(self) -> Shape:
        """The shape of the views that the layer is given."""
        shape = self.cut or self.shape
        return tuple(shape[axis] for axis in self.kernel_axes)

    @property
    def size(self) -> int:
        """Elements."""
        return int(np.prod(self.shape))

    def to_state(self, view: Float32) -> Float32:
        """A copy of a kernel view in the state dict's layout."""
        return np.array(view.transpose(np.argsort(self.kernel_axes)), order="C").reshape(self.shape)

    def to_kernel(self, value: npt.ArrayLike) -> Float32:
        """A tensor of the state dict in the kernels' layout; the inverse of `to_state`."""
        return np.asarray(value, np.float32).reshape(self.cut or self.shape).transpose(self.kernel_axes)


@dataclass(frozen=True)
class Tensor:
    """The views of one parameter, all in the kernels' layout."""

    value: Float32
    """In the flat parameters."""
    gradient: GradientSum
    """In the flat gradient sums: over the rank's shards after backward, over all ranks after reduction."""
    scale: Float32
    """(1,) what each shard's gradient is multiplied by before it is added."""
    largest: Int64
    """(threads,) to be raised to the bits of the largest |gradient of a shard * scale|, as a float32's."""

    def sum(self) -> tuple[np.float32, GradientSum, Int64]:
        """What a kernel needs to sum leaves: the scale, and what it writes, the sum and the largest."""
        return self.scale[0], self.gradient, self.largest

    def reshape(self, *shape: int) -> Tensor:
        """The same memory, with axes joined."""
        return replace(self, value=self.value.reshape(shape), gradient=self.gradient.reshape(shape))


def on_cache_lines(shape: Shape) -> Float32:
    """An uninitialised float32 array that begins with a cache line.

    The widest vectors are as long as a line; elsewhere every load and store of one touches two.
    """
    line, size = 64, 4 * int(np.prod(shape))
    memory = np.empty(size + line, np.uint8)
    start = -memory.ctypes.data % line
    return memory[start : start + size].view(np.float32).reshape(shape)


class Layer:
    """A layer without parameters whose output has its input's shape; subclasses override what differs.

    Attributes:
        is_first: the first layer of its network with parameters, whose dx training does not need.
        can_fuse_relu: whether the layer can apply the ReLU after it to its output, and the derivative of
            the ReLU before it to its dx, without a pass over memory of its own. `Sequential` then sets
            `applies_relu` and `masks_input`, and tells the ReLU that its work is done.
        passes: the methods that make up forward and backward, for the profile.
        num_statistics: float32 numbers that each shard of a training step tells all ranks, for `update_statistics`.
        gradient_ready: to be called by `backward` as soon as all gradients of the layer's parameters are computed, so
            that they can be on their way to the other ranks while dx and the layers below are computed.
    """

    gradient_ready: Callable[[], None] = staticmethod(lambda: None)

    can_fuse_relu = False
    applies_relu = False
    masks_input = False
    is_first = False
    passes: tuple[str, ...] = ("forward", "backward")
    num_statistics = 0

    def parameter_specs(self) -> tuple[ParameterSpec, ...]:
        """The parameters that this layer needs, in state-dict order."""
        return ()

    def bind(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the views of the flat buffers, by parameter name, in the kernels' layout."""

    def buffers(self) -> Buffers:
        """The arrays themselves of what is kept beside the parameters, in state-dict order."""
        return {}

    def write_statistics(self, rows: Float32) -> None:
        """Write the last training forward's statistics of each of the rank's shards: (S, num_statistics)."""

    def update_statistics(self, rows: Float32) -> None:
        """Update the buffers from the statistics of all shards of all ranks: (S, num_statistics)."""

    def output_shape(self, input_shape: Shape) -> Shape:
        """The shape of one output sample, channels-last.

        Raises:
            ValueError: if this layer cannot take such an input; the message says what it takes.
        """
        return input_shape

    def build(self, input_shape: Shape, capacity: int, index: int) -> Shape:
        """Make the workspaces for up to `capacity` samples; the only place where a layer allocates.

        Args:
            input_shape: shape of one input sample, channels-last.
            capacity: the largest batch to come.
            index: position in the network; addresses this layer's random draws.

        Returns:
            The shape of one output sample.
        """
        self.index = index
        self.input_shape, self.shape = input_shape, self.output_shape(input_shape)
        self.y, self.dx = on_cache_lines((capacity, *self.shape)), on_cache_lines((capacity, *input_shape))
        return self.shape

    def forward(self, x: Float32, training: bool, draws: Draws) -> Float32:
        """Compute y from x: (B, *input_shape) -> (B, *shape), a view of this layer's workspace.

        What the backward pass needs is remembered: x must stay as it is until then.
        """
        raise NotImplementedError

    def backward(self, dy: Float32, shards: Int64, input_gradient: bool) -> Float32:
        """Compute the parameters' gradients, overwriting them, and dx from dy.

        Args:
            dy: (B, *shape) gradient of the loss by the last forward's output.
            shards: (S + 1,) where each logical shard of the batch begins, and the end B.
            input_gradient: whether dx is wanted; if not, the result is undefined.

        Returns:
            (B, *input_shape), a view of this layer's workspace.
        """
        raise NotImplementedError

    def backward_shard(self, dy: Float32, shards: Int64, number: int) -> None:
        """After `backward`: compute the parameters' gradients of one logical shard alone, overwriting them.

        Args:
            dy: (B, *shape), that of `backward`, as are the shards.
            shards: (S + 1,) where each logical shard of the batch begins, and the end B.
            number: of the shard, which has samples.
        """

    def workspace_bytes(self) -> int:
        """Bytes of the arrays that `build` has made: those in memory of their own."""
        arrays = [a for a in vars(self).values() if isinstance(a, np.ndarray) and a.flags.owndata]
        return sum(a.nbytes for a in (self.y, self.dx, *arrays))

    def pass_flops(self) -> int:
        """Multiplications and additions of one of the `passes` for one sample, by the direct method."""
        return 0

    def flops(self) -> int:
        """Those of forward and backward together; the first layer's dx, which training skips, is not counted."""
        return self.pass_flops() * (2 if self.is_first else 3)
