"""Commands on several hosts, with a stand-in for ssh."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from launch.hosts import Host, this_host
from launch.probe import facts, probe
from launch.ssh import NO_SSH, run_on, ssh_command

HARD = "a b'c\"$HOME;|\\ =#"


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An ssh that runs the command here, but for hosts that are `gone` (refused) or `silent`."""
    script = tmp_path / "ssh"
    script.write_text(
        '#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done\nhost=$2; shift 2\n'
        'case $host in gone) echo "ssh: connect to host gone port 22: Connection refused" >&2; exit 255;;\n'
        'silent) exec sleep 600;; esac\nexec sh -c "$*"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return script


def test_the_command_line_names_the_host_after_the_options() -> None:
    command = ssh_command(Host("node1", 2), ["echo", HARD], {"PYTHONPATH": "/a b", "HOME": "/x"}, "/tmp/c d")
    assert command[0] == "ssh"
    assert command[-3:-1] == ["--", "node1"]
    assert shlex.split(command[-1])[-4:] == ["env", "PYTHONPATH=/a b", "echo", HARD]
    assert command[-1].startswith("cd '/tmp/c d' && exec ")


@pytest.mark.usefixtures("ssh")
def test_every_host_answers_in_its_place() -> None:
    hosts = [Host("elsewhere"), Host("gone"), this_host(), Host("silent")]
    answers = run_on(hosts, [sys.executable, "-c", f"import sys; print(sys.stdin.read(), {HARD!r})"], 5, "in")
    assert [answer.host for answer in answers] == hosts
    assert [answer.code for answer in answers] == [0, NO_SSH, 0, None]
    assert answers[0].output == answers[2].output == f"in {HARD}\n"
    assert [answer.problem for answer in answers] == [
        "",
        "ssh: connect to host gone port 22: Connection refused",
        "",
        "no answer within the time-out",
    ]


def test_without_an_ssh_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (answer,) = run_on([Host("elsewhere")], ["true"], 5)
    assert "no ssh on PATH" in answer.problem


def test_a_command_that_is_not_there() -> None:
    (answer,) = run_on([this_host()], ["/no/such/program"], 5)
    assert answer.code == 127
    assert "/no/such/program" in answer.problem


@pytest.mark.usefixtures("ssh")
def test_facts_of_hosts() -> None:
    found = probe([Host("elsewhere"), Host("gone")])
    here = facts()
    elsewhere = found[Host("elsewhere")]
    assert not isinstance(elsewhere, str)
    assert (elsewhere.host_name, elsewhere.cores, elsewhere.python) == (here.host_name, here.cores, here.python)
    assert abs(elsewhere.time - here.time) < 60
    assert found[Host("gone")] == "ssh: connect to host gone port 22: Connection refused"


def test_a_greeting_is_not_taken_for_facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ssh").write_text("#!/bin/sh\necho welcome\n")
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert "welcome" in str(probe([Host("elsewhere")])[Host("elsewhere")])
