"""The README's table and the page's example say what the report of a study says, and name no folder of this machine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import scaling
from launch.scaling.report import write_report
from tests.unit.launch.scaling.made import made_runs, made_study, write_folder

MARKERS = "before\n<!-- {0}: begin -->\nold\n<!-- {0}: end -->\nafter\n"


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a study, in one with a README and a page."""
    monkeypatch.chdir(tmp_path)
    Path("docs").mkdir()
    Path("README.md").write_text(MARKERS.format("scaling"))
    Path("docs/scaling.md").write_text(MARKERS.format("example"))
    made = made_study()
    return write_folder(tmp_path / "studies" / "example", made, made_runs(made, cores=2))


def write(study: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    monkeypatch.setattr(sys, "argv", ["scaling", str(study)])
    scaling.main()
    return Path("README.md").read_text(), Path("docs/scaling.md").read_text()


def test_all_points_are_in_the_table_with_their_doubts(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme, _ = write(study, monkeypatch)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in readme.splitlines() if line.startswith("|")]
    points = [(mode, ranks, batch) for mode, ranks, batch, *_ in lines[2:]]
    assert points == [
        ("strong", "1", "64"),
        ("strong", "2", "64"),
        ("strong", "4 (a)", "64"),
        ("weak", "1", "64"),
        ("weak", "2", "128"),
        ("weak", "4 (a)", "256"),
    ]
    assert "(a) doubtful, oversubscribed" in readme
    assert "trained the same bits" in readme
    assert readme.startswith("before\n")
    assert readme.endswith("after\n")


def test_the_example_is_the_report(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    _, page = write(study, monkeypatch)
    write_report(study)
    tables = [line for line in (study / "report.md").read_text().splitlines() if line.startswith("| ")]
    assert [line for line in page.splitlines() if line.startswith("| ")] == tables
    assert "\n### Scaling study: mnist_cnn on mnist\n" in page  # below the page's own headings
    assert "\n#### Strong scaling, 1 thread a rank\n" in page
    for word in page.split("](scaling/")[1:]:
        assert Path("docs/scaling", word.split(")")[0]).exists()


def test_no_folder_of_this_machine_is_named(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any(str(study.parent) in text for text in write(study, monkeypatch))


def test_without_a_study_one_line_says_so(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        write(study / "nothing", monkeypatch)
    assert capsys.readouterr().err.startswith("error: ")
