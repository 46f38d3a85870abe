"""PyTorch: eager, channels-last, compiled; on several ranks DistributedDataParallel on gloo."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

# torch.compile's pool of compiling processes would keep cores busy while others are measured.
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"

import torch

from benchmarks.contestants.task import LEARNING_RATE, MOMENTUM, SAMPLES, Task
from ddp.config import ModelConfig
from ddp.models import build_model

ARGUMENTS: dict[str, Any] = {
    "Conv2d": lambda layer: {
        "in_channels": layer.in_channels,
        "out_channels": layer.out_channels,
        "kernel_size": layer.kernel_size,
        "padding": layer.padding,
        "bias": layer.has_bias,
    },
    "Linear": lambda layer: {
        "in_features": layer.in_features,
        "out_features": layer.out_features,
        "bias": layer.has_bias,
    },
    "BatchNorm2d": lambda layer: {"num_features": layer.num_features},
    "MaxPool2d": lambda layer: {"kernel_size": layer.kernel_size},
    "Dropout": lambda layer: {"p": layer.p},
}
"""What PyTorch's layer of the same name is made with; nothing for the others."""


def translate(layers: Any) -> torch.nn.Sequential:
    """The same network of PyTorch's layers, with its own initial parameters."""
    names = [type(layer).__name__ for layer in layers]
    made = [
        getattr(torch.nn, name)(**ARGUMENTS.get(name, lambda _: {})(layer))
        for name, layer in zip(names, layers, strict=True)
    ]
    return torch.nn.Sequential(*made)


class Contestant:
    """SGD with momentum by PyTorch's fused update, which is its fastest."""

    def __init__(self, task: Task) -> None:
        """Build network, data and optimizer."""
        torch.set_num_threads(task.threads)
        torch.manual_seed(task.rank)
        network = task.network
        layout = torch.channels_last if task.variant == "channels-last" else torch.contiguous_format
        layers = build_model(ModelConfig(**network.model), network.shape, network.classes, 0).layers
        self.model: Any = translate(layers).to(memory_format=layout)
        if task.ranks > 1:
            store = torch.distributed.FileStore(str(Path(task.folder) / "gloo"), task.ranks)
            torch.distributed.init_process_group("gloo", store=store, rank=task.rank, world_size=task.ranks)
            self.model = torch.nn.parallel.DistributedDataParallel(self.model, gradient_as_bucket_view=True)
        if task.variant == "compile":
            self.model = torch.compile(self.model)
        self.loss = torch.nn.CrossEntropyLoss()
        parameters = self.model.parameters()
        self.optimizer = torch.optim.SGD(parameters, lr=LEARNING_RATE, momentum=MOMENTUM, fused=True)
        self.inputs = torch.randn(SAMPLES, *network.shape).contiguous(memory_format=layout)
        self.targets = torch.randint(network.classes, (SAMPLES,))
        self.batch, self.layout = task.batch // task.ranks, layout
        self.order, self.next = torch.randperm(SAMPLES), 0

    def run(self, steps: int) -> None:
        """Train."""
        for _ in range(steps):
            indices = self.order[self.next : self.next + self.batch]
            self.next = (self.next + self.batch) % (SAMPLES - self.batch + 1)
            x = self.inputs[indices].contiguous(memory_format=self.layout)
            self.optimizer.zero_grad()
            self.loss(self.model(x), self.targets[indices]).backward()
            self.optimizer.step()

    def facts(self) -> dict[str, Any]:
        """The version."""
        return {"versions": {"torch": torch.__version__}}
