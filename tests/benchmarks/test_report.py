"""Tables go between their own markers and nowhere else."""

from __future__ import annotations

import argparse
from pathlib import Path
from subprocess import CalledProcessError

import pytest

from benchmarks.report import add_report_options, quartiles, report, spread, write_between_markers
from launch.errors import HostError, UsageError

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


def options(page: Path, results: Path, *more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_report_options(parser, "a")
    return parser.parse_args(["--write", str(page), "--results", str(results), *more])


def test_results_are_kept_and_can_be_shown_again(tmp_path: Path) -> None:
    page, results = tmp_path / "page.md", tmp_path / "results.json"
    page.write_text(PAGE)
    report(options(page, results), "a", lambda: [1, 2], lambda found: f"first {found}")
    report(options(page, results, "--render"), "a", pytest.fail, lambda found: f"again {found}")
    assert page.read_text() == PAGE.replace("old", "again [1, 2]")


@pytest.mark.parametrize(
    "mistake", [UsageError("3 ranks, but 2 slots"), HostError("node1 does not answer"), CalledProcessError(4, "launch")]
)
def test_a_job_that_cannot_be_started_is_told_in_one_line(
    mistake: Exception, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure() -> None:
        raise mistake

    page = tmp_path / "page.md"
    page.write_text(PAGE)
    with pytest.raises(SystemExit, match="2"):
        report(options(page, tmp_path / "results.json"), "a", measure, str)
    assert capsys.readouterr().err == f"error: {mistake}\n"
    assert page.read_text() == PAGE


def test_a_page_without_the_markers_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    with pytest.raises(SystemExit, match="2"):
        report(options(page, tmp_path / "results.json"), "c", pytest.fail, str)


def test_quartiles() -> None:
    assert quartiles([4.0, 1.0, 2.0, 3.0, 5.0]) == (2, 3, 4)
    assert quartiles([1.0, 2.0]) == (1.25, 1.5, 1.75)
    assert quartiles([7.0]) == (7, 7, 7)
