"""The report as a browser shows it, and the factors of real runs beside the wall clock."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from launch.scaling.factors import StepTimes, split
from launch.scaling.page import POLICY
from launch.scaling.report import write_report
from tests.system.jobs import Start, records
from tests.unit.launch.scaling.made import made_runs, made_study, write_folder

TIMEOUT_S = 60
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
MEASURE = """<script>
const boxes = [...document.querySelectorAll("figure svg")].map(svg => svg.getBoundingClientRect());
document.documentElement.dataset.width = document.documentElement.scrollWidth;
document.documentElement.dataset.plots = JSON.stringify(boxes.map(box => [box.width, box.height]));
</script>"""


@pytest.fixture(scope="module")
def chromium() -> str:
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None and os.environ.get("DDP_REQUIRE_CHROMIUM"):
        pytest.fail("DDP_REQUIRE_CHROMIUM is set, but there is no chromium")
    return found or pytest.skip("no chromium")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("matplotlib")
    study = made_study(threads=(1, 2))
    folder = write_folder(tmp_path_factory.mktemp("study"), study, made_runs(study, cores=2))
    return write_report(folder)[0]


def browse(chromium: str, page: Path, folder: Path, *options: str) -> str:
    """Open a page, with a profile of its own; what the browser prints."""
    command = [chromium, *QUIET, f"--user-data-dir={folder / 'profile'}", *options, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    return done.stdout


def picture(path: Path) -> np.ndarray:
    """(height, width, 3) uint8."""
    from matplotlib.image import imread

    return (imread(path)[:, :, :3] * 255).round().astype(np.uint8)


def has_colour(pixels: np.ndarray, colour: str) -> bool:
    wanted = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
    return bool((pixels == wanted).all(axis=2).sum() > 200)


def test_the_page_is_drawn_with_all_its_plots(chromium: str, page: Path, tmp_path: Path) -> None:
    from launch.scaling.plots import FACTOR_COLOURS, PHASE_COLOURS

    shot = tmp_path / "shot.png"
    browse(chromium, page, tmp_path, f"--screenshot={shot}", "--window-size=1000,9000")
    pixels = picture(shot)
    assert pixels.shape == (9000, 1000, 3)
    white = (pixels == 255).all(axis=2)
    assert 0.5 < white.mean() < 0.99, "blank, or not a page with white paper"
    for name, colour in (PHASE_COLOURS | FACTOR_COLOURS).items():
        if name not in ("data", "other"):  # too thin to see
            assert has_colour(pixels, colour), name


@pytest.mark.parametrize("width", [390, 1000])
def test_nothing_is_wider_than_the_screen_and_all_plots_have_a_size(
    width: int, chromium: str, page: Path, tmp_path: Path
) -> None:
    """Headless windows are 500 pixels wide at the least, so the page itself is made as narrow as a phone."""
    text = page.read_text().replace(POLICY, "").replace("<html", f'<html style="width: {width}px"')
    copy = tmp_path / "page.html"
    copy.write_text(text.replace("</body>", f"{MEASURE}</body>"))
    shown = browse(chromium, copy, tmp_path, "--dump-dom", f"--window-size={max(width, 500)},2000")
    assert int(re.search(r'data-width="(\d+)"', shown)[1]) <= max(width, 500)  # type: ignore[index]
    sizes = json.loads(re.search(r'data-plots="([^"]*)"', shown)[1])  # type: ignore[index]
    assert len(sizes) == text.count("<svg ") >= 5
    assert all(100 < across <= width and 80 < down for across, down in sizes)


def test_the_page_is_dark_where_the_reader_wants_it(chromium: str, page: Path, tmp_path: Path) -> None:
    shot = tmp_path / "shot.png"
    browse(chromium, page, tmp_path, f"--screenshot={shot}", "--window-size=1000,4000", "--force-dark-mode")
    pixels = picture(shot)
    assert pixels[5, 5].max() < 60
    assert (pixels > 250).all(axis=2).mean() < 0.01, "white paper in a dark page"


def requests_of_page(chromium: str, page: Path, folder: Path) -> list[str]:
    """What a page asks for beside itself; the browser's own requests, for updates and the time, have no origin."""
    log = folder / "net.json"
    browse(chromium, page, folder, "--dump-dom", f"--log-net-log={log}")
    text = log.read_text()
    try:
        found = json.loads(text)
    except ValueError:  # the browser has ended before the log was closed
        found = json.loads(text.rstrip().rstrip(",") + "]}")
    kind = found["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    jobs = [event["params"] for event in found["events"] if event["type"] == kind and "params" in event]
    return [job["url"] for job in jobs if job.get("initiator", "not an origin") != "not an origin"]


def test_no_request_leaves_the_page(chromium: str, page: Path, tmp_path: Path) -> None:
    assert requests_of_page(chromium, page, tmp_path) == []
    planted = tmp_path / "planted.html"
    planted.write_text(page.read_text().replace(POLICY, "").replace("</body>", '<img src="http://a.invalid/x"></body>'))
    (tmp_path / "other").mkdir()
    assert requests_of_page(chromium, planted, tmp_path / "other") == ["http://a.invalid/x"]


COVERED = ("data", "forward", "backward", "update", "comm_exposed", "wait")
"""What is timed, as `step` records name it."""


def timed(start: Start, ranks: int, folder: Path) -> tuple[StepTimes, float]:
    """A real run: its step by the timers alone, and samples a second by the clock that stamps its records.

    The clock counts the writing of records, too, which is no part of a step: there are few.
    """
    name = f"ranks-{ranks}"
    arguments = "--model.name mnist_cnn --data.name synthetic --data.shape [1,28,28] --data.samples 1024"
    arguments += " --batch.size 64 --train.steps 160 --train.evaluate_every 0 --checkpoint.every_epochs 0 --threads 1"
    where = ["--output.log_every", "40", "--output.dir", str(folder), "--output.name", name]
    finished = start(ranks, *arguments.split(), *where, cwd=folder).finish()
    assert finished.code == 0, finished.text
    lines = records(folder / name)
    steps = [line for line in lines if line["event"] == "step"]
    counted = steps[1:]  # without the warm-up
    clock_s = (counted[-1]["time_s"] - steps[0]["time_s"]) / (counted[-1]["step"] - steps[0]["step"])
    phases = {each: sum(line[f"{each}_ms"] for line in counted) / len(counted) for each in COVERED}
    total = sum(phases.values())
    end = lines[-1]
    assert end["train_s"] / end["steps"] == pytest.approx(sum(s["step_ms"] for s in steps) / 1e3 / len(steps), rel=0.02)
    by_name = {each.removesuffix("_exposed"): time for each, time in phases.items()} | {"other": 0.0}
    return StepTimes(ranks, 64 / total * 1e3, by_name), 64 / clock_s


def test_factors_from_the_timers_give_the_efficiency_of_the_clock(start: Start, tmp_path: Path) -> None:
    """On one rank and on two, within 2 %: what the timers do not cover is so little."""
    (one, clock_one), (two, clock_two) = (timed(start, ranks, tmp_path) for ranks in (1, 2))
    for times, clock in ((one, clock_one), (two, clock_two)):
        assert times.samples_per_s == pytest.approx(clock, rel=0.02)
    factors = split(two, one)
    assert factors.product == pytest.approx(clock_two / clock_one / 2, rel=0.02)
