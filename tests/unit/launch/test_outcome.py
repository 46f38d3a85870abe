"""From what mpirun, the ranks and the run directory say to an exit code and the last words."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from launch.heartbeat import Beat, Heartbeats
from launch.outcome import Death, Evidence, RunLog, Verdict, Words, judge
from launch.output import Block
from launch.supervise import Ended

END = [{"event": "start"}, {"event": "end", "steps": 200}]
CUT = [{"event": "start"}, {"event": "step", "step": 90}]
HOSTS = ("node1", "node1", "node2", "node3")

# As they were seen (Open MPI 5.0.11, 4.1.8, MPICH 5.0.2), with the ranks and processes of this test.
WORDS = {
    "Open MPI 5": """
prterun noticed that process rank 3 with PID 103 on node node3 exited on
signal 9 (Killed).
""",
    "Open MPI 4": "mpirun noticed that process rank 3 with PID 0 on node node3 exited on signal 9 (Killed).",
    "MPICH": """
=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES
=   PID 103 RUNNING AT node3
=   EXIT CODE: 9
=   CLEANING UP REMAINING PROCESSES
YOUR APPLICATION TERMINATED WITH THE EXIT STRING: Killed (signal 9)
""",
    "Intel MPI": """
=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES
=   RANK 3 PID 103 RUNNING AT node3
=   KILLED BY SIGNAL: 9 (Killed)
""",
}
WORDS["srun"] = "srun: error: node3: task 3: Killed"
LOST = """
PRTE has lost communication with a remote daemon.

  HNP daemon   : [prterun-node1-17@0,0] on node node1
  Remote daemon: [prterun-node1-17@0,1] on node node2
"""


def words(text: str) -> Words:
    read = Words()
    for line in text.splitlines():
        read.read(line)
    return read


@pytest.fixture
def heartbeats() -> Any:
    ear = Heartbeats("token", "127.0.0.1", 30.0, HOSTS, print)
    ear.beats = {rank: Beat(rank, host, 100 + rank, 117, "", False, 0.0) for rank, host in enumerate(HOSTS)}
    yield ear
    ear.close()


def block(*lines: str, rank: int = 0) -> Block:
    return Block(rank, list(lines))


def verdict(code: int, events: Sequence[dict[str, Any]] = (), **other: Any) -> Verdict:
    ended = other.pop("ended", Ended(code, was_signalled=False))
    return judge(Evidence(ended, events, other.pop("expects_log", True), hosts=HOSTS, **other))


@pytest.mark.parametrize("flavour", WORDS)
def test_a_killed_rank_is_named_with_its_host_and_step(flavour: str, heartbeats: Heartbeats) -> None:
    said = verdict(255, CUT, words=words(WORDS[flavour]), heartbeats=heartbeats)
    assert said.code == 4
    assert said.text == "error: rank 3 on node3 was killed by SIGKILL at step 117 (out of memory? see `dmesg` there)"


def test_without_heartbeats_the_process_is_named_unless_it_was_alone_on_its_host() -> None:
    said = verdict(255, CUT, words=words(WORDS["MPICH"]))
    assert said.text.startswith("error: rank 3 on node3 was killed by SIGKILL at step 90")
    said = verdict(255, CUT, words=words(WORDS["MPICH"].replace("node3", "node1")))
    assert said.text.startswith("error: a rank (process 103) on node1 was killed by SIGKILL at step 90")


@pytest.mark.parametrize("code", [1, 2, 3, 4, 75])
def test_an_exit_code_is_no_signal(code: int) -> None:
    """MPICH writes both alike; 4 is what a rank that fails ends with, and SIGILL's number too."""
    read = words(WORDS["MPICH"].replace("CODE: 9", f"CODE: {code}").replace("Killed (signal 9)", "Exited"))
    assert read.deaths == []


@pytest.mark.parametrize("code", [0, 1, 137])
def test_success_is_what_the_run_recorded(code: int) -> None:
    said = verdict(code, END)
    assert said.code == 0
    assert bool(said.text) == (code != 0)
    assert said.text.startswith("warning: the run is complete" if code else "")


@pytest.mark.parametrize(("events", "where"), [([], "before the first step"), (CUT, "at step 90")])
def test_exit_code_0_without_an_end_is_a_failure(events: list[dict[str, Any]], where: str) -> None:
    said = verdict(0, events)
    assert said.code == 4
    assert said.text == f"error: mpirun ended with exit code 0, but the run has not come to its end: it stopped {where}"


def test_help_leaves_no_end() -> None:
    assert verdict(0, expects_log=False) == Verdict(0, "", shows_own=True)
    assert verdict(0, expects_log=False, words=words(LOST)).code == 4


