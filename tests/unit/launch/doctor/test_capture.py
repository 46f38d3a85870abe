"""A command that is ended after its time."""

from __future__ import annotations

import os
import sys

from launch.doctor.capture import capture


def test_output_and_code() -> None:
    done = capture([sys.executable, "-c", "import sys; print('out'); sys.exit('err')"], os.environ, 60)
    assert (done.code, done.output, done.errors) == (1, "out\n", "err\n")
    assert done.last_words == "err"


def test_a_command_that_is_not_there() -> None:
    done = capture(["/nowhere/mpirun"], os.environ, 60)
    assert done.code == 127
    assert done.last_words == "/nowhere/mpirun: No such file or directory"


def test_what_hangs_is_killed_and_what_it_said_is_kept() -> None:
    program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('so far', flush=True); "
    done = capture([sys.executable, "-c", program + "time.sleep(100)"], os.environ, 1)
    assert done.code is None
    assert done.output == "so far\n"
    assert done.last_words == "so far"
    assert capture(["true"], os.environ, 60).last_words == "nothing"
