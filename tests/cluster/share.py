"""Lets another environment's Python see the packages of this one: `python -m tests.cluster.share OTHER_PYTHON`.

MPI libraries are found beside Python itself, so two environments with one set of packages have an MPI each.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

FOLDER = "import sysconfig; print(sysconfig.get_path('purelib'))"

if __name__ == "__main__":
    answer = subprocess.run([sys.argv[1], "-c", FOLDER], stdout=subprocess.PIPE, text=True, check=True)
    own = sysconfig.get_path("purelib")
    # A line of Python rather than the path alone: the .pth files in that folder are to be read as well.
    Path(answer.stdout.strip(), "shared.pth").write_text(f"import site; site.addsitedir({own!r})\n")
