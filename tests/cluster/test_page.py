"""The page of failures lists what the tests try."""

from __future__ import annotations

import re

from tests.cluster import failures
from tests.cluster.failures import FAULTS, SILENT, Row


def test_the_page_lists_the_faults_that_are_tried() -> None:
    """But for messages and times, which a run measures: `make failures` writes the page anew."""
    expected = [Row(fault, mpi, "", FAULTS[fault].code, 0.0) for fault in FAULTS for mpi in FAULTS[fault].mpis]
    page = failures.rendered()
    assert failures.without_measurements(page) == failures.without_measurements(failures.render(expected))
    for line in page.splitlines()[2:]:
        what, _, _, message = (cell.strip() for cell in failures.cells(line)[:4])
        assert any(matches(message, fault.message) for fault in FAULTS.values() if fault.what == what), line


def matches(cell: str, pattern: str) -> bool:
    message = cell.removeprefix("`` ").removesuffix(" ``") if cell.startswith("``") else cell.strip("`")
    return cell == SILENT if pattern == SILENT else bool(re.fullmatch(pattern, message.replace("\\|", "|")))


def test_a_message_with_bars_and_backquotes_stays_one_cell() -> None:
    row = str(Row("rank raises", "mpich", "error: `a | b`", 4, 1.0))
    assert failures.cells(row)[3].strip() == "`` error: `a \\| b` ``"
