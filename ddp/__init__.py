"""Synchronous data-parallel SGD for CPU clusters.

The public names are loaded on first use: `ddp.train` must set up the environment before NumPy, Numba and
MPI are imported, and importing `ddp` must not do so earlier.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddp import data, models, nn, optim
    from ddp.comm.world import World
    from ddp.trainer import Trainer

__all__ = ["Trainer", "World", "data", "models", "nn", "optim"]

_CLASSES = {"Trainer": "ddp.trainer", "World": "ddp.comm.world"}


def __getattr__(name: str) -> Any:
    if name in _CLASSES:
        return getattr(importlib.import_module(_CLASSES[name]), name)
    if name in __all__:
        return importlib.import_module(f"ddp.{name}")
    raise AttributeError(f"module 'ddp' has no attribute '{name}'")
