"""Where a result comes from: versions, cores, the revision of the sources."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import numpy
import pytest

from ddp.observe import provenance

REVISION, OTHER = "1" * 40, "2" * 40


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Git's files as in a checkout of which `ddp/observe/provenance.py` is part."""
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "ddp" / "observe" / "provenance.py"))
    git = tmp_path / ".git"
    (git / "refs" / "heads" / "topic").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/topic/a\n")
    return git


def test_a_branch(repository: Path) -> None:
    (repository / "refs" / "heads" / "topic" / "a").write_text(REVISION + "\n")
    assert provenance.git_revision() == REVISION


def test_a_packed_branch(repository: Path) -> None:
    lines = ["# pack-refs with: peeled fully-peeled sorted", f"{OTHER} refs/heads/a", f"{REVISION} refs/heads/topic/a"]
    (repository / "packed-refs").write_text("\n".join(lines) + "\n")
    assert provenance.git_revision() == REVISION


def test_a_loose_reference_beats_a_packed_one(repository: Path) -> None:
    (repository / "packed-refs").write_text(f"{OTHER} refs/heads/topic/a\n")
    (repository / "refs" / "heads" / "topic" / "a").write_text(REVISION + "\n")
    assert provenance.git_revision() == REVISION


def test_a_detached_head(repository: Path) -> None:
    (repository / "HEAD").write_text(REVISION + "\n")
    assert provenance.git_revision() == REVISION


def test_a_branch_without_commits_has_no_revision(repository: Path) -> None:
    assert provenance.git_revision() is None
    (repository / "packed-refs").write_text(f"{OTHER} refs/heads/a\n")
    assert provenance.git_revision() is None


def test_outside_of_a_checkout_there_is_no_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "ddp" / "observe" / "provenance.py"))
    assert provenance.git_revision() is None


def test_the_revision_is_what_git_says() -> None:
    try:
        said = subprocess.run(
            ["git", "-C", str(Path(__file__).parents[3]), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git, or no checkout")
    assert provenance.git_revision() == said.stdout.strip()


def test_versions_and_cores() -> None:
    versions = provenance.versions()
    assert versions["python"] == platform.python_version()
    assert versions["numpy"] == numpy.__version__
    assert set(versions) == {"python", *provenance.PACKAGES}
    assert set(provenance.affinity()) == os.sched_getaffinity(0)
    assert provenance.cpu_model()


def test_a_package_that_is_not_there_is_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "PACKAGES", ("no-such-package",))
    assert provenance.versions()["no-such-package"] == "not installed"
