"""What can be checked of pictures: that they are there, say what is doubtful, and are the same each time."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from launch.scaling.predict import PRESENT, Band, Check, Prediction, Predictions
from launch.scaling.summary import summarise
from tests.unit.launch.scaling.made import made_runs, made_study

pytest.importorskip("matplotlib")

from launch.scaling.model_section import model_section
from launch.scaling.networks import NETWORKS
from launch.scaling.plots import INK, PAPER, Plot, draw_series, save
from launch.scaling.prediction_plots import draw_predictions

NAMES = ["speed-up", "efficiency", "step-time", "factors", "throughput"]


def plots(**options: object) -> dict[str, Plot]:
    study = made_study(threads=(1, 2))
    return {plot.name: plot for plot in draw_series(summarise(made_runs(study, **options), study.curves()))}  # type: ignore[arg-type]


def made_predictions() -> Predictions:
    rows = []
    for network in (PRESENT, *(network.name for network in NETWORKS)):
        for mode in ("strong", "weak"):
            for power in range(12):
                value = 0.99**power
                band = Band(value, value * 0.95, value * 1.04)
                rows.append(
                    Prediction(
                        network, mode, 2**power, 1, 64, "flat", True, power > 2, band, 9.0, band, 0.1, 0.5, 0.0,
                        1e3, value * 2**power, band, 0.07,
                    )
                )  # fmt: skip
    checks = tuple(
        Check(what, "strong", ranks, 1, 64, "flat", 10.0 / ranks, 10.1 / ranks, 11.0 / ranks)
        for what in ("step", "flat")
        for ranks in (1, 2, 4)
    )
    return Predictions(NETWORKS, tuple(rows), checks)


def hollow_and_hatched(svg: str) -> tuple[int, int]:
    """Marks that are filled with the paper and drawn in a colour, and bars with a pattern."""
    hollow = len(re.findall(rf'<use [^>]*style="fill: {PAPER}; stroke: #(?!222222|808080)', svg))
    return hollow, len(re.findall(r'style="fill: url\(#', svg))


def test_all_plots_are_drawn_and_are_xml(tmp_path: Path) -> None:
    drawn = plots()
    assert list(drawn) == NAMES
    for path, plot in zip(save(list(drawn.values()), tmp_path / "plots"), drawn.values(), strict=True):
        root = ElementTree.parse(path).getroot()
        assert root.tag.endswith("svg")
        assert plot.caption
        assert INK in plot.svg


def test_doubtful_points_look_different_in_every_plot() -> None:
    """With 2 cores 4 ranks are doubtful, and with 2 threads 2 ranks too: 3 points of each mode."""
    trusted, doubtful = plots(), plots(cores=2)
    for name in NAMES:
        assert hollow_and_hatched(trusted[name].svg) == (0, 0), name
        hollow, hatched = hollow_and_hatched(doubtful[name].svg)
        assert hollow + hatched > 0, name
        if name in ("speed-up", "efficiency", "throughput"):
            assert hollow >= 6, name
            assert doubtful[name].svg.count("stroke-dasharray") > trusted[name].svg.count("stroke-dasharray"), name


def test_a_plot_is_the_same_file_each_time() -> None:
    assert plots() == plots()


def test_a_baseline_alone_has_its_step_only() -> None:
    study = made_study(ranks=(1,))
    assert [plot.name for plot in draw_series(summarise(made_runs(study), study.curves()))] == ["step-time"]
    assert draw_series([]) == []


def test_the_leave_one_out_error_stands_beside_every_prediction() -> None:
    text = model_section(made_predictions())
    rows = [line for line in text.splitlines() if re.match(r"\| (as measured|\d+ Gbit/s) \|", line)]
    assert len(rows) > 30
    assert all("| 7.0% |" in row for row in rows)
    assert {row.split("|")[2].strip() for row in rows} >= {"1", "2", "4", "16 *", "1024 *"}


def test_predictions_are_drawn_where_there_are_some() -> None:
    study = made_study()
    series = summarise(made_runs(study, cores=2), study.curves())
    drawn = draw_predictions(made_predictions(), series)
    assert [plot.name for plot in drawn] == ["predicted-measured", "predicted-efficiency"]
    assert draw_predictions(Predictions(), series) == []
    nan = float("nan")
    unknown = Check("step", "strong", 1, 1, 64, "flat", 10.0, 10.1, nan)
    assert draw_predictions(Predictions(checks=(unknown,)), series) == []
