"""What batch systems tell of the hosts of a job."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.errors import UsageError
from launch.hosts import Host
from launch.scheduler import allocation, slurm_hosts

SLURM = {"SLURM_JOB_ID": "17", "SLURM_JOB_NODELIST": "node[1-3]"}


def expand(node_list: str) -> list[str]:
    assert node_list == "node[1-3]"
    return ["node1", "node2", "node3"]


def test_no_batch_job() -> None:
    assert allocation({"HOME": "/x"}) is None
    assert allocation({"LSB_JOBID": "1"}) is None


def test_slurm_with_tasks() -> None:
    given = allocation({**SLURM, "SLURM_NTASKS": "5", "SLURM_TASKS_PER_NODE": "2(x2),1"}, expand)
    assert given is not None
    assert given.scheduler == "Slurm job 17"
    assert given.hosts == (Host("node1", 2), Host("node2", 2), Host("node3", 1))


def test_slurm_without_tasks_leaves_slots_open() -> None:
    given = allocation({**SLURM, "SLURM_TASKS_PER_NODE": "1(x3)"}, expand)
    assert given is not None
    assert given.hosts == (Host("node1"), Host("node2"), Host("node3"))


@pytest.mark.parametrize(("tasks", "named"), [("two", "'two'"), ("2(x2)", "3 nodes")])
def test_slurm_says_what_is_not_understood(tasks: str, named: str) -> None:
    with pytest.raises(UsageError, match=r"SLURM_TASKS_PER_NODE") as error:
        allocation({**SLURM, "SLURM_NTASKS": "4", "SLURM_TASKS_PER_NODE": tasks}, expand)
    assert named in str(error.value)


def test_slurms_own_tool_expands_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"scontrol show hostnames"):
        slurm_hosts("node[1-2]")
    script = tmp_path / "scontrol"
    script.write_text('#!/bin/sh\n[ "$*" = "show hostnames node[1-2]" ] && echo node1 && echo node2\n')
    script.chmod(0o755)
    assert slurm_hosts("node[1-2]") == ["node1", "node2"]


def test_pbs(tmp_path: Path) -> None:
    (tmp_path / "nodes").write_text("n1\nn1\nn2\nn2\n")
    given = allocation({"PBS_NODEFILE": str(tmp_path / "nodes"), "PBS_JOBID": "9.server"})
    assert given is not None
    assert (given.scheduler, given.hosts) == ("PBS job 9.server", (Host("n1", 2), Host("n2", 2)))
    with pytest.raises(UsageError, match=r"PBS_NODEFILE=.*gone: No such file"):
        allocation({"PBS_NODEFILE": str(tmp_path / "gone")})


@pytest.mark.parametrize("variables", [{"LSB_MCPU_HOSTS": "n1 2 n2 1"}, {"LSB_HOSTS": "n1 n1 n2"}])
def test_lsf(variables: dict[str, str]) -> None:
    given = allocation({"LSB_JOBID": "5", **variables})
    assert given is not None
    assert (given.scheduler, given.hosts) == ("LSF job 5", (Host("n1", 2), Host("n2", 1)))


def test_lsf_says_what_is_not_understood() -> None:
    with pytest.raises(UsageError, match=r"LSB_MCPU_HOSTS=n1 2 n2"):
        allocation({"LSB_JOBID": "5", "LSB_MCPU_HOSTS": "n1 2 n2"})
