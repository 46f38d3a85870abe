"""One Allreduce for each parameter: obviously right, the oracle of the other rungs."""

from __future__ import annotations

from ddp.comm.reducers.base import Reducer


class NaiveReducer(Reducer):
    """Sums each parameter's gradient by itself."""

    def finish(self) -> None:
        """Sum over all ranks, in place."""
        for where in self.model.parameter_slices.values():
            self.world.all_reduce(self.model.gradient_sums[where], "sum of gradients")
