"""Reducers: each turns the ranks' gradients into the global gradient. A ladder, all rungs kept."""

from __future__ import annotations

from ddp.comm.reducers.base import Buffers, Part, Reducer, cut_into_parts
from ddp.comm.reducers.bucketed import BucketedReducer
from ddp.comm.reducers.compressed import CompressedReducer
from ddp.comm.reducers.dummy import DummyReducer
from ddp.comm.reducers.flat import FlatReducer
from ddp.comm.reducers.naive import NaiveReducer
from ddp.comm.reducers.node_shared import NodeSharedReducer
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
    "NaiveReducer",
    "NodeSharedReducer",
    "Part",
    "Reducer",
    "ShardedReducer",
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


def build_reducer(config: CommConfig, world: World, model: Buffers, blocks: Int64) -> Reducer:
    """The configured rung, see `Reducer.__init__`; collective."""
    if config.compression != "none":
        return CompressedReducer(world, model, blocks, config.compression == "fp16")
    if config.reducer == "bucketed":
        return BucketedReducer(world, model, blocks, config.bucket_mb)
    return _SIMPLE[config.reducer](world, model, blocks)
