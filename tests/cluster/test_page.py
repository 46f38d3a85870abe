"""The page of failures lists what the tests try."""

from __future__ import annotations

import re

from tests.cluster import failures
from tests.cluster.failures import FAULTS, Row


def test_the_page_lists_the_faults_that_are_tried() -> None:
    """But for messages and times, which a run measures: `make failures` writes the page anew."""
    expected = [Row(fault, mpi, "", FAULTS[fault].code, 0.0) for fault in FAULTS for mpi in FAULTS[fault].mpis]
    page = failures.rendered()
    assert failures.without_measurements(page) == failures.without_measurements(failures.render(expected))
    for line in page.splitlines()[2:]:
        (fault,) = [fault for fault in FAULTS.values() if f"| {fault.what} |" in line]
        match = re.search(r"\| `([^`]*)` \|", line)
        assert match is not None
        assert re.fullmatch(fault.message, match[1].replace("\\|", "|"))
