"""A network: layers one after the other, all parameters in one flat buffer and all gradients in another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ddp.kernels.jit import MOST_THREADS
from ddp.kernels.types import Float32, GradientSum, Int64
from ddp.nn.flatten import Flatten, Unflatten
from ddp.nn.layer import Buffers, Draws, Layer, ParameterSpec, Shape, Tensor
from ddp.nn.neighbours import fuse_relus, order_features
from ddp.rng import Purpose, uniform

StateDict = dict[str, npt.NDArray[Any]]
"""Arrays by name: float32, but for counters of batches, which are int64."""
Flat = TypeVar("Flat", bound=npt.NDArray[Any])


class Sequential:
    """Layers applied in order (slide "SGD and neural networks": x1 = f1(w1; x), x2 = f2(w2; x1), ...).

    Attributes:
        parameters: (num_parameters,) float32, all parameters; layers hold views of it.
        gradient_sums: (num_parameters,) float32, or int32 in fixed point: sums of the shards' gradients, scaled.
        scales: (T,) float32, what the gradients of each parameter tensor are multiplied by; 1 unless they are set.
        num_statistics: numbers that each shard of a training step tells all ranks.
        parameter_slices: where each parameter tensor lies in the flat buffers, by state-dict name.
        on_backward: called in `backward` with each layer's number and the gradient by its output, once it is done.
        on_gradient_ready: called in `backward` with the place of each layer's parameters in the flat buffers, the last
            layer's first, once their gradients are computed.
    """

    def __init__(self, *layers: Layer, seed: int = 0, exact: bool = False) -> None:
        """Join layers and draw their initial parameters.

        Args:
            layers: at least one.
            seed: key of the initial parameters.
            exact: whether gradients are summed in fixed point, as `ddp.fixed_point` explains.

        Raises:
            ValueError: if there is no layer, or one stands twice.
        """
        if not layers or len({id(layer) for layer in layers}) < len(layers):
            raise ValueError("Sequential takes at least one layer, each of its own: a layer keeps what it computed")
        self.layers = layers
        first = next((layer for layer in layers if layer.parameter_specs()), layers[0])
        first.is_first = True
        fuse_relus(layers)
        order_features(layers)
        specs = [(f"{i}.{s.name}", i, s) for i, layer in enumerate(layers) for s in layer.parameter_specs()]
        self.specs: dict[str, ParameterSpec] = {name: spec for name, _, spec in specs}
        self.parameter_slices: dict[str, slice] = {}
        end = 0
        for name, spec in self.specs.items():
            self.parameter_slices[name] = slice(end, end + spec.size)
            end += spec.size
        self.parameters = np.zeros(end, np.float32)
        self.gradient_sums: GradientSum = np.zeros(end, np.int32) if exact else np.zeros(end, np.float32)
        self.scales = np.ones(len(specs), np.float32)
        self._largest = np.zeros((len(specs), MOST_THREADS), np.int64)
        self.num_statistics = sum(layer.num_statistics for layer in layers)
        self.on_gradient_ready: Callable[[slice], None] = lambda _: None
        self.on_backward: Callable[[int, Float32], None] = lambda *_: None
        self._bind()
        self.initialize(seed)
        self.input_shape: Shape | None = None
        self.capacity = 0

    @property
    def num_parameters(self) -> int:
        """Elements of all parameters."""
        return self.parameters.size

    def _bind(self) -> None:
        """Give the layers their views of the flat buffers, and a way to say that a gradient is there."""
        for i, layer in enumerate(self.layers):
            names = [f"{i}.{spec.name}" for spec in layer.parameter_specs()]
            layer.bind(self.tensors(i, self.gradient_sums))
            if names:
                places = [self.parameter_slices[name] for name in names]
                layer.gradient_ready = partial(self._announce, slice(places[0].start, places[-1].stop))

    def tensors(self, index: int, gradient_sums: GradientSum) -> dict[str, Tensor]:
        """What a layer is bound to: the views of its parameters, by short name, with gradients in such a buffer."""
        specs = self.layers[index].parameter_specs()
        return {spec.name: self._tensor(f"{index}.{spec.name}", gradient_sums) for spec in specs}

    def _announce(self, where: slice) -> None:
        self.on_gradient_ready(where)

    def use_memory(self, parameters: Float32, gradient_sums: GradientSum) -> None:
        """Move the flat buffers into other memory, of the same length and type; the parameters keep their values."""
        parameters[:] = self.parameters
        self.parameters, self.gradient_sums = parameters, gradient_sums
        self._bind()

    def initialize(self, seed: int) -> None:
        """Draw all parameters anew, uniform within 1/sqrt(fan_in), each a function of seed, tensor and element."""
        for number, (name, spec) in enumerate(self.specs.items()):
            if spec.initial is not None:
                self._set(name, np.full(spec.shape, spec.initial, np.float32))
                continue
            draws = uniform(seed, Purpose.INITIALIZE, number, 0, [0], spec.size)[0]
            bound = np.float32(1 / np.sqrt(spec.fan_in))
            self._set(name, ((2 * draws - 1) * bound).reshape(spec.shape))

    def build(self, input_shape: Shape, capacity: int) -> None:
        """Make every workspace for batches of up to `capacity`; later steps of such batches allocate nothing.

        Args:
            input_shape: shape of one sample: (C, H, W) or (F,).
            capacity: samples of the largest batch to come.

        Raises:
            ValueError: if a layer cannot take what the one before gives; the message names the layer.
        """
        # An image that is flattened at once is in the public order already.
        is_image = len(input_shape) == 3 and not isinstance(self.layers[0], Flatten)
        self.entry = Unflatten(*input_shape) if is_image else None
        self.exit: Flatten | None = None
        shape: Shape = input_shape if len(input_shape) < 3 else (int(np.prod(input_shape)),)
        self.flat_shape = shape
        if self.entry is not None:
            shape = self.entry.build(shape, capacity, -1)
        for index, layer in enumerate(self.layers):
            try:
                shape = layer.build(shape, capacity, index)
            except ValueError as error:
                raise ValueError(f"layer {index} ({type(layer).__name__}): {error}") from None
        self.output_shape = shape
        if len(shape) == 3:
            self.output_shape = (shape[2], shape[0], shape[1])
            self.exit = Flatten()
            self.exit.build(shape, capacity, -1)
        self.input_shape, self.capacity = input_shape, capacity

    def forward(self, x: Float32, training: bool, draws: Draws | None = None) -> Float32:
        """The network's output: (B, C, H, W) or (B, F) -> (B, ...), a view of a workspace.

        Args:
            x: float32, C-contiguous (copied if it is not); must stay as it is until `backward`.
            training: whether dropout is active, and batch normalisation by the batch's own statistics.
            draws: the address of dropout's random numbers, and the logical shards over which batch normalisation
                is done; default: seed 0, step 0, samples 0 to B - 1, one shard.
        """
        if x.dtype != np.float32 or not x.flags.c_contiguous:
            x = np.ascontiguousarray(x, np.float32)
        if x.shape[1:] != self.input_shape or len(x) > self.capacity:
            self.build(x.shape[1:], max(len(x), 1))
        if draws is None:
            draws = Draws(0, 0, np.arange(len(x)))
        self.shards = np.array([0, len(x)]) if draws.shards is None else draws.shards
        num_samples = len(x)
        x = x.reshape(num_samples, *self.flat_shape)
        if self.entry is not None:
            x = self.entry.forward(x, training, draws)
        for layer in self.layers:
            x = layer.forward(x, training, draws)
        if self.exit is not None:
            x = self.exit.forward(x, training, draws)
        return x.reshape(num_samples, *self.output_shape)

    def backward(self, dy: Float32, shards: Int64 | None = None, input_gradient: bool = True) -> Float32:
        """Compute all gradients of the last forward's batch, overwriting `gradient_sums` and `largest`.

        Args:
            dy: gradient of the loss by the output, of its shape.
            shards: (S + 1,) where each logical shard of the batch begins, and its end; default: as forward's.
            input_gradient: whether the gradient by the input is wanted; if not, the result is undefined.

        Returns:
            The gradient of the loss by the input, of its shape.
        """
        assert self.input_shape is not None, "backward needs a forward before it"
        if shards is None:
            shards = self.shards
        self._largest.fill(0)
        if self.exit is not None:
            dy = self.exit.backward(dy.reshape(len(dy), *self.exit.shape), shards, True)
        for index, layer in reversed([*enumerate(self.layers)]):
            is_last = layer.is_first and not input_gradient
            dx = layer.backward(dy, shards, not is_last)
            self.on_backward(index, dy)
            if is_last:
                return dx
            dy = dx
        if self.entry is not None:
            dy = self.entry.backward(dy, shards, True)
        return dy.reshape(len(dy), *self.input_shape)

    @property
    def largest(self) -> Float32:
        """(T,) the largest |gradient of a shard * scale| of each tensor in the last backward; NaN if one was."""
        largest: Float32 = self._largest.max(axis=1).astype(np.int32).view(np.float32)
        return largest

    def write_statistics(self, rows: Float32) -> None:
        """Write what each of the rank's shards tells all ranks of the last training forward: (S, num_statistics)."""
        for layer, columns in self._statistics():
            layer.write_statistics(rows[:, columns])

    def update_statistics(self, rows: Float32 | None = None) -> None:
        """Update the running statistics of batch normalisation.

        Args:
            rows: (S, num_statistics) float32, of the shards of all ranks; default: of the last training forward's.
        """
        if rows is None:
            rows = np.zeros((len(self.shards) - 1, self.num_statistics), np.float32)
            self.write_statistics(rows)
        for layer, columns in self._statistics():
            layer.update_statistics(rows[:, columns])

    def _statistics(self) -> Iterator[tuple[Layer, slice]]:
        """The layers that have statistics, and where in a row."""
        end = 0
        for layer in self.layers:
            if layer.num_statistics:
                yield layer, slice(end, end + layer.num_statistics)
                end += layer.num_statistics

    def state_dict(self) -> StateDict:
        """Copies of the parameters and buffers under PyTorch's names, in its shapes and order."""
        state, parameters = {}, self.parameter_dict()
        for index, layer in enumerate(self.layers):
            for spec in layer.parameter_specs():
                state[f"{index}.{spec.name}"] = parameters[f"{index}.{spec.name}"]
            state |= {f"{index}.{name}": buffer.copy() for name, buffer in layer.buffers().items()}
        return state

    def parameter_dict(self) -> StateDict:
        """Copies of the parameters alone: the state dict without the buffers of batch normalisation."""
        return self.to_state(self.parameters)

    def gradient_dict(self) -> StateDict:
        """Copies of the gradients under the parameters' names and in their shapes, rounded to float32."""
        lengths = [spec.size for spec in self.specs.values()]
        return self.to_state(
            (self.gradient_sums / np.repeat(self.scales.astype(np.float64), lengths)).astype(np.float32)
        )

    def load_state_dict(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take parameters and buffers from a state dict.

        Raises:
            ValueError: if a name is missing or unknown, or a shape differs; nothing is changed then.
        """
        buffers = self._buffers()
        shapes = {name: spec.shape for name, spec in self.specs.items()}
        _check_shapes(state, shapes | {name: buffer.shape for name, buffer in buffers.items()})
        for name in self.specs:
            self._set(name, state[name])
        for name, buffer in buffers.items():
            buffer[...] = state[name]

    def to_state(self, flat: Float32) -> StateDict:
        """Copies of the tensors of a buffer laid out like `parameters`, by state-dict name."""
        return {name: spec.to_state(self._view(flat, name)) for name, spec in self.specs.items()}

    def from_state(self, state: Mapping[str, npt.NDArray[Any]], flat: Float32) -> None:
        """Write tensors into a buffer laid out like `parameters`; the inverse of `to_state`.

        Raises:
            ValueError: as `load_state_dict`.
        """
        _check_shapes(state, {name: spec.shape for name, spec in self.specs.items()})
        for name in self.specs:
            self._set(name, state[name], flat)

    def flops(self) -> int:
        """Floating-point operations of forward and backward for one sample, by the direct method."""
        return sum(layer.flops() for layer in self.layers)

    def workspace_bytes(self) -> int:
        """Bytes of all workspaces of the layers: proportional to the largest batch, but for turned weights."""
        ends = [layer for layer in (self.entry, self.exit) if layer is not None]
        return sum(layer.workspace_bytes() for layer in (*self.layers, *ends))

    def _buffers(self) -> Buffers:
        """The layers' buffers themselves, by state-dict name."""
        layers = enumerate(self.layers)
        return {f"{i}.{name}": buffer for i, layer in layers for name, buffer in layer.buffers().items()}

    def _set(self, name: str, value: Float32, flat: Float32 | None = None) -> None:
        view = self._view(self.parameters if flat is None else flat, name)
        view[...] = self.specs[name].to_kernel(value)

    def _view(self, flat: Flat, name: str) -> Flat:
        return flat[self.parameter_slices[name]].reshape(self.specs[name].kernel_shape)  # type: ignore[return-value]

    def _tensor(self, name: str, gradient_sums: GradientSum) -> Tensor:
        number = list(self.specs).index(name)
        scale, largest = self.scales[number : number + 1], self._largest[number]
        return Tensor(self._view(self.parameters, name), self._view(gradient_sums, name), scale, largest)


def _check_shapes(state: Mapping[str, npt.NDArray[Any]], expected: Mapping[str, Shape]) -> None:
    found = {name: np.shape(value) for name, value in state.items()}
    if expected != found:
        name = min(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))
        raise ValueError(f"state dict: {name} has shape {found.get(name)}, the model needs {expected.get(name)}")
