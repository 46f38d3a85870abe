"""Reducers: each turns the ranks' gradients into the global gradient, in place. A ladder, all rungs kept."""

from __future__ import annotations

from typing import Protocol

from ddp.comm.reducers.dummy import DummyReducer
from ddp.comm.reducers.flat import FlatReducer
from ddp.comm.reducers.naive import NaiveReducer
from ddp.comm.world import World
from ddp.kernels.types import Float64

__all__ = ["DummyReducer", "FlatReducer", "NaiveReducer", "Reducer", "build_reducer"]


class Reducer(Protocol):
    """What the trainer needs of every rung."""

    def reduce(self) -> None:
        """Sum the flat gradient over all ranks, in place; every rank takes part, with or without samples."""


def build_reducer(name: str, world: World, gradients: Float64, slices: list[slice]) -> Reducer:
    """The configured rung.

    Args:
        name: `naive`, `flat` or `dummy`.
        world: the ranks.
        gradients: (N,) each rank's flat gradient sums; float64, so that grouping hardly rounds.
        slices: where each parameter lies in it.
    """
    if name == "naive":
        return NaiveReducer(world, gradients, slices)
    return FlatReducer(world, gradients) if name == "flat" else DummyReducer()
