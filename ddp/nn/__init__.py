"""Layers, losses and the network that joins them; no ranks, no I/O."""

from ddp.nn.activation import Dropout, ReLU
from ddp.nn.batchnorm import BatchNorm, BatchNorm1d, BatchNorm2d
from ddp.nn.conv2d import Conv2d
from ddp.nn.flatten import Flatten
from ddp.nn.layer import Draws, Layer
from ddp.nn.linear import Linear
from ddp.nn.loss import CrossEntropyLoss, Loss, MSELoss
from ddp.nn.pool import MaxPool2d
from ddp.nn.powers import Powers
from ddp.nn.sequential import Sequential, StateDict

__all__ = [
    "BatchNorm",
    "BatchNorm1d",
    "BatchNorm2d",
    "Conv2d",
    "CrossEntropyLoss",
    "Draws",
    "Dropout",
    "Flatten",
    "Layer",
    "Linear",
    "Loss",
    "MSELoss",
    "MaxPool2d",
    "Powers",
    "ReLU",
    "Sequential",
    "StateDict",
]
