"""Reducers: each turns the ranks' gradients into the global gradient. A ladder, all rungs kept."""

from __future__ import annotations

from ddp.comm.reducers.base import Buffers, Part, Reducer, cut_into_parts
from ddp.comm.reducers.bucketed import BucketedReducer
from ddp.comm.reducers.compressed import CompressedReducer
from ddp.comm.reducers.dummy import DummyReducer
from ddp.comm.reducers.flat import FlatReducer
from ddp.comm.reducers.local import LocalReducer
from ddp.comm.reducers.naive import NaiveReducer
from ddp.comm.reducers.node_shared import NodeSharedReducer, shared_memory_shortage
from ddp.comm.reducers.sharded import ShardedReducer
from ddp.comm.world import World
from ddp.config import CommConfig
from ddp.kernels.types import Int64

__all__ = [
    "BucketedReducer",
    "Buffers",
    "CompressedReducer",
    "DummyReducer",
    "FlatReducer",
    "LocalReducer",
    "NaiveReducer",
    "NodeSharedReducer",
    "Part",
    "Reducer",
    "ShardedReducer",
    "applicable_rungs",
    "build_reducer",
    "cut_into_parts",
]

_SIMPLE: dict[str, type[Reducer]] = {
    "naive": NaiveReducer,
    "flat": FlatReducer,
    "node_shared": NodeSharedReducer,
    "sharded": ShardedReducer,
    "dummy": DummyReducer,
}


def applicable_rungs(config: CommConfig, world: World, num_parameters: int, num_states: int = 1) -> list[str]:
    """The rungs among which to choose the fastest, the simplest first; `num_states` as of `Reducer`; collective."""
    if world.size == 1 or config.compression != "none" or config.sync_every > 1:
        return ["flat"]
    shares = world.size > world.num_nodes and shared_memory_shortage(world, num_parameters, num_states) is None
    return ["flat", *(["node_shared"] if shares else []), "bucketed", "sharded"]


def build_reducer(config: CommConfig, world: World, model: Buffers, blocks: Int64, num_states: int = 1) -> Reducer:
    """The configured rung, see `Reducer.__init__`; collective.

    Raises:
        ValueError: on all ranks, if a node lacks the memory that the rung shares.
    """
    if config.sync_every > 1:
        return LocalReducer(world, model, blocks, num_states)
    if config.compression != "none":
        return CompressedReducer(world, model, blocks, config.compression == "fp16", num_states)
    if config.reducer == "bucketed":
        return BucketedReducer(world, model, blocks, config.bucket_mb, num_states)
    return _SIMPLE[config.reducer](world, model, blocks, num_states)
