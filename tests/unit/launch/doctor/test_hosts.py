"""What hosts answered, sorted into findings."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from launch.doctor import facts
from launch.doctor.facts import HostFacts
from launch.doctor.finding import STATES
from launch.doctor.hosts import TIMEOUT_S, Visit, check_clocks, check_packages, check_reached, visit
from launch.hosts import Host, this_host
from launch.ssh import Answer

VERSIONS = {"python": "3.11.7", "ddp-sgd": "not installed", "numpy": "2.4.6", "sources": "ab" * 32}


def there(name: str, offset_s: float = 0.0, took_s: float = 0.5, **versions: str) -> Visit:
    """A host that needed 0.1 s for its answer, which was `took_s` under way."""
    began = 1000.0 + (took_s - 0.1) / 2 + offset_s
    found = HostFacts(name, (0, 1), "boot", began, began + 0.1, {**VERSIONS, **versions}, "", True)
    return Visit(Answer(Host(name), 0, "", ""), 1000.0, 1000.0 + took_s, found)


def failed(code: int | None, errors: str) -> Visit:
    return Visit(Answer(Host("node3"), code, "", errors), 0.0, 1.0, None)


@pytest.mark.parametrize(
    ("code", "errors", "measured", "fix"),
    [
        (255, "ssh: connect to host node3 port 22: Connection refused", "connection refused (", "start sshd"),
        (255, "ssh: connect to host node3 port 22: Connection timed out", "time-out (", "ping node3"),
        (255, "ssh: connect to host node3 port 22: No route to host", "no route (", "ping node3"),
        (255, "No ED25519 key.\nHost key verification failed.", "unknown host key (", "ssh-keyscan node3"),
        (
            255,
            "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.",
            "another host key than before (",
            "ssh-keygen -R node3",
        ),
        (255, "root@node3: Permission denied (publickey).", "login refused (", "ssh-copy-id node3"),
        (255, "ssh: Could not resolve hostname node3: Name or service not known", "unknown host name (", "/etc/hosts"),
        (255, "kex_exchange_identification: banner", "ssh fails (", "ssh node3"),
        (None, "", f"no answer within {TIMEOUT_S:g} s", "ssh node3"),
        (127, "env: python9: No such file or directory", "this Python does not run there", "the same on node3"),
        (1, "ModuleNotFoundError: No module named 'launch'", "No module named 'launch'", "the same on node3"),
        (0, "", "Python there said nothing", "the same on node3"),
    ],
)
def test_each_way_to_fail_is_told_apart(code: int | None, errors: str, measured: str, fix: str) -> None:
    (finding,) = check_reached([there("node1"), failed(code, errors)])
    assert finding.state == "error"
    assert finding.measured.startswith("node3: ")
    assert measured in finding.measured
    assert fix in finding.fix


def test_all_reached() -> None:
    (finding,) = check_reached([there("node1"), there("node2")])
    assert (finding.state, finding.measured) == ("ok", "node1, node2: reached, Python there answers within 0.5 s")


def test_the_host_with_another_version_is_named() -> None:
    findings = check_packages([there("node1"), there("node2", numpy="1.26.4"), there("node3"), failed(255, "")])
    assert [finding.state for finding in findings] == ["error"]
    assert findings[0].measured == "numpy: 1.26.4 on node2, but 2.4.6 on node1, node3"
    assert findings[0].fix.startswith("pip install numpy==2.4.6")


def test_other_sources_and_another_python() -> None:
    findings = check_packages([there("node1"), there("node2", sources="cd" * 32, python="3.12.1"), there("node3")])
    assert [finding.measured for finding in findings] == [
        "python: 3.12.1 on node2, but 3.11.7 on node1, node3",
        f"sources: {'cd' * 6} on node2, but {'ab' * 6} on node1, node3",
    ]


def test_the_same_everywhere() -> None:
    (finding,) = check_packages([there("node1"), there("node2")])
    assert finding.state == "ok"
    assert "numpy 2.4.6" in finding.measured
    assert finding.measured.endswith("the same on 2 hosts")


def test_a_package_that_none_has() -> None:
    (finding,) = check_packages([there("node1", numpy="not installed")])
    assert (finding.state, finding.measured) == ("error", "not installed: numpy")


@pytest.mark.parametrize(
    ("offset_s", "took_s", "state"),
    [
        (0.0, 0.5, "ok"),
        (0.9, 0.5, "ok"),
        (-1.1, 0.5, "ok"),  # it is known to 0.2 s only
        (1.5, 0.5, "warning"),
        (-30.0, 0.5, "warning"),
        (3600.0, 0.5, "error"),
        (-3600.0, 0.5, "error"),
        (61.0, 10.0, "warning"),  # it may be 56
    ],
)
def test_clocks(offset_s: float, took_s: float, state: str) -> None:
    (finding,) = check_clocks([there("node1"), there("node2", offset_s, took_s)])
    assert finding.state == state
    if state != "ok":
        assert finding.measured.startswith("node2: ")
        assert ("ahead of" if offset_s > 0 else "behind") in finding.measured


def test_the_offset_is_between_its_bounds() -> None:
    offset_s, exact_s = there("node2", 12.0, 2.0).offset_s
    assert offset_s == pytest.approx(12.0)
    assert exact_s == pytest.approx(0.95)


def test_a_real_visit_of_this_host(tmp_path: Path) -> None:
    facts.write_synced(facts.token_file(tmp_path, "token"), "token")
    (found,) = visit([this_host()], tmp_path, "token")
    assert found.facts is not None
    assert found.facts.directory == ""
    assert found.facts.sees_token
    assert facts.own_file(tmp_path, "token", 0).read_text() == "token"
    assert found.facts.versions == facts.versions()
    assert found.sent <= found.facts.began <= found.facts.ended <= found.received <= time.time()
    offset_s, exact_s = found.offset_s
    assert abs(offset_s) <= exact_s


@pytest.mark.parametrize("in_a_job", [True, False])
def test_srun_where_ssh_fails_within_a_slurm_job(
    in_a_job: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = {
        "ssh": "echo 'ssh: connect to host node2 port 22: Connection refused' >&2; exit 255",
        "srun": 'while [ "${1#-}" != "$1" ]; do shift; done; exec "$@"',
    }
    for name, script in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    if in_a_job:
        monkeypatch.setenv("SLURM_JOB_ID", "17")
    visits = visit([Host("node2")], tmp_path, "token")
    (finding,) = check_reached(visits)
    if in_a_job:
        assert visits[0].facts is not None
        assert visits[0].host == Host("node2")
        assert finding.state == "warning"
        assert finding.measured.startswith("node2: srun reaches it, ssh does not (ssh: connect to host node2")
    else:
        assert finding.state == "error"
        assert finding.measured.startswith("node2: connection refused")


def test_facts_are_read_below_a_greeting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert facts.main([str(tmp_path), "token", "3"]) == 0
    found = facts.read(f"Welcome!\n{capsys.readouterr().out}bye\n")
    assert found is not None
    assert not found.sees_token
    assert found.versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert facts.read("Welcome!\n") is None


def test_sources_differ_by_one_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    specs: dict[str, Any] = {}
    for package in ("ddp", "launch"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "a.py").write_text("x = 1\n")
        specs[package] = type("Spec", (), {"submodule_search_locations": [str(tmp_path / package)]})
    monkeypatch.setattr(facts.util, "find_spec", specs.get)
    before = facts.sources_sha256()
    assert before == facts.sources_sha256()
    (tmp_path / "launch" / "a.py").write_text("x = 2\n")
    assert facts.sources_sha256() != before
    assert json.dumps(facts.versions())  # as it is printed


def test_states_are_in_order() -> None:
    assert STATES == ("ok", "warning", "error")
