"""Every kernel's `prange` is a loop that the compiler really runs in parallel, and the only one."""

from __future__ import annotations

from types import SimpleNamespace

import numba
import numpy as np
import pytest
from numba.core.compiler import CompilerBase, DefaultPassBuilder, _EarlyPipelineCompletion
from numba.core.compiler_machinery import AnalysisPass, register_pass
from numba.core.typed_passes import ParforPreLoweringPass
from numba.parfors.parfor import Parfor

from tests.unit.kernels.test_contract import KERNELS


@register_pass(mutates_CFG=False, analysis_only=True)
class CountParallelLoops(AnalysisPass):
    """Ends a compilation before machine code is made, with the number of loops whose rounds threads will share.

    A loop within another, as of a copy of arrays, is one thread's.
    """

    _name = "count_parallel_loops"

    def __init__(self):
        super().__init__()

    def run_pass(self, state):
        statements = [statement for block in state.func_ir.blocks.values() for statement in block.body]
        loops = sum(isinstance(statement, Parfor) for statement in statements)
        raise _EarlyPipelineCompletion(SimpleNamespace(loops=loops, typing_error=None))


class UntilMachineCode(CompilerBase):
    """Numba's compiler but for what comes after its own loops, which took 55 of 65 s for all kernels."""

    def define_pipelines(self):
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.add_pass_after(CountParallelLoops, ParforPreLoweringPass)
        passes.finalize()
        return [passes]


def parallel_loops(function, arguments):
    compiled = numba.njit(parallel=True, pipeline_class=UntilMachineCode)(function)
    return compiled._compiler._compile_core(tuple(numba.typeof(a) for a in arguments), None).loops


@pytest.mark.parametrize(("kernel", "make"), KERNELS)
def test_prange_is_the_only_parallel_loop(kernel, make):
    assert kernel.targetoptions["parallel"] is True
    assert parallel_loops(kernel.py_func, make()) == 1


def copying(x):
    for n in numba.prange(x.shape[0]):
        x[n, :] = x[n, 0]


def two(x):
    for n in numba.prange(x.size):
        x[n] += 1
    for n in numba.prange(x.size - 1):
        x[n] += x[n + 1]


@pytest.mark.parametrize(("function", "loops", "shape"), [(copying, 1, (3, 3)), (two, 2, 3)])
def test_loops_are_counted(function, loops, shape):
    assert parallel_loops(function, [np.zeros(shape)]) == loops
