"""The core's peak, measured: independent chains of vector fused multiply-adds that touch no memory.

A fused multiply-add takes about 4 cycles but a core starts one or two in each, so enough chains must be
under way at once, and they must all fit in the vector registers. Numba offers no way to say this in
Python: the loop is written as LLVM IR.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic

from ddp.kernels.jit import get_num_threads, kernel, prange
from ddp.kernels.types import Float32

STEPS = 200_000  # about 1 ms a thread
REPEATS = 5


@dataclass(frozen=True)
class VectorUnit:
    """What a processor offers for float32 arithmetic."""

    lanes: int
    """Float32 numbers of a vector register."""
    chains: int
    """Accumulators to keep in registers: of 32 or 16, some are left for the factors."""


# The first whose feature the host has; the last one is for every other processor.
VECTOR_UNITS = {
    "avx512f": VectorUnit(lanes=16, chains=24),
    "fma": VectorUnit(lanes=8, chains=12),
    "neon": VectorUnit(lanes=4, chains=24),
    "": VectorUnit(lanes=4, chains=8),
}


def host_vector_unit() -> VectorUnit:
    """The widest vector unit of this processor."""
    features = binding.get_host_cpu_features()
    return next(unit for feature, unit in VECTOR_UNITS.items() if not feature or features.get(feature))


UNIT = host_vector_unit()


@intrinsic
def _fma_chains(typing_context: Any, steps: Any) -> Any:
    """Run UNIT.chains independent a = a * x + x for a number of steps, at least 1; the sum of all a."""
    signature = types.float32(types.int64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = ir.VectorType(ir.FloatType(), UNIT.lanes)
        fma_type = ir.FunctionType(vector, [vector] * 3)
        fma = ir.Function(builder.module, fma_type, f"llvm.fma.v{UNIT.lanes}f32")
        factor = ir.Constant(vector, [0.5] * UNIT.lanes)
        starts = [ir.Constant(vector, [float(chain + 2)] * UNIT.lanes) for chain in range(UNIT.chains)]
        entry, loop = builder.block, builder.append_basic_block("step")
        after = builder.append_basic_block("after")
        builder.branch(loop)
        builder.position_at_end(loop)
        step, chains = builder.phi(ir.IntType(64)), [builder.phi(vector) for _ in starts]
        results = [builder.call(fma, [chain, factor, factor]) for chain in chains]
        left = builder.sub(step, ir.Constant(step.type, 1))
        for variable, first, following in zip((step, *chains), (arguments[0], *starts), (left, *results), strict=True):
            variable.add_incoming(first, entry)
            variable.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed(">", left, ir.Constant(step.type, 0)), loop, after)
        builder.position_at_end(after)
        total = functools.reduce(builder.fadd, results)
        return builder.extract_element(total, ir.Constant(ir.IntType(32), 0))

    return signature, generate


@kernel
def _fma_loop(steps: int, out: Float32) -> None:
    """Run the chains once for each element of out (T,), in parallel; out keeps them from being optimised away."""
    for thread in prange(out.shape[0]):
        out[thread] = _fma_chains(steps)  # type: ignore[call-arg]


def measure_peak_gflops() -> float:
    """The most GFLOP/s of this process's threads together: the best of a few runs of about a millisecond."""
    out = np.zeros(get_num_threads(), np.float32)
    _fma_loop(STEPS, out)
    best_s = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        _fma_loop(STEPS, out)
        best_s = min(best_s, time.perf_counter() - start)
    return 2 * UNIT.lanes * UNIT.chains * STEPS * out.size / best_s / 1e9
