"""Where there can be no cluster, its tests say why; where they must run, that is a failure."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cluster import conftest, requirements
from tests.cluster.jobs import PYTHONS, find_mpi


def missing() -> str | None:
    return requirements.missing.__wrapped__()  # not what it found before


def test_packages_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    (tmp_path / "ip").touch(mode=0o755)
    monkeypatch.setattr(requirements, "SEARCH", str(tmp_path))
    reason = missing()
    assert reason is not None
    assert "openssh-server" in reason
    assert "iproute2" in reason  # has tc as well


def test_root_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert missing() == "a cluster in a box needs root"


def test_an_mpi_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PYTHONS, "openmpi", "/no/such/python")
    assert find_mpi("openmpi") == "there is no /no/such/python: make openmpi"


def test_skipped_unless_demanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(conftest.DEMANDED, raising=False)
    with pytest.raises(pytest.skip.Exception, match="no cables"):
        conftest.skip("no cables")
    monkeypatch.setenv(conftest.DEMANDED, "1")
    with pytest.raises(pytest.fail.Exception, match="no cables"):
        conftest.skip("no cables")
