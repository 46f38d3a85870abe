"""The section `comm`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ddp.config.checks import require


@dataclass(frozen=True, kw_only=True)
class CommConfig:
    """How gradients are combined."""

    exact: bool = True
    """Whether gradients are summed in fixed point, with the same bits on any number of ranks; else in float32."""
    reducer: Literal["auto", "naive", "flat", "bucketed", "node_shared", "sharded", "dummy"] = "auto"
    """naive: one Allreduce a parameter; flat: one for all; bucketed: several, while backward computes; node_shared: one
    copy of the parameters a node; sharded: each rank updates a part; dummy: none, the bound (ranks then diverge); auto:
    the fastest of flat, node_shared, bucketed and sharded in the first steps."""
    bucket_mb: float = 1.0
    """Largest part of the gradient that `bucketed` sends at once, in 2**20 bytes."""
    compression: Literal["none", "bf16", "fp16"] = "none"
    """none: gradients are sent as they are; bf16, fp16: in 16 bits, with what is lost kept for the next step."""
    sync_every: int = 1
    """Steps that a rank takes by itself before the ranks' parameters are averaged, at the end of an epoch and of the
    run too (local SGD); logs, checks, checkpoints and stops wait for that. 1: gradients are summed in every step."""
    check_every: int = 100
    """Steps between comparisons of all ranks' parameters, done before each checkpoint and at the end too; 0: never."""
    timeout_s: float = 300.0
    """Seconds after which a collective that does not finish ends the run, naming the missing ranks, while it trains;
    while it loads and compiles, 300 or this, whichever is longer; 0: never."""

    def __post_init__(self) -> None:
        require(self.check_every >= 0, "comm.check_every", self.check_every, "use 0 or more")
        require(0 < self.bucket_mb <= 1024, "comm.bucket_mb", self.bucket_mb, "use a number above 0, up to 1024")
        fix = f"comm.compression = {self.compression} needs auto or flat; or use comm.compression = none"
        is_simple = self.reducer in ("auto", "flat")
        require(is_simple or self.compression == "none", "comm.reducer", self.reducer, fix)
        require(self.sync_every >= 1, "comm.sync_every", self.sync_every, "use 1 or more")
        fix = f"comm.sync_every = {self.sync_every} needs auto or flat; or use comm.sync_every = 1"
        require(is_simple or self.sync_every == 1, "comm.reducer", self.reducer, fix)
        fix = f"no gradients are sent with comm.sync_every = {self.sync_every}; use none, or comm.sync_every = 1"
        require(self.compression == "none" or self.sync_every == 1, "comm.compression", self.compression, fix)
        # The longest wait in good order is for a rank that compiles: 40 s on one core.
        fix = "use 1 s or more, or 0 for never"
        require(self.timeout_s == 0 or 1 <= self.timeout_s < math.inf, "comm.timeout_s", self.timeout_s, fix)

    @property
    def sums_exactly(self) -> bool:
        """Whether gradients are summed in fixed point: `exact`, and nothing is configured that cannot be."""
        return self.exact and self.compression == "none" and self.sync_every == 1
