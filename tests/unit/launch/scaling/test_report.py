"""The report says what was measured, marks what is doubtful everywhere, and needs nothing but itself."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from launch.errors import UsageError
from launch.scaling import plots, report
from launch.scaling.page import render_page
from launch.scaling.records import Measurement
from launch.scaling.report import write_report
from launch.scaling.study import Study
from tests.unit.launch.scaling.made import made_run, made_runs, made_study, write_folder

FILES = ["report.html", "report.md", "report.json", "points.csv"]
OUTSIDE = re.compile(
    r"""(?:src|href|action|data)\s*=\s*["']?(?!#)[^"'>]|url\((?!["']?#)|@import|<script|<link|<iframe"""
)


def made_report(tmp_path: Path, study: Study | None = None, runs: list[Measurement] | None = None) -> Path:
    study = study or made_study()
    folder = write_folder(tmp_path / "study", study, made_runs(study) if runs is None else runs)
    written = write_report(folder)
    assert [path.name for path in written[:4]] == FILES
    assert all(path.stat().st_size > 0 for path in written)
    return folder


def tables(markdown: str) -> list[list[str]]:
    """The lines of each table."""
    blocks = re.split(r"\n\s*\n", markdown)
    return [block.splitlines() for block in blocks if block.startswith("| ")]


def test_the_report_of_a_whole_study(tmp_path: Path) -> None:
    folder = made_report(tmp_path)
    text = (folder / "report.md").read_text()
    assert text.startswith("# Scaling study: mnist_cnn on mnist\n")
    for heading in ("Strong scaling, 1 thread a rank", "Weak scaling, 1 thread a rank", "Model and predictions"):
        assert f"## {heading}\n" in text
    assert "all 15 runs with batch 64, on 1, 2, 4 ranks, trained the same bits" in text.lower()
    assert "Baseline: the median run on 1 rank" in text
    assert "| a processor |" in text
    assert "python -m launch scale --ranks 1,2,4\n" in text
    assert "python -m launch run -n 4 -- --batch.size 256\n" in text
    assert "What is wrong" not in text


def test_csv_and_json_have_the_same_numbers(tmp_path: Path) -> None:
    folder = made_report(tmp_path)
    with (folder / "points.csv").open() as file:
        lines = list(csv.DictReader(file))
    document = json.loads((folder / "report.json").read_text())
    rows = [(one["mode"], row) for one in document["series"] for row in one["rows"]]
    assert len(lines) == len(rows) == 6
    for line, (mode, row) in zip(lines, rows, strict=True):
        assert line["mode"] == mode
        assert int(line["ranks"]) == row["point"]["ranks"]
        assert float(line["efficiency"]) == row["efficiency"]["value"]
        assert float(line["step_ms"]) == row["step_ms"]
        product = 1.0
        for name in ("communication", "balance", "serial", "compute"):
            product *= float(line[f"factor_{name}"])
        assert product == pytest.approx(float(line["efficiency"]))
    assert document["same_bits"]["same"] is True
    assert document["study"]["settings"]["ranks"] == [1, 2, 4]


def test_doubtful_points_are_marked_in_every_table(tmp_path: Path) -> None:
    study = made_study()
    text = (made_report(tmp_path, study, made_runs(study, cores=2)) / "report.md").read_text()
    measured = [table for table in tables(text) if table[0].startswith("| ranks |")]
    assert len(measured) == 6
    for table in measured:
        marked = [line.startswith("| 4 (a) |") for line in table[2:]]
        assert marked == [*[False] * (len(marked) - 1), True]
    assert text.count("- (a) doubtful, oversubscribed: P = 4: 4 ranks x 1 thread on node1 have 2 cores") == 6
    assert "**oversubscribed**" in text


def test_different_bits_are_said_in_bold(tmp_path: Path) -> None:
    study = made_study()
    runs = [replace(run, parameters_sha256="cd" * 32) if run.point.ranks == 2 else run for run in made_runs(study)]
    text = (made_report(tmp_path, study, runs) / "report.md").read_text()
    assert re.search(r"\*\*Error: runs with batch 64 trained different bits", text)


@pytest.mark.parametrize("mode", ["strong", "weak", "both"])
@pytest.mark.parametrize("ranks", [(1,), (2, 4), (1, 2)])
def test_parts_of_a_study(mode: str, ranks: tuple[int, ...], tmp_path: Path) -> None:
    made_report(tmp_path, made_study(ranks=ranks, mode=mode))


def test_a_study_without_runs_and_with_one(tmp_path: Path) -> None:
    text = (made_report(tmp_path / "none", runs=[]) / "report.md").read_text()
    assert "nothing to compare yet" in text
    assert "**25 of 25 runs missing**" in text
    study = made_study()
    first = made_run(study.runs()[0].point)
    assert "**24 of 25 runs missing**" in (made_report(tmp_path / "one", study, [first]) / "report.md").read_text()


def test_without_matplotlib_one_line_says_how_to_get_plots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "is_available", lambda: False)
    folder = made_report(tmp_path)
    assert not (folder / "plots").exists()
    text = (folder / "report.md").read_text()
    assert "pip install 'ddp-sgd[plot]'" in text
    assert f"python -m launch scale report {folder}" in text
    assert "![" not in text


def test_the_page_has_all_plots_and_needs_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folder = made_report(tmp_path)
    page, text = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    names = re.findall(r"!\[[^]]+]\(plots/([\w-]+)\.svg\)", text)
    assert len(names) == len(set(names)) >= 5
    for name in names:
        assert (folder / "plots" / f"{name}.svg").stat().st_size > 0
    assert page.count("<svg ") == page.count("</svg>") == page.count("<figure>") == len(names)
    assert not OUTSIDE.findall(page)
    assert "http://" not in page.partition("<body>")[2]
    ids = re.findall(r"<svg .*?</svg>", page, flags=re.DOTALL)
    per_plot = [set(re.findall(r' id="([^"]+)"', svg)) for svg in ids]
    assert sum(map(len, per_plot)) == len(set().union(*per_plot))
    for svg, known in zip(ids, per_plot, strict=True):
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg)) <= known


def test_the_page_shows_markup_as_text() -> None:
    page = render_page("# A <script>alert(1)</script> & more\n\n| a |\n|--:|\n| 1 |\n", {}, "<b> & c")
    assert "<script" not in page
    assert "<title>&lt;b&gt; &amp; c</title>" in page
    assert '<div class="table"><table>' in page


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no study"):
        write_report(tmp_path)
    folder = write_folder(tmp_path / "study", made_study(), [])
    (folder / "points.jsonl").write_text("{}\n")
    with pytest.raises(UsageError, match=r"points\.jsonl, line 1 is no measurement"):
        write_report(folder)


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "study", made_study(), [])
    (folder / report.FILES[0]).mkdir()
    with pytest.raises(UsageError, match="cannot write the report"):
        write_report(folder)


def test_a_study_with_compressed_gradients_has_a_report_without_predictions(tmp_path: Path) -> None:
    study = made_study()
    study.config["comm"]["compression"] = "bf16"
    folder = made_report(tmp_path, study)
    assert "Nothing is predicted: the study has comm.compression = bf16" in (folder / "report.md").read_text()


def test_collectives_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    study = made_study()
    folder = write_folder(tmp_path / "study", study, made_runs(study))
    (folder / "collectives.jsonl").write_text("{\n")
    with pytest.raises(UsageError, match=r"collectives\.jsonl, line 1 .*remove that line") as caught:
        write_report(folder)
    assert "\n" not in str(caught.value)
