"""The run directory as several hosts see it; a host with another one is another folder here."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from launch.doctor import directory
from launch.doctor.facts import HostFacts, own_file, probe_directory
from launch.doctor.finding import Finding
from launch.doctor.hosts import Visit
from launch.hosts import Host
from launch.ssh import Answer

TOKEN = "0123"


def ask(*folders: Path) -> list[Visit]:
    """What hosts say that have these folders in place of the run directory."""
    visits = []
    for number, folder in enumerate(folders):
        problem, sees_token = probe_directory(folder, TOKEN, number)
        found = HostFacts(f"node{number}", (0,), "", 0.0, 0.0, {}, problem, sees_token)
        visits.append(Visit(Answer(Host(f"node{number}"), 0, "", ""), 0.0, 0.0, found))
    return visits


def check(runs: Path, *folders: Path) -> list[Finding]:
    with directory.prepared(runs, TOKEN, len(folders)) as problem:
        return directory.check_directory(runs, TOKEN, problem, ask(*folders))


def test_one_directory_for_all(tmp_path: Path) -> None:
    runs = tmp_path / "results" / "runs"
    (finding,) = check(runs, runs, runs)
    assert finding.state == "ok"
    assert finding.measured.endswith("on node0, node1")
    assert list(tmp_path.iterdir()) == []  # nothing is left, not even the directory


def test_what_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "run.txt").write_text("kept")
    assert check(tmp_path, tmp_path)[0].state == "ok"
    assert [path.name for path in tmp_path.iterdir()] == ["run.txt"]


def test_a_host_with_another_directory_of_that_name(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (finding,) = check(tmp_path / "runs", tmp_path / "runs", tmp_path / "other")
    assert finding.state == "error"
    assert "neither sees what the other has written, on node1" in finding.measured


@pytest.mark.parametrize("sees", [True, False])
def test_to_see_is_as_needed_as_to_be_seen(sees: bool, tmp_path: Path) -> None:
    with directory.prepared(tmp_path, TOKEN, 1) as problem:
        (visit,) = ask(tmp_path)
        assert visit.facts is not None
        if sees:
            own_file(tmp_path, TOKEN, 0).unlink()
        half = replace(visit, facts=replace(visit.facts, sees_token=sees))
        (finding,) = directory.check_directory(tmp_path, TOKEN, problem, [half])
    assert finding.state == "error"


def test_a_host_without_it(tmp_path: Path) -> None:
    (finding,) = check(tmp_path / "runs", tmp_path / "runs", tmp_path / "absent")
    assert finding.state == "error"
    assert finding.measured == f"{tmp_path}/runs does not exist, on node1"


def test_a_host_that_cannot_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = directory.write_synced

    def write(path: Path, text: str) -> None:
        if path.parent.name == "runs" and path.name.endswith("-1"):
            raise OSError(30, "Read-only file system")
        real(path, text)

    monkeypatch.setattr("launch.doctor.facts.write_synced", write)
    (finding,) = check(tmp_path / "runs", tmp_path / "runs", tmp_path / "runs")
    assert finding.state == "error"
    assert finding.measured == f"{tmp_path}/runs cannot be written to: Read-only file system, on node1"


def test_a_directory_that_cannot_be_made_here(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (finding,) = check(tmp_path / "file" / "runs")
    assert finding.state == "error"
    assert "on this host: Not a directory" in finding.measured
    (finding,) = check(tmp_path / "file")
    assert finding.state == "error"


def test_what_hosts_left_elsewhere_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    removed = []

    def run_on(hosts: list[Host], command: list[str], _timeout_s: float) -> list[Answer]:
        removed.append((hosts, command))
        return []

    monkeypatch.setattr(directory, "run_on", run_on)
    (tmp_path / "other").mkdir()
    (tmp_path / "runs").mkdir()
    visits = ask(tmp_path / "runs", tmp_path / "other", tmp_path / "absent")
    directory.remove_elsewhere(tmp_path / "runs", TOKEN, visits)
    assert removed == [([Host("node1")], ["rm", "-f", str(own_file(tmp_path / "runs", TOKEN, 1))])]


def test_a_file_server_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    back = threading.Event()
    monkeypatch.setattr(directory, "TIMEOUT_S", 0.1)
    monkeypatch.setattr(directory, "write_synced", lambda _path, _text: back.wait())
    try:
        (finding,) = check(tmp_path)
    finally:
        back.set()
    assert finding.state == "error"
    assert finding.measured.endswith("on this host: no answer within 0.1 s")
