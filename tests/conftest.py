"""What must stand before NumPy, Numba and MPI are loaded, how hypothesis draws, and that signals are heeded."""

from __future__ import annotations

import os
import signal

from hypothesis import settings

from ddp.comm import environment

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # more threads than cores must not spin
if environment.launched_world_size() == 1:
    os.environ.setdefault("NUMBA_NUM_THREADS", "4")  # so that tests can vary the number of threads
environment.prepare()

settings.register_profile("local", deadline=None, max_examples=25)
settings.register_profile("ci", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

# In the background of a script SIGINT is ignored, under nohup SIGHUP; what tests start would inherit that.
for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, default)
