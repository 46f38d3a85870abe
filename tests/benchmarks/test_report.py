"""Tables go between their own markers and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.report import spread, write_between_markers

PAGE = "before\n<!-- a: begin -->\nold\n<!-- a: end -->\n<!-- b: begin -->\n<!-- b: end -->\nafter\n"


def test_only_what_stands_between_the_named_markers_changes(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    write_between_markers(page, "a", r"new \1 text")
    assert page.read_text() == PAGE.replace("old", r"new \1 text")


def test_a_page_without_the_markers_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    with pytest.raises(ValueError, match="has no lines <!-- c: begin -->"):
        write_between_markers(page, "c", "text")
    assert page.read_text() == PAGE


def test_spread_shows_median_smallest_and_largest() -> None:
    assert spread([3000.0, 1000.0, 1500.0]) == "1,500 (1,000 to 3,000)"
    assert spread([0.5, 0.25], digits=2) == "0.38 (0.25 to 0.50)"
