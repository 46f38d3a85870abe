"""Reducers: each turns the ranks' gradients into the global gradient, in place. A ladder, all rungs kept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from ddp.comm.reducers.dummy import DummyReducer
from ddp.comm.reducers.flat import FlatReducer
from ddp.comm.reducers.naive import NaiveReducer
from ddp.comm.world import World
from ddp.kernels.types import GradientSum, Int32

__all__ = ["DummyReducer", "FlatReducer", "NaiveReducer", "Reducer", "build_reducer"]


class Reducer(Protocol):
    """What the trainer needs of every rung."""

    def reduce(self) -> None:
        """Sum gradient and reports over all ranks, in place; every rank takes part, with or without samples."""


def build_reducer(name: str, world: World, sums: GradientSum, reports: Int32, slices: Iterable[slice]) -> Reducer:
    """The configured rung.

    Args:
        name: `naive`, `flat` or `dummy`.
        world: the ranks.
        sums: (N,) each rank's flat gradient sums.
        reports: what the shards report besides, as integers: zero where another rank writes.
        slices: where each parameter lies in the gradient.
    """
    if name == "naive":
        return NaiveReducer(world, sums, reports, slices)
    return FlatReducer(world, sums, reports) if name == "flat" else DummyReducer()
