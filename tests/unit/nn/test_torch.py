"""The same networks, steps and files as PyTorch's, where it is installed.

Tensors are compared by the norm of the difference over the norm. Weights agree to WEIGHTS; measured
are 1e-7 and less, against PyTorch in float32 as in float64. That alone would hide a wrong update, for
a step changes weights by a hundredth or a thousandth; so the update, the difference of the weights
after and before, is compared too. Measured are up to 1.4e-5 after one step, which is the rounding of
the weights to float32 (2^-24 of them, divided by that thousandth), and 1e-6 after eight.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddp import nn
from ddp.checkpoint import save_model
from ddp.config import ModelConfig
from ddp.models import build_model
from ddp.optim import SGD

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what PyTorch's import deprecates is not this project's
    torch = pytest.importorskip("torch")
    import safetensors.torch

pytestmark = pytest.mark.torch

WEIGHTS, UPDATE = 1e-5, 4e-5
BATCH = 16
MLP = ModelConfig(hidden=(512, 512))
CNN = ModelConfig(name="mnist_cnn", dropout=False)
NETWORKS = [
    pytest.param(MLP, (1, 8, 8), id="mlp"),
    pytest.param(ModelConfig(hidden=(40,), bias=True), (3, 5, 4), id="mlp-with-bias"),
    pytest.param(CNN, (1, 28, 28), id="mnist_cnn"),
    pytest.param(CNN, (3, 9, 12), id="mnist_cnn-of-colours"),
]
VGGS = [
    pytest.param(ModelConfig(name="vgg"), (3, 32, 32), id="vgg-11"),
    pytest.param(ModelConfig(name="vgg", depth=16, dropout=False), (1, 32, 33), id="vgg-16"),
]

Array = Any


def torch_model(model: nn.Sequential) -> Any:
    """The same layers of PyTorch, with weights of its own."""
    table = {
        nn.Flatten: lambda _: torch.nn.Flatten(),
        nn.ReLU: lambda _: torch.nn.ReLU(),
        nn.Dropout: lambda layer: torch.nn.Dropout(layer.p),
        nn.MaxPool2d: lambda layer: torch.nn.MaxPool2d(layer.kernel_size),
        nn.BatchNorm1d: lambda layer: torch.nn.BatchNorm1d(layer.num_features, layer.eps),
        nn.BatchNorm2d: lambda layer: torch.nn.BatchNorm2d(layer.num_features, layer.eps),
        nn.Linear: lambda layer: torch.nn.Linear(layer.in_features, layer.out_features, layer.has_bias),
        nn.Conv2d: lambda layer: torch.nn.Conv2d(
            layer.in_channels, layer.out_channels, layer.kernel_size, padding=layer.padding, bias=layer.has_bias
        ),
    }
    return torch.nn.Sequential(*(table[type(layer)](layer) for layer in model.layers))


def load_into_torch(theirs: Any, state: dict[str, Array], dtype: Any = None) -> Any:
    theirs.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in state.items()}, strict=True)
    return theirs.to(dtype or torch.float32)


def make_batch(shape: tuple[int, ...], seed: int = 0) -> tuple[Array, Array]:
    generator = np.random.default_rng(seed)
    return generator.standard_normal((BATCH, *shape)).astype(np.float32), generator.integers(0, 10, BATCH)


def our_step(model: nn.Sequential, optimizer: SGD, lr: float, x: Array, t: Array) -> None:
    loss = nn.CrossEntropyLoss()
    loss.forward(model.forward(x, training=True), t)
    model.backward(loss.backward())
    model.update_statistics()
    optimizer.step(lr, 1 / len(x))


def their_step(theirs: Any, optimizer: Any, x: Array, t: Array) -> None:
    optimizer.zero_grad()
    inputs = torch.from_numpy(x).to(next(theirs.parameters()).dtype)
    torch.nn.functional.cross_entropy(theirs(inputs), torch.from_numpy(t)).backward()
    optimizer.step()


def distance(found: Array, expected: Array) -> float:
    return float(np.linalg.norm(found.astype(np.float64) - expected) / np.linalg.norm(expected.astype(np.float64)))


def numpy_state(theirs: Any) -> dict[str, Array]:
    return {name: tensor.detach().numpy().copy() for name, tensor in theirs.state_dict().items()}


@pytest.mark.parametrize(("config", "shape"), NETWORKS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_step_of_sgd_is_pytorchs(config: ModelConfig, shape: tuple[int, ...], dtype: str) -> None:
    lr, momentum, weight_decay = 0.1, 0.9, 1e-3
    model = build_model(config, shape, 10, seed=4)
    before = model.state_dict()
    theirs = load_into_torch(torch_model(model), before, getattr(torch, dtype))
    x, t = make_batch(shape)
    our_step(model, SGD(model.parameters, model.gradient_sums, momentum, weight_decay=weight_decay), lr, x, t)
    their_step(theirs, torch.optim.SGD(theirs.parameters(), lr, momentum, weight_decay=weight_decay), x, t)
    after, expected = model.state_dict(), numpy_state(theirs)
    assert list(after) == list(expected)
    for name in after:
        assert distance(after[name], expected[name]) < WEIGHTS
        update = after[name].astype(np.float64) - before[name]
        assert distance(update, expected[name].astype(np.float64) - before[name]) < UPDATE


def test_steps_with_batch_normalisation_are_pytorchs() -> None:
    """A small network: in those of `vgg` a million ReLUs stand, some so close to 0 that rounding turns them."""
    layers = [nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6, 2e-5), nn.ReLU(), nn.Conv2d(6, 5, 3)]
    layers += [nn.BatchNorm2d(5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(5 * 2 * 3, 12, bias=False)]
    model = nn.Sequential(*layers, nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 10), seed=1)
    theirs = load_into_torch(torch_model(model), model.state_dict(), torch.float64)
    ours = SGD(model.parameters, model.gradient_sums, 0.9, weight_decay=1e-3)
    expected = torch.optim.SGD(theirs.parameters(), 0.05, 0.9, weight_decay=1e-3)
    for step in range(3):
        x, t = make_batch((2, 6, 8), seed=step)
        our_step(model, ours, 0.05, x, t)
        their_step(theirs, expected, x, t)
    found = model.state_dict()
    assert list(found) == list(numpy_state(theirs))
    for name, tensor in numpy_state(theirs).items():
        # The convolution's bias before batch normalisation has no effect: its gradient is rounding alone.
        np.testing.assert_allclose(found[name], tensor, rtol=1e-5, atol=2e-6)
    x, _ = make_batch((2, 6, 8), seed=9)
    with torch.no_grad():
        assert distance(model.forward(x, training=False), theirs.eval()(torch.from_numpy(x).double()).numpy()) < 1e-5


@pytest.mark.parametrize(
    ("momentum", "nesterov", "weight_decay"), [(0, False, 0), (0.9, False, 1e-2), (0.8, True, 1e-2)]
)
def test_many_updates_are_pytorchs(momentum: float, nesterov: bool, weight_decay: float) -> None:
    """The optimizer alone, on the same gradients: every element within some roundings of PyTorch's."""
    generator = np.random.default_rng(0)
    w = generator.standard_normal(1000).astype(np.float32)
    g = np.zeros_like(w)
    theirs = torch.from_numpy(w.copy()).requires_grad_()
    ours = SGD(w, g, momentum, nesterov, weight_decay)
    expected = torch.optim.SGD([theirs], 0.05, momentum, weight_decay=weight_decay, nesterov=nesterov)
    for _ in range(20):
        g[:] = generator.standard_normal(1000)
        theirs.grad = torch.from_numpy(g / 8)
        ours.step(0.05, 1 / 8)
        expected.step()
        np.testing.assert_allclose(w, theirs.detach().numpy(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_a_trained_network_stays_with_pytorchs(nesterov: bool) -> None:
    model = build_model(MLP, (1, 8, 8), 10, seed=4)
    before = model.state_dict()
    theirs = load_into_torch(torch_model(model), before)
    ours = SGD(model.parameters, model.gradient_sums, 0.9, nesterov, 1e-3)
    expected = torch.optim.SGD(theirs.parameters(), 0.05, 0.9, weight_decay=1e-3, nesterov=nesterov)
    for step in range(8):
        x, t = make_batch((1, 8, 8), seed=step)
        our_step(model, ours, 0.05, x, t)
        their_step(theirs, expected, x, t)
    for name, tensor in model.state_dict().items():
        found = numpy_state(theirs)[name]
        assert distance(tensor, found) < WEIGHTS
        assert distance(tensor - before[name], found - before[name]) < UPDATE


@pytest.mark.parametrize(("config", "shape"), NETWORKS + VGGS)
def test_pytorch_loads_model_safetensors_as_it_is(config: ModelConfig, shape: tuple[int, ...], tmp_path: Path) -> None:
    model = build_model(config, shape, 10, seed=4)
    save_model(tmp_path / "model.safetensors", model.state_dict(), model.parameter_dict())
    theirs = torch_model(model)
    theirs.load_state_dict(safetensors.torch.load_file(tmp_path / "model.safetensors"), strict=True)
    theirs.eval()
    x, _ = make_batch(shape)
    with torch.no_grad():
        assert distance(model.forward(x, training=False), theirs(torch.from_numpy(x)).numpy()) < 1e-5


@pytest.mark.parametrize(("config", "shape"), NETWORKS + VGGS)
def test_pytorchs_state_dict_is_loaded_as_it_is(config: ModelConfig, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = build_model(config, shape, 10, seed=4)
    theirs = torch_model(model).eval()
    model.load_state_dict(numpy_state(theirs))
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor, numpy_state(theirs)[name])
    x, _ = make_batch(shape)
    with torch.no_grad():
        assert distance(model.forward(x, training=False), theirs(torch.from_numpy(x)).numpy()) < 1e-5
