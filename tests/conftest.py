"""What must stand before NumPy, Numba and MPI are loaded, and how hypothesis draws."""

from __future__ import annotations

import os

from hypothesis import settings

from ddp.comm import environment

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # more threads than cores must not spin
if environment.launched_world_size() == 1:
    os.environ.setdefault("NUMBA_NUM_THREADS", "4")  # so that tests can vary the number of threads
environment.prepare()

settings.register_profile("local", deadline=None, max_examples=25)
settings.register_profile("ci", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")