@pytest.mark.parametrize("code", [2, 3, 75, 130, 143])
def test_the_trainers_codes_keep_their_meaning(code: int) -> None:
    assert verdict(code, CUT) == Verdict(code, "")
    mistake = block("error: unknown field")
    assert verdict(code, [], blocks=[mistake]) == Verdict(code, "error: unknown field")


@pytest.mark.parametrize("code", [1, 7, 9, 14, 137, 213, 255])
def test_mpiruns_own_codes_mean_a_failure(code: int) -> None:
    said = verdict(code, CUT)
    assert said.code == 4
    assert said.text.startswith("error: ")
    assert "at step 90" in said.text
    assert said.shows_own


@pytest.mark.parametrize("code", [0, 2, 4, 9, 255])
def test_the_first_failing_rank_is_shown_and_the_others_are_counted(code: int, tmp_path: Path) -> None:
    blocks = [block("error: rank 2 on node2 failed at step 5:", "ValueError: x", rank=2)]
    blocks += [block("error: rank 0 on node1 failed at step 5:", rank=0), block("Traceback", rank=1)]
    said = verdict(code, CUT, blocks=blocks, logs=tmp_path)
    assert said.code == 4
    assert said.text.splitlines() == [
        "error: rank 2 on node2 failed at step 5:",
        "ValueError: x",
        f"rank 0 and 1 more failed after it: see {tmp_path}",
    ]


def test_who_was_killed_matters_more_than_who_noticed(heartbeats: Heartbeats) -> None:
    noticed = block("error: rank 0 on node1 failed at step 117:", "mpi4py.MPI.Exception: Other MPI error")
    said = verdict(255, CUT, blocks=[noticed], words=words(WORDS["MPICH"]), heartbeats=heartbeats)
    assert said.text.splitlines()[0].startswith("error: rank 3 on node3 was killed by SIGKILL")
    assert said.text.splitlines()[1] == "rank 0 failed after it"
    own = block("error: rank 0 on node1 failed at step 117:", "ValueError: x")
    assert "ValueError" in verdict(9, CUT, blocks=[own], words=words(WORDS["MPICH"])).text


def test_a_host_that_is_gone(heartbeats: Heartbeats) -> None:
    said = verdict(0, CUT, words=words(LOST), unreachable=["node2"], heartbeats=heartbeats)
    assert said == Verdict(4, "error: host node2 (rank 2) is gone at step 117: it does not answer ssh")
    said = verdict(0, CUT, words=words(LOST), heartbeats=heartbeats)
    assert said.text.startswith("error: mpirun lost its daemon on node2 (rank 2) at step 117")


def test_silence_is_told_whatever_else_is(heartbeats: Heartbeats) -> None:
    said = verdict(137, CUT, silence="no heartbeat from rank 3", unreachable=["node3"], blocks=[block("error: x")])
    assert said.code == 4
    assert said.text.startswith("error: no heartbeat from rank 3; node3 cannot be reached by ssh either")


def test_who_was_gone_without_a_word_when_others_complained() -> None:
    """Open MPI 5 may name a rank that noticed, in place of the one that was killed."""
    read = Words()
    read.read_rank(1, "[node1:00000] *** MPI_ERRORS_ARE_FATAL (processes in this communicator will now abort,")
    said = verdict(14, CUT, words=read, gone=[1, 3])
    assert said.text == "error: rank 3 on node3 was killed or crashed at step 90: others lost the connection to it"
    read.read_rank(1, "  Peer host:  node2")
    assert "rank 2 on node2 was killed" in verdict(14, CUT, words=read, gone=[1, 2, 3]).text
    assert "rank 2 on node2 was killed" in verdict(14, CUT, words=read).text


@pytest.mark.parametrize(("code", "final"), [(75, 75), (0, 143), (143, 143), (1, 143)])
def test_after_a_signal_to_the_launcher(code: int, final: int) -> None:
    ended = Ended(code, was_signalled=True, stopped_by=signal.SIGTERM)
    assert verdict(code, CUT, ended=ended) == Verdict(final, "")
    assert verdict(code, END, ended=ended).code == 0


def test_only_what_was_logged_since_the_start_counts(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    assert RunLog(tmp_path).events() == []
    assert RunLog(None).events() == []
    metrics.write_text('{"event": "end"}\n{"event": "st')  # of a start that was killed while it wrote
    log = RunLog(tmp_path)
    assert log.events() == []
    metrics.write_text('{"event": "end"}\n{"event": "start"}\n{"event": "end"}\n{"ev')
    assert log.events() == [{"event": "start"}, {"event": "end"}]


def test_deaths() -> None:
    assert words(WORDS["Open MPI 5"]).deaths == [Death(3, None, "node3", signal.SIGKILL)]
    assert words(WORDS["MPICH"]).deaths == [Death(None, 103, "node3", signal.SIGKILL)]
    assert not words("all is well\nsignal 9\n").tell_of_failure
