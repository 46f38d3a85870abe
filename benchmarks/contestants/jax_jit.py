"""JAX: the whole step, from gathering the batch to the update, as one compiled function; images channels-last."""

from __future__ import annotations

import os
from typing import Any

from benchmarks.contestants.task import LEARNING_RATE, MOMENTUM, SAMPLES, Task

Array = Any


def _convolution(jax: Any, layer: Any, p: Any, x: Array, key: Array) -> Array:
    padding = [(layer.padding, layer.padding)] * 2
    dimensions = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(x, p["weight"], (1, 1), padding, dimension_numbers=dimensions)
    return y + p["bias"] if "bias" in p else y


def _batch_normalisation(jax: Any, layer: Any, p: Any, x: Array, key: Array) -> Array:
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (x - mean) * jax.lax.rsqrt(variance + 1e-5) * p["weight"] + p["bias"]


def _pooling(jax: Any, layer: Any, p: Any, x: Array, key: Array) -> Array:
    """By reshaping: the gradient of `reduce_window` is much slower."""
    k = layer.kernel_size
    samples, height, width, channels = x.shape
    x = x[:, : height // k * k, : width // k * k]
    return x.reshape(samples, height // k, k, width // k, k, channels).max((2, 4))


def _dropout(jax: Any, layer: Any, p: Any, x: Array, key: Array) -> Array:
    if layer.p == 0:
        return x
    keep = jax.random.bernoulli(key, 1 - layer.p, x.shape)
    return jax.numpy.where(keep, x / (1 - layer.p), 0)


LAYERS: dict[str, Any] = {
    "Conv2d": _convolution,
    "BatchNorm2d": _batch_normalisation,
    "MaxPool2d": _pooling,
    "Dropout": _dropout,
    "Linear": lambda jax, layer, p, x, key: x @ p["weight"] + p.get("bias", 0),
    "Flatten": lambda jax, layer, p, x, key: x.reshape(len(x), -1),
    "ReLU": lambda jax, layer, p, x, key: jax.nn.relu(x),
}
AXES = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}
"""From the state dict's layout of a tensor to the one used here, by number of dimensions."""


class Contestant:
    """SGD with momentum; parameters and momentum are donated, so that they are updated in place."""

    def __init__(self, task: Task) -> None:
        """Build network, data and the step."""
        if task.threads == 1:
            os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
        import jax
        import numpy as np

        from ddp.config import ModelConfig
        from ddp.models import build_model

        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_default_prng_impl", "rbg")  # of JAX's generators the fastest for dropout
        network = task.network
        model = build_model(ModelConfig(**network.model), network.shape, network.classes, 0)
        parameters: dict[str, dict[str, Array]] = {str(i): {} for i in range(len(model.layers))}
        for name, value in model.state_dict().items():
            layer, _, tensor = name.partition(".")
            if value.ndim in AXES:
                parameters[layer][tensor] = jax.numpy.array(value.transpose(AXES[value.ndim]))
        generator = np.random.default_rng(0)
        channels, height, width = network.shape
        inputs = generator.standard_normal((SAMPLES, height, width, channels), np.float32)
        targets = generator.integers(network.classes, size=SAMPLES)
        self.data = jax.numpy.array(inputs), jax.numpy.array(targets)
        self.state = parameters, jax.tree.map(jax.numpy.zeros_like, parameters)
        self.orders = generator.permutation(SAMPLES)[: SAMPLES // task.batch * task.batch].reshape(-1, task.batch)
        self.jax, self.done = jax, 0
        self.step = jax.jit(self._make_step(jax, model.layers), donate_argnums=0)

    @staticmethod
    def _make_step(jax: Any, layers: Any) -> Any:
        def loss(parameters: Any, x: Array, t: Array, key: Array) -> Array:
            for i, layer in enumerate(layers):
                apply = LAYERS[type(layer).__name__]
                x = apply(jax, layer, parameters[str(i)], x, jax.random.fold_in(key, i))
            return -jax.numpy.take_along_axis(jax.nn.log_softmax(x), t[:, None], 1).mean()

        def step(state: Any, data: Any, indices: Array, number: Array) -> Any:
            (parameters, velocity), (inputs, targets) = state, data
            key = jax.random.key(number)
            gradients = jax.grad(loss)(parameters, inputs[indices], targets[indices], key)
            velocity = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocity, gradients)
            return jax.tree.map(lambda p, v: p - LEARNING_RATE * v, parameters, velocity), velocity

        return step

    def run(self, steps: int) -> None:
        """Train."""
        for _ in range(steps):
            indices = self.orders[self.done % len(self.orders)]
            self.state = self.step(self.state, self.data, indices, self.done)
            self.done += 1
        self.jax.block_until_ready(self.state)

    def facts(self) -> dict[str, Any]:
        """The version."""
        return {"versions": {"jax": self.jax.__version__}}
