"""The networks that are measured: a row a network, in every table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Network:
    """A network and the samples that it takes."""

    name: str
    model: dict[str, Any]
    """The `model` section of the trainer's configuration."""
    shape: tuple[int, int, int]
    """(C, H, W) of a sample."""
    classes: int = 10


NETWORKS = (
    Network("mlp", {"name": "mlp", "hidden": (512, 512)}, (1, 28, 28)),
    Network("mnist_cnn", {"name": "mnist_cnn", "dropout": True}, (1, 28, 28)),
    Network("vgg11", {"name": "vgg", "depth": 11}, (3, 32, 32)),
)
