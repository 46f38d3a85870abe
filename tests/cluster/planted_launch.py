"""`python -m launch` with a planted fault in the trainer: `python -m tests.cluster.planted_launch FAULT run ...`."""

from __future__ import annotations

import sys

from launch.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[2:], program=(sys.executable, "-m", "tests.system.planted", sys.argv[1])))
