"""The peak is measured by a loop that really does the work it is credited with."""

from __future__ import annotations

import re

import numpy as np
import pytest
from numba import njit

from ddp.kernels import peak


def test_chains_converge_to_their_fixed_point():
    # a = a / 2 + 1/2 halves the distance to 1 in each step: 2**-60 of it is left after 60.
    out = np.zeros(3, np.float32)
    peak._fma_loop(60, out)
    assert out == pytest.approx(np.full(3, peak.UNIT.chains), abs=0)


def test_loop_runs_one_vector_instruction_a_chain():
    chains = njit(lambda steps: peak._fma_chains(steps))
    chains(1)
    (assembly,) = chains.inspect_asm().values()
    register = {16: "zmm", 8: "ymm", 4: "xmm|\\.4s"}[peak.UNIT.lanes]
    found = [line for line in assembly.splitlines() if re.search(rf"\bv?f(ma|mla|madd).*({register})", line)]
    assert len(found) >= peak.UNIT.chains
    assert not [line for line in found if "(" in line or "[" in line], "a chain lies in memory, not in a register"
